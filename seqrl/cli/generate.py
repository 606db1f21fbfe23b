"""``seqrl generate``: what a model of texts and videos says: a video of a text, how a video goes on, a text of a video."""

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqrl.core.errors import UserError

if TYPE_CHECKING:
    from seqrl.rollout._documents import Clip


def generate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A model of documents: a bundle, or a run.")],
    text: Annotated[str | None, typer.Option(help="What the video is to show; with --video what stands behind it.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to say.")] = 10,
    video: Annotated[str | None, typer.Option(metavar="FILE|NUMBER", help="A video: .npy, a GIF, or a held-out one.")] = None,
    context: Annotated[int, typer.Option(min=0, help="Go on with so many frames of --video; 0 says its text.")] = 0,
    actions: Annotated[str, typer.Option(metavar="data|own|WORDS", help="What is done: left,left,forward.")] = "data",
    guidance: Annotated[float, typer.Option(min=0, help="Above 1 holds a video closer to its text.")] = 1.0,
    temperature: Annotated[float, typer.Option(min=0, help="Of the draws; 0 takes the likeliest.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among so many of the likeliest.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides every draw.")] = 0,
    most: Annotated[int, typer.Option(min=1, help="Tokens of a text at most.")] = 128,
    chunk: Annotated[int, typer.Option(min=1, help="Tokens of a prompt read at once.")] = 1024,
    gif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the video as a GIF.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write its frames beside each other.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was said as JSON.")] = None,
) -> None:
    """Says a video of --text, goes on with the first --context frames of --video, or says in words what --video shows."""
    from seqrl.cli.dream import check_file

    for file in (gif, png, json_file):
        check_file(file)
    if text is None and video is None:
        raise UserError('say what of: --text "go to the red ball" for a video, or --video NUMBER for a text')
    if context and video is None:
        raise UserError("--context goes on with a video; name one with --video")

    from seqrl.rollout.generate import Draw, Manner

    draw = Draw(temperature, top_k)
    speaker = Speaker(bundle, Manner(guidance, draw, draw, seed, chunk))
    if video is not None and not context:
        if gif or png:
            raise UserError("--gif and --png draw a video that is said; with --video alone a text is (or give --context)")
        made = speaker.text_of(video, text, most)
    else:
        made = speaker.video_of(text, frames, video, context, actions, gif, png)
    if json_file is not None:
        json_file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"json    {json_file}")


class Speaker:
    """A bundle's model, asked for things to say."""

    def __init__(self, name: str, manner: Any) -> None:
        """Raises UserError where it is no model of documents, or knows no videos."""
        from seqrl import bundle as bundles
        from seqrl.rollout.generate import check_speaker

        self.loaded, self.manner = bundles.load(name), manner
        self.model, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        check_speaker(self.model, str(self.loaded.recipe["model"]["kind"]))
        self.ports = self.tokenizer.ports()

    def text_of(self, video: str, question: str | None, most: int) -> dict[str, Any]:
        """Says what stands behind a video."""
        from seqrl.rollout._documents import video_ids
        from seqrl.rollout.generate import say_texts

        clip, p = self._clip(video), self.ports
        asked = self.tokenizer.text(question) if question else []
        shown = [*p.opens, *video_ids(p, clip.codes, clip.actions), *p.closes]
        (said,) = say_texts(self.model, [[p.bos, *shown, *asked]], most, self.manner)
        words, real = self.tokenizer.words(said), self.tokenizer.words(clip.whole_text)
        typer.echo(words or "(nothing)")
        if real:
            typer.echo(f"(with it in the data: {real})")
        return {"video": video, "frames": len(clip.codes), "question": question, "text": words, "real": real or None}

    def video_of(
        self, text: str | None, frames: int, video: str | None, context: int, actions: str, gif: Path | None, png: Path | None
    ) -> dict[str, Any]:
        """Says a video, or how one goes on, and draws it."""
        import numpy as np

        from seqrl.rollout._continued import compare
        from seqrl.rollout._documents import Clip
        from seqrl.rollout.generate import say_videos
        from seqrl.train.progress import bar

        if (gif or png) and self.tokenizer.codec is None:
            raise UserError(
                "--gif, --png: this model's documents hold codes and name no codec for them, so nothing can be drawn"
            )
        real = None if video is None else self._clip(video)
        if real is not None and context > len(real.codes):
            raise UserError(f"--context {context}: this video has {len(real.codes)} frames")
        told = () if real is None else real.whole_text
        if text is not None:
            told = tuple(self.tokenizer.text(self.tokenizer.documents.prepend + text))
        given = np.zeros((0, self.ports.frame), np.int64) if real is None else real.codes[:context]
        begun = Clip(given, told, (), self._actions(actions, real, context + frames, context))
        with bar("saying", "frame") as show:
            (made,) = say_videos(self.model, [begun], frames, self.manner, self._words(), show)
        found: dict[str, Any] = {
            "text": self.tokenizer.words(told),
            "given": context,
            "frames": frames,
            "actions": [self.tokenizer.words(a) for a in made.actions],
            "codes": made.codes.tolist(),
        }
        typer.echo(f"text    {found['text'] or '(none)'}")
        if made.actions:
            typer.echo(f"actions {' '.join(found['actions'])}")
        count = 0 if real is None else min(frames, len(real.codes) - context)
        if count > 0:
            found["real"] = compare([Clip(made.codes[: context + count])], [real], context, self.tokenizer)
            _print_real(found["real"])
        if gif is not None or png is not None:
            self._draw(made, real, context, found["actions"], gif, png)
        return found

    def _draw(
        self, made: "Clip", real: "Clip | None", given: int, words: list[str], gif: Path | None, png: Path | None
    ) -> None:
        from seqrl.rollout._film import write_film

        true = None if real is None else self.tokenizer.pictures(real.codes)
        captions = ["", *(f"({w.strip()})" for w in words)]
        write_film(self.tokenizer.pictures(made.codes), given, true, captions, gif, png)
        for what, file in (("gif", gif), ("png", png)):
            if file is not None:
                typer.echo(f"{what}     {file}")

    # ---- what is given ----------------------------------------------------------------------------------------------

    def _clip(self, video: str) -> "Clip":
        """A held-out video by its number, or one of a file; raises UserError where there is none."""
        import numpy as np

        from seqrl.rollout._documents import Clip
        from seqrl.rollout._held_out import HeldOut
        from seqrl.train.progress import bar

        if video.isdecimal():
            with bar("preparing", "example") as show:
                return HeldOut(self.loaded.recipe, self.tokenizer, show).clip(int(video))
        frames = _read_video(Path(video))
        if not frames.size:
            raise UserError(f"--video {video}: there is no frame in it")
        if frames.ndim == 2 and frames.shape[1] == self.ports.frame:
            most = self.ports.vision - 3
            if frames.dtype.kind not in "iu" or not 0 <= int(frames.min()) <= int(frames.max()) <= most:
                raise UserError(f"{video}: codes of frames are whole numbers from 0 to {most}")
            return Clip(frames.astype(np.int64))
        return Clip(self.tokenizer.codes(frames))

    def _words(self) -> tuple[tuple[int, ...], ...]:
        """Ids of the words there are for an action; none where documents tell no actions."""
        from seqrl.rollout.generate import action_words

        return action_words(self.tokenizer)

    def _actions(self, said: str, real: "Clip | None", frames: int, given: int) -> tuple[tuple[int, ...], ...]:
        """What is done between the frames: that of the data, what the model says (none), or the words that are named."""
        words = self._words()
        done = () if real is None else real.actions[: frames - 1]
        if words and real is not None and given > 1 and len(done) < given - 1:
            raise UserError(
                "--context: this model is told an action between frames, and this video tells none; take a held-out video, or "
                "--context 1"
            )
        if said == "data":
            return done
        if not words:
            raise UserError(f"--actions {said}: the documents of this model tell of no actions; leave it out")
        if said == "own":
            return done[: max(given - 1, 0)]
        known = {self.tokenizer.words(w): w for w in words}
        named = [w.strip() for w in said.split(",") if w.strip()]
        for one in named:
            if one not in known:
                raise UserError(f"--actions: there is no action '{one}' (there are: {', '.join(known)}; or say data, or own)")
        return (*done[: max(given - 1, 0)], *(known[w] for w in named))[: frames - 1]


def _read_video(path: Path) -> Any:
    """Pictures ``(T, H, W, C)`` or codes ``(T, K)`` of a file; raises UserError where it is none."""
    import numpy as np
    from PIL import Image, ImageSequence

    if not path.is_file():
        raise UserError(f"--video {path}: there is no such file; name one (.npy, .gif), or a held-out example by its number")
    try:
        if path.suffix == ".npy":
            with path.open("rb") as array:
                return np.lib.format.read_array(array, allow_pickle=False)
        with Image.open(path) as file:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)])
    except (OSError, ValueError, EOFError, SyntaxError, struct.error, Image.DecompressionBombError) as e:
        raise UserError(f"--video {path}: no array of frames and no picture that can be read ({e})") from e


def _print_real(found: dict[str, Any]) -> None:
    """How true it stayed, in a few lines."""

    def row(name: str, values: list[float]) -> str:
        return f"  {name:<16}" + " ".join(f"{v:5.2f}" for v in values)

    typer.echo(f"beside what really happened, {found['frames']} frames:")
    changed = "" if found["changed"] is None else f", of those that change {found['changed']:.3f}"
    typer.echo(f"  codes right     {found['accuracy']:.3f} (a still: {found['still']:.3f}){changed}")
    typer.echo(row("by frame", found["by_frame"]["accuracy"]))
    if "cell" in found:
        typer.echo(f"  agent's cell    {found['cell']:.3f} (a still: {found['cell_still']:.3f})")
        typer.echo(row("by frame", found["by_frame"]["cell"]))
