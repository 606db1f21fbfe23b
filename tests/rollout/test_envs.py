import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import EnvError
from seqrl.rollout import envs
from seqrl.rollout.face import Face


class Nest(gymnasium.Env):
    """Nested observations, words among them, and an action of two kinds."""

    observation_space = spaces.Dict(
        {
            "where": spaces.Box(-1, 1, (2,), np.float64),
            "inner": spaces.Dict({"level": spaces.Discrete(5), "say": spaces.Text(20)}),
            "pair": spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 255, (2, 2), np.uint8))),
        }
    )
    action_space = spaces.Dict({"hand": spaces.Dict({"grip": spaces.Discrete(2)}), "move": spaces.Box(-1, 1, (2,), np.float32)})

    def _see(self):
        return {
            "where": np.array([0.1, 0.2]),
            "inner": {"level": np.int64(self.t), "say": f"step {self.t}"},
            "pair": (2, np.full((2, 2), self.t, np.uint8)),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self._see(), float(action["hand"]["grip"]), False, self.t >= 3, {}


@pytest.fixture
def nest():
    gymnasium.register("SeqrlNest-v0", Nest)
    yield envs.make("SeqrlNest-v0", 2)
    del gymnasium.registry["SeqrlNest-v0"]


def test_nested_spaces_become_named_arrays_and_back(nest):
    face = Face.of(nest[0])
    assert list(face.obs) == ["inner/level", "inner/say", "pair/0", "pair/1", "where"]
    buffers = face.buffers(2)
    write = face.writer(buffers)
    for row, env in enumerate(nest):
        write(row, env.reset(seed=0)[0])
    write(1, nest[1].step(face.split({"hand/grip": np.array([1]), "move": np.zeros((1, 2), np.float32)})[0])[0])
    assert buffers["inner/level"].tolist() == [0, 1]
    assert buffers["inner/say"].tolist() == ["step 0", "step 1"]
    assert buffers["pair/0"].tolist() == [2, 2]
    assert buffers["pair/1"][1].tolist() == [[1, 1], [1, 1]]
    actions = face.split({"hand/grip": np.array([1, 0]), "move": np.ones((2, 2), np.float32)})
    assert actions[0]["hand"] == {"grip": 1}
    assert nest[0].step(actions[0])[1] == 1.0


def test_observations_come_in_the_dtype_of_the_data(fakes):
    spec = fakes.hopper_spec()
    (env,) = envs.make(spec, 1)
    assert env.observation_space.dtype == np.float64
    assert Face.of(env, spec).buffers(3)["observation"].dtype == np.float32


def test_limits_settings_and_the_preferred_environment():
    limits = (
        {"id": "CartPole-v1", "max_episode_steps": 7},
        {"id": "CartPole-v1"},
        {"id": "CartPole-v1", "max_episode_steps": None},
    )
    assert [envs.make(raw, 1)[0].spec.max_episode_steps for raw in limits] == [7, 500, None]
    (env,) = envs.make({"id": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}}, 1)
    assert env.unwrapped._sutton_barto_reward
    spec = EpisodeSpec("x", {}, {}, {"id": "CartPole-v0"}, {"id": "CartPole-v1"})
    assert envs.spec_of(spec)["id"] == "CartPole-v1"
    assert envs.spec_of(EpisodeSpec("x", {}, {}, {"id": "CartPole-v0"}))["id"] == "CartPole-v0"
    with pytest.raises(EnvError, match="--env"):
        envs.make(EpisodeSpec("x", {}, {}), 1)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("CartPol-v1", "did you mean 'CartPole-v1'"),
        ({"id": "CartPole-v1", "kwargs": {"gravity": 3}}, "cannot be made"),
        ({"id": "CartPole-v1", "max_episode_steps": -4}, "positive"),
        ({"id": "CartPole-v1", "kwargs": [1]}, "mapping"),
        ({"id": 3}, "no id"),
        ({}, "no id"),
    ],
)
def test_what_cannot_be_made_says_why(raw, said):
    with pytest.raises(EnvError, match=said):
        envs.make(raw, 2)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(envs, "_FAMILIES", ((r"Nowhere", "package_that_is_not_here", "robotics"),))
    with pytest.raises(EnvError, match=r'pip install "seqrl\[robotics\]"'):
        envs.make("Nowhere-v3", 1)

    def lacking(**settings):
        raise gymnasium.error.DependencyNotInstalled("box2d is missing")

    monkeypatch.setitem(
        gymnasium.registry, "Lacking-v0", gymnasium.envs.registration.EnvSpec("Lacking-v0", entry_point=lacking)
    )
    monkeypatch.setattr(envs, "_INSIDE", {str(lacking)[:9]: "box2d"})
    with pytest.raises(EnvError, match=r'pip install "seqrl\[box2d\]"'):
        envs.make("Lacking-v0", 1)


def test_nothing_a_file_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_seqrl.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (env,) = envs.make({"id": "CartPole-v1", "entry_point": "evil_seqrl:Env", "vector_entry_point": "evil_seqrl:Env"}, 1)
    assert type(env.unwrapped).__name__ == "CartPoleEnv"
    for id in ("evil_seqrl:CartPole-v1", "evil_seqrl:X", "GymV21Environment-v0", "../x"):
        with pytest.raises(EnvError):
            envs.make({"id": id, "entry_point": "evil_seqrl:Env"}, 1)
    wrappers = [
        {"name": "ResizeObservation", "entry_point": "evil_seqrl:ResizeObservation", "kwargs": {}},
        {"name": "Evil", "entry_point": "evil_seqrl:Evil", "kwargs": {}},
        {"name": "TimeLimit", "entry_point": "gymnasium.wrappersevil:TimeLimit", "kwargs": {}},
        {"name": "TimeLimit", "entry_point": "gymnasium.wrappers.common:evil", "kwargs": {}},
        {
            "name": "RecordVideo",
            "entry_point": "gymnasium.wrappers.rendering:RecordVideo",
            "kwargs": {"video_folder": str(tmp_path)},
        },
        "evil_seqrl:Evil",
    ]
    for wrapper in wrappers:
        with pytest.raises(EnvError, match="harmless"):
            envs.make({"id": "CartPole-v1", "additional_wrappers": [wrapper]}, 1)
    assert "evil_seqrl" not in sys.modules


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        "a/b.xml",
        "..",
        "..\\x",
        "C:\\x.xml",
        "~",
        ["ok", "/x"],
        {"a": [{"b": "/x"}]},
        {"/x": 1},
        ({"a": "../x"},),
    ],
)
def test_settings_that_lead_to_files_are_refused(value):
    with pytest.raises(EnvError, match="Hopper-v5: the setting 'xml_file' names a place on the disk"):
        envs.make({"id": "Hopper-v5", "kwargs": {"xml_file": value}}, 1)


def test_a_file_of_the_environments_own_is_fine():
    assert len(envs.make({"id": "Hopper-v5", "kwargs": {"xml_file": "hopper.xml", "frame_skip": 4}}, 1)) == 1


def test_recorded_wrappers_are_made_again():
    wrappers = [
        {"name": "PassiveEnvChecker", "entry_point": "gymnasium.wrappers.common:PassiveEnvChecker", "kwargs": {}},
        {
            "name": "ReshapeObservation",
            "entry_point": "gymnasium.wrappers.transform_observation:ReshapeObservation",
            "kwargs": {"shape": [2, 2]},
        },
    ]
    (env,) = envs.make({"id": "CartPole-v1", "additional_wrappers": wrappers}, 1)
    assert env.reset(seed=0)[0].shape == (2, 2)
    with pytest.raises(EnvError, match="not recorded"):
        envs.make({"id": "CartPole-v1", "additional_wrappers": [{**wrappers[1], "kwargs": None}]}, 1)


def test_another_environment_than_the_datas_is_refused(fakes):
    (env,) = envs.make("Acrobot-v1", 1)
    with pytest.raises(EnvError, match=r"Acrobot-v1 .*test/cartpole-v0.*shape \(6,\), the data have \(4,\)"):
        Face.of(env, fakes.cartpole_spec())
    (env,) = envs.make("CartPole-v1", 1)
    odd = fakes.cartpole_spec(obs={"pixels": Modality("image", (8, 8, 3), "uint8")})
    with pytest.raises(EnvError, match="'pixels' is missing"):
        Face.of(env, odd)
    with pytest.raises(EnvError, match=r"has \[2\] choices, the data have \[5\]"):
        Face.of(env, fakes.cartpole_spec(act={"action": Modality("discrete", (), "int64", n=(5,))}))
    (env,) = envs.make("Pendulum-v1", 1)
    vector = {"observation": Modality("vector", (3,), "float32")}
    wide = {"action": Modality("vector", (1,), "float32", (-4.0,), (4.0,))}
    with pytest.raises(EnvError, match=r"bounded by \[-2, 2\], in the data by \[-4, 4\]"):
        Face.of(env, fakes.cartpole_spec(obs=vector, act=wide))


def test_babyai_gets_its_picture_back():
    spec = EpisodeSpec(
        "test/babyai-v0",
        {"rgb": Modality("image", (64, 64, 3), "uint8"), "mission": Modality("text", (), "str")},
        {"action": Modality("discrete", (), "int64", n=(7,))},
        {"id": "BabyAI-GoToLocal-v0"},
    )
    (env,) = envs.make(spec, 1)
    face = Face.of(env, spec)
    buffers = face.buffers(1)
    face.writer(buffers)(0, env.reset(seed=0)[0])
    assert buffers["rgb"].shape == (1, 64, 64, 3)
    assert buffers["rgb"].std() > 0
    np.testing.assert_array_equal(buffers["rgb"][0], env.unwrapped.get_frame(highlight=False, tile_size=8))
    assert buffers["mission"][0].startswith("go to")


def test_mujoco_leaves_the_users_folder_clean(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    envs.make("HalfCheetah-v5", 1)[0].reset(seed=0)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""
