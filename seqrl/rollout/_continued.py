"""How true videos stay that a model goes on with: beside what really happened, frame by frame, and beside a still.

Letters: N videos, C frames given, F frames said, K codes of a frame.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqrl.rollout._documents import Clip
from seqrl.rollout._grids import agent_cell, is_grid, shows_agent


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
    frames = grids_of(tokenizer, true)
    if frames is not None:
        # The real ones tell what an agent's cell is; one that is said no more is nowhere.
        shown = shows_agent(frames)
        cells = [cells_of(grids_of(tokenizer, x), shown) for x in (ours, true, still)]
        same, at_rest = ((cells[i] == cells[1]).all(-1) for i in (0, 2))
        found |= {"cell": float(same.mean()), "cell_still": float(at_rest.mean())}
        found["by_frame"]["cell"] = same.mean(0).tolist()
    return found


def grids_of(tokenizer: Any, codes: np.ndarray) -> np.ndarray | None:
    """Frames ``(N, F, K)`` as grids ``(N, F, W, H, 3)``; None where these are no grids."""
    if getattr(tokenizer, "codec", None) is None:
        return None
    frames = tokenizer.pictures(codes.reshape(-1, codes.shape[-1]))
    return frames.reshape(*codes.shape[:2], *frames.shape[1:]) if is_grid(frames) else None


def cells_of(frames: np.ndarray, shown: bool) -> np.ndarray:
    """Where the agent is in grids ``(N, F, W, H, 3)``, ``(N, F, numbers)``; see ``rollout._grids.agent_cell``."""
    return np.array([[agent_cell(f, shown) for f in row] for row in frames])
