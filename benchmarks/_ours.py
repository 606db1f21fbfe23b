"""Our side of the comparisons: the policy at the peers' size, trained bare or by the real loop, and the proof that it is the
same function as transformers' model.
"""

from itertools import count
from typing import Any

import _peers
import torch
from _data import ACT, CONTEXT

from seqrl.core.contracts import Losses
from seqrl.core.stream import StreamBatch
from seqrl.data.loader import Loader
from seqrl.nn.twins import from_twin
from seqrl.policies.decision import DecisionTransformer, DecisionTransformerConfig
from seqrl.train.engine import Engine
from seqrl.train.loop import Trainer
from seqrl.train.optim import make_optimizer
from seqrl.train.recipe import TrainConfig

ROWS = 64


def model(loader: Loader) -> DecisionTransformer:
    """Our policy at the size of the peers, in training mode."""
    sizes = {"width": _peers.WIDTH, "layers": _peers.BLOCKS, "heads": _peers.HEADS, "dropout": _peers.DROPOUT}
    ports = loader.tokenizer.ports()
    return DecisionTransformer(DecisionTransformerConfig.for_ports(ports, CONTEXT, **sizes, max_time=_peers.LONGEST)).train()


def settings(precision: str) -> TrainConfig:
    """The peers' training settings in our words."""
    same = {"lr": _peers.RATE, "weight_decay": _peers.DECAY, "clip": _peers.CLIP}
    return TrainConfig(batch=ROWS, precision=precision, device="cpu", **same)


class Idle(torch.nn.Module):
    """A policy of three numbers that always says the same: a step of it is little else than the loop around it."""

    losses = ("action",)

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self.answer = torch.nn.Parameter(torch.zeros(ACT))

    def forward(self, batch: StreamBatch) -> Losses:
        value = (batch.values["action"] - self.answer) ** 2
        return Losses({"action": (value, batch.mask[..., None].expand_as(value))})


class Looped:
    """One step of our training loop as a run takes it: sampling, metrics, and a line of them every ``log_every`` steps."""

    def __init__(self, loader: Loader, precision: str, make: Any = model) -> None:
        from accelerate.state import AcceleratorState

        # A run has one precision; two of them in one process are for comparisons only.
        AcceleratorState._reset_state()
        config, own = settings(precision), make(loader)
        engine = Engine("cpu", precision, 0)
        self.trainer = Trainer(config, engine, own, make_optimizer(own, config), loader)
        self.trainer.model.train()
        self.steps = count()

    def step(self) -> None:
        at = next(self.steps)
        self.trainer.step(at)
        if (at + 1) % self.trainer.config.log_every == 0:
            self.trainer.measured()


class Bare:
    """The same step written out by hand: draw, forward, loss, backward, clip, AdamW, and nothing else."""

    def __init__(self, loader: Loader, precision: str, make: Any = model) -> None:
        self.loader, self.model, self.half = loader, make(loader), precision == "bf16"
        self.parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(self.model, settings(precision))
        self.steps = count()

    def step(self) -> None:
        batch = self.loader.draw(0, next(self.steps), ROWS)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            value, mask = self.model(batch).terms["action"]
        loss = (value.float() * mask).sum() / mask.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, _peers.CLIP, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()


def take_over(ours: DecisionTransformer, theirs: Any) -> None:
    """Fills our model with the weights of transformers' ``DecisionTransformerModel``."""
    weights = theirs.state_dict()
    named = {
        "embed.slots.return": "embed_return",
        "embed.slots.state": "embed_state",
        "embed.slots.action": "embed_action",
        "embed_time": "embed_timestep",
        "embed_norm": "embed_ln",
        "heads.action.out": "predict_action.0",
    }
    made = {f"{a}.{k.removeprefix(b + '.')}": w for a, b in named.items() for k, w in weights.items() if k.startswith(f"{b}.")}
    made |= {f"trunk.{k}": w for k, w in from_twin(ours.trunk.config, weights, "encoder.").items()}
    # Their GPT-2 adds the vector of position 0 to every token, right behind the norm.
    made["embed_norm.bias"] = made["embed_norm.bias"] + weights["encoder.wpe.weight"][0]
    ours.load_state_dict(made)


@torch.no_grad()
def difference(loader: Loader) -> float:
    """Largest difference of an action between our model and transformers' with the same weights, over 256 windows."""
    ours, theirs = model(loader).eval(), _peers.transformers_model().eval()
    take_over(ours, theirs)
    batch = loader.draw(1, 0, 256)
    return float((ours.act(batch)["action"] - _theirs(theirs, batch)).abs().max())


def _theirs(theirs: Any, batch: StreamBatch) -> torch.Tensor:
    """What transformers' model answers to the same windows, padded on the left as it wants them."""
    at = torch.arange(CONTEXT) - (CONTEXT - batch.length)[:, None]
    real, rows = at >= 0, torch.arange(len(at))[:, None]
    left = {n: v[rows, at.clamp(min=0)] * real[..., None] for n, v in batch.values.items()}
    time = (batch.time[rows, at.clamp(min=0)] * real).clamp(max=_peers.LONGEST - 1)
    names = {"states": left["state"], "actions": left["action"], "returns_to_go": left["return"], "timesteps": time}
    answer = theirs(**names, rewards=left["return"], attention_mask=real.float(), return_dict=False)[1]
    assert answer.shape[-1] == ACT
    return answer[:, -1]
