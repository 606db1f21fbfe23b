"""What a model of texts and videos says: videos of texts, videos that go on, texts of videos.

A row is said token after token over a cache. Inside a frame only codes of frames can be drawn; behind the last of them its end
is not asked for but given, as LWM's sampler does (Liu et al. 2024, arXiv 2402.08268), so a video has the frames that were
asked for. Where documents tell what was done between frames, those words are given by whoever asks, or said by the model, among
those there are.

Letters: B rows, T frames, K codes of a frame.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqrl.core.errors import UserError
from seqrl.data.documents_config import choices_of
from seqrl.rollout._documents import Clip, frame_ids, video_ids
from seqrl.rollout._saying import Draw, Manner, Rows, Words

__all__ = ["Draw", "Manner", "action_words", "check_length", "check_speaker", "say_texts", "say_videos"]

Progress = Callable[[int, int], None]


def check_speaker(model: Any, kind: str, vision: bool = True) -> None:
    """Raises UserError where a model does not say documents, or (``vision``) none with videos."""
    if not hasattr(model, "say") or not hasattr(model, "ports"):
        raise UserError(f"this is {kind}, which says no texts or videos; name a bundle of a model of documents (worlds.lwm)")
    if vision and not model.ports.frame:
        raise UserError("this model knows no video: its documents were texts alone (tokens.documents.frames)")


def action_words(tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """Ids of the words that documents have for an action; none where their videos are joined with no actions.

    Raises:
        UserError: actions are told as numbers, and the recipe does not say which there are.
    """
    asked = tokenizer.documents
    joined = (f.parts[1].name for choice in choices_of(asked.fields) for f in choice if len(f.parts) > 1)
    # What else is joined are texts.
    names = [name for name in joined if name in ("action", "actions", *asked.words)]
    if not names:
        return ()
    words = asked.words.get(names[0]) or (next(iter(asked.words.values())) if len(asked.words) == 1 else None)
    if not words:
        raise UserError(f"the actions of these documents are numbers; name each by tokens.documents.words.{names[0]}")
    return tuple(tuple(ids) for ids in tokenizer.texts(words))


def check_length(model: Any, tokens: int, what: str, frames: int = 0) -> None:
    """Raises UserError where ``what`` is longer than a row of the model.

    Args:
        frames: how many are asked for, if fewer would help.
    """
    most, each = int(model.config.length), model.ports.frame + 1
    if tokens > most:
        fewer = frames - -(-(tokens - most) // each)
        fix = f"; ask for {fewer} frames at most" if frames and fewer > 0 else "; shorten it"
        raise UserError(f"{what} takes {tokens:,} tokens, and this model's context has {most:,}{fix}")


def say_videos(
    model: Any,
    begun: Sequence[Clip],
    frames: int,
    manner: Manner = Manner(),
    words: Words = (),
    progress: Progress | None = None,
) -> list[Clip]:
    """Videos of ``frames`` frames, or that go on by so many.

    Args:
        model: a model of documents in evaluation mode, with videos (``check_speaker``).
        begun: of each row its text, the frames it begins with (none for a new video), and what is done: behind the frames that
            are given and then behind those that are said. Alike in number for all rows.
        frames: T to be said.
        words: of an action, where documents tell of actions: what is not given is said by the model, one of these.

    Returns:
        the whole videos, with what was given.

    Raises:
        UserError: a video is longer than the model's context; guidance is asked for and no row has a text; or rows differ.
    """
    ports, guided = model.ports, manner.guidance != 1
    if guided and not any(c.text for c in begun):
        said = f"guidance {manner.guidance:g} holds a video closer to its text, and there is none"
        raise UserError(f"{said}; give a text, or leave it out")
    shapes = {(len(c.codes), len(c.actions)) for c in begun}
    if len(shapes) > 1:
        raise UserError(f"videos that are said side by side begin with as many frames and actions (got {sorted(shapes)})")
    ((given, acted),) = shapes
    if not words and 0 < acted < given + frames - 1:
        raise UserError(f"{given + frames} frames have {given + frames - 1} actions between them, and {acted} are given")
    prompts, twins = [], []
    for clip in begun:
        video = video_ids(ports, clip.codes, clip.actions, ends=False)
        prompts.append([ports.bos, *clip.text, *ports.opens, *video])
        twins.append([ports.bos, *ports.opens, *video])
    longest = max((len(w) for w in (*words, *(a for c in begun for a in c.actions))), default=0)
    room = max(map(len, prompts)) + frames * (ports.frame + 1 + longest) + len(ports.closes)
    check_length(model, room, f"a video of {given + frames} frames with its text", given + frames)
    rows = Rows(model, prompts, twins if guided else None, room, manner)
    codes, done = [list(c.codes) for c in begun], [list(c.actions[:given]) for c in begun]
    for t in range(given, given + frames):
        if t > given:
            rows.tell([frame_ids(ports, said[-1])[-2:] for said in codes])
        # What led to this frame, where it was not in the prompt.
        if t > 0 and t > min(given, acted):
            more = [c.actions[t - 1] for c in begun] if t <= acted else rows.word(words) if words else []
            if t <= acted:
                rows.tell(more)
            for told, word in zip(done, more, strict=False):
                told.append(word)
        for said, frame in zip(codes, rows.frame().cpu().numpy(), strict=True):
            said.append(frame)
        if progress is not None:
            progress(t + 1 - given, frames)
    return [Clip(np.array(c), b.text, b.after, tuple(d)) for c, b, d in zip(codes, begun, done, strict=True)]


def say_texts(
    model: Any, prompts: Sequence[Sequence[int]], most: int, manner: Manner = Manner(), progress: Progress | None = None
) -> list[list[int]]:
    """What the model goes on with in words, until it ends an example or begins a video.

    Args:
        prompts: ids from ``bos`` on. most: ids said at most.

    Returns:
        ids of each row, without ``eos``.

    Raises:
        UserError: prompts leave no room.
    """
    ports = model.ports
    longest = max(map(len, prompts))
    check_length(model, longest + 1, "the prompt")
    most = min(most, int(model.config.length) - longest)
    rows = Rows(model, [list(p) for p in prompts], None, longest + most, manner)
    said: list[list[int]] = [[] for _ in prompts]
    going = [True] * len(prompts)
    for n in range(most):
        scores = rows.scores("text")
        chosen = manner.text(scores, rows.chance(1, scores.device)[:, 0]).tolist()
        for row, one in enumerate(chosen):
            if not going[row]:
                continue
            said[row].append(one)
            opened = tuple(said[row][-len(ports.opens) :]) == ports.opens
            if one == ports.eos or (ports.opens and opened):
                said[row] = said[row][: -1 if one == ports.eos else -len(ports.opens)]
                going[row] = False
        if progress is not None:
            progress(n + 1, most)
        if not any(going):
            break
        rows.tell([[one] if go else [] for one, go in zip(chosen, going, strict=True)])
    return said
