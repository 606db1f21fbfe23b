"""Publishing a dataset: its episodes as Parquet with a card, shown as a difference first, then one commit or nothing.

The same road as a run's (``hub/push.py``): written into a folder that vanishes, looked through for secrets and paths of this
machine, compared with what is there, and refused by the Hub if somebody else has published in between.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqrl.core.errors import HubError
from seqrl.hub import sending
from seqrl.hub.dataset_card import write_card
from seqrl.hub.difference import Change, compare
from seqrl.hub.push import Pushed
from seqrl.remote.state import State
from seqrl.sources import _parquet

if TYPE_CHECKING:
    from seqrl.data.store import Progress, Store


def push_dataset(
    id: str,
    repo: str,
    private: bool = False,
    dry_run: bool = False,
    license: str | None = None,
    message: str | None = None,
    show: Callable[[Sequence[Change], Sequence[str]], None] | None = None,
    progress: "Progress | None" = None,
) -> Pushed:
    """Publishes a dataset of this machine.

    Args:
        id: of a Minari dataset, or a D4RL file (``.hdf5``).
        repo: ``org/name``; made if there is none.
        private: make it so that only its owners see it.
        dry_run: only say what would change.
        license: an identifier of the Hub's, such as ``cc-by-4.0``; None: the card says that it is not known.
        message: of the commit.
        show: is told the changes and notes before anything is sent.
        progress: of the conversion, in episodes.

    Raises:
        DataError: no such dataset, or a broken one.
        HubError: a secret in it, no server, no right to write, or somebody else published meanwhile. Nothing is half published.
    """
    from seqrl.data.store import prepare
    from seqrl.sources import d4rl, minari

    target = sending.target(re.sub(r"^(?:hf://)?(?:datasets/)?", "", repo), "dataset")
    source = d4rl.Source(d4rl.Config(path=id)) if id.endswith((".hdf5", ".h5")) else minari.Source(minari.Config(id=id))
    store = prepare(source, progress)
    with tempfile.TemporaryDirectory(prefix="seqrl-push-") as place:
        folder = Path(place) / "data"
        notes = stage(store, folder, target.id, license)
        state = sending.look(target)
        if refused := sending.refused_as_public(target, state, private):
            raise HubError(refused)
        changes = compare(folder, state, _ours(state))
        if show is not None:
            show(changes, notes)
        url = sending.url(target)
        if dry_run:
            return Pushed(url, None, None, tuple(changes), tuple(notes))
        if state is None:
            state = sending.make(target, private)
            changes = compare(folder, state)
        commit = sending.commit(target, folder, changes, state, message or store.spec.id)
        return Pushed(url, commit, None, tuple(changes), tuple(notes))


def stage(store: "Store", folder: Path, repo: str, license: str | None = None) -> list[str]:
    """Writes everything that is published into a folder, which is made.

    Returns:
        what a person should know: paths that were shortened.

    Raises:
        HubError: a secret is in it.
    """
    from seqrl.hub.privacy import clean
    from seqrl.hub.secrets import refuse_secrets

    folder.mkdir()
    about = _parquet.write_parquet((store.episode(i) for i in range(len(store))), store.spec, folder)
    card = write_card(store, about, repo, license)
    # Only texts can hold what must not be published, and the tables of numbers are too large to be looked through for nothing.
    with tempfile.TemporaryDirectory(prefix="seqrl-texts-") as place:
        texts = Path(place)
        (folder / _parquet.SPEC).rename(texts / _parquet.SPEC)
        (texts / "README.md").write_text(card, encoding="utf-8")
        notes = clean(texts)
        for name in ("texts.json", "episodes.arrow"):
            (texts / name).write_bytes((store.path / name).read_bytes())
        refuse_secrets(texts)
        for name in (_parquet.SPEC, "README.md"):
            (folder / name).write_bytes((texts / name).read_bytes())
    return notes


def _ours(state: State | None) -> list[str]:
    """The files of an earlier publication; those that are no longer written will be gone."""
    return [n for n in (state.files if state else ()) if _parquet.STEPS.fullmatch(n) or _parquet.EPISODES.fullmatch(n)]
