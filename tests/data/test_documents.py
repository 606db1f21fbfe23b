"""Token documents: what fields make of episodes and lines, how batches weigh and place them, and what is kept on disk."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import RecipeError
from seqrl.data import documents_store
from seqrl.data.dataset import DataConfig
from seqrl.data.documents import DocumentData, DocumentLoader
from seqrl.data.documents_config import DocumentsConfig, parse_fields
from seqrl.data.documents_examples import frames_of
from seqrl.data.documents_place import fill
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.data.mixture import read_tokenizer
from seqrl.data.slots import TokensConfig
from seqrl.sources._write import save_minari

H = W = 2
NEW = ["<vision>", "</vision>"]


@pytest.fixture(scope="module")
def walks(_own_folders):
    """The id of a dataset of 30 episodes: a mission, a 2 x 2 picture, and one of three actions."""
    obs = {
        "image": Modality("image", (H, W, 1), "uint8"),
        "mission": Modality("text", (), "str"),
        "side": Modality("discrete", (), "int64", n=(2,), start=(0,)),
    }
    spec = EpisodeSpec("tests/walks-v0", obs, {"action": Modality("discrete", (), "int64", n=(3,), start=(0,))})
    rng = np.random.default_rng(0)

    def episode(i):
        T = int(rng.integers(1, 9))
        pictures = rng.integers(0, 5, (T + 1, H, W, 1)).astype(np.uint8)
        words = np.array([f"go to the {('red', 'green', 'blue')[i % 3]} ball"] * (T + 1), object)
        seen = {"image": pictures, "mission": words, "side": np.full(T + 1, i % 2)}
        last = np.arange(T) == T - 1
        return Episode(seen, {"action": rng.integers(0, 3, T)}, np.zeros(T, np.float32), last, ~last & last, i, {})

    save_minari((episode(i) for i in range(30)), spec, spec.id)
    return spec.id


def tokens(pack=128, **said):
    said = {"text": {"new": NEW}, "frames": {"kind": "cells"}} | said
    return TokensConfig(pack=pack, documents=said)


def open_(sources, config, held_out=0.0):
    sources = [sources] if isinstance(sources, str) else sources
    sources = [{"kind": "minari", "id": s} if isinstance(s, str) else s for s in sources]
    data = DocumentData(DataConfig(sources=sources, held_out=held_out), config)
    tokenizer = DocumentTokenizer(config, data.modality())
    tokenizer.fit(data.frames())
    return data, tokenizer


def load(sources, config, held_out=0.0):
    data, tokenizer = open_(sources, config, held_out)
    return DocumentLoader(data, tokenizer)


def lines(folder, *made, name="lines.jsonl"):
    path = folder / name
    path.write_text("\n".join(m if isinstance(m, str) else json.dumps(m) for m in made), encoding="utf-8")
    return {"kind": "jsonl", "path": str(path)}


READY = {"vocab": 8, "tokens": 2}

# ---- fields -------------------------------------------------------------------------------------------------------------


def said(text):
    return [[(p.name, p.trained) for p in f.parts] for f in parse_fields(text)]


def test_fields_are_lwms_words():
    assert said("[task],vision") == [[("task", False)], [("vision", True)]]
    assert said(" [a+b] , c+d ") == [[("a", False), ("b", False)], [("c", True), ("d", True)]]
    assert said("vision+[action]") == [[("vision", True), ("action", False)]]
    assert said("<|bos|>,x")[0] == [("<|bos|>", True)]


@pytest.mark.parametrize("text", ["", "[task", "a,,b", "a++b", "[[a]]", "<|bos|>+a", "[]"])
def test_what_are_no_fields_is_told(text):
    with pytest.raises(RecipeError, match="field|mark"):
        parse_fields(text)
    with pytest.raises(ValidationError):
        DocumentsConfig(fields=text)


def test_frames_that_are_taken():
    assert [f.tolist() for f in frames_of(10, 4, "spread")] == [[0, 3, 6, 9]]
    assert [f.tolist() for f in frames_of(10, 4, "first")] == [[0, 1, 2, 3]]
    assert [f.tolist() for f in frames_of(10, 4, "pieces")] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert [f.tolist() for f in frames_of(5, 4, "pieces")] == [[0, 1, 2, 3], [3, 4]]
    assert [f.tolist() for f in frames_of(4, 4, "pieces")] == [[0, 1, 2, 3]]
    assert [f.tolist() for f in frames_of(3, 1, "pieces")] == [[0], [1], [2]]
    assert [f.tolist() for f in frames_of(3, None, "pieces")] == [[0, 1, 2]]


# ---- examples of episodes -----------------------------------------------------------------------------------------------


def spelled(tokenizer, ids):
    """An example in words, a frame as its codes."""
    ports, out, codes = tokenizer.ports(), [], []
    for i in ids.tolist():
        if i < ports.text:
            out.append(tokenizer.words([i]))
        elif i >= ports.frame_end:
            out.append((tuple(codes), i == ports.video_end))
            codes = []
        else:
            codes.append(i - ports.text)
    assert not codes, "a frame without its end"
    return out


def test_an_episode_as_an_example(walks):
    words = {"action": [" left", " right", " forward"]}
    data, tokenizer = open_(walks, tokens(fields="[task],vision+[action]", words=words))
    (store,) = data.prepare(tokenizer)
    ports = tokenizer.ports()
    assert len(store) == 30
    assert store.tokens == int(store.length.sum())
    for i in (0, 7, 29):
        ids, trained = store.example(i)
        episode = data.origins[0].episode(i)
        frames, T = episode.obs["image"], len(episode)
        found = spelled(tokenizer, ids)
        task = tokenizer.words(tokenizer.text(str(episode.obs["mission"][0])))
        split = found.index("<vision>")
        assert found[0] == "<s>"
        assert "".join(found[1:split]) == task
        expected = []
        for t in range(T + 1):
            expected.append((tuple(frames[t].ravel().tolist()), t == T))
            if t < T:
                expected += [tokenizer.words([k]) for k in tokenizer.text(words["action"][episode.act["action"][t]])]
        assert found[split + 1 :] == [*expected, "</vision>", "</s>"]
        # The task, the first mark and the words of actions train nothing; frames, marks of the video and the last mark do.
        spoken = np.zeros(len(ids), bool)
        first = np.flatnonzero(ids == ports.opens[0])[0]
        last = np.flatnonzero(ids == ports.closes[0])[-1]
        spoken[first + 1 : last] = ids[first + 1 : last] < ports.text
        spoken[:first] = True
        assert (trained == ~spoken).all()
        assert store.split[i] == first
        assert store.unit[i] == i


def test_actions_may_be_trained_and_frames_not(walks):
    (store,) = (made := open_(walks, tokens(fields="[vision]+action")))[0].prepare(made[1])
    ids, trained = store.example(3)
    ports = made[1].ports()
    spoken = (ids < ports.text) & ~np.isin(ids, [ports.bos, *ports.opens, *ports.closes])
    assert (trained == spoken).all()
    assert trained.sum() > 1


def test_every_code_is_there_again(walks, tmp_path):
    data, tokenizer = open_(walks, tokens())
    pictures = data.origins[0].column("obs.image")
    codes = tokenizer.codes(pictures)
    assert codes.shape == (len(pictures), H * W)
    assert (tokenizer.pictures(codes) == pictures).all()
    ports = tokenizer.ports()
    # The last code never runs into the end of a frame.
    assert ports.text + codes.max() < ports.frame_end < ports.video_end == ports.total - 1
    (store,) = data.prepare(tokenizer)
    ids = np.concatenate([store.example(i)[0] for i in range(len(store))])
    assert ids.min() >= 0
    assert ids.max() == ports.video_end
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path / "tokenizer.json")
    assert again.ports() == ports
    assert again.digest == tokenizer.digest
    assert again.to_json() == tokenizer.to_json()
    assert again.text("go to the red ball") == tokenizer.text("go to the red ball")
    assert (again.codes(pictures) == codes).all()


def test_pieces_and_spread_frames(walks):
    data, tokenizer = open_(walks, tokens(fields="vision", most_frames=3, take="pieces"))
    (store,) = data.prepare(tokenizer)
    frames = np.array([(store.example(i)[0] >= tokenizer.ports().frame_end).sum() for i in range(len(store))])
    T = data.origins[0].episodes.length
    assert frames.max() == 3
    assert frames.min() >= 2
    # Each step from frame to frame is in one piece.
    assert np.bincount(store.unit, frames - 1).tolist() == T.tolist()
    (spread,) = (made := open_(walks, tokens(fields="vision", most_frames=3)))[0].prepare(made[1])
    assert len(spread) == 30
    assert [(spread.example(i)[0] >= made[1].ports().frame_end).sum() for i in range(30)] == np.minimum(T + 1, 3).tolist()


def test_one_of_several_choices_by_number(walks):
    data, tokenizer = open_(walks, tokens(fields=["[task],vision", "vision"]))
    (store,) = data.prepare(tokenizer)
    assert 5 <= (store.split == 0).sum() <= 25


def test_choices_are_words_and_text_is_prepended(walks):
    data, tokenizer = open_(walks, tokens(fields="side+task,vision", words={"side": ["near", "far"]}, prepend="USER: "))
    (store,) = data.prepare(tokenizer)
    for i in (0, 1):
        ids = store.example(i)[0]
        text = tokenizer.words(ids[1 : int(store.split[i])])
        assert text.startswith(f"USER: {('near', 'far')[i]} go to the")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"fields": "[mision],vision"}, "no field 'mision'; did you mean 'mission'"),
        ({"fields": "task+vision"}, "joined texts"),
        ({"fields": "task+[side]", "frames": None}, "joined texts"),
        ({"fields": "action", "frames": None}, "joined to a video"),
        ({"fields": "vision+task"}, "one field of actions"),
        ({"fields": "vision+action", "most_frames": 2}, "follow each other"),
        ({"fields": "vision", "frames": None}, "codec of pictures"),
        ({"fields": "task,vision,side", "swap": 0.5}, "stand mixed"),
        ({"fields": "side,vision", "words": {"side": ["near"]}}, "2 choices need a word each"),
        ({"fields": "vision", "frames": {"kind": "patches", "size": 2}}, "not codes"),
        ({"fields": "vision", "frames": {"vocab": 5}}, "vocab: 8192, tokens: 256"),
        ({"fields": "task", "frames": None, "text": {"bos": "<never>"}}, "no token of this tokenizer"),
    ],
)
def test_what_does_not_fit_is_told(walks, config, told):
    with pytest.raises(RecipeError, match=told):
        load(walks, tokens(**config))


# ---- batches ------------------------------------------------------------------------------------------------------------


def unpack(batch):
    """(ids, target, weight, pos) of each example in a batch."""
    for b in range(len(batch.ids)):
        for k in range(int(batch.pack[b].max()) + 1):
            here = batch.pack[b] == k
            yield tuple(getattr(batch, n)[b][here].numpy() for n in ("ids", "target", "weight", "pos"))


def test_targets_stay_within_their_example(walks):
    loader = load(walks, tokens(fields="[task],vision"))
    ports, stored = loader.ports, {}
    for i in range(len(loader.stores[0])):
        ids, trained = loader.stores[0].example(i)
        stored[tuple(ids)] = trained
    batch = loader.draw(0, 0, 6)
    assert batch.ids.shape == (6, 128)
    assert batch.efficiency > 0.7
    seen = 0
    for ids, target, weight, pos in unpack(batch):
        trained = stored[tuple(ids)]
        assert (pos == np.arange(len(ids))).all()
        assert target[-1] == -1
        assert target[-2] == ports.eos
        assert (target[:-1] == np.where(trained[1:], ids[1:], -1)).all()
        # The field of what is foretold decides: fields without loss weigh exactly nothing at their own tokens.
        assert ((weight > 0) == (target >= 0)).all()
        seen += 1
    assert seen > 6
    empty = batch.pack < 0
    assert (batch.target[empty] == -1).all()
    assert not batch.weight[empty].any()
    assert not batch.counts["text"][empty].any()


@pytest.mark.parametrize("fields", ["[task],vision", ["task,vision", "task"]])
def test_packed_loss_is_that_of_padded_rows(walks, fields):
    """LWM's formula, row by row and in double precision, against sums of the batch's weights (sheet, section 5)."""
    packed, padded = (load(walks, tokens(fields=fields, mode=mode)) for mode in ("pack", "pad"))
    V = packed.ports.total

    def ce(ids, target):
        # Any cross-entropy will do that depends on what stands before; here on the token itself and its position.
        g = np.random.default_rng(int(ids.sum()) + len(ids))
        logits = g.standard_normal((len(ids), V))
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        return -logits[np.arange(len(ids)), np.maximum(target, 0)]

    for batch in (packed.draw(1, 0, 8), padded.draw(1, 0, 8)):
        sums, rows = {"text": 0.0, "vision": 0.0}, {"text": [], "vision": []}
        for ids, target, weight, _ in unpack(batch):
            loss = ce(ids, target)
            for name, mine in (("text", target < packed.ports.text), ("vision", target >= packed.ports.text)):
                valid = mine & (target >= 0)
                sums[name] += float((weight.astype(np.float64) * loss)[valid].sum())
                rows[name].append(loss[valid].sum() / max(valid.sum(), 1e-10))
        for name, counts in batch.counts.items():
            assert float(counts.sum()) == len(rows[name])
            assert abs(sums[name] / len(rows[name]) - np.mean(rows[name])) <= 1e-6


def test_tokens_count_alike_where_asked(walks):
    batch = load(walks, tokens(weigh="tokens")).draw(0, 0, 4)
    trained = batch.target >= 0
    assert (batch.weight[trained] == 1).all()
    assert float(batch.counts["text"].sum() + batch.counts["vision"].sum()) == int(trained.sum())


def test_swapped_fields_keep_their_marks(walks):
    plain, swapped = (load(walks, tokens(swap=s, fields="[task],vision")) for s in (0.0, 1.0))
    assert plain.stores[0].path == swapped.stores[0].path
    ports, orders = plain.ports, {}
    for ids, *_ in unpack(plain.draw(0, 0, 16)):
        split = int(np.flatnonzero(ids == ports.opens[0])[0])
        orders[(ids[0], *ids[split:-1], *ids[1:split], ids[-1])] = ids
    found = 0
    for ids, target, _, _ in unpack(swapped.draw(0, 0, 16)):
        assert ids[0] == ports.bos
        assert ids[1] == ports.opens[0]
        assert ids[-1] == ports.eos
        last = int(np.flatnonzero(ids == ports.closes[0])[-1])
        # Behind the video stands the task, which is not trained there either; the mark behind it is.
        assert (target[last:-2] == -1).all()
        assert target[-2] == ports.eos
        assert (target[:last] == ids[1 : last + 1]).all()
        found += tuple(ids) in orders
    assert found > 10
    both = load(walks, tokens(swap=0.5))
    turned = [ids[1] == ports.opens[0] for step in range(20) for ids, *_ in unpack(both.draw(0, step, 4))]
    assert abs(np.mean(turned) - 0.5) < 3 * 0.5 / len(turned) ** 0.5


def test_a_draw_is_a_function_of_its_arguments(walks):
    loader, again = (load(walks, tokens(swap=0.5), held_out=0.2) for _ in range(2))
    whole = again.draw(3, 11, 8)
    for world in (1, 2, 4):
        parts = [loader.draw(3, 11, 8 // world, rank, world) for rank in range(world)]
        for name in ("ids", "pack", "pos", "target", "weight"):
            assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))
        assert torch.equal(torch.cat([p.counts["text"] for p in parts]), whole.counts["text"])
    assert not torch.equal(loader.draw(3, 12, 8).ids, whole.ids)
    assert not torch.equal(loader.draw(4, 11, 8).ids, whole.ids)


def test_held_out_examples_are_never_trained_on(walks):
    loader = load(walks, tokens(), held_out=0.3)
    held, trained = set(loader.held_out.number.tolist()), set(loader.train.number.tolist())
    assert not held & trained
    assert len(held) == 9
    assert len(held | trained) == 30
    batches = list(loader.validation(100, 4))
    assert sum(1 for b in batches for _ in unpack(b)) == 9
    assert all(b.ids.shape == (4, 128) for b in batches)
    for one, two in zip(batches, loader.validation(100, 4), strict=True):
        assert torch.equal(one.ids, two.ids)
    assert sum(1 for b in loader.validation(5, 4) for _ in unpack(b)) == 5
    assert load(walks, tokens()).held_out is None


def test_long_examples_lose_their_end(walks):
    loader = load(walks, tokens(pack=24))
    lengths = loader.stores[0].length
    assert loader.cut == int((lengths > 24).sum()) > 0
    for ids, target, *_ in unpack(loader.draw(0, 0, 8)):
        assert len(ids) <= 24
        assert target[-1] == -1
    assert DocumentLoader(*open_(walks, tokens(pack=24)), length=128).draw(0, 0, 2).ids.shape == (2, 128)


def test_rows_hold_one_group(walks, tmp_path):
    chat = lines(tmp_path, *({"fields": "[q],a", "q": f"which {i}", "a": "red"} for i in range(12)))
    sources = [{"kind": "minari", "id": walks, "group": "video", "weight": 1}, chat | {"group": "chat", "weight": 3}]
    loader = load(sources, tokens(frames={"kind": "cells"}))
    assert loader.groups == ["video", "chat"]
    kinds_of_rows = []
    for step in range(30):
        batch = loader.draw(0, step, 4)
        vision = batch.ids >= loader.ports.text
        for b in range(4):
            of = {bool(vision[b][batch.pack[b] == k].any()) for k in range(int(batch.pack[b].max()) + 1)}
            assert len(of) == 1
            kinds_of_rows.append(of.pop())
    # A weight is a share of the tokens, and rows are equally long.
    assert abs(np.mean(kinds_of_rows) - 0.25) < 0.1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=80), st.integers(1, 6), st.integers(40, 64))
def test_placing(lengths, rows, L):
    length = np.array(lengths)
    placed = fill(length, rows, L)
    count = len(placed.drawn)
    assert sorted(placed.drawn.tolist()) == list(range(count)), "those drawn first, whatever their length"
    used = np.zeros((rows, L), np.int64)
    for d, r, a, k in zip(placed.drawn, placed.row, placed.at, placed.document, strict=True):
        used[r, a : a + length[d]] += 1
        assert a + length[d] <= L
        assert k == sum((placed.row == r) & (placed.at < a))
    assert used.max() <= 1
    assert used.sum() == length[:count].sum()
    assert count >= min(len(lengths), rows)


def test_a_trained_encoder_reads_the_frames(tmp_path):
    """Codec vq: its codes are the examples', its weights travel with the tokenizer, and lines of codes may name it too."""
    from seqrl.tokens import vq

    picture = Modality("image", (16, 16, 3), "uint8")
    encoder = {"kind": "vq", "encoder": vq.tiny(tmp_path, picture).encoder}
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    tokenizer = DocumentTokenizer(tokens(frames=encoder), picture)
    codes = tokenizer.codes(frames)
    ports = tokenizer.ports()
    assert codes.shape == (3, ports.frame)
    assert ports.vision == tokenizer.codec.vocab + 2
    assert ports.text + codes.max() < ports.frame_end
    source = lines(tmp_path, {"fields": "vision", "vision": codes.tolist()}, {"fields": "vision", "vision": codes[:1].tolist()})
    data, of_lines = open_([source], tokens(frames=encoder))
    assert of_lines.ports() == ports
    ids = data.prepare(of_lines)[0].example(0)[0]
    inside = ids[(ids >= ports.text) & (ids < ports.frame_end)] - ports.text
    assert (inside == codes.ravel()).all()
    (tmp_path / "kept").mkdir()
    of_lines.save(tmp_path / "kept")
    (tmp_path / "model.safetensors").unlink()
    again = read_tokenizer(tmp_path / "kept" / "tokenizer.json")
    assert again.digest == of_lines.digest
    assert (again.codes(frames) == codes).all()
    assert again.pictures(codes).shape == frames.shape


# ---- on disk ------------------------------------------------------------------------------------------------------------


def content(store):
    return {p.name: p.read_bytes() for p in store.path.iterdir()}


def test_an_interrupted_preparation_is_taken_up(walks, tmp_path, monkeypatch):
    monkeypatch.setattr(documents_store, "SHARD", 300)
    monkeypatch.setattr("seqrl.data.documents_origins._UNITS", 4)
    monkeypatch.setenv("SEQRL_CACHE", str(tmp_path))
    data, tokenizer = open_(walks, tokens())
    asked = []

    class Stop(Exception):
        pass

    def stop(done, total):
        asked.append(done)
        if done > 15:
            raise Stop

    with pytest.raises(Stop):
        data.prepare(tokenizer, stop)
    began = asked[:]
    (store,) = data.prepare(tokenizer, lambda done, total: asked.append(done))
    went_on = asked[len(began) :]
    assert 4 < went_on[0] <= began[-1] + 4
    assert went_on[-1] == 30
    assert len(list(store.path.glob("ids-*.bin"))) > 2
    assert not list(store.path.glob("table-*"))
    whole = content(store)
    assert not list(store.path.parent.glob("*.partial"))
    # Prepared again in one go, the same bytes.
    shutil.rmtree(store.path)
    assert content(data.prepare(tokenizer)[0]) == whole
    # And found where it is, by content: nothing is prepared a second time.
    again, same = open_(walks, tokens(swap=0.3, weigh="tokens", pack=256))
    assert again.prepare(same, lambda *_: pytest.fail("prepared again"))[0].path == store.path
    # A file that was cut is not read.
    file = store.path / "ids-00001.bin"
    file.write_bytes(file.read_bytes()[:-2])
    assert content(data.prepare(tokenizer)[0]) == whole


def test_other_settings_are_other_documents(walks):
    paths = set()
    for config in (tokens(), tokens(fields="vision"), tokens(most_frames=2), tokens(prepend="a"), tokens(text={})):
        data, tokenizer = open_(walks, config)
        paths.add(data.prepare(tokenizer)[0].path)
    assert len(paths) == 5


def test_ids_take_two_bytes_where_they_fit(walks, tmp_path):
    (small,) = (made := open_(walks, tokens()))[0].prepare(made[1])
    assert small.dtype == "uint16"
    source = lines(tmp_path, {"fields": "vision", "vision": [69_999, 0]}, {"fields": "vision", "vision": [1, 2]})
    (big,) = (made := open_([source], tokens(frames={"vocab": 70_000, "tokens": 2})))[0].prepare(made[1])
    ports = made[1].ports()
    assert big.dtype == "uint32"
    assert big.example(0)[0][2] == ports.text + 69_999 == ports.frame_end - 1
