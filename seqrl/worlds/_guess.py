"""Saying a frame in few passes: it is guessed to be the last one again, and only where that is wrong is it read anew.

A pass over all codes of the guess tells what the model would have said at each of them. Up to the first code that is said
otherwise the guess was right, and that code itself is right too, for all in front of it is: so from there the frame is read
again, with that code in it. This is speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) with the last frame as the
draft; with the numbers of every draw fixed beforehand the frame is the one that saying code after code gives. A pass reads many
tokens at once, so this pays where passes cost more than tokens do: in dreams of a few rows, such as one that is played.

Letters: B rows, K codes of what is observed, A tokens of an action, D width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqrl.nn.kv import KVCache


def guess(
    trunk: Any,
    kv: KVCache,
    x: Tensor,
    draft: Tensor,
    embed: Callable[[Tensor], Tensor],
    choose: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """A frame of codes.

    Args:
        trunk: in evaluation mode. kv: changes: it then holds all of the frame but its last code.
        x: ``[B, 1 + A, D]``, what is fed in front of the frame.
        draft: ``[B, K]`` int64, the guess; it is written over.
        embed: codes ``[B, K]`` to vectors ``[B, K, D]``.
        choose: what the trunk gives at the tokens that codes are read from, ``[B, K, D]``, to codes ``[B, K]``; the same
            numbers must always give the same code.

    Returns:
        the codes ``[B, K]``, and ``[B, K, D]`` what the trunk gave where each was read.
    """
    (B, K), front = draft.shape, x.shape[1]
    at, first = torch.arange(K, device=draft.device), kv.length + front
    y = trunk.extend(torch.cat((x, embed(draft)[:, :-1]), 1), kv)[:, front - 1 :]
    known = torch.zeros(B, 1, dtype=torch.int64, device=draft.device)
    while True:
        said = choose(y)
        wrong = (said != draft) & (at >= known)
        # Up to the first wrong code, and with it, all is known; K where none is.
        place = torch.where(wrong, at, K).amin(1, keepdim=True)
        draft = torch.where(at == place, said, draft)
        known = place + 1
        # The last code is fed by nobody here.
        low = int(place.min())
        if low >= K - 1:
            return draft, y
        new = at[low:-1]
        places = torch.where(new >= place, first[:, None] + new, -1)
        again = trunk.extend(embed(draft)[:, low:-1], kv, places=places)
        y = torch.cat((y[:, : low + 1], again.where((places >= 0)[..., None], y[:, low + 1 :])), 1)
