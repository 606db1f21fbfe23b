"""The trunk: a causal decoder over vectors, small enough to read and numerically equal to transformers' own.

It takes what stands in a stream already embedded, ``[B, L, D]``, and answers vectors. Four families share it, each the twin
of a class of transformers (see nn/twins.py for moving weights): ``gpt2``, ``llama``, ``qwen2``, ``qwen3``. Three things the
twins do not do: the last block is computed only for the tokens that are read; the cache is static, batch first, and lets
every row stand at its own position, go back, and sit a token out; and rows are right-padded, so that a mask is made only
where several documents are packed into one row. For rows too long for one device see ``nn.ringed`` and ``nn.recompute``.

Letters: B rows, L tokens, R tokens read, D width, N blocks, H heads, G heads of keys and values, d numbers in a head.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.nn.attention import NO_DROPPED_WEIGHTS, Cut, Read, Sight, places_in, see_cache, see_cut, see_packed, see_square
from seqrl.nn.blocks import ACTIVATIONS, Block
from seqrl.nn.dropout import dropout
from seqrl.nn.kv import KVCache, Memory, length_after, make_cache, run_of
from seqrl.nn.recompute import How, again, check_recompute
from seqrl.nn.ringed import check_cut, prove_ring
from seqrl.nn.stretch import check_learned, check_stretch

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"norm": "layer", "bias": True, "qkv_bias": True, "gated": False, "activation": "gelu_new", "positions": "learned"},
    "llama": {"norm": "rms", "gated": True, "activation": "silu", "positions": "rotary", "eps": 1e-6},
}
FAMILIES["qwen2"] = FAMILIES["llama"] | {"qkv_bias": True}
FAMILIES["qwen3"] = FAMILIES["llama"] | {"qk_norm": True}


@dataclass(frozen=True)
class TrunkConfig:
    """The shape of a trunk; ``family_config`` fills it in for a family.

    Args:
        width, layers, heads: D, N, H. kv_heads: G. head_dim: d. inner: hidden units of the feed-forward layer.
        positions: where a token's place comes from: a learned table of ``max_positions``, rotary angles, or nowhere.
        dropout: on the input and on every residual branch. attention_dropout: on attention weights.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    activation: str
    norm: Literal["layer", "rms"]
    gated: bool
    positions: Literal["none", "learned", "rotary"]
    bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    eps: float = 1e-5
    max_positions: int = 1024
    rope_theta: float = 10000.0
    dropout: float = 0.0
    attention_dropout: float = 0.0

    @property
    def residual_scale(self) -> float:
        """Initial weights at the end of the 2N residual branches are smaller by this (Radford et al. 2019)."""
        return (2 * self.layers) ** -0.5


def family_config(family: str, *, width: int, layers: int, heads: int, **settings: Any) -> TrunkConfig:
    """The config of a family; what is not named in ``settings`` (or named None) takes the family's default.

    Raises:
        RecipeError: an unknown family or activation, or sizes that do not divide.
    """
    if family not in FAMILIES:
        raise RecipeError(f"body: unknown family '{family}'{did_you_mean(family, FAMILIES)} (there are: {', '.join(FAMILIES)})")
    given = {k: v for k, v in settings.items() if v is not None}
    # Two thirds of 4D, for a gated layer has three matrices where a plain one has two; in whole vectors of numbers.
    inner = -(-8 * width // 96) * 32 if FAMILIES[family]["gated"] else 4 * width
    sizes = {"kv_heads": heads, "head_dim": width // heads if heads else 0, "inner": inner}
    config = TrunkConfig(width=width, layers=layers, heads=heads, **{**sizes, **FAMILIES[family], **given})
    if min(width, layers, heads, config.kv_heads, config.inner) < 1:
        raise RecipeError("body: width, layers, heads, kv_heads and inner must be at least 1")
    if "head_dim" not in given and width % heads:
        raise RecipeError(f"body: width {width} is no multiple of heads {heads}; try width {-(-width // heads) * heads}")
    if heads % config.kv_heads:
        raise RecipeError(f"body: heads {heads} is no multiple of kv_heads {config.kv_heads}")
    if config.positions == "rotary" and config.head_dim % 2:
        raise RecipeError(f"body: rotary positions turn pairs, and a head of {config.head_dim} numbers cannot be split in two")
    if config.activation not in ACTIVATIONS:
        near = did_you_mean(config.activation, ACTIVATIONS)
        raise RecipeError(f"body: unknown activation '{config.activation}'{near} (there are: {', '.join(ACTIVATIONS)})")
    return config


class Transformer(nn.Module):
    """N causal blocks and a final norm."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = nn.Embedding(config.max_positions, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.layers))
        self.norm = (nn.LayerNorm if config.norm == "layer" else nn.RMSNorm)(config.width, config.eps)
        self._theta = config.rope_theta if config.positions == "rotary" else None
        self._how: How = "none"

    def _run(self, x: Tensor, sight: Sight, read: Read, memory: Memory | None = None) -> Tensor:
        # The residual stream keeps the weights' precision, whatever autocast made of what is fed.
        x = x.to(self.norm.weight.dtype)
        if self.training:
            x = dropout(x, self.config.dropout)
        for block in self.blocks[:-1]:
            x = self._block(block, x, sight, None, memory)
        return self.norm(self._block(self.blocks[-1], x, sight.at(read), read, memory))

    def _block(self, block: Block, x: Tensor, sight: Sight, read: Read, memory: Memory | None) -> Tensor:
        # What is written to a cache must not be written again.
        if self._how == "none" or memory is not None or not torch.is_grad_enabled():
            return block(x, sight, read, memory)
        return again(block, x, sight, read, offload=self._how == "offload")

    def _placed(self, x: Tensor, at: Tensor) -> Tensor:
        """Adds the learned positions ``at [L]`` or ``[B, L]``; those of padding and of absent tokens are below 0."""
        return x if self.positions is None else x + self.positions(at.clamp(min=0))

    def forward(
        self,
        x: Tensor,
        read: Read = None,
        pack: Tensor | None = None,
        pos: Tensor | None = None,
        cut: Cut | None = None,
    ) -> Tensor:
        """Whole rows from their beginning, or this process's piece of them.

        Args:
            x: ``[B, L, D]``, right-padded where rows differ in length.
            read: the tokens whose outputs are wanted: all (None), a slice, or positions ``[B, R]``.
            pack: ``[B, L]`` int64, where rows hold several documents: the document of each token within its row, -1 for
                padding. Documents are contiguous, and none sees another. Outputs of padding are finite and mean nothing.
            pos: ``[B, L]`` int64, position of each token within its document; counted from ``pack`` if not given.
            cut: ``x [1, N, D]`` and ``pos [1, N]`` are what it takes of whole rows (context/cut.py); ``pack`` is not looked at.

        Returns:
            ``[B, R, D]``.

        Raises:
            ValueError: ``pos`` without ``pack``; with a cut, no ``pos``, or something to ``read``.
        """
        theta, head_dim = self._theta, self.config.head_dim
        if cut is not None:
            pos = check_cut(x, read, pos, cut)
            sight = see_cut(pos, cut, theta, head_dim)
        elif pack is None:
            if pos is not None:
                raise ValueError("positions within documents (pos) need the documents (pack)")
            sight, pos = see_square(x.shape[1], theta, head_dim, x.device), torch.arange(x.shape[1], device=x.device)
        else:
            # Padding has no position, and must not reach beyond a learned table.
            pos = (places_in(pack) if pos is None else pos).where(pack >= 0, 0)
            sight = see_packed(pack, pos, theta, head_dim, self.norm.weight.dtype)
        return self._run(self._placed(x, pos), sight, read)

    def init_cache(self, rows: int, tokens: int) -> KVCache:
        """An empty cache for ``extend``, with room for ``tokens`` in each of ``rows`` rows."""
        c = self.config
        return make_cache(rows, c.layers, tokens, c.kv_heads, c.head_dim, self.norm.weight)

    def extend(
        self, x: Tensor, cache: KVCache, start: Tensor | None = None, read: Read = None, places: Tensor | None = None
    ) -> Tensor:
        """Goes on from what the cache holds; changes the cache.

        A token at position p sees the positions up to p of its row, be they held or new. Positions that are held already are
        replaced, which is how to go back: feed what comes after the last token to be kept, at its position.

        Args:
            x: ``[B, L, D]``, L new tokens of every row; finite, also where a token is not there.
            cache: of B rows.
            start: ``[B]`` position of each row's first new token, if they stand side by side; the row's length if not given,
                -1 to let it be unseen.
            read: as in ``forward``.
            places: instead of ``start``, ``[B, L]`` int64 position of every new token; -1 for one that is not there in that
                row: no other sees it, and its output means nothing. A row with none keeps its length, any other ends at
                its last.

        Returns:
            ``[B, R, D]``.

        Raises:
            ValueError: a row has no room (checked on CPU only, where looking is free).
        """
        places, after = run_of(x.shape[1], cache, start) if places is None else (places, length_after(places, cache))
        kv = cache.kv[:, :, : cache.slots_for(places)]
        sight = see_cache(places, kv.shape[2], self._theta, self.config.head_dim)
        memory = Memory(kv, torch.arange(len(x), device=x.device)[:, None], sight.places, fresh=False)
        y = self._run(self._placed(x, places), sight, read, memory)
        cache.length.copy_(after)
        return y

    def fill(self, x: Tensor, cache: KVCache, rows: Tensor, length: Tensor) -> None:
        """Replaces what the cache holds of ``rows`` and computes nothing but that; changes the cache.

        Args:
            x: ``[R, L, D]``, right-padded.
            cache: of B rows.
            rows: ``[R]`` row indices, each at most once.
            length: ``[R]`` real tokens of each.
        """
        sight = see_square(x.shape[1], self._theta, self.config.head_dim, x.device)
        memory = Memory(cache.kv, rows[:, None], sight.places + 1, fresh=True)
        x = self._placed(x, sight.places).to(self.norm.weight.dtype)
        for block in self.blocks[:-1]:
            x = block(x, sight, memory=memory)
        self.blocks[-1].remember(x, sight, memory)
        cache.length[rows] = length

    def prepare_ring(self) -> None:
        """Raises RecipeError where ring attention cannot take the place of this trunk's own."""
        if self.config.attention_dropout:
            raise RecipeError(NO_DROPPED_WEIGHTS)

    def prove_ring(self, ranks: int, cut_of: Callable[[Tensor], Cut]) -> None:
        """Holds ring attention against this trunk's own on a short row, as ``nn.ringed.prove_ring``."""
        longest = self.config.max_positions if self.positions is not None else None
        prove_ring(self, "trunk", self.config.width, self.config.layers, longest, ranks, cut_of)

    def recompute(self, how: How = "none", feed: int | None = None) -> None:
        """What the backward pass computes again (nn/recompute.py).

        Args:
            how: "none"; "blocks", all but the input of each block; "offload", with these inputs in the host's memory.
            feed: tokens of a row whose hidden units are alive at once.

        Raises:
            RecipeError: neither of the three, or no token.
        """
        check_recompute(how, feed)
        self._how = how
        for block in self.blocks:
            block.mlp.feed = feed

    def stretch(self, length: int | None, rope_base: float | None = None) -> None:
        """Room for documents of ``length`` tokens, and another base of the rotary angles; ``config`` says so, too.

        Args:
            length, rope_base: None for what they were. A body whose positions do not matter takes any length.

        Raises:
            RecipeError: learned positions, which cannot grow, or numbers that make no sense.
        """
        check_stretch(length, rope_base)
        if self._theta is not None:
            self._theta = rope_base or self._theta
            self.config = replace(self.config, max_positions=length or self.config.max_positions, rope_theta=self._theta)
        elif self.positions is not None:
            check_learned("trunk", self.config.max_positions, length, rope_base)
