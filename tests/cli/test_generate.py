"""Asking a bundle for videos and texts on the command line: what comes out, what is written, and what is refused."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from seqrl import bundle
from seqrl.data.dataset import DataConfig
from seqrl.data.documents import DocumentData
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.slots import TokensConfig
from seqrl.rollout._documents import document_ids
from seqrl.rollout._held_out import HeldOut
from seqrl.sources import collected
from seqrl.worlds import lwm

WORDS = ["left", "right", "forward", "pickup", "drop", "toggle", "done"]
TEXT = {"tokenizer": "missions", "new": ["<vision>", "</vision>"]}
DOCUMENTS = {"fields": "task,vision+action", "frames": {"kind": "cells"}, "words": {"action": WORDS}, "text": TEXT}
DOCUMENTS |= {"most_frames": 5, "take": "pieces"}
DATA = {"sources": [{"kind": "minari", "id": "tests/documents-v0"}], "held_out": 0.5}


def save(folder, documents, data, length=350):
    """A bundle with random weights for some data."""
    tokens = TokensConfig(pack=length, documents=documents)
    opened = DocumentData(DataConfig(**data), tokens)
    tokenizer = DocumentTokenizer(tokens, opened.modality())
    tokenizer.fit(opened.frames())
    torch.manual_seed(0)
    losses = ["text", "vision"] if tokenizer.frame else ["text"]
    model = lwm.Model(lwm.Config.tiny(tokenizer.ports(), length, losses=losses))
    recipe = {"name": "small", "data": data, "tokens": json.loads(tokens.model_dump_json()), "model": {"kind": "worlds.lwm"}}
    bundle.save(folder, model, tokenizer, yaml.safe_dump(recipe), {})
    return folder


@pytest.fixture(scope="module")
def small(_own_folders, tmp_path_factory):
    """The bundle of a model of BabyAI with random weights, and its held-out examples."""
    collected.collect("BabyAI-GoToLocal-v0", 6, "tests/documents-v0", "random")
    folder = save(tmp_path_factory.mktemp("small"), DOCUMENTS, DATA)
    loaded = bundle.load(folder)
    return str(folder), HeldOut(loaded.recipe, loaded.tokenizer)


def test_what_was_held_out_is_found_again(small):
    _, held_out = small
    assert len(held_out) > 3
    for i in range(3):
        clip = held_out.clip(i)
        assert clip.codes.shape[1] == 49
        assert len(clip.actions) == len(clip.codes) - 1
        assert held_out.ids(i) == document_ids(held_out.ports, clip)
    # Half of six episodes, each from its beginning.
    first = held_out.beginnings()
    assert len(first) == 3
    assert first[0] == 0
    clips = held_out.long_clips(4, 8)
    assert clips
    assert all(c.codes.shape == (4, 49) and len(c.actions) == 3 for c in clips)


def test_a_video_of_a_text(small, seqrl, tmp_path):
    gif, png, told = (tmp_path / n for n in ("a.gif", "a.png", "a.json"))
    words = ("--frames", "3", "--guidance", "2", "--seed", "1", "--gif", gif, "--png", png, "--json", told)
    code, out, err = seqrl("generate", small[0], "--text", "go to the red ball", *map(str, words))
    assert code == 0, err
    assert "text    go to the red ball" in out
    found = json.loads(told.read_text())
    assert np.array(found["codes"]).shape == (3, 49)
    assert len(found["actions"]) == 2
    assert set(found["actions"]) <= set(WORDS)
    assert "real" not in found
    with Image.open(gif) as film, Image.open(png) as strip:
        assert film.n_frames == 3
        assert strip.size == (3 * film.size[0], film.size[1])
    again = tmp_path / "b.json"
    seqrl("generate", small[0], "--text", "go to the red ball", *map(str, words[:6]), "--json", str(again))
    assert json.loads(again.read_text()) == found


def test_a_video_with_the_actions_asked_for(small, seqrl, tmp_path):
    told = tmp_path / "a.json"
    named = "left,forward, toggle"
    code, _, err = seqrl(
        "generate", small[0], "--text", "go to the key", "--frames", "5", "--actions", named, "--json", str(told)
    )
    assert code == 0, err
    assert json.loads(told.read_text())["actions"][:3] == ["left", "forward", "toggle"]


@pytest.mark.parametrize("actions", ["data", "own"])
def test_a_held_out_video_goes_on(small, seqrl, tmp_path, actions):
    folder, held_out = small
    clip = held_out.clip(1)
    told, gif = tmp_path / "a.json", tmp_path / "a.gif"
    words = ("--video", "1", "--context", "2", "--frames", "3", "--actions", actions, "--temperature", "0", "--gif", gif)
    code, out, err = seqrl("generate", folder, *map(str, words), "--json", str(told))
    assert code == 0, err
    found = json.loads(told.read_text())
    assert found["codes"][:2] == clip.codes[:2].tolist()
    assert np.array(found["codes"]).shape == (5, 49)
    assert len(found["actions"]) == 4
    assert found["actions"][0] == bundle.load(folder).tokenizer.words(clip.actions[0])
    assert found["real"]["frames"] == min(3, len(clip.codes) - 2)
    assert 0 <= found["real"]["cell"] <= 1
    assert "codes right" in out
    assert "agent's cell" in out
    with Image.open(gif) as film:
        assert film.n_frames == 5


def test_a_text_of_a_video(small, seqrl, tmp_path):
    folder, held_out = small
    told, codes = tmp_path / "a.json", tmp_path / "codes.npy"
    code, out, err = seqrl("generate", folder, "--video", "0", "--most", "4", "--json", str(told))
    assert code == 0, err
    found = json.loads(told.read_text())
    assert found["real"].startswith("go to the")
    assert found["text"] in out
    # The same frames out of a file: codes, or pictures.
    np.save(codes, held_out.clip(0).codes[:4])
    assert seqrl("generate", folder, "--video", str(codes), "--most", "4", "--text", "what is this")[0] == 0
    np.save(codes, bundle.load(folder).tokenizer.pictures(held_out.clip(0).codes[:4]))
    code, out, _ = seqrl("generate", folder, "--video", str(codes), "--most", "4")
    assert code == 0
    assert "with it in the data" not in out


def test_wrong_input_is_named(small, seqrl, tmp_path, cartpole):
    folder = small[0]

    def refused(*words):
        code, _, err = seqrl("generate", *map(str, words))
        assert code == 2
        assert "Traceback" not in err
        return " ".join(err.split())

    assert "say what of" in refused(folder)
    assert "--context goes on with a video" in refused(folder, "--text", "go", "--context", 2)
    long = refused(folder, "--text", "go to the ball", "--frames", 20)
    assert re.search(r"20 frames with its text takes 1,\d+ tokens.*context has 350; ask for [456] frames at most", long)
    assert "there is no action 'jump'" in refused(folder, "--text", "go", "--actions", "left,jump")
    assert "there is no held-out example 9999; there are 0 to" in refused(folder, "--video", 9999)
    assert "there is no such file" in refused(folder, "--video", "film.gif")
    assert "draw a video that is said" in refused(folder, "--video", 0, "--gif", tmp_path / "a.gif")
    assert "this video has" in refused(folder, "--video", 0, "--context", 999)
    assert "there is no folder" in refused(folder, "--text", "go", "--gif", tmp_path / "no" / "a.gif")
    assert "closer to its text, and there is none" in refused(folder, "--text", "", "--guidance", 3)
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    assert "no array of frames" in refused(folder, "--video", tmp_path / "broken.npy")
    np.save(tmp_path / "codes.npy", np.full((2, 49), 10_000))
    assert "codes of frames are whole numbers from 0 to" in refused(folder, "--video", tmp_path / "codes.npy")
    np.save(tmp_path / "small.npy", np.zeros((2, 5, 5, 3), np.uint8))
    assert "frames of shape (5, 5, 3), where the data have (7, 7, 3)" in refused(folder, "--video", tmp_path / "small.npy")


def test_models_that_say_no_videos_are_named(seqrl, tmp_path):
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"task": f"go to ball {i}"}) for i in range(4)))
    data = {"sources": [{"kind": "jsonl", "path": str(tmp_path / "texts.jsonl")}], "held_out": 0.25}
    folder = save(tmp_path / "texts", {"fields": "task", "text": TEXT}, data, 64)
    code, _, err = seqrl("generate", str(folder), "--text", "go")
    assert code == 2
    assert "knows no video" in " ".join(err.split())
