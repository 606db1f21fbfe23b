"""Does a world remember which balls were tried? The reward of a touch in Hidden Order Discovery, where history settles it.

    python hidden_order_probe.py RUN

The prior's likeliest latent foretells the reward of every touch in 200 fresh episodes (seeds from 1,000,000 on, collected on
the first call); balanced accuracy over the touches whose outcome follows from the touches before. For a TSSM that is told
states.
"""

import sys

import numpy as np
import torch

from seqrl import bundle
from seqrl.core.stream import StreamBatch
from seqrl.sources import collected
from seqrl.sources._hidden_order_players import touches

FRESH = {
    "id": "local/hidden-order-4-probe-v0",
    "env": "seqrl/HiddenOrder-v0",
    "episodes": 200,
    "policy": "careless+memoryless",
    "levels": (1.0, 0.9),
    "seed": 1_000_000,
}


@torch.no_grad()
def main(name: str) -> None:
    loaded, source = bundle.load(name), collected.Source(collected.Config(**FRESH))
    model, codec = loaded.model, loaded.tokenizer.slots["state"].codec
    torch.manual_seed(0)
    counts = np.zeros(4, int)
    for first in range(0, len(source), 50):
        episodes = [source.episode(i) for i in range(first, first + 50)]
        state = torch.from_numpy(np.stack([codec.encode(e.obs["observation"]) for e in episodes]))
        action = torch.tensor(np.stack([np.append(e.act["action"], 0) for e in episodes]))[..., None].long()
        steps = action.shape[1] - 1
        values = {"state": state, "action": action, "reward": torch.zeros_like(action)}
        batch = StreamBatch(values, torch.arange(steps + 1).expand(50, -1), torch.full((50,), steps))
        h = model._read(batch.values)[0][:, 1:, model.latents.width :]
        feat = torch.cat((model.latents.draw(model.prior(h), sample=False), h), -1)
        said = model.outcomes["reward"].mean(model.bodies["reward"](feat)).numpy() > 1.5
        counts += sum(np.array(touches(e).counts(s)) for e, s in zip(episodes, said, strict=True))
    right, wrong = counts[0] / counts[1], counts[2] / counts[3]
    print(f"rewarded {right:.3f} of {counts[1]}, others {wrong:.3f} of {counts[3]}: balanced {(right + wrong) / 2:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
