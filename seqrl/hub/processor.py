"""The processor that goes with a published model: what an environment says into what the model reads, and back.

It is a ``transformers`` processor around the tokenizer of a bundle: ``AutoProcessor.from_pretrained("org/name",
trust_remote_code=True)`` gives one. ``agent`` is the same agent that evaluates in seqrl, so a model acts the same, bit for bit,
for those who have no seqrl. B rows, T steps of an episode, K steps of a window.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.utils.hub import cached_file, extract_commit_hash

from seqrl.core.errors import UserError, did_you_mean
from seqrl.core.stream import StreamBatch
from seqrl.data.mixture import read_tokenizer
from seqrl.data.returns import delayed_rewards, returns_to_go
from seqrl.data.tokenizer import take_fields
from seqrl.rollout.agent import Agent

_ASKED = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
Arrays = np.ndarray | Mapping[str, np.ndarray]


class TrajectoryProcessor(ProcessorMixin):
    """Observations, actions and returns in their own units, as the slots of a model, and back."""

    def __init__(self, tokenizer: Any, ahead: bool = False) -> None:
        """
        Args:
            tokenizer: a ``Tokenizer``, or one with ``domains``.
            ahead: the model reads windows that end in an observation (world models do).
        """
        self.tokenizer, self.ahead = tokenizer, ahead

    # ---- there and on disk ------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "TrajectoryProcessor":
        """The processor of a bundle: of a folder, or of a repository of the Hub.

        Args:
            kwargs: ``revision, token, cache_dir, ...`` as transformers has them; ``ahead`` as above.

        Raises:
            OSError: there is no ``tokenizer.json`` to be had. BundleError: it is none of a trajectory model.
        """
        name, asked = str(pretrained_model_name_or_path), {k: kwargs[k] for k in _ASKED if kwargs.get(k) is not None}
        file = cached_file(name, "tokenizer.json", **asked)
        # What belongs to it is taken from the same commit, and lies beside it then.
        commit = extract_commit_hash(file, None)
        same = {**asked, **({"revision": commit} if commit else {}), "_raise_exceptions_for_missing_entries": False}
        cached_file(name, "tokenizer.safetensors", **same)
        own = cached_file(name, "processor_config.json", **same)
        said = json.loads(Path(own).read_text(encoding="utf-8")) if own else {}
        return cls(read_tokenizer(Path(file)), bool(kwargs.get("ahead", said.get("ahead", False))))

    def to_dict(self, **_: Any) -> dict[str, Any]:
        """What ``processor_config.json`` holds; the statistics are in ``tokenizer.json``."""
        return {"processor_class": type(self).__name__, "ahead": self.ahead}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **_: Any) -> list[str]:
        """Writes ``tokenizer.json`` (with what belongs to it) and ``processor_config.json``; answers their paths.

        Raises:
            UserError: it is asked to push.
        """
        if push_to_hub:
            raise UserError("a processor is published with its model: seqrl push RUN org/name")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        file = folder / "processor_config.json"
        file.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return [str(folder / "tokenizer.json"), str(file)]

    # ---- domains ----------------------------------------------------------------------------------------------------

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains the model knows; empty where it is a plain one."""
        return tuple(getattr(self.tokenizer, "domains", ()))

    def of(self, domain: str | None = None) -> Any:
        """The tokenizer of one domain; None will do where there is just one.

        Its ``spec`` says names, shapes and bounds of observations and actions, its ``returns`` what the data got.

        Raises:
            UserError: there is no such domain, or there are several and none is named.
        """
        if not self.domains:
            if domain:
                raise UserError(f"domain '{domain}': this model has no domains, so name none")
            return self.tokenizer
        if domain is None and len(self.domains) == 1:
            return self.tokenizer.domains[self.domains[0]]
        if domain not in self.domains:
            near = did_you_mean(domain, self.domains) if domain else ""
            raise UserError(f"domain={domain!r}: name one of {', '.join(self.domains)}{near}")
        return self.tokenizer.domains[domain]

    # ---- acting -----------------------------------------------------------------------------------------------------

    def agent(self, model: Any, rows: int = 1, domain: str | None = None, **options: Any) -> Agent:
        """Acts for ``rows`` environments: ``reset(rows, targets, keys)``, ``act({"observation": [B, ...]})``, ``receive``.

        Args:
            model: what AutoModel gave (in eval mode, as it gives it), or ``seqrl.load(name).model``.
            domain: of a model of several.
            options: ``mode`` ("exact" or "cached"), ``sample``, ``seed``, ``temperature``, ``return_floor``, as in
                ``rollout.agent.Agent``.

        Raises:
            UserError: the model does not act, or there is no such domain.
        """
        tokenizer = self.of(domain)
        if hasattr(model, "player") and not hasattr(model, "act"):
            model = model.player(domain or self.domains[0])
        if not hasattr(model, "act"):
            raise UserError(f"{type(model).__name__} does not act: it is a world model, to be dreamt or planned in")
        # How returns were counted in training is how they are spent.
        own = {"discount": tokenizer.discount, "spend": not tokenizer.delayed}
        return Agent(model, tokenizer, rows, **{**own, **options})

    # ---- values of slots --------------------------------------------------------------------------------------------

    def encode(
        self,
        observations: Arrays | None = None,
        actions: Arrays | None = None,
        returns: Any = None,
        rewards: Any = None,
        domain: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Values in their own units, ``(N, *shape)`` each, to the slots that are made of them: slot -> ``(N, width)``.

        Args:
            observations, actions: an array where there is just one, else name -> array.
            returns: ``(N,)`` returns-to-go. rewards: ``(N,)``, of steps that did not end their episode.
        """
        t = self.of(domain)
        made: dict[str, np.ndarray] = {}
        if observations is not None:
            made |= t.encode_obs(_named(observations, t.spec.obs, "observations"))
        if actions is not None:
            made |= t.encode_action(_named(actions, t.spec.act, "actions"))
        if returns is not None and "return" in t.slots:
            made["return"] = t.encode_return(np.asarray(returns))
        return made | (t.encode_rewards(np.asarray(rewards)) if rewards is not None else {})

    def decode(self, values: Mapping[str, Any], domain: str | None = None) -> dict[str, np.ndarray]:
        """Slot -> ``(N, width)`` as the model has it (numpy or torch), to fields ``name -> (N, *shape)`` in their own units."""
        t, made = self.of(domain), {}
        for name, value in values.items():
            code = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            if name not in t.slots:
                raise UserError(f"slot '{name}': there is none{did_you_mean(name, t.slots)} (there are: {', '.join(t.slots)})")
            if set(t.slots[name].fields) <= {*t.spec.obs, *t.spec.act}:
                made |= t.decode_slot(name, code)
            else:
                made[name] = t.slots[name].codec.decode(code)
        return made

    # ---- episodes ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        observations: Arrays,
        actions: Arrays | None = None,
        rewards: Any = None,
        terminated: Any = None,
        returns: Any = None,
        domain: str | None = None,
    ) -> BatchFeature:
        """An episode as windows that follow each other, for ``model(**features)``, which answers the losses.

        Args:
            observations: ``(T + 1, *shape)``, or ``(T, *shape)`` where the last one is not known; named if there are several.
            actions: ``(T, *shape)``. rewards: ``(T,)``. terminated: ``(T,)`` bool, false where not given.
            returns: ``(T,)`` returns-to-go; None counts them from the rewards, as was done for training.

        Returns:
            ``batch``: a StreamBatch of ``ceil(T / K)`` rows; where the model looks ahead, of ``K + 1`` steps.

        Raises:
            UserError: something that a slot is made of is missing, or of another length.
        """
        t = self.of(domain)
        T = _steps(t, observations, actions, rewards)
        columns = _columns(t, T, observations, actions, rewards, terminated, returns)
        first = np.arange(0, T, t.context)
        length = np.minimum(t.context, T - first)
        rows = first[:, None] + np.minimum(np.arange(t.context + self.ahead), length[:, None] - 1 + self.ahead)
        there, flat = len(next(iter(columns.values()))), rows.ravel()
        values = {}
        for name, slot in t.slots.items():
            # Behind the last action there is none; it is padding, and a real one must stand there.
            last = T - 1 if set(slot.fields) & set(t.spec.act) else there - 1
            code = t.encode_slot(name, take_fields(slot, columns, np.minimum(flat, last), np.full(len(flat), T - 1)))
            values[name] = torch.from_numpy(np.ascontiguousarray(code.reshape(*rows.shape, -1)))
        time = torch.from_numpy(first[:, None] + np.arange(rows.shape[1]))
        return BatchFeature({"batch": StreamBatch(values, time, torch.from_numpy(length))})


def _named(values: Arrays, known: Mapping[str, Any], what: str) -> dict[str, np.ndarray]:
    """Values by the names of the data; a bare array where there is one name."""
    if not isinstance(values, Mapping):
        if len(known) != 1:
            raise UserError(f"{what}: there are several, so give them by name ({', '.join(known)})")
        values = {next(iter(known)): values}
    if odd := [n for n in values if n not in known]:
        raise UserError(f"{what}: the data have no '{odd[0]}'{did_you_mean(odd[0], known)} (there are: {', '.join(known)})")
    return {name: np.asarray(value) for name, value in values.items()}


def _steps(t: Any, observations: Arrays, actions: Arrays | None, rewards: Any) -> int:
    """T, by what there is one of each step."""
    if rewards is not None:
        return len(rewards)
    source, known = (observations, t.spec.obs) if actions is None else (actions, t.spec.act)
    return len(next(iter(_named(source, known, "episode").values())))


def _columns(
    t: Any, T: int, observations: Arrays, actions: Arrays | None, rewards: Any, terminated: Any, returns: Any
) -> dict[str, np.ndarray]:
    """field -> ``(T + 1, *shape)``, its last row repeated where nothing is known of it."""
    made = _named(observations, t.spec.obs, "observations")
    if actions is not None:
        made |= _named(actions, t.spec.act, "actions")
    if rewards is not None:
        ended = np.zeros(T, bool) if terminated is None else np.asarray(terminated, bool)
        reward = np.append(np.asarray(rewards, np.float32), np.float32(0))
        reward = reward - np.float32(t.termination_penalty) * np.append(ended, False)
        one = SimpleNamespace(row=np.array([0]), length=np.array([T]))
        reward = delayed_rewards(reward, one) if t.delayed else reward
        made |= {"reward": reward, "done": np.append(ended, False).astype(np.int64)}
        made["return"] = returns_to_go(reward, one, t.discount)
    if returns is not None:
        made["return"] = np.asarray(returns, np.float32)
    made["separator"] = np.zeros(T + 1, np.int64)
    for name, slot in t.slots.items():
        if missing := [f for f in slot.fields if f not in made]:
            raise UserError(f"slot '{name}' is made of {', '.join(missing)}, so give that as well")
    if odd := {n: len(v) for n, v in made.items() if len(v) not in (T, T + 1)}:
        raise UserError(f"an episode of {T} steps has {T + 1} observations (or {T}) and {T} of everything else (got {odd})")
    return {n: v if len(v) > T else np.concatenate((v, v[-1:])) for n, v in made.items()}
