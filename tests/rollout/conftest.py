"""A policy and a tokenizer small enough to be checked by hand; they keep the contracts and write down what they are given."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from seqrl.core.contracts import Ports, Pred
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.layout import Layout

INF = float("inf")


def cartpole_spec(**changes):
    fields = {
        "id": "test/cartpole-v0",
        "obs": {"observation": Modality("vector", (4,), "float32", (-INF,) * 4, (INF,) * 4)},
        "act": {"action": Modality("discrete", (), "int64", n=(2,))},
        "env": {"id": "CartPole-v1", "kwargs": {}, "max_episode_steps": 500, "additional_wrappers": []},
    }
    return EpisodeSpec(**{**fields, **changes})


def hopper_spec(**changes):
    fields = {
        "id": "test/hopper-v0",
        "obs": {"observation": Modality("vector", (11,), "float32", (-INF,) * 11, (INF,) * 11)},
        "act": {"action": Modality("vector", (3,), "float32", (-1.0,) * 3, (1.0,) * 3)},
        "env": {"id": "Hopper-v5", "kwargs": {}, "max_episode_steps": 1000},
    }
    return EpisodeSpec(**{**fields, **changes})


class FakeTokenizer:
    """States as they are, returns in hundreds, actions as they are: one plain observation, one plain action."""

    def __init__(self, spec, context=6, layout="return state action"):
        self.spec, self.context, self.layout = spec, context, Layout.parse(layout)
        self.action = spec.act["action"]
        fields = {"state": tuple(spec.obs)[:1]} | {n: (n,) for n in ("return", "action", "reward")}
        self.slots = {n: SimpleNamespace(fields=fields[n]) for n in self.layout.names}
        self.returns = {"min": 9.0, "max": 500.0, "mean": 100.0, "q10": 20.0, "q50": 90.0, "q90": 495.0}

    def ports(self):
        width = self.spec.obs["observation"].size
        codes = self.action.n[0] if self.action.n else 0
        return Ports(
            str(self.layout),
            {"return": 1, "state": width, "action": self.action.size},
            {"return": 0, "state": 0, "action": codes},
            {"return": False, "state": False, "action": not codes},
        )

    def encode_slot(self, name, columns):
        assert name == "state"
        return columns["observation"].astype(np.float32)

    def encode_return(self, value):
        return (np.asarray(value)[:, None] / 100).astype(np.float32)

    def encode_action(self, action):
        flat = np.asarray(action["action"]).reshape(len(action["action"]), -1)
        return {"action": flat.astype(np.int64 if self.action.n else np.float32)}

    def decode_action(self, codes):
        code = codes["action"] if self.action.n else np.clip(codes["action"], self.action.low, self.action.high)
        return {"action": code.astype(self.action.dtype).reshape(len(code), *self.action.shape)}


class FakeCache:
    """What each row has read, step by step: a list of (time, state, return)."""

    def __init__(self, rows):
        self.read = rows

    def reset(self, rows):
        for row in rows.tolist():
            self.read[row] = []

    def index(self, rows):
        return FakeCache([list(self.read[row]) for row in rows.tolist()])


class FakePolicy(torch.nn.Module):
    """Acts by a fixed law of the newest state, the return, the noise and everything it can see, and keeps a diary.

    The diary holds, call by call, one dictionary a row: ``times`` it saw, ``ask`` (its newest return token), the ``previous``
    action it was fed and the action it ``did``.
    """

    def __init__(self, tokenizer, context_matters=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer, self.context_matters = tokenizer, context_matters
        self.diary, self.refills = [], []

    def init_cache(self, rows, steps):
        assert steps == self.tokenizer.context
        return FakeCache([[] for _ in range(rows)])

    def refill(self, batch, cache, rows):
        for i, row in enumerate(rows.tolist()):
            cache.read[row] = [self._step(batch, i, j) for j in range(int(batch.length[i]))]
        self.refills.append({"rows": rows.tolist(), "times": batch.time.tolist()})

    @staticmethod
    def _step(batch, row, at):
        ask = float(batch.values["return"][row, at, 0]) if "return" in batch.values else 0.0
        return int(batch.time[row, at]), batch.values["state"][row, at].clone(), ask

    def act(self, batch, cache=None, sample=False, uniform=None, temperature=1.0):
        assert set(batch.values) >= {"state", "action"}
        page, out = [], []
        for row in range(len(batch.length)):
            n = int(batch.length[row])
            if cache is None:
                seen = [self._step(batch, row, j) for j in range(n)]
                previous = batch.values["action"][row, n - 2].tolist() if n > 1 else None
            else:
                cache.read[row].append(self._step(batch, row, 0))
                seen = list(cache.read[row])
                previous = batch.values["action"][row, 0].tolist() if len(seen) > 1 else None
            did = self._law(seen, None if uniform is None else uniform[row])
            page.append({"times": [s[0] for s in seen], "ask": seen[-1][2], "previous": previous, "did": did.tolist()})
            out.append(did)
        self.diary.append(page)
        return {"action": torch.stack(out)}

    def _law(self, seen, uniform):
        _, state, ask = seen[-1]
        drift = sum(0.05 * float(s[1][0]) for s in seen) if self.context_matters else 0.0
        if self.tokenizer.action.n:
            wish = 0.3 * state[1] + 3 * state[2] + state[3] + drift + 0.2 * (ask - 5)
            push = 0.0 if uniform is None else (6 - ask) * (float(uniform[0]) - 0.5)
            return (wish + push > 0).long().reshape(1)
        lean = torch.tanh(state[:3] + 0.1 * ask + drift)
        return lean if uniform is None else lean + 2 * (uniform - 0.5)


@pytest.fixture
def fakes():
    """The words the tests of this folder speak in."""
    return SimpleNamespace(
        cartpole_spec=cartpole_spec, hopper_spec=hopper_spec, Tokenizer=FakeTokenizer, Policy=FakePolicy, Cache=FakeCache
    )


class Spot(NamedTuple):
    """The carry of the linear world: where it is, and how many steps were taken in."""

    state: torch.Tensor
    steps: torch.Tensor


class LinearWorld(torch.nn.Module):
    """A world that knows everything: ``o' = turn o + push a``, reward 1 where ``o'[0] > 1``, the end where ``o'[1] > 2.5``.

    A world with ``known = 0`` believes that actions do nothing; ``noise`` is what it adds to every draw.
    """

    feat_width, differentiable = 3, True
    turn = torch.tensor([[0.9, -0.4], [0.4, 0.9]])
    push = torch.tensor([[0.3], [0.5]])

    def __init__(self, known=1.0, noise=0.1):
        super().__init__()
        self.known, self.noise = torch.nn.Parameter(torch.tensor(known), requires_grad=False), noise

    def encode(self, obs, sample=True):
        return obs["state"]

    def init(self, rows, steps, front=None):
        return Spot(torch.zeros(rows, 2), torch.zeros(rows, dtype=torch.int64))

    def observe(self, carry, z, prev_action):
        steps = carry.steps[:, None] + torch.arange(1, z.shape[1] + 1)
        return Spot(z[:, -1], steps[:, -1]), torch.cat((z, steps[..., None].float()), -1)

    def step(self, carry, action, sample=True, temperature=1.0):
        state = carry.state @ self.turn.T + self.known * action @ self.push.T
        if sample:
            state = state + self.noise * temperature * torch.randn_like(state)
        spot = Spot(state, carry.steps + 1)
        feat = torch.cat((state, spot.steps[:, None].float()), -1)
        return spot, Pred(feat, state, (state[:, 0] > 1).float(), 1 - 0.9 * (state[:, 1] > 2.5).float())

    def share(self, carry, candidates, steps):
        from seqrl.core import tree

        return tree.repeat(carry, candidates)

    def decode(self, latent):
        return {"state": latent}


def linear_episode(i, T=30):
    """Random pushes; ends where the law says, or after T steps."""
    rng = np.random.default_rng(i)
    state, seen, act, rew, end = rng.normal(size=2).astype(np.float32), [], [], [], []
    turn, push = LinearWorld.turn.numpy(), LinearWorld.push.numpy()
    seen.append(state)
    while len(act) < T and not any(end):
        act.append(rng.uniform(-1, 1, 1).astype(np.float32))
        state = (turn @ state + push @ act[-1]).astype(np.float32)
        seen.append(state)
        rew.append(float(state[0] > 1))
        end.append(bool(state[1] > 2.5))
    cut = np.zeros(len(act), bool)
    cut[-1] = not end[-1]
    rewards, ends = np.array(rew, np.float32), np.array(end)
    return Episode({"observation": np.array(seen)}, {"action": np.array(act)}, rewards, ends, cut, i)


@pytest.fixture
def linear(home, memory):
    """Data of a linear system, a tokenizer that leaves numbers as they are, and a world that knows the system."""
    from seqrl.data.dataset import DataConfig, Dataset
    from seqrl.data.loader import fit
    from seqrl.data.slots import TokensConfig
    from seqrl.data.store import prepare
    from seqrl.data.tokenizer import Tokenizer

    spec = memory.spec("tests/linear-v0", obs=2, act=1)
    store = prepare(memory.of(spec, [linear_episode(i) for i in range(40)]))
    data = Dataset([store], DataConfig(sources=[{"kind": "minari", "id": "tests/linear-v0"}], held_out=0.25))
    slots = {"state": {"kind": "vector", "scale": "none"}}
    tokenizer = Tokenizer(TokensConfig(layout="state action > reward done", context=10, slots=slots), spec)
    fit(tokenizer, data)
    return SimpleNamespace(data=data, tokenizer=tokenizer, World=LinearWorld, world=LinearWorld().eval())
