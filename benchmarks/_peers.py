"""The peers: what people train and play Decision Transformers with today, each used the way its own examples use it.

- transformers: ``DecisionTransformerModel``, batches by the per-sample sampler that its examples and nearly every other
  implementation share, AdamW, gradients clipped at .25, and a loop that plays one environment.
- d3rlpy: ``DecisionTransformer`` at the same size; its buffer's sampler, its update, its stateful wrapper.

Both compute the same function as ours: windows of 20 steps, width 128, three blocks, one head, relu, dropout .1, a table of
time steps, a tanh head on the action, and the squared error of real steps. Peers are given what speed they can have: data as
numpy arrays in memory (not lists behind a Dataset), no Trainer, no progress bar, no logging.
"""

import contextlib
import io
import logging
import random
from typing import Any

import numpy as np
import torch
from _data import ACT, CONTEXT, OBS

WIDTH, BLOCKS, HEADS, DROPOUT, LONGEST, SCALE = 128, 3, 1, 0.1, 1000, 1000.0
RATE, DECAY, CLIP = 1e-4, 1e-4, 0.25
Episodes = list[dict[str, Any]]


class PythonSampler:
    """Draws windows one by one: an episode by its length, a start within it, lists of padded pieces, one concatenation.

    The return-to-go of a window is made anew each time, by a loop over all that is left of the episode.
    """

    def __init__(self, episodes: Episodes) -> None:
        self.episodes = episodes
        everything = np.concatenate([e["observations"] for e in episodes])
        self.mean, self.std = everything.mean(0), everything.std(0) + 1e-6
        lengths = np.array([len(e["rewards"]) for e in episodes])
        self.share = lengths / lengths.sum()

    def __call__(self, rows: int) -> dict[str, torch.Tensor]:
        """``states, actions, returns_to_go, timesteps, attention_mask`` and unused ``rewards``, each ``[B, 20, ...]``."""
        drawn = np.random.choice(np.arange(len(self.episodes)), size=rows, replace=True, p=self.share)
        states, actions, rewards, returns, times, masks = [], [], [], [], [], []
        for i in drawn:
            episode = self.episodes[int(i)]
            at = random.randint(0, len(episode["rewards"]) - 1)
            state = episode["observations"][at : at + CONTEXT]
            action = episode["actions"][at : at + CONTEXT]
            reward = episode["rewards"][at : at + CONTEXT].reshape(-1, 1)
            T = len(state)
            to_go = _sums_to_the_end(episode["rewards"][at:])[:T].reshape(-1, 1)
            time = np.minimum(np.arange(at, at + T), LONGEST - 1)
            missing = CONTEXT - T
            state = np.concatenate([np.zeros((missing, OBS)), state])
            states.append(((state - self.mean) / self.std)[None])
            actions.append(np.concatenate([np.full((missing, ACT), -10.0), action])[None])
            rewards.append(np.concatenate([np.zeros((missing, 1)), reward])[None])
            returns.append((np.concatenate([np.zeros((missing, 1)), to_go]) / SCALE)[None])
            times.append(np.concatenate([np.zeros(missing), time])[None])
            masks.append(np.concatenate([np.zeros(missing), np.ones(T)])[None])
        floats = {"states": states, "actions": actions, "rewards": rewards, "returns_to_go": returns}
        batch = {name: torch.from_numpy(np.concatenate(parts)).float() for name, parts in floats.items()}
        batch["timesteps"] = torch.from_numpy(np.concatenate(times)).long()
        batch["attention_mask"] = torch.from_numpy(np.concatenate(masks)).float()
        return batch


def _sums_to_the_end(rewards: np.ndarray) -> np.ndarray:
    sums = np.zeros_like(rewards)
    sums[-1] = rewards[-1]
    for t in reversed(range(len(rewards) - 1)):
        sums[t] = rewards[t] + sums[t + 1]
    return sums


def transformers_model(dropout: float = DROPOUT) -> Any:
    """``DecisionTransformerModel`` at the size of the paper's hopper runs, in training mode."""
    from transformers import DecisionTransformerConfig, DecisionTransformerModel
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    drops = {f"{where}_pdrop": dropout for where in ("resid", "embd", "attn")}
    sizes = {"state_dim": OBS, "act_dim": ACT, "hidden_size": WIDTH, "n_layer": BLOCKS, "n_head": HEADS}
    return DecisionTransformerModel(DecisionTransformerConfig(**sizes, **drops, max_ep_len=LONGEST)).train()


class TransformersTrainer:
    """One training step of the transformers peer, sampling included."""

    def __init__(self, episodes: Episodes, rows: int) -> None:
        self.sample, self.rows, self.model = PythonSampler(episodes), rows, transformers_model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=DECAY)

    def step(self) -> None:
        batch = self.sample(self.rows)
        _, answer, _ = self.model(**batch, return_dict=False)
        real = batch["attention_mask"].reshape(-1) > 0
        loss = ((answer.reshape(-1, ACT)[real] - batch["actions"].reshape(-1, ACT)[real]) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()


@torch.no_grad()
def transformers_episode(model: Any, env: Any, target: float) -> int:
    """Plays one episode as the examples do: a growing history, cut and padded for each step. Returns the steps played."""
    mean, std = torch.zeros(OBS), torch.ones(OBS)
    states = torch.from_numpy(env.reset(seed=0)[0]).reshape(1, OBS).float()
    actions, rewards = torch.zeros((0, ACT)), torch.zeros(0)
    returns, times = torch.tensor([[target / SCALE]]), torch.zeros((1, 1), dtype=torch.long)
    for played in range(1, LONGEST + 1):
        actions = torch.cat([actions, torch.zeros((1, ACT))])
        rewards = torch.cat([rewards, torch.zeros(1)])
        action = _last_action(model, (states - mean) / std, actions, rewards, returns, times)
        actions[-1] = action
        observation, reward, terminated, truncated, _ = env.step(action.numpy())
        states = torch.cat([states, torch.from_numpy(observation).reshape(1, OBS).float()])
        rewards[-1] = float(reward)
        returns = torch.cat([returns, (returns[0, -1] - reward / SCALE).reshape(1, 1)], 1)
        times = torch.cat([times, torch.full((1, 1), played)], 1)
        if terminated or truncated:
            break
    return played


def _last_action(model: Any, states: Any, actions: Any, rewards: Any, returns: Any, times: Any) -> torch.Tensor:
    parts = [states[None], actions[None], rewards.reshape(1, -1, 1), returns.reshape(1, -1, 1)]
    states, actions, rewards, returns = (p[:, -CONTEXT:] for p in parts)
    times = times[:, -CONTEXT:]
    T = states.shape[1]
    mask = torch.cat([torch.zeros(CONTEXT - T), torch.ones(T)]).long().reshape(1, -1)
    states, actions, rewards, returns = (
        torch.cat([torch.zeros((1, CONTEXT - T, p.shape[-1])), p], 1).float() for p in (states, actions, rewards, returns)
    )
    times = torch.cat([torch.zeros((1, CONTEXT - T), dtype=torch.long), times], 1)
    named = {"states": states, "actions": actions, "rewards": rewards, "returns_to_go": returns, "timesteps": times}
    _, answer, _ = model(**named, attention_mask=mask, return_dict=False)
    return answer[0, -1]


def _d3rlpy() -> Any:
    """The package, without the notices that it and the gym it imports print."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        import d3rlpy
        import structlog
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    return d3rlpy


def d3rlpy_buffer(episodes: Episodes) -> Any:
    """Its replay buffer over the same episodes."""
    d3rlpy = _d3rlpy()
    made = [
        d3rlpy.dataset.Episode(e["observations"], e["actions"], e["rewards"].reshape(-1, 1), e["terminated"]) for e in episodes
    ]
    return d3rlpy.dataset.ReplayBuffer(d3rlpy.dataset.InfiniteBuffer(), episodes=made)


def d3rlpy_model(buffer: Any, rows: int) -> Any:
    """Its DecisionTransformer at the same size, ready to update and to play."""
    d3rlpy = _d3rlpy()
    config = d3rlpy.algos.DecisionTransformerConfig(
        batch_size=rows,
        context_size=CONTEXT,
        max_timestep=LONGEST,
        learning_rate=RATE,
        num_heads=HEADS,
        num_layers=BLOCKS,
        attn_dropout=DROPOUT,
        resid_dropout=DROPOUT,
        embed_dropout=DROPOUT,
        encoder_factory=d3rlpy.models.VectorEncoderFactory([WIDTH], exclude_last_activation=True),
        observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(),
        reward_scaler=d3rlpy.preprocessing.MultiplyRewardScaler(1 / SCALE),
        optim_factory=d3rlpy.optimizers.AdamWFactory(clip_grad_norm=CLIP, weight_decay=DECAY),
    )
    algo = config.create(device="cpu:0")
    algo.config.observation_scaler.fit_with_trajectory_slicer(buffer.episodes, buffer.trajectory_slicer)
    algo.build_with_dataset(buffer)
    return algo


def d3rlpy_episode(player: Any, env: Any) -> int:
    """Plays one episode with its ``StatefulTransformerWrapper``, as its own evaluation does. Returns the steps played."""
    player.reset()
    observation, reward, played = env.reset(seed=0)[0], 0.0, 0
    while True:
        observation, reward, terminated, truncated, _ = env.step(player.predict(observation, reward))
        reward, played = float(reward), played + 1
        if terminated or truncated:
            return played
