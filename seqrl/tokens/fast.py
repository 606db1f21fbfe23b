"""Action chunks as a few codes: cosine transform, rounding, byte-pair encoding (FAST, Pertsch et al. 2025, arXiv 2501.09747).

A smooth chunk of H steps has few frequencies that matter. Each dimension is scaled so that its 1st and 99th percentile are
-1 and 1, turned into H frequencies (orthonormal DCT-II), multiplied by ``scale`` and rounded; low frequencies come first,
dimensions in turn. Most numbers are then small or zero, and byte-pair encoding, trained on the data at ``fit``, makes one
code of what often stands together. So a model predicts a chunk in fewer steps than it has numbers.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.tokens import _rows

# Dimensions that never move are centred but not stretched.
_STILL = 1e-6
# A rounded frequency is written as one character; from here on there are 35,000 that are letters and nothing else.
_FIRST = 0x4E00
# Chunks that byte-pair encoding is trained on, evenly spread over the data (with five times as many a chunk of HalfCheetah took
# 25.87 codes instead of 25.89, and fitting twice as long); and chunks encoded at a time.
_TRAINED, _BLOCK = 20_000, 65_536
# A dimension's range may be this many times what lies between its percentiles. Beyond that, such as a gripper that hardly
# ever closes, the range is what scales it: the paper's code would need more characters than there are codes.
_OUTLIERS = 4.0


class Config(Frozen):
    """Settings of the FAST codec; ``scale`` and ``vocab`` are the paper's."""

    kind: Literal["fast"] = "fast"
    chunk: int = Field(8, ge=1, le=1024)
    """Consecutive steps in one value, H."""
    scale: float = Field(10.0, gt=0, allow_inf_nan=False)
    """What frequencies are multiplied by before rounding: higher is finer, and takes more codes."""
    vocab: int = Field(1024, ge=4, le=32768)
    """Codes, V, the last of them padding."""
    length: int | None = Field(None, ge=1, le=65536)
    """Codes per chunk, K; None takes the longest chunk of the data. What is longer loses its highest frequencies."""


def cosines(steps: int) -> np.ndarray:
    """The orthonormal DCT-II as a matrix ``(frequency, step)``; its transpose is its inverse."""
    k, t = np.mgrid[:steps, :steps]
    basis = np.sqrt(2 / steps) * np.cos(np.pi * (t + 0.5) * k / steps)
    basis[0] /= np.sqrt(2)
    return basis


class Codec:
    """``(N, H*A)`` numbers, a chunk step by step, to ``(N, K)`` codes in ``[0, V)``, and back.

    The modality is that of one step, A numbers. Any codes decode to finite numbers: a chunk ends at its first padding,
    frequencies that were not said are zero, and those beyond the last are passed over.

    Attributes:
        width: K, codes per chunk; 0 before ``fit`` where the settings leave it open.
        center, spread: ``(A,)`` the middle between the percentiles and half their distance.
        reach: the largest magnitude of a rounded frequency.
    """

    reads = ("vector",)
    continuous = False
    bounded = False
    dtype = "int64"

    def __init__(self, config: Config, modality: Modality) -> None:
        self.config = config
        self.chunk, self.dim = config.chunk, modality.size
        self.vocab, self.pad = config.vocab, config.vocab - 1
        self.width, self.share, self.reach = config.length or 0, "", 0
        self.center, self.spread = np.zeros(self.dim), np.ones(self.dim)
        self._basis = cosines(self.chunk)
        self._bpe, self._json = None, ""

    @property
    def tokens(self) -> int:
        """K, padding included; a packed stream takes the ``lengths`` of them."""
        return self.width

    @property
    def tolerance(self) -> float:
        # Rounding moves a frequency by half a unit at most, and a row of an orthonormal matrix sums to sqrt(H) at most.
        return float(np.sqrt(self.chunk) * 0.5 / self.config.scale * self.spread.max()) * (1 + 1e-6) + 1e-9

    # ---- fitting ----------------------------------------------------------------------------------------------------

    def fit(self, values: np.ndarray) -> None:
        """Learns the scale of each dimension and the byte-pair encoding from ``(N, H*A)``; the same values, the same codes.

        Raises:
            DataError: there are no chunks, or numbers that are not finite.
            RecipeError: ``vocab`` is too small for the frequencies by themselves.
        """
        steps = np.asarray(values, np.float64).reshape(-1, self.dim)
        if not len(steps):
            raise DataError(f"codec fast: there are no chunks of {self.chunk} steps to learn from")
        if not np.isfinite(steps).all():
            raise DataError("codec fast: these actions have numbers that are not finite")
        low, high = np.quantile(steps, (0.01, 0.99), axis=0)
        least, most = steps.min(0), steps.max(0)
        half = np.maximum(high - low, (most - least) / _OUTLIERS) / 2
        self.center, self.spread = (low + high) / 2, np.where(half > _STILL, half, 1.0)
        # Wide enough for every chunk within the range seen, not only for the chunks seen: nothing of them is ever clipped.
        largest = np.abs((np.stack([least, most]) - self.center) / self.spread).max()
        self.reach = int(np.ceil(np.sqrt(self.chunk) * largest * self.config.scale)) + 1
        if 2 * self.reach + 1 > self.pad:
            raise RecipeError(
                f"codec fast: frequencies of these actions take {2 * self.reach + 1} codes before any are joined, and vocab is "
                f"{self.vocab}; raise it to {4 * self.reach} or more, or lower scale ({self.config.scale:g})"
            )
        letters = self._letters(np.asarray(values).reshape(-1, self.chunk * self.dim))
        self._take(*_rows.read(self._train(letters)))
        self.width = self.config.length or max(max(map(len, self._ids(block))) for block in _blocks(np.unique(letters)))

    def _train(self, letters: np.ndarray) -> str:
        """The byte-pair encoding of chunks written as letters, as JSON."""
        from tokenizers import Tokenizer, models, trainers

        some = letters[np.linspace(0, len(letters) - 1, min(len(letters), _TRAINED)).astype(np.int64)]
        made = Tokenizer(models.BPE())
        alphabet = [chr(_FIRST + i) for i in range(2 * self.reach + 1)]
        made.train_from_iterator(
            some.tolist(),
            trainers.BpeTrainer(vocab_size=self.pad, min_frequency=2, initial_alphabet=alphabet, show_progress=False),
        )
        return made.to_str()

    def _take(self, bpe: Any, text: str) -> None:
        """Takes a byte-pair encoding, and lays out which frequencies each code stands for."""
        pieces = {code: np.array([ord(c) for c in word]) - _FIRST for word, code in bpe.get_vocab().items()}
        if max(pieces) >= self.pad or any((p < 0).any() or (p > 2 * self.reach).any() for p in pieces.values()):
            raise ValueError("this byte-pair encoding is not one of action chunks with these settings")
        self._bpe, self._json, self.share = bpe, text, f"fast-{_rows.digest(text)}"
        # Codes that training left over, and padding, stand for no frequency at all.
        whole = [pieces.get(code, np.zeros(0, np.int64)) for code in range(self.vocab)]
        self._sizes = np.array([len(p) for p in whole])
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._symbols = np.concatenate(whole)

    # ---- encoding ---------------------------------------------------------------------------------------------------

    def _letters(self, values: np.ndarray) -> np.ndarray:
        """``(N, H*A)`` numbers to ``(N,)`` texts of H*A letters, one for each rounded frequency."""
        x = (np.asarray(values, np.float64).reshape(-1, self.chunk, self.dim) - self.center) / self.spread
        if not np.isfinite(x).all():
            raise DataError("codec fast: these actions have numbers that are not finite")
        whole = np.clip(np.rint((self._basis @ x) * self.config.scale), -self.reach, self.reach).astype(np.int64)
        points = (whole + self.reach + _FIRST).reshape(len(x), -1).astype(np.uint32)
        return np.ascontiguousarray(points).view(f"<U{self.chunk * self.dim}" if len(x) else "<U1").reshape(len(x))

    def _ids(self, letters: np.ndarray) -> list[list[int]]:
        return [found.ids for found in self._bpe.encode_batch_fast(letters.tolist(), add_special_tokens=False)]

    def encode(self, values: np.ndarray) -> np.ndarray:
        """``(..., H*A)`` to ``(..., K)``: frequencies beyond the fitted range are clipped, and the highest cut beyond K codes.

        Raises:
            DataError: some numbers are not finite.
        """
        if self._bpe is None:
            raise RuntimeError("codec fast: fit or load_state comes before encode")
        values = np.asarray(values)
        letters, place = np.unique(self._letters(values), return_inverse=True)
        parts = [_rows.fill(self._ids(block), self.width, self.pad) for block in _blocks(letters)]
        table = np.concatenate(parts) if parts else np.zeros((0, self.width), np.int64)
        return table[place].reshape(*values.shape[:-1], self.width)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(..., K)``, any codes and as many as there are, to ``(..., H*A)`` float64."""
        codes = np.asarray(codes)
        flat = np.clip(codes.reshape(-1, codes.shape[-1]), 0, self.pad)
        flat = np.where(np.maximum.accumulate(flat == self.pad, axis=1), self.pad, flat)
        # Every code is opened to its run of frequencies, all rows at once: `at` counts within its run, `to` within its row.
        sizes = self._sizes[flat]
        before = np.cumsum(sizes, 1) - sizes
        runs = sizes.ravel()
        at = np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)
        row = np.repeat(np.arange(len(flat)), sizes.sum(1))
        to = np.repeat(before.ravel(), runs) + at
        kept = to < self.chunk * self.dim
        whole = np.zeros((len(flat), self.chunk * self.dim))
        whole[row[kept], to[kept]] = self._symbols[np.repeat(self._starts[flat].ravel(), runs) + at][kept] - self.reach
        x = self._basis.T @ (whole.reshape(-1, self.chunk, self.dim) / self.config.scale)
        return (x * self.spread + self.center).reshape(*codes.shape[:-1], self.chunk * self.dim)

    def lengths(self, codes: np.ndarray) -> np.ndarray:
        """``(N, K)`` codes to ``(N,)``: the real ones of each chunk, at least 1."""
        return _rows.lengths(codes, self.pad)

    # ---- on disk ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        fitted = {"center": self.center.tolist(), "spread": self.spread.tolist(), "reach": self.reach}
        return fitted | {"length": self.width, "bpe": self._json}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where the state is broken, or not one of these settings."""
        center, spread = np.array(state["center"], np.float64), np.array(state["spread"], np.float64)
        if not center.shape == spread.shape == (self.dim,) or not np.isfinite([center, spread]).all():
            raise ValueError(f"center and spread are {self.dim} finite numbers each")
        if any(type(state[k]) is not int or not 1 <= state[k] <= 65536 for k in ("reach", "length")):
            raise ValueError("reach and length are whole numbers above 0")
        self.center, self.spread = center, spread
        self.reach, self.width = state["reach"], state["length"]
        self._take(_rows.read(state["bpe"])[0], state["bpe"])


def _blocks(letters: np.ndarray) -> list[np.ndarray]:
    """Pieces small enough that the library's own notes on them do not fill the memory."""
    return [letters[i : i + _BLOCK] for i in range(0, len(letters), _BLOCK)]
