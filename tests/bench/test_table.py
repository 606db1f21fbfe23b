"""From finished folders to the table: what counts, what stands beside it, and what may be compared."""

import csv
import io
import json
import os

import numpy as np
import pytest
import yaml

from seqrl.bench import folder as folders
from seqrl.bench import plan, run, table
from seqrl.bench.data import Contents
from seqrl.bench.protocol import mixed, protocol
from seqrl.bench.results import gather, read_run
from seqrl.core.errors import UserError


@pytest.fixture
def done(suite, written, spec, tmp_path):
    """The suite with every cell finished but one: the first dataset is normalised, the other has no references."""
    out = tmp_path / "bench"
    for i, job in enumerate(run.survey(suite, out).jobs[:-1]):
        normalised = job.cell.dataset == "tests/cartpole-v0"
        written(job.cell, job.folder, 22 + 4.78 * np.arange(i, i + 4), spec=spec if normalised else None)
        folders.add_cost(job.folder, 60, 30, 4, 0)
    return suite, out


def results_of(suite, out):
    jobs = run.survey(suite, out).jobs
    return gather(suite.config, [r for j in jobs if (r := read_run(j.cell, j.folder))])


def test_the_first_target_counts_and_never_the_best(done):
    suite, out = done
    job = run.survey(suite, out).jobs[0]
    found = read_run(job.cell, job.folder)
    assert found.target == 100, "20 was asked, too, and got more"
    np.testing.assert_allclose(found.scores, [0, 1, 2, 3], atol=1e-9)
    assert found.score == pytest.approx(1.5)
    assert (found.seconds, found.cpu) == (60, 30)


def test_rows_and_what_is_missing_of_them(done):
    suite, out = done
    results = results_of(suite, out)
    row = results.row("DT", "tests/cartpole-v0")
    assert row.normalised
    assert row.mean == pytest.approx(np.mean([r.score for r in row.runs]))
    assert row.sd == pytest.approx(np.std([r.score for r in row.runs], ddof=1))
    assert not results.row("B|C", "tests/other-v0").normalised
    assert table.seeds(results, results.row("B|C", "tests/other-v0")) == "1 of 2"
    # One normalised dataset alone is no whole.
    assert results.wholes == ()


def test_published_figures_and_whether_they_may_be_compared(done):
    suite, out = done
    results = results_of(suite, out)
    (paper,) = table.beside(results, "DT", "tests/cartpole-v0")
    assert (paper.score, paper.sd, paper.mark, paper.why) == (50, 2, table.OTHER, "other data")
    (twin,) = table.beside(results, "B|C", "tests/cartpole-v0")
    assert (twin.mark, twin.why) == (table.OTHER, "made anew"), "our own evaluation says it may not"
    assert table.beside(results, "DT", "tests/other-v0") == []


def test_both_sides_must_agree_to_be_compared(suite, written, spec, tmp_path):
    for job in run.survey(suite, tmp_path).jobs:
        written(job.cell, job.folder, np.arange(4), spec=spec, comparable=True)
    results = results_of(suite, tmp_path)
    assert table.beside(results, "B|C", "tests/cartpole-v0")[0].mark == table.ALIKE
    assert table.beside(results, "DT", "tests/cartpole-v0")[0].mark == table.OTHER
    assert [w.method for w in results.wholes] == ["DT", "B|C"]
    assert results.wholes[0].ci is not None


def test_everything_that_is_written(done):
    suite, out = done
    suite = type(suite)(suite.config.model_copy(update={"about": "<script>alert(1)</script>"}), suite.path, suite.cells)
    jobs = run.survey(suite, out).jobs
    run.write(suite, out, jobs, {"DT on Mars": "<b>no air</b>"}, 2)
    home = out / "tiny"
    assert set(run.WRITTEN) <= {p.name for p in home.iterdir()}
    assert not list(home.glob(".*"))
    assert all((home / f"{n}.png").read_bytes().startswith(b"\x89PNG") for n in ("table", "profile"))
    page = (home / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;b&gt;no air&lt;/b&gt;" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count("<svg") == 2
    words = (home / "table.md").read_text()
    assert "| tests/cartpole-v0 | B\\|C |" in words
    assert "50.0 ± 2.0 ≠ Paper" in words
    assert "DT on Mars" in words
    rows = list(csv.DictReader(io.StringIO((home / "table.csv").read_text())))
    assert len(rows) == 7
    assert {r["dataset"] for r in rows if r["normalised"] == "1"} == {"tests/cartpole-v0"}
    found = json.loads((home / "results.json").read_text())
    assert found["rows"][0]["runs"][0]["score"] == pytest.approx(1.5)
    assert found["failed"] == {"DT on Mars": "<b>no air</b>"}


def test_the_protocol_says_what_counts(done):
    said = " ".join(protocol(results_of(*done), 2))
    for words in ("4 episodes", "the last step and the first return asked for", "never the best", "7 runs.", "torch 2"):
        assert words in said, said
    assert "There are no references for tests/other-v0" in said


def test_a_folder_is_believed_only_where_it_says_so(suite, written, tmp_path):
    cell = suite.cells[0]

    def state(name):
        return folders.state_of(cell, tmp_path / name)

    assert state("nothing").kind == "new"
    written(cell, tmp_path / "whole", [1, 2])
    assert (state("whole").kind, state("whole").step) == ("finished", 4)
    written(cell, tmp_path / "half", [1, 2], steps=2)
    assert (state("half").kind, state("half").step) == ("begun", 2)
    written(cell, tmp_path / "unplayed", [1, 2])
    (tmp_path / "unplayed" / "eval.json").unlink()
    assert state("unplayed").kind == "begun"
    written(cell, tmp_path / "cut", [1, 2])
    (tmp_path / "cut" / "eval.json").write_text('{"targets": [')
    assert state("cut").kind == "begun"
    # Somebody has evaluated it otherwise since.
    written(cell, tmp_path / "again", [1, 2])
    file = tmp_path / "again" / "eval.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 5'))
    assert state("again").kind == "begun"
    written(suite.cells[-1], tmp_path / "other", [1, 2])
    assert state("other").kind == "other"


def test_another_suite_takes_the_same_cell(suite, file, written, tmp_path):
    out = tmp_path / "bench"
    job = run.survey(suite, out).jobs[0]
    written(job.cell, job.folder, [1, 2])
    file.write_text(file.read_text().replace("name: tiny", "name: twin").replace("DT", "Asker"))
    twin = plan.load(str(file), ("train.steps=4", "train.log_every=3", "train.validate_windows=9"))
    assert run.survey(twin, out).jobs[0].folder == job.folder


def test_runs_made_by_hand_are_taken(suite, written, tmp_path):
    out, home = tmp_path / "bench", tmp_path / "hand"
    one, two, three, four = suite.cells[:4]
    written(one, home / "a", [1, 2])
    text = (home / "a" / "recipe.yaml").read_text()
    (home / "a" / "recipe.yaml").write_text(text.replace(f"name: {one.recipe.name}", "name: mine"))
    written(two, home / "b", [1, 2], steps=2)
    written(three, home / "c", [1, 2])
    (home / "c/checkpoints/step-00000004/trainer/state.json").write_text('{"step": 4, "data": ["other"]}')
    written(four, home / "d", [1, 2])
    (home / "d" / "recipe.yaml").write_text(text.replace("width: 16", "width: 17"))
    said = run.take(suite, out, home)
    assert [line.split()[0] for line in said] == ["taken", "left", "left", "left"]
    assert "not finished" in said[1]
    assert "other data" in said[2]
    assert "no cell" in said[3]
    folder = out / "cells" / one.name(Contents().of(one))
    assert folders.state_of(one, folder).kind == "finished"
    assert not (home / "a").exists()
    assert (home / "b").exists()


def test_old_ways_of_a_recipe_are_taken_and_data_nobody_tells_of_are_not(suite, written, tmp_path):
    home, (one, two, three) = tmp_path / "hand", suite.cells[:3]
    for name, cell in (("a", one), ("b", two), ("c", three)):
        written(cell, home / name, [1, 2])
    recipe = home / "a" / "recipe.yaml"
    raw = yaml.safe_load(recipe.read_text())
    # What has its default today was not yet written then.
    assert raw["evaluate"].pop("at_end") is True
    recipe.write_text(yaml.safe_dump(raw))
    (home / "b/checkpoints/step-00000004/trainer/state.json").write_text('{"step": 4}')
    place = tmp_path / "bench/cells" / three.name(Contents().of(three))
    place.mkdir(parents=True)
    fd = folders.lock(place)
    said = run.take(suite, tmp_path / "bench", home)
    os.close(fd)
    assert said[0].startswith("taken")
    assert "does not say what it was trained on" in said[1]
    assert "another process is at work" in said[2]
    assert place.is_dir()
    assert run.take(suite, tmp_path / "bench", home)[-1].startswith("taken")
    (tmp_path / "none").mkdir()
    assert "no run in it" in run.take(suite, tmp_path / "bench", tmp_path / "none")[0]
    with pytest.raises(UserError, match="no such folder"):
        run.take(suite, tmp_path / "bench", tmp_path / "nowhere")


def test_names_are_no_formulas(file, written, tmp_path):
    text = file.read_text().replace("B|C", r"$\frac$").replace("{id: tests/other-v0,", "{id: d/$x^$,")
    file.write_text(text)
    suite = plan.load(str(file), ("train.steps=4",))
    jobs = run.survey(suite, tmp_path).jobs
    for job in jobs:
        written(job.cell, job.folder, np.arange(4))
    run.write(suite, tmp_path, jobs, {}, 1)
    page = (tmp_path / "tiny/report.html").read_text()
    drawn = "".join(part.partition("</svg>")[0] for part in page.split("<svg")[1:])
    assert r"$\frac$" in drawn
    assert "d/$x^$" in drawn


def test_versions_that_differ_within_a_row_are_told(done):
    suite, out = done
    assert mixed(results_of(suite, out)) == []
    job = run.survey(suite, out).jobs[0]
    file = job.folder / "eval.json"
    file.write_text(file.read_text().replace('"torch": "2"', '"torch": "3"'))
    results = results_of(suite, out)
    (said,) = mixed(results)
    assert said.endswith("several versions, torch 2 and 3: DT on tests/cartpole-v0.")
    assert said in protocol(results, 1)[-1]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "o").write_text("a file")
    with pytest.raises(UserError, match="Not a directory.*--out"):
        run._write(tmp_path / "o" / "smoke" / "table.md", "x")
