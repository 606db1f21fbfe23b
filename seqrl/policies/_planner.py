"""A policy that plans: the agent hands it windows of transitions, and it answers the first action of its best plan.

Before anything is trained it is asked whether planning will be possible at all: which slots must be fed, be codes and be
learned, and whether a plan ends within the places that training reaches.

Letters: B environments, T transitions, K codes of an action, W tokens of a step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqrl.core.errors import RecipeError
from seqrl.core.stream import StreamBatch
from seqrl.nn.branches import Branches
from seqrl.nn.streams import Domain
from seqrl.policies._beam import Found, Plan, search
from seqrl.policies._player import Player


def unplannable(d: Domain, losses: Sequence[str]) -> str | None:
    """Why no plan can be made in a domain, with the fix; None where one can."""
    at = d.step.index("action") if "action" in d.step else len(d.step)
    if "reward" not in d.step[at:] or "return" not in d.readout or not at:
        return "planning needs actions and then rewards fed, and returns read out; write 'state action reward > return'"
    if odd := next((n for n in d.step if not d.ports.vocabs[n]), None):
        return f"planning imagines code after code, and '{odd}' is made of numbers; give it codes, tokens.slots.{odd}.kind=bins"
    if odd := next((n for n in ("reward", "return") if n not in d.ports.levels), None):
        return f"planning adds up rewards and returns, and '{odd}' has no codes that mean numbers; tokens.slots.{odd}.kind=bins"
    if odd := next((n for n in (*d.step, "return") if n not in losses), None):
        return f"planning imagines '{odd}', which must be learned first: give it a weight in train.losses"
    return None


def check_plan(plan: Plan, d: Domain, losses: Sequence[str], length: int) -> None:
    """Raises RecipeError where a domain cannot be planned in, or a plan ends beyond the places that are trained."""
    if plan.horizon and (why := unplannable(d, losses)):
        raise RecipeError(f"layout '{d.layout}' (domain {d.name}): {why}; or act without a plan: model.horizon=0")
    room = min((length - d.P) // d.W, d.ports.context or length)
    steps = plan.look_back + max(plan.horizon - 1, 0)
    if steps > room:
        most = room - plan.look_back + 1
        fits = f"lower model.horizon to {most}" if most > 0 else f"lower model.look_back to {room}"
        raise RecipeError(
            f"domain {d.name}: a plan of {plan.horizon} transitions that begins from {plan.look_back} takes {steps}, and a "
            f"document holds {room}; {fits}, or raise tokens.context to {steps} and tokens.pack to {d.P + steps * d.W} or more"
        )


class Planner:
    """Meets ``core.contracts.Policy`` for one domain; every decision is a plan of its own, so it keeps nothing between them."""

    def __init__(self, model: Any, domain: str, plan: Plan) -> None:
        check_plan(plan, model.domains[domain], model.losses, model.config.length)
        self.model, self.name, self.plan, self.player = model, domain, plan, Player(model, domain)
        self.losses = model.losses

    def __getattr__(self, name: str) -> Any:
        # Everything that is no matter of one domain (training, eval, parameters) is the model's.
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def recent(self, batch: StreamBatch) -> StreamBatch:
        """The last ``look_back`` transitions of each row."""
        T = min(batch.time.shape[1], self.plan.look_back)
        first = (batch.length - T).clamp(min=0)
        at = first[:, None] + torch.arange(T, device=first.device)
        rows = torch.arange(len(at), device=at.device)[:, None]
        return StreamBatch({n: v[rows, at] for n, v in batch.values.items()}, batch.time[rows, at], batch.length - first)

    @torch.inference_mode()
    def search(self, batch: StreamBatch, uniform: Tensor | None = None, temperature: float = 1.0) -> Found:
        """Plans from the last real step of each row, the best first; arguments as in ``act``."""
        x, length, _ = self.player.window(self.recent(batch))
        d, plan = self.player.domain, self.plan
        # What comes behind the present action's last token in front.
        room = plan.horizon * d.W - self.player.start
        reader = Branches(self.model.trunk, x, length, plan.beam, plan.expand, room)
        return search(self.model, self.name, reader, plan, uniform, temperature)

    @torch.inference_mode()
    def act(
        self,
        batch: StreamBatch,
        cache: None = None,
        sample: bool = False,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """The first action of the best plan.

        Args:
            batch: the whole window ``[B, T, ...]``.
            cache: there is none.
            sample: whether the candidates are drawn anew for each decision, by ``uniform``; otherwise each is drawn alike.
            uniform: ``[B, K]`` in (0, 1).
            temperature: of the draws of actions.

        Returns:
            ``{"action": [B, K]}``, codes.
        """
        if not self.plan.horizon:
            return self.player.act(self.recent(batch), sample=sample, uniform=uniform, temperature=temperature)
        found = self.search(batch, uniform if sample else None, temperature)
        first = self.player.start
        return {"action": found.codes[:, 0, 0, first : first + self.player.domain.tokens("action")]}
