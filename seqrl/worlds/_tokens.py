"""A stream model of one domain as a world: observed steps are read side by side, imagined ones said code after code.

What is fed runs one token behind what is known: the last code of a frame waits until the action that follows it, and both go in
together. So an imagined frame of K codes takes K passes. The feature of a step is the mean of what the trunk gives at the K
tokens its codes are read from, beside the vector of the last code, which is all of the frame that was not read yet: F = 2D.

Letters: B rows, T steps, K codes of what is observed, A tokens of an action, W = K + A, P of the prefix, D width, V codes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqrl.core.contracts import Pred
from seqrl.core.errors import RecipeError, UserError
from seqrl.nn import shared
from seqrl.nn.feed import Feed
from seqrl.nn.kv import KVCache
from seqrl.worlds._guess import guess
from seqrl.worlds._memory import Carry, Memory

_TOKENS = 2048
"""Tokens of a row that are read side by side; what a mask needs of memory grows with their square."""


class TokenWorld:
    """Meets ``core.contracts.WorldModel`` for one domain of a stream model."""

    differentiable = False

    def __init__(self, model: Any, domain: str, **settings: Any) -> None:
        c = model.config
        self.model, self.name, self.domain = model, domain, model.domains[domain]
        own = {n: settings.pop(n, getattr(c, n)) for n in ("remember", "forget", "top_k", "guess")}
        if settings:
            raise RecipeError(f"a token world has no setting '{next(iter(settings))}' (it has {', '.join(own)})")
        d, self.losses = self.domain, model.losses
        self.seen = d.step[:-1]
        self.A, self.W = d.tokens("action"), d.W
        self.K = self.W - self.A
        remember = int(own["remember"] or d.ports.context or max(1, (c.length - d.P) // d.W))
        if model.trunk.config.positions != "rotary":
            # Learned positions end with the row.
            remember = min(remember, max(1, (c.length - d.P) // d.W))
        self.memory = Memory(model.trunk, d.P, d.W, self.K, remember, int(own["forget"] or max(1, remember // 8)))
        self.top_k, self.guess, self.feat_width = own["top_k"], int(own["guess"]), 2 * c.width
        self.spots = [(slot, k) for slot in self.seen for k in range(d.tokens(slot))]
        # Not left to __getattr__: what a protocol asks for must be there without it.
        self.forward, self.counts = model.forward, model.counts

    def __getattr__(self, name: str) -> Any:
        # Everything that is no matter of one domain (training, eval, parameters) is the model's.
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    # ---- what is observed -------------------------------------------------------------------------------------------

    def encode(self, obs: Mapping[str, Tensor], sample: bool = True) -> Tensor:
        """Codes of the observed slots ``[B, T, width]`` to ``z [B, T, K]`` int64, side by side."""
        return torch.cat([obs[n] for n in self.seen], -1)

    def decode(self, latent: Tensor) -> dict[str, Tensor]:
        """``[..., K]`` to codes of the observed slots."""
        widths = [self.domain.tokens(n) for n in self.seen]
        return dict(zip(self.seen, latent.split(widths, -1), strict=True))

    @torch.no_grad()
    def init(self, rows: int, steps: int, front: Mapping[str, Tensor] | None = None) -> Carry:
        """The carry of ``rows`` episodes that have not begun; arguments as in ``core.contracts.WorldModel``.

        Raises:
            UserError: the layout has slots in front of the steps that ``front`` has not; or more steps are asked for than are
                remembered, and the trunk's learned positions cannot slide.
        """
        d = self.domain
        if missing := [n for n in d.prefix if n not in (front or {})]:
            raise UserError(f"layout '{d.layout}': '{missing[0]}' stands in front of the steps; say what it is (front)")
        carry = self.memory.begin(rows, steps)
        if d.prefix:
            x, length = self._front({n: front[n] for n in d.prefix})
            self.model.trunk.fill(x, carry.kv, torch.arange(rows, device=x.device), length)
            carry.front.copy_(length)
        return carry

    def _front(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The prefix ``[B, P, D]``, real tokens first, and how many of them there are, ``[B]``."""
        ports, there = self.domain.ports, []
        for name, codes in values.items():
            real = torch.ones(len(codes), self.domain.tokens(name), dtype=torch.bool, device=codes.device)
            if ports.shares.get(name, "").startswith("text"):
                # Of a text those in front of the first padding, and at least one.
                real = (codes == ports.vocabs[name] - 1).cumsum(1) == 0
                real[:, 0] = True
            there.append(real)
        x, there = self.model.embed.tokens(self.name, self.domain.prefix, values), torch.cat(there, 1)
        order = (~there).long().argsort(dim=1, stable=True)
        return x[torch.arange(len(x), device=x.device)[:, None], order], there.sum(1)

    @torch.no_grad()
    def observe(self, carry: Carry, z: Tensor, prev_action: Tensor) -> tuple[Carry, Tensor]:
        """Takes in T real steps, as many side by side as there is room for; as in ``core.contracts.WorldModel``."""
        feats, t = [], 0
        while t < z.shape[1]:
            carry = self.memory.make(carry)
            if isinstance(carry.kv, KVCache):
                room = self.memory.room(carry.kv) - int(carry.steps.max())
                many = min(z.shape[1] - t, room, max(1, _TOKENS // self.W))
            else:
                many = z.shape[1] - t
            carry, feat = self._read(carry, z[:, t : t + many], prev_action[:, t : t + many])
            feats.append(feat)
            t += many
        return carry, torch.cat(feats, 1)

    def _read(self, carry: Carry, z: Tensor, action: Tensor) -> tuple[Carry, Tensor]:
        B, T, _ = z.shape
        begun = carry.steps > 0
        # Not even looked at where nothing was done yet: it may be any number, or none.
        action = torch.cat((action[:, :1].where(begun[:, None, None], 0), action[:, 1:]), 1)
        codes = self.model.embed.tokens(self.name, self.seen, self.decode(z.flatten(0, 1)))
        done = self.model.embed.tokens(self.name, ["action"], {"action": action.flatten(0, 1)})
        block = torch.cat((done, codes), 1).view(B, T * self.W, -1)
        x = torch.cat((self._code(self.K - 1, carry.now[:, -1]), block[:, :-1]), 1)
        if isinstance(carry.kv, KVCache):
            # Rows that begin have neither a code that waits nor an action.
            step = torch.arange(T * self.W, device=z.device) - torch.where(begun, 0, 1 + self.A)[:, None]
            places = torch.where(step < 0, -1, carry.kv.length[:, None] + step)
            y = self.model.trunk.extend(x, carry.kv, places=places)
        else:
            y = shared.extend(self.model.trunk, x, carry.kv)
        y = y.view(B, T, self.W, -1)[:, :, self.A :]
        y[:, 0, 0] = y[:, 0, 0].where(begun[:, None], 0.0)
        last = codes[:, -1].view(B, T, -1)
        feat = torch.cat((y.mean(2), last), -1).float()
        return Carry(carry.kv, carry.steps + T, carry.front, z[:, -1].clone()), feat

    def _code(self, k: int, codes: Tensor) -> Tensor:
        """Codes ``[B]`` of the observed token number ``k``, as vectors ``[B, 1, D]``."""
        slot, token = self.spots[k]
        return self.model.embed.code(self.name, slot, token, codes)

    # ---- what is imagined -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, carry: Carry, action: Tensor, sample: bool = True, temperature: float = 1.0) -> tuple[Carry, Pred]:
        """Imagines one step; as in ``core.contracts.WorldModel``. All rows must have begun."""
        carry, model = self.memory.make(carry), self.model
        done = model.embed.tokens(self.name, ["action"], {"action": action})
        x = torch.cat((self._code(self.K - 1, carry.now[:, -1]), done), 1)
        # All that is left to chance: which way a frame is said makes no difference to it.
        uniform = torch.rand(len(x), self.K, device=x.device) if sample else None
        few = isinstance(carry.kv, KVCache) and len(x) <= self.guess
        z, y = (self._guessed if few else self._said)(carry, x, uniform, temperature)
        reward, cont = self._outcome(y[:, 0])
        feat = torch.cat((y.mean(1), self._code(self.K - 1, z[:, -1])[:, 0]), -1).float()
        return Carry(carry.kv, carry.steps + 1, carry.front, z), Pred(feat, z, reward, cont)

    def _said(self, carry: Carry, x: Tensor, uniform: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
        """Codes ``[B, K]``, one after the other, and ``[B, K, D]`` what each was read from."""
        kv, trunk, said, found = carry.kv, self.model.trunk, [], []
        if isinstance(kv, KVCache):
            feed: Any = Feed(trunk, kv, self.W)
        else:

            def feed(x: Tensor) -> Tensor:
                return shared.extend(trunk, x, kv)[:, -1]

        for k, (slot, token) in enumerate(self.spots):
            found.append(feed(self._code(k - 1, said[-1]) if k else x))
            logits = self.model.heads.codes(found[-1], self.model.embed.ranges[self.name, slot], token)
            said.append(self._choose(logits, None if uniform is None else uniform[:, k], temperature))
        return torch.stack(said, 1), torch.stack(found, 1)

    def _guessed(self, carry: Carry, x: Tensor, uniform: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
        """The same in fewer passes, see ``worlds._guess``."""
        widths, ranges = [self.domain.tokens(n) for n in self.seen], self.model.embed.ranges

        def embed(codes: Tensor) -> Tensor:
            return self.model.embed.tokens(self.name, self.seen, self.decode(codes))

        def choose(y: Tensor) -> Tensor:
            out, drawn = [], [None] * len(widths) if uniform is None else uniform.split(widths, 1)
            for slot, part, u in zip(self.seen, y.split(widths, 1), drawn, strict=True):
                out.append(self._choose(self.model.heads.codes(part, ranges[self.name, slot]), u, temperature))
            return torch.cat(out, 1)

        return guess(self.model.trunk, carry.kv, x, carry.now, embed, choose)

    def _outcome(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Expected reward and probability of going on, ``[B]`` each, of what the action's last token gives, ``[B, D]``."""
        ports, heads, ranges = self.domain.ports, self.model.heads, self.model.embed.ranges
        levels = torch.tensor(ports.levels["reward"], dtype=torch.float32, device=y.device)
        if ports.vocabs["reward"]:
            reward = heads.codes(y, ranges[self.name, "reward"], 0).softmax(-1) @ levels
        else:
            reward = levels[0] + (levels[1] - levels[0]) * heads.number(self.name, "reward").head.mean(y)
        if "done" not in self.domain.slots:
            return reward, torch.ones_like(reward)
        return reward, heads.codes(y, ranges[self.name, "done"], 0).softmax(-1)[:, 0]

    def _choose(self, logits: Tensor, uniform: Tensor | None, temperature: float) -> Tensor:
        """Codes ``[...]`` of ``[..., V]``: the likeliest, or drawn from the likely ones with ``uniform [...]`` of [0, 1)."""
        if uniform is None:
            return logits.argmax(-1)
        named = None
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits, named = logits.topk(int(self.top_k), -1)
        cdf = (logits / temperature).softmax(-1).cumsum(-1)
        # Above 0, so that a code without any chance is not drawn; up to the sum as it came out, which rounding moves.
        code = (cdf < uniform.clamp(min=2**-25)[..., None] * cdf[..., -1:]).sum(-1).clamp(max=cdf.shape[-1] - 1)
        return code if named is None else named.gather(-1, code[..., None])[..., 0]

    @torch.no_grad()
    def share(self, carry: Carry, candidates: int, steps: int) -> Carry:
        """Room for ``candidates`` continuations of each row, of ``steps`` steps; as in ``core.contracts.WorldModel``."""
        return self.memory.share(carry, candidates, steps)


__all__ = ["TokenWorld"]
