"""A pretrained language model as a policy: its words stay its own, an action is never a word, and a bundle stands alone."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig, Qwen2Config

from seqrl import bundle
from seqrl.core.contracts import Ports
from seqrl.core.errors import BundleError, RecipeError
from seqrl.core.packed import PackedBatch, Part
from seqrl.core.stream import StreamBatch
from seqrl.nn import bodies
from seqrl.policies import _words, vla
from seqrl.rollout import evaluate
from seqrl.sources import collected
from seqrl.tokens._train_text import train
from seqrl.train import checkpoint, recipe, run
from seqrl.train.signals import Interrupted

TEXTS = ["go to the red ball", "go to the blue key", "pick up the green box", "a ball is ahead"]
WORDS = train(TEXTS, 300)
N = WORDS.get_vocab_size()
SIZE = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
CONFIGS = {
    "llama": lambda **s: LlamaConfig(
        vocab_size=N, hidden_size=16, intermediate_size=32, max_position_embeddings=128, **SIZE, **({"eos_token_id": N - 1} | s)
    ),
    "gpt2": lambda: GPT2Config(vocab_size=N + 5, n_embd=16, n_layer=2, n_head=2, n_positions=128),
    # Words are tied, and there are rows behind the last of them.
    "qwen2": lambda: Qwen2Config(
        vocab_size=N + 40, hidden_size=16, intermediate_size=32, tie_word_embeddings=True, max_position_embeddings=128, **SIZE
    ),
}
kinds = pytest.mark.parametrize("kind", CONFIGS)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """kind -> the folder of a language model with a tokenizer; its weights are random, and larger than they begin."""
    found = {}
    for i, (kind, config) in enumerate(CONFIGS.items()):
        folder = found[kind] = str(tmp_path_factory.mktemp(kind))
        torch.manual_seed(i)
        model = AutoModelForCausalLM.from_config(config())
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(3)
        model.save_pretrained(folder)
        WORDS.save(f"{folder}/tokenizer.json")
    return found


def ports(layout="task | vector code action", words=N, **more):
    codes, numbers = {"task": (4, words + 1), "code": (2, 6), "action": (3, 7)}, {"vector": 3}
    names = layout.replace("|", " ").replace(">", " ").split()
    widths = {n: codes[n][0] if n in codes else numbers[n] for n in names}
    vocabs = {n: codes[n][1] if n in codes else 0 for n in names}
    shares = {n: {"task": "text-x", "code": "choice", "action": "bins7"}.get(n, "") for n in names}
    tokens = {n: 1 if n in numbers else widths[n] for n in names}
    return {"a": Ports(layout, widths, vocabs, dict.fromkeys(names, False), tokens, shares, **more)}


def make(base, layout="task | vector code action", length=96, **settings):
    torch.manual_seed(0)
    config = vla.Config.for_domains(ports(layout), length, base=base, **settings)
    return vla.Model.begin(config).eval()


def windows(B=3, T=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = {n: torch.randint(v, (B, T, k), generator=g) for n, k, v in (("code", 2, 6), ("action", 3, 7))}
    task = torch.tensor([WORDS.encode(TEXTS[b]).ids[:4] for b in range(B)])[:, None].expand(B, T, 4)
    draw |= {"vector": torch.randn(B, T, 3, generator=g), "task": task}
    return StreamBatch(draw, torch.arange(T).expand(B, T), torch.full((B,), T))


def row(T=2, words=4):
    """One row: a text of ``words`` words and ``T`` steps."""
    batch = windows(1, T)
    values = {n: v[0] for n, v in batch.values.items()} | {"task": batch.values["task"][:, 0]}
    W, at = 6, torch.arange(T) * 6 + words
    L = words + T * W
    front = torch.tensor([0]), {"task": torch.tensor([words])}, torch.ones(1), frozenset(["task"])
    one = Part(values, at, torch.arange(T), torch.ones(T), *front)
    return PackedBatch({"a": one}, torch.zeros(1, L, dtype=torch.int64), torch.arange(L)[None])


# ---- words and tokens -------------------------------------------------------------------------------------------------


@kinds
def test_a_text_is_to_the_body_what_it_always_was(bases, kind):
    """Fed a mission, the policy's trunk and its head of words say what the language model itself says."""
    model = make(bases[kind], losses=["action", "task"])
    twin = AutoModelForCausalLM.from_pretrained(bases[kind]).eval()
    ids = torch.tensor([WORDS.encode(t).ids[:4] for t in TEXTS])
    with torch.no_grad():
        x = model.embed.tokens("a", ["task"], {"task": ids})
        assert torch.equal(x, twin.get_input_embeddings()(ids))
        logits = model.heads.codes(model.trunk(x), model.embed.ranges["a", "task"])
        torch.testing.assert_close(logits[..., :N], twin(ids).logits[..., :N].float(), rtol=1e-5, atol=1e-5)
        # And so is the loss on a text, but for the one more code it might have been: the padding.
        value, weight = model(row()).terms["task"]
        own = F.cross_entropy(logits[0, :3], ids[0, 1:], reduction="none")
    assert weight.tolist() == [0, 1, 1, 1]
    torch.testing.assert_close(value[1:], own)


@kinds
@pytest.mark.parametrize("begin", ["least_used", "new"])
def test_tokens_begin_like_words(bases, kind, begin):
    model = make(bases[kind], actions=begin)
    words, table = model.trunk.embedding.weight, model.embed.table
    assert table.words == len(words)
    count = len(table.own.weight)
    # Behind the words of the tokenizer one more for its padding; codes share, numbers have none.
    assert count == max(N + 1 - len(words), 0) + 6 + 7
    pairs = [(table.own.weight, words)]
    if model.trunk.head is not None:
        pairs.append((model.heads.codes.own, model.trunk.head_weight))
    assert (model.trunk.head is None) == (kind != "llama") == (model.heads.codes.own is None)
    for own, of in pairs:
        if begin == "new":
            near = 0.5 * of.std(0).norm()
            assert ((own - of.mean(0)).norm(dim=1) < near).all()
            assert len(own.unique(dim=0)) == count
        else:
            last = _words.quiet_ids(model.config.body, len(of), count)
            assert torch.equal(own, of[last])
            if kind == "llama":
                assert N - 1 not in last, "the end of a text must not become an action"
            else:
                assert last == list(range(len(of) - count, len(of)))


@kinds
@pytest.mark.parametrize("vocabulary", ["shared", "own"])
def test_an_action_is_never_a_word(bases, kind, vocabulary):
    """Constrained by construction: however loud the words are, the codes said are the slot's."""
    model = make(bases[kind], vocabulary=vocabulary)
    player = model.player("a")
    with torch.no_grad():
        direction = model.trunk(model.embed(row()))[0].mean(0)
        model.trunk.head_weight.copy_(100 * direction.expand_as(model.trunk.head_weight))
    batch, seen = windows(), set()
    for seed in range(20):
        u = torch.rand(3, 3, generator=torch.Generator().manual_seed(seed))
        said = player.act(batch, sample=True, uniform=u, temperature=5.0)["action"]
        assert ((said >= 0) & (said < 7)).all()
        seen |= set(said.flatten().tolist())
    assert len(seen) > 3
    y = model.trunk(model.embed(row()))[:, -3:]
    own = model.heads.codes(y, model.embed.ranges["a", "action"])
    assert own.shape == (1, 3, 7)
    assert model.trunk.logits(y).max() > own.max() + 10, "the words were not the louder"


def test_special_tokens_are_left_out():
    assert _words.quiet_ids({"eos_token_id": [9, 7], "bos_token_id": 8, "pad_token_id": None}, 10, 3) == [4, 5, 6]
    with pytest.raises(RecipeError, match="least_used takes 10 words from a body of 10; take new"):
        _words.quiet_ids({"eos_token_id": 9}, 10, 10)


# ---- what trains ------------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("how", ["lora", "freeze", "all"])
def test_what_is_frozen_stays_and_what_is_ours_moves(bases, kind, how):
    model = make(bases[kind], **{"lora": {"lora": {"rank": 2}}, "freeze": {"freeze": True}, "all": {}}[how]).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optim = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    seen = []
    for _ in range(15):
        value, weight = model(row()).sums()["action"]
        seen.append((value / weight).item())
        optim.zero_grad()
        (value / weight).backward()
        optim.step()
    assert seen[-1] < seen[0]
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    body = {n for n in moved if n.startswith("trunk.")}
    assert "embed.table.own.weight" in moved
    assert "embed.inputs.a-vector.weight" in moved
    assert (model.heads.codes.own is None) or "heads.codes.own" in moved
    if how == "all":
        # Texts are fed and never predicted: a matrix that only words need has no gradient, and asks for none.
        assert all(p.requires_grad for n, p in model.named_parameters() if n != "trunk.head.weight")
        assert "trunk.decoder" in str(body)
    else:
        assert all(".lora_" in n for n in body)
        assert bool(body) == (how == "lora")


# ---- a bundle stands alone --------------------------------------------------------------------------------------------


RECIPE = """
name: small
data: {{sources: [{{kind: minari, id: tests/babyai-v0, domain: local}}], held_out: 0.2}}
tokens:
  layout: task | image direction action
  pack: 48
  slots:
    task: {{kind: text, tokenizer: "{base}"}}
    image: {{kind: patches, encoder: conv}}
model: {{kind: policies.vla, base: "{base}"}}
train: {{steps: 6, batch: 2, lr: 1e-2, save_every: 2, log_every: 1, validate_every: 3, validate_windows: 4, device: cpu}}
evaluate: {{at_end: false, episodes: 2, envs: 2}}
"""


@pytest.fixture(scope="module")
def babyai(_own_folders):
    collected.collect("BabyAI-GoToLocal-v0", 5, "tests/babyai-v0", "random")


@pytest.fixture
def small(babyai, bases, tmp_path):
    """A recipe with a base of this test's own, and the folder of that base."""
    base = tmp_path / "base"
    shutil.copytree(bases["llama"], base)
    return lambda *overrides: recipe.parse(RECIPE.format(base=base), "small.yaml", overrides), base


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.lora={rank: 2, dropout: 0.1}", "train.ema=0.9", "train.losses={action: 1, task: 0.1}"),
        ("model.freeze=true",),
        (),
    ],
)
def test_train_stop_go_on_load_and_play(small, tmp_path, monkeypatch, overrides):
    """The whole road; once training has begun the base is gone, and nobody misses it."""
    made, base = small
    straight, broken, step = tmp_path / "straight", tmp_path / "broken", run.Trainer.step

    def stops(self, number):
        step(self, number)
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    run.start(made(*overrides), straight)
    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", stops)
        with pytest.raises(Interrupted):
            run.start(made(*overrides), broken)
    shutil.rmtree(base)
    run.resume(broken)
    a, b = (load_file(checkpoint.last(out) / "trainer" / "state.safetensors") for out in (straight, broken))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(n.startswith("average/") for n in a) == ("ema" in str(overrides))
    if overrides:
        moments = {n for n in a if n.startswith("optimizer/exp_avg/trunk")}
        assert all("lora_" in n for n in moments)
        assert bool(moments) == ("lora" in str(overrides))

    for reader in (bodies.AutoConfig, AutoModelForCausalLM):
        monkeypatch.setattr(reader, "from_pretrained", None)
    found = bundle.load(straight)
    assert found.model.config.base == str(base)
    saved = load_file(checkpoint.last(straight) / "bundle" / "model.safetensors")
    now = found.model.state_dict()
    assert now.keys() == saved.keys()
    assert all(torch.equal(now[n], saved[n]) for n in saved)
    assert not any(t.is_meta for t in (*found.model.buffers(), *found.model.parameters()))
    again = bundle.load(broken).model
    assert torch.equal(*(m.trunk.embedding(torch.arange(N)) for m in (found.model, again)))
    player = found.model.player("local")
    g = torch.Generator().manual_seed(0)
    values = {
        "task": torch.randint(N, (2, 3, player.domain.tokens("task")), generator=g),
        "image": torch.randint(11, (2, 3, 147), generator=g).to(torch.uint8),
        "direction": torch.randint(4, (2, 3, 1), generator=g),
        "action": torch.randint(7, (2, 3, 1), generator=g),
    }
    batch = StreamBatch(values, torch.arange(3).expand(2, 3), torch.full((2,), 3))
    said = [m.player("local").act(batch, sample=True, uniform=torch.full((2, 1), 0.5))["action"] for m in (found.model, again)]
    assert torch.equal(*said)
    report = evaluate.evaluate_all(found.model, found.tokenizer, made("evaluate.episodes=2").evaluate)["local"]
    assert len(report.targets) == 1


def test_a_strangers_config_brings_only_a_body(bases, tmp_path):
    """What a config may name besides (code, kernels, quantisers, folders) is not kept, and no base is looked at."""
    model = make(bases["llama"])
    model.config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["base"] = "stranger/evil"
    raw["body"] |= {"auto_map": {"AutoConfig": "evil.Evil"}, "quantization_config": {"quant_method": "evil"}}
    names = ("_name_or_path", "_attn_implementation", "attn_implementation", "experts_implementation")
    raw["body"] |= dict.fromkeys(names, "evil/it")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = bundle.read_config(tmp_path, "policies.vla")
    _, body = config.plan()
    assert body == model.config.plan()[1]
    assert "evil" not in json.dumps(body)
    with torch.device("meta"):
        empty = vla.Model(config)
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty.eval()(row()).terms["action"][0], model(row()).terms["action"][0])
    assert empty.trunk.decoder.config._attn_implementation == "sdpa"
    for body in ({"model_type": "evil"}, {"model_type": "t5"}, {"model_type": "llama", "hidden_size": -1}, "evil"):
        (tmp_path / "config.json").write_text(json.dumps(raw | {"body": body}))
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
        with pytest.raises(BundleError, match="do not belong together"):
            bundle.load_model(tmp_path, "policies.vla")


@pytest.mark.parametrize("kind", [*CONFIGS, "gemma"])
def test_a_body_wakes_from_where_there_are_no_numbers(bases, kind):
    """What no file holds (angles of positions, the loudness of words) is there again when a bundle is loaded."""
    if kind == "gemma":
        body = GemmaConfig(vocab_size=N + 1, hidden_size=16, intermediate_size=32, head_dim=8, **SIZE).to_dict()
        torch.manual_seed(0)
        model = vla.Model.begin(vla.Config.for_domains(ports(), 96, body=body)).eval()
        ids = torch.tensor([[N + 1]])
        assert torch.equal(model.embed.table(ids), 4 * model.embed.table.own(ids - N - 1))
    else:
        model = make(bases[kind])
    with torch.device("meta"):
        empty = vla.Model(model.config)
    empty.load_state_dict(model.state_dict(), assign=True)
    assert not any(t.is_meta for t in (*empty.buffers(), *empty.parameters()))
    assert torch.equal(empty.eval()(row()).terms["action"][0], model(row()).terms["action"][0])


def test_a_policy_without_codes_needs_no_tokens(bases):
    """Numbers in, numbers out: nothing stands behind the body's words, and everything works."""
    port = ports("task | vector action")["a"]
    port = replace(port, vocabs=port.vocabs | {"action": 0}, tokens=port.tokens | {"action": 1})
    model = vla.Model.begin(vla.Config.for_domains({"a": port}, 96, base=bases["qwen2"]))
    assert model.embed.table.own.weight.shape == (0, 16)
    batch = row()
    values = {n: v for n, v in batch.parts["a"].values.items() if n != "code"} | {"action": torch.rand(2, 3)}
    part = replace(batch.parts["a"], values=values, at=torch.tensor([4, 6]))
    batch = PackedBatch({"a": part}, batch.pack[:, :8], batch.pos[:, :8])
    total, count = model(batch).sums()["action"]
    total.backward()
    assert float(count) == float(model.counts(batch)["action"]) > 0
    steps = {n: v[:, None].expand(1, 2, 4) if n == "task" else v[None] for n, v in values.items()}
    found = model.eval().player("a").act(StreamBatch(steps, torch.arange(2)[None], torch.tensor([2])))
    assert found["action"].shape == (1, 3)


# ---- wrong input ------------------------------------------------------------------------------------------------------


def test_wrong_input_is_named(bases, tmp_path):
    ask = vla.Config.for_domains
    base = bases["llama"]
    with pytest.raises(RecipeError, match="name the language model to begin with.*here is neither"):
        ask(ports(), 96)
    with pytest.raises(RecipeError, match="not both"):
        ask(ports(), 96, base=base, body={"model_type": "llama"})
    with pytest.raises(RecipeError, match=r"model.base: '/nowhere' is no folder"):
        ask(ports(), 96, base="/nowhere")
    with pytest.raises(RecipeError, match=r"'llama' sees 128 tokens at most, and a row has 129; set tokens.pack=128"):
        ask(ports(), 129, base=base)
    with pytest.raises(RecipeError, match=rf"of 'task' has 290 ids, and '.*' has {N}: .*set tokens.slots.task.tokenizer=/"):
        ask(ports(words=290), 96, base=bases["qwen2"])
    with pytest.raises(RecipeError, match=rf"tokenizer of 'task' has {N + 1} ids, and the body has {N}"):
        ask(ports(words=N + 1), 96, body=CONFIGS["llama"]().to_dict())
    with pytest.raises(RecipeError, match="'task' is a text and stands behind '>'"):
        ask(ports("vector action > task"), 96, base=base)
    with pytest.raises(RecipeError, match="transformers has no decoder of the model_type 'lama'.*did you mean 'llama'"):
        ask(ports(), 96, body={"model_type": "lama"})
    with pytest.raises(RecipeError, match="'least' is none of least_used, new"):
        ask(ports(), 96, base=base, actions="least")
    with pytest.raises(RecipeError, match="model.lora.rang: unknown.*did you mean 'rank'"):
        ask(ports(), 96, base=base, lora={"rang": 2})
    with pytest.raises(RecipeError, match="model.lora.rank: 'two' is none of its values"):
        ask(ports(), 96, base=base, lora={"rank": "two"})
    with pytest.raises(RecipeError, match="model.freeze: with model.lora the body is frozen already"):
        ask(ports(), 96, base=base, lora={"rank": 2}, freeze=True)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"]().to_dict()))
    with pytest.raises(RecipeError, match="no decoder could be loaded"):
        vla.Model.begin(ask(ports(), 96, base=str(tmp_path)))
    with pytest.raises(RecipeError, match="least_used takes 13 words from a body of 12"):
        vla.Model(ask(ports("vector code action"), 96, body=CONFIGS["llama"](eos_token_id=2).to_dict() | {"vocab_size": 12}))
