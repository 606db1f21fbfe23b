"""One page of promises: what a source, a codec, a model, a policy and a world model must do for the rest of the house.

These are Protocols: nothing inherits from them. Letters: B rows, L tokens, T environment steps, K codes of a slot per step,
D width, V vocabulary, A action dims.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.packed import PackedBatch
from seqrl.core.stream import StreamBatch

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Source(Protocol):
    """Where episodes come from. The module's ``Source`` is built from its pydantic ``Config``.

    The module also offers ``tiny(folder) -> Config``: settings for a small source made in an empty folder, for the contract
    tests, which run over every file of the room.
    """

    spec: EpisodeSpec
    lengths: np.ndarray
    """``(N,)`` int64: steps of each episode."""

    def fingerprint(self) -> str:
        """Hex digest of the content; two sources with the same digest hold the same episodes."""
        ...

    def __len__(self) -> int: ...

    def episode(self, i: int) -> Episode:
        """Episode ``i``; raises DataError naming episode and step where the data is broken."""
        ...


@runtime_checkable
class Codec(Protocol):
    """A value and its codes. Numpy in, numpy out; built from its pydantic ``Config`` and the modality it serves.

    A codec of texts or pictures says so by an attribute ``reads``, the kinds of modality it takes; all others get numbers.

    One whose statistics are means alone, which a sample of the data tells, says ``learns = "means"``.

    A continuous codec (``continuous`` true) gives ``[..., width]`` numbers and has ``vocab`` 0; a discrete one gives
    ``[..., width]`` int64 codes in ``[0, vocab)``. A codec whose values differ in length fills up with its ``pad``, the last
    code, and tells the real ones by ``lengths(codes) -> (N,)``; a codec of pictures describes them by ``image``. One that
    stands on arrays (a trained encoder's weights) gives them by ``tensors() -> {name: array}`` and takes them back by
    ``load_tensors(tensors)``, called after ``load_state``; its module makes a small one by ``tiny(folder, modality)``.
    """

    width: int
    vocab: int
    continuous: bool
    dtype: str
    """Of encoded values: float32, uint8 (pictures) or int64."""
    tokens: int
    """K: tokens of a stream one value takes, where slots are not joined into one token."""
    share: str
    """Discrete codecs with the same word may use the same range of ids; "" for continuous ones."""
    chunk: int
    """Consecutive steps that one value spans: 1 but for action chunks, whose ``encode`` takes ``(N, chunk * dim)``."""
    tolerance: float
    """Largest ``|decode(encode(x)) - x|`` over values inside the fitted range, in units of the value."""

    def fit(self, values: np.ndarray) -> None:
        """Learns statistics from ``(N, dim)`` values; called once, before the first ``encode``."""
        ...

    def encode(self, values: np.ndarray) -> np.ndarray: ...

    def decode(self, codes: np.ndarray) -> np.ndarray: ...

    def state(self) -> dict[str, Any]:
        """The fitted statistics as plain JSON, exact: ``load_state(state())`` restores every bit."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Ports:
    """What a model must know of the data: the shape of each slot. Written into its config; JSON-plain.

    Args:
        layout: the layout as text.
        widths: slot -> numbers per step if continuous, codes per step (K) if discrete.
        vocabs: slot -> codes V of a discrete slot, 0 for a continuous one.
        bounded: slot -> whether its values lie in [-1, 1] (so that a tanh head fits).
        tokens: slot -> tokens of a packed stream that a value takes.
        shares: slot -> name of the range of ids it may share with others.
        images: slot -> shape, patch size and encoder of a slot of pictures.
        levels: ``reward`` and ``return``, where they are codes -> what each of the V means, in units of the reward; ``reward``
            where it is a number -> what 0 and 1 mean.
        discount: of the returns-to-go.
        context: most environment steps that are seen at once; 0 where that is not known.
    """

    layout: str
    widths: Mapping[str, int]
    vocabs: Mapping[str, int]
    bounded: Mapping[str, bool]
    tokens: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    levels: Mapping[str, Sequence[float]] = field(default_factory=dict)
    discount: float = 1.0
    context: int = 0


@dataclass(frozen=True)
class Losses:
    """Named loss terms, unreduced, each with its mask; reduced by sum and count over ranks and accumulation steps.

    Args:
        terms: name -> (values, mask), two tensors of one shape; values are per element, the mask is true where it counts, or
            a weight of at least 0.
        counts: name -> what the sum is divided by, a scalar, for terms whose weights do not sum up to it: an example that has
            none of a modality's tokens still counts as one of the examples whose mean is taken.
    """

    terms: Mapping[str, tuple["torch.Tensor", "torch.Tensor"]]
    counts: Mapping[str, "torch.Tensor"] = field(default_factory=dict)

    def sums(self) -> dict[str, tuple["torch.Tensor", "torch.Tensor"]]:
        """name -> (sum of counted values, how many), both scalars in float32."""
        out = {}
        for name, (value, mask) in self.terms.items():
            if value.shape != mask.shape:
                raise ValueError(f"loss '{name}': values {tuple(value.shape)} but mask {tuple(mask.shape)}")
            out[name] = ((value.float() * mask).sum(), self.counts[name] if name in self.counts else mask.sum())
        return out


@runtime_checkable
class Model(Protocol):
    """Every trainable model: a ``transformers.PreTrainedModel`` with its config standing directly above it.

    The module offers ``Model`` and ``Config``; ``Config.for_ports(ports, **settings)`` makes the config for some data (in a
    module of packed rows ``Config.for_domains(ports of each domain, length, **settings)``), and ``Config.tiny(ports)`` the
    smallest sensible one, for tests. A model that begins with somebody's weights offers ``Model.begin(config)``, which alone
    reads them: ``Model(config)`` looks at nothing outside its config.
    """

    losses: tuple[str, ...]
    """The names ``forward`` answers; a recipe's weights must have just these."""

    def forward(self, batch: StreamBatch | PackedBatch) -> Losses:
        """A model reads windows of one layout, or packed rows; its module's ``PACKED`` says which."""
        ...

    def counts(self, batch: StreamBatch | PackedBatch) -> dict[str, "torch.Tensor"]:
        """How many elements each loss will count in ``batch``; lets a batch be computed in pieces and weighed as a whole."""
        ...


@runtime_checkable
class Policy(Model, Protocol):
    """A model that acts, for many environments at once.

    A policy never sees raw observations: the agent encodes before and decodes after.
    """

    def init_cache(self, rows: int, steps: int) -> Any:
        """Room for ``rows`` environments with a window of ``steps`` steps; every leaf is batch first.

        A cache has ``reset(rows)``, ``index(rows)`` and ``steps``; one that never fills says so by ``fills = False``.
        """
        ...

    def refill(self, batch: StreamBatch, cache: Any, rows: "torch.Tensor") -> None:
        """Forgets what ``cache`` holds of ``rows`` and reads the steps of ``batch [R, T, ...]``, but for the last action."""
        ...

    def act(self, batch: StreamBatch, cache: Any = None, **options: Any) -> dict[str, "torch.Tensor"]:
        """The action of the last real step of each row.

        Without a cache, ``batch`` holds the whole window ``[B, T, …]`` (the action of the last step is ignored). With one,
        it holds a single step ``[B, 1, …]`` with the *previous* action under ``action``, and the cache moves on.

        Returns:
            slot -> ``[B, width]``: encoded actions (float, or codes of a discrete slot).
        """
        ...


@dataclass(frozen=True)
class Pred:
    """A world's answer to ``a_t``.

    Args:
        feat: ``[B, F]`` what an actor or a critic reads at the next step.
        latent: ``[B, *Z]`` what ``decode`` reads: the imagined ``o_{t+1}``.
        reward: ``[B]`` float32, the expected ``r_t``, in units of the reward.
        cont: ``[B]`` float32, probability that the episode goes on; from ``terminated`` only, never from ``truncated``.
        aux: anything else a family has to say; ``disagreement [B]`` is how much an ensemble's members differ.
    """

    feat: "torch.Tensor"
    latent: "torch.Tensor"
    reward: "torch.Tensor"
    cont: "torch.Tensor"
    aux: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class WorldModel(Model, Protocol):
    """A model one can live in. Time: ``o_t -> z_t``, act ``a_t``, the world answers ``r_t, c_t, o_{t+1}``.

    A *carry* is the world's state for B rows: a NamedTuple of tensors, batch first in every leaf, so that core/tree.py can
    choose, repeat and mix rows. A carry that is handed over is used up: it may be changed in place, and what comes back
    takes its place. Observations and actions are encoded values, slot -> tensor, as in a ``StreamBatch``. Draws come from
    torch's own generator.

    Its module says ``AHEAD = True`` if it reads windows (which then hold the observation after the last action), or
    ``PACKED = True``; and names in ``LOSSES`` what it can be trained on besides slots.
    """

    feat_width: int
    """F."""
    differentiable: bool
    """Whether gradients flow through ``step``, from what is imagined back to the actions."""

    def encode(self, obs: Mapping[str, "torch.Tensor"], sample: bool = True) -> "torch.Tensor":
        """Observed slots ``[B, T, width]`` to ``z [B, T, *Z]``; only of what stands in the same step."""
        ...

    def init(self, rows: int, steps: int, front: Mapping[str, "torch.Tensor"] | None = None) -> Any:
        """The carry of ``rows`` episodes that have not begun, with room for ``steps`` steps (observed or imagined).

        Args:
            front: slots in front of the steps -> ``[rows, width]``, where the layout has any.
        """
        ...

    def observe(self, carry: Any, z: "torch.Tensor", prev_action: "torch.Tensor") -> tuple[Any, "torch.Tensor"]:
        """Takes in T real steps.

        Args:
            z: ``[B, T, *Z]`` of ``encode``.
            prev_action: ``[B, T, A]``, the action that led to each; the first is not looked at in rows that have not begun.

        Returns:
            the carry after the last of them, and ``feat [B, T, F]``.

        A world that draws here takes ``sample=False`` as well, and then what is likeliest. One whose context is kept in a cache
        may offer ``starts(z, action, lengths, steps) -> carry of B * T rows, feat [B * T, F]``: every step of some windows as
        the beginning of a dream, each behind its own past alone.
        """
        ...

    def step(self, carry: Any, action: "torch.Tensor", sample: bool = True, temperature: float = 1.0) -> tuple[Any, Pred]:
        """Imagines one step: ``action [B, A]`` to the carry in which the imagined ``o_{t+1}`` was taken in, and the answer.

        Args:
            sample: draw what comes next; False takes what is likeliest.
            temperature: of the draw.
        """
        ...

    def share(self, carry: Any, candidates: int, steps: int) -> Any:
        """Room for ``candidates`` (S) continuations of each row: a carry of ``B * S`` rows, those of one row side by side.

        Args:
            steps: the most steps each will be imagined on. Where a carry is long, the past is kept once for all. The carry
                itself stays usable: a planner shares it once a round.
        """
        ...

    def decode(self, latent: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """``[..., *Z]`` of ``Pred.latent`` to the encoded values of the slots it can show, slot -> ``[..., width]``."""
        ...


@runtime_checkable
class LongBody(Protocol):
    """A trunk whose rows may be longer than one device holds: cut over processes, computed again, stretched.

    N are the tokens of this process's piece of B rows of L tokens, M those of a short row for a proof.
    """

    def forward(
        self, x: "torch.Tensor", read: Any = None, pack: Any = None, pos: Any = None, cut: Any = None
    ) -> "torch.Tensor":
        """Whole rows ``[B, L, D]`` to ``[B, R, D]``; or, with a ``cut`` (context/cut.py), its piece of them.

        Then ``x [1, N, D]`` and ``pos [1, N]``, positions within documents, are what the cut takes of the rows, ``pack`` is not
        looked at, nothing is chosen by ``read``, and ``[1, N, D]`` comes back. All processes of the cut call alike.
        """
        ...

    def prepare_ring(self) -> None:
        """Puts ring attention in the place of its own; raises RecipeError naming what a ring cannot honour."""
        ...

    def prove_ring(self, ranks: int, cut_of: Callable[["torch.Tensor"], Any]) -> None:
        """Holds a pass over a cut against its own over a short row; all processes call alike, before they train.

        Args:
            cut_of: ``pack [1, M]`` int64 to this process's cut of it.

        Raises:
            RecipeError: the outputs differ, or not every layer asked the ring.
        """
        ...

    def recompute(self, how: str, feed: int | None) -> None:
        """What a backward pass computes again: "none", "blocks" or "offload" (with what is kept in the host's memory).

        Args:
            feed: tokens of a row whose hidden units of the feed-forward layer are alive at once; None for all.

        Raises:
            RecipeError: the body has no way to.
        """
        ...

    def stretch(self, length: int | None, rope_base: float | None) -> None:
        """Room for documents of ``length`` tokens, and another base of the rotary angles; its config says so, too.

        Args:
            length, rope_base: None for what they were.

        Raises:
            RecipeError: learned positions cannot grow.
        """
        ...


__all__ = [
    "Codec",
    "Episode",
    "EpisodeSpec",
    "LongBody",
    "Losses",
    "Modality",
    "Model",
    "Policy",
    "Ports",
    "Pred",
    "Source",
    "WorldModel",
]
