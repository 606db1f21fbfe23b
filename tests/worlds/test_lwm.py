"""A language model of texts and videos: parity with one plain vocabulary, LWM's weights, the body it stands on."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, LlamaForCausalLM, PhiConfig

from seqrl.context.cut import cut_rows
from seqrl.core.documents import DocumentBatch, DocumentPorts
from seqrl.core.errors import RecipeError
from seqrl.tokens._train_text import train
from seqrl.worlds import lwm

WORDS = train(["go to the red ball", "go to the blue key", "pick up the green box"], 290)
N = WORDS.get_vocab_size()
PORTS = DocumentPorts(text=N, vision=34, frame=4, bos=1, eos=2, opens=(3, 4), closes=(5,))
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
L = 64


def make(stir=0.3, ports=PORTS, **settings):
    torch.manual_seed(0)
    settings = {"body": {"model_type": "llama", **SIZE}} | settings
    model = lwm.Model.begin(lwm.Config.for_documents(ports, L, **settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            # As they are at birth, nothing would depend on much.
            p.add_(torch.randn_like(p) * stir)
    return model


def examples(seed=0, ports=PORTS):
    """Ids of three examples, with whether each is trained: text to video, video to text, text alone."""
    g = torch.Generator().manual_seed(seed)

    def text(n):
        return torch.randint(6, ports.text, (n,), generator=g).tolist()

    def video(frames):
        ids = list(ports.opens)
        for t in range(frames):
            ids += (ports.text + torch.randint(ports.vision - 2, (ports.frame,), generator=g)).tolist()
            ids.append(ports.video_end if t == frames - 1 else ports.frame_end)
        return [*ids, *ports.closes]

    rows = [[ports.bos, *t, ports.eos] for t in (text(4) + video(3), video(1) + text(5), text(7))]
    # Of the first only the video is trained, of the others all.
    return [
        (torch.tensor(ids), torch.tensor([i > (6 if r == 0 else 0) for i in range(len(ids))])) for r, ids in enumerate(rows)
    ]


def lay(parts, packed, ports=PORTS):
    """The batch of some examples in one row, or in a row each, with LWM's weights: a token counts 1 over those of its modality
    in its example, and the number of examples is what is divided by."""
    rows = [parts] if packed else [[p] for p in parts]
    blank = torch.zeros(len(rows), L, dtype=torch.int64)
    ids, pack, pos, target = blank.clone(), blank - 1, blank.clone(), blank - 1
    weight, begins = torch.zeros(len(rows), L), torch.zeros(len(rows), L)
    for b, row in enumerate(rows):
        at = 0
        for number, (one, trained) in enumerate(row):
            n, here = len(one), slice(at, at + len(one))
            ids[b, here], pack[b, here], pos[b, here] = one, number, torch.arange(n)
            asked = torch.where(trained[1:], one[1:], -1)
            target[b, at : at + n - 1] = asked
            for of in ((asked >= 0) & (asked < ports.text), asked >= ports.text):
                weight[b, at : at + n - 1] += of / max(int(of.sum()), 1)
            begins[b, at] = 1
            at += n
    return DocumentBatch(ids, pack, pos, target, weight, {"text": begins, "vision": begins})


def loss(sums):
    return 0.5 * sum(total / count for total, count in sums.values())


# ---- parity -----------------------------------------------------------------------------------------------------------


def twin_of(model):
    """A plain llama whose one vocabulary is the words and behind them the codes."""
    body = model.trunk
    config = LlamaConfig(**body.config.to_dict() | {"vocab_size": PORTS.total})
    twin = LlamaForCausalLM(config).eval()
    state = {f"model.{n}": t for n, t in body.decoder.state_dict().items()}
    state["model.embed_tokens.weight"] = torch.cat((body.embedding.weight, model.tables.vision.weight))
    state["lm_head.weight"] = torch.cat((body.head_weight, model.tables.head))
    twin.load_state_dict(state)
    return twin


def lwm_loss(twin, parts):
    """The paper's loss of examples in rows of their own, in float64: each modality's mean over its targets in an example, then
    over all examples, half and half. The other modality's logits are hidden."""
    twin, sums = twin.double(), torch.zeros(2, dtype=torch.float64)
    for ids, trained in parts:
        logits = twin(ids[None]).logits[0, :-1]
        target, vision = ids[1:], torch.arange(PORTS.total) >= PORTS.text
        hidden = logits.masked_fill(vision[None] != (target >= PORTS.text)[:, None], -torch.inf)
        each = F.cross_entropy(hidden, target, reduction="none")
        for m in (0, 1):
            here = trained[1:] & ((target >= PORTS.text) == bool(m))
            if here.any():
                sums[m] += each[here].mean()
    return 0.5 * (sums / len(parts)).sum()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk", [3, 1024])
def test_one_vocabulary_with_the_other_modality_hidden_gives_the_same_loss(packed, chunk):
    """And packed rows the same as rows of one example each: LWM's masked packing."""
    model, parts = make(chunk=chunk), examples()
    twin = twin_of(model)
    ours = loss(model(lay(parts, packed)).sums())
    theirs = lwm_loss(twin, parts)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)
    ours.backward()
    theirs.backward()
    rows = twin.model.embed_tokens.weight.grad.float().split([PORTS.text, PORTS.vision])
    heads = twin.lm_head.weight.grad.float().split([PORTS.text, PORTS.vision])
    for a, b in (
        (model.trunk.embedding.weight.grad, rows[0]),
        (model.tables.vision.weight.grad, rows[1]),
        (model.trunk.head.weight.grad, heads[0]),
        (model.tables.head.grad, heads[1]),
        (model.trunk.decoder.layers[0].mlp.up_proj.weight.grad, twin.model.layers[0].mlp.up_proj.weight.grad.float()),
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_naive_mean_over_packed_tokens_would_be_another_loss():
    model, parts = make(), examples()
    batch = lay(parts, True)
    asked = (batch.target >= 0).float()
    vision = batch.target >= PORTS.text
    naive = replace(batch, weight=asked, counts={"text": asked * ~vision, "vision": asked * vision})
    assert abs(float(loss(model(batch).sums())) - float(loss(model(naive).sums()))) > 1e-3


@pytest.mark.parametrize("places", [False, True])
def test_a_cut_row_gives_what_the_row_gives(places):
    """One process's piece of rows that are cut over one: no mask is made, and nothing else changes."""
    model, batch = make(frame_places=places), lay(examples(), True)
    batch = replace(batch, counts={"text": batch.counts["text"], "vision": batch.weight})
    cut = replace(batch, cut=cut_rows(batch.pack, None, 1, 0))
    a, b = model(batch).sums(), model(cut).sums()
    for name in a:
        torch.testing.assert_close(a[name][0], b[name][0], rtol=1e-5, atol=1e-5)
        assert float(a[name][1]) == pytest.approx(float(b[name][1]))
        assert float(model.counts(cut)[name]) == float(b[name][1])
    for losses, name in ((a, "text"), (b, "vision")):
        losses[name][0].backward()
    assert model.tables.head.grad.abs().sum() > 0


def test_pieces_of_a_row_add_up_to_it():
    """Each process counts its own places alone, whichever they are."""

    class Piece:
        def __init__(self, at):
            self.at = at

        def take(self, x):
            return x.flatten(0, 1)[self.at][None]

    model, batch = make(), lay(examples(), True)
    with torch.no_grad():
        y = model.trunk(model.tables(batch.ids), pack=batch.pack, pos=batch.pos)
    model.trunk.forward = lambda x, pos, cut: y.flatten(0, 1)[cut.at][None]
    order = torch.randperm(L, generator=torch.Generator().manual_seed(0))
    pieces = [model(replace(batch, cut=Piece(at))).sums() for at in order.split(L // 4)]
    del model.trunk.forward
    for name, (total, count) in model(batch).sums().items():
        torch.testing.assert_close(sum(p[name][0] for p in pieces), total)
        assert float(sum(p[name][1] for p in pieces)) == float(count) == 3


def test_a_code_tells_its_place_within_the_frame():
    """Counted within each frame, wherever a piece of the row begins; what is no code has the last place."""
    tables, K, first = make(frame_places=True).tables, PORTS.frame, PORTS.text
    video = [*range(first, first + K), PORTS.frame_end, *[first] * K, PORTS.video_end]
    ids = torch.tensor([[PORTS.bos, *PORTS.opens, *video, *PORTS.closes]])
    lead = 1 + len(PORTS.opens)
    expected = [K] * lead + [*range(K), K, *range(K), K] + [K] * len(PORTS.closes)
    assert tables.place(ids)[0].tolist() == expected
    for at in range(1, ids.shape[1]):
        before = expected[at - 1] + 1 if expected[at - 1] < K else 0
        assert tables.place(ids[:, at:], torch.tensor([before]))[0].tolist() == expected[at:]
    assert make().tables.place(ids) is None


# ---- the body ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a language model with a tokenizer; its weights are random, and larger than they begin."""
    folder = str(tmp_path_factory.mktemp("base"))
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=N, max_position_embeddings=128, **SIZE))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    model.save_pretrained(folder)
    WORDS.save(f"{folder}/tokenizer.json")
    return folder


def test_a_text_is_to_the_body_what_it_always_was(base):
    model = make(0, body=None, base=base)
    twin = AutoModelForCausalLM.from_pretrained(base).eval()
    ids = torch.tensor([WORDS.encode("go to the red ball").ids])
    with torch.no_grad():
        assert torch.equal(model.tables(ids), twin.get_input_embeddings()(ids))
        said = model.tables.scores(model.trunk(model.tables(ids)), "text")
        torch.testing.assert_close(said, twin(ids).logits, rtol=1e-5, atol=1e-5)
    assert model.config.body["vocab_size"] == N
    assert model.tables.vision.weight.std() < 0.03


@pytest.mark.parametrize("how", ["all", "freeze", "lora"])
def test_what_is_trained(base, how):
    settings = {"all": {}, "freeze": {"freeze": True}, "lora": {"lora": {"rank": 2}}}[how]
    model = make(0, body=None, base=base, **settings).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optim = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(2):
        loss(model(lay(examples(), True)).sums()).backward()
        optim.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {"tables.vision.weight", "tables.head"} <= moved
    of_body = {n for n in moved if n.startswith("trunk.")}
    assert bool(of_body) == (how != "freeze")
    if how == "lora":
        assert all(".lora_" in n for n in of_body)
    if how == "all":
        assert moved == set(before)


def test_one_modality_alone_is_trained():
    model = make(losses=["vision"]).train()
    sums = model(lay(examples(), True)).sums()
    assert set(sums) == {"vision"}
    sums["vision"][0].backward()
    # A matrix that only words need has no gradient, and asks for none.
    assert [n for n, p in model.named_parameters() if p.grad is None] == ["trunk.head.weight"]
    assert not model.trunk.head.weight.requires_grad
    text = make(losses=["text"])
    assert [n for n, p in text.named_parameters() if not p.requires_grad] == ["tables.head"]


def test_texts_without_videos_need_no_codes():
    ports = DocumentPorts(N, 2, 0, 1, 2, (), ())
    model = make(ports=ports, losses=["text"]).train()
    parts = [(torch.tensor([1, 7, 8, 9, 2]), torch.ones(5, dtype=torch.bool))] * 2
    total, count = model(lay(parts, True, ports)).sums()["text"]
    assert float(count) == 2
    total.backward()
    with pytest.raises(RecipeError, match="these documents have no 'vision'.*there are: text"):
        lwm.Config.tiny(ports, L)


@pytest.mark.parametrize(
    "body",
    [
        PhiConfig(vocab_size=N + 3, max_position_embeddings=L, **SIZE),
        GemmaConfig(vocab_size=N + 3, head_dim=8, num_key_value_heads=1, max_position_embeddings=L, **SIZE),
    ],
    ids=lambda b: b.model_type,
)
def test_bodies_with_biases_scales_ties_and_rows_to_spare(body):
    """What a family does to its words is done to them, and to codes where it must; rows nobody says are not scored."""
    model = make(0.1, body=body.to_dict())
    ids = torch.tensor([[7, N + 3]])
    x = model.tables(ids)[0]
    if body.model_type == "gemma":
        torch.testing.assert_close(x[1], 4 * model.tables.vision.weight[3])
        assert model.trunk.head is None
    y = model.trunk(x[None])[0]
    whole = model.trunk.logits(y)
    torch.testing.assert_close(model.tables.scores(y, "text"), whole[:, :N])
    value = model.tables.loss(y, torch.tensor([7, 8]), "text", 1)
    torch.testing.assert_close(value, F.cross_entropy(whole[:, :N], torch.tensor([7, 8]), reduction="none"))
    model(lay(examples(), True)).sums()["text"][0].backward()


def test_a_longer_context_is_in_the_config_too():
    """A stage that grows the context, and a bundle of it that is whole."""
    model, batch = make(), lay(examples(), True)
    before = model(batch).terms["vision"][0]
    model.stretch(2 * L)
    assert torch.equal(model(batch).terms["vision"][0], before)
    model.stretch(None, 1e6)
    after = model(batch).terms["vision"][0]
    assert not torch.allclose(after, before)
    assert model.config.length == 2 * L
    assert model.config.plan()[1]["max_position_embeddings"] == 2 * L
    with torch.device("meta"):
        again = lwm.Model(model.config)
    again.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(again.eval()(batch).terms["vision"][0], after)
    assert again.say(1, 2 * L).lengths.tolist() == [0]


def test_a_strangers_config_brings_only_a_body(tmp_path):
    model = make()
    raw = model.config.to_dict()
    raw["body"] |= {"auto_map": {"AutoConfig": "evil.Evil"}, "_attn_implementation": "evil/it", "quantization_config": {}}
    config = lwm.Config(**{k: v for k, v in raw.items() if k in lwm.Config.__annotations__})
    assert "evil" not in json.dumps(config.plan()[1])
    assert config.plan() == model.config.plan()


# ---- wrong input ------------------------------------------------------------------------------------------------------


def test_wrong_input_is_named(base):
    ask, llama = lwm.Config.for_documents, {"model_type": "llama", **SIZE}
    with pytest.raises(RecipeError, match="name the language model to begin with.*here is neither"):
        ask(PORTS, L)
    with pytest.raises(RecipeError, match="not both"):
        ask(PORTS, L, base=base, body=llama)
    with pytest.raises(RecipeError, match="'llama' sees 128 tokens at most, and a row has 129; set tokens.pack=128"):
        ask(PORTS, 129, base=base)
    more = replace(PORTS, text=N + 1)
    with pytest.raises(RecipeError, match=rf"{N + 1} ids, and the body {N} words.*set tokens.documents.text.tokenizer=/"):
        ask(more, L, base=base)
    with pytest.raises(RecipeError, match=rf"{N - 1} ids, and that of '.*' {N}: words would be taken for others"):
        ask(replace(PORTS, text=N - 1), L, base=base)
    with pytest.raises(RecipeError, match="or leave out body.vocab_size"):
        ask(PORTS, L, body=llama | {"vocab_size": 12})
    with pytest.raises(RecipeError, match="no 'visio'.*did you mean 'vision'"):
        ask(PORTS, L, body=llama, losses=["visio"])
    with pytest.raises(RecipeError, match="at least one of text, vision"):
        ask(PORTS, L, body=llama, losses=[])
    with pytest.raises(RecipeError, match="model.chunk: a number at least 1"):
        ask(PORTS, L, body=llama, chunk=0)
    with pytest.raises(RecipeError, match="model.freeze: with model.lora"):
        ask(PORTS, L, body=llama, freeze=True, lora={"rank": 2})
    with pytest.raises(RecipeError, match="no decoder of the model_type 'lama'.*did you mean 'llama'"):
        ask(PORTS, L, body={"model_type": "lama"})
    with pytest.raises(RecipeError, match="has no ports"):
        lwm.Config().plan()
    with pytest.raises(RecipeError, match="positions for 64 tokens, and the context has 65"):
        make().say(1, 65)
