"""The drawing of a stream: the same facts for a terminal and for a page."""

import re

import numpy as np
import pytest
from rich.console import Console

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer
from seqrl.report import fitted, spell
from seqrl.report.clean import clean
from seqrl.report.roundtrip import round_trips, to_table
from seqrl.report.sight import sight, to_blocks, to_svg
from seqrl.report.stream import ANSI, to_html, to_page, to_text

WORLD = {
    "text": "task | image action > reward done",
    "widths": {"image": 64, "task": 8},
    "discrete": ("task", "image", "action"),
}
WORLD |= {"dims": {"task": 8, "image": 64}, "trained": ("image", "action", "reward")}


def _plain(stream, **how) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_text(stream, width=100, **how))
    return console.export_text()


def test_a_decision_transformer_s_stream(make_stream):
    said = _plain(make_stream(), steps=2)
    assert "return state action   36 tokens, 12 trained (*)" in said
    assert "[return] [state]  [action]" in said
    assert "▒▒█" * 12 in said
    rows = [line.split()[:3] for line in said.splitlines() if re.match(r" +\d", line)]
    assert rows[0] == ["0", "0", "return"]
    assert [r[0] for r in rows] == ["0", "1", "2", "1", "4", "5"]
    assert "action*" in said
    assert "state*" not in said


def test_slots_of_many_tokens_are_one_cell_of_the_drawing(make_stream):
    said = _plain(make_stream(**WORLD), steps=1)
    assert "[task×8] |" in said
    assert "[image×64]" in said
    assert re.search(r"front +0–7 +task", said)
    assert re.search(r"0 +8–71 +image\*", said)
    assert re.search(r"72 +action\*", said)
    assert "(64)" in said
    assert max(map(len, said.splitlines())) <= 100


def test_it_can_begin_in_the_middle(make_stream):
    said = _plain(make_stream(**WORLD), steps=1, start=3)
    assert "front" not in said
    assert re.search(r" 3 +\d+–\d+ +image", said)


@pytest.mark.parametrize("how", [{}, WORLD])
def test_html_is_plain_enough_for_a_page(make_stream, how):
    fragment = to_html(make_stream(**how), steps=3)
    kept = clean(fragment)
    assert "<style>" in fragment
    assert "<style>" not in kept
    without_style = re.sub(r"<style>.*?</style>", "", fragment, flags=re.DOTALL)
    assert kept == without_style.replace("&#x27;", "'"), "the page's filter takes nothing else away"


def test_html_marks_what_is_trained(make_stream):
    fragment = to_html(make_stream(), steps=2)
    assert fragment.count('class="s2 on" title') == 12
    assert fragment.count('<b title="trained">*</b>') == 2
    assert 'title="pos 4: state, step 1"' in fragment


def test_html_of_a_long_stream_is_short(make_stream):
    fragment = to_html(make_stream(T=5000), ribbon=90)
    assert fragment.count(' title="pos ') == 90
    assert "the first 90 of 15,000 tokens" in fragment


def test_text_and_nan_values_are_shown_as_they_are(make_stream):
    stream = make_stream()
    stream.raw["state"] = stream.raw["state"].astype(object)
    stream.raw["state"][0, 0] = "<b>go to the red ball"
    stream.raw["return"][0] = float("nan")
    assert "&lt;b&gt;go to the red ball" in to_html(stream)
    assert "nan" in _plain(stream)


def test_clean_closes_what_was_left_open():
    assert clean("<div><b>x") == "<div><b>x</b></div>"
    assert clean("</div></table><p>x</i></p>") == "<p>x</p>"
    assert clean("<div><p>x</div>y") == "<div><p>x</p></div>y"
    assert clean("a<script>b</script><svg><p>c</p></svg>d") == "ad"
    assert clean('<p onclick="x" class="&quot;><script>">&lt;b&gt;</p>') == '<p class="&quot;&gt;&lt;script&gt;">&lt;b&gt;</p>'


# ---- a real tokenizer: words, patches, read-outs, who sees whom, there and back -----------------------------------------

ROOM = EpisodeSpec(
    "tests/room-v0",
    {
        "rgb": Modality("image", (8, 4, 3), "uint8"),
        "mission": Modality("text", (), "str"),
        "observation": Modality("vector", (2,), "float32", (-1.0, -1.0), (1.0, 1.0)),
    },
    {"action": Modality("discrete", (), "int64", n=(5,))},
)
SLOTS = {"rgb": {"kind": "patches", "size": 4}, "state": {"kind": "bins", "bins": 4}, "reward": {"kind": "bins", "bins": 4}}
LAYOUT = "task | rgb state action > reward done"


def room(trained=("action", "done"), mission="go to the red ball", layout=LAYOUT, slots=SLOTS, reach=1.0, T=4):
    """A fitted tokenizer and an episode through it; values reach ``reach`` times as far as those that were fitted."""
    rng, ends = np.random.default_rng(0), np.arange(T) == T - 1
    rgb = np.zeros((T + 1, 8, 4, 3), np.uint8)
    rgb[:, 4:] = (250, 0, 100)
    state = rng.uniform(-1, 1, (T + 1, 2)).astype(np.float32)
    obs = {"rgb": rgb, "mission": np.full(T + 1, mission), "observation": state}
    episode = Episode(obs, {"action": rng.integers(0, 5, T)}, rng.normal(size=T).astype(np.float32), ends, np.zeros(T, bool))
    tokenizer = Tokenizer(TokensConfig(layout=layout, slots=slots, pack=400), ROOM)
    fields = {n: v[:T] for n, v in obs.items()} | dict(episode.act)
    fields |= {"reward": episode.rew, "done": ends.astype(np.int64), "return": np.zeros(T)}
    tokenizer.fit({n: {f: fields[f] for f in s.fields} for n, s in tokenizer.slots.items()}, np.zeros(1))
    wider = Episode({**obs, "observation": state * reach}, episode.act, episode.rew, ends, episode.truncated)
    return tokenizer, tokenizer.stream(wider, np.zeros(T), trained)


def codecs(tokenizer):
    return {n: s.codec for n, s in tokenizer.slots.items()}


def test_texts_are_words_and_pictures_the_colours_of_their_patches():
    tokenizer, stream = room()
    found = {(r.name, r.time): r for r in spell.rows(stream, 0, 2, codecs(tokenizer))}
    assert found["task", -1].words == ("go", "to", "the", "red", "ball")
    assert found["task", -1].given == "go to the red ball"
    assert found["rgb", 0].patches.tolist() == [[0, 0, 0], [250, 0, 100]]
    assert found["rgb", 0].across == 1
    assert found["rgb", 0].given == "8×4×3 bytes, 0 to 250, mean 58.3"
    assert len(found["state", 1].words) == 2
    said = _plain(stream, steps=1, codecs=codecs(tokenizer))
    assert "‹go› ‹to› ‹the› ‹red› ‹ball›" in said
    fragment = to_html(stream, steps=1, codecs=codecs(tokenizer))
    assert fragment.count('<div class="line"><u class="px c502" title="rgb 250 0 100"></u></div>') == 1
    assert ".sq .c502{background:#f06}" in fragment
    assert clean(fragment) == re.sub(r"<style>.*?</style>", "", fragment, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("mission", "words"),
    [("", ("∅",)), ("<b>x", None), ("日本", None)],
)
def test_any_text_is_spelled(mission, words):
    tokenizer, stream = room(mission=mission)
    row = next(spell.rows(stream, 0, 1, codecs(tokenizer)))
    assert words is None or row.words == words
    assert "<b>" not in clean(to_html(stream, codecs=codecs(tokenizer))).replace('<b title="trained">', "")


def test_cells_are_names_and_not_colours():
    tokenizer, stream = room(slots=SLOTS | {"rgb": {"kind": "patches", "encoder": "cells", "values": 256}})
    row = next(r for r in spell.rows(stream, 0, 1, codecs(tokenizer)) if r.name == "rgb")
    assert row.patches is None
    assert row.words[0] == "0·0·0"
    assert row.words[-1] == "250·0·100"
    assert "… (32)" in _plain(stream, steps=1, codecs=codecs(tokenizer))


def test_a_picture_nobody_knows_the_shape_of_is_still_drawn():
    _, stream = room()
    assert next(r for r in spell.rows(stream, 0, 1) if r.name == "rgb").patches.shape == (16, 3)
    assert 'class="px' in to_html(stream)


def test_a_trained_read_out_is_marked_where_it_is_answered():
    _, stream = room()
    assert spell.trained_names(stream) == ("action", "done")
    said = _plain(stream, steps=1)
    lines = said.splitlines()
    assert "25 tokens; trained (*): 4 of them and 4 read out" in said
    ribbon = next(i for i, line in enumerate(lines) if "█" in line)
    assert [i for i, mark in enumerate(lines[ribbon + 1]) if mark == "▀"] == [9, 14, 19, 24]
    assert re.search(r"↑9 +done\*", said)
    assert re.search(r"↑9 +reward ", said)
    fragment = to_html(stream)
    assert fragment.count(' q5" title=') == 4
    assert "answers done" in fragment
    assert "answers reward" not in fragment
    assert '<i class="s4"></i>reward (read out)' in fragment
    assert '<i class="s5 on"></i>done (read out)' in fragment
    assert "read out" not in _plain(room(trained=("action",))[1], steps=1).split("\n")[0]


def test_a_token_sees_its_own_document_up_to_itself():
    _, stream = room()
    seen = sight(stream, 24)
    n = len(seen.slot)
    assert n <= 24
    for i in range(n):
        for j in range(n):
            assert seen.sees[i, j] == (j <= i and seen.document[i] == seen.document[j])
    assert set(seen.document.tolist()) == {0, 1}
    begin = int(np.argmax(seen.document))
    assert seen.time[begin] == -1, "the next document begins with its own prefix"
    one = sight(stream, 24, packed=False)
    assert set(one.document.tolist()) == {0}


@pytest.mark.parametrize("most", [2, 3, 7, 48, 500])
def test_the_picture_fits_its_room(most):
    _, stream = room(T=2)
    for packed in (True, False):
        seen = sight(stream, most, packed)
        assert 1 <= len(seen.slot) <= most
        lines = to_blocks(seen, ANSI).plain.splitlines()
        assert len(lines) == (len(seen.slot) + 1) // 2
        filled = sum({"█": 2, "▀": 1, "▄": 1}.get(c, 0) for line in lines for c in line)
        assert filled == seen.sees.sum()
        assert to_svg(seen, stream).count(' see" x') == seen.sees.sum()


def test_there_and_back_is_exact_for_choices_and_within_the_promise_for_numbers():
    tokenizer, stream = room()
    trips = {t.slot: t for t in round_trips(tokenizer, stream)}
    assert [trips[n].exact for n in ("task", "rgb", "action", "done")] == [0, 0, 0, 0]
    assert (trips["task"].tokens, trips["rgb"].tokens, trips["state"].tokens) == (5, 2, 2)
    assert trips["state"].vocab == 4
    assert 0 < trips["state"].mean <= trips["state"].largest <= trips["state"].tolerance
    assert trips["state"].outside == 0
    raw, back = stream.raw["state"], tokenizer.slots["state"].codec.decode(stream.values["state"])
    assert trips["state"].mean == pytest.approx(np.abs(raw - back).mean())


@pytest.mark.parametrize(
    "codec", [{"kind": "bins", "bins": 64}, {"kind": "bins", "bins": 8, "spacing": "quantile"}, {"kind": "vector", "clip": 1}]
)
def test_what_lies_outside_the_fitted_range_is_counted(codec):
    tokenizer, stream = room(slots=SLOTS | {"state": codec}, reach=3.0, T=200)
    trip = next(t for t in round_trips(tokenizer, stream) if t.slot == "state")
    assert 0.3 < trip.outside < 0.9
    assert trip.largest > trip.tolerance
    assert "%" in trip.words()[-1]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_table([trip], ANSI, 80))
    assert "outside" in console.export_text()


def test_a_page_is_whole():
    tokenizer, stream = room()
    page = to_page("<a room>", ["5 & 6"], stream, round_trips(tokenizer, stream), codecs=codecs(tokenizer))
    assert "<h1>&lt;a room&gt;</h1><p>5 &amp; 6</p>" in page
    for tag in ("div", "table", "svg", "span", "tr", "td", "body", "html"):
        assert page.count(f"<{tag}") == page.count(f"</{tag}>"), tag
    assert "exact" in page


def test_a_fitted_tokenizer_in_one_table():
    tokenizer, _ = room(layout="task | rgb return state action > reward")
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(fitted.to_table(tokenizer, ANSI))
    said = [line.split() for line in console.export_text().splitlines()]
    assert ["task", "mission", "text", "5", "454", "at", "most", "5", "tokens"] in said
    assert ["rgb", "rgb", "patches", "2", "–", "8×4×3"] in said
    assert ["state", "observation", "bins", "2", "4", "-0.75", "to", "0.75"] in said
    assert ["action", "action", "discrete", "1", "5", "5", "choices"] in said
