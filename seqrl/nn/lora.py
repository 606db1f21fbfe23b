"""Small matrices to learn beside large ones that stay as they are (LoRA, Hu et al. 2021, arXiv 2106.09685).

A pretrained body has more weights than a few thousand episodes can move with profit, or a small machine can hold the
moments of. With adapters the body is frozen, and every matrix W of it becomes W + (alpha / rank) B A with A and B of a small
rank; B is zero at first, so that nothing changes until something is learned. The pairs are peft's, put into the decoder
where it stands.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seqrl.core.errors import RecipeError

if TYPE_CHECKING:
    from seqrl.nn.pretrained import Pretrained


def add_lora(
    body: "Pretrained", rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: str | Sequence[str] = "all-linear"
) -> None:
    """Freezes ``body`` and gives its matrices small ones to learn beside them, in place.

    Nothing is wrapped: the state dict stays one of plain tensors, which a fresh body with the same adapters takes strictly.

    Args:
        rank, alpha: the product of each pair has this rank, and is scaled by ``alpha / rank``.
        dropout: on what the pairs are fed.
        targets: names of the layers that get a pair; "all-linear" for all.

    Raises:
        RecipeError: peft is not installed, a number is out of range, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise RecipeError('lora: needs peft; install it with: pip install "seqrl[lora]"') from error
    if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise RecipeError(f"lora: rank at least 1, alpha above 0, dropout from 0 to below 1 (got {rank}, {alpha}, {dropout})")
    named = targets if isinstance(targets, str) else list(targets)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=named, bias="none")
    body.requires_grad_(False)
    with warnings.catch_warnings():
        # GPT-2's matrices lie transposed, which peft sees by itself and warns of.
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        try:
            inject_adapter_in_model(config, body.decoder)
        except ValueError as error:
            layers = sorted({n.rsplit(".", 1)[-1] for n, m in body.decoder.named_modules() if not list(m.children()) and n})
            raise RecipeError(f"lora: targets {targets} name no layer that can have a pair (there are: {layers})") from error
    for name, module in body.decoder.named_modules():
        # A policy draws its initial weights when all of it is there; peft has drawn these, and one of each pair must stay 0.
        if "lora_" in name and all(p.device.type != "meta" for p in module.parameters()):
            module._is_hf_initialized = True
