"""What the README says is true: its Python runs, its commands and links exist, and so does every file it names."""

import re
from pathlib import Path

import pytest

import seqrl
from seqrl.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# The README trains for minutes; here the same lines run on a handful of episodes.
TINY = {
    "data": {"sources": {"0": {"episodes": 12}}},
    "model": {"width": 16, "layers": 1, "heads": 1},
    "train": {"steps": 3, "batch": 4, "validate_windows": 4},
    "evaluate": {"episodes": 2, "targets": [100]},
}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("SEQRL_CACHE", str(tmp_path / "cache"))
    run, evaluate = seqrl.run, seqrl.evaluate
    monkeypatch.setattr(seqrl, "run", lambda recipe, **settings: run(recipe, **{**TINY, **settings}))
    monkeypatch.setattr(seqrl, "evaluate", lambda run, **settings: evaluate(run, **{**settings, "episodes": 2}))
    (example,) = _blocks("python")
    scope: dict[str, object] = {}
    exec(example, scope)
    assert "asked for 100, got" in capsys.readouterr().out
    assert (tmp_path / "runs" / "cartpole" / "report.html").is_file()
    assert hasattr(scope["policy"], "act")


def _commands() -> list[list[str]]:
    """Every ``seqrl …`` in the README's code, in blocks and in lines, as words."""
    lines = [line.split("#")[0] for block in _blocks("sh") for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", README)
    found = [re.sub(r".*\bbin/", "", line).split() for line in lines if re.match(r"(\S*bin/)?seqrl ", line)]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_every_command_exists(words):
    assert words[1] in app.DOORS
    command = app.open_door(words[1])
    rest = words[2:]
    if hasattr(command, "commands") and rest:
        assert rest[0].rstrip(",") in command.commands
        command, rest = command.commands[rest[0].rstrip(",")], rest[1:]
    flags = {flag for p in command.params for flag in p.opts} | {"--help", "--debug"}
    assert not [w for w in rest if w.startswith("--") and w not in flags]


def test_the_table_lists_every_command_and_subcommand():
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `seqrl "))
    for name in app.DOORS:
        assert f"`seqrl {name}" in table, name
        for sub in getattr(app.open_door(name), "commands", {}):
            assert re.search(rf"`(seqrl {name} )?{sub}`", table), f"seqrl {name} {sub}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    pages = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make (\w+)", pages, re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{t}:", makefile, re.MULTILINE) for t in targets)


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(f"docs/adr/{p.name}" for p in (ROOT / "docs" / "adr").glob("*.md"))]
)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in link or (page.parent / link).exists(), link


def test_the_map_names_every_room():
    house = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for room in (p for p in (ROOT / "seqrl").iterdir() if (p / "__init__.py").is_file()):
        assert f"| `{room.name}` |" in house
