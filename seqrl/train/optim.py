"""AdamW, the learning rate as a pure function of the step, and the moving average of the weights."""

import math

import torch

from seqrl.train.freeze import scales
from seqrl.train.recipe import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of step ``step`` (counted from 0): linear warm-up, then the recipe's decay to ``final_lr``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.decay == "none":
        return config.lr
    share = (step - config.warmup) / max(1, config.steps - 1 - config.warmup)
    share = min(max(share, 0.0), 1.0)
    fall = share if config.decay == "linear" else (1 - math.cos(math.pi * share)) / 2
    return config.lr * (1 - (1 - config.final_lr) * fall)


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that train; one-dimensional ones (biases, norms) and embeddings are not decayed.

    A group's ``scale`` multiplies its learning rate.

    Raises:
        RecipeError: a pattern of ``train.lr_scale`` meets nothing.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    factors, grouped = scales(model, config.lr_scale), {}
    for p in model.parameters():
        if p.requires_grad:
            kept = p.ndim < 2 or id(p) in embeddings
            grouped.setdefault((factors.get(id(p), 1.0), kept), []).append(p)
    groups = [
        {"params": found, "weight_decay": 0.0 if kept else config.weight_decay, "scale": factor}
        for (factor, kept), found in sorted(grouped.items(), key=lambda entry: (-entry[0][0], entry[0][1]))
    ]
    # One fused kernel for all parameters: on CPU and on CUDA alike several times faster than one by one.
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


class Average:
    """Exponential moving average of a model's parameters (Polyak averaging), with the usual early correction.

    Of those that train: what is frozen is its own average.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        """Moves towards the model; early on the average is short, so that the random start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [p.detach() for p in model.parameters() if p.requires_grad]
        torch._foreach_lerp_(list(self.weights.values()), now, 1 - decay)

    @torch.no_grad()
    def swap(self, model: torch.nn.Module) -> None:
        """Exchanges the model's weights and the average; twice is a no-op."""
        for n, p in model.named_parameters():
            if n in self.weights:
                kept = p.detach().clone()
                p.copy_(self.weights[n])
                self.weights[n].copy_(kept)
