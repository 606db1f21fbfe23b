"""Examples of every reader, made once for the tests of this folder, in a process that knows where its helpers lie."""

import sys
from pathlib import Path

import pytest

# The helpers are a package, so that ``python -m tests.fuzz`` runs them as well; pytest's own way of importing adds no folder.
ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


@pytest.fixture(scope="session")
def examples(tmp_path_factory):
    """``examples(name)``: the valid examples of a reader, and the reader."""
    from tests.fuzz.readers import READERS
    from tests.fuzz.work import Examples

    known, home, made = {r.name: r for r in READERS}, tmp_path_factory.mktemp("examples"), {}

    def of(name):
        if name not in made:
            reader = known[name]
            kind = reader.make.__qualname__.replace(".<locals>.", "-")
            made[name] = Examples(reader, home / (f"{kind}-{name}" if "<" in reader.make.__qualname__ else kind))
        return made[name]

    return of
