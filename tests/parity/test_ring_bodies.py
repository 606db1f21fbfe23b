"""Two processes and one row: what a body says of its piece, under ring attention, is what it says of the whole, gradients too.

All bodies run in one pair of processes (ring_bodies_worker.py), for starting them is most of what it takes.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from seqrl.context.cut import cut_rows
from seqrl.core.errors import RecipeError
from seqrl.nn.pretrained import Pretrained
from seqrl.nn.transformer import FAMILIES

WORKER = Path(__file__).with_name("ring_bodies_worker.py")
_spec = importlib.util.spec_from_file_location("ring_bodies_worker", WORKER)
worker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worker)
SHARED, WORDS, ZOO = worker.SHARED, worker.WORDS, worker.ZOO
EXACT = 2e-5
# A minute of arithmetic in two processes; on a machine that is busy with others it may take several.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("ring")
    run = [sys.executable, str(WORKER)]
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    both = [subprocess.Popen([*run, str(rank), str(folder)], **said) for rank in (0, 1)]
    try:
        for process in both:
            out, _ = process.communicate(timeout=580)
            assert process.returncode == 0, out[-3000:]
    finally:
        for process in both:
            process.kill()
    return json.loads((folder / "found.json").read_text())


def exact(of):
    assert max(of["gaps"]) < EXACT, of


def test_there_are_enough_of_them():
    assert len(ZOO) >= 17


@pytest.mark.parametrize("name", ZOO)
def test_decoders_of_transformers_say_the_same(found, name):
    exact(found[f"zoo {name}"])
    assert found[f"zoo {name}"]["calls"] == 2


@pytest.mark.parametrize("layout", ["balanced", "contiguous"])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_trunk_says_the_same(found, family, layout):
    exact(found[f"own {family} {layout}"])
    assert found[f"own {family} {layout}"]["calls"] == 2


@pytest.mark.parametrize("how", ["blocks", "offload"])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_trunk_computes_again_under_the_cut_of_each_pass(found, family, how):
    exact(found[f"own {family} {how}"])


@pytest.mark.parametrize("name", ["llama", "gpt2", "stablelm", "mixtral"])
def test_decoders_compute_again_under_the_cut_of_each_pass(found, name):
    exact(found[f"zoo {name} blocks"])


def test_pieces_of_streams_add_up_to_the_whole(found):
    streams = {key: of for key, of in found.items() if key.startswith("streams")}
    assert len(streams) == 4 * 8 + 4 + 1
    wrong = {key: of for key, of in streams.items() if not max(of["gaps"]) < EXACT}
    assert not wrong


def alone(pack):
    return cut_rows(pack, None, 1, 0)


REFUSED = [
    ("mistral", {"sliding_window": 8}, "look back 8 tokens only"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "look back 8 tokens only"),
    ("gemma2", {}, "caps the scores"),
    ("gemma3_text", {"head_dim": 8}, "a sliding window"),
    ("gpt_oss", {"head_dim": 8, "num_local_experts": 4}, "a sliding window"),
    ("olmo3", {}, "a sliding window"),
    ("doge", {}, "makes a mask of its own"),
    ("diffllama", {}, "asked the ring 4 times in 2 layers"),
    ("llama", {"attention_dropout": 0.1}, "attention_dropout: ring attention never holds"),
    ("gpt2", {"attn_pdrop": 0.1}, "attention_dropout: ring attention never holds"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic rope"),
    ("phi3", {"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
    ("bloom", {}, "takes no position_ids"),
    ("gptj", {}, "'gptj'"),
    ("falcon", {}, "'falcon'"),
    ("deepseek_v3", {}, "'deepseek_v3'"),
]


@pytest.mark.parametrize(("name", "more", "message"), REFUSED, ids=[f"{n} {' '.join(m)}".strip() for n, m, _ in REFUSED])
def test_what_a_ring_cannot_honour_is_refused_by_name(name, more, message):
    plain = {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "attn_pdrop": 0.0} if name == "gpt2" else SHARED
    if name == "phi3":
        factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
        more = {"rope_parameters": more["rope_parameters"] | factors | {"rope_theta": 1e4}}

    def ask():
        body = Pretrained(CONFIG_MAPPING[name](**(plain | more)))
        body.prepare_ring()
        body.prove_ring(1, alone)

    with pytest.raises(RecipeError, match=message) as told:
        ask()
    assert f"'{name}'" in str(told.value)


def test_values_of_another_width_are_refused():
    body = Pretrained(CONFIG_MAPPING["llama"](**SHARED))
    body.config.qk_head_dim, body.config.v_head_dim = 8, 4
    with pytest.raises(RecipeError, match="'llama' has values of 4 numbers for keys of 8"):
        body.prepare_ring()


@pytest.mark.parametrize("name", ["llama", "gpt2", "nemotron", "stablelm"])
@torch.no_grad()
def test_without_a_cut_nothing_changes(name):
    plain = {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "attn_pdrop": 0.0} if name == "gpt2" else SHARED
    torch.manual_seed(0)
    body = Pretrained(CONFIG_MAPPING[name](**plain)).eval()
    x, pack = torch.randn(2, 12, 32), torch.tensor([[0] * 5 + [1] * 7, [0] * 10 + [-1] * 2])

    def passes():
        cache = body.init_cache(2, 12)
        return body(x), body(x, pack=pack), body.extend(x[:, :7], cache), body.extend(x[:, 7:], cache)

    before = passes()
    body.prepare_ring()
    assert all(torch.equal(a, b) for a, b in zip(passes(), before, strict=True))
    padded = torch.tensor([[1] * 12, [0] * 4 + [1] * 8])
    own = body.decoder(inputs_embeds=x, attention_mask=padded, use_cache=False).last_hidden_state
    body.decoder.set_attn_implementation("sdpa")
    assert torch.equal(own, body.decoder(inputs_embeds=x, attention_mask=padded, use_cache=False).last_hidden_state)
