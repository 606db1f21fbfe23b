"""A policy in a bundle, acting in a dream: it sees what the world imagines, in the units of the data, and cannot tell."""

from typing import Any

import numpy as np

from seqrl import bundle
from seqrl.core.config import parse_yaml, read_text
from seqrl.core.errors import UserError
from seqrl.data.mixture import read_tokenizer
from seqrl.rollout.collect_policy import bundle_policy, named
from seqrl.rollout.dream import DreamEnv, nested


class Acting:
    """Acts in all rows of a dream, from its beginning on."""

    def __init__(self, env: DreamEnv, path: str, seed: int = 0) -> None:
        """
        Args:
            env: the dream. path: as for ``collect_policy.bundle_policy``. seed: of the policy's draws.

        Raises:
            UserError: it does not act, or sees or does other things than the dream has.
            BundleError: there is no usable bundle.
        """
        self.env = env
        folder, domain = named(path)
        found = bundle.find(folder)
        recipe, _ = parse_yaml(read_text(found / "recipe.yaml"), str(found / "recipe.yaml"))
        kind = str(recipe["model"]["kind"]) if isinstance(recipe, dict) and "kind" in (recipe.get("model") or {}) else ""
        if kind.partition(".")[0] in ("worlds", "encoders"):
            raise UserError(f"--policy {path}: this bundle ({kind}) does not act; name one of policies.*")
        tokenizer = read_tokenizer(found / "tokenizer.json")
        domains = getattr(tokenizer, "domains", None) or {"": tokenizer}
        _check(path, domains.get(domain) or next(iter(domains.values())), env)
        self.policy = bundle_policy(path, env.num_envs, seed=seed)
        self.first, self.reward = np.ones(env.num_envs, bool), np.zeros(env.num_envs)

    def __call__(self) -> Any:
        """What it does now, as the dream's action space has it."""
        actions = self.policy(self.env.now, self.first, self.reward)
        self.first = np.zeros(self.env.num_envs, bool)
        return nested(actions, "action")

    def receive(self, reward: np.ndarray) -> None:
        """Tells it what ``(B,)`` its last actions brought."""
        self.reward = np.asarray(reward, np.float64)

    def begin(self) -> None:
        """All rows were reset."""
        self.first = np.ones(self.env.num_envs, bool)


def _check(path: str, tokenizer: Any, env: DreamEnv) -> None:
    """Raises UserError where a policy wants to see, or do, what the dream does not have."""
    spec, ours = tokenizer.spec, env.bridge.tokenizer.spec
    used = {f for n, s in tokenizer.slots.items() for f in s.fields}
    wrong = [f"it sees '{n}', which this world does not show" for n in spec.obs if n in used and n not in env.bridge.fields]
    shared = [(n, spec.obs[n].shape, ours.obs[n].shape) for n in spec.obs if n in used and n in env.bridge.fields]
    shared += [(n, spec.act[n].shape, ours.act[n].shape) for n in spec.act if n in ours.act]
    wrong += [f"its '{n}' has shape {mine}, in the dream {theirs}" for n, mine, theirs in shared if mine != theirs]
    wrong += [f"it does '{n}', which nobody does in this dream" for n in spec.act if n not in ours.act]
    wrong += [
        f"its '{n}' has {list(spec.act[n].n or ()) or 'no'} choices, in the dream {list(ours.act[n].n or ()) or 'none'}"
        for n in spec.act
        if n in ours.act and spec.act[n].n != ours.act[n].n
    ]
    if wrong:
        raise UserError(f"--policy {path} does not fit this dream of {ours.id}: {'; '.join(wrong)}")
