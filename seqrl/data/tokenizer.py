"""The tokenizer: which raw values stand in which slot, and the fitted codec of each.

It is all that stands between the world and a model: training encodes whole columns of a store with it, the agent encodes
what it sees and decodes what the model answers, and it is saved beside the weights as ``tokenizer.json`` with every bit of
its statistics. A slot is made of one or more fields, flattened and joined in order; the fields ``return``, ``reward`` and
``done`` are computed, all others are observations or actions of the data.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from seqrl.core import kinds
from seqrl.core.config import Frozen, validate
from seqrl.core.contracts import Codec, Ports
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import BundleError, RecipeError, did_you_mean
from seqrl.core.layout import Layout
from seqrl.core.stream import Stream

VERSION = 1
_NUMBER = Modality("vector", (), "float32", (-np.inf,), (np.inf,))
COMPUTED = {"return": _NUMBER, "reward": _NUMBER, "done": Modality("discrete", (), "int64", n=(2,))}


class TokensConfig(Frozen):
    """How trajectories become streams."""

    layout: str = "return state action"
    """Order of the slots of a step, such as ``return state action > reward``."""
    context: int = Field(20, ge=1)
    """Environment steps in a window (K in the Decision Transformer paper)."""
    slots: dict[str, dict[str, Any]] = {}
    """Per slot: ``kind`` of codec, its settings, and ``from``, the fields it is made of. Slots not named take the default."""


@dataclass(frozen=True)
class SlotCodec:
    """A slot's fields, their joint modality, and the codec that serves them."""

    fields: tuple[str, ...]
    modality: Modality
    config: Frozen
    codec: Codec


def _join(fields: Iterable[str], spec: EpisodeSpec) -> Modality:
    """The modality of several fields flattened and joined; raises RecipeError where they do not go together."""
    known = {**COMPUTED, **spec.obs, **spec.act}
    parts = []
    for name in fields:
        if name not in known:
            raise RecipeError(
                f"tokens.slots: {spec.id} has no field '{name}'{did_you_mean(name, known)}; it has {', '.join(known)}"
            )
        parts.append(known[name])
    found = {m.kind for m in parts}
    if len(found) > 1:
        raise RecipeError(
            f"tokens.slots: fields {', '.join(fields)} are of different kinds ({', '.join(sorted(found))}); choose with 'from'"
        )
    if found == {"discrete"}:
        n = tuple(k for m in parts for k in m.n)
        start = tuple(k for m in parts for k in (m.start or (0,) * len(m.n)))
        return Modality("discrete", (len(n),), "int64", n=n, start=start)
    size = sum(m.size for m in parts)
    low = tuple(x for m in parts for x in (m.low or (-np.inf,) * m.size))
    high = tuple(x for m in parts for x in (m.high or (np.inf,) * m.size))
    return Modality(parts[0].kind, (size,), parts[0].dtype, low, high)


def _default_fields(slot: str, spec: EpisodeSpec) -> tuple[str, ...]:
    if slot in COMPUTED:
        return (slot,)
    if slot == "action":
        return tuple(spec.act)
    if slot == "state":
        return tuple(name for name, m in spec.obs.items() if m.kind == "vector") or tuple(
            name for name, m in spec.obs.items() if m.kind == "discrete"
        )
    return (slot,)


def _default_codec(slot: str, modality: Modality) -> dict[str, Any]:
    if modality.kind == "discrete":
        return {"kind": "discrete"}
    if slot in ("return", "reward"):
        return {"kind": "scale"}
    if slot == "action":
        closed = np.isfinite([*modality.low, *modality.high]).all()
        return {"kind": "vector", "scale": "bounds" if closed else "standard"}
    return {"kind": "vector"}


def check_slots(config: TokensConfig) -> None:
    """Everything about ``tokens`` that can be checked without data; raises RecipeError with all mistakes at once."""
    layout = Layout.parse(config.layout)
    wrong = [
        f"tokens.slots.{s}: the layout has no such slot{did_you_mean(s, layout.names)}"
        for s in config.slots
        if s not in layout.names
    ]
    for name, raw in config.slots.items():
        settings = {k: v for k, v in raw.items() if k != "from"}
        try:
            if "kind" in raw:
                validate(kinds.load(raw["kind"], "tokens").Config, settings, {}, f"tokens.slots.{name}")
        except RecipeError as e:
            wrong.append(str(e))
    if wrong:
        raise RecipeError("\n".join(wrong))


class Tokenizer:
    """Turns episodes, observations and answers into the values of a layout's slots and back."""

    def __init__(self, config: TokensConfig, spec: EpisodeSpec) -> None:
        """Raises RecipeError where the recipe's slots do not fit the data."""
        check_slots(config)
        self.config, self.spec, self.context = config, spec, config.context
        self.slots: dict[str, SlotCodec] = {}
        for name in Layout.parse(config.layout).names:
            raw = dict(config.slots.get(name, {}))
            chosen = raw.pop("from", None) or _default_fields(name, spec)
            fields = (chosen,) if isinstance(chosen, str) else tuple(chosen)
            if not fields:
                raise RecipeError(
                    f"tokens.slots.{name}: {spec.id} has nothing that fits; name the fields with 'from' ({', '.join(spec.obs)})"
                )
            modality = _join(fields, spec)
            raw = raw if "kind" in raw else _default_codec(name, modality) | raw
            module = kinds.load(raw["kind"], "tokens")
            settings = validate(module.Config, raw, {}, f"tokens.slots.{name}")
            self.slots[name] = SlotCodec(fields, modality, settings, module.Codec(settings, modality))
        self.layout = Layout.parse(config.layout)
        self.returns: dict[str, float] = {}
        self.max_step = 0
        self.discount, self.delayed = 1.0, False

    # ---- what a model must know -------------------------------------------------------------------------------------

    def ports(self) -> Ports:
        codecs = {n: s.codec for n, s in self.slots.items()}
        return Ports(
            layout=str(self.layout),
            widths={n: c.width for n, c in codecs.items()},
            vocabs={n: c.vocab for n, c in codecs.items()},
            bounded={n: bool(getattr(c, "bounded", False)) for n, c in codecs.items()},
        )

    # ---- fitting and encoding ---------------------------------------------------------------------------------------

    def fit(
        self,
        columns: Mapping[str, np.ndarray],
        returns: np.ndarray,
        max_step: int,
        discount: float = 1.0,
        delayed: bool = False,
    ) -> None:
        """Fits every codec, and notes what acting must know of the data.

        Args:
            columns: field -> ``(N, *shape)``, the real steps of the training episodes (no final rows).
            returns: ``(episodes,)`` undiscounted returns, kept as facts (they are the default targets).
            max_step: the longest episode, in steps.
            discount, delayed: how the returns-to-go were made, so that the agent spends its return the same way.
        """
        for slot in self.slots.values():
            slot.codec.fit(self._flat(slot, columns))
        q10, q50, q90 = np.quantile(returns, (0.1, 0.5, 0.9))
        facts = {"min": returns.min(), "max": returns.max(), "mean": returns.mean(), "q10": q10, "q50": q50, "q90": q90}
        self.returns = {k: float(v) for k, v in facts.items()}
        self.max_step, self.discount, self.delayed = int(max_step), float(discount), bool(delayed)

    @staticmethod
    def _flat(slot: SlotCodec, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        parts = [np.asarray(columns[f]).reshape(len(columns[f]), -1) for f in slot.fields]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)

    def encode_slot(self, name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """field -> ``(N, *shape)`` to the slot's ``(N, width)`` float32 or int64."""
        slot = self.slots[name]
        return slot.codec.encode(self._flat(slot, columns))

    def encode_obs(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the agent sees, ``name -> (B, *shape)``, to every slot made of observations, ``(B, width)``."""
        return {n: self.encode_slot(n, obs) for n, s in self.slots.items() if set(s.fields) <= set(self.spec.obs)}

    def encode_action(self, action: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Actions of the data, ``name -> (B, *shape)``, to every slot made of actions, ``(B, width)``."""
        return {n: self.encode_slot(n, action) for n, s in self.slots.items() if set(s.fields) <= set(self.spec.act)}

    def encode_return(self, value: np.ndarray) -> np.ndarray:
        """Returns-to-go ``(B,)`` in units of the reward, to ``(B, width)``."""
        return self.encode_slot("return", {"return": value})

    def decode_action(self, codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A model's answer, slot -> ``(B, width)``, to actions ``name -> (B, *shape)``: in bounds, in the data's dtype."""
        out = {}
        for slot_name, code in codes.items():
            slot = self.slots[slot_name]
            flat, at = slot.codec.decode(code), 0
            for name in slot.fields:
                m = self.spec.act[name]
                width = len(m.n) if m.n else m.size
                part = flat[:, at : at + width]
                if m.kind != "discrete":
                    part = np.clip(part, m.low, m.high) if m.low else part
                out[name] = part.astype(m.dtype).reshape(len(part), *m.shape)
                at += width
        return out

    def stream(self, episode: Episode, returns: np.ndarray, trained: tuple[str, ...] = ()) -> Stream:
        """An episode, tokenised, every token spelled out.

        Args:
            episode: T steps.
            returns: ``(T,)`` returns-to-go.
            trained: slots in the loss.
        """
        T = len(episode)
        columns = {n: v[:T] for n, v in episode.obs.items()} | dict(episode.act)
        columns |= {"return": returns, "reward": episode.rew, "done": episode.terminated}
        values = {n: self.encode_slot(n, columns) for n in self.slots}
        tracks = self.layout.tracks(T)
        wanted = np.array([name in trained for name in self.layout.names])
        tracks["target"] = wanted[tracks["slot"]].astype(np.int64)
        return Stream(self.layout, values, tracks, {n: self._flat(s, columns) for n, s in self.slots.items()})

    # ---- on disk ----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "config": self.config.model_dump(),
            "spec": self.spec.to_json(),
            "state": {n: s.codec.state() for n, s in self.slots.items()},
            "returns": self.returns,
            "max_step": self.max_step,
            "discount": self.discount,
            "delayed": self.delayed,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "tokenizer.json") -> "Tokenizer":
        """Inverse of ``to_json``; raises BundleError where it was written by a newer seqrl or is incomplete."""
        if raw.get("version", 0) > VERSION:
            raise BundleError(
                f"{source}: written by a newer seqrl (format {raw['version']}, this one reads {VERSION}); pip install -U seqrl"
            )
        try:
            made = cls(TokensConfig(**raw["config"]), EpisodeSpec.from_json(raw["spec"]))
            for name, slot in made.slots.items():
                slot.codec.load_state(raw["state"][name])
            made.returns, made.max_step = dict(raw["returns"]), int(raw["max_step"])
            made.discount, made.delayed = float(raw["discount"]), bool(raw["delayed"])
        except (KeyError, TypeError, ValueError) as e:
            raise BundleError(f"{source}: this is no seqrl tokenizer ({type(e).__name__}: {e})") from e
        return made

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        path = folder / "tokenizer.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise BundleError(f"{folder}: there is no tokenizer.json in it, so it is no seqrl bundle") from e
        except (OSError, ValueError) as e:
            raise BundleError(f"{path}: cannot be read: {e}") from e
        return cls.from_json(raw, str(path))
