"""The report of a run: whole, self-contained, safe with a stranger's folder, and never in the way of a run."""

import json
import re
from html.parser import HTMLParser

import pytest

from seqrl.report.page import write_report

VOID = {"meta", "img", "br", "link", "input", "path", "use"}


class _Balance(HTMLParser):
    """Every tag closed, and closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)


def _check(page: str) -> set[str]:
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert "script" not in balance.seen
    # Nothing is loaded from anywhere.
    assert not re.search(r'(src|(?<!:)href)="(?!data:|#)|url\((?!#)|@import', page)
    return balance.seen


def test_says_everything(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = path.read_text()
    _check(page)
    for said in (
        "<title>dt_pole · seqrl report</title>",
        "decision policy on classic/pole-v0",
        "Asked for 500, it got 470 on average over 20 episodes (95 % interval 465 to 475). The best of 3 targets.",
        "Rank correlation 1.00: asking for more brings more. Shaded: the returns of the training episodes, 9 to 500.",
        "Not normalised: there are no reference scores for CartPole-v1.",
        "400 steps of 64 windows in 20 s (20 steps per second). The loss fell from 0.1 to 0.0025",
        "seqrl eval &#39;runs/dt run&#39; --targets 50,200,500 --episodes 20 --seed 7 --mode exact",
        "policies.decision, 203 parameters",
        "torch 2.9",
        "0123abcd",
        "every episode, the mean and its 95 % interval",
        "data:image/gif;base64,R0lGODlh",
        'class="sq-ribbon"',
        '<span class="k">name</span>: dt_pole',
    ):
        assert said in page, said
    assert page.count('<svg class="plot"') == 3
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "several figures on one page must not share ids"


def test_the_same_run_gives_the_same_bytes(run):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("missing", ["recipe.yaml", "metrics.jsonl", "eval.json", "clip.gif", "stream.html", "checkpoints"])
def test_a_missing_piece_is_left_out(run, missing):
    (run / missing).rename(run.parent / "elsewhere")
    page = write_report(run).read_text()
    _check(page)
    assert ("Not yet evaluated" in page) == (missing == "eval.json")
    assert ("data:image/gif" in page) == (missing != "clip.gif")


CONTENTS = [b"", b"\xff\xfe{", b"[1, 2", b"null", b"[]", b'"text"', b'{"targets": 3, "step": "x", "a": []}']


@pytest.mark.parametrize("broken", ["recipe.yaml", "metrics.jsonl", "eval.json", "clip.gif", "stream.html"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_broken_piece_is_as_good_as_missing(tmp_path, broken, content):
    (tmp_path / broken).write_bytes(content)
    _check(write_report(tmp_path).read_text())


@pytest.mark.parametrize("broken", ["tokenizer.json", "metrics.json", "model.safetensors"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_broken_bundle_is_as_good_as_missing(tmp_path, broken, content):
    (tmp_path / "checkpoints" / "last" / "bundle").mkdir(parents=True)
    (tmp_path / "checkpoints" / "last" / "bundle" / broken).write_bytes(content)
    _check(write_report(tmp_path).read_text())


def test_an_empty_folder_has_a_report(tmp_path):
    page = write_report(tmp_path).read_text()
    _check(page)
    assert tmp_path.name in page


def test_scores_say_what_they_may_be_compared_with(run):
    report = json.loads((run / "eval.json").read_text())
    for row in report["targets"]:
        row |= {"normalized": 98.1, "reference": "D4RL infos.py hopper (random -20, expert 3234)", "comparable": False}
    report["why"] = "mine/hopper-v0 is not D4RL's data"
    (run / "eval.json").write_text(json.dumps(report))
    page = write_report(run).read_text()
    assert "98.1<small>normalised score</small>" in page
    assert "Reference: D4RL infos.py hopper (random -20, expert 3234)." in page
    assert "May not stand beside the scores in D4RL papers: mine/hopper-v0 is not D4RL&#39;s data." in page
    report["targets"] = [r | {"comparable": True} for r in report["targets"]]
    report["why"] = ""
    (run / "eval.json").write_text(json.dumps(report))
    assert "May stand beside the scores in D4RL papers." in write_report(run).read_text()


def test_a_policy_that_takes_no_target(run):
    report = json.loads((run / "eval.json").read_text())
    report |= {"targets": [report["targets"][0] | {"target": None}], "returns": [[55, 65]]}
    (run / "eval.json").write_text(json.dumps(report))
    page = write_report(run).read_text()
    _check(page)
    assert "What it got" in page
    assert "This policy takes no target return." in page
    assert "--targets" not in page


def _several(run):
    """The run's own report as that of one of two domains; the other was not played."""
    report = json.loads((run / "eval.json").read_text())
    for row in report["targets"]:
        row["solved"] = 0.5
    other = {"targets": [], "env": "ALE/Pong-v5", "failed": "it needs a package", "mode": "exact", "seed": 7}
    (run / "eval.json").write_text(json.dumps({"domains": {"pole": report, "pong": other}}))
    rows = [{"step": s, "loss": 1.0 / s, "eval/pole/500/mean": s, "eval/pong/all/mean": -s} for s in (10, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    bundle = run / "checkpoints" / "last" / "bundle"
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    config = {"layout": "return state action"}
    (bundle / "tokenizer.json").write_text(
        json.dumps({"domains": {n: {**tokenizer, "config": config} for n in ("pole", "pong")}})
    )
    for name in ("clip.gif", "stream.html"):
        stem, dot, end = name.partition(".")
        (run / name).rename(run / f"{stem}-pole{dot}{end}")


def test_several_domains_have_one_table_and_a_part_each(run):
    _several(run)
    page = write_report(run).read_text()
    _check(page)
    for said in (
        "decision model of 2 domains: pole and pong",
        "Not played: it needs a package",
        "<td>50%</td>",
        "Asked for 500, it got 470 on average over 20 episodes",
        "seqrl eval &#39;runs/dt run&#39; --episodes 20 --seed 7 --mode exact",
        "classic/pole-v0, return state action",
        "data:image/gif;base64,R0lGODlh",
        'class="sq-ribbon"',
    ):
        assert said in page, said
    assert page.count('class="plot"') == 4, "one sweep, one loss, and how each of the two went while training"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    (run / "eval.json").unlink()
    page = write_report(run).read_text()
    _check(page)
    assert "Not yet evaluated" in page


@pytest.mark.parametrize("broken", [3, [], {"pole": 3}, {"pole": {"targets": 3, "failed": []}}, {"../../x": {}}, {}])
def test_broken_domains_are_as_good_as_missing(run, broken):
    (run / "eval.json").write_text(json.dumps({"domains": broken}))
    _check(write_report(run).read_text())


EVIL = '<script>alert(1)</script><img src="http://evil.example/x.png" onerror="alert(1)">'


def test_a_stranger_s_folder_is_shown_and_not_obeyed(run):
    (run / "recipe.yaml").write_text(f"name: '{EVIL}'\n# {EVIL}\nmodel: {{kind: 'policies.{EVIL}'}}\n{EVIL}: {EVIL}\n")
    report = json.loads((run / "eval.json").read_text())
    report |= {"env": EVIL, "mode": EVIL, "seed": EVIL, "why": EVIL, "versions": {EVIL: EVIL}, "commit": EVIL}
    for row in report["targets"]:
        row |= {"reference": EVIL, "episodes": EVIL, "std": EVIL, "ci95": [EVIL, 1]}
    (run / "eval.json").write_text(json.dumps(report))
    rows = [{"step": s, "loss": 1.0, f"eval/{EVIL}/mean": 3.0} for s in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    hook = 'onclick="alert(1)" style="background:url(http://evil.example)"'
    (run / "stream.html").write_text(f'<div class="sq" {hook}>{EVIL}</div></div></body><iframe src="x">')
    page = write_report(run).read_text()
    seen = _check(page)
    assert not seen & {"script", "iframe"}
    assert not re.search(r"<[^>]*(onerror|onclick)", page)
    assert not re.search(r"<[^>]*evil\.example", page)
    assert "&lt;script&gt;" in page
    part = report | {"failed": EVIL}
    (run / "eval.json").write_text(json.dumps({"domains": {EVIL: part, f"x{EVIL}": {"failed": EVIL, "env": EVIL}}}))
    page = write_report(run).read_text()
    assert not _check(page) & {"script", "iframe"}
    assert not re.search(r"<[^>]*(onerror|onclick|evil\.example)", page)
