"""What could be a repository's name, and what surely is a path."""

import pytest

from seqrl.core.errors import HubError
from seqrl.remote.names import Repo, read_name

NAMES = {
    "org/name": Repo("org/name"),
    "org/name@step-2000": Repo("org/name", "step-2000"),
    "hf://org/name": Repo("org/name"),
    "hf://org/na.me-1_x@refs/pr/1": Repo("org/na.me-1_x", "refs/pr/1"),
    "hf://datasets/org/name": Repo("org/name", None, "dataset"),
    "hf://models/org/name@0123abc": Repo("org/name", "0123abc"),
}
PATHS = ["name", "./org/name", "../name", "/org/name", "~/name", "a/b/c", "a\\b", "org/", "org/na me", "org/name/", "org/.name"]
PATHS += [
    "org/a..b",
    "org/a--b",
    "org/name@",
    "org/name@a@b",
    "org/name@../../x",
    "datasets/org/name",
    "órg/name",
    "",
    "org/name\n",
    "org/name@/etc/x",
    "org/name@a:b",
    "org/name@a/",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_read(name):
    assert read_name(name) == NAMES[name]


@pytest.mark.parametrize("name", PATHS)
def test_anything_else_is_a_path_and_nothing_with_the_scheme_before_it(name):
    assert read_name(name) is None
    if name != "datasets/org/name":
        with pytest.raises(HubError, match="no repository is called so"):
            read_name(f"hf://{name}")


def test_the_revision_may_stand_beside_the_name_but_not_against_it():
    assert read_name("org/name", "v1") == read_name("org/name@v1", "v1") == Repo("org/name", "v1")
    with pytest.raises(HubError, match="the name says revision v1, and revision=v2"):
        read_name("org/name@v1", "v2")


def test_a_repository_prints_as_its_name():
    assert [str(read_name(n)) for n in ("hf://org/name@v1", "hf://datasets/org/name")] == ["org/name@v1", "datasets/org/name"]
    assert str(Repo("org/name").at("v2")) == "org/name@v2"
