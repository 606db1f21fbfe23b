"""Environment steps a second while a policy plays Hopper-v5, physics included, with one thread.

Ours with 1, 16 and 100 environments, recomputing the window (exact) and keeping keys and values (cached), against the peers'
own loops, which play one. Untrained weights; episodes are not ended by a fall, so all last equally long. To reach: 3,000
steps a second with 16 environments and 4,000 with 100.
"""

from functools import partial

import _data
import _ours
import _peers
import numpy as np
from _timing import Case, Times, interleave, number, options, show, spread, table, threads, verdict

from seqrl.rollout.agent import Agent
from seqrl.rollout.envs import make
from seqrl.rollout.face import Face
from seqrl.rollout.runner import Job, play

TARGET = 3600.0
ENVS = (1, 16, 100)
PEERS = ("transformers, its usual loop, 1", "d3rlpy, 1")
PHYSICS = "the environment alone, 1"


def physics(env: object, steps: int) -> None:
    """Random actions: what no policy can be faster than."""
    env.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (steps, _data.ACT)):
        env.step(action)


def measure(steps: int, rounds: int) -> dict[str, Times]:
    """Times for one environment step of each contestant, in episodes of ``steps``."""
    loader, episodes = _data.loader(100_000), _data.plain(20_000)
    policy, envs = _ours.model(loader).eval(), make(_hopper(steps), max(ENVS))
    face = Face.of(envs[0], loader.dataset.spec)

    def ours(n: int, mode: str) -> None:
        agent = Agent(policy, loader.tokenizer, n, mode=mode)
        played = play(agent, envs[:n], face, [Job(seed, TARGET, seed) for seed in range(n)])
        assert played.lengths.sum() == n * steps

    other = _peers.transformers_model().eval()
    player = _peers.d3rlpy_model(_peers.d3rlpy_buffer(episodes), _ours.ROWS).as_stateful_wrapper(TARGET)
    cases = [Case(f"seqrl, {mode}, {n}", partial(ours, n, mode), n * steps) for mode in ("cached", "exact") for n in ENVS]
    cases.append(Case(PEERS[0], lambda: _peers.transformers_episode(other, envs[0], TARGET), steps))
    cases.append(Case(PEERS[1], lambda: _peers.d3rlpy_episode(player, envs[0]), steps))
    cases.append(Case(PHYSICS, lambda: physics(envs[0], steps), steps))
    return interleave(cases, rounds, turn=1.0)


def _hopper(steps: int) -> dict:
    return {"id": "Hopper-v5", "kwargs": {"terminate_when_unhealthy": False}, "max_episode_steps": steps}


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=200, help="steps in an episode (200)")
    options_ = parser.parse_args()
    threads(1)
    times = measure(options_.steps, options_.rounds)
    best = min((times[p] for p in PEERS), key=lambda t: t.median)
    lines = [(name, spread(1 / t.wall), number(t.cpu.mean() * 1e3), number(t.faster_than(best))) for name, t in times.items()]
    head = ("who, environments", "env steps/s, median (least to most)", "processor ms a step", "x the best peer")
    verdicts = [
        verdict("env steps/s with 16, cached", times["seqrl, cached, 16"].rate, 3000, at_least=True),
        verdict("env steps/s with 100, cached", times["seqrl, cached, 100"].rate, 4000, at_least=True),
    ]
    title = f"evaluation, Hopper-v5, episodes of {options_.steps} steps, one thread"
    show(title, [table(head, lines), "\n".join(verdicts)], options_.record)


if __name__ == "__main__":
    main()
