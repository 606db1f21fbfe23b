"""``seqrl tokens``: what the model reads, as an interleaved stream in colour, and tokenizers fitted once and for all.

``show`` draws an episode and says how faithful its codecs are, ``fit`` writes what ``tokens.fitted`` takes, ``ls`` lists the
shelf of both kinds: vocabularies for texts, and fitted tokenizers.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqrl.core.errors import RecipeError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from seqrl.core.stream import Stream
    from seqrl.train.view import View

app = typer.Typer(help="Streams: what the model reads.")

Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="RECIPE|BUNDLE", help="A recipe (fitted on its data), or a bundle or run.")],
    domain: Annotated[str | None, typer.Option(help="Which domain of packed rows; the first where not given.")] = None,
    episode: Annotated[int, typer.Option(help="Which episode of the data.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="How many steps of it.")] = 8,
    start: Annotated[int, typer.Option(min=0, help="From which step on.")] = 0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page as well.")] = None,
    force: Force = False,
) -> None:
    """Slots, positions, values and codes of one episode, who sees whom, and what the codecs keep of the values."""
    if html:
        _may_write(html, force)
    from rich.console import Console

    from seqrl.train.view import look

    view = look(name, domain)
    if view.recipe.tokens.documents:
        from seqrl.cli._documents import draw

        if start:
            raise UserError(
                f"{name} has token documents: choose one with --episode, and how many frames are shown with --steps"
            )
        draw(view, episode, steps, html, force)
        return
    stream, about = view.stream(episode)
    last = len(stream.values[stream.layout.step[0].name]) - 1
    if start > last:
        raise UserError(f"--start {start}: this episode has steps 0 to {last}")
    facts = [view.sizes(), f"{100 * view.filled():.1f}% of the places in a batch hold a token"]
    if len(view.domains) > 1:
        facts.insert(0, f"domain {view.domain} of {', '.join(view.domains)}; choose with --domain")
    _draw(Console(), view, stream, about, facts, steps, start)
    if html:
        from seqrl.cli.recipes import write_new
        from seqrl.report.roundtrip import round_trips
        from seqrl.report.stream import to_page

        trips = round_trips(view.tokenizer, stream)
        page = to_page(about, facts, stream, trips, steps, start, view.codecs, view.tokenizer.packed)
        write_new(html, page, force)
        typer.echo(f"page  {html}")


def _draw(console: "Console", view: "View", stream: "Stream", about: str, facts: list[str], steps: int, start: int) -> None:
    from rich.text import Text

    from seqrl.report.roundtrip import round_trips, to_table
    from seqrl.report.sight import sight, to_blocks
    from seqrl.report.stream import ANSI, to_text

    console.print(Text(about, style="bold"))
    for fact in facts:
        console.print(Text(fact, style="dim"))
    console.print()
    console.print(to_text(stream, steps, console.width, start, view.codecs))
    packed = view.tokenizer.packed
    grid = sight(stream, min(48, console.width - 2), packed)
    said = "who sees whom: the token of a line sees what is filled"
    said += "; the document behind it sees only itself" if packed else ""
    said += "; of slots of many tokens the first few" if grid.folded else ""
    console.print(Text(f"\n{said}", style="dim"))
    console.print(to_blocks(grid, ANSI))
    console.print(Text("there and back: decode(encode(x)) − x over this episode, in the units of the value", style="dim"))
    console.print(to_table(round_trips(view.tokenizer, stream), ANSI, console.width))


@app.command()
def fit(
    words: Annotated[
        list[str], typer.Argument(help="RECIPE, then any number of key=value overrides", metavar="RECIPE [key=value ...]")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="Where to write it.")],
    force: Force = False,
) -> None:
    """Fit a recipe's tokenizer on its data and write it to one file, for `tokens.fitted`."""
    if "=" in words[0]:
        raise UserError(f"name a recipe before {words[0]} (seqrl recipes ls)")
    if out.suffix != ".json":
        raise RecipeError(f"--out {out}: a fitted tokenizer is a .json file; write {out.with_suffix('.json')}")
    _may_write(out, force)
    import json

    from rich.console import Console

    from seqrl.cli.recipes import write_new
    from seqrl.data.tensors import ENDS, write_tensors
    from seqrl.report.fitted import to_table
    from seqrl.report.stream import ANSI
    from seqrl.train import recipe as recipes
    from seqrl.train.prepare import names, open_data, tokenizer_for

    # Whatever the recipe takes otherwise: to fit is what was asked for.
    recipe = recipes.load(words[0], [*words[1:], "tokens.fitted=null"])
    data = open_data(recipe)
    fitted = tokenizer_for(recipe, data)
    tensors = fitted.tensors()
    if tensors:
        _may_write(out.with_suffix(ENDS), force)
    write_tensors(tensors, out)
    write_new(out, json.dumps(fitted.to_json(), indent=1), force)
    console = Console(highlight=False)
    if not console.is_terminal:
        # Into a pipe or a file: whoever reads that can turn it about, and nothing need be cut off.
        console = Console(highlight=False, width=160)
    console.print(f"fitted on {names(data)}\n", markup=False, soft_wrap=True)
    if not recipe.tokens.documents:
        console.print(to_table(fitted, ANSI))
    console.print(f"\n{out}\nnext: seqrl train {' '.join(words)} tokens.fitted={out}", markup=False, soft_wrap=True)


@app.command("ls")
def ls() -> None:
    """What is on the shelf `tokenizers/`, a line each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from seqrl.core import shelf

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("tokenizer", style="cyan", no_wrap=True)
    table.add_column("what it is")
    for name in shelf.names("tokenizers", ".json"):
        table.add_row(Text(name), Text(_describe(shelf.find("tokenizers", name, ".json"))))
    console = Console(highlight=False)
    console.print(table)
    console.print("\n[dim]tokens.slots.SLOT: {kind: text, tokenizer: NAME} · tokens.fitted: NAME[/dim]")
    console.print("[dim]seqrl tokens fit RECIPE --out FILE.json[/dim]")


def _describe(file: Path) -> str:
    """One line about a file of the shelf: a vocabulary of the tokenizers library, or a fitted tokenizer."""
    import json

    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if "model" in raw:
            ids = {*raw["model"]["vocab"].values(), *(t["id"] for t in raw.get("added_tokens") or ())}
            return f"vocabulary for texts: {len(ids):,} ids, {raw['model']['type']}"
        if "documents" in raw:
            config = raw["documents"]["config"]
            return f"fitted, rows of {config['pack']:,} tokens: documents of {config['documents']['fields']}"
        parts = raw.get("domains") or {"": raw}
        said = [f"{d + ': ' if d else ''}{p['config']['layout']} of {p['spec']['id']}" for d, p in parts.items()]
        pack = next(iter(parts.values()))["config"]["pack"]
        return f"fitted, {f'rows of {pack:,} tokens' if pack else 'windows'}: {'; '.join(said)}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        return f"cannot be read ({type(e).__name__}: {e})"


def _may_write(file: Path, force: bool) -> None:
    """Says before the work is done what would keep its result from being written."""
    if file.is_dir():
        raise RecipeError(f"{file}: this is a folder; name a file in it")
    if file.exists() and not force:
        raise RecipeError(f"{file} is there already; choose another name, or write over it with --force")
    if not file.parent.is_dir():
        raise RecipeError(f"{file}: there is no folder {file.parent}")
