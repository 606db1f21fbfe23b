"""Saving as Minari, and the spaces on the way: whatever goes in comes out, for Minari as for us."""

import json

import minari as library
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.serialization import deserialize_space, serialize_space

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError
from seqrl.sources import d4rl
from seqrl.sources._spaces import leaves, put_together, space_json, take_apart
from seqrl.sources._write import save_minari
from seqrl.sources.minari import Config, Source

INF = float("inf")
pytestmark = pytest.mark.filterwarnings("ignore")
# ---- spaces ---------------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.builds(lambda n, s: {"type": "Discrete", "dtype": "int64", "start": s, "n": n}, st.integers(1, 9), st.integers(-3, 3)),
    st.builds(lambda n: {"type": "MultiBinary", "n": n}, st.integers(1, 4)),
    st.just({"type": "MultiDiscrete", "dtype": "int64", "nvec": [[2, 3], [4, 5]], "start": [[0, 1], [0, 0]]}),
    st.just({"type": "Text", "max_length": 9, "min_length": 0, "charset": "abc"}),
    st.just({"type": "Box", "dtype": "float32", "shape": [2], "low": [-INF, 0.0], "high": [INF, 1.5]}),
    st.just({"type": "Box", "dtype": "int16", "shape": [], "low": -4, "high": 4}),
)
SPACES = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.builds(
            lambda d: {"type": "Dict", "subspaces": d}, st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3)
        ),
        st.builds(lambda s: {"type": "Tuple", "subspaces": s}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(space=SPACES)
def test_values_come_apart_and_together(space):
    real = deserialize_space(space)
    sample = real.sample()
    parts = leaves(space, "observation")
    named = take_apart(parts, sample)
    assert list(named) == [leaf.name for leaf in parts]
    for leaf in parts:
        assert np.shape(named[leaf.name]) == leaf.modality.shape
    assert real.contains(put_together(space, named, "observation"))


@settings(deadline=None)
@given(space=SPACES.filter(lambda s: '"Tuple"' not in json.dumps(s)))
def test_a_spec_gives_its_space_back(space):
    modalities = {leaf.name: leaf.modality for leaf in leaves(space, "observation")}
    again = {leaf.name: leaf.modality for leaf in leaves(space_json(modalities, "observation"), "observation")}
    # MultiBinary comes back as MultiDiscrete, which has room for other starts: the same values.
    assert {n: (m.kind, m.shape, m.n, m.low, m.high) for n, m in again.items()} == {
        n: (m.kind, m.shape, m.n, m.low, m.high) for n, m in modalities.items()
    }
    serialize_space(deserialize_space(space_json(modalities, "observation")))


def test_two_values_of_one_name():
    box = {"type": "Discrete", "n": 2}
    twice = {"type": "Dict", "subspaces": {"a/b": box, "a": {"type": "Dict", "subspaces": {"b": box}}}}
    with pytest.raises(DataError, match="the observation space has two values called a/b"):
        leaves(twice, "observation")


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "jpeg"),
    [
        ([84, 84], "uint8", "image", True),
        ([31, 84], "uint8", "vector", False),
        ([7, 7, 3], "uint8", "image", False),
        ([64, 64, 3], "uint8", "image", True),
        ([64, 64, 3], "float32", "vector", False),
        ([128], "uint8", "vector", False),
    ],
)
def test_what_counts_as_an_image(shape, dtype, kind, jpeg):
    space = {"type": "Box", "dtype": dtype, "shape": shape, "low": 0, "high": 255}
    (leaf,) = leaves(space, "observation")
    assert (leaf.modality.kind, leaf.jpeg) == (kind, jpeg)


# ---- saving ---------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(obs=SPACES, act=SPACES, seed=st.integers(0, 1 << 20))
def test_what_is_saved_is_read_again(home, same_episode, obs, act, seed):
    id = f"any/s{seed}-{abs(hash(json.dumps([obs, act])))}-v0"
    parts = leaves(obs, "observation"), leaves(act, "action")
    real = [deserialize_space(s) for s in (obs, act)]
    for space in real:
        space.seed(seed)

    def column(part, space, count):
        rows = [take_apart(part, space.sample()) for _ in range(count)]
        return {leaf.name: np.array([r[leaf.name] for r in rows], leaf.modality.dtype) for leaf in part}

    flags = np.zeros((2, 3), bool)
    episodes = [
        Episode(column(parts[0], real[0], 4), column(parts[1], real[1], 3), np.float32([1, 2, 3]), *flags, i, {"seed": i})
        for i in range(2)
    ]
    spec = EpisodeSpec(id, *({leaf.name: leaf.modality for leaf in part} for part in parts))
    if (home / "datasets" / id).exists():
        return
    save_minari(episodes, spec, id, (obs, act))
    source = Source(Config(id=id))
    assert (source.spec.obs, source.spec.act) == (spec.obs, spec.act)
    for i in range(2):
        same_episode(source.episode(i), episodes[i])
    theirs = library.load_dataset(id)[1]
    for part, values, found in ((parts[0], theirs.observations, episodes[1].obs), (parts[1], theirs.actions, episodes[1].act)):
        for name, array in take_apart(part, values).items():
            np.testing.assert_array_equal(np.asarray(array), found[name])


def test_saving_a_spec_without_spaces(home, memory):
    source = memory((3, 5), name="made/here-v0", env={"id": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}})
    save_minari(source.episodes, source.spec, "made/here-v0", settings={"from": "nowhere"})
    spec = Source(Config(id="made/here-v0")).spec
    assert (spec.obs, spec.act) == (source.spec.obs, source.spec.act)
    assert spec.env["kwargs"] == {"sutton_barto_reward": True}
    assert spec.eval_env is None
    assert spec.about["seqrl"] == {"from": "nowhere"}


def test_an_environment_nobody_registered_is_not_lost(home, memory):
    source = memory((3, 5), env={"id": "Own/Robot-v3", "kwargs": {"arms": 2}})
    save_minari(source.episodes, source.spec, "made/robot-v0")
    spec = Source(Config(id="made/robot-v0")).spec
    assert (spec.env["id"], spec.env["kwargs"]) == ("Own/Robot-v3", {"arms": 2})
    assert library.load_dataset("made/robot-v0").spec.env_spec.id == "Own/Robot-v3"


def test_importing_d4rl(home, same_episode):
    config = d4rl.tiny(home)
    source = d4rl.Source(config)
    save_minari((source.episode(i) for i in range(len(source))), source.spec, "imported/hopper-v0")
    again = Source(Config(id="imported/hopper-v0"))
    assert again.spec.env["id"] == "Hopper-v5"
    assert (again.spec.about["source"], again.spec.about["family"]) == ("d4rl", "hopper")
    for i in range(len(source)):
        wanted = source.episode(i)
        np.testing.assert_array_equal(again.episode(i).obs["observation"], wanted.obs["observation"])
        np.testing.assert_array_equal(again.episode(i).truncated, wanted.truncated)
        assert again.episode(i).info == wanted.info
    assert again.episode(0).info == {"final_observation": "unknown"}
    assert again.episode(2).info == {"final_observation": "unknown", "unfinished": True}
    assert library.load_dataset("imported/hopper-v0").total_steps == 12


def test_nothing_to_save(home, memory):
    with pytest.raises(DataError, match="made/none-v0: there are no steps to save"):
        save_minari([], memory().spec, "made/none-v0")
    assert not (home / "datasets").exists()


def test_pictures_are_lossless(home):
    m = Modality("image", (40, 40, 3), "uint8")
    pictures = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3)).astype(np.uint8)
    spec = EpisodeSpec("made/pictures-v0", {"observation": m}, {"action": Modality("discrete", (), "int64", n=(3,))})
    flags = np.zeros((2, 3), bool)
    episode = Episode({"observation": pictures}, {"action": np.arange(3)}, np.zeros(3, np.float32), *flags)
    save_minari([episode], spec, "made/pictures-v0")
    np.testing.assert_array_equal(Source(Config(id="made/pictures-v0")).episode(0).obs["observation"], pictures)
    np.testing.assert_array_equal(library.load_dataset("made/pictures-v0")[0].observations, pictures)
