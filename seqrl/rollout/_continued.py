"""How true videos stay that a model goes on with: beside what really happened, frame by frame, and beside a still.

Letters: N videos, C frames given, F frames said, K codes of a frame.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqrl.rollout._documents import Clip
from seqrl.rollout._grids import agent_cell, is_grid


def compare(said: Sequence[Clip], real: Sequence[Clip], given: int, tokenizer: Any) -> dict[str, Any]:
    """What is right of videos that were gone on with.

    Args:
        said, real: N of each, real ones at least as long. given: C.
        tokenizer: its ``pictures`` shows whether frames are grids.

    Returns:
        ``accuracy``: share of the codes that are right, all and ``by_frame`` (F); ``still``: of the last given frame;
        ``changed``: of the codes that really differ from the frame before; of grids also ``cell``: whether the agent stands
        where it really does (``rollout._grids``), and the same of the last given frame (``cell_still``).
    """
    ours = np.stack([c.codes for c in said])[:, given:]
    F = ours.shape[1]
    true = np.stack([r.codes[given : given + F] for r in real])
    before = np.stack([r.codes[given - 1 : given - 1 + F] for r in real])
    still = before[:, :1].repeat(F, 1)
    right, changed = ours == true, true != before
    found: dict[str, Any] = {
        "videos": len(ours),
        "given": given,
        "frames": F,
        "accuracy": float(right.mean()),
        "still": float((still == true).mean()),
        "changed": float(right[changed].mean()) if changed.any() else None,
        "by_frame": {"accuracy": right.mean((0, 2)).tolist()},
    }
    cells = [cells_of(tokenizer, x) for x in (ours, true, still)]
    if cells[0] is not None:
        same, at_rest = ((cells[i] == cells[1]).all(-1) for i in (0, 2))
        found |= {"cell": float(same.mean()), "cell_still": float(at_rest.mean())}
        found["by_frame"]["cell"] = same.mean(0).tolist()
    return found


def cells_of(tokenizer: Any, codes: np.ndarray) -> np.ndarray | None:
    """Where the agent is in frames ``(N, F, K)``, ``(N, F, numbers)``; None where these are no grids."""
    if getattr(tokenizer, "codec", None) is None:
        return None
    N, F = codes.shape[:2]
    frames = tokenizer.pictures(codes.reshape(N * F, -1))
    if not is_grid(frames):
        return None
    return np.array([agent_cell(f) for f in frames]).reshape(N, F, -1)
