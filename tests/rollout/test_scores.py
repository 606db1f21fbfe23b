import numpy as np
import pytest

from seqrl.core.episode import EpisodeSpec
from seqrl.rollout.scores import REFERENCES, family, normalise, solved


def spec(id="mine/data-v0", references=None, **about):
    return EpisodeSpec(id, {}, {}, references=references, about=about)


def d4rl(id, references=None):
    """What sources/d4rl.py says of an original file."""
    return spec(id, references, source="d4rl", family=family(id))


@pytest.mark.parametrize(
    ("env_id", "kind"),
    [
        ("Hopper-v5", "hopper"),
        ("hopper-medium-replay-v2", "hopper"),
        ("HalfCheetah-v4", "halfcheetah"),
        ("Walker2d-v5", "walker2d"),
        ("Ant-v5", "ant"),
        ("AntMaze_UMaze-v5", "antmaze"),
        ("antmaze-large-play-v2", "antmaze"),
        ("AdroitHandPen-v1", "pen"),
        ("relocate-human-v1", "relocate"),
        ("FrankaKitchen-v1", "kitchen"),
        ("PointMaze_UMaze-v3", "pointmaze-umaze"),
        ("PointMaze_MediumDense-v3", "pointmaze-medium-dense"),
        ("maze2d-large-dense-v1", "maze2d-large-dense"),
        ("minigrid-fourrooms-v0", "minigrid-fourrooms"),
        ("CartPole-v1", None),
        ("Antelope-v0", None),
        ("HopperBulletEnv-v0", None),
        ("InvertedPendulum-v5", None),
    ],
)
def test_families(env_id, kind):
    assert family(env_id) == kind


def test_the_formula():
    low, high, _ = REFERENCES["hopper"]
    data = d4rl("hopper-medium-v2")
    assert normalise([low, low], data, "Hopper-v4").normalised == pytest.approx(0)
    assert normalise(high, data, "Hopper-v4").normalised == pytest.approx(100)
    assert normalise(np.array([1400.0, 1444.0]), data, "Hopper-v4").normalised == pytest.approx(44.3, abs=0.05)


def test_only_d4rls_data_with_d4rls_numbers_in_the_same_task_are_comparable():
    numbers = REFERENCES["hopper"][:2]
    assert normalise(1.0, d4rl("hopper-medium-v2"), "Hopper-v5").comparable
    assert normalise(1.0, d4rl("hopper-medium-v2", numbers), "Hopper-v4").comparable
    anew = normalise(1.0, spec("mujoco/hopper/medium-v0", numbers), "Hopper-v5")
    assert not anew.comparable
    assert "made anew" in anew.why
    assert "equal to D4RL" in anew.reference
    other = normalise(1.0, d4rl("hopper-medium-v2", (0.0, 3000.0)), "Hopper-v5")
    assert not other.comparable
    assert other.normalised == pytest.approx(100 / 3000)
    assert "named by" in other.reference
    assert not normalise(1.0, spec("hopper-medium-v2", source="d4rl", family="halfcheetah"), "Hopper-v5").comparable
    walker = d4rl("walker2d-medium-v2")
    assert normalise(1.0, walker, "Walker2d-v4").comparable
    assert not normalise(1.0, walker, "Walker2d-v5").comparable


def test_traps():
    maze = normalise(100.0, spec("pointmaze/umaze-v0"), "PointMaze_UMaze-v3")
    assert maze.reference.startswith("Minari")
    assert not maze.comparable
    assert "maze2d" in maze.why
    pen = normalise(5000.0, spec("D4RL/pen/human-v2", (137.9296, 8820.508)), "AdroitHandPen-v1")
    assert not pen.comparable
    assert "303" in pen.why
    door = normalise(5.0, spec("D4RL/door/human-v2", REFERENCES["door"][:2]), "AdroitHandDoor-v1")
    assert not door.comparable
    assert "gymnasium-robotics" in door.why
    for data, env in (("antmaze-umaze-v2", "AntMaze_UMaze-v5"), ("kitchen-mixed-v0", "FrankaKitchen-v1")):
        assert not normalise(1.0, d4rl(data), env).comparable


def test_no_reference():
    score = normalise([1.0, 2.0], spec(), "CartPole-v1")
    assert (score.normalised, score.reference, score.comparable) == (None, "none", False)
    assert normalise(5.0, spec(references=(3.0, 3.0)), "CartPole-v1").normalised is None
    named = normalise(261.0, spec(references=(22.0, 500.0)), "CartPole-v1")
    assert named.normalised == pytest.approx(50)
    assert not named.comparable


def test_every_table_row_is_a_pair_with_a_source():
    assert all(low < high and whose in ("D4RL infos.py", "Minari") for low, high, whose in REFERENCES.values())


def test_success_is_what_the_environment_says_of_it():
    returns = np.array([3.0, 0.0, 3.0, 0.0])
    assert solved(returns, "Any-v0", np.array([1.0, 0.0, 1.0, 1.0])) == 0.75
    assert solved(returns, "Any-v0", np.full(4, np.nan)) is None
    assert solved(returns, "BabyAI-GoToLocal-v0", np.full(4, np.nan)) == 0.5
