"""``seqrl data``: the datasets of this machine. Look at one, make one in an environment, bring one in from D4RL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from seqrl.data.describe import Facts
    from seqrl.sources._files import Progress

app = typer.Typer(help="Datasets: list, look into, collect from an environment, import from HDF5.")

Who = Annotated[str, typer.Option(metavar="random|scripted|BUNDLE", help="Who plays: also a bundle, a run, a player of ENV.")]
Env = Annotated[str | None, typer.Option(metavar="ID", help="Its environment; guessed from the file name if not given.")]
As = Annotated[str, typer.Option("--as", metavar="ID", help="Its id, such as local/cartpole-v0.")]


@app.command("ls")
def ls(
    remote: Annotated[bool, typer.Option("--remote", help="Those on Minari's public server (needs a network).")] = False,
) -> None:
    """The datasets on this machine, or on the server."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from seqrl.core.errors import DataError
    from seqrl.sources import _catalog, _remote
    from seqrl.sources._files import datasets_home

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("dataset", style="cyan", no_wrap=True)
    table.add_column("environment")
    for name in ("episodes", "steps", "MB"):
        table.add_column(name, justify="right")
    rows: dict[str, dict[str, Any] | str] = {}
    for id in () if remote else _catalog.local_ids():
        try:
            rows[id] = _catalog.metadata(id)
        except DataError:
            rows[id] = "broken: its metadata.json cannot be read"
    for id, about in (_remote.offers() if remote else rows).items():
        if isinstance(about, str):
            table.add_row(Text(id), Text(about, style="red"))
            continue
        env = _catalog.env_of(about)
        numbers = [_number(about.get(k)) for k in ("total_episodes", "total_steps", "dataset_size")]
        table.add_row(Text(id), Text(_plain(env["id"] if env else "-")), *numbers)
    if table.row_count:
        console.print(table)
    if remote:
        console.print("\n[dim]A recipe that names one of these downloads it.[/dim]")
    else:
        where = f"{table.row_count or 'no'} datasets in {datasets_home()} (MINARI_DATASETS_PATH)"
        console.print(Text(f"\n{where}", style="dim"))
        console.print(
            "[dim]seqrl data show ID · seqrl data collect CartPole-v1 --episodes 100 --as local/cartpole-v0[/dim]",
            soft_wrap=True,
        )


def _plain(words: str) -> str:
    """Somebody's words without anything that could steer the terminal."""
    return "".join(c if c.isprintable() else "�" for c in words)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "-"


@app.command("show")
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="A dataset's id, or a D4RL file (.hdf5).")],
) -> None:
    """What a dataset holds: spaces, ranges, returns, lengths, references, and what to beware of."""
    from seqrl.data.describe import describe
    from seqrl.data.store import prepare
    from seqrl.sources import d4rl, minari

    file = id.endswith((".hdf5", ".h5"))
    source = d4rl.Source(d4rl.Config(path=id)) if file else minari.Source(minari.Config(id=id))
    with _bar("converting") as progress:
        store = prepare(source, progress)
    _print_facts(describe(store), str(store.path))


def _print_facts(facts: "Facts", path: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(facts.id, style="bold cyan"))
    env = _plain(facts.env or "unknown")
    console.print(Text(f"{facts.episodes:,} episodes, {facts.steps:,} steps, environment {env}\n"))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in ("", "kind", "shape", "dtype", "declared", "found"):
        table.add_column(name, overflow="fold")
    for c in facts.columns:
        shape = "x".join(map(str, c.shape)) or "-"
        table.add_row(*(Text(words) for words in (_plain(c.name), c.kind, shape, c.dtype, c.declared, c.found)))
    console.print(table)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in ("\nper episode", *(f"\n{k}" for k in facts.returns)):
        table.add_column(name, justify="left" if "per" in name else "right")
    for name, found in (("return", facts.returns), ("steps", facts.lengths)):
        table.add_row(name, *(f"{v:.4g}" if abs(v) < 1e4 else f"{v:,.0f}" for v in found.values()))
    console.print(table)
    console.print("\n[bold]returns[/bold]")
    counts, edges = facts.histogram
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        console.print(f"{low:>10.4g} to {high:<10.4g} [cyan]{_blocks(count / max(counts))}[/cyan] {count:,}")
    ended = f"{facts.terminated:.0%} of the episodes end for good, the others are cut off"
    console.print(f"\n{ended}; seeds {'recorded' if facts.seeded else 'not recorded'}")
    if facts.references:
        low, high = facts.references
        score = "" if facts.normalised is None else f"; the data's mean return is {facts.normalised:.1f} normalised"
        console.print(f"references: random {low:.6g}, expert {high:.6g}{score}")
    console.print(f"in memory {facts.memory / 1e6:,.0f} MB; converted {facts.disk / 1e6:,.0f} MB, in")
    console.print(Text(f"  {path}", style="dim"), soft_wrap=True)
    for note in facts.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _blocks(share: float, width: int = 30) -> str:
    """A bar of up to ``width`` characters, in eighths; never empty where there is something."""
    eighths = round(share * width * 8)
    eighths = max(eighths, 1) if share > 0 else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


@app.command("collect")
def collect(
    env: Annotated[str, typer.Argument(metavar="ENV", help="A gymnasium environment, such as CartPole-v1.")],
    id: As,
    episodes: Annotated[int, typer.Option(min=1, help="How many whole episodes.")],
    policy: Who = "random",
    seed: Annotated[int, typer.Option(min=0, help="Episode i resets with seed + i.")] = 0,
    levels: Annotated[str | None, typer.Option(metavar="1,0.8", help="Scripted: shares of steps not random.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the environment.")
    ] = None,
) -> None:
    """Plays episodes and saves them as a Minari dataset: the same ones for the same settings."""
    from seqrl.core.config import apply_overrides, parse_value, validate
    from seqrl.sources import collected
    from seqrl.sources._laws import is_scripted
    from seqrl.sources._write import target_of

    target_of(id)
    asked: dict[str, Any] = {"id": id, "env": env, "episodes": episodes, "seed": seed}
    asked["settings"] = apply_overrides({}, settings or [], {})
    if levels is not None:
        asked["levels"] = parse_value(f"[{levels}]")
    by_name = policy == "random" or is_scripted(env, policy)
    config = validate(collected.Config, asked | {"policy": policy if by_name else "random"}, {}, "command line")
    rows = min(16, episodes)
    player = policy if by_name else _bundle(policy, rows, seed)
    with _bar("collecting") as progress:
        folder = collected.collect(
            env, episodes, id, player, seed, config.levels, rows=rows, name=policy, progress=progress, settings=config.settings
        )
    _saved(id, folder)


def _bundle(path: str, rows: int, seed: int) -> Any:
    """The policy in a bundle; torch is imported here and not before."""
    from seqrl.rollout.collect_policy import bundle_policy

    return bundle_policy(path, rows, seed=seed)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.hdf5", help="An original D4RL file.")],
    id: As,
    env: Env = None,
) -> None:
    """Saves an original D4RL file as a Minari dataset, episode by episode; nothing is dropped."""
    from seqrl.sources import d4rl
    from seqrl.sources._write import save_minari, target_of

    target_of(id)
    source = d4rl.Source(d4rl.Config(path=str(file), env=env))
    with _bar("importing") as progress:

        def episodes() -> Iterator[Any]:
            for i in range(len(source)):
                yield source.episode(i)
                progress(i + 1, len(source))

        folder = save_minari(episodes(), source.spec, id)
    _saved(id, folder)
    typer.echo(f"environment: {source.spec.env['id'] if source.spec.env else 'unknown, name it with --env when evaluating'}")


@app.command("tokens")
def tokens(
    words: Annotated[
        list[str], typer.Argument(help="RECIPE, then any number of key=value overrides", metavar="RECIPE [key=value ...]")
    ],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Copy it into this cache (SEQRL_CACHE) as well.")] = None,
) -> None:
    """Prepares a recipe's token documents once: frames to codes, texts to ids. Training does it by itself otherwise.

    What is done stays done: after Ctrl-C the same command goes on where it was.
    """
    from seqrl.cli._documents import copy, facts, opened
    from seqrl.core.errors import UserError

    if "=" in words[0]:
        raise UserError(f"name a recipe before {words[0]} (seqrl recipes ls)")
    loader = opened(words[0], words[1:])
    facts(loader)
    if out:
        copy(loader, out)
    typer.echo(f"next: seqrl train {' '.join(words)}")


def _saved(id: str, folder: Path) -> None:
    from seqrl.sources._catalog import metadata

    about = metadata(id)
    typer.echo(f"{id}: {about['total_episodes']:,} episodes, {about['total_steps']:,} steps, in {folder}")
    typer.echo(f"next: seqrl data show {id}")


@contextmanager
def _bar(words: str) -> "Iterator[Progress]":
    """A progress bar on stderr that shows itself with the first report."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parts = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"), TimeRemainingColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
