"""``seqrl needle``: how surely a model finds one thing again in a long text or a long episode, by length and depth."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqrl.core.errors import UserError

if TYPE_CHECKING:
    from seqrl.rollout.needle import Needles

_DEPTHS = "0,.25,.5,.75,1"
_LETTERS = {"k": 1 << 10, "m": 1 << 20}


def needle(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A model of documents, or a policy of packed rows.")],
    lengths: Annotated[str, typer.Option(metavar="1k,4k,...", help="Tokens that are read; 1k is 1,024.")] = "1k,4k",
    depths: Annotated[
        str | None, typer.Option(metavar="0,.5,1", help=f"Where the needle is hidden. [default: {_DEPTHS}]")
    ] = None,
    needles: Annotated[int, typer.Option(min=1, help="Hidden at once; of several each at a depth by chance.")] = 1,
    asked: Annotated[int, typer.Option(min=1, help="How many of them are asked for.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", "--episodes", min=1, help="Tries of every length and depth.")] = 10,
    rope_base: Annotated[float | None, typer.Option(help="Of the rotary angles, for lengths beyond the model's own.")] = None,
    haystack: Annotated[Path | None, typer.Option(metavar="FILE", help="A text to hide them in. Otherwise made up.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is hidden and where.")] = 0,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the recall as a heat map.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")] = None,
) -> None:
    """Hides a needle at every depth of every length, asks for it, and counts how often the answer is right."""
    from seqrl.cli.dream import check_file

    for file in (png, json_file):
        check_file(file)
    if depths is not None and needles > 1:
        raise UserError("--depths is for one needle: of several each is hidden at a depth by chance; leave it out")
    text = None if haystack is None else _read(haystack)
    at = tuple(_number("--depths", word) for word in _words(depths or _DEPTHS)) if needles == 1 else ()
    sizes = tuple(length(word) for word in _words(lengths))

    from seqrl import bundle as bundles
    from seqrl.rollout.needle import NeedleConfig, measure
    from seqrl.train.progress import bar

    config = NeedleConfig(sizes, at, needles, asked, rounds, rope_base, seed)
    with bar("hiding", "needle") as show:
        found = measure(bundles.load(bundle), config, text, show)
    _print(found)
    if png is not None:
        from seqrl.report.ink import png as drawn
        from seqrl.report.needle import heat_map

        png.write_bytes(drawn(heat_map(found)))
        typer.echo(f"map     {png}")
    if json_file is not None:
        json_file.write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
        typer.echo(f"json    {json_file}")


def length(word: str) -> int:
    """Tokens of ``512``, ``4k`` (4,096) or ``1M``; raises UserError on anything else."""
    size = _LETTERS.get(word[-1:].lower(), 1)
    count = _number("--lengths", word[:-1] if size > 1 else word) * size
    if not 1 <= count < 2**40 or count != int(count):
        raise UserError(f"--lengths: '{word}' is no number of tokens; say such as 512,4k,64k,1M")
    return int(count)


def _words(said: str) -> list[str]:
    return [w.strip() for w in said.split(",") if w.strip()]


def _number(option: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UserError(f"{option}: '{word}' is no number") from None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--haystack {file}: no text that can be read ({getattr(e, 'strerror', None) or e})") from e


def _print(found: "Needles") -> None:
    """The recall of every cell, a row for each depth; on a narrow screen the same turned about would not fit either."""
    from rich.console import Console
    from rich.table import Table

    from seqrl.report.needle import depth, tokens

    c = found.config
    table = Table()
    table.add_column("depth", justify="right")
    columns = sorted(range(len(c.lengths)), key=lambda s: c.lengths[s])
    for s in columns:
        table.add_column(tokens(c.lengths[s]) + ("" if found.bases[s] is None else " *"), justify="right")
    for d in sorted(range(len(c.rows)), key=lambda d: c.rows[d] or 0.0):
        table.add_row(depth(c.rows[d]), *(f"{found.recall[d, s]:.2f}" for s in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(Console(width=500).measure(table).maximum, console.width))
    typer.echo(f"recall, {found.total} questions a cell, seed {c.seed}")
    console.print(table)
    notes = [f"trained on rows of {found.trained:,} tokens"]
    if any(b is not None for b in found.bases):
        notes.append(f"* with rope base {c.rope_base:g}")
    if c.needles > 1:
        notes.append(f"{c.needles} hidden, {c.asked} asked for")
    typer.echo("; ".join(notes))
