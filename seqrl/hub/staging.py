"""The folder that is going to be published: a bundle, the code and the card that go with it, whole and clean.

It is put together in a temporary place, so that a push that is refused half-way has touched nothing: neither the run nor the
Hub. The weights are not copied but linked.
"""

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.errors import UserError
from seqrl.core.plain import read_json, read_yaml
from seqrl.hub import secrets
from seqrl.hub.privacy import clean
from seqrl.hub.publication import write_publication
from seqrl.hub.weights import read_header
from seqrl.remote.state import sha256


@dataclass(frozen=True)
class Staged:
    """A folder ready to be published.

    ``run`` is the folder of the run it came from, ``step`` that of the checkpoint, ``recipe`` the name of its recipe; ``notes``
    are what a person should know: paths that were shortened, and what could not be made. ``digests`` are the sha256 of the
    large files, by name.
    """

    folder: Path
    run: Path | None
    step: int | None
    recipe: str
    notes: tuple[str, ...]
    digests: Mapping[str, str]


def stage(name: str | Path, folder: Path, repo: str, license: str | None = None, trust: bool = False) -> Staged:
    """Puts a publication together.

    Args:
        trust: allow a model kind of another installed package; it is imported here.
        name: a run (its last checkpoint is meant), a checkpoint or a bundle.
        folder: an empty folder.
        repo: ``org/name``, for the card.
        license: for the card as well.

    Raises:
        BundleError: there is no whole bundle of that name.
        HubError: it holds an access token, or a path of this machine that cannot be taken out.
    """
    found = bundle.find(name)
    run = _run_of(Path(name), found)
    # Before everything else: a head is read in a millisecond, and names a truncated file better than what comes later.
    for weights in found.glob("*.safetensors"):
        read_header(weights)
    for file in (*bundle.FILES, *bundle.MORE):
        if (found / file).is_file():
            _put(found / file, folder / file)
    secrets.refuse_secrets(folder)
    notes = [f"shortened  {line}" for line in clean(folder)]
    _plain_config(folder)
    large = sorted(folder.glob("*.safetensors"))
    # The Hub wants to know what is coming before it comes. Weights are not changed any more, so that can be had meanwhile.
    with ThreadPoolExecutor(1) as aside:
        digests = aside.map(sha256, large)
        # What is published must load, and as it is published.
        loaded = bundle.load(folder, trust=trust)
        step, recipe = loaded.metrics.get("step"), str(loaded.recipe.get("name") or found.name)
        del loaded
        notes += _add_code(folder)
        step = step if isinstance(step, int) else None
        notes += _dress(folder, run, repo, license, (step, recipe), None)
        known = {p.name: digest for p, digest in zip(large, digests, strict=True)}
    return Staged(folder, run, step, recipe, tuple(notes), known)


def retag(staged: Staged, repo: str, license: str | None, tag: str) -> None:
    """Writes the card again, for another tag than that of its step."""
    _dress(staged.folder, staged.run, repo, license, (staged.step, staged.recipe), tag)


def _plain_config(folder: Path) -> None:
    """Leaves in ``config.json`` the settings of the model alone: a stranger's may name code to run, or somebody else's."""
    path = folder / "config.json"
    try:
        kind = str(read_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"))["model"]["kind"])
        raw = read_json(path.read_text(encoding="utf-8"))
        if not kinds.is_own(kind) or not isinstance(raw, dict):
            return
    except (OSError, ValueError, KeyError, TypeError):
        # Whatever is wrong with it, loading it will say.
        return
    known = {*kinds.settings(kind), "model_type", "architectures", "dtype", "transformers_version"}
    path.write_text(json.dumps({k: v for k, v in raw.items() if k in known}, indent=2) + "\n", encoding="utf-8")


def _add_code(folder: Path) -> list[str]:
    """The model's own modules, for those without seqrl; a kind that cannot have them is published without, and said so."""
    from seqrl.hub.portable import make_portable

    before = {p: p.read_bytes() for p in folder.glob("*.json")}
    try:
        make_portable(folder)
    except UserError as e:
        known = {*bundle.FILES, *bundle.MORE}
        for path in folder.iterdir():
            if path.name not in known:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path, content in before.items():
            path.write_bytes(content)
        return [f"no code goes with it, so it needs seqrl to be loaded: {e}"]
    return []


def _dress(
    folder: Path, run: Path | None, repo: str, license: str | None, what: tuple[int | None, str], tag: str | None
) -> list[str]:
    """The card and what is said of the whole; answers what was shortened in it."""
    _add_card(folder, run, repo, tag, license)
    secrets.refuse_secrets(folder)
    told = [f"shortened  {line}" for line in clean(folder)]
    write_publication(folder, *what)
    return told


def _add_card(folder: Path, run: Path | None, repo: str, tag: str | None, license: str | None) -> None:
    from seqrl.hub.card import write_card

    write_card(folder, run, repo, tag, license)


def _put(source: Path, target: Path) -> None:
    """A file in another place: large ones as links, the rest as copies, which may be changed."""
    if source.suffix != ".safetensors":
        shutil.copyfile(source, target)
        return
    real = source.resolve()
    try:
        # The same file, even if training removes that checkpoint meanwhile.
        os.link(real, target)
    except OSError:
        target.symlink_to(real)


def _run_of(given: Path, found: Path) -> Path | None:
    """The run that a bundle is a checkpoint of."""
    if found.resolve().is_relative_to((given / "checkpoints").resolve()):
        return given
    if found.name == "bundle" and found.parent.parent.name == "checkpoints":
        return found.parent.parent.parent
    return None
