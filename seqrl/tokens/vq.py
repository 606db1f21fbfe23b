"""Pictures as the K codes of a trained encoder, so that a world model reads a frame as K tokens.

Nothing is fitted here: ``encoder`` names the run that was (``seqrl train vq_pong``). Its weights are kept with the tokenizer
from then on, in ``tokenizer.safetensors`` beside ``tokenizer.json``, so a bundle is whole and the run may go. A round trip is
as good as the encoder and no better: ``tolerance`` is the whole range of a byte. Every frame is seen by itself, and computed
on the CPU, a millisecond each.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqrl.core.config import Frozen
from seqrl.core.episode import Modality
from seqrl.core.errors import BundleError, DataError, RecipeError
from seqrl.tokens import patches
from seqrl.tokens._encoder import Encoder, make, read

_FRAMES = 128
"""Frames in one pass through the encoder; what convolutions need of memory grows with it."""


class Config(Frozen):
    """Settings of the vq codec."""

    kind: Literal["vq"] = "vq"
    encoder: str | None = None
    """Folder of a trained encoder: a run (runs/vq_pong), one of its checkpoints, or a bundle."""


class Codec:
    """``(N, H*W*C)`` uint8 pictures to ``(N, K)`` int64 codes, and back as well as the encoder can."""

    reads = ("image",)
    continuous = False
    bounded = False
    dtype = "int64"
    chunk = 1
    fits = False
    tolerance = 255.0

    def __init__(self, config: Config, modality: Modality) -> None:
        """Raises RecipeError where the value is no picture. The encoder is looked for when it is first needed."""
        self.config = config
        self._pictures = patches.Codec(patches.Config(size=None), modality)
        self._made: Encoder | None = None
        self._state: dict[str, Any] | None = None

    @property
    def _encoder(self) -> Encoder:
        if self._made is None:
            if self._state is not None:
                raise BundleError("codec vq: the encoder's weights are not there; they lie beside tokenizer.json")
            if self.config.encoder is None:
                raise RecipeError(
                    "codec vq: name the folder of a trained encoder (tokens.slots.image.encoder=runs/vq_pong); "
                    "to train one: seqrl train vq_pong --out runs/vq_pong"
                )
            self._take(read(self.config.encoder))
        return self._made

    def _take(self, encoder: Encoder) -> None:
        ours, theirs = tuple(self._pictures.image["shape"]), tuple(encoder.model.shape)
        if ours != theirs:
            said = " and ".join("x".join(map(str, s)) for s in (theirs, ours))
            raise RecipeError(
                f"codec vq: the encoder {self.config.encoder or ''} was trained on pictures of another shape "
                f"({said} here); train one on these"
            )
        self._made = encoder

    @property
    def tokens(self) -> int:
        return int(self._encoder.model.tokens)

    @property
    def width(self) -> int:
        return self.tokens

    @property
    def vocab(self) -> int:
        return int(self._encoder.model.vocab)

    @property
    def share(self) -> str:
        return f"vq-{self._encoder.digest[:12]}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """H, W, C of a picture as the encoder has it, channels last."""
        return tuple(self._pictures.image["shape"])

    def fit(self, values: np.ndarray) -> None:
        """Looks that there is an encoder for these pictures."""
        self._pictures.fit(values)
        _ = self._encoder

    def _in_blocks(self, run: Any, rows: np.ndarray) -> np.ndarray:
        """``run`` over ``rows (N, n)`` some at a time."""
        import torch

        # A copy of each block: columns of a store may not be written to, and PyTorch wants none that may not.
        blocks = (torch.tensor(rows[i : i + _FRAMES]) for i in range(0, max(len(rows), 1), _FRAMES))
        return np.concatenate([run(block).numpy() for block in blocks])

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Raises DataError on values of another dtype or size."""
        values = self._pictures.encode(values)
        codes = self._in_blocks(self._encoder.model.encode, values.reshape(-1, values.shape[-1]))
        return codes.reshape(*values.shape[:-1], self.width)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Raises DataError on codes that the encoder does not have."""
        codes = np.asarray(codes)
        if codes.shape[-1] != self.width:
            raise DataError(f"codec vq: a picture is {self.width} codes (got {codes.shape[-1]})")
        if codes.size and not 0 <= codes.min() <= codes.max() < self.vocab:
            raise DataError(f"codec vq: a code is 0 to {self.vocab - 1} (got {codes.min()} to {codes.max()})")
        rows = codes.reshape(-1, self.width).astype(np.int64)
        painted = self._in_blocks(self._encoder.model.decode, rows)
        return self._pictures.decode(painted.reshape(*codes.shape[:-1], self._pictures.width))

    def state(self) -> dict[str, Any]:
        found = self._encoder
        return {"kind": found.kind, "config": dict(found.config), "digest": found.digest}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The weights follow by ``load_tensors``; the folder that the settings name is not looked at any more."""
        self._state = {"kind": str(state["kind"]), "config": dict(state["config"]), "digest": str(state["digest"])}
        if self._made is not None and self._made.digest != self._state["digest"]:
            self._made = None

    def tensors(self) -> dict[str, np.ndarray]:
        """The encoder's weights, by name."""
        return dict(self._encoder.tensors)

    def load_tensors(self, tensors: Mapping[str, np.ndarray]) -> None:
        """The weights that belong to ``load_state``; raises BundleError where they are others."""
        state = self._state or {}
        found = make(state["kind"], state["config"], tensors)
        if found.digest != state["digest"]:
            raise BundleError("codec vq: these weights are not those that the tokenizer was saved with")
        self._take(found)


def tiny(folder: Path, modality: Modality) -> Config:
    """Settings with an untrained encoder for pictures of ``modality``, written into ``folder``; for the contract tests."""
    import torch
    from safetensors.torch import save_file

    from seqrl.core import kinds
    from seqrl.core.contracts import Ports

    module, kind = kinds.load("encoders.vqvae"), "encoders.vqvae"
    shape = list(patches.Codec(patches.Config(size=None), modality).image["shape"])
    torch.manual_seed(0)
    ports = Ports("image", {"image": modality.size}, {"image": 0}, {"image": False}, images={"image": {"shape": shape}})
    model = module.Model(module.Config.tiny(ports))
    model.quantizer.table.normal_(0, 0.01)
    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "recipe.yaml").write_text(f"model: {{kind: {kind}}}\n", encoding="utf-8")
    return Config(encoder=str(folder))
