"""What the worlds of windows demand of layouts and losses, alike for all."""

from collections.abc import Sequence

from seqrl.core.errors import RecipeError, did_you_mean
from seqrl.core.layout import Layout


def check_losses(given: Sequence[str] | None, layout: Layout, seen: Sequence[str], own: Sequence[str]) -> list[str]:
    """The losses a world is trained on.

    Args:
        given: the recipe's; None takes all there are. seen: observed slots. own: divergences and the like, all needed.

    Raises:
        RecipeError: the layout answers no reward, a loss is on nothing this world has, or one it needs is not there.
    """
    if "reward" not in layout.names:
        raise RecipeError(f"layout '{layout}': a world model answers 'reward', as in 'state action > reward done'")
    needed = [*(n for n in ("reward", "done") if n in layout.names), *own]
    losses = [*seen, *needed] if given is None else list(given)
    for name in losses:
        if name not in (*seen, *needed):
            there = did_you_mean(name, (*seen, *needed))
            raise RecipeError(f"train.losses: this world has no '{name}'{there} (there are: {', '.join((*seen, *needed))})")
    if missing := [n for n in needed if n not in losses]:
        raise RecipeError(f"train.losses: give '{missing[0]}' a weight; a world model is trained on {', '.join(needed)}")
    return losses
