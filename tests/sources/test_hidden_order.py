"""Hidden Order: its rules, that nothing shows the order, what its players make of it, and its data."""

import filecmp
import subprocess
import sys

import gymnasium
import minari as library
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from seqrl.cli import app
from seqrl.core.config import validate
from seqrl.core.errors import DataError, EnvError, RecipeError
from seqrl.rollout.envs import make
from seqrl.sources import _catalog
from seqrl.sources._hidden_order import FORWARD, ID, LEFT, RIGHT, HiddenOrder
from seqrl.sources._hidden_order_players import PLAYERS, Knowledge, Oracle, touches
from seqrl.sources.collected import Config, Source, collect
from seqrl.sources.minari import Config as Local
from seqrl.sources.minari import Source as LocalSource

VIEWS = [("vector", "full"), ("grid", "full"), ("grid", 3), ("grid", 5), ("grid", 7), ("rgb", "full"), ("rgb", 3), ("rgb", 7)]
TOUCH = {0: [FORWARD], 1: [RIGHT, FORWARD], 2: [RIGHT, RIGHT, FORWARD], 3: [LEFT, FORWARD]}
"""On the small board of four balls, what touches each from the start."""


def small(order=(0, 1, 2, 3), **settings):
    env = HiddenOrder(size=3, balls=4, **settings)
    env.reset(seed=0, options={"order": order})
    return env


def do(env, actions):
    """(sum of rewards, last info) of some actions."""
    steps = [env.step(a) for a in actions]
    return sum(s[1] for s in steps), steps[-1][4]


def back(env):
    """From the place of a ball beside the start back to the middle and its direction."""
    do(env, [LEFT, LEFT, FORWARD])
    do(env, [RIGHT] * (-env.facing % 4) or [LEFT, RIGHT])
    assert (env.place, env.facing) == ((1, 1), 0)


def episode_of(env, player, seed, level=1.0):
    """(return, success) of one episode, a share ``level`` of its steps the player's."""
    env.reset(seed=seed)
    rng, play, total = np.random.default_rng([seed, 1]), player(env, seed) if player else None, 0.0
    while True:
        action = play() if play else 0
        if play is None or rng.random() >= level:
            action = int(rng.integers(3))
        _, reward, _, over, info = env.step(action)
        total += reward
        if over:
            return total, info["success"]


# ---- the rules ------------------------------------------------------------------------------------------------------


def test_right_balls_vanish_and_pay_and_a_round_begins_again():
    env = small((0, 1, 2, 3))
    for rank in range(3):
        paid, info = do(env, TOUCH[rank])
        assert (paid, info["touch"], info["rank"], info["success"]) == (3.0, rank, rank + 1, False)
        assert env.present == [c > rank for c in range(4)]
        back(env)
    paid, info = do(env, TOUCH[3])
    assert (paid, info["rank"], info["rounds"], info["success"]) == (3.0, 0, 1, True)
    assert env.present == [True] * 4
    # Every rank pays again, and the order is the same.
    assert (env.place, env.facing) == ((1, 1), 0)
    assert do(env, TOUCH[0])[0] == 3.0


def test_a_wrong_ball_puts_everything_back_and_known_ground_pays_nothing():
    env = small((0, 1, 2, 3))
    do(env, TOUCH[0])
    back(env)
    do(env, TOUCH[1])
    back(env)
    paid, info = do(env, TOUCH[3])
    assert (paid, info["touch"], info["rank"]) == (0.0, 3, 0)
    assert env.present == [True] * 4
    assert (env.place, env.facing) == ((1, 1), 0)
    for rank, pays in enumerate((0.0, 0.0, 3.0)):
        assert do(env, TOUCH[rank])[0] == pays
        back(env)
    # And again nothing in this round, although the touch is right and the ball vanishes.
    do(env, TOUCH[3][:-1])
    assert do(env, [FORWARD])[0] == 3.0
    assert env.rounds == 1


def test_it_may_stay_where_it_stood():
    env = small((0, 1, 2, 3), after="stay")
    do(env, TOUCH[0])
    do(env, [LEFT, LEFT, FORWARD])
    paid, info = do(env, [FORWARD])
    assert (paid, info["touch"], info["rank"], env.place, env.facing) == (0.0, 2, 0, (1, 1), 2)


def test_walls_stop_and_an_episode_is_cut_off():
    env = HiddenOrder(steps=30)
    env.reset(seed=3, options={"order": (0, 1, 2, 3)})
    env.present = [False] * 4
    ends = [env.step(FORWARD)[2:4] for _ in range(30)]
    assert env.place[0] in (0, 5) or env.place[1] in (0, 5)
    assert ends == [(False, False)] * 29 + [(False, True)]


@pytest.mark.parametrize(("size", "balls"), [(3, 3), (3, 4), (3, 8), (4, 5), (6, 4), (7, 8), (15, 6)])
def test_boards_are_as_described(size, balls):
    starts, orders = set(), set()
    for seed in range(60):
        env = HiddenOrder(size=size, balls=balls)
        env.reset(seed=seed)
        again = HiddenOrder(size=size, balls=balls)
        again.reset(seed=seed)
        assert (env.cells, env.order, env.place, env.facing) == (again.cells, again.order, again.place, again.facing)
        assert len({*env.cells, env.place}) == balls + 1
        if (size, balls) != (3, 3):
            areas = [(3 * r // size, 3 * c // size) for r, c in (*env.cells, env.place)]
            assert len(set(areas)) == balls + 1
            assert areas[-1] == (1, 1)
        starts.add((env.place, env.facing))
        orders.add(env.order)
    assert len(orders) > 4
    assert (len(starts) == 1) == ((size, balls) in ((3, 3), (3, 4)))


def test_bad_settings_are_named():
    for settings, said in (
        ({"size": 2}, "size must be a whole number from 3 to 30 (got 2)"),
        ({"balls": 9}, "balls must be a whole number from 2 to 8 (got 9)"),
        ({"steps": 1.5}, "steps must be"),
        ({"reward": "much"}, "reward must be a number (got 'much')"),
        ({"view": 4, "observation": "grid"}, "view must be one of full, 3, 5, 7 (got 4)"),
        ({"view": 3}, "a vector tells of the full board; for view 3 choose observation grid or rgb"),
        ({"observation": "text"}, "observation must be one of vector, grid, rgb (got 'text')"),
        ({"after": "fly"}, "after must be one of start, stay"),
    ):
        with pytest.raises(EnvError) as told:
            HiddenOrder(**settings)
        assert said in str(told.value)
    with pytest.raises(EnvError, match=r"an order names each of the colours 0 to 3 once \(got \(0, 1, 2, 2\)\)"):
        HiddenOrder().reset(seed=0, options={"order": (0, 1, 2, 2)})


# ---- what is seen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("observation", "view"), VIEWS)
@pytest.mark.filterwarnings("ignore:.*render")
def test_gymnasium_is_content(observation, view):
    check_env(HiddenOrder(observation=observation, view=view, render_mode="rgb_array"))


@pytest.mark.parametrize(("observation", "view"), VIEWS)
def test_the_order_is_not_to_be_seen(observation, view):
    envs = [HiddenOrder(observation=observation, view=view) for _ in range(2)]
    for seed in range(5):
        orders = ((0, 1, 2, 3), (3, 2, 0, 1))
        seen = [e.reset(seed=seed, options={"order": o}) for e, o in zip(envs, orders, strict=True)]
        np.testing.assert_array_equal(seen[0][0], seen[1][0])
        rng, compared = np.random.default_rng(seed), 0
        for action in rng.integers(0, 3, 100):
            one, other = (e.step(action) for e in envs)
            if envs[0].touched or envs[1].touched:
                # Both touch the same ball at the same time; only then do they part.
                assert one[4]["touch"] == other[4]["touch"]
                break
            np.testing.assert_array_equal(one[0], other[0])
            assert one[1:] == other[1:]
            compared += 1
        assert compared


def test_the_vector_says_it_all():
    env = HiddenOrder()
    seen, _ = env.reset(seed=4)
    assert seen.shape == (16 + 4 * 13,)
    for _ in range(2):
        row, column, facing = seen[:6].argmax(), seen[6:12].argmax(), seen[12:16].argmax()
        assert ((row, column), facing) == (env.place, env.facing)
        for c in range(4):
            there, at_row, at_column = np.split(seen[16 + 13 * c : 29 + 13 * c], [1, 7])
            assert bool(there[0]) == env.present[c]
            assert (at_row.argmax(), at_column.argmax()) == env.cells[c]
        assert seen.sum() == 3 + 8 + sum(env.present)
        env.present[2], env.facing = False, (env.facing + 1) % 4
        seen = env.step(LEFT)[0]


def test_eyes_look_ahead():
    # Ahead of the agent lies ball 0, to its right 1, behind it 2, to its left 3.
    env = small(observation="grid", view=3)
    up = env.step(LEFT) and env.step(RIGHT)[0]
    assert up[2, 1].tolist() == [3, 0, 1]
    assert up[1, 1].tolist() == [2, 1, 0]
    assert up[2, 2].tolist() == [2, 2, 0]
    assert up[2, 0].tolist() == [2, 4, 0]
    # Two cells ahead is the wall.
    assert up[0].tolist() == [[1, 0, 0]] * 3
    right = env.step(RIGHT)[0]
    assert [right[1, 1, 1], right[2, 2, 1], right[2, 0, 1]] == [2, 3, 1]
    env = small(observation="grid")
    whole = env.step(RIGHT)[0]
    assert whole[1:4, 1:4, 1].tolist() == [[0, 1, 0], [4, 0, 2], [0, 3, 0]]
    assert whole[2, 2].tolist() == [3, 0, 2]
    assert (whole[0, :, 0] == 1).all()


def test_pictures_show_what_the_grid_says():
    for view, tile in (("full", 8), (3, 21), (5, 12), (7, 9)):
        grid, rgb = (HiddenOrder(observation=o, view=view) for o in ("grid", "rgb"))
        looks = {}
        for seed in range(20):
            cells, picture = grid.reset(seed=seed)[0], rgb.reset(seed=seed)[0]
            side = len(cells)
            edge = (64 - side * tile) // 2
            for r, c in np.ndindex(side, side):
                top, left = edge + r * tile, edge + c * tile
                drawn = picture[top : top + tile, left : left + tile].tobytes()
                # One look for a symbol, and another for every other.
                assert looks.setdefault(tuple(cells[r, c]), drawn) == drawn
        assert len(set(looks.values())) == len(looks)
    frame = HiddenOrder(render_mode="rgb_array")
    frame.reset(seed=0)
    assert frame.render().shape == (256, 256, 3)


# ---- players --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "level", "returns", "success"),
    [
        (None, 1.0, (0.9, 2.0), (0.0, 0.02)),
        ("memoryless", 0.8, (3.0, 7.0), (0.05, 0.2)),
        ("memory", 1.0, (35.0, 44.0), (0.98, 1.0)),
        ("oracle", 1.0, (47.0, 56.0), (1.0, 1.0)),
    ],
)
def test_what_memory_is_worth(name, level, returns, success):
    env = HiddenOrder()
    played = np.array([episode_of(env, PLAYERS.get(name), seed, level) for seed in range(300)])
    assert returns[0] <= played[:, 0].mean() <= returns[1]
    assert success[0] <= played[:, 1].mean() <= success[1]


@pytest.mark.parametrize("name", ["memory", "careless", "memoryless"])
def test_honest_players_do_not_look_at_the_order(name):
    env = HiddenOrder()
    for seed in range(5):
        actions = []
        for order in ((0, 1, 2, 3), (3, 2, 1, 0)):
            env.reset(seed=seed, options={"order": order})
            play, done = PLAYERS[name](env, seed), []
            while env.touched is None:
                done.append(play())
                env.step(done[-1])
            actions.append(done)
        assert actions[0] == actions[1]


def test_the_oracle_makes_no_mistake():
    env = HiddenOrder(balls=6)
    for seed in range(10):
        env.reset(seed=seed)
        play = Oracle(env, 0)
        for _ in range(100):
            env.step(play())
            assert env.touched is None or env.touched[1]


# ---- what could be known --------------------------------------------------------------------------------------------


def test_knowledge():
    knows = Knowledge(3)
    assert [knows.foretells(0, c) for c in range(3)] == [None] * 3
    knows.learn(0, 2, False)
    assert [knows.foretells(0, c) for c in range(3)] == [None, None, False]
    knows.learn(0, 0, False)
    # It can only be the last that is left.
    assert [knows.foretells(0, c) for c in range(3)] == [False, True, False]
    knows.learn(0, 1, True)
    assert [knows.foretells(1, c) for c in range(3)] == [None, False, None]
    knows.learn(0, 2, False)
    assert knows.foretells(1, 2) is None
    knows.learn(1, 2, True)
    assert knows.foretells(2, 0) is True


def test_determined_is_what_all_orders_agree_on(home):
    """Against counting: a touch is determined where all orders that fit the earlier touches say the same of it."""
    from itertools import permutations

    collect(ID, 12, "my/order-v0", "scripted", levels=(1.0, 0.7))
    source = LocalSource(Local(id="my/order-v0"))
    found = 0
    for i in range(12):
        episode = source.episode(i)
        said = touches(episode)
        fits, rank = list(permutations(range(4))), 0
        for t in np.flatnonzero(said.colour >= 0):
            colour, right = said.colour[t], said.right[t]
            outcomes = {order[rank] == colour for order in fits}
            assert said.determined[t] == (len(outcomes) == 1)
            fits = [order for order in fits if (order[rank] == colour) == right]
            rank = (rank + 1) % 4 if right else 0
            found += 1
        np.testing.assert_array_equal(said.rewarded, episode.rew > 0)
        assert (said.right | ~said.rewarded).all()
        hit, yes, passed, no = said.counts(episode.rew > 0)
        assert (hit, passed) == (yes, no)
        assert yes + no == said.determined.sum()
        assert said.counts(np.zeros(len(episode), bool))[0] == 0
    assert found > 100


def test_touches_of_another_environment(home, memory):
    collect(ID, 2, "my/order-v0", "memory", levels=(1.0,), settings={"reward": 1.0})
    episode = LocalSource(Local(id="my/order-v0")).episode(1)
    assert touches(episode, {"reward": 1.0}).rewarded.any()
    with pytest.raises(DataError, match=r"episode 1: step \d+ paid 1, here 3; name the settings"):
        touches(episode)
    with pytest.raises(DataError, match="without its seed"):
        touches(memory.episode(5))


# ---- as data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["rollout.envs import make; make(ID, 1)", "sources._envs import make_env; make_env(ID)"])
def test_nobody_needs_to_import_it_first(words):
    code = f"import gymnasium; ID = '{ID}'; assert ID not in gymnasium.registry; from seqrl.{words}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


def test_environments_that_data_ask_for():
    (env,) = make({"id": ID, "kwargs": {"observation": "grid", "view": 3}}, 1)
    assert env.observation_space.shape == (3, 3, 3)
    assert env.spec.max_episode_steps is None
    with pytest.raises(EnvError, match=r"HiddenOrder-v0 cannot be made: .*balls must be"):
        make({"id": ID, "kwargs": {"balls": 1}}, 1)
    with pytest.raises(EnvError, match="unknown environment 'seqrl/HiddenOrders-v0'; did you mean 'seqrl/HiddenOrder-v0'"):
        make("seqrl/HiddenOrders-v0", 1)


def test_data_are_a_function_of_their_settings(home):
    for rows, id in ((1, "my/one-v0"), (4, "my/four-v0"), (16, "my/all-v0")):
        collect(ID, 9, id, "memory+memoryless", levels=(1.0, 0.6), rows=rows)
    files = [home / "datasets" / f"my/{n}-v0" / "data" / "main_data.hdf5" for n in ("one", "four", "all")]
    assert filecmp.cmp(files[0], files[1], shallow=False)
    assert filecmp.cmp(files[0], files[2], shallow=False)
    theirs = library.load_dataset("my/one-v0")
    assert theirs.total_episodes == 9
    assert theirs.recover_environment().unwrapped.balls == 4
    # Seeds and actions say everything.
    episode, env = LocalSource(Local(id="my/one-v0")).episode(7), gymnasium.make(ID)
    seen = [env.reset(seed=episode.info["seed"])[0]]
    for t, action in enumerate(episode.act["action"]):
        obs, reward, *_ = env.step(action)
        seen.append(obs)
        assert reward == episode.rew[t]
    np.testing.assert_array_equal(seen, episode.obs["observation"])


def test_players_take_turns_after_all_levels(home):
    collect(ID, 24, "my/turns-v0", "oracle+memoryless", levels=(1.0, 0.0))
    source = LocalSource(Local(id="my/turns-v0"))
    totals = np.array([source.episode(i).total for i in range(24)]).reshape(-1, 2, 2)
    # Now and then the nearest balls lie in the right order, so means tell less.
    assert totals[:, 0, 0].min() > 20
    assert np.median(totals[:, 1, 0]) < 10
    assert totals[:, :, 1].max() < 15


def test_a_recipe_names_it(home):
    asked = {"id": "my/grid-v0", "env": ID, "episodes": 3, "settings": {"observation": "grid", "view": 3, "balls": 3}}
    source = Source(validate(Config, asked, {}, "a.yaml"))
    assert source.spec.obs["observation"].kind == "image"
    assert source.spec.env["kwargs"] == asked["settings"]
    (env,) = make(source.spec, 1)
    assert env.unwrapped.balls == 3
    about = _catalog.metadata("my/grid-v0")["seqrl"]
    assert (about["settings"], about["policy"]) == (asked["settings"], "scripted")
    assert len(Source(Config(**asked))) == 3
    for change, said in (
        ({"settings": {}}, "settings {'observation': 'grid', 'view': 3, 'balls': 3}, here None"),
        ({"policy": "memory"}, "policy scripted, here memory"),
    ):
        with pytest.raises(DataError) as told:
            Source(Config(**(asked | change)))
        assert said in str(told.value)


def test_the_command_line_makes_what_the_recipe_asks_for(home, capsys):
    words = (
        f"data collect {ID} --as my/typed-v0 --episodes 4 --policy oracle+memory --levels 1,0.5 --set balls=3 --set steps=50"
    )
    with pytest.raises(SystemExit) as left:
        app.main(words.split())
    assert not left.value.code
    assert "4 episodes, 200 steps" in capsys.readouterr().out
    asked = {"policy": "oracle+memory", "levels": (1.0, 0.5), "settings": {"balls": 3, "steps": 50}}
    assert len(Source(Config(id="my/typed-v0", env=ID, episodes=4, **asked))) == 4
    for more, said in (
        ("--levels 1,x", "levels.1: Input should be a valid number"),
        ("--set view=../a", "settings: 'view' must be a number or a plain word"),
        ("--set view", "write key=value"),
        ("--set view=4", "view must be one of full, 3, 5, 7 (got 4)"),
    ):
        with pytest.raises(SystemExit) as left:
            app.main([*f"data collect {ID} --as my/b-v0 --episodes 2".split(), *more.split()])
        assert left.value.code == 2
        assert said in capsys.readouterr().err
    assert not (home / "datasets" / "my/b-v0").exists()


def test_bad_recipes_and_settings(home):
    asked = {"id": "my/b-v0", "env": ID, "episodes": 3}
    for change, said in (
        (
            {"policy": "memry"},
            "policy 'memry'; did you mean 'memory'?: there are random and scripted, and of seqrl/HiddenOrder",
        ),
        ({"policy": "memory+random"}, "policy 'random': there are random and scripted, and of seqrl/HiddenOrder"),
        ({"env": "CartPole-v1", "policy": "memory"}, "policy 'memory': there are random and scripted"),
        ({"settings": {"observation": "../rgb"}}, "settings: 'observation' must be a number or a plain word (got '../rgb')"),
        ({"settings": {"observation": ["rgb"]}}, "settings: 'observation' must be a number or a plain word (got ['rgb'])"),
    ):
        with pytest.raises(RecipeError) as told:
            validate(Config, asked | change, {}, "a.yaml")
        assert said in str(told.value)
    for settings, said in (
        ({"ball": 3}, r"does not take the settings \{'ball': 3\}"),
        ({"balls": 1}, "balls must be a whole number"),
        ({"max_episode_steps": 3}, "max_episode_steps cannot be set here"),
    ):
        with pytest.raises(EnvError, match=said):
            collect(ID, 2, "my/b-v0", settings=settings)
    assert not (home / "datasets").exists()
