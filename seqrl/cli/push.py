"""``seqrl push``: show what a publication would change, then make it in one commit."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqrl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seqrl.hub.difference import Change


def push_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="[RUN] [ORG/NAME]", help="What to publish, and where.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository one that only its owners see.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the commit.")] = None,
    license: Annotated[str | None, typer.Option(metavar="ID", help="For the card, such as apache-2.0.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Publish over what others have published since.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Import a model kind of another package.")] = False,
    dataset: Annotated[str | None, typer.Option(metavar="ID", help="Publish a dataset: --dataset ID ORG/NAME.")] = None,
    manifest: Annotated[str | None, typer.Option(metavar="FILE", help="Publish what a manifest names, if it scores.")] = None,
) -> None:
    """Publishes a run (its last checkpoint), a checkpoint or a bundle: weights, tokenizer, recipe, metrics, code and card.

    A dataset is published with --dataset, and what a manifest names with --manifest, of that all or only ORG/NAME.
    Nothing leaves this machine with --dry-run.
    """
    words = names or []
    if manifest is not None:
        if len(words) > 1 or private or trust or license is not None or dataset is not None:
            raise UserError("--manifest FILE says what is published, where and how; say at most ORG/NAME besides")
        _manifest(manifest, dry_run, words[0] if words else None, message=message, force=force)
    elif dataset is not None:
        if len(words) != 1:
            raise UserError("say where to: seqrl push --dataset ID ORG/NAME")
        if force:
            raise UserError("--force goes with a run: it is what remembers its last push")
        _dataset(dataset, words[0], private=private, dry_run=dry_run, license=license, message=message)
    elif len(words) != 2:
        raise UserError("say what to publish and where: seqrl push RUN ORG/NAME, such as: seqrl push runs/demo me/cartpole")
    else:
        from seqrl.hub.push import push

        _say(push(words[0], words[1], private, dry_run, message, force, license, trust, show))


def _dataset(id: str, repo: str, **settings: Any) -> None:
    from seqrl.hub.dataset import push_dataset
    from seqrl.train.progress import bar

    with bar("reading", "episode") as progress:
        done = push_dataset(id, repo, show=show, progress=progress, **settings)
    _say(done)


def _manifest(name: str, dry_run: bool, only: str | None, **settings: Any) -> None:
    from seqrl.hub.manifest import push_manifest

    for verdict, done in push_manifest(name, dry_run, only, show=show, **settings):
        typer.echo(f"\n{verdict.entry.repo}: {', '.join(verdict.told)}")
        _say(done)


def show(changes: "Sequence[Change]", notes: "Sequence[str]") -> None:
    """Prints what will change, and what a person should know of it."""
    from seqrl.hub.difference import table

    for line in (*table(changes), *notes):
        typer.echo(line)


def _say(done: Any) -> None:
    """What came of a push (``hub.push.Pushed``)."""
    moved = any(c.how != "same" for c in done.changes)
    if done.commit is None:
        rest = f"without --dry-run it goes to {done.url}" if moved else f"there is nothing to change at {done.url}"
        typer.echo(f"this was a dry run; {rest}")
        return
    tag = f", tagged {done.tag}" if done.tag else ""
    typer.echo(f"{'published' if moved else 'nothing to change'}: {done.url} at {done.commit[:8]}{tag}")
