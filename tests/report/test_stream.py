"""The drawing of a stream: the same facts for a terminal and for a page."""

import re

import pytest
from rich.console import Console

from seqrl.report.clean import clean
from seqrl.report.stream import to_html, to_text

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
