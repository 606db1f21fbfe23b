"""Every model kind that reads token documents keeps the contract; a new file is tested the day it is added.

They live among the worlds and policies, but promise something else: losses of texts and videos, and to say them. So they are
held to that, and not to acting or dreaming.
"""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel

from seqrl.core import kinds
from seqrl.core.contracts import Model
from seqrl.core.documents import DocumentBatch, DocumentPorts
from seqrl.core.errors import RecipeError

KINDS = [f"{room}.{n}" for room in ("policies", "worlds") for n in kinds.names(room)]
KINDS = [k for k in KINDS if kinds.reads_documents(k)]
every = pytest.mark.parametrize("kind", KINDS)
PORTS = DocumentPorts(text=20, vision=10, frame=3, bos=18, eos=19, opens=(16,), closes=(17,))
L = 48


def test_there_are_kinds():
    assert "worlds.lwm" in KINDS


def make(kind, **settings):
    module = kinds.load(kind)
    torch.manual_seed(0)
    return module.Model(module.Config.tiny(PORTS, L, **settings)).eval()


def example(g, text=3, frames=2):
    """Ids of a text and the video it goes with."""
    P, ids = PORTS, [PORTS.bos, *torch.randint(16, (text,), generator=g).tolist(), *PORTS.opens]
    for t in range(frames):
        ids += (P.text + torch.randint(P.vision - 2, (P.frame,), generator=g)).tolist()
        ids += [P.frame_end if t < frames - 1 else P.video_end]
    return [*ids, *PORTS.closes, P.eos] if frames else [*ids[:-1], P.eos]


def rows(seed=0):
    """Two rows of examples; the last places of the second are empty."""
    g = torch.Generator().manual_seed(seed)
    ids, pack, pos = torch.zeros(2, L, dtype=torch.int64), torch.full((2, L), -1), torch.zeros(2, L, dtype=torch.int64)
    target = torch.full((2, L), -1)
    for b, sizes in enumerate([[(3, 2), (5, 1), (4, 0), (2, 1)], [(4, 3), (2, 0)]]):
        at = 0
        for number, size in enumerate(sizes):
            one = torch.tensor(example(g, *size))
            end = at + len(one)
            ids[b, at:end], pack[b, at:end], pos[b, at:end] = one, number, torch.arange(len(one))
            target[b, at : end - 1] = one[1:]
            at = end
    weight = torch.where(target >= 0, 0.5 + torch.rand(2, L, generator=g), 0.0)
    # Not what the weights add up to: the number is the loader's to state.
    counts = {"text": (target >= 0) * 0.1, "vision": (pack >= 0) * 0.2}
    return DocumentBatch(ids, pack, pos, target, weight, counts)


@every
def test_forward_answers_the_promised_losses(kind):
    model, batch = make(kind), rows()
    assert isinstance(model, PreTrainedModel)
    assert isinstance(model, Model)
    losses = model.train()(batch)
    assert tuple(losses.terms) == tuple(model.losses) == ("text", "vision")
    sums = losses.sums()
    assert all(total.isfinite() and total > 0 for total, _ in sums.values())
    for name, (value, weight) in losses.terms.items():
        assert value.dtype == torch.float32
        here = batch.target >= PORTS.text if name == "vision" else (batch.target >= 0) & (batch.target < PORTS.text)
        assert torch.equal(weight, batch.weight[here])
        assert len(value) == int(here.sum())
        assert float(sums[name][1]) == float(model.counts(batch)[name]) == pytest.approx(float(batch.counts[name].sum()))
    sum(total / count for total, count in sums.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every
def test_rows_in_pieces_count_as_much(kind):
    model, batch = make(kind), rows()
    whole = model(batch).sums()
    pieces = [model(piece).sums() for piece in batch.split(2)]
    for name, (total, count) in whole.items():
        torch.testing.assert_close(sum(p[name][0] for p in pieces), total)
        torch.testing.assert_close(sum(p[name][1] for p in pieces), count)


@every
@pytest.mark.parametrize("modality", ["text", "vision"])
def test_without_targets_of_a_modality_it_counts_nothing_and_still_has_gradients(kind, modality):
    """Several processes wait for the gradient of every matrix, also of one whose modality a batch lacks."""
    model, batch = make(kind).train(), rows()
    others = batch.target < PORTS.text if modality == "vision" else batch.target >= PORTS.text
    batch = replace(batch, weight=batch.weight * others, counts={})
    sums = model(batch).sums()
    assert [float(x) for x in sums[modality]] == [0, 0]
    sum(total for total, _ in sums.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every
def test_a_few_steps_of_training_lower_the_loss(kind):
    model, batch = make(kind), rows()
    optim = torch.optim.AdamW(model.train().parameters(), 3e-3)
    seen = []
    for _ in range(30):
        loss = sum(total / count for total, count in model(batch).sums().values())
        optim.zero_grad()
        loss.backward()
        optim.step()
        seen.append(loss.item())
    assert seen[-1] < 0.9 * seen[0]


@every
def test_saved_and_loaded_bit_for_bit(kind, tmp_path):
    model, batch, module = make(kind), rows(), kinds.load(kind)
    model.save_pretrained(tmp_path)
    again = module.Model.from_pretrained(tmp_path)
    # And as a bundle is loaded: built on the meta device, given the file's weights.
    with torch.device("meta"):
        empty = module.Model(module.Config.from_pretrained(tmp_path))
    empty.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    assert not any(t.is_meta for t in (*empty.buffers(), *empty.parameters()))
    before = model.state_dict()
    for other in (again, empty.eval()):
        after = other.state_dict()
        assert list(before) == list(after)
        assert all(torch.equal(before[n], after[n]) for n in before)
        a, b = (m(batch).terms for m in (model, other))
        assert all(torch.equal(a[n][0], b[n][0]) for n in a)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"].startswith("seqrl_")


@every
def test_settings_can_be_read_without_importing(kind):
    module, found = kinds.load(kind), kinds.settings(kind)
    assert {"ports", "length", "losses"} <= set(found)
    assert issubclass(module.Config, PreTrainedConfig)
    config = module.Config.tiny(PORTS, 7)
    assert config.length == 7
    assert DocumentPorts.from_json(config.ports) == PORTS
    with pytest.raises(RecipeError, match="unknown setting"):
        module.Config.tiny(PORTS, 7, nonsense=1)


@every
def test_a_token_sees_its_own_example_up_to_itself(kind):
    """Bit for bit: neither what comes after a token nor another example moves what it foretells."""
    model, batch = make(kind), rows()
    before = model(batch).terms
    at = 7
    pack, here = batch.pack, torch.arange(L)
    # The same targets asked, from other ids: those of other examples, and those of the future.
    others = (pack != pack[:, at : at + 1]) | (here > at)
    moved = torch.where(others & (pack >= 0), (batch.ids + 3) % PORTS.total, batch.ids)
    after = model(replace(batch, ids=moved)).terms
    kept = 0
    for name, (value, _) in before.items():
        here_m = batch.target >= PORTS.text if name == "vision" else (batch.target >= 0) & (batch.target < PORTS.text)
        same = (~others)[here_m & (batch.weight > 0)]
        assert torch.equal(value[same], after[name][0][same])
        assert not torch.equal(value[~same], after[name][0][~same])
        kept += int(same.sum())
    assert kept > 8


@every
@pytest.mark.parametrize("chunk", [1, 5])
def test_what_is_said_is_what_a_whole_row_foretells(kind, chunk):
    """Prompts of different lengths, read in pieces and gone on from: the scores are those of rows computed anew."""
    model = make(kind)
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(PORTS.total, (3, 20), generator=g)
    real = torch.tensor([12, 0, 7])
    saying = model.say(3, 20)
    saying.read(ids[:, :12], real, chunk)
    assert saying.lengths.tolist() == [12, 0, 7]
    # One row is told two more tokens, one its first, the last nothing.
    more = torch.stack((ids[0, 12:14], ids[1, :2], ids[2, 7:9]))
    saying.read(more, torch.tensor([2, 1, 0]), chunk)
    assert saying.lengths.tolist() == [14, 1, 7]
    for row, length in enumerate((14, 1, 7)):
        whole = model.say(1, 20)
        whole.read(ids[row : row + 1, :length])
        for modality, size in (("text", PORTS.text), ("vision", PORTS.vision)):
            said = saying.scores(modality)[row]
            assert said.shape == (size,)
            torch.testing.assert_close(said, whole.scores(modality)[0], rtol=0, atol=1e-5)
            # And what training scores there.
            target = PORTS.text if modality == "vision" else 0
            one = DocumentBatch(
                ids[row : row + 1, :length],
                torch.zeros(1, length, dtype=torch.int64),
                torch.arange(length)[None],
                torch.full((1, length), target),
                torch.ones(1, length),
            )
            value = model(one).terms[modality][0][-1]
            torch.testing.assert_close(-said.log_softmax(-1)[0], value, rtol=0, atol=1e-5)
