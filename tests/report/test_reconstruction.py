"""The reconstruction report: its numbers on frames made by hand, its files, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from seqrl.core.errors import DataError
from seqrl.report.reconstruction import measure, sheet, write_reconstruction
from seqrl.rollout.pixels import BEST


class Remembers:
    """An encoder of frames of one ball on grey: the code is where the ball is, and the ball may get lost on the way."""

    shape, vocab, tokens = (12, 16, 1), 200, 1

    def __init__(self, keep=True):
        self.keep = keep

    def encode(self, frames):
        return frames.argmax(1)[:, None]

    def decode(self, codes):
        return balls(codes[:, 0]).reshape(len(codes), -1) if self.keep else np.full((len(codes), 192), 80, np.uint8)


def balls(at):
    frames = np.full((len(at), 192), 80, np.uint8)
    frames[np.arange(len(at)), at] = 230
    return frames.reshape(-1, 12, 16, 1)


def test_a_perfect_encoder_gets_everything_right(tmp_path):
    numbers = write_reconstruction(Remembers(), balls(np.arange(0, 192, 3)), tmp_path)
    assert json.loads((tmp_path / "reconstruction.json").read_text()) == numbers
    assert (numbers["psnr"], numbers["codes_used"], numbers["tokens"], numbers["frames"]) == (BEST, 64, 1, 64)
    np.testing.assert_allclose([numbers["ssim"], numbers["perplexity"]], [1, 64], rtol=1e-9)
    assert numbers["small_recall"] == numbers["small_precision"] == 1
    with Image.open(tmp_path / "reconstruction.png") as picture:
        assert picture.mode == "RGB"
        assert min(picture.size) > 100
    assert {p.name for p in tmp_path.iterdir()} == {"reconstruction.json", "reconstruction.png"}


def test_a_lost_ball_is_told_though_the_picture_is_nearly_right(tmp_path):
    real = balls(np.arange(0, 192, 3))
    back = np.full_like(real, 80)
    back[:32] = real[:32]
    numbers = measure(real, back, np.zeros((64, 1), np.int64), 4)
    assert numbers["psnr"] > 40
    assert numbers["small_recall"] == 0.5
    assert numbers["small_precision"] == 1
    assert (numbers["codes_used"], numbers["perplexity"]) == (1, 1.0)
    gone = write_reconstruction(Remembers(keep=False), real, tmp_path)
    assert gone["small_recall"] == 0
    assert "small_precision" not in gone


def test_the_sheet_shows_real_back_and_distance():
    real, back = balls(np.arange(20)), balls(np.arange(20) + 1)
    picture = sheet(real, back)
    size = 180 // 16
    assert (picture[:size, :size] == 230).all()
    below = 12 * size + 4
    assert (picture[below : below + size, size : 2 * size] == 230).all()
    assert (picture[2 * below : 2 * below + size, : 2 * size] == 150).all()
    assert sheet(real[:1].repeat(3, -1), back[:1].repeat(3, -1)).shape[2] == 3


@pytest.mark.parametrize("frames", [np.zeros((0, 192), np.uint8), np.zeros((2, 191), np.uint8), np.zeros((2, 192))])
def test_frames_of_another_shape_or_none_are_refused(frames, tmp_path):
    with pytest.raises(DataError, match="frames of 12x16x1 bytes"):
        write_reconstruction(Remembers(), frames, tmp_path)
    assert not list(tmp_path.iterdir())
