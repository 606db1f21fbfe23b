"""What every test stands on: data folders of its own, no network, and small episodes made of plain numbers."""

import os

import numpy as np
import pytest

from seqrl.core.episode import Episode, EpisodeSpec, Modality

INF = float("inf")


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """Datasets and caches of the whole session lie in a temporary folder; nobody's own are read or written."""
    home = tmp_path_factory.mktemp("home")
    chosen = {
        "MINARI_DATASETS_PATH": str(home / "datasets"),
        "SEQRL_CACHE": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    before = {k: os.environ.get(k) for k in chosen}
    os.environ.update(chosen)
    yield home
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Empty folders of this test's own: ``home/datasets`` and ``home/cache``."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setenv("SEQRL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def cartpole(_own_folders):
    """The id of a small collected CartPole dataset, made once a session: 24 episodes of six skill levels."""
    from seqrl.sources import collected

    collected.collect("CartPole-v1", 24, "tests/cartpole-v0", "scripted", references=(22.0, 500.0))
    return "tests/cartpole-v0"


class Memory:
    """A source whose episodes are simply there."""

    def __init__(self, spec, episodes):
        self.spec, self.episodes = spec, list(episodes)
        self.lengths = np.array([len(e) for e in self.episodes], np.int64)
        self.print = f"memory-{id(self)}-{np.random.default_rng().integers(1 << 62)}"

    def fingerprint(self):
        return self.print

    def __len__(self):
        return len(self.episodes)

    def episode(self, i):
        return self.episodes[i]


def vector_spec(name="tests/vectors-v0", obs=3, act=2, **more):
    """Plain vectors: open observations, actions within [-1, 1]."""
    return EpisodeSpec(
        name,
        {"observation": Modality("vector", (obs,), "float32", (-INF,) * obs, (INF,) * obs)},
        {"action": Modality("vector", (act,), "float32", (-1.0,) * act, (1.0,) * act)},
        **more,
    )


def vector_episode(T, i=0, obs=3, act=2, seed=None):
    """``T`` random steps that end for good."""
    rng = np.random.default_rng([T, i])
    end = np.arange(T) == T - 1
    return Episode(
        {"observation": rng.standard_normal((T + 1, obs)).astype(np.float32)},
        {"action": rng.uniform(-1, 1, (T, act)).astype(np.float32)},
        rng.standard_normal(T).astype(np.float32),
        end,
        np.zeros(T, bool),
        i,
        {} if seed is None else {"seed": seed},
    )


def check_equal(a, b):
    """Two episodes, bit for bit."""
    assert a.id == b.id
    assert a.info == b.info
    for part in ("obs", "act"):
        ours, theirs = getattr(a, part), getattr(b, part)
        assert list(ours) == list(theirs)
        for name, values in ours.items():
            assert values.dtype.kind == theirs[name].dtype.kind
            assert values.dtype == theirs[name].dtype or values.dtype.kind == "U"
            np.testing.assert_array_equal(values, theirs[name])
    for part in ("rew", "terminated", "truncated"):
        assert getattr(a, part).dtype == getattr(b, part).dtype
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


@pytest.fixture
def memory():
    """``memory(lengths, **spec)``: a source of random vector episodes; ``memory.of(spec, episodes)`` of given ones."""

    def make(lengths=(5, 1, 9), **more):
        return Memory(vector_spec(**more), [vector_episode(T, i, seed=100 + i) for i, T in enumerate(lengths)])

    make.of, make.spec, make.episode = Memory, vector_spec, vector_episode
    return make


@pytest.fixture
def same_episode():
    """``same_episode(a, b)`` fails where two episodes differ in a bit."""
    return check_equal
