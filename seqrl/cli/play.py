"""``seqrl play``: step a world model's dream with the keyboard."""

import sys
from typing import Annotated

import typer

from seqrl.core.errors import UserError


def play(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A world model: a bundle, or a run.")],
    policy: Annotated[str | None, typer.Option(metavar="BUNDLE", help="Who acts at the space bar.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Real steps observed first.")] = None,
    horizon: Annotated[int, typer.Option(min=1, help="Steps after which a dream is over.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Decides where dreams begin, and every draw.")] = 0,
    sample: Annotated[bool, typer.Option("--sample/--likeliest", help="Draw what comes next, or take the likeliest.")] = True,
    domain: Annotated[str | None, typer.Option(metavar="NAME", help="Which, of a model of several.")] = None,
    keys: Annotated[str | None, typer.Option(metavar='"1 1 0 q"', help="Keys to press, in place of a keyboard.")] = None,
    window: Annotated[bool, typer.Option("--window", help="In a window, where there is a display.")] = False,
) -> None:
    """Dreams on from a real beginning while you act: arrows and digits, space for nothing (or what a policy does), q leaves."""
    if window and keys is not None:
        raise UserError("--window shows what --keys would play unseen; leave one of them out")
    if not window and keys is None and sys.stdin.isatty() and not sys.stdout.isatty():
        raise UserError('play wants a terminal to draw in; give --keys "1 1 0 q" to write lines of text instead')

    from seqrl.cli._game import Game
    from seqrl.cli._screen import Window, lines, terminal
    from seqrl.cli.dream import open_room, player
    from seqrl.rollout.settings import DreamConfig

    if window:
        # Before anything is loaded that takes long.
        Window.check()
    room = open_room(bundle, domain)
    env = room.env(DreamConfig(context=context, horizon=horizon), 1, sample)
    by = policy or (bundle if room.acts else None)
    game = Game(env, player(env, "policy", by, seed) if by else None, seed)
    if window:
        shown = Window(game)
        shown.show()
    elif keys is not None:
        lines(game, keys.split())
    elif sys.stdin.isatty():
        terminal(game)
    else:
        lines(game, (word for line in sys.stdin for word in line.split()))
