"""What the commands do with token documents: prepare them, say what there is, copy it, draw an example."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqrl.core.errors import RecipeError

if TYPE_CHECKING:
    from seqrl.data.documents import DocumentLoader
    from seqrl.train.view import View


def opened(name: str, overrides: Sequence[str] = ()) -> "DocumentLoader":
    """The examples of a recipe, prepared now where they were not; raises RecipeError where it has none."""
    from seqrl.train import recipe as recipes

    recipe = recipes.load(name, overrides)
    if recipe.tokens.documents is None:
        raise RecipeError(f"{name} trains on trajectories, which need no preparation; token documents say tokens.documents")
    from seqrl.train.prepare import loader_for, open_data, tokenizer_for
    from seqrl.train.progress import bar

    with bar("converting", "episode") as report:
        data = open_data(recipe, report)
    return loader_for(recipe, data, tokenizer_for(recipe, data), "cpu")


def draw(view: "View", unit: int, frames: int, page: Path | None = None, force: bool = False) -> None:
    """Prints the example of an episode or a line (see ``report.documents``), and writes it as a page where one is named."""
    from rich.console import Console
    from rich.text import Text

    from seqrl.report.documents import pieces, to_html, to_text
    from seqrl.train.prepare import loader_for

    console = Console(highlight=False)
    about, made = pieces(loader_for(view.recipe, view.data, view.fitted, "cpu"), unit, frames)
    console.print(Text(about, style="bold"))
    console.print(to_text(made))
    console.print(Text("green is trained, grey is read", style="dim"))
    if page:
        from seqrl.cli.recipes import write_new

        write_new(page, to_html(about, made), force)
        console.print(f"page  {page}", markup=False)


def facts(loader: "DocumentLoader") -> None:
    """Prints what was prepared, a line for each source, and how it fits into rows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, ports = Console(highlight=False), loader.ports
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("source", style="cyan", no_wrap=True)
    for name in ("examples", "tokens", "vision", "trained", "longest", "MB"):
        table.add_column(name, justify="right")
    for store in loader.stores:
        size = sum(p.stat().st_size for p in store.path.iterdir()) / 1e6
        shares = (f"{n / store.tokens:.0%}" for n in (store.vision, store.trained))
        numbers = (f"{len(store):,}", f"{store.tokens:,}", *shares, f"{int(store.length.max()):,}", f"{size:,.1f}")
        table.add_row(Text(store.source), *numbers)
    console.print(table)
    said = f"{ports.text:,} ids of text, {ports.vision:,} of vision"
    said += f"; a frame is {ports.frame} codes and its end" if ports.frame else "; no videos"
    console.print(Text(f"\n{said}"))
    full = np.mean([loader.draw(0, step, 8).efficiency for step in range(4)])
    console.print(Text(f"rows of {loader.length:,} tokens, {full:.1%} full ({loader.documents.mode})"))
    if loader.cut:
        total = sum(len(s) for s in loader.stores)
        advice = "raise tokens.pack, or take fewer frames with tokens.documents.most_frames"
        note = f"note: {loader.cut:,} of {total:,} examples are longer and lose their end; {advice}"
        console.print(Text(note, style="yellow"))
    for store in loader.stores:
        console.print(Text(f"  {store.path}", style="dim"), soft_wrap=True)


def copy(loader: "DocumentLoader", out: Path) -> None:
    """Copies what was prepared into the cache ``out``; raises DataError where that cannot be written."""
    from seqrl.sources._files import whole_folder

    for store in loader.stores:
        target = out / "documents" / store.path.name
        if not target.exists():
            with whole_folder(target) as folder:
                shutil.copytree(store.path, folder, dirs_exist_ok=True)
