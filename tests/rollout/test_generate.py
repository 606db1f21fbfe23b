"""Saying videos and texts: the form is right whatever the weights, and what is said is what the model foretells."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seqrl.core.documents import DocumentPorts
from seqrl.core.errors import DataError, UserError
from seqrl.rollout import generate
from seqrl.rollout._continued import compare
from seqrl.rollout._documents import Clip, document_ids, read_document, video_ids
from seqrl.rollout._grids import agent_cell, draw_grid, is_grid, shows_agent
from seqrl.rollout.generate import Draw, Manner, say_texts, say_videos
from seqrl.worlds import lwm

K, TEXT, CODES = 4, 20, 8
PORTS = DocumentPorts(TEXT, CODES + 2, K, bos=18, eos=19, opens=(14, 15), closes=(16, 17))
LIKELIEST = Manner(vision=Draw(0), text=Draw(0))
# One word is of two tokens, two begin alike.
WORDS = ((3,), (4, 5), (4, 6))
L = 96


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "frame_places"])
def model(request):
    torch.manual_seed(0)
    made = lwm.Model(lwm.Config.tiny(PORTS, L, frame_places=request.param)).eval()
    with torch.no_grad():
        for p in made.parameters():
            # As they are at birth, nothing would depend on much.
            p.mul_(3).add_(torch.randn_like(p) * 0.1)
    return made


def clip(seed=0, frames=2, text=3, actions=0):
    rng = np.random.default_rng(seed)
    done = tuple(WORDS[i] for i in rng.integers(3, size=actions))
    return Clip(rng.integers(CODES, size=(frames, K)), tuple(rng.integers(14, size=text).tolist()), (), done)


def row_scores(model, ids, modality):
    """``[len(ids), V]``: what each place of a row foretells, computed at once."""
    ids = torch.tensor([ids])
    with torch.no_grad():
        return model.tables.scores(model.trunk(model.tables(ids, model.tables.place(ids)))[0], modality)


# ---- documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", [0, 2])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_document_taken_apart_and_put_together(actions, swapped):
    one = clip(frames=3, actions=actions)
    one = replace(one, text=(), after=one.text) if swapped else one
    ids = document_ids(PORTS, one)
    assert (ids[0], ids[-1], len(ids)) == (18, 19, 9 + 3 * (K + 1) + sum(map(len, one.actions)))
    assert ids.count(PORTS.frame_end) == 2
    assert ids.count(PORTS.video_end) == 1
    again = read_document(PORTS, ids)
    assert np.array_equal(again.codes, one.codes)
    assert (again.text, again.after, again.actions) == (one.text, one.after, one.actions)
    assert again.whole_text == one.whole_text != ()


def test_broken_documents_are_named():
    with pytest.raises(DataError, match="there is no video"):
        read_document(PORTS, [18, 1, 2, 19])
    ids = document_ids(PORTS, clip())
    with pytest.raises(DataError, match="frame 0 of this document is not 4 codes"):
        read_document(PORTS, [i for n, i in enumerate(ids) if n != 7])


# ---- choosing ---------------------------------------------------------------------------------------------------------


def test_draws_follow_the_scores():
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 2.0, 1.0, -torch.inf]]).expand(4000, 4)
    u = torch.rand(4000)
    share = torch.bincount(Draw()(logits, u), minlength=4) / 4000
    torch.testing.assert_close(share, logits[0].softmax(-1), atol=0.03, rtol=0)
    cold = torch.bincount(Draw(0.5)(logits, u), minlength=4) / 4000
    torch.testing.assert_close(cold, (2 * logits[0]).softmax(-1), atol=0.03, rtol=0)
    assert set(Draw(top_k=2)(logits, u).tolist()) == {1, 2}
    assert set(Draw(0)(logits, u).tolist()) == {1}
    # Neither end of what chance gives falls on an id that has none.
    ends = torch.tensor([0.0, 1 - 2**-24])
    assert set(Draw()(logits[:2], ends).tolist()) <= {0, 1, 2}


# ---- videos -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [0, 2])
def test_a_video_is_what_a_whole_row_foretells(model, given):
    """Greedily said, frame after frame over a cache with its ends given: the likeliest code at each place of the whole row."""
    begun = [clip(0, given, 3), clip(1, given, 6)]
    made = say_videos(model, begun, 3, replace(LIKELIEST, chunk=5))
    for one, asked in zip(made, begun, strict=True):
        assert one.codes.shape == (given + 3, K)
        assert np.array_equal(one.codes[:given], asked.codes)
        ids = document_ids(PORTS, one)
        scores = row_scores(model, ids, "vision")[:, :CODES]
        front = 1 + len(one.text) + 2
        places = [front + t * (K + 1) + k for t in range(given, given + 3) for k in range(K)]
        assert (scores[[p - 1 for p in places]].argmax(-1) + TEXT).tolist() == [ids[p] for p in places]


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_guidance_mixes_what_is_said_with_and_without_the_text(model, scale):
    begun = [clip(0, 1), clip(5, 1)]
    made = say_videos(model, begun, 2, replace(LIKELIEST, guidance=scale))
    plain = say_videos(model, begun, 2, LIKELIEST)
    for one in made:
        told = document_ids(PORTS, one)
        untold = document_ids(PORTS, replace(one, text=()))
        c, u = (row_scores(model, ids, "vision")[:, :CODES] for ids in (told, untold))
        for t in (1, 2):
            at = [2 + t * (K + 1) + k for k in range(K)]
            mixed = u[at] + scale * (c[[p + 3 for p in at]] - u[at])
            assert mixed.argmax(-1).tolist() == one.codes[t].tolist()
    assert any(not np.array_equal(a.codes, b.codes) for a, b in zip(made, plain, strict=True))
    if not scale:
        untold = say_videos(model, [replace(c, text=()) for c in begun], 2, LIKELIEST)
        assert all(np.array_equal(a.codes, b.codes) for a, b in zip(made, untold, strict=True))


def test_seeds_decide_and_neighbours_do_not(model):
    begun = [clip(i, 1, 2 + i) for i in range(3)]
    manner = Manner(seed=3)
    first, again, other = (say_videos(model, begun, 2, m) for m in (manner, manner, Manner(seed=4)))
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a.codes, b.codes) for a, b in zip(first, other, strict=True))
    (alone,) = say_videos(model, begun[:1], 2, manner)
    assert np.array_equal(alone.codes, first[0].codes)


def test_nothing_but_codes_stands_in_a_frame(model):
    """However likely its end is: the marks are given, not said."""
    loud = lwm.Model(model.config).eval()
    loud.load_state_dict(model.state_dict())
    with torch.no_grad():
        direction = loud.trunk(loud.tables(torch.tensor([document_ids(PORTS, clip())])))[0].mean(0)
        loud.tables.head[-2:] = 50 * direction / direction.norm()
    assert int(row_scores(loud, document_ids(PORTS, clip()), "vision").argmax(-1)[5]) >= CODES
    (made,) = say_videos(loud, [clip(frames=0)], 4)
    assert made.codes.shape == (4, K)
    assert made.codes.max() < CODES


# ---- actions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [0, 2])
def test_actions_that_are_given_are_told(model, given):
    begun = [clip(s, given, 3, actions=given + 2) for s in (0, 1)]
    made = say_videos(model, begun, 3, LIKELIEST, WORDS)
    for one, asked in zip(made, begun, strict=True):
        assert one.actions == asked.actions
        ids = document_ids(PORTS, one)
        scores, at, where = row_scores(model, ids, "vision")[:, :CODES], 6, []
        for t in range(given + 3):
            where += [(at + k, one.codes[t, k]) for k in range(K)] if t >= given else []
            at += K + 1 + (len(one.actions[t]) if t < given + 2 else 0)
        assert [int(scores[p - 1].argmax()) for p, _ in where] == [c for _, c in where]
    # Other actions, other videos.
    others = [replace(c, actions=tuple(WORDS[(WORDS.index(a) + 1) % 3] for a in c.actions)) for c in begun]
    moved = say_videos(model, others, 3, LIKELIEST, WORDS)
    assert any(not np.array_equal(a.codes, b.codes) for a, b in zip(made, moved, strict=True))


@pytest.mark.parametrize(("given", "told"), [(0, 0), (2, 1), (2, 2), (2, 3)])
def test_actions_that_are_not_given_are_said(model, given, told):
    """Among the words there are, the likeliest first token and then the likeliest that makes it a word."""
    begun = [clip(s, given, 3, actions=told) for s in (0, 1, 2)]
    made = say_videos(model, begun, 3, LIKELIEST, WORDS)
    said = set()
    for one, asked in zip(made, begun, strict=True):
        assert len(one.actions) == given + 2
        assert one.actions[:told] == asked.actions
        assert set(one.actions) <= set(WORDS)
        ids = document_ids(PORTS, one)
        scores, at = row_scores(model, ids, "text"), 6
        for t, word in enumerate(one.actions):
            at += K + 1
            if t >= told:
                first = scores[at - 1]
                assert word[0] == max((3, 4), key=lambda i: first[i])
                if len(word) > 1:
                    assert word[1] == max((5, 6), key=lambda i: scores[at][i])
                said.add(word)
            at += len(word)
    assert said


def test_words_of_several_rows_end_where_they_end(model):
    """One row says a short word while another says a long one, and neither is told the other's."""
    begun = [clip(s, 1, 2) for s in range(8)]
    made = say_videos(model, begun, 2, Manner(seed=1), WORDS)
    assert {len(c.actions[0]) for c in made} == {1, 2}
    alone = [say_videos(model, [c], 2, LIKELIEST, WORDS)[0] for c in begun]
    together = say_videos(model, begun, 2, LIKELIEST, WORDS)
    assert all(a.actions == b.actions and np.array_equal(a.codes, b.codes) for a, b in zip(alone, together, strict=True))


# ---- texts ------------------------------------------------------------------------------------------------------------


def prompt(seed, frames):
    return [18, *PORTS.opens, *video_ids(PORTS, clip(seed, frames).codes), *PORTS.closes]


def test_a_text_is_what_a_whole_row_foretells(model):
    prompts = [prompt(0, 2), prompt(1, 1)]
    said = say_texts(model, prompts, 12, LIKELIEST)
    for told, ids in zip(prompts, said, strict=True):
        assert all(i < TEXT for i in ids)
        whole = row_scores(model, [*told, *ids], "text").argmax(-1).tolist()[len(told) - 1 :]
        assert whole[: len(ids)] == ids
        assert len(ids) == 12 or whole[len(ids)] in (PORTS.eos, PORTS.opens[0], PORTS.opens[-1])


def test_a_text_ends_where_the_example_does(model):
    """At ``eos``, and where a video would begin; rows that are over wait for the others."""
    quiet = lwm.Model(model.config).eval()
    quiet.load_state_dict(model.state_dict())
    draws = [[4, 19, 7, 7], [14, 15, 1, 1], [1, 2, 3, 4]]

    class Told(Draw):
        def __call__(self, logits, uniform):
            assert logits.shape == (3, TEXT)
            return torch.tensor([row.pop(0) for row in draws])

    said = say_texts(quiet, [prompt(s, 1) for s in range(3)], 4, Manner(text=Told()))
    assert said == [[4], [], [1, 2, 3, 4]]


# ---- how true it stays ------------------------------------------------------------------------------------------------


class Grids:
    """Shows codes of 2 x 2 cells: walls where a code is 2."""

    codec = object()

    def pictures(self, codes):
        grid = np.zeros((len(codes), 2, 2, 3), np.uint8)
        grid[..., 0] = codes.reshape(-1, 2, 2)
        return grid


def test_compared_with_what_happened():
    real = np.array([[[1, 1, 1, 1], [2, 1, 1, 1], [2, 2, 1, 1], [1, 2, 1, 1]]])
    said = real.copy()
    said[0, 2] = [2, 2, 2, 1]
    found = compare([Clip(c) for c in said], [Clip(c) for c in real], 1, Grids())
    assert (found["videos"], found["given"], found["frames"]) == (1, 1, 3)
    assert found["accuracy"] == pytest.approx(11 / 12)
    assert found["by_frame"]["accuracy"] == pytest.approx([1, 0.75, 1])
    assert found["still"] == pytest.approx((3 + 2 + 3) / 12)
    assert found["changed"] == 1.0
    assert found["by_frame"]["cell"] == [1.0, 0.0, 1.0]
    assert found["cell_still"] == pytest.approx(1 / 3)
    assert "cell" not in compare([Clip(c) for c in said], [Clip(c) for c in real], 1, object())


def test_the_walls_tell_where_an_agent_is():
    view = np.ones((7, 7, 3), np.uint8)
    assert agent_cell(view, False) == (-1, -1, -1)
    view[3, 1, 0] = view[1, 6, 0] = view[4, 6, 0] = 2
    assert agent_cell(view, False) == (5, 2, 1)
    assert not shows_agent(view[None])
    assert agent_cell(view, True) == (-1, -1)
    view[2, 4, 0] = 10
    assert shows_agent(view[None])
    assert agent_cell(view, True) == (2, 4)
    two = view.copy()
    two[5, 5, 0] = 10
    assert agent_cell(two, True) == (-1, -1)
    assert is_grid(view[None])
    assert not is_grid(view[None] * 40)
    assert draw_grid(view, 10).size == (70, 70)
    assert draw_grid(view, 10).getpixel((35, 15)) == (120, 124, 130)
    # An agent that is shown looks where its state says: right, the point of the triangle; left, its back.
    looks = []
    for state in (0, 2):
        view[2, 4, 2] = state
        looks.append([draw_grid(view, 40).getpixel((80 + x, 160 + 10)) == (214, 69, 65) for x in (10, 30)])
    assert looks == [[True, False], [False, True]]


# ---- wrong input ------------------------------------------------------------------------------------------------------


def test_wrong_input_is_named(model):
    with pytest.raises(UserError, match=r"a video of 30 frames with its text takes 158 tokens, .* context has 96; ask for 17"):
        say_videos(model, [clip(frames=0)], 30)
    with pytest.raises(UserError, match="closer to its text, and there is none"):
        say_videos(model, [clip(text=0)], 1, Manner(guidance=2))
    with pytest.raises(UserError, match="begin with as many frames and actions"):
        say_videos(model, [clip(0, 1), clip(0, 2)], 1)
    with pytest.raises(UserError, match="4 frames have 3 actions between them, and 1 are given"):
        say_videos(model, [clip(frames=2, actions=1)], 2)
    with pytest.raises(UserError, match="the prompt takes 101 tokens.*shorten it"):
        say_texts(model, [[18] * 100], 4)
    with pytest.raises(UserError, match="is policies.gato, which says no texts or videos"):
        generate.check_speaker(torch.nn.Linear(1, 1), "policies.gato")
    silent = lwm.Model(lwm.Config.tiny(DocumentPorts(20, 2, 0, 18, 19, (), ()), 16, losses=["text"]))
    generate.check_speaker(silent, "worlds.lwm", vision=False)
    with pytest.raises(UserError, match="knows no video"):
        generate.check_speaker(silent, "worlds.lwm")
