"""Publishing a bundle of 100 MB, against copying it and computing its sha256.

The bundle has random weights; before each turn some of them change, so that every turn moves all of them. The practice Hub
runs in a process of its own on this machine, as ``seqrl hub serve`` does. A push computes a sha256 before it sends, because the
Hub wants to know what is coming, and the Hub computes it again of what arrived; so two copies stand beside it: held against its
sha256 once, and on both sides. To reach: 1.5 times a plain copy plus hashing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import _data
from _timing import Case, interleave, options, show, spread, table, verdict

from seqrl import bundle
from seqrl.hub import sending, staging
from seqrl.hub.difference import compare
from seqrl.hub.push import push
from seqrl.policies.decision import DecisionTransformer, DecisionTransformerConfig
from seqrl.train import recipe as recipes

RECIPE = """
name: large
data: {sources: [{kind: minari, id: synthetic/hopper-v0}]}
model: {kind: policies.decision, width: 512, layers: 8, heads: 8}
"""

_SERVE = """
import sys
from pathlib import Path
from seqrl.hub.practice import PracticeHub
with PracticeHub(Path(sys.argv[1])) as hub:
    print(hub.url, hub.token, flush=True)
    sys.stdin.read()
"""


def make(folder: Path) -> Path:
    """A bundle of 109 MB with random weights, and its weights' file."""
    tokenizer = _data.loader(5000).tokenizer
    config = DecisionTransformerConfig.for_ports(tokenizer.ports(), tokenizer.context, width=512, layers=8, heads=8)
    recipe = recipes.parse(RECIPE, "large.yaml").dump()
    bundle.save(folder, DecisionTransformer(config), tokenizer, recipe, {"step": 1})
    return folder / "model.safetensors"


def main() -> None:
    args = options(__doc__, rounds=7).parse_args()
    with tempfile.TemporaryDirectory(prefix="push-", dir=_data.at_home().parent) as place:
        root, numbers = Path(place), count(1)
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(root / "hub")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        url, token = server.stdout.readline().split()
        os.environ |= {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HOME": str(root / "cache"), "HF_HUB_DISABLE_XET": "1"}
        weights = make(root / "bundle")
        megabytes = weights.stat().st_size / 1e6

        def change() -> int:
            """Other weights in the same file: 64 bytes at its end."""
            n = next(numbers)
            with weights.open("r+b") as file:
                file.seek(-64, os.SEEK_END)
                file.write(b"%064d" % n)
            return n

        def digest(path: Path) -> str:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

        def copied(both: bool) -> None:
            target = root / f"copy-{change()}"
            first = digest(weights) if both else None
            shutil.copyfile(weights, target)
            if digest(target) != first and both:
                raise OSError(f"{target}: differs")

        def pushed() -> None:
            change()
            push(root / "bundle", "me/large", force=True)

        def sent() -> None:
            """What is left of a push when the folder is ready."""
            change()
            state = sending.look(repo)
            sending.commit(repo, staged, compare(staged, state), state, "again")

        repo, staged = sending.target("me/sent"), root / "staged"
        staged.mkdir()
        staging.stage(root / "bundle", staged, repo.id)
        sending.make(repo, private=False)
        cases = {
            "copy, sha256 of the copy": lambda: copied(False),
            "sha256, copy, sha256 of the copy": lambda: copied(True),
            "push: sending": sent,
            "push: all of it": pushed,
        }
        try:
            times = interleave([Case(n, f) for n, f in cases.items()], args.rounds)
        finally:
            server.communicate("", timeout=30)
    once, twice, part, whole = (times[n] for n in cases)
    rows = [(n, spread(t.wall), spread(t.wall / once.wall), spread(t.wall / twice.wall)) for n, t in times.items()]
    head = ("", "seconds", "times the copy hashed once", "times the copy hashed on both sides")
    verdicts = [
        verdict("a whole push, times a copy hashed once", 1 / whole.faster_than(once), 1.5, at_least=False),
        verdict("a whole push, times a copy hashed on both sides", 1 / whole.faster_than(twice), 1.5, at_least=False),
        verdict("its sending, times a copy hashed on both sides", 1 / part.faster_than(twice), 1.5, at_least=False),
    ]
    show(f"publishing {megabytes:.0f} MB, against copying and hashing them", [table(head, rows), *verdicts], args.record)


if __name__ == "__main__":
    main()
