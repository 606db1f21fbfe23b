"""The JSON Schema of recipes, for editors: ``python -m seqrl.train.schema`` writes ``recipes/schema.json``."""

import json
from typing import Any

from seqrl.core import kinds, shelf
from seqrl.core.config import Frozen
from seqrl.train.check import settings_model
from seqrl.train.recipe import Recipe


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, with every shipped kind's settings, for editors; kept in ``recipes/schema.json``."""
    schema = Recipe.model_json_schema()
    models = [f"{room}.{n}" for room in ("policies", "worlds", "encoders") for n in kinds.names(room)]
    schema["properties"]["model"] = {"anyOf": [_inline(settings_model(k), k) for k in models]}
    entries = []
    for name in kinds.names("sources"):
        one = _inline(kinds.load(name, "sources").Config, name)
        one["properties"] |= {"weight": {"type": "number"}, "top": {"type": "number"}}
        entries.append(one)
    schema["$defs"]["DataConfig"]["properties"]["sources"]["items"] = {"anyOf": entries}
    codecs = [_inline(kinds.load(n, "tokens").Config, n) for n in kinds.names("tokens")]
    for one in codecs:
        one["properties"]["from"] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    schema["$defs"]["TokensConfig"]["properties"]["slots"]["additionalProperties"] = {"anyOf": codecs}
    return schema


def _inline(model: type[Frozen], kind: str) -> dict[str, Any]:
    one = model.model_json_schema()
    one["properties"]["kind"] = {"const": kind}
    one["required"] = sorted({*one.get("required", []), "kind"})
    return one


if __name__ == "__main__":
    (shelf.folder("recipes") / "schema.json").write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
