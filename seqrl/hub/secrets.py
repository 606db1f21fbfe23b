"""Access tokens and keys in files that are about to be published: each is found and named by its place, and never printed."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from seqrl.core.errors import HubError
from seqrl.hub.weights import read_header
from seqrl.remote.client import token

_KNOWN = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,})\b",
    "a GitLab token": rb"\bglpat-[\w-]{20,}",
    "an AWS key": rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": rb"\bAIza[\w-]{35}\b",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a Slack token": rb"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "an address with a password": rb"\b[a-z][a-z0-9+.-]*://[^/\s:@\"'<>]+:[^/\s:@\"'<>]+@",
}
_OWN = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$")


def find(folder: Path) -> list[str]:
    """Every token or key in the files of a folder, as ``file:line: what it is``.

    Known by their form, or by being this process' own: the Hub's token, and variables that are called like one.
    """
    patterns = {what: re.compile(p) for what, p in _KNOWN.items()}
    patterns |= {what: re.compile(re.escape(value)) for what, value in _own()}
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        # Of weights the head alone: the rest is numbers.
        content = json.dumps(read_header(path)).encode() if path.suffix == ".safetensors" else path.read_bytes()
        hits = {m.start(): what for what, pattern in patterns.items() for m in pattern.finditer(content)}
        for at, what in sorted(hits.items()):
            line = f":{content.count(bytes([10]), 0, at) + 1}" if b"\0" not in content else ""
            found.append(f"{path.relative_to(folder)}{line}: {what}")
    return found


def refuse_secrets(folder: Path) -> None:
    """Raises HubError where a file of the folder holds an access token, naming each place."""
    if found := find(folder):
        listed = "\n  ".join(found)
        raise HubError(f"nothing is published, for there are secrets in it:\n  {listed}\ntake them out, and make new ones")


def _own() -> Iterator[tuple[str, bytes]]:
    if mine := token():
        yield "your access token", mine.encode()
    for name, value in os.environ.items():
        if _OWN.search(name) and len(value) >= 12 and value != mine:
            yield f"the value of {name}", value.encode()
