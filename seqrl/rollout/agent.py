"""The agent: a policy, what it remembers of each episode, and the return it still has to earn.

It acts for B environments at once. Each row is one episode: the last K steps of every slot in a ring, the absolute time
step, and the return-to-go, which received rewards use up: ``R_{t+1} = (R_t - r_t) / discount`` (Chen et al. 2021, algorithm
1, with discount 1). Two modes:

- ``exact`` recomputes the window of the last K steps for every action: the function that was trained, at any time.
- ``cached`` keeps keys and values and feeds one step. When a row's cache holds K steps it forgets, re-reads the last
  K // 2 - 1 complete steps and goes on. So a prediction sees between K // 2 and K steps, all lengths training covered,
  and while an episode is younger than K steps it is the same function as ``exact``. A cache that never fills (it says
  ``fills = False``, as that of ``policies.clone``) never forgets, and is the same function always.

Everything is vectorised over rows, and a row's results do not depend on which rows stand beside it (up to the rounding of
matrix products, which differs with their size). B rows, K steps of context.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from seqrl.core.errors import UserError
from seqrl.core.stream import StreamBatch
from seqrl.rollout import noise
from seqrl.rollout.inputs import Inputs

Mode = Literal["exact", "cached"]


class Agent:
    """Acts for ``rows`` environments with one policy; rows are begun with ``reset`` and dropped with ``keep``."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: int,
        mode: Mode = "exact",
        sample: bool | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        return_floor: float | None = None,
        discount: float = 1.0,
        spend: bool = True,
    ) -> None:
        """Makes an agent.

        Args:
            model: a ``core.contracts.Policy``; one without a cache plays in ``exact`` mode whatever is asked.
            tokenizer: the ``data.tokenizer.Tokenizer`` it was trained with.
            rows: B, environments at the start.
            mode: see above; the attribute ``mode`` says what is used.
            sample: draw actions from the policy's distribution; None draws where actions are discrete codes.
            seed: with the episode's key, decides every draw.
            temperature: of the draws.
            return_floor: the return token never asks for less than this.
            discount: of the returns-to-go the policy was trained on.
            spend: False keeps asking for the whole return (the delayed-reward setting of Chen et al. 2021, section 5.7).

        Raises:
            UserError: the layout has a slot that the agent cannot fill.
        """
        ports = tokenizer.ports()
        first = next(iter(model.parameters()), None) if hasattr(model, "parameters") else None
        self.device = torch.device("cpu") if first is None else first.device
        self.model, self.tokenizer, self.context = model, tokenizer, tokenizer.context
        self.inputs = inputs = Inputs(tokenizer)
        self.front, self.conditioned = inputs.front, inputs.conditioned
        self.codes = ports.vocabs["action"] > 0
        self.sample = self.codes if sample is None else sample
        self.seed, self.temperature = seed, temperature
        self.return_floor, self.discount, self.spend = return_floor, discount, spend
        self.width = ports.widths["action"]

        self.t = np.zeros(rows, np.int64)
        self.budget = np.full(rows, np.nan)
        self.noise = np.zeros(rows, np.uint64)
        # A chunk of actions is remembered as it was said: only its first one was done.
        self.done = getattr(tokenizer, "chunk", 1) == 1
        self.history = {
            name: torch.zeros(
                (rows, 1 if name in self.front else self.context, ports.widths[name]),
                dtype=torch.int64 if ports.vocabs[name] else torch.uint8 if name in ports.images else torch.float32,
                device=self.device,
            )
            for name in dict.fromkeys((*inputs.front, *inputs.step, "action"))
        }
        make = getattr(model, "init_cache", None) if mode == "cached" else None
        with torch.inference_mode():
            self.cache = make(rows, self.context) if make else None
        self.mode: Mode = "exact" if self.cache is None else "cached"
        self.fills = getattr(self.cache, "fills", True)
        self.held = np.zeros(rows, np.int64)
        self.again = max(self.context // 2 - 1, 0)
        self._number_rows()

    def __len__(self) -> int:
        return len(self.t)

    # ---- rows come and go -------------------------------------------------------------------------------------------

    def reset(self, rows: Any, targets: Any, keys: Any) -> None:
        """Begins episodes.

        Args:
            rows: ``(R,)`` which rows.
            targets: ``(R,)`` returns to ask for; None where the policy takes none.
            keys: ``(R,)`` non-negative int64 names of the episodes, from which their noise follows.

        Raises:
            UserError: the policy wants a target return and there is none.
        """
        rows = np.asarray(rows, np.int64)
        if self.conditioned:
            asked = np.asarray(np.nan if targets is None else targets, np.float64)
            if not np.isfinite(asked).all():
                raise UserError("this policy is asked for a return: give a target (--targets 3600,1800)")
            self.budget[rows] = asked
        self.t[rows] = 0
        self.held[rows] = 0
        self.noise[rows] = noise.streams(self.seed, np.asarray(keys, np.int64))
        if self.cache is not None and len(rows):
            with torch.inference_mode():
                self.cache.reset(self._tensor(rows))

    def keep(self, rows: Any) -> None:
        """Drops all rows but ``(R,)`` ``rows``, which are then numbered 0 to R - 1 in this order."""
        rows = np.asarray(rows, np.int64)
        self.t, self.budget, self.noise, self.held = (x[rows] for x in (self.t, self.budget, self.noise, self.held))
        index = self._tensor(rows)
        self.history = {n: h[index] for n, h in self.history.items()}
        if self.cache is not None:
            with torch.inference_mode():
                self.cache = self.cache.index(index)
        self._number_rows()

    def receive(self, reward: Any) -> None:
        """Takes in the rewards ``(B,)`` of the last actions: spends them from the return-to-go, in float64."""
        if self.spend:
            self.budget = (self.budget - reward) / self.discount
        if self.inputs.answered:
            at = self._tensor((self.t - 1) % self.context)
            for name, value in self.inputs.at_answer(reward).items():
                self.history[name][self._all, at] = self._tensor(value)

    # ---- acting -----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def act(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One action for each row.

        Args:
            obs: name -> ``(B, *shape)`` as the environment gives it.

        Returns:
            name -> ``(B, *shape)`` in the environment's units, in bounds.

        Raises:
            UserError: the policy answers something that is not a number.
        """
        at = self._tensor(self.t % self.context)
        now = self._look(obs, at)
        draw = None
        if self.sample:
            draw = torch.from_numpy(noise.uniform(self.noise, self.t, self.width)).to(self.device)
        options = {"sample": self.sample, "uniform": draw, "temperature": self.temperature}
        answer = self._act_cached(now, **options) if self.mode == "cached" else self._act_exact(**options)
        code = answer["action"]
        actions = self._decode(code)
        # What is remembered is what was done: numbers after clipping to the bounds, and codes after clipping to the choices
        # there are, for a head of several places has as many codes in each as the largest of them.
        done = self._tensor(self.tokenizer.encode_action(actions)["action"]) if self.done else code
        self.history["action"][self._all, at] = done
        self.t = self.t + 1
        return actions

    def _look(self, obs: Mapping[str, np.ndarray], at: torch.Tensor) -> dict[str, torch.Tensor]:
        """Takes in what there is to see: remembers it, and answers the slots of this step."""
        ask = self.budget if self.return_floor is None else np.maximum(self.budget, self.return_floor)
        # What stands in front is read once an episode: a text costs more than the rest of the step together.
        if self.front and len(begun := np.flatnonzero(self.t == 0)):
            rows = self._tensor(begun)
            for name, value in self.inputs.at_beginning(begun, obs, ask).items():
                self.history[name][rows, 0] = self._tensor(value)
        now = {name: self._tensor(value) for name, value in self.inputs.at_step(obs, ask).items()}
        for name, value in now.items():
            self.history[name][self._all, at] = value
        return now

    def _act_exact(self, **options: Any) -> dict[str, torch.Tensor]:
        length = np.minimum(self.t + 1, self.context)
        batch = self._window(self._all, self.t + 1 - length, length, int(length.max()))
        return self.model.act(batch, **options)

    def _act_cached(self, now: Mapping[str, torch.Tensor], **options: Any) -> dict[str, torch.Tensor]:
        full = np.flatnonzero(self.held >= self.context) if self.fills else np.empty(0, np.int64)
        if len(full):
            rows = self._tensor(full)
            if self.again:
                batch = self._window(rows, self.t[full] - self.again, np.full(len(full), self.again), self.again)
                self.model.refill(batch, self.cache, rows)
            else:
                self.cache.reset(rows)
            self.held[full] = self.again
        before = self._tensor((self.t - 1) % self.context)
        values = {n: self.history[n] for n in self.front} | {n: v[:, None] for n, v in now.items()}
        values |= {n: self.history[n][self._all, before][:, None] for n in ("action", *self.inputs.late)}
        batch = StreamBatch(values, self._tensor(self.t)[:, None], self._ones)
        self.held = self.held + 1
        return self.model.act(batch, cache=self.cache, **options)

    def _window(self, rows: torch.Tensor, start: np.ndarray, length: np.ndarray, T: int) -> StreamBatch:
        """Steps ``start`` to ``start + length`` of some rows, right-padded to T by repeating the last one."""
        time = self._tensor(np.minimum(start[:, None] + np.arange(T), (start + length - 1)[:, None]))
        ring = time % self.context
        values = {n: h[rows[:, None], ring * 0 if n in self.front else ring] for n, h in self.history.items()}
        return StreamBatch(values, time, self._tensor(length))

    def _decode(self, code: torch.Tensor) -> dict[str, np.ndarray]:
        numbers = code.cpu().numpy()
        if not self.codes and not np.isfinite(numbers).all():
            raise UserError(
                "the policy's action is not a number: its training has diverged (try a lower learning rate, or clip)"
            )
        return self.tokenizer.decode_action({"action": numbers})

    def _number_rows(self) -> None:
        self._all = torch.arange(len(self), device=self.device)
        self._ones = torch.ones(len(self), dtype=torch.int64, device=self.device)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
