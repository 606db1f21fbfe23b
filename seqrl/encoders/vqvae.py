"""A picture as K tokens: an encoder, a quantizer and a decoder, trained to give the picture back.

van den Oord et al. 2017 (arXiv 1711.00937) with codes that are running means, or finite scalar quantization (Mentzer et al.
2023, arXiv 2309.15505); convolutions over each frame, or Genie's space-time transformer (Bruce et al. 2024, arXiv 2402.15391).
It reads windows of a layout with a slot ``image`` (codec ``patches``), alone: what else the step holds is not looked at. A
world model then reads frames as tokens through the codec ``vq``. Small things that move, such as a ball of three pixels, are
nothing to a mean over all pixels: ``motion`` makes what changes from frame to frame count for more.

Letters: B rows, T frames, H, W, C of a frame, K tokens of a frame, d numbers in a code, V codes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core.contracts import Losses, Ports
from seqrl.core.errors import RecipeError
from seqrl.core.settings import check_ranges, config_for
from seqrl.core.stream import StreamBatch
from seqrl.encoders._trunks import TRUNKS
from seqrl.nn.init import init_weights
from seqrl.nn.linear import Linear
from seqrl.nn.quantize import FSQ, VQ

LOSSES = ("reconstruction", "commitment")
_STILL = 8
"""Bytes by which a pixel may differ from the frame before and still count as unchanged: noise, not motion."""


class VQVAEConfig(PreTrainedConfig):
    """Settings of a learned image tokenizer."""

    model_type = "seqrl_vqvae"

    ports: dict | None = None
    """What the data look like (core.contracts.Ports as plain JSON)."""
    context_length: int = 1
    """Frames in a window."""
    losses: list | None = None
    """Names of the losses; those of the quantizer where null. The weight of ``commitment`` is the paper's beta."""
    quantizer: Literal["vq", "fsq"] = "vq"
    """Learned codes, each the running mean of what chose it; or numbers rounded to a few levels."""
    codes: int = 512
    """V of vq."""
    code_width: int = 16
    """Numbers in a code of vq (fsq has one a level)."""
    levels: list | tuple = (8, 8, 8)
    """Levels of each number of fsq; their product is V."""
    decay: float = 0.99
    """Of the running means that are the codes of vq."""
    revive: float = 0.01
    """A code of vq that is chosen less than this share of an even one begins anew on a badly served vector; 0: never."""
    cosine: bool = False
    """Compare vectors and codes of vq by direction alone."""
    trunk: Literal["conv", "st_vit"] = "conv"
    """Convolutions over each frame, or a transformer over patches that also looks back in time."""
    field: Literal["wide", "own"] = "wide"
    """What a token of conv sees: its own pixels and some around them, or its own alone. With own a token changes only where
    the picture does, which is what a world model wants of it: it need not foretell codes that flicker beside what moves."""
    grid: int | list = 4
    """Tokens down and across, one number or ``[down, across]``; K is their product, and the frame's sides are multiples."""
    width: int = 128
    """Channels at the grid."""
    layers: int = 2
    """Residual blocks at the grid (conv), or blocks of the transformer (st_vit); the decoder has as many."""
    heads: int = 4
    """Attention heads of st_vit."""
    error: Literal["l2", "l1", "l1+l2"] = "l2"
    """How far a pixel is from what it should be, in units of the whole range (0 to 1)."""
    motion: float = 0.0
    """How much more a pixel counts that differs from the frame before or after it."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.levels = list(self.levels)
        super().__post_init__(**kwargs)

    @classmethod
    def for_ports(cls, ports: Ports, context: int, **settings: Any) -> "VQVAEConfig":
        """The config for some data; raises RecipeError on an unknown setting or one that does not fit."""
        config = config_for(cls, ports, context, settings)
        config.plan()
        return config

    @classmethod
    def tiny(cls, ports: Ports) -> "VQVAEConfig":
        """The smallest sensible one, for tests."""
        return cls.for_ports(ports, 3, codes=8, code_width=4, grid=2, width=16, layers=1, heads=2)

    def plan(self) -> tuple[tuple[int, int, int], tuple[int, int], tuple[str, ...]]:
        """The frame's shape (H, W, C), the grid, and the losses; raises RecipeError where settings and data clash."""
        image: Mapping[str, Any] = ((self.ports or {}).get("images") or {}).get("image") or {}
        if "shape" not in image:
            held = f"the layout is '{self.ports['layout']}'" if self.ports else "the config was made without ports"
            raise RecipeError(
                f"an image tokenizer reads a slot 'image' of pictures (codec patches), and {held}; take tokens.layout=image"
            )
        grid = self.grid if isinstance(self.grid, list | tuple) else [self.grid] * 2
        if len(grid) != 2 or not all(isinstance(g, int) and not isinstance(g, bool) and g > 0 for g in grid):
            raise RecipeError(f"model.grid: tokens down and across, such as 4 or [4, 6] (got {self.grid!r})")
        least = {"codes": (2, None), "code_width": (1, None), "width": (1, None), "layers": (0, None), "heads": (1, None)}
        check_ranges(self, {**least, "decay": (0, 1), "revive": (0, 1), "motion": (0, None)})
        if self.field == "own" and self.trunk != "conv":
            raise RecipeError("model.field: own is for the conv trunk; places of st_vit see each other; leave it out")
        if not self.levels or not all(isinstance(n, int) and n >= 3 for n in self.levels):
            raise RecipeError(f"model.levels: whole numbers of at least 3, such as [8, 8, 8] (got {self.levels!r})")
        if self.motion and self.context_length < 2:
            raise RecipeError("model.motion compares a frame with those beside it; raise tokens.context to 2 or more")
        answers = LOSSES if self.quantizer == "vq" else LOSSES[:1]
        if self.losses is not None and sorted(self.losses) != sorted(answers):
            raise RecipeError(
                f"train.losses: quantizer '{self.quantizer}' answers {' and '.join(answers)} (got {', '.join(self.losses)})"
            )
        return tuple(image["shape"]), tuple(grid), answers


class VQVAE(PreTrainedModel):
    """``forward`` for training; ``encode`` and ``decode`` between frames of bytes and codes.

    Attributes:
        shape: H, W, C of a frame. tokens: K. vocab: V.
    """

    config_class = VQVAEConfig
    main_input_name = "batch"

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__(config)
        self.shape, grid, self.losses = config.plan()
        self.tokens = grid[0] * grid[1]
        self.trunk = TRUNKS[config.trunk](self.shape, grid, config.width, config.layers, config.heads, config.field)
        if config.quantizer == "vq":
            self.quantizer: VQ | FSQ = VQ(config.codes, config.code_width, config.decay, config.revive, config.cosine)
        else:
            self.quantizer = FSQ(config.levels)
        self.vocab = self.quantizer.vocab
        self.into, self.out = Linear(config.width, self.quantizer.width), Linear(self.quantizer.width, config.width)
        # What most frames show; codes need then say only what is otherwise.
        self.canvas = nn.Parameter(torch.full((self.shape[0] * self.shape[1] * self.shape[2],), 0.5))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Nothing normalises between trunk and codes: the deviation must keep signals of any width alive.
        init_weights(module, module.in_features**-0.5 if module in (self.into, self.out) else 0.02)

    def _read(self, x: Tensor) -> Tensor:
        """Frames ``[B, T, H*W*C]`` of 0 to 1 to vectors ``[B, T, K, d]``, not yet rounded."""
        return self.into(self.trunk.encode((x * 2 - 1).unflatten(-1, self.shape)))

    def _paint(self, vectors: Tensor) -> Tensor:
        """``[B, T, K, d]`` to frames ``[B, T, H*W*C]``, 0 to 1 but for what a linear layer may overshoot."""
        return self.trunk.decode(self.out(vectors)).flatten(2) / 2 + self.canvas

    def _weights(self, batch: StreamBatch) -> Tensor:
        """``[B, T, H*W*C]``, how much each pixel counts: 0 in padding, 1, and ``1 + motion`` where something moves."""
        real = batch.mask[..., None].float()
        frames = batch.values["image"]
        if not self.config.motion:
            return real.expand(frames.shape)
        # Padding repeats other frames of the store: what differs between them and the last real one is no motion.
        moved = (frames[:, 1:].short() - frames[:, :-1].short()).abs().gt(_STILL) & batch.mask[:, 1:, None]
        near = torch.zeros(frames.shape, dtype=torch.bool, device=frames.device)
        near[:, 1:] |= moved
        near[:, :-1] |= moved
        return real * (1 + self.config.motion * near)

    def forward(self, batch: StreamBatch) -> Losses:
        """``reconstruction [B, T, H*W*C]`` and, with vq, ``commitment [B, T, K]``; in training the codes of vq move."""
        x = batch.values["image"].float() / 255
        real = batch.mask[..., None].expand(*x.shape[:2], self.tokens)
        found = self.quantizer(self._read(x), real)
        off = self._paint(found.vectors).float() - x
        kind = self.config.error
        error = off.abs() if kind == "l1" else off.square() if kind == "l2" else off.abs() + off.square()
        terms = {"reconstruction": (error, self._weights(batch))}
        if found.commitment is not None:
            terms["commitment"] = (found.commitment, real)
        return Losses(terms)

    def counts(self, batch: StreamBatch) -> dict[str, Tensor]:
        """What each term counts in ``batch``, a scalar, without computing it."""
        counts = {"reconstruction": self._weights(batch).sum(), "commitment": batch.mask.sum() * self.tokens}
        return {name: counts[name] for name in self.losses}

    @torch.inference_mode()
    def encode(self, images: Tensor, video: bool = False) -> Tensor:
        """Frames to their codes.

        Args:
            images: ``[..., H*W*C]`` uint8, channels last.
            video: whether the axis in front of the pixels is time. Otherwise every frame is seen by itself, which is what a
                codec does, and the same to a trunk that does not look back.

        Returns:
            ``[..., K]`` int64.
        """
        x = images.reshape(-1, images.shape[-2] if video else 1, images.shape[-1]).float() / 255
        return self.quantizer.nearest(self._read(x)).reshape(*images.shape[:-1], self.tokens)

    @torch.inference_mode()
    def decode(self, codes: Tensor, video: bool = False) -> Tensor:
        """Codes ``[..., K]`` to frames ``[..., H*W*C]`` uint8; ``video`` as in ``encode``."""
        rows = codes.reshape(-1, codes.shape[-2] if video else 1, self.tokens)
        painted = self._paint(self.quantizer.lookup(rows)).float()
        return (painted.clamp(0, 1) * 255).round().to(torch.uint8).reshape(*codes.shape[:-1], len(self.canvas))


Model = VQVAE
Config = VQVAEConfig
