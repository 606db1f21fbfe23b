"""``seqrl recipes``: what stands on the shelf, one of it, a copy of one."""

import pytest

from seqrl.core import shelf
from seqrl.core.errors import RecipeError

RECIPE = """# yaml-language-server: $schema=schema.json
# Decision Transformer on a pole [with brackets]
#
# paper: Chen et al. 2021, arXiv 2106.01345
# command: seqrl train dt_pole
# hardware: 2 CPU cores
# minutes: 3
# expected: target 500 gets
#   at least 400
name: dt_pole  # not part of the header
# minutes: 99
"""


@pytest.fixture(autouse=True)
def house(tmp_path, monkeypatch):
    """A shelf of two recipes, standing where a checkout has it."""
    home = tmp_path / "house" / "seqrl"
    (home.parent / "recipes" / "engines").mkdir(parents=True)
    home.mkdir()
    (home.parent / "recipes" / "dt_pole.yaml").write_text(RECIPE)
    (home.parent / "recipes" / "bc_pole.yaml").write_text("name: bc_pole\n")
    (home.parent / "recipes" / "schema.json").write_text("{}")
    (home.parent / "recipes" / "engines" / "zero2.yaml").write_text("")
    monkeypatch.setattr(shelf, "HOUSE", home)
    monkeypatch.chdir(tmp_path)
    return home


def test_header():
    said = shelf.header(RECIPE)
    assert said["title"] == "Decision Transformer on a pole [with brackets]"
    assert said["paper"] == "Chen et al. 2021, arXiv 2106.01345"
    assert said["expected"] == "target 500 gets at least 400"
    assert said["minutes"] == "3"
    assert "$schema" not in str(said)
    assert shelf.header("name: x\n# title: y") == {}


def test_ls(seqrl):
    code, out, _ = seqrl("recipes", "ls")
    assert code == 0
    line = next(line for line in out.splitlines() if "dt_pole" in line)
    assert "[with brackets]" in line
    assert "target 500 gets at least 400" in line
    assert line.rstrip().endswith("3")
    assert "bc_pole" in out
    assert "zero2" not in out


def test_an_installed_wheel_has_its_shelf_inside(house, seqrl):
    (house / "_shipped" / "recipes").mkdir(parents=True)
    (house / "_shipped" / "recipes" / "inside.yaml").write_text("name: inside\n")
    assert shelf.names("recipes") == ["inside"]


def test_show_is_the_file(seqrl):
    assert seqrl("recipes", "show", "dt_pole") == (0, RECIPE, "")


def test_show_takes_a_file(seqrl, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    assert seqrl("recipes", "show", "mine.yaml")[1] == "name: mine\n"


WRONG = [
    ("dt_pola", "no recipe 'dt_pola'; did you mean 'dt_pole'?"),
    ("zzz", "no recipe 'zzz' (there are: bc_pole, dt_pole;"),
    ("elsewhere/dt_pole.yaml", "elsewhere/dt_pole.yaml: there is no such file; the shelf has one of that name: 'dt_pole'"),
    ("dt_pole.yml", "dt_pole.yml: there is no such file; the shelf has one of that name: 'dt_pole'"),
    ("house", "house: this is a folder, not a recipe file"),
]


@pytest.mark.parametrize(("name", "message"), WRONG)
def test_unknown_names(name, message, seqrl):
    code, _, err = seqrl("recipes", "show", name)
    assert code == 2
    assert err.startswith(f"seqrl: {message}")


def test_a_shelf_name_wins_over_a_file_without_ending(tmp_path):
    (tmp_path / "dt_pole").write_text("something else")
    assert shelf.text("recipes", "dt_pole") == RECIPE


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        shelf.text("recipes", "x.yaml")


def test_cp(seqrl, tmp_path, house):
    code, out, _ = seqrl("recipes", "cp", "dt_pole", "mine.yaml")
    assert code == 0
    assert "seqrl check mine.yaml" in out
    copied = (tmp_path / "mine.yaml").read_text()
    first, rest = copied.split("\n", 1)
    assert rest == RECIPE.split("\n", 1)[1]
    assert first.endswith(f"$schema={house.parent / 'recipes' / 'schema.json'}"), "an editor finds the schema from the copy"


def test_cp_into_a_folder_keeps_the_name(seqrl, tmp_path):
    (tmp_path / "folder").mkdir()
    assert seqrl("recipes", "cp", "bc_pole", "folder")[0] == 0
    assert (tmp_path / "folder" / "bc_pole.yaml").read_text() == "name: bc_pole\n"


def test_cp_never_writes_over_a_file_unasked(seqrl, tmp_path):
    (tmp_path / "mine.yaml").write_text("precious")
    code, _, err = seqrl("recipes", "cp", "dt_pole", "mine.yaml")
    assert code == 2
    assert "--force" in err
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert seqrl("recipes", "cp", "dt_pole", "mine.yaml", "--force")[0] == 0
    assert "dt_pole" in (tmp_path / "mine.yaml").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["house", "mine.yaml"], "nothing half-written is left"


def test_cp_into_nowhere(seqrl):
    code, _, err = seqrl("recipes", "cp", "dt_pole", "nowhere/mine.yaml")
    assert code == 2
    assert "there is no folder nowhere" in err
