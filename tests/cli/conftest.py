"""Running the command line inside the test process."""

import pytest

from seqrl.cli import app


@pytest.fixture
def seqrl(capsys, monkeypatch):
    """``seqrl("recipes", "ls")`` gives (exit code, stdout, stderr)."""
    monkeypatch.delenv("SEQRL_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            app.main(list(words))
        said = capsys.readouterr()
        return left.value.code or 0, said.out, said.err

    return run
