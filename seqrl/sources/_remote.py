"""Minari's public server: what it offers, and bringing a dataset here whole or not at all.

Minari does the talking. What is added here: it downloads into an empty root of its own, so that a broken download never looks
like a dataset; and the server is knocked at once before, because the client would try for half a minute without a network.
"""

import os
import shutil
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from seqrl.core.errors import DataError
from seqrl.sources._files import whole_folder, why


def _knock() -> None:
    """Raises OSError where the server cannot be reached; silent where a proxy stands between, or another kind of server."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OSError("offline mode is on (HF_HUB_OFFLINE)")
    if urllib.request.getproxies() or not os.environ.get("MINARI_REMOTE", "hf://").startswith("hf://"):
        return
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (80 if address.scheme == "http" else 443)
    socket.create_connection((address.hostname, port), timeout=10).close()


@contextmanager
def _talking(to: str) -> Iterator[None]:
    """Whatever goes wrong on the way to the server becomes a DataError that begins with ``to``."""
    try:
        # Minari reports with print; what a command answers on stdout must stay its own.
        with redirect_stdout(sys.stderr):
            yield
    except Exception as e:
        # Minari's and the network's errors have no common family, and none of them is a defect of ours.
        raise DataError(f"{to}: {why(e)}") from e


def offers() -> dict[str, dict[str, Any]]:
    """id -> metadata of every dataset on the server; raises DataError without a network."""
    with _talking("the server of Minari's public datasets cannot be asked"):
        _knock()
        import minari

        return minari.list_remote_datasets()


def download(id: str, target: Path, name: str) -> None:
    """Brings dataset ``id`` (locally called ``name``) to the folder ``target``.

    Raises:
        DataError: no network, no such dataset, or no space; nothing is left behind.
    """
    with _talking("it could not be downloaded"):
        _knock()
    with whole_folder(target) as temporary:
        before = os.environ.get("MINARI_DATASETS_PATH")
        os.environ["MINARI_DATASETS_PATH"] = str(temporary / "root")
        try:
            with _talking("it could not be downloaded"):
                import minari

                minari.download_dataset(id)
                for part in (temporary / "root" / name).iterdir():
                    part.rename(temporary / part.name)
        finally:
            if before is None:
                del os.environ["MINARI_DATASETS_PATH"]
            else:
                os.environ["MINARI_DATASETS_PATH"] = before
        shutil.rmtree(temporary / "root")
