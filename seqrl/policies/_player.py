"""A stream model bound to one domain, as a policy: for many environments at once, several tokens an action, one static cache.

The agent hands over what it would hand to any policy: windows of slots' values, or a single step and the cache. Here they
become tokens. A step is fed in two runs: everything up to the action's first token, then the action's codes one after the
other, each chosen over its slot's own range. The next step feeds the whole action once more, as it was really done (which may
differ from what was said: it was clipped to the bounds), over the places it had.

Letters: B environments, T steps, W tokens in a step, P in the prefix, K of the action, D width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqrl.core.stream import StreamBatch
from seqrl.nn.heads import draw
from seqrl.policies._cache import StepCache


class Player:
    """Meets ``core.contracts.Policy`` for one domain of a stream model."""

    def __init__(self, model: Any, domain: str) -> None:
        self.model, self.name = model, domain
        self.domain = d = model.domains[domain]
        fed = "action" in d.step
        at = d.step.index("action") if fed else len(d.step)
        self.before, self.after = d.step[:at], d.step[at:]
        self.start = d.layout.offset("action") if fed else d.W
        self.losses = model.losses

    def __getattr__(self, name: str) -> Any:
        # Everything that is no matter of one domain (training, eval, parameters) is the model's.
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    # ---- windows ----------------------------------------------------------------------------------------------------

    def _front(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The prefix ``[B, P, D]``, real tokens first, and how many of them there are, ``[B]``."""
        d, embed = self.domain, self.model.embed
        B = len(next(iter(values.values())))
        x = embed.tokens(self.name, d.prefix, {n: values[n].flatten(1) for n in d.prefix})
        there = torch.cat([self._there(n, values[n].flatten(1)) for n in d.prefix], 1)
        order = (~there).long().argsort(dim=1, stable=True)
        return x[torch.arange(B, device=x.device)[:, None], order], there.sum(1)

    def _there(self, slot: str, codes: Tensor) -> Tensor:
        """``[B, K]``: which tokens of a prefix slot stand in the row: of texts those in front of the padding, at least one."""
        k = self.domain.tokens(slot)
        pad = self.domain.ports.vocabs[slot] - 1
        if not self.domain.ports.shares.get(slot, "").startswith("text"):
            return torch.ones(len(codes), k, dtype=torch.bool, device=codes.device)
        there = codes != pad
        there[:, 0] = True
        return there

    def window(self, batch: StreamBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Whole windows as rows, up to the last token in front of each one's last action.

        Args:
            batch: ``[B, T, ...]``; prefix slots hold the same at every step.

        Returns:
            ``[B, L, D]`` right-padded, ``[B]`` tokens of each row, ``[B]`` of them in front of the first step.
        """
        d, embed = self.domain, self.model.embed
        B, T = batch.time.shape
        x = embed.tokens(self.name, d.step, {n: batch.values[n].flatten(0, 1) for n in d.step}).view(B, T * d.W, -1)
        front = batch.length.new_zeros(B)
        if d.prefix:
            first, front = self._front({n: batch.values[n][:, 0] for n in d.prefix})
            # Each row's steps begin where its prefix ends.
            place = torch.arange(d.P + T * d.W, device=x.device)[None] - front[:, None]
            rows = torch.arange(B, device=x.device)[:, None]
            inner = x[rows, place.clamp(0, T * d.W - 1)]
            ahead = first[rows, (place + front[:, None]).clamp(0, d.P - 1)]
            x = torch.where((place < 0)[..., None], ahead, inner)
        length = front + (batch.length - 1) * d.W + self.start
        return x[:, : int(length.max())], length, front

    def init_cache(self, rows: int, steps: int) -> StepCache:
        """An empty cache with room for ``steps`` steps of ``rows`` environments, and what stands in front of them."""
        kv = self.model.trunk.init_cache(rows, self.domain.P + steps * self.domain.W)
        return StepCache(kv, torch.zeros_like(kv.length), torch.zeros_like(kv.length))

    @torch.inference_mode()
    def refill(self, batch: StreamBatch, cache: StepCache, rows: Tensor) -> None:
        """Forgets what the cache holds of ``rows`` and reads steps anew; arguments as in ``policies.decision``."""
        x, length, front = self.window(batch)
        self.model.trunk.fill(x, cache.kv, rows, length)
        cache.steps[rows], cache.front[rows] = batch.length, front

    def _recall(self, batch: StreamBatch) -> tuple[Tensor, StepCache]:
        """Whole windows into a cache of their own: what the last token in front of the action gives, ``[B, D]``."""
        x, length, front = self.window(batch)
        kv = self.model.trunk.init_cache(len(x), x.shape[1] + len(self.after) * self.domain.W)
        every = torch.arange(len(x), device=x.device)
        self.model.trunk.fill(x, kv, every, length - 1)
        y = self.model.trunk.extend(x[every, length - 1][:, None], kv, start=length - 1)
        return y[:, 0], StepCache(kv, batch.length.clone(), front)

    # ---- single steps -----------------------------------------------------------------------------------------------

    def _begin(self, values: Mapping[str, Tensor], cache: StepCache) -> None:
        """Reads the prefix of the rows that begin an episode."""
        rows = torch.nonzero(cache.steps == 0)[:, 0]
        if len(rows):
            x, length = self._front({n: values[n][rows, 0] for n in self.domain.prefix})
            self.model.trunk.fill(x, cache.kv, rows, length)
            cache.front[rows] = length

    def _step(self, batch: StreamBatch, cache: StepCache) -> Tensor:
        """Feeds the end of the step before and this one up to its action: what its last token gives, ``[B, D]``."""
        d = self.domain
        if d.prefix:
            self._begin(batch.values, cache)
        first = (cache.front + cache.steps * d.W)[:, None]
        k = torch.arange(self.start - d.W if self.after else 0, self.start, device=first.device)
        # Rows that begin have no step before.
        places = torch.where((k < 0) & (cache.steps == 0)[:, None], -1, first + k)
        values = {n: v.flatten(1) if n in d.prefix else v[:, 0] for n, v in batch.values.items()}
        x = self.model.embed.tokens(self.name, [*self.after, *self.before], values)
        y = self.model.trunk.extend(x, cache.kv, places=places, read=slice(-1, None))
        cache.steps.add_(1)
        return y[:, 0]

    def say(self, y: Tensor, slot: str, cache: StepCache, **options: Any) -> Tensor:
        """A slot's codes, one after the other.

        Args:
            y: ``[B, D]`` what the first of them is read from.
            slot: a fed slot of codes; the cache holds everything in front of it.
            options: as in ``act``.

        Returns:
            codes ``[B, K]``; the cache then holds all of them but the last.
        """
        d, model = self.domain, self.model
        span, K = model.embed.ranges[self.name, slot], d.tokens(slot)
        at = cache.front + (cache.steps - 1) * d.W + d.layout.offset(slot)
        said: list[Tensor] = []
        for k in range(K):
            if k:
                x = model.embed.code(self.name, slot, k - 1, said[-1])
                y = model.trunk.extend(x, cache.kv, start=at + (k - 1))[:, 0]
            uniform = options["uniform"][:, k] if options.get("uniform") is not None else None
            logits = model.heads.codes(y, span, k)
            said.append(draw(logits, options["sample"], uniform, options["temperature"]))
        return torch.stack(said, 1)

    @torch.inference_mode()
    def act(
        self,
        batch: StreamBatch,
        cache: StepCache | None = None,
        sample: bool = False,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """The action of the last real step of each row.

        Args:
            batch: without a cache the whole window ``[B, T, ...]``. With one, a single step ``[B, 1, ...]`` in which the slots
                from the action on are those of the step *before*; they are not looked at in rows whose cache is empty.
            cache: of B rows; it moves on by one step.
            sample, uniform, temperature: as in ``nn.heads``; ``uniform`` is ``[B, K]``.

        Returns:
            ``{"action": [B, K]}``, codes, or ``[B, A]`` numbers.
        """
        if cache is None:
            y, cache = self._recall(batch)
        else:
            y = self._step(batch, cache)
        head, options = self.model.heads.number(self.name, "action"), {"sample": sample, "temperature": temperature}
        if head is not None:
            return {"action": head.answer(y, sample, uniform, temperature)}
        if "action" in self.domain.readout:
            span = self.model.embed.ranges[self.name, "action"]
            logits = self.model.heads.codes(y[:, None].expand(-1, span.tokens, -1), span)
            return {"action": draw(logits, uniform=uniform, **options)}
        return {"action": self.say(y, "action", cache, uniform=uniform, **options)}
