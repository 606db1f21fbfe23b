"""The heat map of needles: a cell for every length and depth, in order, with its number in it."""

import numpy as np
import pytest

from seqrl.report.ink import png
from seqrl.report.needle import depth, heat_map, tokens
from seqrl.rollout.needle import NeedleConfig, Needles


def found(lengths=(4096, 1024, 16384), depths=(0.5, 0.0, 1.0), trained=1024, base=1e6, **more):
    config = NeedleConfig(lengths, depths, rounds=4, rope_base=base, **more)
    counts = np.arange(len(config.rows) * len(lengths)).reshape(len(config.rows), -1) % 5
    bases = tuple(base if n > trained else None for n in lengths)
    return Needles(config, "words", trained, counts, 4 * config.asked, bases)


def words(figure):
    return [t.get_text() for t in figure.axes[0].texts]


def test_cells_stand_in_order_and_say_their_number():
    figure = heat_map(found())
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1k", "4k", "16k"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0 %", "50 %", "100 %"]
    assert axes.yaxis_inverted()
    # Depths 0, .5, 1 are the second, the first and the third row of what was found.
    assert words(figure)[:9] == ["1", ".75", "0", ".25", "0", ".50", ".50", ".25", ".75"]
    assert words(figure)[9:] == ["as trained, up to 1k", "longer, rope base 1M"]
    assert png(figure).startswith(b"\x89PNG")


def test_almost_all_is_not_all():
    made = found((8,), (0.5,), 8, None)
    almost = Needles(made.config, "keys", 8, np.array([[999]]), 1000, (None,))
    assert words(heat_map(almost)) == [".99", "as trained, up to 8"]


def test_several_needles_have_one_row():
    figure = heat_map(found(depths=(), needles=4, asked=2))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["any"]
    assert figure.axes[0].get_title(loc="left") == "share found of 2 of 4 numbers in a text, 8 questions a cell"


@pytest.mark.parametrize(("n", "said"), [(512, "512"), (1024, "1k"), (65536, "64k"), (1 << 20, "1M"), (1500, "1,500")])
def test_lengths_as_one_says_them(n, said):
    assert tokens(n) == said


def test_depths_as_one_says_them():
    assert [depth(d) for d in (0.0, 0.125, 1.0, None)] == ["0 %", "12.5 %", "100 %", "any"]
