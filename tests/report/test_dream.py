"""What the page says of a world and of an encoder: drawn from what is there, and silent about what is broken."""

import base64
import json

import numpy as np
import pytest

from seqrl.report import dream
from seqrl.report.film import write
from seqrl.report.ink import png
from seqrl.report.page import write_report
from seqrl.rollout.reel import Reel

EVIL = '<script>alert(1)</script><img src="x" onerror="alert(1)">'


def found(**more):
    who = {"model": [0.99, 0.9, -9.0], "copy": [0.5, 0.2, None], "marginal": [0.0, 0.0, 0.0]}
    told = {"precision": 0.9, "recall": 0.8, "f1": 0.85, "happened": 7, "told": 6}
    fine = {
        "horizons": [1, 10, 50],
        "errors": {"image": {"psnr": {w: [30.0, 20.0, 10.0] for w in who}}, "state": {"r2": who}},
        **{"starts": 64, "episodes": 20, "context": 8, "horizon": 50, "steps_per_second": 1234.5},
        "reward": {"one_step": told, "open_loop": {"rmse": 0.5, "r2": None}},
        "done": {"one_step": {"precision": None, "recall": None, "happened": 0, "told": 3}, "open_loop": told},
        "control": {"state": {"measure": "rmse", "horizon": 10, "true": 0.1, "other": 0.7}},
        **{
            "latent": {"width": 32, "effective_rank": 4.5, "std": 1.0},
            "returns": {"real": 10.0, "dream": 9.0, "correlation": 0.5},
        },
    }
    return {**fine, **more}


@pytest.fixture
def world(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: pole_world\nmodel: {kind: worlds.rssm}\n")
    (tmp_path / "dream.gif").write_bytes(b"GIF89a" + bytes(20))
    (tmp_path / "dream.json").write_text(json.dumps(found()))
    return tmp_path


def test_the_page_of_a_world(world):
    page = write_report(world).read_text()
    for said in (
        "How long the dream stays true",
        "0.9<small>r2 of state, 10 steps ahead</small>",
        "baselines: copy last 0.2, marginal 0",
        "64 dreams begun in 20 episodes kept out of training: 8 steps are observed, then 50 imagined",
        "precision 0.9, recall 0.8, 7 happened",
        "0 happened, 3 told",
        "rmse 0.1 under the right ones, 0.7 under others&#39;, 10 steps ahead",
        "varies in 4.5 of 32 directions",
        "data:image/gif;base64,",
        f"seqrl dream runs/{world.name} --gif dream.gif",
    ):
        assert said in page, said
    assert "seqrl eval" not in page
    (world / "dream.json").unlink()
    assert "Not yet measured: <code>seqrl dream" in write_report(world).read_text()


def test_domains_have_a_part_each(world):
    (world / "dream.json").write_text(json.dumps({"domains": {"pole": found(), EVIL: found()}}))
    page = write_report(world).read_text()
    assert "How long the dream stays true: pole" in page
    assert "<script" not in page


BROKEN = [
    *(b"", b"[]", b'"x"', b"{", b'{"domains": 3}', b'{"domains": {"a": 3}}'),
    *(json.dumps(found(horizons=h)).encode() for h in (3, [0, 1, 2], ["a"], [1])),
    *(json.dumps(found(errors=e)).encode() for e in (3, {"a": 3}, {"a": {"r2": 3}}, {"a": {"r2": {"model": [None] * 3}}})),
    *(json.dumps(found(**{k: EVIL})).encode() for k in ("reward", "done", "control", "latent", "returns", "starts")),
    json.dumps(found(control={EVIL: {"measure": EVIL, "true": 1, "other": 2, "horizon": EVIL}})).encode(),
    json.dumps(found(latent={"effective_rank": 1, "width": EVIL}, done={"one_step": {"happened": EVIL}})).encode(),
]


@pytest.mark.parametrize("raw", BROKEN)
def test_a_broken_or_strange_file_is_shown_as_far_as_it_goes(world, raw):
    (world / "dream.json").write_bytes(raw)
    page = write_report(world).read_text()
    assert "<script" not in page
    assert not [tag for tag in page.split("<") if "onerror" in tag.partition(">")[0]]


def test_the_page_of_an_encoder(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: eye\nmodel: {kind: encoders.vqvae}\n")
    (tmp_path / "reconstruction.json").write_text(json.dumps({"psnr": 31.25, "codes_used": 99, "odd": EVIL}))
    pixel = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
    (tmp_path / "reconstruction.png").write_bytes(pixel)
    page = write_report(tmp_path).read_text()
    for said in ("What comes back", "31.25", "codes used", "data:image/png;base64,iVBOR"):
        assert said in page, said
    assert "seqrl eval" not in page
    (tmp_path / "reconstruction.png").write_bytes(b"no picture")
    assert "What comes back" not in write_report(tmp_path).read_text()


def test_the_curve_is_drawn_of_what_there_is():
    assert png(dream.curve(found()), dpi=40).startswith(b"\x89PNG")
    assert dream.curve({}) is None
    assert dream.curve(found(errors={})) is None
    assert "state r2: 0.99 at 1, 0.9 at 10" in dream.spoken(found())


@pytest.mark.parametrize("kind", ["pictures", "numbers", "many numbers", "no truth", "one step"])
def test_a_film_has_a_frame_a_step(tmp_path, kind):
    from PIL import Image

    rng, C, H = np.random.default_rng(0), 2, 1 if kind == "one step" else 5
    shape = (6, 8, 3) if kind == "pictures" else (9,) if kind == "many numbers" else (2,)
    seen = rng.integers(0, 255, (C + H, *shape)).astype(np.uint8 if kind == "pictures" else float)
    real = None if kind == "no truth" else seen[: C + max(1, H - 2)]
    names = tuple(f"x {i}" for i in range(shape[0]))
    got = None if real is None else np.ones(len(real) - C)
    write(Reel(C, seen, real, names, np.ones(H), np.full(H, 0.5), got), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == C + H
        assert gif.width >= 300
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]
