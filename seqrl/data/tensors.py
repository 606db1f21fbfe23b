"""What a tokenizer keeps in arrays, in a file of its own beside its ``.json``: safetensors, so that nothing in it can run.

Only codecs that stand on a trained model have any; for all other tokenizers there is no such file.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from seqrl.core.errors import BundleError

ENDS = ".safetensors"


def write_tensors(tensors: Mapping[str, np.ndarray], file: Path) -> None:
    """Writes ``tensors`` beside the ``.json`` file of a tokenizer; no file where there are none."""
    if tensors:
        save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, file.with_suffix(ENDS))


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """What lies beside the ``.json`` file of a tokenizer, if anything; raises BundleError where that cannot be read."""
    beside = file.with_suffix(ENDS)
    try:
        return load_file(beside) if beside.is_file() else {}
    except (SafetensorError, OSError) as e:
        raise BundleError(f"{beside}: truncated or no safetensors file ({e})") from e


def below(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those whose names begin with ``name/``, without it."""
    return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
