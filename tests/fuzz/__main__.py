"""``python -m tests.fuzz``: very many wrong files for every reader, and a table of what became of them.

    python -m tests.fuzz --inputs 100000 [--reader NAME]... [--seed 0] [--out FOLDER] [--number N]

Each reader gets its share of the inputs. A finding is kept in the folder with the file that caused it, and ends the command
with exit code 1; the same seed and number make the same input again (``--reader NAME --number N`` shows one).
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

_BUSY, _PATIENCE = 30.0, 600.0
"""Seconds of a processor, and of the clock, after which a worker that is at the same input still is stuck."""


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz")
    asked.add_argument("--inputs", type=int, default=100_000)
    asked.add_argument("--reader", action="append")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    asked.add_argument("--number", type=int)
    said = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="seqrl-fuzz-") as home:
        _apart(Path(home))
        from tests.fuzz.readers import READERS

        known = {r.name: r for r in READERS}
        if strange := [n for n in said.reader or () if n not in known]:
            asked.error(f"no reader {', '.join(strange)} (there are: {', '.join(known)})")
        chosen = [known[n] for n in said.reader or known]
        if said.number is not None:
            return _show(chosen[0], Path(home), said)
        _preload()
        shares, found = sum(r.share for r in chosen), 0
        print(f"{'reader':<12}{'inputs':>8}{'read':>8}{'refused':>9}{'wrong':>7}{'kinds':>7}{'seconds':>9}", flush=True)
        totals = Counter()
        for reader in chosen:
            inputs = max(1, round(said.inputs * reader.share / shares))
            row = _try(reader, Path(home), said.seed, inputs, said.out)
            found += row["wrong"]
            totals.update(row)
            _tell(reader.name, row)
        _tell("all", totals)
    return 1 if found else 0


def _tell(name: str, row: Any) -> None:
    numbers = f"{row['inputs']:>8,}{row['read']:>8,}{row['refused']:>9,}{row['wrong']:>7,}{row['kinds']:>7,}"
    print(f"{name:<12}{numbers}{row['seconds']:>9.0f}", flush=True)


def _apart(home: Path) -> None:
    """Folders of its own, no network, one thread: set before anything is imported."""
    (home / "cwd").mkdir()
    chosen = {
        "SEQRL_CACHE": home / "cache",
        "MINARI_DATASETS_PATH": home / "datasets",
        "HF_HOME": home / "hf",
        "HF_HUB_OFFLINE": 1,
    }
    chosen |= {"OMP_NUM_THREADS": 1, "TOKENIZERS_PARALLELISM": "false", "HF_ENDPOINT": "http://127.0.0.1:9"}
    os.environ.update({k: str(v) for k, v in chosen.items()})


def _preload() -> None:
    """What readers import, so that a forked worker has it at once."""
    import gymnasium  # noqa: F401
    import h5py  # noqa: F401
    import jinja2  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import minari  # noqa: F401
    import PIL.Image  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import tokenizers  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from seqrl.core import kinds

    for room in ("policies", "worlds", "encoders", "tokens", "sources"):
        for name in kinds.names(room):
            kinds.load(f"{room}.{name}")
    import seqrl.bundle
    import seqrl.hub.card
    import seqrl.report.page
    import seqrl.train.run  # noqa: F401


def _try(reader: Any, home: Path, seed: int, inputs: int, out: Path) -> dict[str, float]:
    """All inputs of a reader, over as many workers as it takes."""
    from tests.fuzz import work

    board, log, begun = work.Board(), home / f"{reader.name}.findings", os.times()
    log.touch()
    # Readers of the same examples share them.
    place = (
        home
        / "examples"
        / reader.make.__qualname__.replace(".<locals>.", "-")
        / (reader.name if "<" in reader.make.__qualname__ else "")
    )
    made = _in_a_child(lambda: work.Examples(reader, place))
    if made:
        raise SystemExit(f"{reader.name}: its examples cannot be made")
    first, died, fruitless = 0, [], 0
    while first < inputs:
        board.set(first, *board.get()[1:])
        code = _in_a_child(lambda start=first: work.work(reader, place, seed, start, inputs, board, log), board)
        at = board.get()[0]
        if at >= inputs:
            break
        died.append({"number": at, "what": "death", "mark": f"death by {code}", "said": f"the worker ended with {code}"})
        fruitless = fruitless + 1 if at == first else 0
        if fruitless > 20:
            raise SystemExit(f"{reader.name}: the worker dies at once, at input {at}, with {code}")
        first = at + 1
    findings = [*died, *map(json.loads, log.read_text().splitlines())]
    kinds = Counter(f["mark"] for f in findings)
    _keep(reader, place, seed, findings, kinds, out)
    _, read, refused = board.get()
    spent = sum(os.times()[:4]) - sum(begun[:4])
    return {"inputs": inputs, "read": read, "refused": refused, "wrong": len(findings), "kinds": len(kinds), "seconds": spent}


def _in_a_child(run: Any, board: Any = None) -> str:
    """Runs something in a forked process; empty when it ended well, else how it ended."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(Path(os.environ["SEQRL_CACHE"]).parent / "cwd")
            run()
            code = 0
        except BaseException:
            if board is None:
                import traceback

                traceback.print_exc()
        finally:
            os._exit(code)
    seen, since, spent = None, time.monotonic(), 0.0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else signal.Signals(-code).name if code < 0 else f"exit {code}"
        now = board.get()[0] if board else 0
        if now != seen:
            seen, since, spent = now, time.monotonic(), _spent(child)
        elif board and (time.monotonic() - since > _PATIENCE or _spent(child) - spent > _BUSY):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hanging"
        time.sleep(0.05)


def _spent(child: int) -> float:
    """Seconds of a processor that a process has had so far."""
    said = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")


def _keep(reader: Any, place: Path, seed: int, findings: list[dict], kinds: Counter, out: Path) -> None:
    """One input of each kind of finding, made smaller, with what it did."""
    from tests.fuzz import shrink

    for k, mark in enumerate(kinds):
        first = next(f for f in findings if f["mark"] == mark)
        folder = out.absolute() / f"{reader.name}-{k}"
        folder.mkdir(parents=True, exist_ok=True)
        told = f"{mark}\n{kinds[mark]} of them; seed {seed}, number {first['number']}\n\n{first['said']}\n"
        (folder / "finding.txt").write_text(told, encoding="utf-8", errors="backslashreplace")
        _in_a_child(lambda f=first, to=folder, of=mark: shrink.keep(reader, place, seed, f["number"], of, to))


def _show(reader: Any, home: Path, said: Any) -> int:
    """One input again, here: what was done, and what comes of it."""
    from tests.fuzz import work

    examples = work.Examples(reader, home / "examples" / reader.name)
    os.chdir(home / "cwd")
    place, case = examples.case(said.seed, said.number)
    print(case.done)
    work.limit()
    with examples.laid(place, case):
        verdict = work.judge(reader, place)
    print(verdict.what, verdict.mark, verdict.said, sep="\n")
    return 0 if verdict.what in ("read", "refused") else 1


if __name__ == "__main__":
    sys.exit(main())
