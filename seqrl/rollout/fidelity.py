"""Fidelity: how long a dream stays true. One measurement for every family of world models.

On episodes kept out of training some steps are observed, then H are imagined under the actions that were really done, and what
is imagined is compared with what came, h steps ahead for every horizon h, beside two baselines on the very same excerpts
(``rollout/compare.py``). By default the likeliest next step is taken and not a draw: r2 and accuracies judge a guess, and a
draw is a worse one the better it knows how little it knows. Rewards and ends are also judged one step ahead, over many more
starts: when exactly something happens is soon anybody's guess.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from seqrl.core.errors import UserError
from seqrl.data.dataset import Dataset
from seqrl.rollout import dreamt, measures
from seqrl.rollout.compare import Comparison
from seqrl.rollout.excerpts import Excerpts
from seqrl.rollout.settings import DreamConfig
from seqrl.rollout.worlds import Bridge, untouched

HORIZONS = (1, 2, 5, 10, 20, 50)
_MANY = 8
"""Times as many starts where just one step is imagined."""
_SOON = 10
"""Steps after which the right actions and wrong ones are compared."""
_OFTEN = 0.5
"""Share of steps with a reward from which on rewards are numbers to be guessed, and no events."""

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Fidelity:
    """What was found.

    Args:
        data: the dataset. episodes: held-out ones. context, horizon, starts, seed, sample: how it was measured.
        horizons: steps ahead. missing: those of ``HORIZONS`` that the data (or the horizon asked for) do not reach.
        windows: excerpts at each horizon; they grow fewer where episodes end.
        errors: slot -> measure -> who (model, copy, marginal) -> one number a horizon, None where nothing could be measured.
        reward, done: ``one_step`` and ``open_loop`` -> precision, recall, f1 of events (of rewards only where they are rare),
            rmse and r2 of rewards.
        control: slot -> measure, at which ``horizon``, with the ``true`` actions and with those of ``other`` excerpts.
        latent: ``width`` of the feature, ``effective_rank`` and ``std`` over the starts.
        returns: mean sum of rewards of the excerpts, ``real`` and ``dream``, the mean ``gap`` and the ``correlation``.
        steps_per_second: imagined, over all rows.
    """

    data: str
    episodes: int
    context: int
    horizon: int
    starts: int
    seed: int
    sample: bool
    horizons: tuple[int, ...]
    missing: tuple[int, ...]
    windows: tuple[int, ...]
    errors: Mapping[str, Mapping[str, Mapping[str, tuple[float | None, ...]]]]
    reward: Mapping[str, Numbers]
    done: Mapping[str, Numbers]
    control: Mapping[str, Numbers]
    latent: Numbers
    returns: Numbers
    steps_per_second: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return _lists(asdict(self))

    def metrics(self) -> dict[str, float]:
        """Flat numbers for ``metrics.jsonl``: ``<slot>/<measure>/<horizon>``, ``reward/f1`` one step ahead, and so on."""
        flat = {
            f"{slot}/{measure}/{h}": value
            for slot, of in self.errors.items()
            for measure, who in of.items()
            for h, value in zip(self.horizons, who["model"], strict=True)
        }
        for name, found in (("reward", self.reward), ("done", self.done)):
            flat |= {f"{name}/{k}": v for k, v in found["one_step"].items()}
        flat |= {f"returns/{k}": v for k, v in self.returns.items()} | {f"latent/{k}": v for k, v in self.latent.items()}
        flat["steps_per_second"] = self.steps_per_second
        return {k: float(v) for k, v in flat.items() if v is not None}


def _lists(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {k: _lists(v) for k, v in x.items()}
    return [_lists(v) for v in x] if isinstance(x, tuple | list) else x


def measure(
    world: Any,
    tokenizer: Any,
    dataset: Dataset,
    config: DreamConfig | None = None,
    seed: int = 0,
    batch: int = 64,
    progress: Callable[..., None] | None = None,
) -> Fidelity:
    """Measures a world on the held-out episodes of its data.

    Args:
        world, tokenizer: of ``rollout.worlds.world_of``; the world in eval mode.
        dataset: what it was trained on. config: how. seed: of the starts, of the permutation of actions and of draws.
        batch: excerpts at a time; without ``config.sample`` it changes nothing but the speed.
        progress: called with (excerpts done, in all).

    Raises:
        UserError: no episodes were held out, none is long enough, or the world cannot hold so many steps.
    """
    config = config or DreamConfig()
    bridge = Bridge(world, tokenizer)
    excerpts = Excerpts(dataset, tokenizer, bridge)
    C, H = lengths(config, bridge, excerpts.longest, dataset.spec.id)
    far, near = excerpts.places(config.starts, C, H, seed), excerpts.places(config.starts * _MANY, C, 1, seed)
    soon = excerpts.places(config.starts, C, min(H, _SOON), seed)
    horizons = tuple(h for h in HORIZONS if h <= H and (far.length >= h).any())
    at = max(h for h in horizons if h <= _SOON)
    sets = [{n: Comparison(n, excerpts, hs) for n in bridge.shown} for hs in (horizons[1:], (1,), (at,), (at,))]
    shuffled = np.random.default_rng(seed).permutation(len(soon))
    order = np.empty_like(shuffled)
    # Everybody gets somebody else's.
    order[shuffled] = np.roll(shuffled, 1)
    jobs = [(far, None), (near, None), (soon, None), (soon, order)]
    total, before, found = sum(len(p) for p, _ in jobs), 0, []
    training = bool(getattr(world, "training", False))
    if training:
        world.eval()
    try:
        # Not inference mode: what a world works out once and keeps (turns of positions) must serve training as well.
        with torch.no_grad(), untouched(bridge.device, seed):
            for (places, swapped), comparisons in zip(jobs, sets, strict=True):
                tell = None if progress is None else lambda n, b=before: progress(b + n, total)
                found.append(dreamt.dream(bridge, excerpts, places, comparisons, config.sample, batch, swapped, tell))
                before += len(places)
    finally:
        if training:
            world.train()
    long, short = found[:2]
    rare, least = _rare(excerpts)
    return Fidelity(
        data=dataset.spec.id,
        episodes=len(dataset.held_out),
        context=C,
        horizon=H,
        starts=len(far),
        seed=seed,
        sample=config.sample,
        horizons=horizons,
        missing=tuple(h for h in HORIZONS if h not in horizons),
        windows=tuple(len(near) if h == 1 else int((far.length >= h).sum()) for h in horizons),
        errors={n: _joined(sets[1][n].results(), sets[0][n].results()) for n in bridge.shown},
        reward={"one_step": dreamt.rewards(short, rare, least), "open_loop": dreamt.rewards(long, rare, least)},
        done={"one_step": dreamt.ends(short), "open_loop": dreamt.ends(long)},
        control={n: _control(sets[2][n].results(), sets[3][n].results(), at) for n in bridge.shown},
        latent={
            "width": int(long.feats.shape[1]),
            "effective_rank": measures.effective_rank(long.feats),
            "std": float(long.feats.std(0).mean()),
        },
        returns=dreamt.returns(long, far),
        steps_per_second=len(far) * H / max(long.seconds, 1e-9),
    )


def lengths(config: DreamConfig, bridge: Bridge, longest: int, data: str) -> tuple[int, int]:
    """Steps observed and steps imagined; a horizon that is not asked for is as far as the world can hold.

    Args:
        longest: steps of the longest episode of the ``data``.

    Raises:
        UserError: no episode goes on for so long, or the world cannot hold so many steps.
    """
    context = context_of(config, bridge.tokenizer, longest)
    horizon = horizon_of(config, context, longest, data)
    for fewer in (h for h in reversed(HORIZONS) if not config.horizon and h < horizon):
        try:
            bridge.check_room(context + horizon)
            break
        except UserError:
            horizon = fewer
    bridge.check_room(context + horizon)
    return context, horizon


def context_of(config: DreamConfig, tokenizer: Any, longest: int) -> int:
    """Steps observed first: as asked, else half a window but at most 8, and no more than the ``longest`` episode has."""
    return config.context or max(1, min(8, tokenizer.context // 2, longest))


def horizon_of(config: DreamConfig, context: int, longest: int, data: str) -> int:
    """Steps imagined; raises UserError where no episode of the ``data`` goes on for so long."""
    most = longest - context + 1
    if config.horizon and config.horizon > most > 0:
        raise UserError(
            f"horizon {config.horizon}: the longest held-out episode of {data} goes on for {most} steps after {context} "
            f"observed ones; lower the horizon to {most} (--horizon, evaluate.dream.horizon)"
        )
    return config.horizon or max(1, min(HORIZONS[-1], most))


def _joined(near: Any, far: Any) -> dict[str, dict[str, tuple[float | None, ...]]]:
    """One step ahead from the many starts, further from the others."""
    return {m: {w: near[m][w] + far[m][w] for w in near[m]} for m in near}


def _rare(excerpts: Excerpts) -> tuple[bool, float]:
    """Whether rewards are events, and from which size on one counts: half of the smallest there is."""
    e = excerpts.dataset.train
    rewards = excerpts.rewards(e)
    some = np.abs(rewards[rewards != 0])
    return bool(len(some)) and len(some) <= _OFTEN * len(rewards), float(some.min() / 2) if len(some) else 0.0


def _control(true: Any, other: Any, at: int) -> dict[str, Any]:
    """The measure that tells most of a slot, with the right actions and with others'."""
    name = next(m for m in ("changed", "psnr", "rmse", "accuracy") if m in true)
    return {"measure": name, "horizon": at, "true": true[name]["model"][0], "other": other[name]["model"][0]}
