"""Figures: drawn from what is there, the same bytes each time, and legible to whoever cannot see them."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from seqrl.report import ink, plots

ROWS = [{"step": s, "loss": 2.0 / s, "lr": 1e-3 / s} for s in range(1, 200)] + [{"step": 100, "val/loss": 0.1}]
SWEEP = [{"target": t, "mean": 0.9 * t, "ci95": [0.8 * t, t], "returns": [0.7 * t, t]} for t in (25, 50, 100, 350, 500)]


SAID = {0: "0", 0.03124: "0.0312", 48.66: "48.7", 99.99: "100", 443.9: "444", 1234.6: "1,235", 3610: "3,610", -20.27: "-20.3"}
SAID |= {12000: "12k", 199_000: "199k", 1_234_567: "1.23M", float("nan"): "–"}


@pytest.mark.parametrize(("x", "said"), SAID.items())
def test_numbers_are_said_as_people_say_them(x, said):
    assert ink.number(x) == said


def test_series_takes_what_can_be_drawn():
    rows = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3}, {"step": 3, "loss": float("nan")}, {"step": 4, "lr": 1}]
    rows += [{"step": 5, "loss": "x"}, {"step": None, "loss": 1}, {"step": 6, "loss": True}, {"step": 7, "loss": None}]
    at, loss = plots.series(rows, "loss")
    assert at.tolist() == [1, 2]
    assert loss.tolist() == [3, 1]


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.curves(ROWS),
        lambda: plots.curves([{"step": 1, "loss": 1.0}]),
        lambda: plots.curves([{"step": s, "loss": -1.0 * s} for s in range(5000)]),
        lambda: plots.progress([{"step": s, "eval/500/mean": 1.0, "eval/all/mean": 2.0} for s in (1, 2)]),
        lambda: plots.sweep(SWEEP, (9, 500)),
        lambda: plots.sweep(SWEEP[:1]),
        lambda: plots.sweep([{"target": -900, "mean": -1000.0, "min": -1200, "max": -800}, {"target": -200, "mean": -250.0}]),
        lambda: plots.sweep([{"target": None, "mean": 3.0, "ci95": [2, 4], "returns": [1, 5]}], (0, 9)),
        lambda: plots.sweep([{"target": 5, "mean": 5.0}], (5, 5)),
    ],
)
def test_every_figure_is_a_picture_and_markup(figure):
    assert ink.png(figure(), dpi=40).startswith(b"\x89PNG")
    text = ink.svg(figure(), "one", 'asked "500" & got <470>')
    root = ET.fromstring(text)
    assert root.get("aria-label") == 'asked "500" & got <470>'
    assert text == ink.svg(figure(), "one", 'asked "500" & got <470>')


def test_a_figure_follows_its_page():
    text = ink.svg(plots.sweep(SWEEP, (9, 500)), "sweep", "")
    assert "<style" not in text
    assert "font-family" not in text
    assert re.findall(r"(?<!, )#[0-9a-f]{6}\b", text) == [], "a colour that would not turn with the theme"
    assert all(i.startswith("sweep-") for i in re.findall(r'\bid="([^"]*)"', text))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(re.findall(r'\bid="([^"]*)"', text))


def test_nothing_to_draw_is_none():
    assert plots.curves([]) is None
    assert plots.progress([{"step": 1, "eval/5/mean": 1.0}]) is None
    assert plots.sweep([]) is None
    assert plots.sweep([{"target": 5, "mean": None}]) is None


def test_each_domain_has_progress_of_its_own():
    rows = [{"step": s, "eval/a/5/mean": 1.0 * s, "eval/ab/all/mean": 9.0} for s in (1, 2)]
    assert plots.progress(rows, "c") is None
    assert [line.get_ydata().tolist() for line in plots.progress(rows, "a").axes[0].lines] == [[1.0, 2.0]]


def test_smoothing_keeps_a_constant_and_the_length():
    y = np.full(500, 3.0)
    assert np.allclose(plots._smooth(y), y)
    assert len(plots._smooth(np.arange(7.0))) == 7
