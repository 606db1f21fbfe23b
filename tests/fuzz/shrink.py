"""A finding made smaller: pieces of the wrong file are taken away for as long as the same thing goes wrong."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fuzz import work

_SECONDS = 15.0


def keep(reader: Any, home: Path, seed: int, number: int, mark: str, to: Path) -> None:
    """Writes the input of a finding, and its smallest form that was found in a few seconds, into the folder ``to``."""
    examples = work.Examples(reader, home)
    place, case = examples.case(seed, number)
    with (to / "finding.txt").open("a", encoding="utf-8", errors="backslashreplace") as told:
        told.write(f"\n{place.name}/{case.done}\n")
    (to / case.file.name).write_bytes(case.content)
    if mark.startswith("death") or mark.startswith("slow"):
        return
    work.limit()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)

    def still(content: bytes) -> bool:
        smaller = replace(case, content=content)
        with examples.laid(place, smaller):
            return work.judge(reader, place).mark == mark

    (to / f"small-{case.file.name}").write_bytes(_smaller(case.content, still))


def _smaller(content: bytes, still: Any) -> bytes:
    """Takes away ever shorter pieces, by lines where there are lines."""
    ends, step = time.monotonic() + _SECONDS, max(1, len(content) // 2)
    while step and time.monotonic() < ends:
        at = 0
        while at < len(content) and time.monotonic() < ends:
            tried = content[:at] + content[at + step :]
            if still(tried):
                content = tried
            else:
                at += step
        step //= 2
    return content
