"""Writes the specs of the datasets that the shelf's recipes name, and the first losses. Run it where the data are:

MINARI_DATASETS_PATH=... python tests/golden/_make.py           # specs.json, of the datasets that are there
python tests/golden/_make.py losses                             # losses.json, after a change that is meant to move them
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def specs() -> None:
    from seqrl.core import shelf
    from seqrl.data.dataset import _source
    from seqrl.train import recipe as recipes

    found = {}
    for name in shelf.names("recipes"):
        for i, raw in enumerate(recipes.load(name).data.sources):
            if raw["kind"] == "minari" and raw["id"] not in found:
                found[raw["id"]] = _source(raw, i).spec.to_json() | {"about": {}}
    (HERE / "specs.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def losses() -> None:
    sys.path.insert(0, str(HERE))
    from test_first_losses import first_losses, names

    found = {name: first_losses(name) for name in names()}
    (HERE / "losses.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    losses() if "losses" in sys.argv else specs()
