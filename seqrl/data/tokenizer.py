"""The tokenizer: every slot's fitted codec, and all that stands between the world and a model.

Training encodes whole columns of a store with it, the agent encodes what it sees and decodes what the model answers, and it
is saved beside the weights as ``tokenizer.json`` with every bit of its statistics. What a codec keeps in arrays (a trained
encoder's weights) lies beside that in ``tokenizer.safetensors``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core import kinds
from seqrl.core.contracts import Codec, Ports
from seqrl.core.episode import Episode, EpisodeSpec
from seqrl.core.errors import BundleError, DataError, RecipeError
from seqrl.core.layout import Layout
from seqrl.core.stream import Stream
from seqrl.data.slots import WINDOW, SlotCodec, TokensConfig, build_slots
from seqrl.data.tensors import ENDS, below, write_tensors

VERSION = 2


def take_fields(
    slot: SlotCodec, columns: Mapping[str, np.ndarray], rows: np.ndarray, last: np.ndarray
) -> dict[str, np.ndarray]:
    """What a slot is made of at some rows, ``field -> (N, *shape)``, or ``(N, chunk, *shape)`` where a value spans steps.

    Args:
        rows: ``(N,)`` rows of the columns.
        last: ``(N,)`` the last row with an action in each one's episode; a chunk that reaches past it repeats it.
    """
    if slot.codec.chunk > 1:
        rows = np.minimum(rows[:, None] + np.arange(slot.codec.chunk), last[:, None])
    # Where nothing need be checked, as all rows exist, taking costs an eighth of indexing.
    return {f: columns[f].take(rows, axis=0, mode="clip") for f in slot.fields}


class Tokenizer:
    """Turns episodes, observations and answers into the values of a layout's slots and back."""

    def __init__(self, config: TokensConfig, spec: EpisodeSpec) -> None:
        """Raises RecipeError where the recipe's slots do not fit the data."""
        self.config, self.spec = config, spec
        self.slots = build_slots(config, spec)
        for slot in Layout.parse(config.layout).prefix if self.packed else ():
            made = self.slots[slot.name]
            if hasattr(made.codec, "lengths") and made.modality.kind != "text":
                raise RecipeError(
                    f"tokens.slots.{slot.name}: values of codec {made.config.kind} differ in length, and in front of '|' only "
                    "those of texts may; move the slot into the step"
                )
        self.returns: dict[str, float] = {}
        self.discount, self.delayed, self.termination_penalty = 1.0, False, 0.0

    # ---- what a model must know -------------------------------------------------------------------------------------

    @property
    def packed(self) -> bool:
        """Whether every code is a token of its own, in packed rows; otherwise a slot of a step is one token of a window."""
        return self.config.pack is not None

    @property
    def layout(self) -> Layout:
        """With the tokens each slot takes; of texts these are only known once fitted."""
        widths = {n: s.codec.tokens for n, s in self.slots.items()} if self.packed else {}
        return Layout.parse(self.config.layout, widths)

    @property
    def context(self) -> int:
        """Environment steps a model sees at most; raises RecipeError where not even one fits into a packed row."""
        if not self.packed:
            return self.config.context or WINDOW
        layout, L = self.layout, self.config.pack
        room = (L - layout.prefix_width) // layout.step_width
        if room < 1:
            need = layout.length(1)
            raise RecipeError(
                f"tokens.pack={L}: a row holds not one step of {self.spec.id}, which takes {need} tokens ({self.spell()}); "
                f"raise it to {need} or more, or give slots fewer tokens"
            )
        if self.config.context and self.config.context > room:
            need = layout.length(self.config.context)
            raise RecipeError(
                f"tokens.context={self.config.context}: {self.spec.id} takes {need} tokens for so many steps, and a row has "
                f"{L}; lower it to {room}, or raise tokens.pack to {need}"
            )
        return self.config.context or room

    @property
    def chunk(self) -> int:
        """Steps that an action spans: 1 unless its codec makes chunks."""
        return self.slots["action"].codec.chunk if "action" in self.slots else 1

    def spell(self) -> str:
        """The tokens each slot takes, in words."""
        return ", ".join(f"{s.name} {s.width}" for s in self.layout.slots)

    def ports(self) -> Ports:
        codecs = {n: s.codec for n, s in self.slots.items()}
        return Ports(
            layout=str(self.layout),
            widths={n: c.width for n, c in codecs.items()},
            vocabs={n: c.vocab for n, c in codecs.items()},
            bounded={n: bool(getattr(c, "bounded", False)) for n, c in codecs.items()},
            tokens={n: c.tokens for n, c in codecs.items()},
            shares={n: c.share for n, c in codecs.items()},
            images={n: self._image(c.image) for n, c in codecs.items() if hasattr(c, "image")},
            levels={n: self._levels(c) for n, c in codecs.items() if self._has_levels(n, c)},
            discount=self.discount,
            context=self.context,
        )

    @staticmethod
    def _has_levels(slot: str, codec: Codec) -> bool:
        return codec.width == 1 and (slot == "reward" or (slot == "return" and codec.vocab > 0))

    @staticmethod
    def _levels(codec: Codec) -> list[float]:
        """What each code of a codec of single numbers means; of one without codes, what 0 and 1 mean."""
        return np.asarray(codec.decode(np.arange(codec.vocab or 2)[:, None]), np.float64)[:, 0].tolist()

    def _image(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """What a model must know of pictures; names of categories as codes of the text slot, -1 where there is no such word."""
        known = {k: v for k, v in image.items() if k != "names"}
        if "names" not in image:
            return known
        text = next((n for n, s in self.slots.items() if s.modality.kind == "text"), None)
        if text is None:
            raise RecipeError("codec patches: 'names' are words of the domain's text, and the layout has no slot of texts")
        codec = self.slots[text].codec

        def code(name: str | None) -> int:
            # As in the middle of a sentence, where most tokenizers keep the space with the word.
            for form in (f" {name}", name) if name else ():
                codes = codec.encode(np.array([form], object))
                if codec.lengths(codes)[0] == 1:
                    return int(codes[0, 0])
            if name:
                raise RecipeError(
                    f"codec patches: the name '{name}' is more than one token of slot '{text}'; use another, or null"
                )
            return -1

        return known | {"text": text, "words": [[code(n) for n in channel] for channel in image["names"]]}

    # ---- fitting and encoding ---------------------------------------------------------------------------------------

    def fit(
        self,
        columns: Mapping[str, Mapping[str, np.ndarray]],
        returns: np.ndarray,
        discount: float = 1.0,
        delayed: bool = False,
        termination_penalty: float = 0.0,
    ) -> None:
        """Fits every codec, and notes what acting must know of the data.

        Args:
            columns: slot -> field -> ``(N, *shape)`` (or ``(N, chunk, *shape)``), the real steps of the training episodes (no
                final rows).
            returns: ``(episodes,)`` what each would have had to be asked for at its first step: its return-to-go there,
                under the discount. Their quantiles are kept as facts, for they are the default targets.
            discount, delayed, termination_penalty: how the returns-to-go were made, so that the agent spends its return the
                same way, and nobody takes these statistics for those of other returns.
        """
        for name, slot in self.slots.items():
            slot.codec.fit(self._flat(slot, columns[name]))
        q10, q50, q90 = np.quantile(returns, (0.1, 0.5, 0.9))
        facts = {"min": returns.min(), "max": returns.max(), "mean": returns.mean(), "q10": q10, "q50": q50, "q90": q90}
        self.returns = {k: float(v) for k, v in facts.items()}
        self.discount, self.delayed = float(discount), bool(delayed)
        self.termination_penalty = float(termination_penalty)

    @staticmethod
    def _flat(slot: SlotCodec, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        chunk = slot.codec.chunk
        lead = 1 if chunk == 1 else 2
        parts = [np.asarray(columns[f]) for f in slot.fields]
        parts = [p.reshape(*p.shape[:lead], -1) for p in parts]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
        return joined if chunk == 1 else joined.reshape(len(joined), -1)

    def encode_slot(self, name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """field -> ``(N, *shape)``, or ``(N, chunk, *shape)`` where a value spans steps, to the slot's ``(N, width)``."""
        slot = self.slots[name]
        return slot.codec.encode(self._flat(slot, columns))

    def encode_obs(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the agent sees, ``name -> (B, *shape)``, to every slot made of observations, ``(B, width)``."""
        return {n: self.encode_slot(n, obs) for n, s in self.slots.items() if set(s.fields) <= set(self.spec.obs)}

    def encode_rewards(self, reward: np.ndarray) -> dict[str, np.ndarray]:
        """Rewards ``(B,)`` of steps that did not end their episode, to the slots made of what an agent learns only then."""
        known = {"reward": np.asarray(reward, np.float32), "done": np.zeros(len(reward), np.int64)}
        return {n: self.encode_slot(n, known) for n, s in self.slots.items() if set(s.fields) <= set(known)}

    def encode_action(self, action: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Actions of the data, ``name -> (B, *shape)``, to every slot made of actions, ``(B, width)``."""
        return {n: self.encode_slot(n, action) for n, s in self.slots.items() if set(s.fields) <= set(self.spec.act)}

    def encode_return(self, value: np.ndarray) -> np.ndarray:
        """Returns-to-go ``(B,)`` in units of the reward, to ``(B, width)``."""
        return self.encode_slot("return", {"return": value})

    def decode_action(self, codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A model's answer, slot -> ``(B, width)``, to actions ``name -> (B, *shape)``: in bounds, in the data's dtype."""
        return {name: part for slot, code in codes.items() for name, part in self.decode_slot(slot, code).items()}

    def decode_slot(self, name: str, code: np.ndarray) -> dict[str, np.ndarray]:
        """A slot of observations or actions, ``(B, width)``, to its fields ``name -> (B, *shape)``: in bounds, in the data's
        dtype."""
        slot, known = self.slots[name], {**self.spec.obs, **self.spec.act}
        if slot.modality.kind == "text":
            return {slot.fields[0]: slot.codec.decode(code)}
        flat, at, out = slot.codec.decode(code), 0, {}
        for field in slot.fields:
            m = known[field]
            width = len(m.n) if m.n else m.size
            part = flat[:, at : at + width]
            if m.kind != "discrete":
                part = np.clip(part, m.low, m.high) if m.low else part
            out[field] = part.astype(m.dtype).reshape(len(part), *m.shape)
            at += width
        return out

    def stream(self, episode: Episode, returns: np.ndarray, trained: tuple[str, ...] = ()) -> Stream:
        """An episode, tokenised, every token spelled out.

        Args:
            episode: T steps, at least one.
            returns: ``(T,)`` returns-to-go.
            trained: slots in the loss.

        Returns:
            a stream whose tracks also hold ``readout``, ``(L,)`` int64: bit i is set where the i-th read-out of the layout is
            answered and trained, which is at the last token of each step.
        """
        T = len(episode)
        columns = {n: v[:T] for n, v in episode.obs.items()} | dict(episode.act)
        columns |= {"return": returns, "reward": episode.rew, "done": episode.terminated, "separator": np.zeros(T, np.int64)}
        ends = np.full(T, T - 1)
        taken = {n: take_fields(s, columns, np.arange(T), ends) for n, s in self.slots.items()}
        values = {n: self.encode_slot(n, taken[n]) for n in self.slots}
        widths = {s.name: s.width for s in self.layout.slots}
        for slot in self.layout.prefix:
            if hasattr(codec := self.slots[slot.name].codec, "lengths"):
                widths[slot.name] = int(codec.lengths(values[slot.name][:1])[0])
                values[slot.name] = values[slot.name][:, : widths[slot.name]]
        layout = Layout.parse(self.config.layout, widths)
        tracks = layout.tracks(T)
        wanted = np.array([name in trained for name in layout.names])
        tracks["target"] = wanted[tracks["slot"]].astype(np.int64)
        # Nothing stands in front of the first token to predict it from.
        tracks["target"][:1] = 0
        asked = sum(1 << i for i, slot in enumerate(layout.readout) if slot.name in trained)
        last = np.append(np.diff(tracks["time"]) != 0, True) & (tracks["time"] >= 0)
        tracks["readout"] = np.where(last, asked, 0)
        return Stream(layout, values, tracks, {n: self._flat(s, taken[n]) for n, s in self.slots.items()})

    # ---- on disk ----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "config": self.config.model_dump(),
            "spec": self.spec.to_json(),
            "state": {n: s.codec.state() for n, s in self.slots.items()},
            "returns": self.returns,
            "discount": self.discount,
            "delayed": self.delayed,
            "termination_penalty": self.termination_penalty,
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """``slot/name`` -> what the codecs keep in arrays; empty for nearly all tokenizers."""
        kept = {n: s.codec.tensors() for n, s in self.slots.items() if hasattr(s.codec, "tensors")}
        return {f"{n}/{name}": array for n, arrays in kept.items() for name, array in arrays.items()}

    @classmethod
    def from_json(
        cls,
        raw: Mapping[str, Any],
        source: str = "tokenizer.json",
        trust: bool = False,
        tensors: Mapping[str, np.ndarray] | None = None,
    ) -> "Tokenizer":
        """Inverse of ``to_json`` and ``tensors``.

        Raises:
            BundleError: it was written by a newer seqrl, is incomplete, or names a codec that is not this house's and
                ``trust`` is false: nothing a stranger's file names is imported.
        """
        version = raw.get("version", 0) if isinstance(raw, Mapping) else None
        # A vocabulary of the tokenizers library is JSON with a version as well, "1.0".
        if not isinstance(version, int):
            raise BundleError(f"{source}: this is no seqrl tokenizer (its version is {version!r})")
        if version > VERSION:
            raise BundleError(
                f"{source}: written by a newer seqrl (format {raw['version']}, this one reads {VERSION}); pip install -U seqrl"
            )
        try:
            for name, slot in raw["config"]["slots"].items():
                if "kind" in slot and not trust and not kinds.is_own(str(slot["kind"]), "tokens"):
                    raise BundleError(
                        f"{source}: slot '{name}' asks for code of another package ({slot['kind']}); load it with trust=True"
                    )
            made = cls(TokensConfig(**raw["config"]), EpisodeSpec.from_json(raw["spec"]))
            for name, slot in made.slots.items():
                slot.codec.load_state(raw["state"][name])
                if hasattr(slot.codec, "load_tensors"):
                    if not (own := below(name, tensors or {})):
                        raise BundleError(
                            f"{source}: slot '{name}' needs weights that are not there; they belong into the file of the same "
                            f"name that ends in {ENDS}, beside it"
                        )
                    slot.codec.load_tensors(own)
            made.returns = {str(k): float(v) for k, v in raw["returns"].items()}
            made.discount, made.delayed = float(raw["discount"]), bool(raw["delayed"])
            made.termination_penalty = float(raw.get("termination_penalty", 0.0))
            if not np.isfinite([*made.returns.values(), made.discount, made.termination_penalty]).all():
                raise ValueError("returns, discount and termination_penalty are finite numbers")
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, RecipeError, DataError) as e:
            raise BundleError(f"{source}: this is no seqrl tokenizer ({type(e).__name__}: {str(e)[:1000]})") from e
        return made

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")
        write_tensors(self.tensors(), folder / "tokenizer.json")
