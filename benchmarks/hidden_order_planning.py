"""Why does planning in a dream of Hidden Order Discovery fall short: the planner, or the world?

    python hidden_order_planning.py          # CEM over the true environment: what a perfect world would bring (seconds)
    python hidden_order_planning.py RUN      # how well a TSSM foretells touches 1 to 12 steps ahead (a minute)

The second needs the probe's 200 episodes (hidden_order_probe.py) and looks at 60 of them; ``settled`` are touches whose outcome
follows from the touches before.
"""

import sys

import numpy as np
import torch
from hidden_order_probe import FRESH

from seqrl import bundle
from seqrl.sources import collected
from seqrl.sources._hidden_order import HiddenOrder
from seqrl.sources._hidden_order_players import touches

HORIZON, CANDIDATES, ROUNDS = 16, 128, 3
AHEAD = 12
_STATE = ("place", "facing", "rank", "_paid", "rounds", "_t", "touched")


def kept(env):
    return {k: getattr(env, k) for k in _STATE}, list(env.present)


def put(env, state):
    for name, value in state[0].items():
        setattr(env, name, value)
    env.present = list(state[1])


def best_of(env, rng):
    """The first action of the best sequence that CEM finds in copies of the environment itself."""
    now, chances = kept(env), np.full((HORIZON, 3), 1 / 3)
    for _ in range(ROUNDS):
        drawn = (rng.random((CANDIDATES, HORIZON, 1)) > chances.cumsum(-1)[None, :, :-1]).sum(-1)
        score = np.zeros(CANDIDATES)
        for i, plan in enumerate(drawn):
            put(env, now)
            for action in plan:
                _, reward, _, over, _ = env.step(int(action))
                score[i] += reward
                if over:
                    break
        elites = drawn[np.argsort(-score)[: CANDIDATES // 10]]
        chances = 0.9 * np.eye(3)[elites].mean(0) + 0.1 * chances
    put(env, now)
    return int(drawn[score.argmax()][0])


def oracle(episodes: int = 4) -> None:
    rng, returns, solved = np.random.default_rng(0), [], []
    for k in range(episodes):
        env, over, total = HiddenOrder(), False, 0.0
        # What is seen is not needed, and costs more than the step.
        env._see = lambda: None
        env.reset(seed=1000 + k)
        while not over:
            _, reward, _, over, info = env.step(best_of(env, rng))
            total += reward
        returns.append(total)
        solved.append(info["success"])
    print(f"CEM over the true environment: return {np.mean(returns):.1f} {returns}, solved {sum(solved)} of {episodes}")


@torch.no_grad()
def foretold(name: str) -> None:
    loaded, source = bundle.load(name), collected.Source(collected.Config(**FRESH))
    model, codec = loaded.model, loaded.tokenizer.slots["state"].codec
    rows = [[] for _ in range(AHEAD)]
    for first in range(0, 60, 10):
        episodes = [source.episode(i) for i in range(first, first + 10)]
        state = torch.from_numpy(np.stack([codec.encode(e.obs["observation"]) for e in episodes]))
        action = torch.tensor(np.stack([np.append(e.act["action"], 0) for e in episodes]))[..., None].long()
        T, judged = action.shape[1], [touches(e) for e in episodes]
        carry, _ = model.starts(model.encode({"state": state}, sample=False), action, torch.full((10,), T), AHEAD)
        for d in range(AHEAD):
            at = torch.arange(T).add(d).clamp(max=T - 1)
            carry, said = model.step(carry, action[:, at].reshape(10 * T, 1), sample=False)
            reward = said.reward.reshape(10, T).numpy()
            for touch, found in zip(judged, reward, strict=True):
                for s in np.flatnonzero(touch.colour[d:] >= 0):
                    rows[d].append((touch.determined[s + d], touch.rewarded[s + d], found[s]))
    for d, found in enumerate(rows, 1):
        settled, paid, said = (np.array(x) for x in zip(*found, strict=True))
        right, wrong = said[settled & paid] > 1.5, said[settled & ~paid] <= 1.5
        print(
            f"{d:2} ahead: settled {right.mean():.2f} of those that pay, {wrong.mean():.2f} of the others; "
            f"unsettled {said[~settled].mean():.2f} foretold, {3 * paid[~settled].mean():.2f} paid"
        )


if __name__ == "__main__":
    foretold(sys.argv[1]) if len(sys.argv) > 1 else oracle()
