"""What the mission tells of the video, and how true videos stay that are gone on with. For a model of documents (lwm_babyai).

    python mission_bits.py RUN [--videos 64] [--frames 9] [--json FILE]

First the cross-entropy of held-out videos, in bits a frame: behind their own mission, behind that of another episode, and
without one; over whole videos and over first frames, which no action tells of yet. Differences are of one and the same video,
their intervals bootstrapped over videos (95 %). Then held-out videos of which one frame is given are gone on with:
under the actions really done, and with the mission alone, when the model says what is done as well. The agent's cell is right
where the agent stands (of views: where walls are as far away) as it really does; for videos whose actions are the model's own,
each frame is held against what the game makes of the frame before and the action said, by ``moves``.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from seqrl import bundle
from seqrl.core.documents import DocumentBatch
from seqrl.rollout._continued import cells_of, compare, grids_of
from seqrl.rollout._documents import Clip, document_ids
from seqrl.rollout._grids import shows_agent
from seqrl.rollout._held_out import HeldOut
from seqrl.rollout.generate import Draw, Manner, action_words, say_videos
from seqrl.rollout.stats import bootstrap_ci

COMPARED = ("another", "none")
"""Missions that are held against a video's own."""


@torch.no_grad()
def bits(model: Any, clip: Clip) -> np.ndarray:
    """``(T,)`` bits that each frame of a video costs, its end included."""
    ports, ids = model.ports, document_ids(model.ports, replace(clip, after=()))
    row = torch.tensor([ids])
    target = torch.cat((row[:, 1:], row.new_full((1, 1), -1)), 1)
    target = target.where(target >= ports.text, -1)
    batch = DocumentBatch(row, torch.zeros_like(row), torch.arange(len(ids))[None], target, (target >= 0).float())
    value, _ = model(batch).terms["vision"]
    return value.double().view(-1, ports.frame + 1).sum(1).numpy() / math.log(2)


def strangers(clips: Sequence[Clip]) -> list[Clip]:
    """Each clip with the mission of the next one that has another."""
    found = []
    for i, clip in enumerate(clips):
        others = (clips[(i + n) % len(clips)].whole_text for n in range(1, len(clips)))
        found.append(replace(clip, text=next(t for t in others if t != clip.whole_text), after=()))
    return found


def mission_bits(model: Any, clips: Sequence[Clip]) -> dict[str, Any]:
    """Bits a frame of each kind of mission, and what another or none costs more, with intervals."""
    own = [replace(c, text=c.whole_text, after=()) for c in clips]
    kinds = {"own": own, "another": strangers(clips), "none": [replace(c, text=(), after=()) for c in clips]}
    found: dict[str, Any] = {"videos": len(clips)}
    costs = {name: [bits(model, c) for c in some] for name, some in kinds.items()}
    for part, of in (("video", np.mean), ("first frame", lambda b: b[0])):
        each = {name: np.array([of(b) for b in some]) for name, some in costs.items()}
        found[part] = {"own": float(each["own"].mean())}
        for name in COMPARED:
            more = each[name] - each["own"]
            found[part][name] = {"more": float(more.mean()), "interval": bootstrap_ci(more)}
    return found


TURNS, STEPS = ("left", "right"), ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Words for turning; column and row a step forward adds, by the agent's direction."""


def moves(tokenizer: Any, clips: Sequence[Clip], given: int) -> float:
    """Share of the frames said in which the agent is where the frame before and the action make it.

    Of a whole room: one cell on after a step forward where that is free, else where it was. Of what the agent sees: one step
    nearer to the wall ahead; turns, after which other walls are ahead, and frames without a wall ahead are left out.
    """
    frames = grids_of(tokenizer, np.stack([c.codes for c in clips]))
    shown = shows_agent(frames)
    cells, right = cells_of(frames, shown), []
    for row, clip in enumerate(clips):
        for t in range(given, len(clip.codes)):
            word, before, now = tokenizer.words(clip.actions[t - 1]).strip(), cells[row, t - 1], cells[row, t]
            kinds, forward = frames[row, t - 1, ..., 0], word == "forward"
            if shown:
                x, y = before
                column, line = (0, 0) if x < 0 else STEPS[frames[row, t - 1, x, y, 2] % 4]
                free = x >= 0 and kinds[x + column, y + line] == 1
                right.append(tuple(now) == (x + column * (forward and free), y + line * (forward and free)))
            elif word not in TURNS and before[0] >= 0:
                free = kinds[kinds.shape[0] // 2, -2] == 1
                right.append(now[0] == before[0] - (forward and free))
    return float(np.mean(right)) if right else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--json")
    asked = parser.parse_args()
    loaded = bundle.load(asked.run)
    model, tokenizer = loaded.model, loaded.tokenizer
    held_out = HeldOut(loaded.recipe, tokenizer)
    # One video an episode, and that from its beginning: pieces of one are not independent of each other.
    whole = [c for i in held_out.beginnings() if len(document_ids(model.ports, c := held_out.clip(i))) <= tokenizer.length]
    found: dict[str, Any] = {"mission": mission_bits(model, whole)}
    for part in ("video", "first frame"):
        one = found["mission"][part]
        told = ", ".join("{} {:+.2f} [{:+.2f}, {:+.2f}]".format(n, one[n]["more"], *one[n]["interval"]) for n in COMPARED)
        print(f"{part}: {one['own']:.2f} bits a frame behind its own mission; {told} ({len(whole)} held-out videos)")
    clips = held_out.long_clips(asked.frames + 1, asked.videos)
    words = action_words(tokenizer)
    print(f"{len(clips)} videos gone on with for {asked.frames} frames:")
    begun = [Clip(c.codes[:1], c.whole_text, (), c.actions) for c in clips]
    for name, temperature in (("likeliest", 0.0), ("drawn", 1.0)):
        manner = Manner(vision=Draw(temperature), text=Draw(temperature))
        said = say_videos(model, begun, asked.frames, manner, words)
        given = compare(said, clips, 1, tokenizer)
        alone = say_videos(model, [replace(b, actions=()) for b in begun], asked.frames, manner, words)
        own = compare(alone, clips, 1, tokenizer) | {"moves": moves(tokenizer, alone, 1)}
        found[name] = {"actions": given | {"moves": moves(tokenizer, said, 1)}, "mission": own}
        for how, one in found[name].items():
            cell = f"agent's cell {one['cell']:.3f} (a still {one['cell_still']:.3f}), " if "cell" in one else ""
            codes = f"codes {one['accuracy']:.3f} (a still {one['still']:.3f}), of those that change {one['changed']:.3f}"
            print(f"{name}, given the {how}: {cell}moves {one['moves']:.3f}, {codes}")
            print("  cell by frame " + " ".join(f"{v:.2f}" for v in one["by_frame"].get("cell", [])))
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
