"""``seqrl hub serve``: a Hub on this machine, to practise publishing on, for a class, for CI, or where there is no network."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="A Hub on this machine that every client of the real one can talk to.")

_ROOT = "Keep everything here, and find it again next time; else it is gone at the end."


@app.command("serve")
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8899,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help=_ROOT)] = None,
    account: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Who may log in (default: me).")] = None,
    org: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Whose repositories all of them share.")] = None,
) -> None:
    """Serves a practice Hub on loopback until Ctrl-C, and prints what to paste so that clients find it."""
    import signal
    import threading

    from seqrl.hub.practice import PracticeHub
    from seqrl.hub.practice.server import TOKEN

    names = list(dict.fromkeys(account or ["me"]))
    tokens = {TOKEN if len(names) == 1 else f"{TOKEN}_{name}": name for name in names}
    orgs = list(dict.fromkeys(org or ["org"]))
    hub = PracticeHub(root, port, tokens, orgs)

    def tell(method: str, path: str, status: int) -> None:
        typer.echo(f"{method:6} {status or 'cut'} {''.join(c if c.isprintable() else '?' for c in path)}")
        # Nobody reads the log here, and it would grow for as long as the Hub runs.
        hub.log.clear()

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    hub.listener = tell
    with hub:
        # Both: what a script starts in the background begins with Ctrl-C ignored.
        for how in (signal.SIGINT, signal.SIGTERM):
            signal.signal(how, leave)
        typer.echo(f"export HF_ENDPOINT={hub.url}")
        for token, name in tokens.items():
            typer.echo(f"export HF_TOKEN={token}{f'   # {name}' if len(names) > 1 else ''}")
        typer.echo("export HF_HUB_DISABLE_XET=1")
        kept = f"kept in {root}" if root else "gone at the end (--root DIR keeps it)"
        typer.echo(f"# repositories of {', '.join((*names, *orgs))}, {kept}; Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            typer.echo("# stopped")
