"""Learning in dreams: toy worlds whose best policy is known, the whole road on CartPole, and going on as if never stopped."""

import os
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch import nn

from seqrl import bundle
from seqrl.core.contracts import Ports, Pred
from seqrl.core.errors import RecipeError, UserError
from seqrl.core.stream import StreamBatch
from seqrl.policies.actor_critic import ActorCritic, ActorCriticConfig
from seqrl.rollout.agent import Agent
from seqrl.rollout.imagine import lambda_return, reached
from seqrl.train import checkpoint, metrics, run
from seqrl.train import recipe as recipes
from seqrl.train.engine import Engine
from seqrl.train.imagination import DreamTrainer
from seqrl.train.recipe import ImaginationConfig, TrainConfig
from seqrl.train.signals import Interrupted

# ---- toy worlds -----------------------------------------------------------------------------------------------------


class At(NamedTuple):
    state: torch.Tensor


class Toy(nn.Module):
    """Knows its state; what follows an action is up to the law."""

    feat_width, differentiable = 2, True

    def __init__(self, law):
        super().__init__()
        self.law, self.nothing = law, nn.Parameter(torch.zeros(1))

    def init(self, rows, steps, front=None):
        return At(torch.zeros(rows, 2))

    def encode(self, obs, sample=True):
        return obs["state"]

    def observe(self, carry, z, prev_action):
        return At(z[:, -1]), z

    def step(self, carry, action, sample=True, temperature=1.0):
        state, reward, cont, aux = self.law(carry.state, action)
        return At(state), Pred(state, state, reward, cont, aux)


class Everywhere:
    """Windows of one step that begin where ``make(rows)`` says."""

    held_out = None

    def __init__(self, make, vocab):
        self.make, self.vocab = make, vocab

    def draw(self, seed, step, rows, rank=0, world=1):
        torch.manual_seed(seed * 1000 + step)
        state = self.make(rows)[:, None].expand(-1, 2, -1)
        action = torch.zeros(rows, 2, 1, dtype=torch.int64 if self.vocab else torch.float32)
        values = {"state": state, "action": action, "reward": torch.zeros(rows, 2, 1)}
        values["done"] = torch.zeros(rows, 2, 1, dtype=torch.int64)
        return StreamBatch(values, torch.arange(2).expand(rows, 2), torch.ones(rows, dtype=torch.int64))


def make_toy(monkeypatch, law, make, vocab=0, model=None, losses=None, **how):
    widths = {"state": 2, "action": 1, "reward": 1, "done": 1}
    vocabs = {"state": 0, "action": vocab, "reward": 0, "done": 2}
    bounded = {n: n == "action" for n in widths}
    ports = Ports("state action > reward done", widths, vocabs, bounded, levels={"reward": [0.0, 1.0]})
    monkeypatch.setattr(ActorCriticConfig, "make_world", lambda self: Toy(law))
    torch.manual_seed(0)
    config = ActorCriticConfig.for_ports(ports, 1, width=32, layers=1, **(model or {}))
    train = TrainConfig(steps=1000, batch=64, lr=3e-3, clip=10.0, losses=losses or {"actor": 1.0, "critic": 1.0})
    return DreamTrainer(train, ImaginationConfig(**how), Engine("cpu", "fp32", 0), ActorCritic(config), Everywhere(make, vocab))


def train(trainer, steps):
    trainer.bare.train()
    for step in range(steps):
        trainer.step(step)
    return trainer.bare.eval()


def only_the_first(state, action):
    """Reward 1 for choosing 1 in the first step, which the state tells; then nothing ever."""
    first = state[:, 0]
    reward = first * (action[:, 0] == 1)
    return torch.stack((0 * first, torch.ones_like(first)), -1), reward, torch.ones_like(first), {}


def test_the_action_is_praised_for_what_came_of_it(monkeypatch):
    begin = lambda rows: torch.tensor([1.0, 0.0]).expand(rows, 2)  # noqa: E731
    model = train(make_toy(monkeypatch, only_the_first, begin, 2, {"critic": "mse"}, horizon=3, lam=1.0, slow_weight=0), 60)
    both = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    p = model.head.log_probs(model.body(both)).exp()[:, 0, 1]
    assert p[0] > 0.95
    # Later choices are worth nothing either way: an action praised for its neighbour's outcome would show here.
    assert 0.2 < p[1] < 0.8
    assert model.values(both).tolist() == pytest.approx([1.0, 0.0], abs=0.15)


def a_short_life(state, action):
    """Choosing 0 gives 2 at once and ends; choosing 1 gives 1 and goes on."""
    going = (action[:, 0] == 1).float()
    return state, 2 - going, going, {}


@pytest.mark.parametrize(("discount", "best"), [(0.7, 1), (0.3, 0)])
def test_what_ends_the_episode_ends_its_rewards(monkeypatch, discount, best):
    # Going on for ever is worth 1 / (1 - discount): 3.3, or 1.4.
    begin = lambda rows: torch.tensor([1.0, 0.0]).expand(rows, 2)  # noqa: E731
    trainer = make_toy(monkeypatch, a_short_life, begin, 2, {"discount": discount, "critic": "mse"}, horizon=8, slow_weight=0)
    model = train(trainer, 80)
    assert model.head.log_probs(model.body(begin(1))).exp()[0, 0, best].item() > 0.9
    assert model.values(begin(1)).item() == pytest.approx(max(2.0, 1 / (1 - discount)), rel=0.2)


def homewards(state, action):
    """Moves by a third of the action, and pays the square of the distance from 0."""
    x = state[:, :1] + 0.3 * action
    return torch.cat((x, torch.ones_like(x)), -1), -4 * x[:, 0] ** 2, torch.ones_like(x[:, 0]), {}


def anywhere(rows):
    return torch.stack((torch.rand(rows) * 2 - 1, torch.ones(rows)), -1)


@pytest.mark.parametrize(
    ("squash", "dynamics", "steps"), [("clip", 1.0, 50), ("tanh", 1.0, 50), ("clip", 0.5, 60), ("tanh", 0.0, 150)]
)
def test_a_walker_finds_home(monkeypatch, squash, dynamics, steps):
    settings = {"discount": 0.9, "squash": squash}
    trainer = make_toy(monkeypatch, homewards, anywhere, 0, settings, horizon=6, dynamics=dynamics, entropy=1e-3)
    model = train(trainer, steps)
    x = torch.linspace(-1, 1, 9)
    said = model.likeliest(torch.stack((x, torch.ones(9)), -1))[:, 0]
    best = (-x / 0.3).clamp(-1, 1)
    assert float((said - best).abs().mean()) < 0.3
    assert said[0] > 0.7
    assert said[-1] < -0.7


def test_gradients_through_the_world_are_not_taken_where_there_are_none(monkeypatch):
    monkeypatch.setattr(Toy, "differentiable", False)
    with pytest.raises(RecipeError, match="imagination.dynamics: no gradient flows"):
        make_toy(monkeypatch, homewards, anywhere, dynamics=0.5)


def test_pessimism_keeps_to_what_is_known(monkeypatch):
    def law(state, action):
        unknown = (action[:, 0] == 1).float()
        return state, 1 + unknown, torch.ones_like(unknown), {"disagreement": 4 * unknown}

    for pessimism, best in ((0.0, 1), (1.0, 0)):
        trainer = make_toy(monkeypatch, law, anywhere, 2, {"discount": 0.5}, horizon=2, pessimism=pessimism)
        model = train(trainer, 60)
        assert (model.likeliest(anywhere(20)) == best).all()
    trainer = make_toy(monkeypatch, homewards, anywhere, pessimism=1.0)
    with pytest.raises(UserError, match="cannot say what it does not know"):
        trainer.step(0)


def test_the_anchor_holds_to_what_was_done(monkeypatch):
    trainer = make_toy(
        monkeypatch, a_short_life, anywhere, 2, {"discount": 0.9}, {"actor": 1e-3, "critic": 1.0, "anchor": 1.0}, horizon=3
    )
    model = train(trainer, 60)
    # The data only ever chose 0, and dreams say 1.
    assert (model.likeliest(anywhere(20)) == 0).all()


# ---- one step, spelled out ------------------------------------------------------------------------------------------


def test_losses_are_those_of_slow_arithmetic(monkeypatch):
    def law(state, action):
        x = 0.9 * state + 0.1 * action
        return x, x.sum(-1) * 20, (x[:, 0]).sigmoid(), {}

    trainer = make_toy(monkeypatch, law, anywhere, model={"discount": 0.8, "critic": "mse"}, horizon=4, lam=0.7, entropy=0.1)
    model = train(trainer, 3)
    seen = {}
    monkeypatch.setattr(trainer, "_dream", lambda *a: seen.setdefault("dream", DreamTrainer._dream(trainer, *a)))
    batch = trainer.loader.draw(0, 99, 8)
    avg, share = model.spread.tolist()
    sums, facts = trainer._learn(batch, training=True)
    dream, drawn, _ = seen["dream"]
    r, c = dream.rewards.double(), dream.conts.double()
    with torch.no_grad():
        v, slow = model.values(dream.feats).double(), model.slow(dream.feats).double()
        returns = lambda_return(r, c, v, 0.8, 0.7)
        low, high = returns.quantile(0.05), returns.quantile(0.95)
        scale = max(1.0, float((0.99 * avg + 0.01 * (high - low)) / (0.99 * share + 0.01)))
        assert scale > 1.5
        assert float(facts["dream/scale"][0]) == pytest.approx(scale, rel=1e-4)
        actor = critic = total = 0.0
        for b in range(len(r)):
            weight = 1.0
            for t in range(4):
                log_p, entropy = model.judge(dream.feats[b, t], drawn[b, t])
                actor -= weight * float(log_p * (returns[b, t] - v[b, t]) / scale + 0.1 * entropy)
                critic += weight * float((v[b, t] - returns[b, t]) ** 2 + (v[b, t] - slow[b, t]) ** 2)
                total += weight
                weight *= 0.8 * float(c[b, t])
    assert float(sums["actor"][0]) == pytest.approx(actor, rel=1e-3)
    assert float(sums["critic"][0]) == pytest.approx(critic, rel=1e-3)
    assert float(sums["actor"][1]) == pytest.approx(total, rel=1e-5)
    assert float(sums["actor"][1]) == pytest.approx(float(reached(c, 0.8).sum()), rel=1e-5)


@pytest.mark.parametrize("dynamics", [0.0, 1.0, 0.3])
def test_each_loss_moves_its_own_part(monkeypatch, dynamics):
    trainer = make_toy(monkeypatch, homewards, anywhere, horizon=3, dynamics=dynamics)
    model = train(trainer, 2)
    sums, _ = trainer._learn(trainer.loader.draw(0, 99, 64), training=True)
    for name, other in (("actor", "critic"), ("critic", "actor")):
        model.zero_grad()
        (sums[name][0] / sums[name][1]).backward(retain_graph=True)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parts[name] if p.ndim > 1)
        assert all(p.grad is None for p in model.parts[other])
        assert all(p.grad is None for p in (*model.world.parameters(), *model.slow.parameters()))


def test_the_gradient_through_the_world_is_that_of_the_returns(monkeypatch):
    settings = {"discount": 0.9, "critic": "mse"}
    how = {"horizon": 3, "dynamics": 1.0, "entropy": 0.0, "normalize": False, "lam": 0.5}
    trainer = make_toy(monkeypatch, homewards, anywhere, 0, settings, **how)
    model = train(trainer, 2)
    batch = trainer.loader.draw(0, 99, 8)
    torch.manual_seed(7)
    sums, _ = trainer._learn(batch, training=True)
    found = torch.autograd.grad(sums["actor"][0], model.head.out.weight)[0]
    # The same by hand: what an action led to moves with it, what it was chosen for does not.
    torch.manual_seed(7)
    state, states, rewards = batch.values["state"].reshape(16, 2), [], []
    for _ in range(3):
        mean, std = model.head.mean_std(model.body(state.detach()))
        state, reward, _, _ = homewards(state, (mean + std * torch.randn_like(mean)).clamp(-1, 1))
        states.append(state)
        rewards.append(reward)
    (r0, r1, r2), (v1, v2, v3) = rewards, (model.values(x) for x in states)
    last = r2 + 0.9 * v3
    middle = r1 + 0.9 * (0.5 * v2 + 0.5 * last)
    first = r0 + 0.9 * (0.5 * v1 + 0.5 * middle)
    loss = -(first + 0.9 * middle + 0.81 * last).sum()
    assert torch.allclose(found, torch.autograd.grad(loss, model.head.out.weight)[0], rtol=1e-4, atol=1e-5)


def test_terminal_steps_begin_no_dream(monkeypatch):
    trainer = make_toy(monkeypatch, only_the_first, anywhere, 2, horizon=2)
    batch = trainer.loader.draw(0, 0, 64)
    batch.values["done"][:20, 0] = 1
    assert len(trainer._dream(batch, False)[0].feats) == 2 * 64 - 20
    trainer.how = ImaginationConfig(horizon=2, starts=50)
    dream, drawn, _ = trainer._dream(batch, False)
    assert dream.feats.shape == (50, 3, 2)
    assert drawn.shape == (50, 2, 1)


# ---- the whole road -------------------------------------------------------------------------------------------------

WORLD = """
name: world
data:
  sources:
    - {kind: minari, id: tests/cartpole-v0}
  held_out: 0.1
tokens: {layout: state action > reward done, context: 5}
model: {kind: worlds.rssm, deter: 16, hidden: 16, groups: 4, classes: 4, layers: 1, blocks: 2, ensemble: 2}
train: {steps: 3, batch: 8, losses: {state: 1, reward: 1, done: 1, dyn: 1, rep: 0.1, ensemble: 1}, device: cpu}
evaluate: {at_end: false}
"""
DREAMER = """
name: dreamer
data:
  sources:
    - {kind: minari, id: tests/cartpole-v0}
  held_out: 0.1
model: {kind: policies.actor_critic, width: 16, layers: 1}
imagination: {horizon: 4, starts: 12}
train:
  steps: 8
  batch: 4
  losses: {actor: 1, critic: 1}
  save_every: 4
  log_every: 2
  validate_every: 4
  validate_windows: 8
  device: cpu
evaluate: {at_end: false, episodes: 2, envs: 2}
"""


@pytest.fixture
def world(cartpole, tmp_path):
    return run.start(recipes.parse(WORLD, "world.yaml"), tmp_path / "world").run


@pytest.fixture
def dreamer(world):
    """``dreamer("train.steps=3")`` is the recipe with overrides."""
    return lambda *overrides: recipes.parse(DREAMER, "dreamer.yaml", [f"world={world}", *overrides])


OTHERS = {
    "tssm": (
        "model={kind: worlds.tssm, width: 16, layers: 1, heads: 2, groups: 4, classes: 4, hidden: 16, head_layers: 1}",
        "train.losses={state: 1, reward: 1, done: 1, kl: 1}",
    ),
    "ensemble": ("model={kind: worlds.ensemble, width: 16, layers: 1}", "train.losses={state: 1, reward: 1, done: 1}"),
    "autoregressive": (
        "model={kind: worlds.autoregressive, width: 16, layers: 1, heads: 2}",
        "tokens={layout: state action > reward done, pack: 30, slots: {state: {kind: bins, bins: 8}, reward: {kind: levels}}}",
        "train.losses={state: 1, reward: 1, done: 1}",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_any_family_of_worlds_can_be_lived_in(cartpole, tmp_path, kind):
    other = run.start(recipes.parse(WORLD, "world.yaml", OTHERS[kind]), tmp_path / "world").run
    recipe = recipes.parse(DREAMER, "dreamer.yaml", [f"world={other}", "train.steps=3", "evaluate.at_end=true"])
    out = run.start(recipe, tmp_path / "r")
    assert out.metrics["eval/all/mean"] > 0
    assert out.metrics["eval/dream_return"] > 0
    assert bundle.load(out.run).recipe["tokens"]["pack"] is None


def tensors(out):
    return checkpoint.load(checkpoint.last(out)).tensors


def test_one_bundle_acts_and_dreams(world, dreamer, tmp_path):
    out = run.start(dreamer("evaluate.at_end=true", "imagination.episode=20"), tmp_path / "r")
    assert out.metrics["eval/dream_gap"] == pytest.approx(out.metrics["eval/dream_return"] - out.metrics["eval/all/mean"])
    assert {"val/loss/actor", "val/dream/return", "dream/entropy", "grad_norm/actor", "loss/critic"} <= set(out.metrics)
    shutil.rmtree(world)
    found = bundle.load(out.run)
    assert isinstance(found.model, ActorCritic)
    assert str(found.tokenizer.layout) == found.recipe["tokens"]["layout"] == "state action > reward done"
    raw = {n.removeprefix("model/"): t for n, t in tensors(out.run).items() if n.startswith("model/")}
    assert all(torch.equal(t, raw[n]) for n, t in found.model.state_dict().items())
    agent = Agent(found.model, found.tokenizer, 3, mode="cached")
    agent.reset([0, 1, 2], None, [0, 1, 2])
    obs = {"observation": torch.randn(3, 4).numpy()}
    assert agent.mode == "cached"
    assert set(agent.act(obs)["action"].tolist()) <= {0, 1}


def test_the_world_stays_as_it_was(world, dreamer, tmp_path):
    before = bundle.load(world).model.state_dict()
    after = bundle.load(run.start(dreamer(), tmp_path / "r").run).model
    assert all(torch.equal(t, before[n]) for n, t in after.world.state_dict().items())
    assert not torch.equal(after.slow.head.out.weight, after.critic.head.out.weight)


def rows(out):
    return [{k: v for k, v in r.items() if k != "steps_per_second"} for r in metrics.read(out / "metrics.jsonl")]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            "imagination.dynamics=0.4",
            "train.ema=0.9",
            "imagination.pessimism=0.1",
            "train.losses={actor: 1, critic: 1, anchor: 0.1}",
        ),
    ],
)
def test_resumed_equals_uninterrupted_though_the_world_is_gone(world, dreamer, tmp_path, monkeypatch, overrides):
    straight = run.start(dreamer(*overrides), tmp_path / "straight").run
    before, broken = DreamTrainer.step, tmp_path / "broken"

    def step(self, number):
        before(self, number)
        if number + 1 == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as m:
        m.setattr(DreamTrainer, "step", step)
        with pytest.raises(Interrupted):
            run.start(dreamer(*overrides), broken)
    shutil.rmtree(world)
    run.resume(broken)
    one, two = tensors(straight), tensors(broken)
    assert one.keys() == two.keys()
    assert any(n.startswith("optimizer/exp_avg/critic") for n in one)
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert rows(straight) == rows(broken)


def test_learning_rates_are_each_parts_own(world, dreamer, tmp_path):
    recipe = dreamer("imagination.critic_lr=1e-3", "train.lr=1e-4")
    engine = Engine("cpu", "fp32", 0)
    from seqrl.train.prepare import loader_for, open_data, settled, tokenizer_for

    recipe = settled(recipe)
    data = open_data(recipe)
    tokenizer = tokenizer_for(recipe, data)
    model = run.build_model(recipe, tokenizer, 0)
    trainer = DreamTrainer(recipe.train, recipe.imagination, engine, model, loader_for(recipe, data, tokenizer, "cpu"))
    trainer.step(0)
    assert {(g["part"], round(g["lr"], 9)) for g in trainer.optimizer.param_groups} == {("actor", 1e-4), ("critic", 1e-3)}


def test_what_is_wrong_with_a_world_is_named(world, dreamer, tmp_path, small):
    with pytest.raises(RecipeError, match="there is no such folder") as e:
        run.start(dreamer("world=runs/rssm_nowhere"), tmp_path / "a")
    assert "--out runs/rssm_nowhere" in str(e.value)
    clone = run.start(small("train.steps=1"), tmp_path / "policy").run
    with pytest.raises(RecipeError, match="no world but policies.decision"):
        run.start(dreamer(f"world={clone}"), tmp_path / "b")
    with pytest.raises(RecipeError, match="tokens: leave them out"):
        run.start(dreamer("tokens.context=9"), tmp_path / "c")
    with pytest.raises(RecipeError, match="trained with another data.termination_penalty"):
        run.start(dreamer("data.termination_penalty=3"), tmp_path / "d")
    with pytest.raises(RecipeError, match="learns in the dreams of a world: name its run"):
        recipes.parse(DREAMER, "dreamer.yaml")
    with pytest.raises(RecipeError, match="policies.decision learns from data alone"):
        small(f"world={world}")
    for wrong, said in (
        ("train.losses={action: 1}", "give actor and critic a weight"),
        ("train.accumulate=2", "train.accumulate: dreams are made whole"),
        ("train.precision=bf16", "train.precision"),
        ("model.world={}", "unknown key"),
    ):
        with pytest.raises(RecipeError, match=said):
            dreamer(wrong)
    assert not (tmp_path / "a").exists()


TWO = """
import sys, torch
from seqrl.train import recipe, run
from seqrl.train.imagination import DreamTrainer
before = DreamTrainer.step
def step(self, number):
    before(self, number)
    torch.save(self.bare.state_dict(), f"{sys.argv[3]}-{self.engine.rank}.pt")
DreamTrainer.step = step
run.start(recipe.parse(open(sys.argv[1]).read(), "r"), run.Path(sys.argv[2]))
"""


def test_two_processes_share_what_they_dream(dreamer, tmp_path):
    (tmp_path / "r.yaml").write_text(dreamer("train.steps=3", "imagination.dynamics=0.5").dump())
    (tmp_path / "go.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
    command = [*launch, *(str(tmp_path / n) for n in ("go.py", "r.yaml", "two", "weights"))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    a, b = (torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert float(a["spread"][1]) == pytest.approx(1 - 0.99**3, rel=1e-4)
