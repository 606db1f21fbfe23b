"""Everything of seqrl's that reads a file from outside: its name, the valid files it is tried with, and how it reads one.

``read`` is given a folder with an example of which one file was made wrong, and does with it what seqrl does: all of it, down
to the last episode, so that nothing which was let in breaks later. It answers anything, or raises a UserError.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import corpus

Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Args:
        name: what it is called on the command line.
        make: fills an empty folder with examples, each a folder.
        files: patterns of the files in an example that are made wrong.
        read: reads one example.
        share: of the inputs, in parts of all readers' shares; what is slow gets less.
        needs: words in the name of an example, of which it takes those alone.
    """

    name: str
    make: Callable[[Path], None]
    files: tuple[str, ...]
    read: Read
    share: int
    needs: str = ""


# ---- settings -----------------------------------------------------------------------------------------------------------


def recipe(folder: Path) -> Any:
    from seqrl.core import shelf
    from seqrl.train import recipe as recipes

    file = folder / "it.yaml"
    shelf.header(file.read_text(encoding="utf-8", errors="replace"))
    made = recipes.load(str(file))
    # What a run and a bundle keep of it must be read again.
    return recipes.parse(made.dump(), "it.yaml", trust=False)


def manifest(folder: Path) -> Any:
    from seqrl.hub import manifest as manifests

    return [manifests._checked(entry) for entry in manifests.read_manifest(str(folder / "it.yaml")).models]


def engine(folder: Path) -> Any:
    from seqrl.core.config import parse_yaml, read_text, validate
    from seqrl.train.settings import EngineConfig

    file = str(folder / "it.yaml")
    raw, where = parse_yaml(read_text(folder / "it.yaml"), file)
    return validate(EngineConfig, raw, where, file)


def suite(folder: Path) -> Any:
    from seqrl.bench import plan
    from seqrl.bench import suite as suites

    file = folder / "it.yaml"
    made = suites.read(file)
    # Of the others every cell's recipe would be checked, hundreds of milliseconds in all.
    return plan.load(str(file)) if folder.name == "smoke" else made


def deepspeed(folder: Path) -> Any:
    from seqrl.train import recipe as recipes

    told = [f"engine={folder.name}", "engine.processes=2", f"engine.deepspeed={folder / 'it.json'}"]
    return recipes.parse(corpus.RUNS["decision"], "it.yaml", told)


# ---- data ---------------------------------------------------------------------------------------------------------------


def _converted(source: Any) -> Any:
    from seqrl.data.store import prepare
    from seqrl.sources._files import cache_home

    shutil.rmtree(cache_home() / "stores", ignore_errors=True)
    return _whole(prepare(source))


def _whole(store: Any) -> Any:
    """Every column, text and episode of a store."""
    for name in store.names:
        column = store.column(name)
        column[:1].sum(), column[-1:].sum()
    return [store.episode(i) for i in range(len(store))]


def minari(folder: Path) -> Any:
    from seqrl.sources import minari as source
    from seqrl.sources._catalog import local_ids
    from seqrl.sources._files import datasets_home

    place = datasets_home() / "fuzz" / "it-v0"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(folder.absolute())
    local_ids()
    made = source.Source(source.Config(id="fuzz/it-v0", download=False))
    _ = made.lengths, made.spec, made.references
    return _converted(made)


def d4rl(folder: Path) -> Any:
    from seqrl.sources import d4rl as source

    return _converted(source.Source(source.Config(path=str(folder / "hopper_tiny-v2.hdf5"))))


def parquet(folder: Path) -> Any:
    from seqrl.sources import parquet as source

    return _converted(source.Source(source.Config(id=str(folder))))


def rows(folder: Path) -> Any:
    from seqrl.sources import rows as source

    return _converted(source.Source(source.Config(id=str(folder), bounds={"action": (-1.0, 1.0)})))


def jsonl(folder: Path) -> Any:
    from seqrl.sources import jsonl as source

    made = source.Source(source.Config(path=str(folder / "tiny.jsonl")))
    return [made.example(i) for i in range(len(made))]


def store(folder: Path) -> Any:
    from seqrl.data.store import Store

    # As if whoever wrote the file had written its size too: otherwise nothing of another size would be looked into.
    about = folder / "store.json"
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        said = json.loads(about.read_text(encoding="utf-8"))
        said["sizes"] = {n: (folder / n).stat().st_size for n in said["sizes"] if (folder / n).is_file()}
        about.write_text(json.dumps(said), encoding="utf-8")
    return _whole(Store(folder))


# ---- models -------------------------------------------------------------------------------------------------------------


def _use(tokenizer: Any) -> None:
    """What the agent and the loader do with a tokenizer."""
    from seqrl.data.mixture import Mixture

    for one in tokenizer.domains.values() if isinstance(tokenizer, Mixture) else (tokenizer,):
        one.ports(), one.to_json(), one.tensors()
        if not hasattr(one, "slots"):
            one.words(one.text("go to the red ball"))
            continue
        _ = one.layout, one.context, one.chunk, one.spell()
        obs = {n: _zeros(m) for n, m in one.spec.obs.items()}
        act = {n: _zeros(m) for n, m in one.spec.act.items()}
        one.encode_obs(obs), one.encode_action(act), one.encode_rewards(np.zeros(2, np.float32))
        if "return" in one.slots:
            one.encode_return(np.zeros(2))
        for name, slot in one.slots.items():
            if set(slot.fields) <= {*obs, *act}:
                one.decode_slot(name, np.zeros((2, slot.codec.width), slot.codec.dtype))


def _zeros(m: Any) -> np.ndarray:
    if m.kind == "text":
        return np.array(["go", ""])
    start = np.reshape(m.start, m.shape) if m.start else 0
    return (np.zeros((2, *m.shape)) + start).astype(m.dtype)


def tokenizer(folder: Path) -> Any:
    from seqrl.data.mixture import read_tokenizer

    place = next((p for p in (folder, folder / "checkpoints" / "last" / "bundle") if (p / "tokenizer.json").is_file()), folder)
    made = read_tokenizer(place / "tokenizer.json")
    _use(made)
    return made


def bundle(folder: Path) -> Any:
    from seqrl import bundle as bundles

    made = bundles.load(folder)
    _use(made.tokenizer)
    return made


def text(folder: Path) -> Any:
    from seqrl.tokens.text import load

    made, _ = load(str(folder / "it.json"))
    return made.encode("go to the red ball").ids


def weights(folder: Path) -> Any:
    from seqrl.hub.weights import read_header, set_note
    from seqrl.report.folder import count_parameters

    file = folder / "checkpoints" / "last" / "bundle" / "model.safetensors"
    count_parameters(file)
    read_header(file)
    return set_note(file, {"format": "pt"})


def encoder(folder: Path) -> Any:
    from seqrl.tokens import _encoder

    return _encoder.read(str(folder))


# ---- runs ---------------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path) -> Any:
    from seqrl.train import checkpoint as checkpoints

    checkpoints.last(folder)
    for found in sorted((folder / "checkpoints").glob("step-*")):
        state = checkpoints.load(found)
        for name in state.tensors:
            _ = state.tensors[name]


def metrics(folder: Path) -> Any:
    from seqrl.train.metrics import Metrics, read

    read(folder / "metrics.jsonl")
    return Metrics(folder, resume_at=1).close()


def resumed(folder: Path) -> Any:
    """Whether a run can be gone on with, up to the point where it would load its model."""
    from seqrl.train import recipe as recipes
    from seqrl.train import run
    from seqrl.train.view import view_of  # noqa: F401

    path = folder / "recipe.yaml"
    return run.check_same_run(*(recipes.parse(path.read_text(), str(path)),) * 2, path)


def report(folder: Path) -> Any:
    from seqrl.report.page import write_report

    return write_report(folder)


def card(folder: Path) -> Any:
    from seqrl import bundle as bundles
    from seqrl.hub.card import write_card

    staged = folder.parent / f".{folder.name}.staged"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(bundles.find(folder), staged)
    return write_card(staged, folder, "org/name")


def clean(folder: Path) -> Any:
    """What is looked for in files that are about to be published."""
    from seqrl.hub import privacy, secrets

    staged = folder.parent / f".{folder.name}.staged"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(folder / "checkpoints" / "last" / "bundle", staged)
    secrets.refuse_secrets(staged)
    return privacy.clean(staged)


# ---- the Hub ------------------------------------------------------------------------------------------------------------


def imported(folder: Path) -> Any:
    from seqrl import bundle as bundles
    from seqrl.hub.importing import import_model

    out = folder.parent / f".{folder.name}.imported"
    shutil.rmtree(out, ignore_errors=True)
    more = {} if folder.name == "body" else {"env": "Pendulum-v1", "targets": [-100.0]}
    made = import_model(str(folder), out, **more)
    return made if folder.name == "body" else bundles.load(made.folder)


def publication(folder: Path) -> Any:
    from seqrl.hub import publication as said

    told = said.read_about(folder / said.NAME), said.read_files(folder / said.NAME)
    said.remembered(folder, "https://server", "a/b")
    said.remember(folder, "https://server", "c/d", "1" * 40)
    return told


READERS = (
    Reader("recipe", corpus.shelf_files("recipes"), ("it.yaml",), recipe, 25),
    Reader("manifest", corpus.shelf_files("hub/manifests"), ("it.yaml",), manifest, 60),
    Reader("engine", corpus.shelf_files("recipes/engines"), ("it.yaml",), engine, 20),
    Reader("suite", corpus.shelf_files("recipes/suites"), ("it.yaml",), suite, 12),
    Reader("deepspeed", corpus.deepspeed, ("it.json",), deepspeed, 25),
    Reader("minari", corpus.minari, ("data/*.hdf5", "data/*.json", "data/*/*"), minari, 60),
    Reader("d4rl", corpus.d4rl, ("*.hdf5",), d4rl, 70),
    Reader("parquet", corpus.parquet, ("spec.json", "*/*.parquet"), parquet, 90),
    Reader("rows", corpus.rows, ("data/*/*",), rows, 70),
    Reader("store", corpus.stores, ("*",), store, 200),
    Reader("jsonl", corpus.jsonl, ("*.jsonl",), jsonl, 100),
    Reader("text", corpus.vocabularies, ("it.json",), text, 40),
    Reader("documents", corpus.documents, ("tokenizer.json",), tokenizer, 100),
    Reader("tokenizer", corpus.runs, ("checkpoints/last/bundle/tokenizer.json",), tokenizer, 100),
    Reader("bundle", corpus.runs, ("checkpoints/last/bundle/*",), bundle, 25),
    Reader("weights", corpus.runs, ("checkpoints/last/bundle/*.safetensors",), weights, 80),
    Reader("checkpoint", corpus.runs, ("checkpoints/last/trainer/*",), checkpoint, 60),
    Reader("metrics", corpus.runs, ("metrics.jsonl",), metrics, 80, "decision"),
    Reader("publication", corpus.publications, ("*.json",), publication, 80),
    Reader("clean", corpus.runs, ("checkpoints/last/bundle/*",), clean, 30),
    Reader("card", corpus.runs, ("*.json", "checkpoints/last/bundle/*"), card, 4),
    Reader("report", corpus.runs, ("*.json*", "*.yaml", "*.html", "*.gif", "checkpoints/last/bundle/*"), report, 2),
    Reader("imported", corpus.transformers, ("*.json", "*.md", "*.bin", "*.safetensors"), imported, 8),
)
