"""Recomputation (nn/recompute.py) inside a decoder of transformers: at its layers, and in their feed-forward parts.

Layers of transformers ask a function of their model's choice to compute them again; ours is put there. For chunks of tokens the
feed-forward module of each layer is called through a function that splits what it is fed.
"""

from functools import partial
from types import MethodType

from torch import Tensor, nn

from seqrl.core.errors import RecipeError
from seqrl.nn.recompute import How, check_recompute, in_chunks
from seqrl.nn.ringed import Ring

_FEEDS = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "feedforward")


class Sparing:
    """What the backward pass of one decoder computes again.

    Args:
        name: of the decoder, for errors. layers: how many it has. ring: told of the cut of each pass.
    """

    def __init__(self, name: str, decoder: nn.Module, layers: int, ring: Ring) -> None:
        self.name, self.layers, self.ring = name, layers, ring
        self.how: How = "none"
        # Not a part of this: modules belong to the body.
        self._decoder = (decoder,)

    def set(self, how: How, feed: int | None) -> None:
        """As ``Transformer.recompute``."""
        check_recompute(how, feed)
        asking = self._asking()
        if how != "none" and len(asking) < self.layers:
            raise RecipeError(f"recompute: the layers of the body '{self.name}' cannot be computed again; set recompute: none")
        self._chunk(feed)
        self.how = how
        for module in asking:
            module._gradient_checkpointing_func = partial(self.ring.again, offload=how == "offload")
            module.gradient_checkpointing = how != "none"

    def allow(self, yes: bool) -> None:
        """Whether the pass that follows may be computed again."""
        if self.how != "none":
            for module in self._asking():
                module.gradient_checkpointing = yes

    def _asking(self) -> list[nn.Module]:
        """The modules that ask how to be computed again: layers, and in older models the decoder for them."""
        return [m for m in self._decoder[0].modules() if hasattr(m, "gradient_checkpointing")]

    def _chunk(self, feed: int | None) -> None:
        lists = [m for m in self._decoder[0].modules() if isinstance(m, nn.ModuleList) and len(m) == self.layers]
        layers = list(lists[0]) if lists else []
        feeds = [part for layer in layers for n, part in layer.named_children() if n in _FEEDS]
        if feed is not None and len(feeds) < self.layers:
            raise RecipeError(f"chunk: the body '{self.name}' has no feed-forward layers that are known here; leave it out")
        for part in feeds:
            part.__dict__.pop("forward", None)
            if feed is not None:
                part._seqrl_feed = feed
                # A method, which copies of the module bind to themselves.
                part.forward = MethodType(_in_chunks, part)


def _in_chunks(self: nn.Module, x: Tensor) -> Tensor:
    return in_chunks(partial(type(self).forward, self), x, self._seqrl_feed)
