"""The house holds: who imports whom, no circles, shelves without code, an opening sentence in every file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ROOT / "seqrl"
SHELVES = ("recipes", "tokenizers", "hub")

RUN_WING = {"remote", "sources", "tokens", "data", "bundle", "rollout", "report", "train", "core"}
MAY_IMPORT = {
    "core": set(),
    "context": set(),
    "sources": {"remote", "core"},
    "tokens": {"core"},
    "data": {"sources", "tokens", "core"},
    "remote": {"core"},
    "bundle": {"remote", "data", "sources", "tokens", "core"},
    "rollout": {"bundle", "data", "sources", "tokens", "core"},
    "report": {"rollout", "bundle", "data", "sources", "tokens", "core"},
    "train": RUN_WING - {"train"},
    "bench": RUN_WING,
    "hub": RUN_WING - {"train"},
    # The model wing: it meets the run wing in core/contracts.py and nowhere else.
    "nn": {"core"},
    "policies": {"nn", "core"},
    "encoders": {"nn", "core"},
    "worlds": {"nn", "encoders", "core"},
    "cli": {*RUN_WING, "hub", "bench"},
    # The package itself and `python -m seqrl` stand above all rooms.
    "__init__": {*RUN_WING, "hub"},
    "__main__": {"cli"},
}
DRAWN_EXCEPTIONS = {("nn.attention", "context"), ("train.engine", "context")}
# Torch takes a second to import, and the command line must answer at once.
WITHOUT_TORCH = (
    "core",
    "remote",
    "sources",
    "tokens",
    "cli",
    "data.store",
    "rollout.envs",
    "rollout.scores",
    "rollout.stats",
    "bench",
)
HEAVY = ("torch", "transformers", "accelerate", "deepspeed", "safetensors.torch")

FILES = {".".join(p.relative_to(HOUSE).with_suffix("").parts): p for p in sorted(HOUSE.rglob("*.py"))}


def _imports(path: Path) -> list[tuple[str, bool, bool]]:
    """(dotted module, inside a function, for type checkers only) of every import in a file."""
    found = []

    def walk(node: ast.AST, inner: bool, typing: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = True
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            typing = True
        if isinstance(node, ast.Import):
            found.extend((a.name, inner, typing) for a in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            for a in node.names:
                submodule = f"{node.module}.{a.name}".removeprefix("seqrl.")
                is_module = node.module.startswith("seqrl") and (submodule in FILES or f"{submodule}.__init__" in FILES)
                found.append((f"{node.module}.{a.name}" if is_module else node.module, inner, typing))
        for child in ast.iter_child_nodes(node):
            walk(child, inner, typing)

    walk(ast.parse(path.read_text(encoding="utf-8")), False, False)
    return found


def _own(name: str) -> str | None:
    """``bundle`` for ``seqrl.bundle``; None for what is not ours."""
    return name.removeprefix("seqrl.") if name.startswith("seqrl.") else None


@pytest.mark.parametrize("name", FILES)
def test_each_room_imports_only_what_stands_below_it(name):
    room = name.partition(".")[0]
    assert room in MAY_IMPORT, f"a new room '{room}': say in this table what it may import"
    for imported, _, _ in _imports(FILES[name]):
        there = (_own(imported) or "").partition(".")[0]
        if there and there != room and (name, there) not in DRAWN_EXCEPTIONS:
            assert there in MAY_IMPORT[room], f"seqrl/{name.replace('.', '/')}.py imports seqrl.{there}"


@pytest.mark.parametrize("name", [n for n in FILES if any(n == w or n.startswith(f"{w}.") for w in WITHOUT_TORCH)])
def test_what_the_command_line_starts_with_needs_no_torch(name):
    at_once = [m for m, inner, typing in _imports(FILES[name]) if not inner and not typing]
    assert not [m for m in at_once if any(m == h or m.startswith(f"{h}.") for h in HEAVY)]


def test_no_import_circles():
    graph = {}
    for name, path in FILES.items():
        there = {_own(m) for m, _, typing in _imports(path) if not typing}
        graph[name] = {m if m in FILES else f"{m}.__init__" for m in there if m} & set(FILES)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "import circle: " + " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("shelf", SHELVES)
def test_a_shelf_holds_no_code(shelf):
    assert (ROOT / shelf).is_dir()
    assert not list((ROOT / shelf).rglob("*.py"))


def test_the_shelves_do_not_hide_the_libraries_of_their_name():
    said = subprocess.run(
        [sys.executable, "-c", "import tokenizers, transformers; print(tokenizers.__version__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("name", FILES)
def test_every_file_opens_with_a_sentence(name):
    said = ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8"))) or ""
    assert len(said) >= 30, f"{name}: a stranger does not learn what this file is"
    assert said.strip().splitlines()[0][0].isupper() or said.startswith("``")


def _texts() -> list[Path]:
    """Every text file of the repository that git does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [ROOT / f for f in listed.stdout.split("\0") if f]
    return [f for f in files if f.is_file() and b"\0" not in f.read_bytes()[:4096]]


def test_no_file_names_a_place_on_somebody_s_machine():
    # Put together here, so that this file does not name them either.
    places = ["/" + word + "/" for word in ("work", "tmp", "root", "home")]
    found = [
        f"{f.relative_to(ROOT)}: {p}" for f in _texts() for p in places if p in f.read_text(encoding="utf-8", errors="replace")
    ]
    assert not found
