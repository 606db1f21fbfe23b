"""A decoder of transformers as a body, with the calls of our own trunk: whole rows, packed rows, a ragged cache.

What a language model has learned is worth having under a policy (RT-2, Gato's ablations), and most of them come as classes
of transformers. This puts one behind the face of ``nn.transformer.Transformer``: it is fed vectors, masks and positions, and
its keys and values are kept in our static cache (nn/kv.py), so that rows stand where they like, go back, and are packed. Its
own embedding of words and its output matrix stay reachable for whoever works with words.

Letters: B rows, L tokens, R tokens read, D width, N layers, G heads of keys and values, d numbers in a head, V vocabulary.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

from seqrl.core.errors import RecipeError
from seqrl.nn.admit import VERIFIED, check_config, check_decoder, check_ring, prove, read_config, say
from seqrl.nn.attention import Cut, Read, places_in, see_cache, see_packed, take
from seqrl.nn.kv import KVCache, Memory, length_after, make_cache, run_of
from seqrl.nn.lora import add_lora
from seqrl.nn.recompute import How
from seqrl.nn.ringed import Ring, check_cut, prove_ring, put_ring
from seqrl.nn.sparing import Sparing
from seqrl.nn.stretch import check_learned, check_stretch, rotary_of, stretch_rotary

__all__ = ["Pretrained", "add_lora"]


class _Feed(Cache):
    """What a decoder takes for its cache during one pass: keys and values go to ours, and what may be seen comes back."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(layers=[])
        self.memory = memory

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """``[B, G, L, d]`` of a layer, stored; all there is to see, ``[B, G, S, d]``, answered."""
        kv = torch.stack((key_states, value_states), 2).transpose(1, 3)
        return self.memory.write(layer_idx, kv).transpose(1, 3).unbind(2)

    # What comes before the new tokens is told by masks and positions; asked without a mask (rows from their beginning),
    # the new tokens are all there is.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


class Pretrained(nn.Module):
    """A decoder with random weights, or with its own (``load``).

    Args:
        config: of a model of transformers, or what its ``to_dict`` gave.

    Raises:
        RecipeError: a model that cannot be a body (see nn/admit.py).
    """

    def __init__(self, config: Mapping[str, Any] | PreTrainedConfig, _model: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.config = config = read_config(config)
        self._window = check_config(config)
        kind = config.model_type
        if _model is None:
            try:
                _model = _fused(AutoModelForCausalLM.from_config, config, dtype=torch.get_default_dtype())
            # Whatever another's constructor raises of a config, the config was at fault.
            except Exception as error:
                raise RecipeError(f"body: no '{kind}' can be built of its config ({say(error)})") from error
        model, out = _model, _model.get_output_embeddings()
        self.decoder = model.get_decoder()
        check_decoder(kind, self.decoder, out)
        # On the meta device nothing is tied yet, but the config tells what will be.
        tied = out.weight is self.embedding.weight or (config.tie_word_embeddings and model._tied_weights_keys)
        self.head = None if tied else out
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._shape = (config.num_hidden_layers, heads, head_dim)
        self._ring, self._ringed = Ring(kind), False
        self._sparing = Sparing(kind, self.decoder, config.num_hidden_layers, self._ring)
        # On the meta device there are no numbers to test; a model is there only on its way to be loaded.
        if kind not in VERIFIED and self.embedding.weight.device.type != "meta":
            training = model.training
            prove(self, model.eval())
            model.train(training)

    @classmethod
    def load(cls, name: str | Path, dtype: torch.dtype = torch.float32) -> "Pretrained":
        """A decoder with its weights, in evaluation mode.

        Args:
            name: a folder with ``config.json`` and weights as safetensors, or the id of such a repository on the Hub.
            dtype: of the weights here.

        Raises:
            RecipeError: there is nothing that can be loaded safely, or it cannot be a body.
        """
        try:
            config = read_config(AutoConfig.from_pretrained(name, trust_remote_code=False))
            check_config(config)
            model = _fused(AutoModelForCausalLM.from_pretrained, name, config=config, dtype=dtype, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"body: no decoder could be loaded from '{name}'; give a folder with config.json and weights as safetensors, "
                f"or the id of such a repository on the Hub ({say(error)})"
            ) from error
        return cls(config, model).eval()

    @property
    def embedding(self) -> nn.Module:
        """Codes of words to ``[..., D]``, with whatever scaling the model has: part of the decoder."""
        return self.decoder.get_input_embeddings()

    @property
    def head_weight(self) -> Tensor:
        """``[V, D]``, the output matrix: the embedding's where the two are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def logits(self, y: Tensor) -> Tensor:
        """``[..., D]`` that ``forward`` answered to ``[..., V]``, the model's own scores of the next word."""
        return F.linear(y, self.head_weight, None if self.head is None else self.head.bias)

    @property
    def width(self) -> int:
        """D, of the vectors fed and answered."""
        return self.embedding.embedding_dim

    def check_context(self, tokens: int) -> None:
        """Raises RecipeError where a row (or a document of a packed row) of ``tokens`` tokens is too long for the model."""
        name = f"body: '{self.config.model_type}'"
        if self.max_positions is not None and tokens > self.max_positions:
            raise RecipeError(
                f"{name} has positions for {self.max_positions} tokens, and the context has {tokens}; "
                "shorten the context, or take a body with more positions"
            )
        if self._window is not None and tokens > self._window:
            raise RecipeError(
                f"{name} has layers that look back {self._window} tokens only (a sliding window), and the context has {tokens}"
                "; shorten the context, or take a body without a window"
            )

    def _run(self, x: Tensor, pos: Tensor, mask: Tensor | None, memory: Memory | None = None, cut: Cut | None = None) -> Tensor:
        # What is written to a cache must not be written again.
        self._sparing.allow(memory is None)
        with self._ring.inside(cut):
            return self.decoder(
                inputs_embeds=x.to(self.embedding.weight.dtype),
                # Numbers to be added, for not every attention of transformers takes bools.
                attention_mask=mask,
                position_ids=pos.clamp(min=0),
                past_key_values=None if memory is None else _Feed(memory),
                use_cache=memory is not None,
            ).last_hidden_state

    def forward(
        self,
        x: Tensor,
        read: Read = None,
        pack: Tensor | None = None,
        pos: Tensor | None = None,
        cut: Cut | None = None,
    ) -> Tensor:
        """Whole rows from their beginning, or this process's piece of them, as ``Transformer.forward``.

        Raises:
            ValueError: ``pos`` without ``pack``; with a cut, no ``pos``, or something to ``read``.
            RecipeError: rows (or, on CPU, packed documents) longer than the model can take, or a cut that it cannot honour.
        """
        if cut is not None:
            pos = check_cut(x, read, pos, cut)
            self.prepare_ring()
            if pos.device.type == "cpu":
                self.check_context(int(pos.max()) + 1)
            return self._run(x, pos, None, cut=cut)
        if pack is None:
            if pos is not None:
                raise ValueError("positions within documents (pos) need the documents (pack)")
            self.check_context(x.shape[1])
            return take(self._run(x, torch.arange(x.shape[1], device=x.device)[None], None), read)
        pos = (places_in(pack) if pos is None else pos).where(pack >= 0, 0)
        if pos.device.type == "cpu":
            self.check_context(int(pos.max()) + 1)
        mask = see_packed(pack, pos, None, 0, self.embedding.weight.dtype).mask
        return take(self._run(x, pos, mask), read)

    def init_cache(self, rows: int, tokens: int) -> KVCache:
        """An empty cache for ``extend``, with room for ``tokens`` in each of ``rows`` rows.

        Raises:
            RecipeError: more tokens than the model can take.
        """
        self.check_context(tokens)
        layers, heads, head_dim = self._shape
        return make_cache(rows, layers, tokens, heads, head_dim, self.embedding.weight)

    def extend(
        self, x: Tensor, cache: KVCache, start: Tensor | None = None, read: Read = None, places: Tensor | None = None
    ) -> Tensor:
        """Goes on from what the cache holds, as ``Transformer.extend``; changes the cache."""
        places, after = run_of(x.shape[1], cache, start) if places is None else (places, length_after(places, cache))
        kv = cache.kv[:, :, : cache.slots_for(places)]
        sight = see_cache(places, kv.shape[2], None, 0)
        mask = kv.new_zeros(()).where(sight.mask, -torch.inf)
        memory = Memory(kv, torch.arange(len(x), device=x.device)[:, None], sight.places, fresh=False)
        y = self._run(x, places, mask, memory)
        cache.length.copy_(after)
        return take(y, read)

    def fill(self, x: Tensor, cache: KVCache, rows: Tensor, length: Tensor) -> None:
        """Replaces what the cache holds of ``rows``, as ``Transformer.fill``."""
        places = torch.arange(x.shape[1], device=x.device)[None]
        self._run(x, places, None, Memory(cache.kv, rows[:, None], places + 1, fresh=True))
        cache.length[rows] = length

    def prepare_ring(self) -> None:
        """Puts ring attention where the model's own was; without a cut, that is the same function as before.

        Raises:
            RecipeError: the model has something that a ring cannot honour, by name.
        """
        if not self._ringed:
            check_ring(self.config, self.decoder, self._window)
            put_ring(self.decoder, self._ring)
            self._ringed = True

    def prove_ring(self, ranks: int, cut_of: Callable[[Tensor], Cut]) -> None:
        """Holds ring attention against the model's own on a short row, as ``nn.ringed.prove_ring``."""
        prove_ring(self, self.config.model_type, self.width, self._shape[0], self.max_positions, ranks, cut_of)

    def recompute(self, how: How = "none", feed: int | None = None) -> None:
        """What the backward pass computes again, as ``Transformer.recompute``; RecipeError where the model has no way to."""
        self._sparing.set(how, feed)

    def stretch(self, length: int | None, rope_base: float | None = None) -> None:
        """Room for documents of ``length`` tokens, and another base of the rotary angles, as ``Transformer.stretch``.

        Raises:
            RecipeError: learned positions, which cannot grow, or numbers that make no sense.
        """
        check_stretch(length, rope_base)
        rotary = rotary_of(self.decoder)
        if not rotary:
            check_learned(self.config.model_type, self.max_positions or 0, length, rope_base)
            return
        stretch_rotary(rotary, [self.config, self.decoder.config], length, rope_base)
        self.max_positions = length or self.max_positions


def _fused(make: Any, *args: Any, **settings: Any) -> PreTrainedModel:
    """A model with PyTorch's own attention, or with the plain one where its class has no other."""
    try:
        return make(*args, **settings, attn_implementation="sdpa", trust_remote_code=False)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return make(*args, **settings, attn_implementation="eager", trust_remote_code=False)
