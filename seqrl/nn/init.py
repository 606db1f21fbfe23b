"""Initial weights, as every GPT-2-like model draws them: normal with one small deviation, less at the end of branches.

Written with transformers' own functions, which leave alone what a checkpoint has already filled: ``from_pretrained`` builds
models on the meta device and calls this for what was not in the file.
"""

from torch import nn
from transformers import initialization as init


def init_weights(module: nn.Module, std: float) -> None:
    """Fills one module's own parameters, as ``PreTrainedModel._init_weights`` is asked to."""
    if isinstance(module, nn.Linear):
        init.normal_(module.weight, mean=0.0, std=std * getattr(module, "init_scale", 1.0))
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        init.normal_(module.weight, mean=0.0, std=std)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        init.ones_(module.weight)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)
