"""Few values, each a code: of rewards, and of the cells of symbolic pictures."""

import numpy as np
import pytest

from seqrl.core.episode import Modality
from seqrl.core.errors import DataError, RecipeError
from seqrl.tokens import cells, levels

REWARD = Modality("vector", (), "float32", (-np.inf,), (np.inf,))
GRID = Modality("image", (2, 3, 3), "uint8")


def test_rare_rewards_have_codes_of_their_own():
    codec = levels.Codec(levels.Config(), REWARD)
    values = np.zeros((1000, 1), np.float32)
    values[7], values[[3, 900]] = -1, 4
    codec.fit(values)
    assert codec.vocab == 3
    assert codec.encode(values).ravel()[[7, 8, 900]].tolist() == [0, 1, 2]
    assert (codec.decode(codec.encode(values)) == values).all()
    # What was never seen is read as its neighbour; nothing that was seen is further off than half a gap.
    assert codec.encode(np.array([[-9.0], [0.4], [2.5], [9.0]])).ravel().tolist() == [0, 1, 2, 2]
    assert 2 <= codec.tolerance < 2.001


def test_one_value_alone_still_makes_two_codes():
    codec = levels.Codec(levels.Config(), REWARD)
    codec.fit(np.full((5, 1), 3.5))
    assert codec.vocab == 2
    assert codec.decode(np.array([[0], [1]])).tolist() == [[3.5], [3.5]]


def test_many_values_are_for_bins():
    with pytest.raises(RecipeError, match="1500 distinct values.*bins"):
        levels.Codec(levels.Config(), REWARD).fit(np.arange(1500.0)[:, None])


def test_cells_are_codes_without_loss_and_unseen_ones_have_theirs():
    rng = np.random.default_rng(0)
    pictures = (rng.integers(0, 256, (50, 6, 3)) % [11, 6, 3]).astype(np.uint8)
    pictures[:, 0] = [10, 5, 2]
    codec = cells.Codec(cells.Config(), GRID)
    codec.fit(pictures.reshape(50, -1))
    assert (codec.vocab, codec.width) == (198, 6)
    codes = codec.encode(pictures.reshape(50, -1))
    assert (codes[:, 0] == 197).all()
    assert (codes == (pictures[..., 0] * 6 + pictures[..., 1].astype(int)) * 3 + pictures[..., 2]).all()
    every = np.arange(198).repeat(6).reshape(198, 6)
    assert (codec.encode(codec.decode(every)) == every).all()
    said = cells.Codec(cells.Config(values=[11, 6, 3]), GRID)
    said.fit(pictures[:1].reshape(1, -1))
    assert (said.encode(pictures.reshape(50, -1)) == codes).all()


def test_channels_may_stand_first():
    pictures = np.arange(30, dtype=np.uint8).reshape(1, 2, 5, 3) % 5
    first, last = (cells.Codec(cells.Config(values=[5, 5, 5]), Modality("image", s, "uint8")) for s in ((3, 2, 5), (2, 5, 3)))
    turned = np.moveaxis(pictures, 3, 1).reshape(1, -1)
    assert (first.encode(turned) == last.encode(pictures.reshape(1, -1))).all()
    assert (first.decode(first.encode(turned)) == turned).all()


def test_what_is_no_symbolic_picture_is_named():
    photo = np.random.default_rng(0).integers(0, 256, (9, 18)).astype(np.uint8)
    with pytest.raises(RecipeError, match="codes, and at most 4,096.*vq"):
        cells.Codec(cells.Config(), GRID).fit(photo)
    with pytest.raises(RecipeError, match="3 channels"):
        cells.Codec(cells.Config(values=[11, 6]), GRID)
    codec = cells.Codec(cells.Config(values=[11, 6, 3]), GRID)
    with pytest.raises(DataError, match="channel 2 of a cell is 0 to 2, and 7 is there"):
        codec.encode(np.full((1, 18), 7, np.uint8) * np.tile([1, 0, 1], 6).astype(np.uint8))


@pytest.mark.parametrize("sizes", [[0, 5, 3], [-1, 2, 3], [2, 2], [2**40, 2**40, 2]])
def test_sizes_of_a_strangers_file_are_looked_at(sizes):
    with pytest.raises((ValueError, RecipeError), match="codec cells"):
        cells.Codec(cells.Config(), GRID).load_state({"sizes": sizes})


@pytest.mark.parametrize("known", [[], [[]], [[1.0, 0.0]], [[0.0, np.nan]], [[0.0], [1.0]], [[[0.0]]]])
def test_levels_of_a_strangers_file_are_looked_at(known):
    with pytest.raises(ValueError, match="codec levels"):
        levels.Codec(levels.Config(), REWARD).load_state({"levels": known})
