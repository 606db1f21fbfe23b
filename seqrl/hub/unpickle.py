"""Weights out of PyTorch's old files (``pytorch_model.bin``), without running anything that is in them.

Such a file is a pickle, which can name any function to be called. torch's own reader for weights alone refuses all but tensors
and plain containers, and here what it answers must be tensors by name and nothing else. What it refuses is refused: there is no
flag that reads it anyway.
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from seqrl.core.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

_REFUSED = "only files of plain tensors are read, as anything else could run code; ask its owner for safetensors"


def read_bin(path: Path) -> "dict[str, Tensor]":
    """The tensors of a ``.bin`` file by name, on the CPU; those of a new file stay on disk until they are used.

    Raises:
        BundleError: the file is truncated, or holds anything but tensors.
    """
    import torch

    try:
        # Only the container of PyTorch 1.6 on can be mapped.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        raise BundleError(f"{path.name}: {_REFUSED}") from e
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise BundleError(
            f"{path.name}: truncated, or no file of PyTorch's ({str(e).splitlines()[0][:200] if str(e) else e!r})"
        ) from e
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()):
        raise BundleError(f"{path.name}: {_REFUSED}")
    return dict(found)


def read_weights(folder: Path) -> "dict[str, Tensor]":
    """All weights of a folder of transformers': ``model.safetensors`` where it is there, else ``pytorch_model.bin``.

    Raises:
        BundleError: neither is there, or what is there cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            found |= load_file(path) if path.suffix == ".safetensors" else read_bin(path)
        except (SafetensorError, OSError) as e:
            raise BundleError(f"{path.name}: truncated or no safetensors file ({e})") from e
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, one or several; raises BundleError where there are none."""
    for whole, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            names = shards(folder / index)
            if missing := [n for n in names if not (folder / n).is_file()]:
                raise BundleError(f"{folder.name}: {index} names {missing[0]}, and it is not there")
            return [folder / n for n in names]
    raise BundleError(f"{folder.name}: there are no weights in it (model.safetensors or pytorch_model.bin)")


def shards(index: Path) -> list[str]:
    """The files that an index of transformers' names, sorted; raises BundleError where one would lie elsewhere."""
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise BundleError(f"{index.name}: this is no index of weights") from e
    for name in named:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith((".safetensors", ".bin")):
            raise BundleError(f"{index.name}: names {name!r}, which is no file of weights beside it")
    return named
