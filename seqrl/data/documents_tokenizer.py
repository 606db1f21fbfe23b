"""The tokenizer of token documents: texts and frames as ids of one row of numbers, text first, and back.

It stands on a tokenizer of the ``tokenizers`` library and, where there are pictures, on any codec of the house that turns one
into K codes. Both travel whole in ``tokenizer.json`` (a trained encoder's weights beside it), so a bundle asks nobody for them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core import kinds
from seqrl.core.config import validate
from seqrl.core.documents import DocumentPorts
from seqrl.core.episode import Modality
from seqrl.core.errors import BundleError, DataError, RecipeError
from seqrl.data.slots import TokensConfig
from seqrl.data.tensors import below, write_tensors
from seqrl.tokens import _rows
from seqrl.tokens.text import load as load_text

VERSION = 2
_BOS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>", "[CLS]")
_EOS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]")
# What of tokens.documents does not say which ids there are, or is said elsewhere.
_DRAWN = ("swap", "weigh", "mode", "fields", "frames", "text")


class DocumentTokenizer:
    """Texts, frames and words of actions to ids and back.

    Attributes:
        length: L, tokens in a row.
        config: the recipe's ``tokens``; documents: its ``documents``.
        modality: that of a frame, where frames are pictures; otherwise None.
        codec: what turns it into codes, or None.
    """

    packed = True

    def __init__(self, config: TokensConfig, modality: Modality | None = None, text: str | None = None) -> None:
        """
        Args:
            config: with ``pack`` and ``documents``.
            modality: of the data's pictures; None where they have none, or hold codes already.
            text: JSON of the text tokenizer; None reads the one that the recipe names.

        Raises:
            RecipeError: there is no such text tokenizer, no word for a mark, or the codec does not fit the pictures.
        """
        if config.documents is None or config.pack is None:
            raise RecipeError("token documents: give tokens.documents and tokens.pack, the tokens in a row (such as 4096)")
        self.config, self.documents, self.length = config, config.documents, int(config.pack)
        self.modality = modality
        self._read_text(text)
        frames = dict(self.documents.frames or {})
        self.codec: Any = None
        if "kind" in frames:
            module = kinds.load(str(frames["kind"]), "tokens")
            settings = validate(module.Config, frames, {}, "tokens.documents.frames")
            self.modality = modality or self._shape_of(frames)
            if "image" not in getattr(module.Codec, "reads", ()):
                raise RecipeError(f"tokens.documents.frames: codec {frames['kind']} does not read pictures (vq and cells do)")
            self.codec = module.Codec(settings, self.modality)
            if self.codec.continuous:
                raise RecipeError(f"tokens.documents.frames: codec {frames['kind']} gives numbers, not codes; take vq or cells")
        elif frames:
            self._ready = (_whole(frames, "tokens"), _whole(frames, "vocab"))

    @staticmethod
    def _shape_of(frames: Mapping[str, Any]) -> Modality:
        """The pictures that a trained encoder was made for: data that hold its codes have none to look at."""
        if not frames.get("encoder"):
            raise RecipeError(
                "tokens.documents.frames: the data hold no pictures; of codes say {vocab: 8192, tokens: 256}, or name the "
                "encoder that made them: {kind: vq, encoder: runs/vq}"
            )
        from seqrl.tokens._encoder import read

        return Modality("image", tuple(read(str(frames["encoder"])).model.shape), "uint8")

    def _read_text(self, text: str | None) -> None:
        asked = self.documents.text
        made, self._json = load_text(asked.tokenizer) if text is None else _rows.read(text)
        if text is None:
            new = list(asked.new)
            for said, known in ((asked.bos, _BOS), (asked.eos, _EOS)):
                if said is None and not any(n in new or made.token_to_id(n) is not None for n in known):
                    new.append(known[0])
            if new:
                made.add_special_tokens(new)
                self._json = made.to_str()
        self._text, self._vocab = made, _rows.count(made)
        self.bos, self.eos = self._mark("bos", asked.bos, _BOS), self._mark("eos", asked.eos, _EOS)
        self.opens, self.closes = (tuple(self.text(t)) for t in self.documents.marks)

    def _mark(self, what: str, said: str | None, known: Sequence[str]) -> int:
        found = next((i for n in ((said,) if said else known) if (i := self._text.token_to_id(n)) is not None), None)
        if found is None:
            raise RecipeError(f"tokens.documents.text.{what}: '{said}' is no token of this tokenizer; add it by 'new'")
        return found

    # ---- what a model must know -------------------------------------------------------------------------------------

    @property
    def frame(self) -> int:
        """K, codes of a frame without its end; 0 where there are no videos."""
        return int(self.codec.tokens) if self.codec is not None else self._ready[0] if self.documents.frames else 0

    @property
    def colours(self) -> int:
        """Codes there are, without the ends of a frame and of a video."""
        return int(self.codec.vocab) if self.codec is not None else self._ready[1] if self.documents.frames else 0

    def ports(self) -> DocumentPorts:
        return DocumentPorts(self._vocab, self.colours + 2, self.frame, self.bos, self.eos, self.opens, self.closes)

    # ---- there and back ---------------------------------------------------------------------------------------------

    def text(self, text: str) -> list[int]:
        """The ids of a text, without marks around it; raises DataError where it is none."""
        return self.texts([text])[0]

    def texts(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of several texts, all at once."""
        texts = list(texts)
        check_text(*texts)
        with _rows.told("the text tokenizer fails at a text of these"):
            return [found.ids for found in self._text.encode_batch(texts, add_special_tokens=False)]

    def words(self, ids: Iterable[int]) -> str:
        """The text of ids; those of frames are left out."""
        return self._text.decode([int(i) for i in ids if 0 <= int(i) < self._vocab], skip_special_tokens=False)

    def codes(self, frames: np.ndarray) -> np.ndarray:
        """``[T, H, W, C]`` pictures of the data's shape to ``[T, K]`` int64 codes from 0 on; add ``ports().text`` for ids.

        Raises:
            RecipeError: the data hold codes, and no codec is known that made them.
            DataError: these are no such pictures.
        """
        codec = self._painter()
        frames = np.asarray(frames)
        if frames.shape[1:] != self.modality.shape:
            raise DataError(f"frames of shape {frames.shape[1:]}, where the data have {self.modality.shape}")
        return codec.encode(frames.reshape(len(frames), -1)).astype(np.int64)

    def pictures(self, codes: np.ndarray) -> np.ndarray:
        """``[T, K]`` codes to ``[T, H, W, C]`` pictures, as well as the codec can."""
        codes = np.asarray(codes, np.int64)
        if codes.size and not 0 <= codes.min() <= codes.max() < self.colours:
            raise DataError(f"a code of a frame is 0 to {self.colours - 1} (got {codes.min()} to {codes.max()})")
        return np.asarray(self._painter().decode(codes)).reshape(len(codes), *self.modality.shape).astype(self.modality.dtype)

    def _painter(self) -> Any:
        if self.codec is None:
            raise RecipeError("tokens.documents.frames names no codec, so codes are no pictures; say {kind: vq, encoder: ...}")
        return self.codec

    def fit(self, frames: np.ndarray | None) -> None:
        """Fits the codec on ``(N, H*W*C)`` pictures; without pictures it must need none."""
        if self.codec is not None and frames is not None:
            self.codec.fit(frames)

    # ---- on disk ----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "documents": {
                "config": self.config.model_dump(),
                "text": self._json,
                "modality": self.modality and self.modality.to_json(),
                "state": None if self.codec is None else self.codec.state(),
            },
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """``frames/name`` -> what the codec keeps in arrays."""
        kept = self.codec.tensors() if hasattr(self.codec, "tensors") else {}
        return {f"frames/{name}": array for name, array in kept.items()}

    @cached_property
    def digest(self) -> str:
        """Hex: tokenizers with the same one make the same ids of the same data."""
        made = {k: v for k, v in self.documents.model_dump().items() if k not in _DRAWN}
        state = None if self.codec is None else self.codec.state()
        frames = self.documents.frames if self.codec is None else self.documents.frames["kind"]
        told = [VERSION, made, self._json, self.bos, self.eos, frames, state]
        found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for name, array in sorted(self.tensors().items()):
            found.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")
        write_tensors(self.tensors(), folder / "tokenizer.json")

    @classmethod
    def from_json(
        cls, raw: Mapping[str, Any], source: str, trust: bool = False, tensors: Mapping[str, np.ndarray] | None = None
    ) -> "DocumentTokenizer":
        """Inverse of ``to_json`` and ``tensors``; raises BundleError where they are not whole, or not this house's."""
        try:
            if raw["version"] > VERSION:
                raise BundleError(f"{source}: written by a newer seqrl (format {raw['version']}); pip install -U seqrl")
            own = raw["documents"]
            config = TokensConfig(**own["config"])
            frames = config.documents.frames or {}
            if "kind" in frames and not trust and not kinds.is_own(str(frames["kind"]), "tokens"):
                said = f"asks for code of another package ({frames['kind']})"
                raise BundleError(f"{source}: {said}; load it with trust=True")
            made = cls(config, Modality.from_json(own["modality"]) if own["modality"] else None, own["text"])
            if made.codec is not None:
                made.codec.load_state(own["state"])
                if hasattr(made.codec, "load_tensors"):
                    made.codec.load_tensors(below("frames", tensors or {}))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, RecipeError, DataError) as e:
            raise BundleError(f"{source}: this is no seqrl tokenizer ({type(e).__name__}: {str(e)[:1000]})") from e
        return made


def check_text(*texts: Any) -> None:
    """Raises DataError on what is no text: half of a surrogate pair is a Python str and can be written in no encoding."""
    for text in texts:
        if not isinstance(text, str) or any("\ud800" <= c <= "\udfff" for c in text):
            raise DataError(f"{text!r} is no text")


def _whole(frames: Mapping[str, Any], name: str) -> int:
    value = frames.get(name)
    if type(value) is not int or value < 1 or set(frames) != {"vocab", "tokens"}:
        raise RecipeError(
            f"tokens.documents.frames: a codec by its kind, or {{vocab: 8192, tokens: 256}} of codes (got {dict(frames)})"
        )
    return value
