"""Token documents: texts and videos turned into ids of one vocabulary, joined to examples and packed into rows of L tokens.

An *example* is what sees itself and nothing else: fields of text and of video, one behind the other, between a first and a
last mark (Liu et al. 2024, LWM, arXiv 2402.08268). Ids of the modalities stand in one row of numbers, text first, so the
modality of a token is the range its id lies in. What a place must foretell is written beside it, so that a piece of a row on
one device never needs its neighbour.

Letters: B rows, L tokens in a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MODALITIES = ("text", "vision")


@dataclass(frozen=True)
class DocumentPorts:
    """What a model must know of token documents. Written into its config; JSON-plain.

    Args:
        text, vision: ids of each modality: text has 0 to ``text``, vision those behind. The last two of vision are the end of
            a frame and the end of a video.
        frame: codes of a frame (K), without its end.
        bos, eos: ids of the marks around an example.
        opens, closes: ids that stand in front of a video and behind it, ``<vision>`` and ``</vision>`` as text.
    """

    text: int
    vision: int
    frame: int
    bos: int
    eos: int
    opens: tuple[int, ...]
    closes: tuple[int, ...]

    @property
    def total(self) -> int:
        """Ids of all modalities (V)."""
        return self.text + self.vision

    @property
    def frame_end(self) -> int:
        """Id behind a frame that is followed by another."""
        return self.total - 2

    @property
    def video_end(self) -> int:
        """Id behind the last frame of a video."""
        return self.total - 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``from_json`` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "DocumentPorts":
        """The ports that ``to_json`` gave."""
        return cls(**{**raw, "opens": tuple(raw["opens"]), "closes": tuple(raw["closes"])})


@dataclass(frozen=True)
class DocumentBatch:
    """B rows of L tokens.

    Args:
        ids: ``[B, L]`` int64; 0 where there is no token.
        pack: ``[B, L]`` int64, number of the token's example within its row, -1 where there is no token.
        pos: ``[B, L]`` int64, position within the example.
        target: ``[B, L]`` int64, the id that a place must foretell: the next of its example; -1 where nothing is trained.
        weight: ``[B, L]`` float32, what that counts in the sum of the target's modality; 0 where nothing is trained.
        counts: modality -> ``[B, L]`` float32, what each place adds to the number that the modality's sum is divided by.
        cut: where rows are cut over several processes, this one's piece of them (context/cut.py); the batch itself is whole.
    """

    ids: "torch.Tensor"
    pack: "torch.Tensor"
    pos: "torch.Tensor"
    target: "torch.Tensor"
    weight: "torch.Tensor"
    counts: Mapping[str, "torch.Tensor"] = field(default_factory=dict)
    cut: Any = None

    @property
    def efficiency(self) -> float:
        """Share of the rows' places that hold a token."""
        return float((self.pack >= 0).float().mean())

    def _map(self, fn: Callable[[Any], Any]) -> "DocumentBatch":
        plain = {n: fn(getattr(self, n)) for n in ("ids", "pack", "pos", "target", "weight")}
        return replace(self, counts={n: fn(t) for n, t in self.counts.items()}, **plain)

    def to(self, device: Any) -> "DocumentBatch":
        """The same batch on another device; tensors already there are not copied."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def split(self, pieces: int) -> "list[DocumentBatch]":
        """The rows dealt out to ``pieces`` batches of equally many."""
        each = len(self.ids) // pieces
        return [self._map(lambda t, b=b: t[b : b + each]) for b in range(0, len(self.ids), each)]
