import numpy as np
import pytest

from seqrl.data.dataset import Selection, best_share
from seqrl.data.windows import Windows


def episodes(lengths, weights=None):
    lengths = np.asarray(lengths)
    row = np.cumsum(lengths + 1) - (lengths + 1)
    weights = np.ones(len(lengths)) if weights is None else np.asarray(weights, float)
    return Selection(np.zeros(len(lengths), int), row, lengths, np.zeros(len(lengths)), weights, np.arange(len(lengths)))


def test_every_step_is_drawn_equally_often():
    lengths = [1, 3, 50, 7, 200]
    windows = Windows(episodes(lengths), context=20)
    drawn = windows.draw(0, 0, 400_000)
    counts = np.bincount(drawn.row, minlength=sum(lengths) + len(lengths))
    real = np.concatenate([[True] * n + [False] for n in lengths])
    assert (counts[~real] == 0).all()
    expected = 400_000 / sum(lengths)
    # Six deviations of a binomial: a wrong sampler misses by far more, a right one never.
    assert np.abs(counts[real] - expected).max() < 6 * np.sqrt(expected)


def test_windows_stay_in_their_episode():
    lengths = np.array([1, 3, 50])
    e = episodes(lengths)
    drawn = Windows(e, 20).draw(1, 5, 5000)
    which = np.searchsorted(e.row, drawn.row, side="right") - 1
    assert (drawn.row - e.row[which] == drawn.time).all()
    assert (drawn.time + drawn.length <= lengths[which]).all()
    assert (drawn.length == np.minimum(20, lengths[which] - drawn.time)).all()
    assert drawn.length.min() >= 1


def test_a_draw_is_a_function_of_seed_and_step_alone():
    windows = Windows(episodes([30, 40]), 8)
    assert (windows.draw(3, 7, 64).row == windows.draw(3, 7, 64).row).all()
    assert (windows.draw(3, 7, 64).row != windows.draw(3, 8, 64).row).any()
    assert (windows.draw(3, 7, 64).row != windows.draw(4, 7, 64).row).any()


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_one_global_batch(world):
    windows = Windows(episodes([30, 40]), 8)
    whole = windows.draw(3, 7, 64).row
    parts = [windows.draw(3, 7, 64 // world, rank, world).row for rank in range(world)]
    assert (np.concatenate(parts) == whole).all()


def test_weights_change_how_often_an_episode_is_drawn():
    drawn = Windows(episodes([100, 100], [3.0, 1.0]), 8).draw(0, 0, 100_000)
    assert abs((drawn.row < 101).mean() - 0.75) < 0.01


def test_the_best_share_is_counted_in_steps():
    total, length = np.array([5.0, 9.0, 1.0, 7.0]), np.array([10, 10, 100, 10])
    assert best_share(total, length, 0.1).tolist() == [False, True, False, True]
    assert best_share(total, length, 1e-9).tolist() == [False, True, False, False]
    assert best_share(total, length, 1.0).all()


def test_full_windows_are_as_long_as_context_and_episode_allow():
    lengths = np.array([5, 20, 90])
    e = episodes(lengths)
    windows = Windows(e, 20, full=True)
    drawn = windows.draw(0, 3, 20_000)
    which = np.searchsorted(e.row, drawn.row, side="right") - 1
    assert (drawn.length == np.minimum(20, lengths[which])).all()
    assert (drawn.row - e.row[which] == drawn.time).all()
    assert (drawn.time[which < 2] == 0).all()
    long = drawn.time[which == 2]
    assert long.min() == 0
    assert long.max() == 70
    # Every step has its share of windows, but for those within a window of an end.
    covered = np.zeros(90)
    np.add.at(covered, (long[:, None] + np.arange(20)).ravel(), 1)
    assert covered[20:70].std() / covered[20:70].mean() < 0.05
    assert (windows.spread(50).length >= 5).all()
    parts = [windows.draw(3, 7, 32, rank, 2).row for rank in range(2)]
    assert (np.concatenate(parts) == windows.draw(3, 7, 64).row).all()
