"""D4RL files: where episodes end, what was never recorded, and what a file name says."""

import h5py
import numpy as np
import pytest

from seqrl.core.errors import DataError
from seqrl.data.store import prepare
from seqrl.sources import _files
from seqrl.sources._d4rl_names import FAMILIES, family_of
from seqrl.sources.d4rl import Config, Source, tiny


def write(path, N=12, obs=11, act=3, terminals=(3,), timeouts=(8,), following=None, **more):
    """A D4RL file of ``N`` steps; observations count up, so that it can be seen where each came from."""
    steps = np.arange(N)
    with h5py.File(path, "w") as file:
        file["observations"] = np.repeat(steps[:, None], obs, 1).astype(np.float32)
        file["actions"] = np.full((N, act), 0.5, np.float32)
        file["rewards"] = steps.astype(np.float32)
        file["terminals"] = np.isin(steps, terminals)
        if timeouts is not None:
            file["timeouts"] = np.isin(steps, timeouts)
        if following is not None:
            file["next_observations"] = np.repeat(np.asarray(following)[:, None], obs, 1).astype(np.float32)
        for name, value in more.items():
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value
    return Source(Config(path=str(path)))


def test_episodes_and_the_unfinished_one(tmp_path):
    source = write(tmp_path / "hopper_medium-v2.hdf5")
    assert source.lengths.tolist() == [4, 5, 3]
    a, b, c = (source.episode(i) for i in range(3))
    assert a.terminated.tolist() == [False] * 3 + [True]
    assert not a.truncated.any()
    assert b.truncated.tolist() == [False] * 4 + [True]
    assert not b.terminated.any()
    assert c.rew.tolist() == [9, 10, 11]
    assert c.truncated.tolist() == [False, False, True]
    assert [e.info.get("unfinished", False) for e in (a, b, c)] == [False, False, True]
    # No reward is lost.
    assert sum(e.total for e in (a, b, c)) == np.arange(12).sum()


def test_the_final_observation_when_it_was_recorded(tmp_path):
    following = np.arange(1, 13) + np.isin(np.arange(12), (3, 8)) * 100
    source = write(tmp_path / "hopper_medium-v2.hdf5", following=following)
    finals = [source.episode(i).obs["observation"][-1, 0] for i in range(3)]
    assert finals == [104, 109, 12]
    assert "final_observation" not in source.episode(0).info


def test_the_final_observation_when_it_was_not(tmp_path):
    source = write(tmp_path / "hopper_medium-v2.hdf5")
    episode = source.episode(0)
    assert episode.obs["observation"][:, 0].tolist() == [0, 1, 2, 3, 3]
    assert episode.info["final_observation"] == "unknown"


def test_both_flags_at_once_stay_as_they_are(tmp_path):
    episode = write(tmp_path / "hopper_medium-v2.hdf5", terminals=(3,), timeouts=(3,)).episode(0)
    assert episode.terminated[-1]
    assert episode.truncated[-1]


def test_without_timeouts_the_observations_tell(tmp_path):
    following = np.arange(1, 13)
    following[6] = 500
    source = write(tmp_path / "x.hdf5", terminals=(3,), timeouts=None, following=following)
    assert source.lengths.tolist() == [4, 3, 5]
    episode = source.episode(1)
    assert episode.obs["observation"][-1, 0] == 500
    assert episode.truncated[-1]
    assert "unfinished" not in episode.info


def test_without_timeouts_the_step_limit_of_the_environment_tells(tmp_path):
    source = write(tmp_path / "halfcheetah_random-v0.hdf5", N=2500, obs=17, act=6, terminals=(99,), timeouts=())
    assert source.lengths.tolist() == [100, 1000, 1000, 400]
    assert source.episode(1).truncated[-1]
    assert write(tmp_path / "other.hdf5", N=2500, obs=17, act=6, terminals=(99,), timeouts=None).lengths.tolist() == [100, 2400]


def test_a_file_name_says_which_environment(tmp_path):
    spec = write(tmp_path / "hopper_medium-v2.hdf5").spec
    assert spec.id == "hopper_medium-v2"
    assert spec.env == {"id": "Hopper-v5", "kwargs": {}}
    assert (spec.about["source"], spec.about["family"]) == ("d4rl", "hopper")
    assert spec.act["action"].low == (-1.0,) * 3
    # Other numbers of dimensions, so another environment whatever the name says.
    other = write(tmp_path / "hopper_two-v2.hdf5", obs=9).spec
    assert other.env is None
    assert Source(Config(path=str(tmp_path / "hopper_two-v2.hdf5"), env="My-v0")).spec.env["id"] == "My-v0"


@pytest.mark.parametrize(
    ("stem", "family"),
    [
        ("hopper_medium_expert-v2", "hopper"),
        ("halfcheetah-medium-v0", "halfcheetah"),
        ("ant_medium-v2", "ant"),
        ("Ant_maze_u-maze_noreset", "antmaze-umaze"),
        ("antmaze-large-play-v2", "antmaze"),
        ("maze2d-umaze-sparse-v1", "maze2d-umaze"),
        ("mini_kitchen_microwave", "kitchen"),
        ("pen-human-v1", "pen"),
        ("pendulum", None),
        ("mine", None),
    ],
)
def test_families(stem, family):
    found = family_of(stem)
    assert (found and found[0]) == family
    assert found is None or found[1] == FAMILIES[family]


def test_actions_outside_the_environments_bounds(home):
    actions = np.full((12, 3), 0.5)
    actions[5, 1] = 1.3
    source = write(home / "hopper_medium-v2.hdf5", actions=actions)
    with pytest.raises(DataError, match=r"wrong action bounds: episode 1, step 1: act.action\[1\] is 1.3, outside \[-1, 1\]"):
        prepare(source)
    # Of an unknown environment nothing is declared, so nothing is wrong.
    spec = write(home / "mine.hdf5", actions=actions).spec
    assert spec.act["action"].high == (np.inf,) * 3


def test_choices(tmp_path):
    spec = write(tmp_path / "minigrid.hdf5", actions=np.arange(12) % 7).spec
    assert (spec.act["action"].kind, spec.act["action"].n) == ("discrete", (7,))


def test_odd_but_real_columns(home):
    # Rewards in a column, flags as numbers, extra groups.
    source = write(home / "x.hdf5", rewards=np.ones((12, 1)))
    with h5py.File(home / "x.hdf5", "a") as file:
        del file["terminals"]
        file["terminals"] = (np.arange(12)[:, None] == 3).astype(np.float32)
        file["infos/qpos"] = np.zeros((12, 3))
    assert source.episode(0).rew.shape == (4,)
    assert prepare(source).steps == 12


def test_the_environment_is_part_of_the_fingerprint(home):
    config = tiny(home)
    plain, named = Source(config), Source(Config(path=config.path, env="Hopper-v4"))
    assert plain.fingerprint() != named.fingerprint()
    assert prepare(named).spec.env["id"] == "Hopper-v4"


def test_broken_files(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        Source(Config(path=str(tmp_path / "no.hdf5")))
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(DataError, match=r"text.hdf5: truncated, or no HDF5 file \("):
        len(Source(Config(path=str(tmp_path / "text.hdf5"))))
    for source, said in (
        (write(tmp_path / "a.hdf5", terminals=(), rewards=None), "no D4RL file, it lacks rewards .it has actions"),
        (write(tmp_path / "b.hdf5", rewards=np.zeros(5)), "columns differ in length .observations 12, actions 12, rewards 5"),
        (
            write(tmp_path / "d.hdf5", rewards=np.float32(3)),
            r"'rewards' holds float32 of shape \(\), numbers with a row a step",
        ),
        (write(tmp_path / "e.hdf5", rewards=["one"] * 12), "'rewards' holds object of shape .12,., numbers with a row a step"),
        (write(tmp_path / "f.hdf5", rewards=np.zeros((12, 2))), r"'rewards' has shape \(12, 2\), a single number a step"),
        (write(tmp_path / "g.hdf5", next_observations=np.zeros((12, 4))), r"'next_observations' has shape \(12, 4\), 'observ"),
        (write(tmp_path / "c.hdf5", N=0, terminals=(), timeouts=()), "c.hdf5 is empty: it has no steps"),
    ):
        with pytest.raises(DataError, match=said):
            len(source)


@pytest.mark.parametrize("name", ["timeouts", "next_observations"])
def test_a_group_where_a_column_should_be(tmp_path, name):
    source = write(tmp_path / "a.hdf5", timeouts=None)
    with h5py.File(source.path, "a") as file:
        file.create_group(name)
    with pytest.raises(DataError, match=f"'{name}' is a group, an array was expected"):
        len(source)


def test_a_relative_place_is_kept_whole(tmp_path, monkeypatch):
    write(tmp_path / "here.hdf5")
    monkeypatch.chdir(tmp_path)
    config = Config(path="here.hdf5")
    assert config.path == str(tmp_path / "here.hdf5")
    monkeypatch.chdir("/")
    assert len(Source(Config(**config.model_dump()))) == 3
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Config(path="~/here.hdf5").path == config.path


def test_files_side_by_side_are_read_once_each(home, monkeypatch):
    files = [write(home / f"{n}.hdf5", terminals=(n,)) for n in (3, 5)]
    first = [f.fingerprint() for f in files]
    assert first[0] != first[1]

    def read(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(_files.hashlib, "file_digest", read)
    assert [Source(Config(path=str(f.path))).fingerprint() for f in files] == first
