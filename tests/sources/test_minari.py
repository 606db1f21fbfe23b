"""Minari datasets, read without Minari: bit for bit what Minari answers, and a clear word about everything that is broken."""

import io
import json
import os

import gymnasium
import minari as library
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from seqrl.core.errors import DataError
from seqrl.data.store import prepare
from seqrl.sources import _catalog, _files, _remote
from seqrl.sources._minari_files import _pictures
from seqrl.sources.minari import Config, Source, tiny

pytestmark = pytest.mark.filterwarnings("ignore")

OBS = spaces.Dict(
    {
        "agent": spaces.Dict({"pos": spaces.Box(-np.inf, np.inf, (2, 3), np.float64), "key": spaces.Discrete(5, start=-2)}),
        "both": spaces.Tuple((spaces.MultiBinary(4), spaces.Box(-10, 10, (), np.int32))),
        "camera": spaces.Box(0, 255, (32, 40, 3), np.uint8),
        "gray": spaces.Box(0, 255, (36, 32), np.uint8),
        "symbols": spaces.Box(0, 255, (7, 7, 3), np.uint8),
        "mission": spaces.Text(60, min_length=0),
        "choices": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    }
)
ACT = spaces.Tuple((spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)))


def stacked(space, values):
    """A list of samples as Minari's buffers hold them."""
    if isinstance(space, spaces.Dict):
        return {k: stacked(s, [v[k] for v in values]) for k, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(s, [v[i] for v in values]) for i, s in enumerate(space.spaces))
    return list(values) if isinstance(space, spaces.Text) else np.stack(values)


def save(id, obs=OBS, act=ACT, lengths=(3, 1, 6), form="hdf5", jpeg=False, **more):
    """A dataset written by Minari itself, of random samples."""
    obs.seed(0)
    act.seed(0)
    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            id=i,
            seed=None if i == 1 else 10 + i,
            observations=stacked(obs, [obs.sample() for _ in range(T + 1)]),
            actions=stacked(act, [act.sample() for _ in range(T)]),
            rewards=rng.standard_normal(T),
            terminations=np.arange(T) == T - 1,
            truncations=np.zeros(T, bool),
        )
        for i, T in enumerate(lengths)
    ]
    return library.create_dataset_from_buffers(
        id, buffers, observation_space=obs, action_space=act, data_format=form, jpeg_encoding=jpeg, **more
    )


def flat(value, name=""):
    """Nested observations as seqrl names them."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, tuple):
        items = ((str(i), v) for i, v in enumerate(value))
    else:
        return {name: np.asarray(value)}
    return {k: v for key, inner in items for k, v in flat(inner, f"{name}/{key}" if name else key).items()}


@pytest.mark.parametrize("jpeg", [False, True])
@pytest.mark.parametrize("form", ["hdf5", "arrow", "parquet"])
def test_it_is_what_minari_answers(home, form, jpeg):
    theirs = save("rich/mixed-v3", form=form, jpeg=jpeg)
    source = Source(Config(id="rich/mixed-v3"))
    assert source.lengths.tolist() == [3, 1, 6]
    for i in range(3):
        wanted, found = theirs[i], source.episode(i)
        for part, values in (("obs", wanted.observations), ("act", wanted.actions)):
            named = flat(values)
            assert set(named) == set(getattr(found, part))
            for name, array in named.items():
                assert getattr(found, part)[name].dtype.kind == array.dtype.kind
                np.testing.assert_array_equal(getattr(found, part)[name], array)
        np.testing.assert_array_equal(found.rew, wanted.rewards.astype(np.float32))
        np.testing.assert_array_equal(found.terminated, wanted.terminations)
        np.testing.assert_array_equal(found.truncated, wanted.truncations)
        assert found.info == ({} if i == 1 else {"seed": 10 + i})
    assert source.spec.about.get("jpeg", False) == jpeg


def test_kinds_and_shapes(home, same_episode):
    save("rich/mixed-v3")
    spec = Source(Config(id="rich/mixed-v3")).spec
    found = {n: (m.kind, m.shape, m.dtype) for n, m in spec.obs.items()}
    assert found == {
        "agent/key": ("discrete", (), "int64"),
        "agent/pos": ("vector", (2, 3), "float64"),
        "both/0": ("discrete", (4,), "int8"),
        "both/1": ("vector", (), "int32"),
        "camera": ("image", (32, 40, 3), "uint8"),
        "choices": ("discrete", (2, 2), "int64"),
        "gray": ("image", (36, 32), "uint8"),
        "mission": ("text", (), "str"),
        "symbols": ("image", (7, 7, 3), "uint8"),
    }
    assert spec.obs["agent/key"].start == (-2,)
    assert spec.obs["choices"].n == (2, 3, 4, 5)
    assert spec.act["0"].low == (-1.0, -1.0)
    assert list(spec.act) == ["0", "1"]


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
def test_the_whole_way_into_the_store(home, same_episode, form):
    save("rich/mixed-v3", form=form)
    source = Source(Config(id="rich/mixed-v3"))
    store = prepare(source)
    for i in range(3):
        same_episode(store.episode(i), source.episode(i))


def test_an_arrow_episode_longer_than_a_batch(home):
    # pyarrow cuts batches at 131,072 rows, and Minari takes each batch for an episode.
    T, line = 140_000, spaces.Box(-np.inf, np.inf, (1,), np.float32)
    values = np.arange(T + 1, dtype=np.float32)[:, None]
    ends = np.arange(T) == T - 1
    buffer = EpisodeBuffer(0, None, None, values, values[:-1], values[:-1, 0], ends, ends, None)
    library.create_dataset_from_buffers(
        "long/line-v0", [buffer], observation_space=line, action_space=line, data_format="arrow"
    )
    episode = Source(Config(id="long/line-v0")).episode(0)
    assert len(episode) == T
    np.testing.assert_array_equal(episode.obs["observation"], values)


def test_dtypes_are_those_of_the_data(home):
    # The space says float64, the data were recorded in float32: nothing is padded with zeros that were never measured.
    box = spaces.Box(-1, 1, (2,), np.float64)
    value = np.zeros((3, 2), np.float32)
    buffer = EpisodeBuffer(0, None, None, value, value[:-1], [0.0, 0.0], [False, True], [False, False], None)
    library.create_dataset_from_buffers("small/floats-v0", [buffer], observation_space=box, action_space=box)
    assert Source(Config(id="small/floats-v0")).spec.obs["observation"].dtype == "float32"


# ---- environments and scores ----------------------------------------------------------------------------------------


def test_environments_come_without_code_paths(home):
    env = gymnasium.make("CartPole-v1")
    goal = gymnasium.make("CartPole-v1", max_episode_steps=77)
    save(
        "classic/pole-v0",
        env.observation_space,
        env.action_space,
        env=env.spec,
        eval_env=goal.spec,
        ref_min_score=22.0,
        ref_max_score=500.0,
        author="someone",
    )
    spec = Source(Config(id="classic/pole-v0")).spec
    assert spec.env == {"id": "CartPole-v1", "kwargs": {}, "max_episode_steps": 500, "additional_wrappers": []}
    assert spec.eval_env["max_episode_steps"] == 77
    assert spec.references == (22.0, 500.0)
    assert spec.about["author"] == ["someone"]
    assert spec.about["format"] == "hdf5"


def test_a_hostile_environment_is_not_imported(home):
    config = tiny(home)
    path = home / "datasets" / config.id / "data" / "metadata.json"
    about = json.loads(path.read_text())
    trap = home / "trap.txt"
    entry = f"pathlib:Path('{trap}').touch"
    about["env_spec"] = json.dumps({"id": "Trap-v0", "entry_point": entry, "kwargs": {"a": 1}, "additional_wrappers": []})
    path.write_text(json.dumps(about))
    spec = Source(config).spec
    assert spec.env == {"id": "Trap-v0", "kwargs": {"a": 1}, "additional_wrappers": []}
    assert not trap.exists()
    about["env_spec"] = "no json"
    path.write_text(json.dumps(about))
    assert Source(config).spec.env is None


# ---- finding and downloading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id", ["../up-v0", "/etc/x-v0", "a/../../b-v0", "name", "a\\b-v0", "mujoco/hopper/medium", "", "a.b-v0", "a/b-v0"]
)
def test_ids_lead_nowhere_else(home, id):
    with pytest.raises(DataError, match="is no dataset id"):
        Source(Config(id=id))


def test_unknown_id(home):
    tiny(home)
    with pytest.raises(DataError) as told:
        Source(Config(id="tiny/pushs-v0"))
    said = str(told.value)
    assert "no dataset 'tiny/pushs-v0' in" in said
    assert "could not be downloaded: offline mode is on" in said
    assert "did you mean 'tiny/pushes-v0'?" in said
    assert "MINARI_DATASETS_PATH" in said
    with pytest.raises(DataError, match="no dataset 'other/x-v0' in .*set MINARI_DATASETS_PATH"):
        Source(Config(id="other/x-v0", download=False))
    assert not (home / "datasets" / "other").exists()


def test_downloading(home, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("server")
    asked = []

    def download(id):
        asked.append(id)
        root = os.environ["MINARI_DATASETS_PATH"]
        assert root != str(home / "datasets")
        monkeypatch.setenv("MINARI_DATASETS_PATH", root)
        tiny(elsewhere)

    monkeypatch.setattr(_remote, "_knock", lambda: None)
    monkeypatch.setattr(library, "download_dataset", download)
    source = Source(Config(id="hf://someone/tiny/pushes-v0"))
    assert asked == ["hf://someone/tiny/pushes-v0"]
    assert source.id == "tiny/pushes-v0"
    assert os.environ["MINARI_DATASETS_PATH"] == str(home / "datasets")
    assert _catalog.local_ids() == ["tiny/pushes-v0"]
    Source(Config(id="tiny/pushes-v0"))
    assert len(asked) == 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ConnectionError("reset by peer"), ValueError("no such version")])
def test_a_broken_download_leaves_nothing(home, monkeypatch, failure):
    def download(id):
        started = home / os.environ["MINARI_DATASETS_PATH"] / "some" / "thing-v0" / "data"
        started.mkdir(parents=True)
        (started / "metadata.json").write_text("{}")
        raise failure

    monkeypatch.setattr(_remote, "_knock", lambda: None)
    monkeypatch.setattr(library, "download_dataset", download)
    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else DataError) as told:
        Source(Config(id="some/thing-v0"))
    if told.type is DataError:
        assert str(failure) in str(told.value)
    assert _catalog.local_ids() == []
    assert not (home / "datasets").exists()


def test_a_download_never_removes_what_is_there(home, monkeypatch):
    (home / "datasets" / "some" / "thing-v0").mkdir(parents=True)
    (home / "datasets" / "some" / "thing-v0" / "mine.txt").touch()
    monkeypatch.setattr(_remote, "_knock", lambda: None)
    monkeypatch.setattr(library, "download_dataset", lambda id: pytest.fail("asked"))
    with pytest.raises(DataError, match="there is something at this place already"):
        Source(Config(id="some/thing-v0"))
    assert (home / "datasets" / "some" / "thing-v0" / "mine.txt").exists()


# ---- fingerprints ---------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content_and_read_once(home, monkeypatch):
    config = tiny(home)
    first = Source(config).fingerprint()

    def read(*_):
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(_files.hashlib, "file_digest", read)
        assert Source(config).fingerprint() == first
    path = home / "datasets" / config.id / "data" / "metadata.json"
    content = path.read_text()
    path.write_text(content + " ")
    assert Source(config).fingerprint() != first
    path.write_text(content)
    assert Source(config).fingerprint() == first
    # The place does not matter.
    (home / "datasets").rename(home / "elsewhere")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(home / "elsewhere"))
    assert Source(config).fingerprint() == first


def test_a_cache_that_cannot_be_written_costs_only_time(home, monkeypatch):
    config = tiny(home)
    wanted = Source(config).fingerprint()
    (home / "file").touch()
    monkeypatch.setenv("SEQRL_CACHE", str(home / "file"))
    assert Source(config).fingerprint() == wanted


# ---- broken data ----------------------------------------------------------------------------------------------------


def broken(home, change, form="hdf5"):
    """A dataset spoiled by ``change(its data folder)``; the message that reading all of it gives."""
    if form == "hdf5":
        tiny(home)
        folder, id = home / "datasets" / "tiny/pushes-v0" / "data", "tiny/pushes-v0"
    else:
        save("arrow/x-v0", form=form)
        folder, id = home / "datasets" / "arrow/x-v0" / "data", "arrow/x-v0"
    change(folder)

    def read():
        source = Source(Config(id=id))
        return [source.episode(i) for i in range(len(source))]

    with pytest.raises(DataError) as told:
        read()
    return str(told.value)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_hdf5(home, share):
    def cut(folder):
        path = folder / "main_data.hdf5"
        os.truncate(path, int(path.stat().st_size * share))

    said = broken(home, cut)
    assert "main_data.hdf5: truncated or corrupt (" in said
    assert "fetch or make this dataset again" in said


def test_hdf5_with_a_hole(home):
    def hole(folder):
        path = folder / "main_data.hdf5"
        content = bytearray(path.read_bytes())
        content[1000 : len(content) // 2] = bytes(len(content) // 2 - 1000)
        path.write_bytes(content)

    assert "truncated or corrupt" in broken(home, hole)


def metadata(**changes):
    """Changes entries of metadata.json; None removes one."""

    def change(folder):
        path = folder / "metadata.json"
        about = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in about.items() if v is not None}))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (metadata(total_episodes=5), "episode 3: truncated or corrupt (Unable to"),
        (metadata(total_episodes=0), "tiny/pushes-v0 is empty: it has no episodes"),
        (metadata(total_episodes=None), "tiny/pushes-v0 is empty"),
        (metadata(action_space=None), "its metadata has no 'action_space'"),
        (metadata(action_space="{"), "its metadata holds a broken space"),
        (metadata(action_space='{"type": "Graph"}'), "a space of type 'Graph' cannot be read, only Box"),
        (metadata(data_format="zarr"), "written as 'zarr'; hdf5, arrow and parquet can be read"),
        (
            metadata(action_space='{"type": "Box", "dtype": "float32", "shape": [3], "low": [0,0,0], "high": [1,1,1]}'),
            "has shape",
        ),
        (lambda folder: (folder / "metadata.json").write_text("{"), "metadata.json: cannot be read"),
        (lambda folder: (folder / "metadata.json").write_text("[]"), "metadata.json: cannot be read (not an object)"),
        (lambda folder: (folder / "metadata.json").unlink(), "metadata.json: cannot be read (No such file"),
        (lambda folder: (folder / "main_data.hdf5").unlink(), "main_data.hdf5: truncated or corrupt"),
    ],
)
def test_broken_datasets(home, change, said):
    assert said in broken(home, change)


def test_broken_arrow(home):
    def cut(folder):
        path = folder / "2" / "part-0.arrow"
        os.truncate(path, path.stat().st_size // 2)

    assert "episode 2: truncated or corrupt (" in broken(home, cut, "arrow")


def test_missing_arrow(home):
    assert "episode 1: truncated or corrupt (its file is missing)" in broken(
        home, lambda folder: (folder / "1" / "part-0.arrow").unlink(), "arrow"
    )


def test_an_episode_of_another_dtype(home):
    import h5py

    def widen(folder):
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            values = file["episode_2/observations"][()]
            del file["episode_2/observations"]
            file["episode_2/observations"] = values.astype(np.float64)

    assert "episode 2: 'observation' is float64, but float32 in episode 0" in broken(home, widen)


def test_too_few_observations(home):
    import h5py

    def shorten(folder):
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            values = file["episode_2/observations"][()]
            del file["episode_2/observations"]
            file["episode_2/observations"] = values[:-1]

    assert "tiny/pushes-v0: episode 2: 7 rewards, but" in broken(home, shorten)


# ---- the shelf ------------------------------------------------------------------------------------------------------


def test_the_shelf_is_listed_without_unfinished_and_foreign_folders(home):
    assert _catalog.local_ids() == []
    tiny(home)
    save("arrow/x-v0", form="arrow")
    for name in ("a/.b-v0.1.tmp", "odd name", "arrow/x-v0/data/0/deep-v0"):
        folder = home / "datasets" / name / "data"
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text("{}")
    (home / "datasets" / "loop").symlink_to(home / "datasets")
    assert [i for i in _catalog.local_ids() if "loop" not in i] == ["arrow/x-v0", "tiny/pushes-v0"]


# ---- pictures -------------------------------------------------------------------------------------------------------


def encoded(form, size=(4, 4)):
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size).save(out, form)
    return out.getvalue()


def test_pictures_come_in_two_formats():
    assert _pictures([encoded("JPEG"), encoded("PNG")]).shape == (2, 4, 4, 3)
    for code in (encoded("TIFF"), encoded("GIF"), b"hello", b"", encoded("PNG")[:40]):
        with pytest.raises(ValueError, match="a picture cannot be read"):
            _pictures([code])


def test_a_picture_that_would_fill_the_memory(home, monkeypatch):
    from PIL import Image

    camera = spaces.Dict({"camera": OBS["camera"]})
    save("pictures/jpeg-v0", obs=camera, jpeg=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="episode 0: truncated or corrupt .a picture cannot be read: Image size .* exceeds"):
        Source(Config(id="pictures/jpeg-v0")).episode(0)


def test_texts_where_numbers_should_be(home):
    import h5py

    def spell(folder):
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            del file["episode_1/rewards"]
            file["episode_1/rewards"] = ["one"]

    assert "episode 1: truncated or corrupt (episode_1/rewards holds no numbers)" in broken(home, spell)
