"""Needles in a trajectory: a pair that goes by once in an environment, and the action when it is asked for.

The environment (sources/_key_value.py) takes length and depths as options of its reset, and what is seen does not depend on
what is done. So an episode is played to its end first, and then read by the policy up to each question, as rows are when it
learns.

Letters: B episodes side by side, T steps, W tokens of a step.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seqrl.core.errors import UserError
from seqrl.core.stream import StreamBatch
from seqrl.rollout._needle_config import Job, NeedleConfig
from seqrl.rollout.envs import make, spec_of
from seqrl.rollout.face import Face
from seqrl.rollout.inputs import Inputs
from seqrl.rollout.players import players

ENV = "seqrl/KeyValue"


def played_domain(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The policy and the tokenizer of the domain whose environment hides needles; raises UserError where none does."""
    for policy, own in players(model, tokenizer).values():
        named = own.spec.eval_env or own.spec.env
        if named and str(spec_of(named).get("id")).startswith(ENV):
            return policy, own
    raise UserError(f"none of this policy's domains is played in {ENV}-v0, the environment that hides needles")


class Keys:
    """Asks a policy of packed rows.

    Args:
        policy: of one domain, in evaluation mode. tokenizer: that domain's.

    Raises:
        UserError: a layout that cannot be filled while acting; EnvError: the environment cannot be made.
    """

    what = "keys"

    def __init__(self, policy: Any, tokenizer: Any, config: NeedleConfig) -> None:
        self.policy, self.tokenizer, self.config = policy, tokenizer, config
        self.inputs = Inputs(tokenizer)
        if self.inputs.front or self.inputs.conditioned or self.inputs.answered:
            raise UserError(
                f"layout '{tokenizer.layout}': a needle is asked for by what is seen and done alone, as in key value > action"
            )
        self.width = int(tokenizer.layout.step_width)
        (self.env,) = make(tokenizer.spec, 1, tokenizer.spec)
        self.face = Face.of(self.env, tokenizer.spec)
        most = self.env.unwrapped.keys
        if config.needles > most:
            raise UserError(f"--needles {config.needles}: there are {most} keys to hide values of")

    def check(self, length: int) -> None:
        """Raises UserError where an episode of so many tokens has no room for what is hidden and asked."""
        least = (self.config.needles + self.config.asked) * self.width
        if length < least:
            raise UserError(
                f"lengths: {length} tokens are too few: a step takes {self.width}, pairs and questions alone {least}"
            )

    def _play(self, job: Job) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What is seen in the T steps of an episode, name -> ``(T, ...)``, and the right answers to its R last ones."""
        T, R = job.length // self.width, self.config.asked
        buffers = self.face.buffers(T)
        write = self.face.writer(buffers)
        seed = int(self.config.rng(job.length, job.row, job.number, 2).integers(1 << 31))
        obs, _ = self.env.reset(seed=seed, options={"length": T, "depths": list(job.depths), "asked": R})
        right = []
        for t in range(T):
            write(t, obs)
            right.append(self.env.unwrapped.answer)
            obs, *_ = self.env.step(0)
        return buffers, np.array(right[-R:])

    @torch.inference_mode()
    def __call__(self, jobs: Sequence[Job]) -> list[list[dict[str, Any]]]:
        """Of each try its answers: what was done, and whether it is right."""
        played = [self._play(job) for job in jobs]
        B, T, R = len(jobs), jobs[0].length // self.width, self.config.asked
        flat = {n: np.concatenate([seen[n] for seen, _ in played]) for n in played[0][0]}
        slots = self.inputs.at_step(flat, np.full(B * T, np.nan))
        # Nothing is done but at questions, as in the data.
        (name, still), *_ = self.face.act.items()
        nothing = np.zeros((B * T, *still.shape), still.dtype)
        slots["action"] = self.tokenizer.encode_action({name: nothing})["action"]
        device = next(self.policy.model.parameters()).device
        values = {n: torch.from_numpy(np.ascontiguousarray(v)).view(B, T, -1).to(device) for n, v in slots.items()}
        time = torch.arange(T, device=device).expand(B, T)
        answers: list[list[dict[str, Any]]] = [[] for _ in jobs]
        for r in range(R):
            till = T - R + r + 1
            window = {n: v[:, :till] for n, v in values.items()}
            code = self.policy.act(StreamBatch(window, time[:, :till], torch.full((B,), till, device=device)), sample=False)[
                "action"
            ]
            values["action"][:, till - 1] = code
            did = self.tokenizer.decode_action({"action": code.cpu().numpy()})[name].reshape(-1).tolist()
            for row, (said, (_, right)) in enumerate(zip(did, played, strict=True)):
                answers[row].append({"value": int(right[r]), "said": int(said), "right": int(said) == int(right[r])})
        return answers
