"""Ring attention over real processes against one with a mask; what a worker did is in ring_worker.py."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "ring_worker.py"
WORLD = 4

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The findings of four processes: a ring of 4, then two rings of 2."""
    folder = tmp_path_factory.mktemp("ring")
    started = [subprocess.Popen([sys.executable, str(WORKER), str(rank), str(folder)]) for rank in range(WORLD)]
    try:
        assert [process.wait(200) for process in started] == [0] * WORLD
    finally:
        for process in started:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize(("dtype", "most"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("ring", [2, 4])
def test_it_is_attention(ranks, ring, dtype, most):
    for found in ranks:
        gaps = {k: gap for k, gap in found["gaps"].items() if k.startswith(f"{ring} ") and k.endswith(dtype)}
        assert len(gaps) == 5 * 3 * (3 if dtype == "float64" else 1)
        assert not {k: gap for k, gap in gaps.items() if not gap <= most}


def test_no_byte_travels_that_was_not_planned(ranks):
    for found in ranks:
        assert not {k: both for k, both in found["bytes"].items() if both[0] != both[1]}
        assert any(sent for sent, _ in found["bytes"].values())
        # A document a token: nobody needs anybody.
        assert all(sent == 0 for k, (sent, _) in found["bytes"].items() if " each " in k)


def test_every_call_is_counted(ranks):
    assert all(set(found["calls"]) == {1} for found in ranks)


def test_the_simulation_is_the_same(ranks):
    for found in ranks:
        for key, (forth, back) in found["simulated"].items():
            # Forth the same bits; back the owners add what comes home in another order.
            assert forth == 0, key
            assert back <= {"float64": 1e-14, "float32": 1e-6, "bfloat16": 1e-2}[key.rpartition(".")[2]]


def test_recomputed_in_the_backward_pass_it_is_the_same(ranks):
    assert all(set(found["again"]) == {0} for found in ranks)


def test_a_gradient_that_is_one_number_seen_many_times(ranks):
    assert all(max(found["expanded"]) <= 1e-12 for found in ranks)


def test_pieces_are_put_together(ranks):
    assert all(found["whole"] == [True, True] for found in ranks)


def test_documents_never_leak(ranks):
    for found in ranks:
        assert len(found["leaks"]) == 2 * 2 * 3 * 3
        assert not [case for case, same, _ in found["leaks"] if not same]
    # And the text that was changed did change something, on some rank.
    for case in zip(*(found["leaks"] for found in ranks), strict=True):
        assert any(moved for _, _, moved in case)


# Who exits is found by the closed connection, or on a slow machine by the clock before its process has ended; who hangs, by
# the clock alone.
@pytest.mark.parametrize(
    ("waiting", "lost", "why"), [(0, 1, "closed|reset|broken|Timed out"), (2, 3, "Timed out waiting 2000ms")]
)
def test_who_is_lost_is_named_within_the_timeout(ranks, waiting, lost, why):
    rank, message = ranks[waiting]["lost"]
    assert rank == lost
    assert message.startswith(f"rank {lost} did not answer")
    assert re.search(why, message), message
