"""Needles: what is found is counted where it was hidden. Readers that see only so far back miss what lies further."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import UserError
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer
from seqrl.rollout._needle_keys import Keys
from seqrl.rollout._needle_words import Haystack, words_of
from seqrl.rollout.needle import NeedleConfig, check_positions, measure, positions
from seqrl.sources._key_value import ID
from seqrl.sources.haystack import Config
from seqrl.worlds import lwm

SHORT = {"needle": " The magic number of {key} is {value}.", "question": " The magic number of {key} is", "answer": " {value}."}
RECIPE = {"data": {"sources": [{"kind": "haystack", **SHORT, "numbers": [10, 99]}]}, "model": {"kind": "worlds.lwm"}}


@pytest.fixture(scope="module")
def tokenizer():
    return DocumentTokenizer(TokensConfig(pack=256, documents={"fields": "text", "text": {"tokenizer": "needles"}}))


class Reader:
    """Reads perfectly what lies at most ``far`` tokens back, and keeps what it was told."""

    def __init__(self, tokenizer, far):
        self.tokenizer, self.far, self.ports = tokenizer, far, tokenizer.ports()
        self.config = SimpleNamespace(length=256)
        self.trunk = SimpleNamespace(stretched=[])
        self.trunk.stretch = lambda length, base: self.trunk.stretched.append((length, base))
        self.read_rows = []

    def say(self, rows, tokens):
        self.told, self.room = [[] for _ in range(rows)], tokens
        self.read_rows.append(self.told)
        return self

    def read(self, ids, real, chunk=1024):
        for row, (one, n) in enumerate(zip(ids.tolist(), real.tolist(), strict=True)):
            self.told[row] += one[:n]
            assert len(self.told[row]) <= self.room

    def scores(self, modality):
        assert modality == "text"
        out = torch.zeros(len(self.told), self.ports.text)
        for row, ids in enumerate(self.told):
            said = self.tokenizer.words(ids[-self.far :])
            asked = re.search(r"magic number of (\w+) is((?: \d+)?)(\.?)$", said)
            found = asked and re.findall(rf"magic number of {asked[1]} is (\d+)\.", said)
            if asked is None or asked[3]:
                out[row, self.ports.eos] = 1
            else:
                word = "." if asked[2] else f" {found[0]}" if found else " 10"
                out[row, self.tokenizer.text(word)[0]] = 1
        return out


def bundle(tokenizer, far=10**6):
    return SimpleNamespace(model=Reader(tokenizer, far), tokenizer=tokenizer, recipe=RECIPE)


def test_a_prompt_has_its_length_and_its_needle_its_depth(tokenizer):
    config = NeedleConfig((128, 200), (0.0, 0.3, 1.0), rounds=2)
    made = bundle(tokenizer)
    found = measure(made, config)
    assert found.recall.tolist() == [[1, 1]] * 3
    assert found.total == 2
    rows = [ids for told in made.model.read_rows for ids in told]
    jobs = [job for length in config.lengths for jobs in config.jobs(length) for job in jobs]
    assert len(rows) == len(jobs) == 12
    for ids, job in zip(rows, jobs, strict=True):
        # Exactly as long as was asked for, when the answer is as long as it may be.
        assert len(ids) in range(job.length - 8, job.length + 1)
        text = tokenizer.words(ids)
        assert text.startswith("<s>")
        at = text.index(" The magic number")
        assert text[at - 1] in ".>"
        # The text ends with a sentence, behind which the question stands.
        assert text[text.rindex(" The magic number") - 1] == "."
        share = len(tokenizer.text(text[:at])) / (job.length - 20)
        assert abs(share - job.depths[0]) < 9 / (job.length - 20) + 0.02


def test_who_sees_only_so_far_finds_only_what_is_near(tokenizer):
    found = measure(bundle(tokenizer, 60), NeedleConfig((64, 240), (0.0, 0.5, 1.0), rounds=8))
    assert found.recall[:, 0].tolist() == [1, 1, 1]
    # One number of ninety may be guessed.
    assert found.recall[0, 1] <= 0.25
    assert found.recall[1, 1] <= 0.25
    assert found.recall[2, 1] == 1


def test_of_several_needles_the_share_found_is_told(tokenizer):
    config = NeedleConfig((250,), (), needles=4, asked=3, rounds=10)
    assert measure(bundle(tokenizer), config).recall.tolist() == [[1]]
    near = measure(bundle(tokenizer, 130), config)
    assert near.recall.shape == (1, 1)
    assert 0.15 < near.recall[0, 0] < 0.85
    assert near.total == 30


def test_what_is_found_does_not_depend_on_what_else_is_tried(tokenizer):
    one = measure(bundle(tokenizer, 100), NeedleConfig((240,), (0.0, 0.5), rounds=4, seed=3))
    two = measure(bundle(tokenizer, 100), NeedleConfig((64, 240), (0.0, 0.5), rounds=4, seed=3))
    assert one.found[:, 0].tolist() == two.found[:, 1].tolist()
    assert [s for s in two.said if s["length"] == 240] == list(one.said)


def test_a_haystack_of_ones_own(tokenizer):
    text = "A fox ran. It saw a dog! Then it slept? Yes."
    hay = Haystack(tokenizer, text)
    ids = hay.take(200, np.random.default_rng(0))
    said = tokenizer.words(ids.tolist())
    assert said[-1] in ".!?"
    assert said.count("A fox ran.") >= 3
    assert len(ids) == 200
    ends = hay.ends(ids).tolist()
    assert (ends[0], ends[-1]) == (0, 200)
    assert all(tokenizer.words(ids[:end].tolist())[-1] in ".!?" for end in ends[1:])
    plain = Haystack(tokenizer, "no stop at all")
    assert plain.ends(plain.take(9, np.random.default_rng(0))).tolist() == list(range(10))
    with pytest.raises(UserError, match="haystack"):
        Haystack(tokenizer, "")


def test_longer_than_the_model_wants_another_base(tokenizer):
    made = bundle(tokenizer)
    with pytest.raises(UserError, match="--rope-base"):
        measure(made, NeedleConfig((128, 512), (0.5,), rounds=1))
    with pytest.raises(UserError, match="leave it out"):
        measure(made, NeedleConfig((128,), (0.5,), rounds=1, rope_base=1e6))
    found = measure(made, NeedleConfig((1024, 128, 512), (0.5,), rounds=1, rope_base=1e6))
    assert made.model.trunk.stretched == [(1024, 1e6)]
    assert found.bases == (1e6, None, 1e6)
    assert found.recall.tolist() == [[1, 1, 1]]


def test_positions_are_those_of_the_rows_or_of_the_body():
    for own, many in ((None, 256), (128, 256), (4096, 4096)):
        assert positions(SimpleNamespace(config=SimpleNamespace(length=256), trunk=SimpleNamespace(max_positions=own))) == many
    check_positions(NeedleConfig((4096,), (0.5,)), 4096)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lengths": ()}, "lengths"),
        ({"lengths": (5, 5)}, "lengths"),
        ({"depths": (1.2,)}, "depths"),
        ({"needles": 2}, "depths"),
        ({"needles": 2, "depths": (), "asked": 3}, "asked"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_tests_that_are_none(wrong, said):
    with pytest.raises(UserError, match=said):
        NeedleConfig(**wrong)


def test_too_short_is_said(tokenizer):
    with pytest.raises(UserError, match="24 tokens are too few"):
        measure(bundle(tokenizer), NeedleConfig((24,), (0.5,)))
    with pytest.raises(UserError, match="32 cities"):
        measure(bundle(tokenizer), NeedleConfig((256,), (), needles=33))


def test_sentences_of_the_recipe_or_for_any_language_model():
    assert words_of(RECIPE).hide("Rome", 12) == " The magic number of Rome is 12."
    assert words_of({"data": {"sources": [{"kind": "jsonl"}]}}).numbers == (1_000_000, 9_999_999)
    assert set(SHORT) < set(Config.model_fields)


def test_a_model_of_the_house_is_asked_and_stretched(tokenizer):
    torch.manual_seed(0)
    model = lwm.Model(lwm.Config.tiny(tokenizer.ports(), 256, losses=["text"])).eval()
    made = SimpleNamespace(model=model, tokenizer=tokenizer, recipe=RECIPE)
    found = measure(made, NeedleConfig((128, 512), (0.5,), rounds=2, rope_base=1e5))
    assert found.recall.shape == (1, 2)
    assert model.trunk.max_positions == 512
    with pytest.raises(UserError, match=r"worlds\.rssm"):
        measure(
            SimpleNamespace(model=SimpleNamespace(), tokenizer=tokenizer, recipe={"model": {"kind": "worlds.rssm"}}),
            NeedleConfig(),
        )


# ---- trajectories ---------------------------------------------------------------------------------------------------


class Looker:
    """Answers a question by what stood beside its key at most ``far`` steps ago."""

    def __init__(self, far):
        self.far, self.model = far, torch.nn.Linear(1, 1)

    def act(self, batch, sample=False):
        state = batch.values["state"]
        assert state.shape[1] == int(batch.length.max()) == batch.time.shape[1]
        keys, values = state[..., :12].argmax(-1), state[..., 12:].argmax(-1)
        answers = []
        for key, value in zip(keys, values, strict=True):
            assert value[-1] == 0, "what is asked for is asked last"
            there = ((key == key[-1]) & (value > 0))[-self.far :]
            answers.append(int(value[-self.far :][there][0]) if there.any() else 0)
        return {"action": torch.tensor(answers)[:, None]}


@pytest.fixture(scope="module")
def keys_tokenizer():
    """For episodes of an environment with 6 keys, 5 values and 6 kinds of noise."""
    settings = {"keys": 6, "values": 5, "noise": 6, "least": 8, "most": 20, "pairs": 3}
    seen = Modality("vector", (18,), "float32", (0.0,) * 18, (1.0,) * 18)
    done = Modality("discrete", (), "int64", n=(6,))
    spec = EpisodeSpec("tests/keys-v0", {"observation": seen}, {"action": done}, {"id": ID, "kwargs": settings})
    slots = {"state": {"kind": "vector", "scale": "none"}}
    return Tokenizer(TokensConfig(pack=64, layout="state > action", slots=slots), spec)


def test_a_policy_is_asked_in_its_environment(keys_tokenizer):
    config = NeedleConfig((20, 60), (0.0, 0.5, 1.0), rounds=6)
    keys = Keys(Looker(10**6), keys_tokenizer, config)
    for length in config.lengths:
        for jobs in config.jobs(length):
            assert all(a["right"] for answers in keys(jobs) for a in answers)
    near = Keys(Looker(15), keys_tokenizer, config)
    (jobs,) = config.jobs(60)
    right = np.array([[a["right"] for a in answers] for answers in near(jobs)])[:, 0]
    assert right.tolist() == [job.row == 2 for job in jobs]
    several = NeedleConfig((40,), (), needles=4, asked=3, rounds=5)
    (jobs,) = several.jobs(40)
    answers = Keys(Looker(10**6), keys_tokenizer, several)(jobs)
    assert all(len(a) == 3 and all(x["right"] for x in a) for a in answers)
    with pytest.raises(UserError, match="too few"):
        Keys(Looker(1), keys_tokenizer, several).check(6)
    with pytest.raises(UserError, match="6 keys"):
        Keys(Looker(1), keys_tokenizer, NeedleConfig((99,), (), needles=7))
