"""One input and its verdict, and a process that tries many of them under a limit of time and memory.

The worker is forked from a process that has imported what readers need, so that another one is there at once when an input has
killed the last. It notes in shared memory which input it is at, and whoever forked it looks there.
"""

import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrl.core.errors import UserError
from tests.fuzz.mutate import mutate
from tests.fuzz.readers import Reader

SECONDS, BYTES = 2.0, 1 << 30
"""Of processor time and of memory that an input may take."""
_LONGEST = 100_000
"""Characters of a message."""


class TooSlow(BaseException):
    """An input took more than its time; no reader may catch it."""


@dataclass(frozen=True)
class Verdict:
    """What became of an input: ``read``, ``refused``, or what is wrong; a name that equal wrongs share; and the details."""

    what: str
    mark: str = ""
    said: str = ""


@dataclass(frozen=True)
class Case:
    """An input: a file of an example, its wrong content, and what was done to it."""

    file: Path
    content: bytes
    done: str


class Examples:
    """The valid examples of a reader, made once in a folder."""

    def __init__(self, reader: Reader, home: Path) -> None:
        self.reader, self.home = reader, home.resolve()
        home = self.home
        if not home.exists():
            home.mkdir(parents=True)
            reader.make(home)
        places = sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".") and reader.needs in p.name)
        found = [(p, sorted({f.resolve() for g in reader.files for f in p.glob(g) if f.is_file()})) for p in places]
        self.places = [(p, files) for p, files in found if files]
        self.valid = {f: f.read_bytes() for _, files in self.places for f in files}
        self.pool = [c for c in self.valid.values() if len(c) < 1 << 20][:50]
        self._kept = {p: {f: (f.read_bytes(), _stamp(f)) for f in p.rglob("*") if f.is_file()} for p, _ in self.places}

    def case(self, seed: int, number: int) -> tuple[Path, Case]:
        """Input ``number``: the same for the same seed, wherever it is made."""
        rng = random.Random(f"{seed}:{self.reader.name}:{number}")
        place, files = rng.choice(self.places)
        file = rng.choice(files)
        content, done = mutate(self.valid[file], file.name, rng, self.pool)
        return place, Case(file, content, f"{file.relative_to(place)}: {done}")

    @contextmanager
    def laid(self, place: Path, case: Case) -> Iterator[None]:
        """The input in its place; everything is as it was afterwards."""
        # A new file and not new content: somebody may still have the old one mapped.
        put(case.file, case.content)
        try:
            yield
        finally:
            for file, (content, stamp) in self._kept[place].items():
                if _stamp(file) != stamp:
                    put(file, content)
                    self._kept[place][file] = content, _stamp(file)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        said = file.stat()
        return said.st_size, said.st_mtime_ns
    except OSError:
        return None


def put(file: Path, content: bytes) -> None:
    """Writes a file anew, under the same name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.aside")
    aside.write_bytes(content)
    os.replace(aside, file)


def judge(reader: Reader, place: Path) -> Verdict:
    """Reads an example under the limit of time, and says what came of it."""
    begun = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(place)
        verdict = Verdict("read")
    except UserError as e:
        verdict = _refused(e, reader, place)
    except TooSlow as e:
        verdict = _wrong("slow", e)
    except MemoryError as e:
        verdict = _wrong("memory", e)
    except BaseException as e:
        verdict = _wrong("exception", e)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if verdict.what in ("read", "refused") and time.process_time() - begun > SECONDS:
        return Verdict("slow", f"slow {reader.name}", f"{time.process_time() - begun:.1f} s of processor time")
    return verdict


def _refused(error: UserError, reader: Reader, place: Path) -> Verdict:
    said = str(error)
    if not said.strip() or len(said) > _LONGEST:
        return _wrong("message", error)
    return Verdict("refused", said=said)


def _wrong(what: str, error: BaseException) -> Verdict:
    """A finding, named by the innermost line of seqrl's that it came through."""
    trace = traceback.extract_tb(error.__traceback__)
    own = [f for f in trace if f"{os.sep}seqrl{os.sep}" in f.filename]
    spot = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else "outside"
    told = "".join(traceback.format_exception(error)[-30:])
    return Verdict(what, f"{what} {type(error).__name__} {spot}", told[-6000:])


def limit(more: int = BYTES) -> None:
    """From here on this process may take that much memory more, and an input its time."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + more, held + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (more, more))

    def stop(number: int, frame: Any) -> None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        raise TooSlow(f"more than {SECONDS} s")

    signal.signal(signal.SIGPROF, stop)


class Board(mmap.mmap):
    """Shared numbers: which input a worker is at, and how many were read and refused."""

    def __new__(cls) -> "Board":
        return super().__new__(cls, -1, 24)

    def get(self) -> tuple[int, int, int]:
        return struct.unpack("<3q", self[:24])

    def set(self, *numbers: int) -> None:
        self[:24] = struct.pack("<3q", *numbers)


def work(reader: Reader, home: Path, seed: int, first: int, last: int, board: Board, findings: Path) -> None:
    """Tries inputs ``first`` to ``last``; writes a line for each finding. Runs in a process of its own."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(sys.stdout.fileno(), 1), os.dup2(sys.stdout.fileno(), 2)
    examples = Examples(reader, home)
    # Whatever is loaded late is not the first input's fault.
    reader.read(examples.places[0][0])
    limit()
    with findings.open("a") as log:
        for number in range(first, last):
            _, read, refused = board.get()
            board.set(number, read, refused)
            place, case = examples.case(seed, number)
            with examples.laid(place, case):
                verdict = judge(reader, place)
            board.set(number, read + (verdict.what == "read"), refused + (verdict.what == "refused"))
            if verdict.what not in ("read", "refused"):
                log.write(
                    json.dumps({"number": number, "what": verdict.what, "mark": verdict.mark, "said": verdict.said}) + "\n"
                )
                log.flush()
    board.set(last, *board.get()[1:])


def clear(folder: Path) -> None:
    """Takes away a folder that a worker may have left in any state."""
    shutil.rmtree(folder, ignore_errors=True)
