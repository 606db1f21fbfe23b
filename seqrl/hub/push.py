"""Publishing a run: what will change is shown, and then it is one commit, or nothing.

A run remembers its last push, so that it notices what others have done between two of its own; what they do in the same moment
is refused by the Hub (``sending``).
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrl.core.errors import HubError
from seqrl.hub import publication, sending
from seqrl.hub.difference import Change, compare
from seqrl.hub.staging import Staged, retag, stage
from seqrl.remote.client import address, api, ask, note
from seqrl.remote.download import MissingError, State, fetch
from seqrl.remote.names import Repo


@dataclass(frozen=True)
class Pushed:
    """What came of a push: where it lies, the commit and its tag (None where nothing was sent), what changed, and notes."""

    url: str
    commit: str | None
    tag: str | None
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def push(
    name: str | Path,
    repo: str,
    private: bool = False,
    dry_run: bool = False,
    message: str | None = None,
    force: bool = False,
    license: str | None = None,
    trust: bool = False,
    show: Callable[[Sequence[Change], Sequence[str]], None] | None = None,
) -> Pushed:
    """Publishes a run, a checkpoint or a bundle.

    Args:
        name: what to publish; of a run the last checkpoint.
        repo: ``org/name``; made if there is none.
        private: make it so that only its owners see it.
        dry_run: only say what would change.
        message: of the commit; the recipe's name and the step where None.
        force: publish even if somebody else has since the run's last push; their commit stays in the history.
        license: for the card, an identifier of the Hub's such as ``apache-2.0``; None says nothing.
        trust: allow a model kind of another installed package, which is imported to see that it loads.
        show: is told the changes and notes before anything is sent.

    Raises:
        BundleError: there is no whole bundle of that name.
        HubError: it holds a secret or a path of this machine; somebody else has published meanwhile; the repository is public
            and ``private`` was asked for; no server, no right to write. Nothing is half published.
    """
    target = sending.target(repo)
    with tempfile.TemporaryDirectory(prefix="seqrl-push-") as place:
        staged = stage(name, Path(place), target.id, license, trust)
        state = sending.look(target)
        before = _written_before(target, state)
        changes = compare(staged.folder, state, before, staged.digests)
        if (tag := _other_tag(target, state, staged.step, changes)) is not None:
            # The card names the tag under which all of this will be found.
            retag(staged, target.id, license, tag)
            changes = compare(staged.folder, state, before, staged.digests)
        notes, refused = list(staged.notes), _stale(target, staged.run, state, force)
        if not refused and not force and any(c.how != "same" for c in changes):
            refused = _not_ours(target, staged, state)
        refused = sending.refused_as_public(target, state, private) or refused
        if refused and dry_run:
            notes.append(f"it would be refused: {refused}")
        if show is not None:
            show(changes, notes)
        if dry_run:
            return Pushed(sending.url(target), None, None, tuple(changes), tuple(notes))
        if refused:
            raise HubError(refused)
        if state is None:
            state = sending.make(target, private)
            changes = compare(staged.folder, state, digests=staged.digests)
        title = message or f"{staged.recipe}" + (f", step {staged.step}" if staged.step is not None else "")
        commit = sending.commit(target, staged.folder, changes, state, title)
        _remember(staged, target, commit, ())
        tag = None
        if staged.step is not None:
            tag = sending.tag(target, commit, staged.step)
            _remember(staged, target, commit, (tag,))
        return Pushed(sending.url(target), commit, tag, tuple(changes), tuple(notes))


def _other_tag(repo: Repo, state: State | None, step: int | None, changes: Sequence[Change]) -> str | None:
    """The tag that a push will have, where it is not ``step-<step>``; None where it is, or where nothing changes."""
    if state is None or step is None:
        return None
    taken = sending.tags(repo)
    mine = next((name for name in taken if taken[name] == state.commit and sending.is_tag_of(name, step)), None)
    if mine is not None and all(c.how == "same" or c.path == "README.md" for c in changes):
        # What is there already, under the name that it has.
        return None if mine == f"step-{step}" else mine
    free = sending.free_tag(taken, step)
    return None if free == f"step-{step}" else free


def _written_before(repo: Repo, state: State | None) -> list[str]:
    if state is None or publication.NAME not in state.files:
        return []
    try:
        return publication.read_files(_publication_of(repo, state))
    except MissingError:
        return []


def _stale(repo: Repo, run: Path | None, state: State | None, force: bool) -> str:
    """Why a push would be refused, or nothing: somebody else has published since this run's last one."""
    last = publication.remembered(run, address(), repo.id)
    if force or state is None or last in (None, state.commit):
        return ""
    history = ask(f"{repo} cannot be read", lambda: api().list_repo_commits(repo.id), repo)
    since = []
    for c in history:
        if c.commit_id == last:
            break
        since.append(c)
    if not since:
        # Another push of this run has just arrived.
        return ""
    newest = since[0]
    by = f" by {', '.join(newest.authors)}" if newest.authors else ""
    more = f" and {len(since) - 1} more" if len(since) > 1 else ""
    theirs = f"a commit {newest.commit_id[:8]}{by} ('{newest.title}'){more}"
    return (
        f"{repo}: since this run's last push ({last[:8]}) there is {theirs}; "
        f"look at it at {sending.url(repo)}/commits/main, then push with --force to publish over it"
    )


def _not_ours(repo: Repo, staged: Staged, state: State | None) -> str:
    """Why a push would take another publication's place unasked, or nothing: another run's, or a later step of this one."""
    if state is None or publication.NAME not in state.files:
        return ""
    there = publication.read_about(_publication_of(repo, state))
    was = f"{there['recipe']}, step {there['step']}" if there["step"] is not None else str(there["recipe"])
    now = f"{staged.recipe}, step {staged.step}" if staged.step is not None else staged.recipe
    known = publication.remembered(staged.run, address(), repo.id) is not None
    later = there["step"] is not None and staged.step is not None and there["step"] > staged.step
    if known and not later:
        return ""
    whose = "a later step of this run" if known else "another run or machine"
    return (
        f"{repo}: holds {was}, published from {whose}, and this is {now}; "
        "push with --force to put it in its place (what was there stays in the history, under its tag), or name another"
    )


def _publication_of(repo: Repo, state: State) -> Path:
    return fetch(repo.at(state.commit), [publication.NAME], limits={publication.NAME: 16 << 20}) / publication.NAME


def _remember(staged: Staged, repo: Repo, commit: str, tags: Sequence[str]) -> None:
    if staged.run is None:
        return
    try:
        publication.remember(staged.run, address(), repo.id, commit, tags)
    except OSError as e:
        what = f"{staged.run / publication.MEMORY} cannot be written ({e.strerror})"
        note(f"{what}; the next push of this run will not notice what others have done")
