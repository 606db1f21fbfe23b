"""Planning by beam search in a model of trajectories (Janner et al. 2021, arXiv 2106.02039, algorithm 1 and section 3.2).

From the same past, N beams try out what could be done next. In each imagined step every beam is continued in E ways by actions
drawn from the model, the model says what reward that would bring, how all would go on (the return-to-go) and what would be seen
next; of the E N candidates of an environment the N best are kept. What is done in the end is the first action of the best.

A candidate's score after its step h is ``sum_{i<h} g^i r_i + g^h R_h``. The paper's value at a step begins with the reward
*after* it, ``V_h = R_{h+1}``, and its score is ``sum_{i<=h} g^i r_i + g^{h+1} V_h``, which is the same number, since
``R_h = r_h + g V_h``.

Every draw is a function of the numbers that the caller brings, of the step, the candidate and the token: a plan does not depend
on what else is planned beside it, and can be repeated.

Letters: B environments, N beams, E ways on, H steps ahead, W tokens of a step, V codes, D width. Rows are laid ``[E, B, N]``,
so that the first B N are those that were kept.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

_GOLDEN, _A, _B = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


@dataclass(frozen=True)
class Plan:
    """How a plan is made; the fields are settings of ``policies.trajectory``, which says what they mean."""

    look_back: int = 5
    horizon: int = 5
    beam: int = 32
    expand: int = 2
    cdf_action: float = 0.6
    top_action: int | None = None
    states: Literal["likeliest", "drawn"] = "likeliest"
    values: Literal["mean", "likeliest"] = "mean"


class Found(NamedTuple):
    """What a search found, the best first.

    Args:
        codes: ``[B, N, H, W]`` int64, the steps as imagined; what stands in front of the first action is known and left 0.
        score: ``[B, N]`` float32, in units of the reward.
    """

    codes: Tensor
    score: Tensor


class Reader(Protocol):
    """Reads what is imagined, as ``nn.branches`` does; ``y [B, D]`` is what the last token of the past gives."""

    y: Tensor

    def feed(self, x: Tensor) -> Tensor:
        """One more token ``[R, 1, D]`` of all rows or of those that were kept: what it gives, ``[R, D]``."""
        ...

    def keep(self, rows: Tensor) -> None:
        """``rows [B N]`` become the first ones."""
        ...

    def expand(self) -> None:
        """The kept rows, E times."""
        ...


def search(model: Any, name: str, reader: Reader, plan: Plan, uniform: Tensor | None = None, temperature: float = 1.0) -> Found:
    """Plans for B environments at once.

    Args:
        model: a stream model whose domain ``name`` has a step of codes, ``reward`` among them behind the action, and ``return``
            read out; its ``levels(name, slot)`` says what the codes of those two mean, ``[V]``.
        reader: has read everything up to the action that is to be chosen.
        uniform: ``[B, K]`` numbers in (0, 1) from which all draws follow; None draws the same every time.
        temperature: of the draws of actions.
    """
    d, H, E, N = model.domains[name], plan.horizon, plan.expand, plan.beam
    B, y = len(reader.y), reader.y.repeat_interleave(N, 0)
    g, at = d.ports.discount, d.step.index("action")
    voice = _Voice(model, name, reader, plan, _Noise(uniform, B, E, N, y.device), temperature)
    total, codes = y.new_zeros(B * N, dtype=torch.float32), torch.zeros(B * N, H, d.W, dtype=torch.int64, device=y.device)
    first = torch.arange(B, device=y.device)[:, None] * N
    for h in range(H):
        reader.expand()
        y, total, codes = (t.repeat(E, *[1] * (t.ndim - 1)) for t in (y, total, codes))
        reward = total
        for slot in d.step[at:]:
            y, logits = voice.say(slot, y, codes, h)
            reward = voice.level(slot, logits) if slot == "reward" else reward
        to_go = voice.level("return", model.heads.codes(y, model.embed.ranges[name, "return"], 0))
        score, chosen = (total + g**h * to_go).view(E, B, N).transpose(0, 1).flatten(1).topk(N)
        rows = (chosen // N * (B * N) + first + chosen % N).flatten()
        y, codes, total = y[rows], codes[rows], (total + g**h * reward)[rows]
        if h + 1 < H:
            reader.keep(rows)
            for slot in d.step[:at]:
                y, _ = voice.say(slot, y, codes, h + 1)
    return Found(codes.view(B, N, H, d.W), score)


class _Voice:
    """Says what the model imagines: codes of one slot after the other, each chosen in its slot's way."""

    def __init__(self, model: Any, name: str, reader: Reader, plan: Plan, noise: "_Noise", temperature: float) -> None:
        self.model, self.name, self.reader, self.plan, self.noise, self.heat = model, name, reader, plan, noise, temperature
        self.domain = model.domains[name]
        self.seen = self.domain.step[: self.domain.step.index("action")]
        self.levels = {slot: model.levels(name, slot) for slot in ("reward", "return")}

    def say(self, slot: str, y: Tensor, codes: Tensor, h: int) -> tuple[Tensor, Tensor]:
        """A slot's tokens.

        Args:
            y: ``[R, D]``, what the first is read from.
            codes: ``[R, H, W]``, where they are written, at step ``h``.

        Returns:
            ``[R, D]`` and ``[R, V]``: what the last of them gives, and the logits it was chosen by.
        """
        d, plan, span = self.domain, self.plan, self.model.embed.ranges[self.name, slot]
        for k in range(d.tokens(slot)):
            logits, place = self.model.heads.codes(y, span, k), d.layout.offset(slot) + k
            if slot == "action":
                code = draw_likely(logits / self.heat, self.noise(h * d.W + place, len(y)), plan.cdf_action, plan.top_action)
            elif plan.states == "drawn" and slot in self.seen:
                code = draw_likely(logits, self.noise(h * d.W + place, len(y)))
            else:
                code = logits.argmax(-1)
            codes[:, h, place] = code
            y = self.reader.feed(self.model.embed.code(self.name, slot, k, code))
        return y, logits

    def level(self, slot: str, logits: Tensor) -> Tensor:
        """What logits ``[R, V]`` say in units of the reward, ``[R]``: their mean, or the likeliest level."""
        levels = self.levels[slot]
        return logits.softmax(-1) @ levels if self.plan.values == "mean" else levels[logits.argmax(-1)]


def draw_likely(logits: Tensor, uniform: Tensor, cdf: float = 0.0, top: int | None = None) -> Tensor:
    """Codes ``[R]`` drawn from ``[R, V]`` with ``uniform [R]``, of the likely ones only.

    Args:
        cdf: the least likely codes that together hold up to this share of the probability are left out, never the likeliest.
            The authors' cdf of 0.6 is what others call a nucleus of 0.4 (Holtzman et al. 2020).
        top: at most so many are left.
    """
    p, code = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    if top is not None:
        p = p[:, :top]
    p = p.where(p.cumsum(-1) - p < max(1 - cdf, 1e-6), 0.0)
    below = p.cumsum(-1)
    place = (below < uniform[:, None] * below[:, -1:]).sum(-1)
    # The last of those that are left, where rounding has put the number above their sum.
    return code.gather(-1, place.clamp(max=p.shape[1] - 1).minimum((p > 0).sum(-1) - 1)[:, None])[:, 0]


class _Noise:
    """Numbers in (0, 1) for every candidate of every environment: SplitMix64 at a counter (Steele, Lea and Flood 2014)."""

    def __init__(self, uniform: Tensor | None, B: int, E: int, N: int, device: Any) -> None:
        state = torch.zeros(B, dtype=torch.int64, device=device)
        for bits in () if uniform is None else (uniform.double() * 2**24).long().unbind(-1):
            state = _mix(state + (bits + 1) * _GOLDEN)
        of = torch.arange(E * N, device=device).view(E, 1, N)
        self.count, self.state, self.of = E * N, state[None, :, None], of

    def __call__(self, place: int, rows: int) -> Tensor:
        """``[R]`` for the token number ``place`` of the first R rows."""
        bits = _mix(self.state + (self.of + (place * self.count + 1)) * _GOLDEN) >> 41 & 2**23 - 1
        return ((2 * bits + 1).float() * 2.0**-24).flatten()[:rows]


def _mix(x: Tensor) -> Tensor:
    # int64 wraps as uint64 does; a shift to the right brings in copies of the sign, which are cut off.
    x = (x ^ (x >> 30 & 2**34 - 1)) * _A
    x = (x ^ (x >> 27 & 2**37 - 1)) * _B
    return x ^ (x >> 31 & 2**33 - 1)


__all__ = ["Found", "Plan", "Reader", "draw_likely", "search"]
