"""What an evaluation found, and everything a score needs to be believed: how many episodes, which seeds, which reference,
which versions of what.
"""

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.rollout import stats
from seqrl.rollout.scores import Score

_PACKAGES = ("seqrl", "torch", "transformers", "gymnasium", "gymnasium-robotics", "mujoco", "minigrid", "ale-py", "numpy")


@dataclass(frozen=True)
class TargetResult:
    """What one target got; returns are undiscounted, in units of the reward.

    Args:
        target: the return asked for; None where the policy takes none.
        mean, std, iqm, min, max: of the episodes' returns (``std`` with N in the denominator).
        ci95: bootstrap interval of the mean.
        normalized: 0 is random, 100 expert; None without a reference.
        reference: the constants it was normalised with, and whose they are.
        comparable: whether it may stand beside published D4RL scores.
        episodes: how many.
        length: mean steps of an episode.
        solved: share of the episodes that reached their goal, where the reward says so; else None.
    """

    target: float | None
    mean: float
    std: float
    iqm: float
    ci95: tuple[float, float]
    normalized: float | None
    reference: str
    comparable: bool
    episodes: int
    min: float
    max: float
    length: float
    solved: float | None = None


@dataclass(frozen=True)
class Report:
    """What an evaluation found; ``to_json`` is what is written to eval.json.

    Args:
        targets: one result a target.
        env_steps_per_second: environment steps per second of wall time, all slots together.
        mode: ``exact`` or ``cached``, as it was really played.
        seed, env, versions, commit: what it takes to do it again (``commit`` is None for an installed seqrl).
        why: the reason of ``comparable``, in a sentence; for people, not in the JSON.
        returns: target index -> ``(episodes,)`` returns; for plots, not in the JSON.
        failed: why nothing could be played, in which case there are no targets; only then in the JSON.
    """

    targets: tuple[TargetResult, ...]
    env_steps_per_second: float
    mode: str
    seed: int
    env: str
    versions: dict[str, str]
    commit: str | None
    why: str = ""
    returns: tuple[np.ndarray, ...] = field(default=(), compare=False, repr=False)
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``from_json`` is its inverse."""
        left_out = ("why", "returns", "targets") + (() if self.failed else ("failed",))
        kept = {k: v for k, v in asdict(self).items() if k not in left_out}
        return {"targets": [asdict(t) | {"ci95": list(t.ci95)} for t in self.targets], **kept}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Report":
        made = tuple(TargetResult(**{**t, "ci95": tuple(t["ci95"])}) for t in raw["targets"])
        return cls(**{**raw, "targets": made})

    @property
    def best(self) -> TargetResult:
        """The target that got most; there is none in a report that ``failed``."""
        return max(self.targets, key=lambda t: t.mean)

    @property
    def solved(self) -> float | None:
        """Share of the episodes that reached their goal, at the best target; None where rewards do not say."""
        return self.best.solved if self.targets else None

    @property
    def rank_correlation(self) -> float:
        """Spearman's rank correlation of asked and got, over targets; NaN for fewer than two."""
        asked = np.array([np.nan if t.target is None else t.target for t in self.targets])
        return stats.rank_correlation(asked, np.array([t.mean for t in self.targets])) if len(asked) > 1 else float("nan")


def to_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """What ``evaluate_all`` found, as plain JSON: a plain model's report itself, else ``{"domains": {name: report}}``."""
    if "" in reports:
        return reports[""].to_json()
    return {"domains": {name: report.to_json() for name, report in reports.items()}}


def summary(
    target: float | None, returns: np.ndarray, lengths: np.ndarray, score: Score, solved: float | None = None
) -> TargetResult:
    """One target's result from its episodes' ``(N,)`` returns and lengths."""
    return TargetResult(
        target=target,
        mean=float(returns.mean()),
        std=float(returns.std()),
        iqm=stats.iqm(returns),
        ci95=stats.bootstrap_ci(returns),
        normalized=score.normalised,
        reference=score.reference,
        comparable=score.comparable,
        episodes=len(returns),
        min=float(returns.min()),
        max=float(returns.max()),
        length=float(lengths.mean()),
        solved=solved,
    )


def versions() -> dict[str, str]:
    """Versions of what a score depends on, read from package metadata; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@lru_cache
def commit() -> str | None:
    """The git commit of the checkout seqrl runs from, with ``+dirty`` where files differ from it; None for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head, changed = (_git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+dirty" if changed else head


def _git(root: Path, *words: str) -> str:
    # Without the lock that ``status`` would take for a moment: somebody may be committing.
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
