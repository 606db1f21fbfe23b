"""``seqrl dream``: imagined beside real, as a table of errors by steps ahead and a GIF; or what somebody gets in the dream."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqrl.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from seqrl.rollout.dream import DreamEnv
    from seqrl.rollout.fidelity import Fidelity

_ACTIONS = ("data", "policy", "random")


def check_file(file: Path | None) -> None:
    """Raises UserError where a file cannot be written: better now than when all is done."""
    if file is not None and file.is_dir():
        raise UserError(f"{file} is a folder; name a file in it")
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f"{file}: there is no folder {file.absolute().parent} to write it in")


def dream(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE|RUN", help="A world model: a bundle, or a run.")],
    context: Annotated[int | None, typer.Option(min=1, help="Real steps observed first.")] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Steps imagined.")] = None,
    actions: Annotated[str, typer.Option(metavar="data|policy|random", help="Whose actions are imagined.")] = "data",
    policy: Annotated[str | None, typer.Option(metavar="BUNDLE", help="Who acts, with --actions policy.")] = None,
    starts: Annotated[int | None, typer.Option(min=1, help="Dreams, spread over the held-out episodes.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides the starts and every draw.")] = None,
    sample: Annotated[bool | None, typer.Option("--sample/--likeliest", help="Draw what comes, or take the likeliest.")] = None,
    domain: Annotated[str | None, typer.Option(metavar="NAME", help="Which, of a model of several.")] = None,
    gif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one dream as a GIF.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the errors by steps ahead.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers as JSON.")] = None,
) -> None:
    """Imagines what follows real beginnings, on episodes kept out of training, and says for how long it stays true."""
    if actions not in _ACTIONS:
        raise UserError(f"--actions {actions}: one of {', '.join(_ACTIONS)}{did_you_mean(actions, _ACTIONS)}")
    if policy and actions != "policy":
        raise UserError(f"--policy {policy} acts with --actions policy; say so, or leave it out")
    if png and actions != "data":
        raise UserError(f"--png: there are no errors to draw of actions nobody did; leave it out with --actions {actions}")
    for file in (gif, png, json_file):
        check_file(file)

    from seqrl.rollout.settings import DreamConfig, config_for

    room = open_room(bundle, domain)
    known = config_for(room.recipe, {})
    known = known.of_domain(room.domain) if room.domain else known
    wanted = {"context": context, "horizon": horizon, "starts": starts, "sample": sample}
    config = DreamConfig(**{**known.dream.model_dump(), **{k: v for k, v in wanted.items() if v is not None}})
    seed = known.seed if seed is None else seed
    policy = policy or (bundle if room.acts else None)
    if actions == "data":
        found = _measure(room, config, seed)
        made = found.to_json()
        if png is not None:
            _curve(made, png)
    else:
        made = _act(room, config, seed, actions, policy)
    if json_file is not None:
        json_file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"json    {json_file}")
    if gif is not None:
        _film(room, config, seed, actions, policy, gif)


class Room:
    """What a dream needs of a bundle: its world, the episodes to begin at, and whether it acts by itself."""

    def __init__(self, bundle: str, domain: str | None) -> None:
        from seqrl import bundle as bundles
        from seqrl.rollout.excerpts import Excerpts
        from seqrl.rollout.worlds import Bridge, world_of
        from seqrl.train.progress import bar
        from seqrl.train.view import look

        loaded = bundles.load(bundle)
        self.world, self.tokenizer = world_of(loaded.model, loaded.tokenizer, domain)
        self.recipe, self.acts = loaded.recipe, hasattr(loaded.model, "act")
        # With the very tokenizer of the bundle, for the fields it names.
        with bar("converting", "episode") as show:
            view = look(loaded.path, domain, show)
        self.domain, self.dataset = view.domain, view.dataset
        self.bridge = Bridge(self.world, self.tokenizer)
        self.excerpts = Excerpts(self.dataset, self.tokenizer, self.bridge)

    def lengths(self, config: Any) -> tuple[int, int]:
        """Steps observed and steps imagined; raises UserError where the episodes do not reach so far."""
        from seqrl.rollout.fidelity import lengths

        return lengths(config, self.bridge, self.excerpts.longest, self.dataset.spec.id)

    def env(self, config: Any, rows: int, sample: bool) -> "DreamEnv":
        """The dream as an environment; its horizon is not that of the data."""
        from seqrl.rollout.dream import DreamEnv
        from seqrl.rollout.fidelity import context_of

        context = context_of(config, self.tokenizer, self.excerpts.longest)
        ends = "sample" if sample else "threshold"
        return DreamEnv(self.world, self.tokenizer, self.excerpts, rows, config.horizon or 50, context, sample, ends=ends)


def open_room(bundle: str, domain: str | None = None) -> Room:
    """Raises UserError where there is no world in the bundle, or nothing was held out."""
    return Room(bundle, domain)


def _measure(room: Room, config: Any, seed: int) -> "Fidelity":
    from seqrl.cli._fidelity import print_fidelity
    from seqrl.rollout.fidelity import measure
    from seqrl.train.progress import bar

    with bar("dreaming", "excerpt") as show:
        found = measure(room.world, room.tokenizer, room.dataset, config, seed, progress=show)
    print_fidelity(found, room.domain)
    return found


def _curve(found: dict[str, Any], png: Path) -> None:
    from seqrl.report.dream import curve
    from seqrl.report.ink import png as drawn

    if (figure := curve(found)) is None:
        raise UserError("there is nothing to draw: no error could be measured")
    png.write_bytes(drawn(figure))
    typer.echo(f"curve   {png}")


def player(env: "DreamEnv", actions: str, policy: str | None, seed: int) -> Any:
    """Who acts in a dream: called for the action of every step; one that takes in rewards has ``receive`` as well."""
    if actions == "random":
        env.action_space.seed(seed)
        return env.action_space.sample
    if policy is None:
        raise UserError("--actions policy: say whose, with --policy BUNDLE (a world model does not act by itself)")
    from seqrl.rollout.acting import Acting

    return Acting(env, policy, seed)


def _act(room: Room, config: Any, seed: int, actions: str, policy: str | None) -> dict[str, Any]:
    """Plays one dream from each start to its end, and says what was got beside what the data got from such starts."""
    import numpy as np

    rows = min(config.starts, 64)
    env = room.env(config, rows, config.sample)
    act = player(env, actions, policy, seed)
    env.reset(seed=seed)
    total, steps, alive, ended = np.zeros(rows), np.zeros(rows, int), np.ones(rows, bool), np.zeros(rows, bool)
    for _ in range(env.horizon):
        # Rows that are over begin anew beside those that are not, and do not count.
        _, reward, terminated, truncated, _ = env.step(act())
        total += np.where(alive, reward, 0.0)
        steps += alive
        ended |= alive & terminated
        alive &= ~(terminated | truncated)
        if hasattr(act, "receive"):
            act.receive(reward)
        if not alive.any():
            break
    places = room.excerpts.places(config.starts, env.context, env.horizon, seed)
    real = room.excerpts.read(places)
    found = {
        "actions": actions,
        "policy": policy if actions == "policy" else None,
        "starts": rows,
        "horizon": env.horizon,
        "return": float(total.mean()),
        "return_std": float(total.std()),
        "steps": float(steps.mean()),
        "ended": float(ended.mean()),
        "data_return": float(real.reward.sum(1).mean()),
        "data_steps": float(places.length.mean()),
    }
    who = policy if actions == "policy" else "random actions"
    typer.echo(f"{who} in {rows} dreams of {room.dataset.spec.id}, at most {env.horizon} steps, seed {seed}")
    typer.echo(f"return    {total.mean():.4g} ± {total.std():.3g} (the data from such starts: {found['data_return']:.4g})")
    typer.echo(f"steps     {steps.mean():.4g}, {ended.mean():.0%} of the dreams ended (the data: {found['data_steps']:.4g})")
    return found


def _film(room: Room, config: Any, seed: int, actions: str, policy: str | None, gif: Path) -> None:
    from seqrl.report.film import write
    from seqrl.rollout import reel

    if actions == "data":
        context, horizon = room.lengths(config)
        made = reel.of_data(room.bridge, room.excerpts, context, horizon, seed, config.sample)
    else:
        env = room.env(config, 1, config.sample)
        made = reel.of_player(env, player(env, actions, policy, seed), seed)
    write(made, gif)
    typer.echo(f"gif     {gif}")
