"""How many of the tokens that change does a token world foretell, and how many rewards, one step ahead on held-out episodes?

    python changed_tokens.py RUN

Every token of the next frame is foretold from the true tokens in front of it, those of the same frame included; what a
dream gets without them is said by ``seqrl dream RUN``. A token counts as changed where it differs from that of the frame
before. A reward counts as foretold where it is likelier than not that it is none of the data's zero.
"""

import sys

import numpy as np
import torch

from seqrl import bundle
from seqrl.data.dataset import DataConfig, open_domains
from seqrl.data.tables import Tables

ROWS = 64


@torch.no_grad()
def main(name: str) -> None:
    found = bundle.load(name)
    model, ((domain, tokenizer),) = found.model, found.tokenizer.domains.items()
    world, data = model.world(domain), open_domains(DataConfig(**found.recipe["data"]))[domain]
    tables, C, K = Tables(data, tokenizer, "cpu", 0), tokenizer.context, world.K
    zero = int(np.abs(tokenizer.ports().levels["reward"]).argmin())
    tokens, rewards = np.zeros(4, int), np.zeros(3, int)
    for first, length in zip(data.held_out.row, data.held_out.length, strict=True):
        values = tables.rows(np.arange(first, first + length + 1), {"image", "action", "reward"})
        z, action, reward = values["image"], values["action"], values["reward"][:, 0]
        for at in torch.arange(1, int(length) - 1).split(ROWS):
            # The C - 1 frames up to step t with their actions, and the frame that followed.
            seen = (at[:, None] - (C - 2) + torch.arange(C - 1)).clamp(min=0)
            frames = torch.cat((z[seen], z[at + 1][:, None]), 1).flatten(0, 1)
            actions = action[torch.cat((seen, at[:, None]), 1)].flatten(0, 1)
            x = model.embed.tokens(domain, ["image", "action"], {"image": frames, "action": actions})
            y, spot = model.trunk(x.view(len(at), C * world.W, -1)), (C - 1) * world.W - 1
            said = model.heads.codes(y[:, spot : spot + K], model.embed.ranges[domain, "image"]).argmax(-1)
            changed, right = z[at + 1] != z[at], said == z[at + 1]
            tokens += [int(n.sum()) for n in (right & changed, changed, right & ~changed, ~changed)]
            odds = model.heads.codes(y[:, spot], model.embed.ranges[domain, "reward"], 0).softmax(-1)
            told, true = 1 - odds[:, zero] > 0.5, reward[at] != zero
            rewards += [int(n.sum()) for n in (told & true, true, told)]
    share = tokens[1] / tokens[[1, 3]].sum()
    print(f"changed tokens right {tokens[0] / tokens[1]:.3f} ({share:.1%} change), others {tokens[2] / tokens[3]:.4f}")
    recall, precision = (rewards[0] / max(n, 1) for n in rewards[1:])
    print(f"rewards: recall {recall:.2f}, precision {precision:.2f} (of {rewards[1]})")


if __name__ == "__main__":
    main(sys.argv[1])
