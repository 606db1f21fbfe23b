"""What a device can hold, compute and send, for plans of runs that are not started: a table, and how to name others.

Figures are those of the vendors' sheets, dense (no sparsity). A sheet's GB are 1e9 bytes: what a card really has beyond that
(an H100 of 80 GB reports 79.6 GiB) is left to the driver, to NCCL and to gaps between tensors, and not planned with.
"""

import os
from dataclasses import dataclass, replace

from seqrl.core.errors import RecipeError, did_you_mean

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """One of many that are alike.

    Args:
        name: what it is called.
        memory: bytes.
        half, single: floating point operations a second in bfloat16 and in float32, at most.
        link: bytes a second that it sends, and at the same time receives, within a node. net: the same between nodes.
        node: how many stand in one.
        source: where the figures are from.
    """

    name: str
    memory: float
    half: float
    single: float
    link: float
    net: float
    node: int
    source: str

    def arithmetic(self, precision: str) -> float:
        """Operations a second in ``train.precision``; torch's float32 products do not use the shorter TF32 unless told to."""
        return self.half if precision == "bf16" else self.single

    def way(self, processes: int) -> float:
        """Bytes a second from one to another of ``processes`` that stand side by side."""
        return self.link if processes <= self.node else self.net


# NVLink's sheet figure counts both directions; half of it goes one way. Between nodes: one 400 Gb/s port (ConnectX-7) a GPU of
# DGX H100 and H200, one of 200 Gb/s (ConnectX-6) of DGX A100, as the sheets of those machines say.
TABLE = {
    "h100": Device("h100", 80e9, 989e12, 67e12, 450e9, 50e9, 8, "NVIDIA H100 SXM data sheet"),
    "h200": Device("h200", 141e9, 989e12, 67e12, 450e9, 50e9, 8, "NVIDIA H200 SXM data sheet"),
    "a100": Device("a100", 80e9, 312e12, 19.5e12, 300e9, 25e9, 8, "NVIDIA A100 80GB SXM data sheet"),
}


def _cpu() -> Device:
    """This machine, its cores and memory in one. What processors do differs: 32 operations a cycle and core (two units of eight
    float32 that multiply and add) at 2.5 GHz, and 2 GB/s between processes, are assumed, not measured."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 16 * GIB
    speed = (os.cpu_count() or 1) * 80e9
    return Device("cpu", memory, speed, speed, 2e9, 2e9, 1, "this machine's memory; speeds are assumed")


def device(text: str) -> Device:
    """A device by name, or by its figures: ``GiB=80,TFLOPS=989,LINK=50``, in any order; LINK in GB/s, one way, everywhere.

    Figures may follow a name, in place of its own: ``h100,LINK=100``. TFLOPS stands for every precision.

    Raises:
        RecipeError: no such name, or figures that are missing or none.
    """
    said = [part.strip() for part in text.split(",")]
    known = (*TABLE, "cpu")
    told = f"--device: take {', '.join(known)}, or say GiB=80,TFLOPS=989,LINK=50"
    base = Device("custom", 0, 0, 0, 0, 0, 1, "as given")
    if "=" not in said[0]:
        name = said.pop(0).lower()
        if name not in known:
            raise RecipeError(f"{told} (got '{name}'{did_you_mean(name, known)})")
        base = _cpu() if name == "cpu" else TABLE[name]
    for part in said:
        key, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if key.lower() not in ("gib", "tflops", "link") or not 0 < number < float("inf"):
            raise RecipeError(f"{told} (got '{part}')")
        changed = {
            "gib": {"memory": number * GIB},
            "tflops": {"half": number * 1e12, "single": number * 1e12},
            "link": {"link": number * 1e9, "net": number * 1e9},
        }[key.lower()]
        base = replace(base, name=text, source="as given", **changed)
    if not (base.memory and base.half and base.link):
        raise RecipeError(f"{told}; all three of a device without a name (got '{text}')")
    return base
