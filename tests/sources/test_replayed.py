"""Episodes played again: the grid has its player, moves as the actions say, and what differs from the data is told."""

from dataclasses import replace

import numpy as np
import pytest

from seqrl.core.errors import DataError
from seqrl.data.store import prepare
from seqrl.sources import minari, replayed
from seqrl.sources._write import save_minari

AGENT = 10
STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


@pytest.fixture(scope="module")
def made(_own_folders):
    return replayed.Source(replayed.tiny(_own_folders))


def test_the_player_is_seen_and_moves_as_it_was_told(made):
    moved = 0
    for i in range(len(made)):
        episode = made.episode(i)
        grid, T = episode.obs["grid"], len(episode)
        assert grid.shape == (T + 1, *made.spec.obs["grid"].shape)
        spots = [np.argwhere(g[..., 0] == AGENT) for g in grid]
        assert all(len(s) == 1 for s in spots)
        spots = np.concatenate(spots)
        # The state of its cell is where it looks, which the data have as well.
        assert [g[x, y, 2] for g, (x, y) in zip(grid, spots, strict=True)] == episode.obs["direction"].tolist()
        for t in np.flatnonzero((spots[1:] != spots[:-1]).any(1)):
            assert episode.act["action"][t] == 2
            assert (spots[t + 1] - spots[t] == STEPS[episode.obs["direction"][t]]).all()
            moved += 1
    assert moved > 5


def test_all_else_is_the_datas(made):
    plain = minari.Source(minari.Config(id=made.id))
    one, two = made.episode(1), plain.episode(1)
    assert all(np.array_equal(one.obs[n], two.obs[n]) for n in two.obs)
    assert made.lengths.tolist() == plain.lengths.tolist()
    assert made.fingerprint() != plain.fingerprint()


def changed(made, id, **how):
    plain = minari.Source(minari.Config(id=made.id))
    episodes = [plain.episode(i) for i in range(len(plain))]
    save_minari((replace(e, **{k: f(e) for k, f in how.items()}) for e in episodes), replace(plain.spec, id=id), id)
    return replayed.Source(replayed.Config(id=id))


def test_what_differs_is_told_with_episode_and_step(made):
    other = changed(made, "tests/otherseed-v0", info=lambda e: {"seed": 7})
    with pytest.raises(DataError, match="episode 0, step 0: .* shows another"):
        other.episode(0)
    with pytest.raises(DataError, match="episode 0, step 0"):
        prepare(other)

    def richer(e):
        return e.rew + np.float32(np.arange(len(e)) == 3)

    with pytest.raises(DataError, match="episode 1, step 3: .* gives reward 0 and no end, and 1 and no end was recorded"):
        changed(made, "tests/richer-v0", rew=richer).episode(1)
    with pytest.raises(DataError, match="episode 0 has no seed"):
        changed(made, "tests/seedless-v0", info=lambda e: {}).episode(0)


def test_no_grid_world(cartpole):
    with pytest.raises(DataError, match="no grid world of minigrid; read it with kind: minari"):
        _ = replayed.Source(replayed.Config(id=cartpole)).spec
