"""The runner: plays a list of jobs, each an episode to begin with a target, over a number of environments.

A slot takes the next job when its episode ends, and the batch shrinks when there are none left, so no step is played that
does not count. Environments are stepped by a plain loop: no copies, no processes, nothing that costs more than the physics.
B rows, J jobs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from seqrl.rollout.face import Face

Progress = Callable[[int, int, str], None]
"""Called now and then with (episodes done, episodes in all, a few words on speed)."""

# Below this many tokens in a forward pass, threads wait for each other longer than they work.
_SMALL = 1024


@dataclass(frozen=True)
class Job:
    """One episode to play.

    Args:
        seed: of the environment's ``reset``.
        target: the return to ask for; NaN where the policy takes none.
        key: names the episode; with the agent's seed it decides every draw of the policy.
    """

    seed: int
    target: float = float("nan")
    key: int = 0


@dataclass(frozen=True)
class Played:
    """What came of J jobs, in their order.

    Args:
        returns: ``(J,)`` float64, undiscounted.
        lengths: ``(J,)`` int64, steps.
        terminated: ``(J,)`` bool, ended by the task and not by the clock.
        seconds: wall time, without the making of environments.
        success: ``(J,)`` float64, 1 where the environment said so (``info["success"]``) at any step, 0 where it denied it, NaN
            where it says nothing about it.
    """

    returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    seconds: float
    success: np.ndarray

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of wall time, over all slots."""
        return float(self.lengths.sum() / max(self.seconds, 1e-9))


@contextmanager
def threads_for(agent: Any, rows: int) -> Iterator[None]:
    """One torch thread while small batches are computed on the CPU; what was set before is restored."""
    import torch

    layout, context = agent.tokenizer.layout, agent.context
    tokens = rows * (layout.length(context) if agent.mode == "exact" else layout.step_width)
    before = torch.get_num_threads()
    alone = agent.device.type == "cpu" and tokens <= _SMALL and before > 1
    try:
        if alone:
            torch.set_num_threads(1)
        yield
    finally:
        if alone:
            torch.set_num_threads(before)


def play(agent: Any, envs: Sequence[Any], face: Face, jobs: Sequence[Job], progress: Progress | None = None) -> Played:
    """Plays every job once.

    Args:
        agent: an ``Agent`` with at least as many rows as there are environments (or jobs, if those are fewer).
        envs: equal gymnasium environments; they are left open.
        face: how they are read.
        jobs: what to play; results are in this order and do not depend on how many environments there are.
        progress: told how far it is.
    """
    slots = min(len(envs), len(jobs))
    J = len(jobs)
    out = Played(np.zeros(J), np.zeros(J, np.int64), np.zeros(J, bool), 0.0, np.full(J, np.nan))
    if not slots:
        return out
    with threads_for(agent, slots):
        begun = time.perf_counter()
        if len(agent) > slots:
            agent.keep(np.arange(slots))
        _loop(agent, list(envs[:slots]), face, jobs, out, progress)
        seconds = time.perf_counter() - begun
    return replace(out, seconds=seconds)


def _loop(agent: Any, envs: list[Any], face: Face, jobs: Sequence[Job], out: Played, progress: Progress | None) -> None:
    B = len(envs)
    job = np.arange(B)  # row -> job
    begun, done, steps, rounds = B, 0, 0, 0
    began = time.perf_counter()
    totals, rewards, lengths = np.zeros(B), np.zeros(B), np.zeros(B, np.int64)
    buffers = face.buffers(B)
    write = face.writer(buffers)

    def begin(rows: list[int]) -> None:
        for row in rows:
            write(row, envs[row].reset(seed=jobs[job[row]].seed)[0])
        mine = [jobs[job[row]] for row in rows]
        totals[rows], lengths[rows] = 0.0, 0
        agent.reset(rows, np.array([j.target for j in mine]), np.array([j.key for j in mine], np.int64))

    begin(list(range(B)))
    while B:
        actions = face.split(agent.act(buffers))
        ended = []
        for row, action in enumerate(actions):
            observation, reward, terminated, truncated, info = envs[row].step(action)
            rewards[row] = reward
            if "success" in info:
                out.success[job[row]] = max(float(info["success"]), np.nan_to_num(out.success[job[row]]))
            if terminated or truncated:
                ended.append(row)
                out.terminated[job[row]] = terminated
            else:
                write(row, observation)
        totals += rewards
        lengths += 1
        steps += B
        rounds += 1
        agent.receive(rewards)
        if ended:
            out.returns[job[ended]], out.lengths[job[ended]] = totals[ended], lengths[ended]
            done += len(ended)
            more = ended[: len(jobs) - begun]
            job[more] = np.arange(begun, begun + len(more))
            begun += len(more)
            if more:
                begin(more)
            if len(more) < len(ended):
                rest = np.setdiff1d(np.arange(B), ended[len(more) :])
                B = len(rest)
                envs = [envs[row] for row in rest]
                job, totals, rewards, lengths = job[rest], totals[rest], rewards[rest], lengths[rest]
                buffers = {n: b[rest] for n, b in buffers.items()}
                write = face.writer(buffers)
                agent.keep(rest)
        if progress and (ended or rounds % 64 == 0):
            progress(done, len(jobs), f"{steps / (time.perf_counter() - began):,.0f} env steps/s")
