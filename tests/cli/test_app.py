"""The front door: help without heavy imports, every command attached, and one message for each kind of trouble."""

import errno
import subprocess
import sys

import pytest
import typer

from seqrl.cli import app
from seqrl.core.errors import DataError

HEAVY = ["torch", "transformers", "numpy", "minari", "gymnasium", "matplotlib", "pyarrow", "h5py", "datasets", "accelerate"]

PROBE = """
import sys
from seqrl.cli.app import main
try:
    main({words!r})
except SystemExit as e:
    print("left with", e.code or 0)
print("heavy:", [m for m in {heavy!r} if m in sys.modules])
"""


def _probe(*words: str) -> str:
    script = PROBE.format(words=list(words), heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120).stdout


def test_help_imports_nothing_heavy():
    said = _probe("--help")
    assert "left with 0" in said
    assert said.endswith("heavy: []\n")
    assert all(name in said and door.help[:20] in said for name, door in app.DOORS.items())


def test_the_shelf_is_looked_at_without_heavy_imports():
    said = _probe("recipes", "ls")
    assert "left with 0" in said
    assert said.endswith("heavy: []\n")


@pytest.mark.parametrize("name", app.DOORS)
def test_every_command_opens_and_has_help(name, seqrl):
    code, out, _ = seqrl(name, "--help")
    assert code == 0
    assert f"seqrl {name}" in out


def test_no_command_needs_torch_before_it_is_run():
    script = "import sys; from seqrl.cli import app; [app.open_door(n) for n in app.DOORS]; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120).stdout == "False\n"


def test_a_mistyped_command_is_answered_with_the_closest(seqrl):
    code, _, err = seqrl("trian", "dt_cartpole")
    assert code == 2
    assert err.startswith("seqrl: no command 'trian'; did you mean 'train'?")


def test_a_mistyped_option_is_a_usage_error(seqrl):
    code, _, err = seqrl("--debugg")
    assert code == 2
    assert "--debugg" in err


def test_version(seqrl):
    code, out, _ = seqrl("--version")
    assert code == 0
    assert out.startswith("seqrl ")


@pytest.fixture
def fails(monkeypatch, seqrl):
    """``fails(error, *words)``: runs a command that raises ``error``."""

    def run(error: BaseException, *words: str) -> tuple[int, str, str]:
        def env() -> None:
            raise error

        alone = typer.Typer(add_completion=False)
        alone.command("env")(env)
        monkeypatch.setattr(app, "open_door", lambda name: typer.main.get_command(alone))
        return seqrl(*words, "env")

    return run


def test_wrong_input_is_one_message_and_code_2(fails):
    code, out, err = fails(DataError("x.hdf5: truncated after episode 3\ndownload it again"))
    assert (code, out) == (2, "")
    assert err == "seqrl: x.hdf5: truncated after episode 3\ndownload it again\n"


@pytest.mark.parametrize("how", ["before", "after", "variable"])
def test_debug_shows_the_traceback_as_well(fails, monkeypatch, how):
    if how == "variable":
        run = fails(DataError("bad"))
        assert "Traceback" not in run[2]
        monkeypatch.setenv("SEQRL_DEBUG", "1")
    code, _, err = fails(DataError("bad"), *(["--debug"] if how != "variable" else []))
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("seqrl: bad\n")


def test_debug_is_taken_after_the_command_too(seqrl):
    code, _, err = seqrl("recipes", "show", "no_such_recipe", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_a_message_cannot_steer_the_terminal(fails):
    _, _, err = fails(DataError("evil \x1b[2J name"))
    assert "\x1b" not in err


def test_red_only_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    app.say("oh")
    assert capsys.readouterr().err == "\x1b[31mseqrl: oh\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    app.say("oh")
    assert capsys.readouterr().err == "seqrl: oh\n"


FULL = [
    (OSError(errno.ENOSPC, "No space left on device", "runs/x/model.safetensors"), "the disk of runs/x/model.safetensors"),
    (OSError("Unable to write (errno = 28, error message = 'No space left on device')"), "the disk"),
    (RuntimeError('IoError(Os { code: 28, message: "No space left on device" })'), "the disk"),
]


@pytest.mark.parametrize(("error", "where"), FULL)
def test_a_full_disk(fails, error, where):
    code, _, err = fails(error)
    assert code == 2
    assert err.startswith(f"seqrl: no space left on {where};")
    assert "Traceback" not in err


def test_a_folder_one_may_not_write_to(fails):
    code, _, err = fails(PermissionError(errno.EACCES, "Permission denied", "runs/x"))
    assert (code, err) == (2, "seqrl: runs/x: Permission denied\n")


def test_ctrl_c_is_one_line_and_130(fails):
    code, _, err = fails(KeyboardInterrupt())
    assert (code, err) == (130, "seqrl: interrupted\n")


def test_an_error_may_know_its_exit_code(fails):
    class Stopped(Exception):
        exit_code = 143

    code, _, err = fails(Stopped("saved; go on with: seqrl train --resume runs/x"))
    assert (code, err) == (143, "seqrl: saved; go on with: seqrl train --resume runs/x\n")


def test_a_defect_looks_like_one(fails):
    code, _, err = fails(ZeroDivisionError("division by zero"))
    assert code == 1
    assert "Traceback" in err
    assert "a defect of seqrl" in err


def test_a_reader_who_has_gone_is_no_error():
    script = """
import typer
from seqrl.cli import app

def talk() -> None:
    for i in range(100_000):
        print("line", i)

alone = typer.Typer()
alone.command("env")(talk)
app.open_door = lambda name: typer.main.get_command(alone)
app.main(["env"])
"""
    pipe = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pipe.stdout.read(10)
    pipe.stdout.close()
    assert pipe.stderr.read() == b""
    assert pipe.wait(60) == 1


def test_python_m_seqrl():
    said = subprocess.run([sys.executable, "-m", "seqrl", "--version"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0
    assert said.stdout.startswith("seqrl ")
