import numpy as np
import pytest

from seqrl.core.errors import RecipeError
from seqrl.core.layout import Layout


def test_parse_and_print_are_inverse():
    for text in ("return state action", "task | image state > action", "state action > reward done", "a | b > c"):
        assert str(Layout.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one slot"),
        ("return state action state", "twice"),
        ("a | b | c", "at most one"),
        ("a > b > c", "at most one"),
        ("a > b | c", "at most one"),
        ("State action", "no slot name"),
        ("task |", "at least one slot"),
    ],
)
def test_mistakes_are_named(text, said):
    with pytest.raises(RecipeError, match=said):
        Layout.parse(text)


def test_tracks_partition_the_row():
    layout = Layout.parse("task | return state action > reward", {"task": 3, "state": 2, "action": 2})
    T = 5
    tracks = layout.tracks(T)
    assert layout.length(T) == 3 + T * 5 == len(tracks["pos"])
    assert (tracks["pos"] == np.arange(layout.length(T))).all()
    slots = [layout.names[i] for i in tracks["slot"]]
    assert slots == ["task"] * 3 + ["return", "state", "state", "action", "action"] * T
    assert (tracks["time"][:3] == -1).all()
    assert (tracks["time"][3:] == np.repeat(np.arange(T), 5)).all()
    assert tracks["part"].tolist() == [0, 1, 2] + [0, 0, 1, 0, 1] * T


def test_the_reader_is_the_token_in_front():
    layout = Layout.parse("return state action > reward", {"state": 2})
    assert [layout.reader(n) for n in ("return", "state", "action", "reward")] == [-1, 0, 2, 3]
    with pytest.raises(RecipeError, match="no slot 'oops'"):
        layout.reader("oops")


def test_drawing_marks_what_is_trained_over_its_reader():
    top, arrows, bottom = Layout.parse("return state action").drawing(("action",)).splitlines()
    assert top.strip() == "action*"
    state = bottom.index("[state]")
    assert state <= top.index("action*") + 3 <= state + 7
    assert state <= arrows.index("↑") <= state + 7
