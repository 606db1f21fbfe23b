"""A clip: one episode as a GIF, with the target, the return so far and the step written under each frame.

GIF, because it needs nothing but Pillow and shows everywhere: in a report, on a model card, in a terminal that draws.
"""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core.errors import EnvError
from seqrl.rollout import noise
from seqrl.rollout.envs import make
from seqrl.rollout.evaluate import EvalConfig, choose_targets, new_agent, readable
from seqrl.rollout.face import Face
from seqrl.rollout.runner import Job, play, threads_for

_STRIP = 16  # pixels of caption


def record(
    model: Any,
    tokenizer: Any,
    config: EvalConfig,
    path: Path | str,
    target: float | None = None,
    episode: int = 0,
    width: int = 320,
    frames: int = 150,
) -> float:
    """Plays one episode and writes it as a GIF.

    Args:
        model, tokenizer, config: as for ``evaluate``; the episode is one of those it plays.
        path: the file to write; it appears complete or not at all.
        target: the return to ask for; None takes the highest of ``config.targets`` or of the default sweep.
        episode: which of the evaluation's episodes.
        width: largest width and height of a frame, in pixels.
        frames: most frames, at least 3; a long episode is shown in larger steps.

    Returns:
        the episode's return.

    Raises:
        EnvError: the environment cannot be made, or cannot be drawn here; one line says why.
    """
    from seqrl.rollout.agent import Agent

    use_egl_if_headless()
    spec = readable(tokenizer)
    sweep = choose_targets(tokenizer, config.targets)
    if sweep[0] is not None:
        target = max(sweep) if target is None else target
    (env,) = make(config.env or spec, 1, spec, render_mode="rgb_array")
    training = bool(getattr(model, "training", False))
    try:
        if training:
            model.eval()
        agent = new_agent(Agent, model, tokenizer, 1, config)
        face = Face.of(env, spec)
        job = Job(int(noise.env_seeds(config.seed, episode + 1)[episode]), np.nan if target is None else target, episode)
        # An episode is a function of its seeds, so it is played once to learn how long it is, and again before the camera.
        length = int(play(agent, [env], face, [job]).lengths[0])
        every = -(-length // max(1, frames - 2))
        agent = new_agent(Agent, model, tokenizer, 1, config)
        _draw_cheaply(env)
        with threads_for(agent, 1):
            pictures, captions, total = _film(agent, env, face, job, every, frames)
        fps = env.metadata.get("render_fps") or 30
    finally:
        # A renderer that could not start often cannot stop either.
        with suppress(Exception):
            env.close()
        if training:
            model.train()
    write_gif(Path(path), [_framed(p, c, width) for p, c in zip(pictures, captions, strict=True)], 1000 * every / fps)
    return total


def _film(agent: Any, env: Any, face: Face, job: Job, every: int, frames: int) -> tuple[list[np.ndarray], list[str], float]:
    """Plays a job and draws every so many steps, and the last; answers pictures, captions and the return."""
    buffers = face.buffers(1)
    write = face.writer(buffers)
    write(0, env.reset(seed=job.seed)[0])
    agent.reset([0], np.array([job.target]), np.array([job.key]))
    asked = "" if np.isnan(job.target) else f"target {job.target:g}   "
    pictures, captions = [_draw(env)], [f"{asked}return 0   step 0"]
    total, step, over = 0.0, 0, False
    while not over:
        (action,) = face.split(agent.act(buffers))
        observation, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        total, step = total + float(reward), step + 1
        agent.receive(np.array([reward], float))
        write(0, observation)
        if (step % every == 0 or over) and len(pictures) < frames:
            pictures.append(_draw(env))
            captions.append(f"{asked}return {total:.4g}   step {step}")
    return pictures, captions, total


def use_egl_if_headless() -> None:
    """Chooses MuJoCo's EGL renderer and SDL's dummy screen where there is no screen and nobody has chosen (Linux)."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not screen:
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _draw_cheaply(env: Any) -> None:
    """Smaller shadows and no multisampling in MuJoCo: without a graphics card a frame then takes half the time or less."""
    quality = getattr(getattr(getattr(env.unwrapped, "model", None), "vis", None), "quality", None)
    if quality is not None:
        quality.shadowsize, quality.offsamples = min(1024, quality.shadowsize), 0


def _draw(env: Any) -> np.ndarray:
    """One frame ``(H, W, 3)`` uint8."""
    try:
        frame = env.render()
    except Exception as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise EnvError(f"{env.spec.id if env.spec else 'the environment'} cannot be drawn here: {reason[:300]}") from e
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise EnvError(f"{env.spec.id if env.spec else 'the environment'} draws no pictures (no rgb_array rendering)")
    return frame


def _framed(frame: np.ndarray, caption: str, width: int) -> Any:
    """A picture at most ``width`` wide and high, on top of its caption."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(frame, dtype=np.uint8)).convert("RGB")
    picture.thumbnail((width, width))
    # Small pictures (a grid world, an Atari screen) are enlarged by whole pixels, so that the caption fits.
    grow = max(1, 160 // picture.width)
    picture = picture.resize((picture.width * grow, picture.height * grow), Image.Resampling.NEAREST)
    out = Image.new("RGB", (picture.width, picture.height + _STRIP), "white")
    out.paste(picture, (0, 0))
    ImageDraw.Draw(out).text((4, picture.height + 2), caption, fill="black")
    return out.quantize(128)


def write_gif(path: Path, pictures: list[Any], milliseconds: float) -> None:
    """Writes Pillow's pictures as a GIF that repeats, whole or not at all; the last one stays for a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Browsers slow down what is faster than 50 pictures a second.
    times = [max(20, round(milliseconds))] * (len(pictures) - 1) + [1000]
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".gif.part")
    os.close(handle)
    try:
        pictures[0].save(partial, format="GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
