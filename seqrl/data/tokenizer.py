"""The tokenizer: every slot's fitted codec, and all that stands between the world and a model.

Training encodes whole columns of a store with it, the agent encodes what it sees and decodes what the model answers, and it
is saved beside the weights as ``tokenizer.json`` with every bit of its statistics.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core import kinds
from seqrl.core.contracts import Ports
from seqrl.core.episode import Episode, EpisodeSpec
from seqrl.core.errors import BundleError, RecipeError
from seqrl.core.layout import Layout
from seqrl.core.stream import Stream
from seqrl.data.slots import SlotCodec, TokensConfig, build_slots

VERSION = 1


class Tokenizer:
    """Turns episodes, observations and answers into the values of a layout's slots and back."""

    def __init__(self, config: TokensConfig, spec: EpisodeSpec) -> None:
        """Raises RecipeError where the recipe's slots do not fit the data."""
        self.config, self.spec, self.context = config, spec, config.context
        self.slots = build_slots(config, spec)
        self.layout = Layout.parse(config.layout)
        self.returns: dict[str, float] = {}
        self.discount, self.delayed = 1.0, False

    # ---- what a model must know -------------------------------------------------------------------------------------

    def ports(self) -> Ports:
        codecs = {n: s.codec for n, s in self.slots.items()}
        return Ports(
            layout=str(self.layout),
            widths={n: c.width for n, c in codecs.items()},
            vocabs={n: c.vocab for n, c in codecs.items()},
            bounded={n: bool(getattr(c, "bounded", False)) for n, c in codecs.items()},
        )

    # ---- fitting and encoding ---------------------------------------------------------------------------------------

    def fit(
        self,
        columns: Mapping[str, np.ndarray],
        returns: np.ndarray,
        discount: float = 1.0,
        delayed: bool = False,
    ) -> None:
        """Fits every codec, and notes what acting must know of the data.

        Args:
            columns: field -> ``(N, *shape)``, the real steps of the training episodes (no final rows).
            returns: ``(episodes,)`` what each would have had to be asked for at its first step: its return-to-go there,
                under the discount. Their quantiles are kept as facts, for they are the default targets.
            discount, delayed: how the returns-to-go were made, so that the agent spends its return the same way.
        """
        for slot in self.slots.values():
            slot.codec.fit(self._flat(slot, columns))
        q10, q50, q90 = np.quantile(returns, (0.1, 0.5, 0.9))
        facts = {"min": returns.min(), "max": returns.max(), "mean": returns.mean(), "q10": q10, "q50": q50, "q90": q90}
        self.returns = {k: float(v) for k, v in facts.items()}
        self.discount, self.delayed = float(discount), bool(delayed)

    @staticmethod
    def _flat(slot: SlotCodec, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        parts = [np.asarray(columns[f]).reshape(len(columns[f]), -1) for f in slot.fields]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)

    def encode_slot(self, name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """field -> ``(N, *shape)`` to the slot's ``(N, width)`` float32 or int64."""
        slot = self.slots[name]
        return slot.codec.encode(self._flat(slot, columns))

    def encode_obs(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the agent sees, ``name -> (B, *shape)``, to every slot made of observations, ``(B, width)``."""
        return {n: self.encode_slot(n, obs) for n, s in self.slots.items() if set(s.fields) <= set(self.spec.obs)}

    def encode_action(self, action: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Actions of the data, ``name -> (B, *shape)``, to every slot made of actions, ``(B, width)``."""
        return {n: self.encode_slot(n, action) for n, s in self.slots.items() if set(s.fields) <= set(self.spec.act)}

    def encode_return(self, value: np.ndarray) -> np.ndarray:
        """Returns-to-go ``(B,)`` in units of the reward, to ``(B, width)``."""
        return self.encode_slot("return", {"return": value})

    def decode_action(self, codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A model's answer, slot -> ``(B, width)``, to actions ``name -> (B, *shape)``: in bounds, in the data's dtype."""
        out = {}
        for slot_name, code in codes.items():
            slot = self.slots[slot_name]
            flat, at = slot.codec.decode(code), 0
            for name in slot.fields:
                m = self.spec.act[name]
                width = len(m.n) if m.n else m.size
                part = flat[:, at : at + width]
                if m.kind != "discrete":
                    part = np.clip(part, m.low, m.high) if m.low else part
                out[name] = part.astype(m.dtype).reshape(len(part), *m.shape)
                at += width
        return out

    def stream(self, episode: Episode, returns: np.ndarray, trained: tuple[str, ...] = ()) -> Stream:
        """An episode, tokenised, every token spelled out.

        Args:
            episode: T steps.
            returns: ``(T,)`` returns-to-go.
            trained: slots in the loss.
        """
        T = len(episode)
        columns = {n: v[:T] for n, v in episode.obs.items()} | dict(episode.act)
        columns |= {"return": returns, "reward": episode.rew, "done": episode.terminated}
        values = {n: self.encode_slot(n, columns) for n in self.slots}
        tracks = self.layout.tracks(T)
        wanted = np.array([name in trained for name in self.layout.names])
        tracks["target"] = wanted[tracks["slot"]].astype(np.int64)
        return Stream(self.layout, values, tracks, {n: self._flat(s, columns) for n, s in self.slots.items()})

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
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str = "tokenizer.json", trust: bool = False) -> "Tokenizer":
        """Inverse of ``to_json``.

        Raises:
            BundleError: it was written by a newer seqrl, is incomplete, or names a codec that is not this house's and
                ``trust`` is false: nothing a stranger's file names is imported.
        """
        if raw.get("version", 0) > VERSION:
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
            made.returns = dict(raw["returns"])
            made.discount, made.delayed = float(raw["discount"]), bool(raw["delayed"])
        except (KeyError, TypeError, ValueError, AttributeError, RecipeError) as e:
            raise BundleError(f"{source}: this is no seqrl tokenizer ({type(e).__name__}: {e})") from e
        return made

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, trust: bool = False) -> "Tokenizer":
        """Reads ``tokenizer.json``; raises BundleError as ``from_json``, or where the file is missing or no JSON."""
        path = folder / "tokenizer.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise BundleError(f"{folder}: there is no tokenizer.json in it, so it is no seqrl bundle") from e
        except (OSError, ValueError) as e:
            raise BundleError(f"{path}: cannot be read: {e}") from e
        return cls.from_json(raw, str(path), trust)
