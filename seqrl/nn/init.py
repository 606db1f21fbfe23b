"""Initial weights, as every GPT-2-like model draws them: normal with one small deviation, less at the end of branches.

Written with transformers' own functions, which leave alone what a checkpoint has already filled: ``from_pretrained`` builds
models on the meta device and calls this for what was not in the file. Convolutions over pixels are drawn as PyTorch does.
"""

from torch import nn
from transformers import initialization as init

from seqrl.nn.ranges import RangeHead


def init_weights(module: nn.Module, std: float) -> None:
    """Fills one module's own parameters, as ``PreTrainedModel._init_weights`` is asked to."""
    if isinstance(module, nn.Linear):
        init.normal_(module.weight, mean=0.0, std=std * getattr(module, "init_scale", 1.0))
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        # A pixel's few inputs would be lost in a deviation made for wide layers: PyTorch's own draw, as in DT for Atari.
        init.kaiming_uniform_(module.weight, a=5**0.5)
        if module.bias is not None:
            init.uniform_(module.bias, *(s * module.weight[0].numel() ** -0.5 for s in (-1, 1)))
    elif isinstance(module, nn.Embedding):
        init.normal_(module.weight, mean=0.0, std=std)
    elif isinstance(module, RangeHead):
        init.normal_(module.weight, mean=0.0, std=std)
        init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
        init.ones_(module.weight)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)
