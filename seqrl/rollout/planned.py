"""Planning, evaluated: the episodes, seeds, scores and clips of rollout/evaluate.py, played by whoever plans."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.rollout import clip, noise, scores
from seqrl.rollout.envs import make, spec_of
from seqrl.rollout.evaluate import EvalConfig, Report, readable
from seqrl.rollout.face import Face
from seqrl.rollout.result import commit, summary, versions
from seqrl.rollout.runner import Job, Progress, play, threads_for

MakeAgent = Callable[[int], Any]
"""``make(rows)``: an agent with the face of ``rollout.agent.Agent``."""


def evaluate_agent(
    make_agent: MakeAgent, tokenizer: Any, config: EvalConfig, target: float | None = None, progress: Progress | None = None
) -> Report:
    """Plays ``config.episodes`` episodes with any agent: the very ones that ``evaluate`` plays with this seed.

    Args:
        make_agent: who acts.
        tokenizer: of its model; names the data and their environment.
        config: episodes, environments, seed and environment are taken from it.
        target: the return to ask for, where the agent takes one.
        progress: called with (episodes done, episodes in all, a few words on speed).

    Raises:
        EnvError: the environment cannot be made here, or is not the one of the data.
    """
    spec, source = readable(tokenizer), config.env or readable(tokenizer)
    jobs = jobs_of(config, target)
    envs = make(source, min(config.envs, len(jobs)), spec)
    try:
        face = Face.of(envs[0], spec)
        agent = make_agent(len(envs))
        played = play(agent, envs, face, jobs, progress)
    finally:
        for env in envs:
            env.close()
    id = str(spec_of(source)["id"])
    score, solved = scores.normalise(played.returns, spec, id), scores.solved(played.returns, id, played.success)
    row = summary(target, played.returns, played.lengths, score, solved)
    known = (config.seed, id, versions(), commit(), score.why, (played.returns,))
    return Report((row,), played.steps_per_second, agent.mode, *known)


def jobs_of(config: EvalConfig, target: float | None) -> list[Job]:
    """The episodes to play."""
    asked = np.nan if target is None else target
    return [Job(int(seed), asked, key) for key, seed in enumerate(noise.env_seeds(config.seed, config.episodes))]


def record_agent(
    make_agent: MakeAgent, tokenizer: Any, config: EvalConfig, path: Path, target: float | None = None, frames: int = 150
) -> float:
    """Plays the first of the episodes and writes it as a GIF, as ``clip.record`` does; answers its return.

    Raises:
        EnvError: the environment cannot be made, or cannot be drawn here.
    """
    clip.use_egl_if_headless()
    spec = readable(tokenizer)
    (env,) = make(config.env or spec, 1, spec, render_mode="rgb_array")
    try:
        face, job = Face.of(env, spec), jobs_of(config, target)[0]
        # An episode is a function of its seeds, so it is played once to learn how long it is, and again before the camera.
        length = int(play(make_agent(1), [env], face, [job]).lengths[0])
        every, agent = -(-length // max(1, frames - 2)), make_agent(1)
        clip._draw_cheaply(env)
        with threads_for(agent, 1):
            pictures, captions, total = clip._film(agent, env, face, job, every, frames)
        fps = env.metadata.get("render_fps") or 30
    finally:
        with suppress(Exception):
            env.close()
    framed = [clip._framed(p, c, 320) for p, c in zip(pictures, captions, strict=True)]
    clip.write_gif(path, framed, 1000 * every / fps)
    return total
