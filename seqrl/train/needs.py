"""The words of a memory plan: what is counted of a model, what a device needs, how fast it can be, stage by stage.

Letters: P weights, T of them trained, n processes, H heads, G heads of keys and values, d numbers in a head, D width.
"""

from dataclasses import dataclass

from torch import nn

from seqrl.train.devices import Device
from seqrl.train.recipe import Recipe
from seqrl.train.whole import blocks_of


@dataclass(frozen=True)
class Facts:
    """Of a model: its numbers, counted.

    Args:
        weights, trained: all, and those with a gradient. loose: trained ones outside of blocks; outside: all of those.
        block, layers: weights of the largest block, and how many there are. products: of a block, those in matrices.
        heads, shared, size, width: H, G, d, D.
        scored: ids that a place is scored against, on average over the losses.
    """

    weights: int
    trained: int
    loose: int
    outside: int
    block: int
    layers: int
    products: int
    heads: int
    shared: int
    size: int
    width: int
    scored: float


@dataclass(frozen=True)
class Need:
    """Bytes of one device at its fullest; what lies in the host's memory (``offload``) apart."""

    weights: float
    gradients: float
    moments: float
    buffers: float
    layers: float
    ring: float
    work: float
    batch: float
    host: float = 0.0

    @property
    def total(self) -> float:
        own = (self.weights, self.gradients, self.moments, self.buffers, self.layers, self.ring, self.work, self.batch)
        return sum(own)


@dataclass(frozen=True)
class Speed:
    """Seconds of a step at the device's own limits, and what follows.

    Args:
        arithmetic: of products and attention. ring: of keys, values and their gradients between those who share a row.
        weights: of weights and gradients between all. All three go on at once where they can, so the longest is the bound.
        tokens: in a step. least: tokens a device needs of a row, for its keys to be under way no longer than attention works
            (0: rows are not shared).
    """

    arithmetic: float
    ring: float
    weights: float
    tokens: int
    least: float

    @property
    def step(self) -> float:
        return max(self.arithmetic, self.ring, self.weights)

    @property
    def rate(self) -> float:
        """Tokens a second of all devices, at most."""
        return self.tokens / self.step

    @property
    def bound(self) -> str:
        return max(("arithmetic", "ring", "weights"), key=lambda n: getattr(self, n))


@dataclass(frozen=True)
class StagePlan:
    """One stage, or a recipe without any.

    Args:
        rows, share: of a pass of one device, rows that it has a piece of, and its tokens of them.
        longest: tokens of the longest row that fits, all else as it is; 0 where none does.
    """

    number: int
    length: int
    rope_base: float | None
    steps: int
    batch: int
    rows: int
    share: int
    need: Need
    speed: Speed
    longest: int

    @property
    def tokens(self) -> int:
        """Of all its steps."""
        return self.steps * self.batch * self.length


@dataclass(frozen=True)
class MemoryPlan:
    """All stages on ``processes`` devices."""

    recipe: Recipe
    device: Device
    kind: str
    processes: int
    facts: Facts
    stages: tuple[StagePlan, ...]
    assumed: tuple[str, ...]


def facts_of(model: nn.Module, body: nn.Module, heads: dict[str, int]) -> Facts:
    """Counts a model's weights; those that are shared once."""
    blocks = list(blocks_of(body))
    inside = {id(p) for b in blocks for p in b.parameters()}
    sizes = [sum(p.numel() for p in b.parameters()) for b in blocks]
    matrices = [sum(p.numel() for p in b.parameters() if p.ndim > 1) for b in blocks]
    outer = [p for p in model.parameters() if id(p) not in inside]
    config = body.config
    if hasattr(config, "num_attention_heads"):
        heads_, width = config.num_attention_heads, config.hidden_size
        shared = getattr(config, "num_key_value_heads", None) or heads_
        size = getattr(config, "head_dim", None) or width // heads_
    else:
        heads_, shared, size, width = config.heads, config.kv_heads, config.head_dim, config.width
    return Facts(
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(p.numel() for p in outer if p.requires_grad),
        sum(p.numel() for p in outer),
        max(sizes),
        len(blocks),
        sum(matrices) // len(blocks),
        heads_,
        shared,
        size,
        width,
        sum(heads.values()) / max(len(heads), 1),
    )
