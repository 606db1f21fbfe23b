"""A few wrong files for each reader: read, or refused with one UserError. ``python -m tests.fuzz`` tries very many more.

What comes of an input is a function of its number alone, so these are the same inputs on every machine. hypothesis tries
documents of values that nobody thought of, where a reader takes any.
"""

import json
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import mutate, odd
from tests.fuzz.readers import READERS
from tests.fuzz.work import Case, judge

FAST = {"recipe": 12, "engine": 15, "manifest": 40, "minari": 60, "d4rl": 60, "tokenizer": 60, "bundle": 15, "clean": 20}
FAST |= {"checkpoint": 40, "card": 3, "report": 2, "imported": 6, "text": 20, "suite": 20, "rows": 60, "deepspeed": 60}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(odd.WORDS[:-30]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(odd.WORDS), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch, tmp_path):
    """A machine that is busy is no finding here; the long form has the limits of time and memory."""
    monkeypatch.setattr("tests.fuzz.work.SECONDS", 120.0)
    monkeypatch.chdir(tmp_path)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


@pytest.mark.parametrize("name", [r.name for r in READERS])
def test_a_valid_file_is_read_and_a_wrong_one_read_or_refused(name, examples):
    tried = examples(name)
    for place, _ in tried.places:
        tried.reader.read(place)
    for number in range(FAST.get(name, 100)):
        place, case = tried.case(20, number)
        with tried.laid(place, case):
            verdict = judge(tried.reader, place)
        assert verdict.what in ("read", "refused"), f"input {number} of seed 20, {place.name}/{case.done}\n{verdict.said}"


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.parametrize("name", ["tokenizer", "parquet", "store", "publication", "metrics"])
def test_any_value_in_any_place_of_a_document_is_read_or_refused(name, examples, data):
    tried = examples(name)
    place, files = tried.places[0]
    file = next(f for f in files if f.suffix in (".json", ".jsonl"))
    lines = tried.valid[file].decode().splitlines() if file.suffix == ".jsonl" else [tried.valid[file].decode()]
    raw = json.loads(lines[0])
    way = data.draw(st.sampled_from(mutate.places(raw)))
    lines[0] = json.dumps(mutate.put(raw, way, data.draw(VALUES)))
    with tried.laid(place, Case(file, "\n".join(lines).encode(), str(way))):
        verdict = judge(tried.reader, place)
    assert verdict.what in ("read", "refused"), f"{way}\n{verdict.said}"
