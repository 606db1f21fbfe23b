"""Longer rows for a body that has learned on shorter ones: more positions, and rotary angles that turn more slowly.

A rotary angle is ``position * base ** (-2i / d)``. With a larger base the positions of a longer row stay among angles that were
seen before, and some training on long rows does the rest (Xiong et al. 2023, arXiv 2309.16039; Liu et al. 2024, LWM, arXiv
2402.08268, table 11). A learned table of positions ends where it ends.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.core.errors import RecipeError


def check_stretch(length: int | None, rope_base: float | None) -> None:
    """Raises RecipeError for less than a token, or a base that is no number above 1."""
    if length is not None and length < 1:
        raise RecipeError(f"length: at least 1 token (got {length})")
    if rope_base is not None and not 1 < rope_base < float("inf"):
        raise RecipeError(f"rope_base: above 1 (got {rope_base}); LLaMA-2 has 1e4, a row of a million tokens took 5e7")


def check_learned(name: str, most: int, length: int | None, rope_base: float | None) -> None:
    """Raises RecipeError where a body without rotary angles is asked for more than its ``most`` positions, or for a base."""
    if rope_base is not None:
        raise RecipeError(f"rope_base: the body '{name}' has no rotary angles, so there is no base of them; leave it out")
    if length is not None and length > most:
        raise RecipeError(
            f"length: the body '{name}' has {most} learned positions and cannot be stretched to {length} tokens; "
            "take one with rotary angles, such as llama or qwen3"
        )


def rotary_of(decoder: nn.Module) -> list[nn.Module]:
    """The modules of a decoder of transformers that make rotary angles of positions."""
    return [m for m in decoder.modules() if isinstance(getattr(m, "inv_freq", None), Tensor) and hasattr(m, "config")]


def stretch_rotary(rotary: list[nn.Module], configs: list[Any], length: int | None, rope_base: float | None) -> None:
    """Tells every config of a decoder the new numbers, and makes its angles anew.

    Args:
        rotary: ``rotary_of`` the decoder. configs: all that are saved, those of ``rotary`` apart.
        length, rope_base: as in ``Pretrained.stretch``.
    """
    for config in {id(c): c for c in (*configs, *(m.config for m in rotary))}.values():
        if length is not None:
            config.max_position_embeddings = length
        if rope_base is not None:
            said = config.rope_parameters
            for part in [p for p in said.values() if isinstance(p, Mapping)] or [said]:
                part["rope_theta"] = float(rope_base)
    for module in rotary:
        with torch.device(module.inv_freq.device):
            fresh = type(module)(module.config)
        # Loading has marked the module, and hooks of others may hang on it: only what the constructor made of the config moves.
        module._buffers.update(fresh._buffers)
        module.__dict__.update({k: v for k, v in fresh.__dict__.items() if not k.startswith("_") and k != "training"})
