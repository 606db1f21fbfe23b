"""Weights out of PyTorch's old files (``pytorch_model.bin``), without running anything that is in them.

Such a file is a pickle, which can name any function to be called. torch's own reader for weights alone refuses all but tensors
and plain containers, and here what it answers must be tensors by name and nothing else: plain ones, whose numbers all lie in
the file. What is refused is refused: there is no flag that reads it anyway.
"""

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from seqrl.core.errors import BundleError
from seqrl.core.plain import read_json

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
_REFUSED = "only files of plain tensors are read, as anything else could run code; ask its owner for safetensors"


def read_bin(path: Path) -> "dict[str, Tensor]":
    """The tensors of a ``.bin`` file by name, on the CPU; those of a new file stay on disk until they are used.

    Raises:
        BundleError: the file is truncated, or holds anything but tensors, or such as are not plain (on another device,
            sparse, quantised, complex), or that have more numbers than the file has bytes for.
    """
    import torch

    try:
        # Only the container of PyTorch 1.6 on can be mapped.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        raise BundleError(f"{path.name}: {_REFUSED}") from e
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError) as e:
        raise BundleError(
            f"{path.name}: truncated, or no file of PyTorch's ({str(e).splitlines()[0][:200] if str(e) else e!r})"
        ) from e
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()):
        raise BundleError(f"{path.name}: {_REFUSED}")
    held: dict[int, int] = {}
    for name, tensor in found.items():
        if odd := _odd(tensor):
            raise BundleError(f"{path.name}: {name[:200]!r} is {odd}; only plain tensors are imported")
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = max(held.get(storage.data_ptr(), 0), storage.nbytes())
    size = path.stat().st_size
    # A tied head lies in the file once and has two names; nothing that is trained has many more.
    if sum(held.values()) > size or sum(t.nbytes for t in found.values()) > 2 * size:
        raise BundleError(f"{path.name}: its tensors are larger than the file, so their numbers cannot all be in it")
    return {name: tensor.detach() for name, tensor in found.items()}


def _odd(tensor: "Tensor") -> str | None:
    """What keeps a tensor from being a plain one, or None."""
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        return f"a {type(tensor).__name__} of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.device.type != "cpu":
        return f"on the device '{tensor.device}'"
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        return f"of dtype {dtype}"
    # Expanded from fewer numbers: a handful of bytes in the file could fill any memory.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"of shape {tuple(tensor.shape)}, for which it has too few numbers"
    return None


def reason(error: Exception) -> str:
    """What a library said of a file, in one line: the first of several often ends in a colon, and the reason follows."""
    return " ".join(str(error).split())[:400] or repr(error)


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
        named = sorted(set(read_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise BundleError(f"{index.name}: this is no index of weights") from e
    for name in named:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith((".safetensors", ".bin")):
            raise BundleError(f"{index.name}: names {name!r}, which is no file of weights beside it")
    return named
