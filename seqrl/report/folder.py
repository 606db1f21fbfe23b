"""What a run folder says, read so that nothing in it can stop a report: what is missing or broken is as good as empty."""

import base64
import math
import operator
import re
import struct
import time
from pathlib import Path
from typing import Any

from seqrl.core import plain


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def read_json(path: Path) -> dict[str, Any]:
    try:
        return as_dict(plain.read_json(read_text(path) or "{}"))
    except ValueError:
        return {}


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        return as_dict(plain.read_yaml(read_text(path)))
    except ValueError:
        return {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of ``metrics.jsonl``; one cut short by a kill is left out."""
    rows = []
    for line in read_text(path).splitlines():
        try:
            rows.append(plain.read_json(line))
        except ValueError:
            continue
    return [r for r in rows if isinstance(r, dict)]


def read_clip(path: Path) -> str | None:
    """A GIF as base64; None where there is none, or the file is something else."""
    raw = path.read_bytes() if path.is_file() else b""
    return base64.b64encode(raw).decode() if raw.startswith(b"GIF8") else None


def read_png(path: Path) -> str | None:
    """A PNG as base64; None where there is none, or the file is something else."""
    raw = path.read_bytes() if path.is_file() else b""
    return base64.b64encode(raw).decode() if raw.startswith(b"\x89PNG\r\n") else None


def beside(path: Path, domain: str) -> Path:
    """Where the file of a domain lies, beside that of a plain model: ``clip.gif`` becomes ``clip-hopper.gif``."""
    if not domain:
        return path
    # The name may come from a stranger's file, and must not lead out of the folder.
    return path.with_name(f"{path.stem}-{re.sub(r'[^A-Za-z0-9_-]', '_', domain)[:80]}{path.suffix}")


def count_parameters(path: Path) -> int | None:
    """Numbers in a safetensors file, from its header alone: eight bytes of length, then JSON."""
    try:
        with path.open("rb") as f:
            header = plain.read_json(f.read(min(struct.unpack("<Q", f.read(8))[0], 1 << 26)))
        count = sum(math.prod(map(operator.index, t["shape"])) for n, t in header.items() if n != "__metadata__")
        return count if 0 <= count < 1 << 62 else None
    except (OSError, ValueError, struct.error, TypeError, KeyError, AttributeError):
        return None


def date_of(run: Path) -> str:
    names = ("eval.json", "dream.json", "metrics.jsonl", "recipe.yaml")
    times = [p.stat().st_mtime for name in names if (p := run / name).is_file()]
    return time.strftime("%Y-%m-%d", time.localtime(max(times))) if times else ""


def as_dict(x: Any) -> dict[str, Any]:
    return x if isinstance(x, dict) else {}


def as_list(x: Any) -> list[Any]:
    return x if isinstance(x, list) else []
