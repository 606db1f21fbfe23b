"""What a model that does not act is judged by, on episodes kept out of training: a world by its dreams, an encoder by what it
gives back.

The files it leaves in the run folder are what the report shows: ``dream.json`` (and, when all is over, ``dream.gif``) of a
world, ``reconstruction.json`` and ``reconstruction.png`` of an encoder.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core import kinds
from seqrl.core.errors import DataError, UserError
from seqrl.data.dataset import Dataset
from seqrl.data.slots import COMPUTED
from seqrl.data.tables import Tables
from seqrl.data.windows import Windows
from seqrl.report import film
from seqrl.report.folder import beside
from seqrl.report.reconstruction import write_reconstruction
from seqrl.rollout.excerpts import Excerpts
from seqrl.rollout.fidelity import Fidelity, context_of, horizon_of, lengths, measure
from seqrl.rollout.players import domains_of, plan
from seqrl.rollout.reel import of_data
from seqrl.rollout.runner import Progress
from seqrl.rollout.settings import EvalConfig
from seqrl.rollout.worlds import Bridge, world_of
from seqrl.train.prepare import Data

_FRAMES = 256
"""Held-out frames that an encoder is shown."""


def plays(kind: str) -> bool:
    """Whether a model kind acts, so that it is judged in an environment; one of another package is believed to."""
    return kind.partition(".")[0] not in ("worlds", "encoders") or not kinds.is_own(kind)


def dreams(kind: str) -> bool:
    """Whether a model kind is a world model that is stepped; one of token documents goes on from prompts instead."""
    return kind.startswith("worlds.") and not kinds.reads_documents(kind)


def datasets_of(data: Data) -> dict[str, Dataset]:
    """domain -> its dataset; of a plain model the one entry ""."""
    return data if isinstance(data, dict) else {"": data}


def rehearse(kind: str, tokenizer: Any, data: Data, config: EvalConfig) -> None:
    """Finds out before step 0 whether there will be anything to judge by.

    Raises:
        DataError: no episodes were held out, or none is as long as is wanted.
    """
    tokenizers, sets = domains_of(tokenizer), datasets_of(data)
    for name, how in plan(tokenizer, config).items():
        where = f"domain '{name}': " if name else ""
        dataset = sets[name]
        if not len(dataset.held_out):
            raise DataError(
                f"{where}no episodes are held out of {dataset.spec.id}, so there is nothing to judge by; set "
                "data.held_out=0.1 (or train without: evaluate.at_end=false evaluate.every=null)"
            )
        if dreams(kind):
            longest = int(dataset.held_out.length.max())
            context = context_of(how.dream, tokenizers[name], longest)
            if context > longest:
                raise DataError(
                    f"{where}evaluate.dream.context={context}: the longest held-out episode of {dataset.spec.id} has "
                    f"{longest} steps; lower it"
                )
            horizon_of(how.dream, context, longest, dataset.spec.id)


def check_room(model: Any, tokenizer: Any, data: Data, config: EvalConfig) -> None:
    """Raises UserError before step 0 where a world could not hold the dreams it is to be judged by."""
    for name, how in plan(tokenizer, config).items():
        world, own = world_of(model, tokenizer, name or None)
        dataset = datasets_of(data)[name]
        lengths(how.dream, Bridge(world, own), int(dataset.held_out.length.max()), dataset.spec.id)


def judge_worlds(
    model: Any, tokenizer: Any, data: Data, config: EvalConfig, progress: Progress | None = None
) -> dict[str, Fidelity]:
    """domain -> the fidelity of its dreams, "" for a plain model; with weights as they are, in eval mode."""
    found, sets = {}, datasets_of(data)
    for name, how in plan(tokenizer, config).items():
        world, own = world_of(model, tokenizer, name or None)
        tell = None if progress is None else lambda done, total, n=name: progress(done, total, n)
        found[name] = measure(world, own, sets[name], how.dream, how.seed, progress=tell)
    return found


def metrics(found: Mapping[str, Fidelity]) -> dict[str, float]:
    """``dream/<name>``, of domains ``dream/<domain>/<name>``."""
    return {"/".join(w for w in ("dream", d, k) if w): v for d, f in found.items() for k, v in f.metrics().items()}


def to_json(found: Mapping[str, Fidelity]) -> dict[str, Any]:
    """Of a plain model the one fidelity, else ``{"domains": {name: ...}}``."""
    if "" in found:
        return found[""].to_json()
    return {"domains": {name: f.to_json() for name, f in found.items()}}


def keep(run: Path, found: Mapping[str, Fidelity]) -> None:
    """Writes ``dream.json`` in one step for whoever reads."""
    aside = run / ".dream.json.part"
    aside.write_text(json.dumps(to_json(found), indent=1) + "\n", encoding="utf-8")
    os.replace(aside, run / "dream.json")


def draw(model: Any, tokenizer: Any, data: Data, config: EvalConfig, path: Path) -> tuple[list[Path], list[str]]:
    """A GIF of one dream for each domain.

    Returns:
        those written; and for each that could not be drawn, why not. No picture costs what was trained or measured.
    """
    made, missing, sets = [], [], datasets_of(data)
    for name, how in plan(tokenizer, config).items():
        where = beside(path, name)
        try:
            world, own = world_of(model, tokenizer, name or None)
            bridge = Bridge(world, own)
            excerpts = Excerpts(sets[name], own, bridge)
            context, horizon = lengths(how.dream, bridge, excerpts.longest, sets[name].spec.id)
            film.write(of_data(bridge, excerpts, context, horizon, how.seed, how.dream.sample), where)
            made.append(where)
        except Exception as e:
            said = str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}"
            missing.append(f"no picture of the dream{name and f' of {name}'}: {said}")
    return made, missing


def judge_encoder(model: Any, tokenizer: Any, dataset: Dataset, run: Path) -> dict[str, float]:
    """What an encoder gives back of held-out frames: files in the run folder, and metrics ``reconstruction/<name>``."""
    slot = next(n for n, s in tokenizer.slots.items() if s.modality.kind == "image" and not set(s.fields) & set(COMPUTED))
    rows = Windows(dataset.held_out, 1).spread(min(_FRAMES, int(dataset.held_out.length.sum()))).row
    frames = Tables(dataset, tokenizer, budget=0).read(np.unique(rows), {slot})[slot]
    found = write_reconstruction(model, frames, run)
    return {f"reconstruction/{k}": float(v) for k, v in found.items()}
