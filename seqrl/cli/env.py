"""``seqrl env``: what a bug report needs to know of this machine, as plain text to paste.

Versions are read from package metadata, so only torch is imported (it alone knows its devices and backends). Nothing
personal is printed: the home folder becomes ``~``, the user's name ``<user>``, and a password in an address is left out.
"""

import ctypes.util
import getpass
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

PACKAGES = (
    *("torch", "transformers", "accelerate", "deepspeed", "datasets", "minari", "gymnasium"),
    *("numpy", "pydantic", "pyarrow", "h5py", "safetensors", "typer"),
)
EXTRAS = ("mujoco", "gymnasium-robotics", "minigrid", "ale-py", "box2d", "peft", "tensorboard", "trackio")
VARIABLES = (
    *("SEQRL_CACHE", "MINARI_DATASETS_PATH", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE"),
    *("MUJOCO_GL", "PYOPENGL_PLATFORM", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
)


def env() -> None:
    """Versions, devices and backends, to paste into a bug report."""
    for title, lines in sections().items():
        typer.echo(f"{title}\n" + "\n".join(f"  {key:<22}{discreet(value)}" for key, value in lines.items()))


def sections() -> dict[str, dict[str, str]]:
    """Title -> what is known, ``key -> value``, in the order it is printed."""
    python = f"{platform.python_version()} ({platform.python_implementation()})"
    return {
        "seqrl": {"seqrl": _version("seqrl"), "commit": _commit(), "python": python},
        "machine": _machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": {name: _version(name) for name in EXTRAS},
        "torch": _torch(),
        "rendering": {lib: ctypes.util.find_library(lib) or "not found" for lib in ("EGL", "OSMesa", "glfw")},
        "variables": {name: os.environ.get(name, "not set") for name in VARIABLES},
    }


def discreet(words: str) -> str:
    """The words without home folder, user name, and ``user:password@`` of an address."""
    words = re.sub(r"(?<=://)[^/@\s]+@", "", str(words))
    home = str(Path.home())
    if home != "/":
        words = re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", words)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        return words
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?=[/\\]|$)", "<user>", words)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    try:
        from seqrl.rollout.result import commit
    except ImportError as e:  # a broken installation is what this command is for
        return f"unknown: {e}"
    return commit() or "not a checkout"


def _machine() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = "unknown"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()) or "unknown",
        "cpu": _cpu(),
        "cores": f"{cores} usable of {os.cpu_count()}",
        "memory": memory,
        "terminal": f"{'yes' if sys.stdout.isatty() else 'no'}, encoding {sys.stdout.encoding}",
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "unknown"


def _torch() -> dict[str, str]:
    """Devices and process-group backends; a torch that cannot even be imported is itself the finding."""
    try:
        import torch
    except Exception as e:
        return {"import": f"fails: {e!r}"}
    group = torch.distributed
    backends = [b for b in ("gloo", "nccl", "mpi") if group.is_available() and getattr(group, f"is_{b}_available")()]
    mps = torch.backends.mps.is_available()
    found = {"threads": f"{torch.get_num_threads()}", "backends": ", ".join(backends) or "none", "mps": "yes" if mps else "no"}
    if not torch.cuda.is_available():
        return found | {"cuda": f"no (built for {torch.version.cuda or torch.version.hip or 'cpu only'})"}
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, capability {card.major}.{card.minor}"
    return found | {
        "cuda": str(torch.version.cuda or torch.version.hip),
        "bf16": "yes" if torch.cuda.is_bf16_supported() else "no",
    }
