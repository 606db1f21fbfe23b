"""How far what was imagined is from what came: the measures of a dream, on plain arrays.

N excerpts, K codes or D numbers of a slot.
"""

import numpy as np


def r2(true: np.ndarray, said: np.ndarray) -> float | None:
    """``1 - squared errors / squared distances from the mean``, the mean over the D that vary; None where none does.

    Args:
        true, said: ``(N, D)``.
    """
    spread = ((true - true.mean(0)) ** 2).sum(0)
    # What varies by less than float32 can tell does not vary.
    moves = spread > 1e-10 * np.maximum((true**2).sum(0), 1e-12)
    if not moves.any():
        return None
    return float(1 - (((true - said) ** 2).sum(0)[moves] / spread[moves]).mean())


def rmse(true: np.ndarray, said: np.ndarray) -> float:
    """Root of the mean squared error over all of ``(N, D)``."""
    return float(np.sqrt(np.mean((np.asarray(true, np.float64) - said) ** 2)))


def accuracy(true: np.ndarray, said: np.ndarray) -> float:
    """Share of ``(N, K)`` codes that are right."""
    return float((true == said).mean())


def changed_accuracy(true: np.ndarray, before: np.ndarray, said: np.ndarray) -> float | None:
    """Share of codes that are right where the true one at t + h differs from the true one at t + h - 1.

    Args:
        true, before, said: ``(N, K)``: at t + h, at t + h - 1, and imagined for t + h.

    Returns:
        None where nothing changed.
    """
    moved = true != before
    return float((true == said)[moved].mean()) if moved.any() else None


def events(real: np.ndarray, said: np.ndarray) -> dict[str, float | int | None]:
    """``precision, recall, f1`` of something rare, and how often it ``happened`` and was ``told``.

    Args:
        real, said: what happened and what was told, of one shape: 0 for nothing, else which (-1 and 1 are different events).
    """
    happened, told = real != 0, said != 0
    hits = int((happened & (real == said)).sum())
    precision = hits / int(told.sum()) if told.any() else None
    recall = hits / int(happened.sum()) if happened.any() else None
    f1 = 2 * hits / int(told.sum() + happened.sum()) if told.any() or happened.any() else None
    return {"precision": precision, "recall": recall, "f1": f1, "happened": int(happened.sum()), "told": int(told.sum())}


def effective_rank(feats: np.ndarray) -> float:
    """In how many directions features ``(N, F)`` really vary: the exponential of the entropy of the normalised singular values
    of the centred matrix (Roy and Vetterli 2007); 1 where all are the same."""
    values = np.linalg.svd(feats.astype(np.float64) - feats.mean(0), compute_uv=False)
    if values.sum() <= 1e-12:
        return 1.0
    share = values / values.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def agreement(a: np.ndarray, b: np.ndarray) -> float | None:
    """Correlation of two ``(N,)``; None where one of them is constant."""
    if len(a) < 2 or a.std() < 1e-9 or b.std() < 1e-9:
        return None
    return float(np.corrcoef(a, b)[0, 1])
