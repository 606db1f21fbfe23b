"""The flat files: complete, nothing but relative imports, and stand-ins that mean what they stand for."""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.errors import UserError
from seqrl.data.slots import TokensConfig
from seqrl.hub import portable_files
from seqrl.hub._plain import settings as plain
from seqrl.hub.portable import make_portable


def imports(file):
    return [n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Import | ast.ImportFrom)]


def test_every_file_imports_files_that_are_there_and_transformers_own_packages(portables):
    from transformers.dynamic_module_utils import get_imports, get_relative_import_files

    allowed = portable_files.ALLOWED | set(sys.stdlib_module_names)
    for folder in portables.values():
        for file in folder.glob("*.py"):
            assert set(get_imports(file)) <= allowed, file
            for node in imports(file):
                if isinstance(node, ast.ImportFrom) and node.level:
                    names = [node.module] if node.module else [a.name for a in node.names]
                    assert all((folder / f"{name}.py").is_file() for name in names), file
        # What transformers brings along for the three classes is all there is.
        entries = [json.loads((folder / f).read_text())["auto_map"] for f in ("config.json", "processor_config.json")]
        found = set()
        for where in {v.partition(".")[0] for entry in entries for v in entry.values()}:
            found |= {f"{where}.py", *(Path(f).name for f in get_relative_import_files(folder / f"{where}.py"))}
        assert found == {f.name for f in folder.glob("*.py")}


def test_the_files_say_whose_they_are_and_hold_no_path(portables):
    for file in portables["gato"].glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# Copyright")
        assert "Apache License" in text.splitlines()[0]
        assert str(kinds.HOUSE) not in text
        assert ast.get_docstring(ast.parse(text))


def test_what_was_there_stays_and_seqrl_loads_it_as_before(bundle_of):
    folder = bundle_of("decision")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    written = make_portable(folder)
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(written) == set(after) - set(before)
    assert {n for n in before if after[n] != before[n]} == {"config.json"}
    assert make_portable(folder) == written
    bundle.load(folder)


def test_only_what_is_named_comes_along(portables):
    names = {p.name for p in portables["decision"].glob("*.py")}
    assert {"seqrl_tokens_scale.py", "seqrl_tokens_vector.py"} <= names
    assert not [n for n in names if n.startswith(("seqrl_worlds", "seqrl_context", "seqrl_train", "seqrl_tokens_bins"))]
    assert "seqrl_worlds_rssm.py" in {p.name for p in portables["actor_critic"].glob("*.py")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["model"].update(kind="somebody.else"), "another package"),
        (lambda raw: raw.pop("model"), "names no model.kind"),
    ],
)
def test_what_cannot_go_along_is_refused_and_nothing_is_written(bundle_of, change, said):
    import yaml

    folder = bundle_of("decision")
    raw = yaml.safe_load((folder / "recipe.yaml").read_text())
    change(raw)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match=said):
        make_portable(folder)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_adapters_that_stand_beside_weights_are_refused(bundle_of):
    folder = bundle_of("vla")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"lora": {"rank": 4}}))
    with pytest.raises(UserError, match="peft"):
        make_portable(folder)


def test_a_module_that_needs_more_than_transformers_brings_is_refused():
    with pytest.raises(UserError, match="needs the package 'gymnasium'"):
        portable_files.gather(["seqrl.rollout.face"], [])


# ---- stand-ins ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def travelled(tmp_path_factory):
    """``travelled(module)``: a module of ours as it goes along, with settings classes that know no pydantic."""
    home = tmp_path_factory.mktemp("travelled")
    (folder := home / "travelled_files").mkdir()
    files = portable_files.gather(["seqrl.data.slots"], [f"tokens.{name}" for name in CODECS])
    for name, text in {**files, "__init__.py": ""}.items():
        (folder / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(home))
    yield lambda module: importlib.import_module(f"{folder.name}.{portable_files.flat_name(module)}")
    sys.path.remove(str(home))


CODECS = {
    "bins": [{}, {"bins": "7", "range": [-1, 1]}, {"spacing": "quantile"}],
    "scale": [{}, {"by": 3}, {"by": "auto"}, {"by": 2.5}],
    "vector": [{}, {"clip": 1, "scale": "bounds"}],
    "mulaw": [{"mu": 50}],
    "levels": [{"most": 4}],
    "discrete": [{}],
    "patches": [{}, {"encoder": "conv", "values": 11}, {"encoder": "cells", "names": [["a", None]]}, {"size": 4}],
    "fast": [{"chunk": 4, "scale": 2}],
}


@pytest.mark.parametrize("name", CODECS)
def test_settings_without_pydantic_have_the_same_values(travelled, name):
    ours, theirs = importlib.import_module(f"seqrl.tokens.{name}"), travelled(f"seqrl.tokens.{name}")
    for raw in CODECS[name]:
        a, b = ours.Config(**raw).model_dump(), theirs.Config(**raw).model_dump()
        assert a == b
        assert [type(v) for v in a.values()] == [type(v) for v in b.values()]


class Inner(plain.Frozen):
    share: float = plain.Field(0.25, ge=0)
    steps: int = 8


class Outer(plain.Frozen):
    inner: Inner | None = None
    each: dict[str, Inner] = {}


def test_nested_settings_have_the_same_values():
    made = Outer(inner={"share": 1}, each={"a": {"steps": "3"}})
    assert made.model_dump() == {"inner": {"share": 1.0, "steps": 8}, "each": {"a": {"share": 0.25, "steps": 3}}}
    assert made.inner == Inner(share=1.0)
    assert made.model_copy(update={"inner": None}).inner is None
    assert Outer().each is not Outer().each
    with pytest.raises(AttributeError):
        made.inner = None
    with pytest.raises(UserError, match="unknown setting 'outer'"):
        Outer(outer=1)


def test_the_tokens_of_a_recipe_have_the_same_values(travelled):
    raw = {
        "layout": "task | state action > reward",
        "pack": 64,
        "slots": {"state": {"kind": "bins"}},
        "domains": {"a": {"layout": "state action", "slots": {"action": {"kind": "discrete"}}}},
        "prompts": {"share": 0.5},
    }
    slots = travelled("seqrl.data.slots")
    ours, theirs = TokensConfig(**raw), slots.TokensConfig(**raw)
    assert ours.model_dump() == theirs.model_dump()
    assert ours.of_domain("a").model_dump() == theirs.of_domain("a").model_dump()
    assert TokensConfig(**ours.model_dump()).model_dump() == slots.TokensConfig(**theirs.model_dump()).model_dump()
