"""Sending files to a repository: one commit on top of the state they were compared with, or nothing.

The Hub refuses the commit if that state has moved. If the connection is lost while the commit is on its way, the repository is
looked at before anything is sent again: it may have arrived.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seqrl.core.errors import HubError
from seqrl.hub.difference import Change, compare
from seqrl.remote.client import NoAnswerError, address, api, ask
from seqrl.remote.failures import NoRepositoryError
from seqrl.remote.names import Repo, read_name
from seqrl.remote.state import State, state_of


def target(name: str, kind: str = "model") -> Repo:
    """The repository to publish at; raises HubError where the name is none, is of another kind, or names a state."""
    repo = read_name(name)
    if repo is None or repo.kind not in ("model", kind):
        raise HubError(f"{name}: this is no repository's name; say where to publish as org/name")
    if repo.revision:
        raise HubError(f"{name}: a push goes to the repository's newest state; leave @{repo.revision} out")
    return Repo(repo.id, None, kind)


def url(repo: Repo) -> str:
    """The repository's page."""
    return f"{address()}/{repo}"


def look(repo: Repo) -> State | None:
    """The repository as it is, or None where there is none that we may see."""
    try:
        return state_of(repo)
    except NoRepositoryError:
        return None


def make(repo: Repo, private: bool) -> State:
    """A new repository; if everything after this fails it is empty, and the next push fills it.

    Raises:
        HubError: it may not be made here, or somebody has just made it otherwise.
    """
    client = api()

    def create() -> Any:
        return client.create_repo(repo.id, repo_type=repo.kind, private=private or None, exist_ok=True)

    ask(f"{repo} cannot be made", create, repo)
    state = state_of(repo)
    if private and not state.private:
        raise HubError(f"{repo}: somebody has just made this repository, and it is public; nothing was published")
    return state


def refused_as_public(repo: Repo, state: State | None, private: bool) -> str:
    """Why a push that should be private would be refused, or nothing."""
    if not private or state is None or state.private:
        return ""
    return f"{repo}: this repository is public, and --private does not change that; do so in its settings first"


def commit(repo: Repo, folder: Path, changes: Sequence[Change], state: State, title: str) -> str:
    """Sends the changes as one commit on top of ``state``.

    Args:
        repo: where to. folder: the files. changes: of them, as ``compare`` found. title: of the commit.

    Returns:
        the commit's name, or the old one where nothing changes.

    Raises:
        HubError: the state has moved, or it cannot be sent; nothing was published.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    client, tried = api(), False
    operations: list[Any] = []
    for c in changes:
        if c.how == "gone":
            operations.append(CommitOperationDelete(c.path))
        elif c.how != "same":
            operations.append(CommitOperationAdd(c.path, str(folder / c.path)))
            if c.sha256:
                # Computed already; once is enough.
                operations[-1].upload_info.sha256 = bytes.fromhex(c.sha256)
    if not operations:
        return state.commit

    def arrived() -> str | None:
        """The commit right after ``state``, if it is what was to be published; others may have come after it."""
        if state_of(repo).commit == state.commit:
            return None
        history = [c.commit_id for c in client.list_repo_commits(repo.id, repo_type=repo.kind)]
        if state.commit not in history[1:]:
            return None
        then = state_of(repo.at(history[history.index(state.commit) - 1]))
        gone = [c.path for c in changes if c.how == "gone"]
        return then.commit if all(c.how == "same" for c in compare(folder, then, gone)) else None

    def send() -> str:
        nonlocal tried
        if tried and (there := arrived()):
            return there
        tried = True
        made = client.create_commit(repo.id, operations, repo_type=repo.kind, commit_message=title, parent_commit=state.commit)
        return made.oid

    try:
        return ask(f"{repo}: nothing was published", send, repo)
    except NoAnswerError:
        with suppress(HubError):
            if there := arrived():
                return there
        raise


def tags(repo: Repo) -> dict[str, str]:
    """tag -> its commit."""
    client = api()
    found = ask(f"{repo} cannot be read", lambda: client.list_repo_refs(repo.id, repo_type=repo.kind), repo)
    return {t.name: t.target_commit for t in found.tags}


def is_tag_of(name: str, step: int) -> bool:
    """Whether a tag is one that pushes of a step have."""
    return re.fullmatch(rf"step-{step}(?:\.\d+)?", name) is not None


def free_tag(taken: Mapping[str, str], step: int) -> str:
    """``step-2000``, or ``step-2000.2`` and on where that is taken."""
    name, n = f"step-{step}", 1
    while name in taken:
        n += 1
        name = f"step-{step}.{n}"
    return name


def tag(repo: Repo, commit: str, step: int) -> str:
    """Tags a commit by its step: ``step-2000``, or ``step-2000.2`` where another commit has that already."""
    client = api()

    def make() -> str:
        taken = {t.name: t.target_commit for t in client.list_repo_refs(repo.id, repo_type=repo.kind).tags}
        if mine := next((n for n in taken if taken[n] == commit and is_tag_of(n, step)), None):
            return mine
        name = free_tag(taken, step)
        client.create_tag(repo.id, tag=name, revision=commit, repo_type=repo.kind)
        return name

    return ask(f"{repo}: published as {commit[:8]}, but not tagged (push again for that)", make, repo)
