"""Names of repositories: ``org/name``, ``org/name@revision`` and ``hf://[datasets/]org/name[@revision]``.

A name without ``hf://`` looks just like a path of two words. Which of the two is meant is for the caller to find out on disk;
here it is only said whether the words could be a repository at all.
"""

import re
from dataclasses import dataclass, replace

from seqrl.core.errors import HubError

SCHEME = "hf://"
_WORD = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
# What git allows in the name of a branch, less what could make a path of it that leads elsewhere.
_REVISION = r"(?!/)[^@\s\\:~^?*\[\]\"'<>|]+(?<!/)"
_NAME = re.compile(rf"(?:(?P<kind>models|datasets)/)?(?P<id>{_WORD}/{_WORD})(?:@(?P<revision>{_REVISION}))?", re.ASCII)


@dataclass(frozen=True)
class Repo:
    """A repository, and which state of it: a branch, a tag or a commit; None is the newest."""

    id: str
    revision: str | None = None
    kind: str = "model"

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"{kind}{self.id}" + (f"@{self.revision}" if self.revision else "")

    def at(self, revision: str) -> "Repo":
        """The same repository in another state."""
        return replace(self, revision=revision)


def read_name(name: str, revision: str | None = None) -> Repo | None:
    """The repository that a name means, or None where it cannot be one's.

    Args:
        name: as above; without ``hf://`` only ``org/name[@revision]``, so that three words are always a path.
        revision: the state that is wanted, where the name does not say it.

    Raises:
        HubError: the name begins with ``hf://`` and is none, ``revision`` is none, or the two contradict each other.
    """
    surely = name.startswith(SCHEME)
    found = _NAME.fullmatch(name.removeprefix(SCHEME))
    usable = found and not any(bad in name for bad in ("..", "--"))
    # "models/x" alone is one's account called models; three words without the scheme are a path.
    if not usable or (found["kind"] and not surely):
        if surely:
            raise HubError(f"{name}: no repository is called so; hf://org/name, or hf://org/name@revision")
        return None
    if revision and (".." in revision or not re.fullmatch(_REVISION, revision)):
        raise HubError(f"{name}: '{revision}' is no branch, tag or commit")
    if revision and found["revision"] and revision != found["revision"]:
        raise HubError(f"{name}: the name says revision {found['revision']}, and revision={revision} was given besides")
    return Repo(found["id"], found["revision"] or revision, "dataset" if found["kind"] == "datasets" else "model")
