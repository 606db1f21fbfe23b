import pytest
from pydantic import Field

from seqrl.core.config import Frozen, apply_overrides, parse_yaml, validate
from seqrl.core.errors import RecipeError, all_of


class Inner(Frozen):
    n_layer: int = 3
    lr: float = 1e-3


class Outer(Frozen):
    name: str
    inner: Inner = Inner()
    items: list[Inner] = []
    share: float = Field(0.5, gt=0, le=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("3E4", 3e4),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-2.", -2.0),
        ("12", 12),
        ("1e-3x", "1e-3x"),
        ("v1.0.0", "v1.0.0"),
        ("1_000", 1000),
    ],
)
def test_numbers_are_what_people_mean(text, value):
    got = parse_yaml(f"a: {text}", "x.yaml")[0]["a"]
    assert got == value
    assert type(got) is type(value)


def test_every_mistake_at_once_with_its_line_and_a_suggestion():
    text = "name: x\ninner:\n  n_layers: 4\n  lr: fast\nshare: 2\nitems:\n  - lr: 1\n    n_leyer: 2\n"
    raw, where = parse_yaml(text, "r.yaml")
    with pytest.raises(RecipeError) as e:
        validate(Outer, raw, where, "r.yaml")
    lines = str(e.value).splitlines()
    assert len(lines) == 4
    assert any(line.startswith("r.yaml:3: inner.n_layers: unknown key; did you mean 'n_layer'?") for line in lines)
    assert any(line.startswith("r.yaml:4: inner.lr:") and "'fast'" in line for line in lines)
    assert any(line.startswith("r.yaml:5: share:") for line in lines)
    assert any(line.startswith("r.yaml:8: items.0.n_leyer: unknown key; did you mean 'n_layer'?") for line in lines)


def test_overrides_reach_into_mappings_and_lists_and_are_blamed_by_their_text():
    raw, where = parse_yaml("name: x\nitems:\n  - lr: 1\n", "r.yaml")
    raw = apply_overrides(raw, ["inner.lr=1e-4", "items.0.n_layer=7", "name=y=z"], where)
    got = validate(Outer, raw, where, "r.yaml")
    assert (got.inner.lr, got.items[0].n_layer, got.name) == (1e-4, 7, "y=z")
    raw = apply_overrides(raw, ["inner.lrr=3"], where)
    with pytest.raises(RecipeError, match=r"command line 'inner.lrr=3': inner.lrr: unknown key; did you mean 'lr'"):
        validate(Outer, raw, where, "r.yaml")


@pytest.mark.parametrize("bad", ["novalue", "=3", "items.9.lr=1", "name.deeper=1", "items.x=1"])
def test_an_override_that_leads_nowhere(bad):
    raw, where = parse_yaml("name: x\nitems:\n  - lr: 1\n", "r.yaml")
    with pytest.raises(RecipeError, match="command line"):
        apply_overrides(raw, [bad], where)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "r.yaml:1"),
        ("a: 1\na: 2", "r.yaml:2: 'a' stands there twice"),
        ("a: !!python/object:os.system x", "r.yaml"),
        ("? [1]\n: 2", "r.yaml:1: a key"),
    ],
)
def test_what_is_no_yaml_says_where(text, said):
    with pytest.raises(RecipeError, match=said):
        parse_yaml(text, "r.yaml")


def test_aliases_of_aliases_do_not_fill_the_memory():
    shared, _ = parse_yaml("a: &x [1, 2]\nb: *x", "r.yaml")
    assert shared == {"a": [1, 2], "b": [1, 2]}
    lines = ["a0: &a0 [1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(RecipeError, match=r"r.yaml:\d+: more than 100,000 values"):
        parse_yaml("\n".join(lines), "r.yaml")
    with pytest.raises(RecipeError, match="this is no YAML"):
        parse_yaml("a: &x [*x]", "r.yaml")


def test_of_very_many_mistakes_the_first_are_told():
    assert all_of(["a", "b", "a"]) == "a\nb"
    assert all_of([str(i) for i in range(5_000)]).splitlines()[-2:] == ["49", "... and 4,950 more like these"]
