"""Slot by slot: what was imagined beside what came, and beside two who never imagine anything.

A slot is compared as what it is: vectors in the data's own units (r2, root mean squared error), pictures (peak signal-to-noise
ratio, structural similarity), codes (share that is right, and share of those that *changed*: the true code at t + h differs
from the true one at t + h - 1). Codes of a vector or a picture are compared as both. ``copy`` says that the last observed step
stays as it is; ``marginal`` says the mean of the training episodes, or the most frequent code of each place.

N excerpts, K codes or D numbers of a slot.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqrl.data.dataset import Dataset
from seqrl.data.slots import SlotCodec
from seqrl.data.windows import Windows
from seqrl.rollout import measures
from seqrl.rollout.excerpts import Excerpts
from seqrl.rollout.pixels import psnr, ssim
from seqrl.tokens import patches

MEASURES = {"codes": ("accuracy", "changed"), "numbers": ("r2", "rmse"), "pictures": ("psnr", "ssim")}
LESS_IS_MORE = ("rmse",)
WHO = ("model", "copy", "marginal")
_ROWS = 2048
"""Steps of the training episodes that the marginal is made from, spread evenly."""

View = dict[str, np.ndarray]
"""A slot's values as ``codes (N, K)``, ``numbers (N, D)`` float64, ``pictures (N, H, W, C)`` uint8: those that it has."""


def _cells(made: SlotCodec) -> bool:
    return getattr(made.codec, "image", {}).get("encoder") == "cells"


def view(made: SlotCodec, codes: np.ndarray, raw: np.ndarray | None = None) -> View:
    """Values of a slot as what they are compared as.

    Args:
        codes: ``(N, width)`` encoded. raw: ``(N, D)`` as the world gave them; None takes what the codes stand for.
    """
    out: View = {}
    if made.codec.vocab or _cells(made):
        out["codes"] = codes
    if made.modality.kind == "vector":
        out["numbers"] = np.asarray(made.codec.decode(codes) if raw is None else raw, np.float64)
    elif made.modality.kind == "image" and not _cells(made):
        flat = np.asarray(made.codec.decode(codes) if raw is None else raw).reshape(len(codes), -1)
        frames = patches.Codec(patches.Config(size=None), made.modality)
        out["pictures"] = frames.encode(flat).reshape(-1, *frames.image["shape"])
    return out


def raw_of(excerpts: Excerpts, slot: str, rows: np.ndarray) -> np.ndarray | None:
    """A slot as the world gave it at ``rows (N,)``, its fields flattened and joined ``(N, D)``; None of choices."""
    made = excerpts.tokenizer.slots[slot]
    if made.modality.kind not in ("vector", "image"):
        return None
    parts = [excerpts.raw(f, rows).reshape(len(rows), -1) for f in made.fields]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


class Comparison:
    """One slot at some horizons; filled batch by batch."""

    def __init__(self, name: str, excerpts: Excerpts, horizons: Sequence[int]) -> None:
        self.name, self.excerpts, self.horizons = name, excerpts, tuple(horizons)
        self.made = excerpts.tokenizer.slots[name]
        self.marginal = self._marginal(excerpts.dataset)
        self._kept: dict[tuple[int, str], list[np.ndarray]] = {}

    def true(self, codes: np.ndarray, rows: np.ndarray) -> View:
        """What really was at ``rows (N,)``, whose codes are ``(N, width)``."""
        return view(self.made, codes, raw_of(self.excerpts, self.name, rows))

    def _marginal(self, dataset: Dataset) -> View:
        """``(1, ...)`` of each view."""
        rows = Windows(dataset.train, 1).spread(min(_ROWS, dataset.steps)).row
        seen = self.true(self.excerpts.tables.read(rows, {self.name})[self.name], rows)
        out: View = {}
        if "codes" in seen:
            places = seen["codes"].T
            out["codes"] = np.array([np.bincount(p).argmax() for p in places], places.dtype)[None]
        if "numbers" in seen:
            out["numbers"] = seen["numbers"].mean(0, keepdims=True)
        if "pictures" in seen:
            out["pictures"] = np.rint(seen["pictures"].mean(0, keepdims=True, dtype=np.float64)).astype(np.uint8)
        return out

    def add(self, h: int, said: np.ndarray, true: View, last: View, before: np.ndarray) -> None:
        """Takes in N excerpts at horizon ``h``.

        Args:
            said: ``(N, width)`` encoded, imagined. true, last: what was at t + h, and at t.
            before: ``(N, width)`` codes of t + h - 1.
        """
        mine = view(self.made, said)
        for kind, now in true.items():
            shown = {"model": mine[kind], "copy": last[kind], "marginal": np.broadcast_to(self.marginal[kind], now.shape)}
            if kind == "pictures":
                for who, picture in shown.items():
                    self._keep(h, f"{who} psnr", psnr(now, picture))
                    self._keep(h, f"{who} ssim", ssim(now, picture))
                continue
            for who, values in {**shown, "true": now, **({"before": before} if kind == "codes" else {})}.items():
                self._keep(h, f"{who} {kind}", values)

    def _keep(self, h: int, name: str, values: np.ndarray) -> None:
        self._kept.setdefault((h, name), []).append(values)

    def _of(self, h: int, name: str) -> np.ndarray:
        return np.concatenate(self._kept[h, name])

    def results(self) -> dict[str, dict[str, tuple[float | None, ...]]]:
        """measure -> who -> one number a horizon; None where there was nothing to measure."""
        out: dict[str, dict[str, tuple[float | None, ...]]] = {}
        for kind in self.marginal:
            for measure in MEASURES[kind]:
                out[measure] = {who: tuple(self._one(h, kind, measure, who) for h in self.horizons) for who in WHO}
        return out

    def _one(self, h: int, kind: str, measure: str, who: str) -> float | None:
        if not any(at == h for at, _ in self._kept):
            return None
        if kind == "pictures":
            return float(self._of(h, f"{who} {measure}").mean())
        true, said = self._of(h, f"true {kind}"), self._of(h, f"{who} {kind}")
        if measure == "changed":
            return measures.changed_accuracy(true, self._of(h, "before codes"), said)
        return getattr(measures, measure)(true, said)


def add_all(comparisons: Mapping[str, Comparison], bridge: Any, latents: Any, seen: Mapping[str, Any], places: Any) -> None:
    """Takes a batch of dreams into every slot's comparison.

    Args:
        latents: ``[B, H, *Z]``. seen: observed slot -> ``[B, C + H, width]`` real ones. places: the excerpts' (``Places``).
    """
    C, rows, mask = places.context, places.rows, places.mask
    codes = {n: seen[n].cpu().numpy() for n in comparisons}
    last = {n: c.true(codes[n][:, C - 1], rows[:, C - 1]) for n, c in comparisons.items()}
    for h in next(iter(comparisons.values())).horizons if comparisons else ():
        there = np.flatnonzero(mask[:, h - 1])
        if not len(there):
            continue
        said = bridge.show(latents[bridge.tensor(there), h - 1])
        for name, c in comparisons.items():
            true = c.true(codes[name][there, C + h - 1], rows[there, C + h - 1])
            stays = {k: v[there] for k, v in last[name].items()}
            c.add(h, said[name], true, stays, codes[name][there, C + h - 2])
