"""Behaviour cloning: the action as a function of the last few states (Pomerleau 1989). The yardstick every paper needs.

A multilayer perceptron on what stands in front of the action in the last ``history`` steps. With the layout ``state action``
or ``state > action`` it knows no return: %BC, which learns from the best episodes only (Chen et al. 2021, section 5.1), is
this model on data chosen with ``top``. Steps before the window's beginning count as absent, at training as at play.

Letters: B rows, T environment steps, M steps of history, D hidden units, A numbers (or codes) of an action.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core.contracts import Losses, Ports
from seqrl.core.errors import RecipeError
from seqrl.core.layout import Layout
from seqrl.core.settings import check_ranges, config_for, ports_of
from seqrl.core.stream import StreamBatch
from seqrl.nn.blocks import ACTIVATIONS
from seqrl.nn.dropout import dropout
from seqrl.nn.embed import SlotEmbedding
from seqrl.nn.heads import make_head
from seqrl.nn.init import init_weights
from seqrl.nn.linear import Linear
from seqrl.policies._ports import check_losses


class CloneConfig(PreTrainedConfig):
    """Settings of behaviour cloning."""

    model_type = "seqrl_clone"

    ports: dict | None = None
    """What the data look like (core.contracts.Ports as plain JSON)."""
    context_length: int = 20
    """Environment steps in a window."""
    history: int = 1
    """Steps looked at, the present one included."""
    widths: list | tuple = (256, 256)
    """Hidden units of each layer."""
    activation: Literal["relu", "gelu", "gelu_new", "silu"] = "relu"
    """Activation of the hidden layers."""
    dropout: float = 0.0
    """On hidden units."""
    head: Literal["tanh_mse", "gaussian"] = "tanh_mse"
    """How continuous actions are learned; actions made of codes always take cross-entropy."""
    squash: Literal["tanh", "clip"] = "tanh"
    """How a Gaussian head keeps to bounds; clip suits data with many actions exactly on them."""
    entropy: float = 0.0
    """Weight of the entropy bonus of a Gaussian head."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.widths = list(self.widths)
        super().__post_init__(**kwargs)

    @classmethod
    def for_ports(cls, ports: Ports, context: int, **settings: Any) -> "CloneConfig":
        """The config for some data; raises RecipeError on an unknown setting or one that does not fit the layout."""
        config = config_for(cls, ports, context, settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Ports) -> "CloneConfig":
        """The smallest sensible one, for tests."""
        return cls.for_ports(ports, 4, history=2, widths=[16])

    def plan(self) -> tuple[Ports, Layout, list[str]]:
        """Ports, layout and the slots looked at; raises RecipeError where settings and layout clash."""
        ports, layout = ports_of(self)
        check_losses(["action"], layout)
        seen = [slot.name for slot in layout.step if slot.name != "action"]
        at_end = layout.reader("action") >= len(seen) - 1
        if not seen or not at_end:
            raise RecipeError(
                f"layout '{layout}': cloning reads the action behind what it is a function of, as in 'state > action'"
            )
        check_ranges(self, {"dropout": (0, 1), "entropy": (0, None)})
        if not self.widths or min(self.widths) < 1:
            raise RecipeError(f"model.widths: at least one hidden layer of at least one unit (got {self.widths})")
        if not 1 <= self.history <= self.context_length:
            raise RecipeError(f"model.history: from 1 to the context's {self.context_length} steps (got {self.history})")
        return ports, layout, seen


class HistoryCache(NamedTuple):
    """What is remembered of B environments; a pytree whose leaves are batch first.

    Args:
        past: ``[B, M - 1, M * D]`` the last steps' contributions to hidden units, zero where there was none.
        steps: ``[B]`` int64, steps seen.
    """

    past: Tensor
    steps: Tensor

    # No annotation: a fact about every such cache, not a part of it. The agent need never make it forget.
    fills = False

    @property
    def length(self) -> Tensor:
        """``[B]`` tokens held; a step counts as one."""
        return self.steps

    def reset(self, rows: Tensor) -> None:
        """Forgets ``rows`` (indices or a bool mask), in place."""
        self.past[rows] = 0
        self.steps[rows] = 0

    def index(self, rows: Tensor) -> "HistoryCache":
        """A new cache of the chosen rows, which may repeat."""
        return HistoryCache(self.past[rows], self.steps[rows])


class Clone(PreTrainedModel):
    """``forward`` for training, ``act`` for playing."""

    config_class = CloneConfig
    base_model_prefix = "layers"
    main_input_name = "batch"

    def __init__(self, config: CloneConfig) -> None:
        super().__init__(config)
        ports, _, self.seen = config.plan()
        self.losses = ("action",)
        # A matrix for each step of the history is one matrix for all of it, and lets a cache keep what was multiplied.
        self.embed = SlotEmbedding(ports, self.seen, config.history * config.widths[0])
        self.layers = nn.ModuleList(Linear(a, b) for a, b in zip(config.widths[:-1], config.widths[1:], strict=True))
        own = {"kind": config.head, "squash": config.squash, "entropy": config.entropy}
        self.heads = nn.ModuleDict({"action": make_head(ports, "action", config.widths[-1], **own)})
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Without norms between the layers, the deviation must follow their width to keep signals alive (LeCun et al. 1998).
        init_weights(module, getattr(module, "in_features", 1) ** -0.5)

    def _parts(self, batch: StreamBatch) -> Tensor:
        """``[B, T, M * D]``: what each step gives to itself and to each of the M - 1 steps after it."""
        return torch.stack(self.embed(batch.values, self.seen)).sum(0)

    def _hidden(self, parts: Tensor, steps: int) -> Tensor:
        """The last hidden layer ``[B, steps, D]`` of the last ``steps`` of ``parts [B, T, M * D]``, absent steps zero."""
        M, T = self.config.history, parts.shape[1]
        each = nn.functional.pad(parts, (0, 0, max(M - 1 + steps - T, 0), 0)).unflatten(-1, (M, -1))
        end = each.shape[1]
        x = sum(each[:, end - steps - ago : end - ago, ago] for ago in range(M))
        act, drop = ACTIVATIONS[self.config.activation], self.config.dropout if self.training else 0.0
        x = dropout(act(x), drop)
        for layer in self.layers:
            x = dropout(act(layer(x)), drop)
        return x

    def forward(self, batch: StreamBatch) -> Losses:
        """The term ``action``, ``[B, T, A]`` (or ``[B, T, 1]``), over real steps only."""
        x = self._hidden(self._parts(batch), batch.time.shape[1])
        value = self.heads["action"].loss(x, batch.wanted("action"))
        return Losses({"action": (value, batch.mask[..., None].expand_as(value))})

    def counts(self, batch: StreamBatch) -> dict[str, Tensor]:
        """How many elements the term counts in ``batch``, a scalar, without computing it."""
        return {"action": batch.mask.sum() * self.heads["action"].terms}

    def init_cache(self, rows: int, steps: int) -> HistoryCache:
        """An empty cache for ``rows`` environments; ``steps`` does not matter, for it never fills."""
        M, weight = self.config.history, self.heads["action"].out.weight
        past = weight.new_zeros(rows, M - 1, M * self.config.widths[0])
        return HistoryCache(past, torch.zeros(rows, dtype=torch.int64, device=weight.device))

    def _last(self, batch: StreamBatch) -> Tensor:
        """The parts of the last M real steps of each row, ``[B, M, M * D]``, zero where there are fewer."""
        ago = torch.arange(self.config.history - 1, -1, -1, device=batch.length.device)
        at = batch.length[:, None] - 1 - ago
        rows = torch.arange(len(at), device=at.device)[:, None]
        return self._parts(batch)[rows, at.clamp(min=0)] * (at >= 0)[..., None]

    @torch.inference_mode()
    def act(
        self,
        batch: StreamBatch,
        cache: HistoryCache | None = None,
        sample: bool = False,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """The action of the last real step of each row; arguments and answer as in ``policies.decision``."""
        if cache is None:
            parts = self._last(batch)
        else:
            parts = torch.cat((cache.past, self._parts(batch)), 1)
            cache.past.copy_(parts[:, 1:])
            cache.steps.add_(1)
        x = self._hidden(parts, 1)[:, 0]
        return {"action": self.heads["action"].answer(x, sample, uniform, temperature)}

    @torch.inference_mode()
    def refill(self, batch: StreamBatch, cache: HistoryCache, rows: Tensor) -> None:
        """Forgets what the cache holds of ``rows`` and reads the steps of ``batch [R, T, ...]`` instead."""
        cache.past[rows] = self._last(batch)[:, 1:]
        cache.steps[rows] = batch.length


Model = Clone
Config = CloneConfig
