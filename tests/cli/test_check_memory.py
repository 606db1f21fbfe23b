"""The plan of a recipe, as a table."""

import pytest

RECIPE = """
name: small
data: {sources: [{kind: jsonl, path: none.jsonl}]}
tokens: {pack: 256, documents: {text: {tokenizer: nobody/reads-this}, frames: {vocab: 64, tokens: 16}}}
model:
  kind: worlds.lwm
  body: {model_type: llama, hidden_size: 64, num_hidden_layers: 3, num_attention_heads: 4, intermediate_size: 176,
         vocab_size: 200}
train: {losses: {text: 0.5, vision: 0.5}}
engine: {processes: 4, sequence: 2, kind: fsdp}
stages:
  - {length: 256, rope_base: 1e4, steps: 3, batch: 8}
  - {length: 1024, rope_base: 1e6, steps: 2, batch: 2}
evaluate: {at_end: false}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_the_table(seqrl, recipe):
    code, out, err = seqrl("check", recipe, "--memory", "--device", "GiB=0.004,TFLOPS=1,LINK=0.001")
    assert code == 0, err
    for said in ("4 x GiB=0.004", "fsdp, 2 to a row", "256", "1K", "kept by layers", "keys under way", "longest row that fits"):
        assert said in out, said
    assert "NO" in out, "what does not fit"
    assert "engine.recompute=blocks" in out, "and what may help"
    assert "bound by" in out
    assert "1e+06" in out
    assert "200 ids of the body's config" in out


def test_options_that_mean_nothing(seqrl, recipe):
    for words, said in (
        (("--device", "h100"), "--device goes with --memory"),
        (("--memory", "--processes", "0"), "at least 1"),
        (("--memory", "--device", "h1000"), "did you mean 'h100'"),
        (("--memory", "--processes", "3"), "no multiple of engine.sequence=2"),
    ):
        code, _, err = seqrl("check", recipe, *words)
        assert code == 2, err
        assert said in err, err


def test_without_the_flag_nothing_is_planned(seqrl, recipe):
    code, out, _ = seqrl("check", recipe)
    assert code == 0
    assert "GiB" not in out
    assert "5 steps in 2 stages" in out
