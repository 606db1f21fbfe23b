"""Who started this process: torchrun, accelerate, MPI or SLURM, in one machine or in several, told by the environment.

Loads no torch: the command asks before anything else is read.
"""

import os
import re
from collections.abc import Mapping

from seqrl.core.errors import RecipeError
from seqrl.train.settings import count_of


def started() -> int | None:
    """How many processes were started around this one (by torchrun, accelerate, MPI or SLURM); None where nobody did.

    What MPI and SLURM say is translated to the words that torch reads.

    Raises:
        RecipeError: they stand on several machines, and nothing says where the first one is.
    """
    env = os.environ
    if "WORLD_SIZE" in env and "RANK" in env:
        return count_of("WORLD_SIZE", env["WORLD_SIZE"])
    for size, rank, local, beside in (
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
        # Of a step, which srun makes: a batch script alone has the number of tasks, and is one process.
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", ""),
    ):
        if count_of(size, env.get(size) or "1") > 1 and rank in env:
            if "MASTER_ADDR" not in env:
                env["MASTER_ADDR"] = _first_machine(env, alone=env.get(beside) in (None, env[size]))
            job, step = (int(n) if (n := env.get(f"SLURM_{w}_ID", "")).isdecimal() else 0 for w in ("JOB", "STEP"))
            # Two steps of a job, and two jobs on a machine, should not meet.
            env.setdefault("MASTER_PORT", str(20_000 + (job + 997 * step) % 10_000))
            env.update(WORLD_SIZE=env[size], RANK=env[rank], LOCAL_RANK=env.get(local, "0"))
            return int(env[size])
    return None


def _first_machine(env: Mapping[str, str], alone: bool) -> str:
    """Where process 0 runs: the first machine that SLURM names, or this one where all of them are on it (``alone``)."""
    for word in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if env.get(word):
            return first_of(env[word])
    if not alone:
        raise RecipeError(
            "the processes stand on several machines; set MASTER_ADDR to the name of the one with process 0, on all of them"
        )
    return "127.0.0.1"


def first_of(machines: str) -> str:
    """The first machine of a list as SLURM writes it: ``node[07-08,11],other`` is ``node07``.

    Raises:
        RecipeError: it is no such list.
    """
    # Commas within brackets belong to a range; there may be several of them, and a word behind the last.
    first = re.match(r"(?:[^\[\],]|\[[^\[\]]*\])+", machines.strip())
    name = re.sub(r"\[(\d+)[^\[\]]*\]", r"\1", first.group()) if first else ""
    if not re.fullmatch(r"[\w.:-]+", name):
        raise RecipeError(f"SLURM_STEP_NODELIST={machines} names no machine; set MASTER_ADDR to the one with process 0")
    return name
