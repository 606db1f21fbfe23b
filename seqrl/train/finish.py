"""What a run is given to look at when it is over: its scores, clips, the stream it read, and the page that shows them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrl import bundle
from seqrl.core.errors import UserError
from seqrl.report import documents
from seqrl.report.folder import as_dict, beside, read_json
from seqrl.report.page import write_report
from seqrl.report.stream import to_html
from seqrl.rollout.clip import record
from seqrl.rollout.evaluate import EvalConfig, Report, config_for
from seqrl.rollout.players import plan, players
from seqrl.train import dreams
from seqrl.train.disk import write_whole, writing
from seqrl.train.prepare import loader_for
from seqrl.train.view import look


def keep_reports(run: Path, reports: Mapping[str, Report], others: bool = False) -> None:
    """``eval.json``: the reports, as ``result.to_json`` has them, with the single returns and the words only the page needs.

    Args:
        run: the run folder.
        reports: by domain, "" for a plain model.
        others: keep what the file says of domains that are not among these, because only some were played.
    """

    def whole(report: Report) -> dict[str, Any]:
        return {**report.to_json(), "why": report.why, "returns": [[float(x) for x in r] for r in report.returns]}

    if "" in reports:
        found = whole(reports[""])
    else:
        before = as_dict(read_json(run / "eval.json").get("domains")) if others else {}
        found = {"domains": before | {name: whole(report) for name, report in reports.items()}}
    write_whole(run / "eval.json", json.dumps(found, indent=1) + "\n")


def draw_clips(loaded: bundle.Bundle, plans: Mapping[str, EvalConfig], path: Path) -> tuple[list[Path], list[str]]:
    """One clip a domain, by the name that ``report.folder.beside`` gives it.

    Args:
        loaded: who plays.
        plans: domain -> how, as ``players.plan`` gives them.
        path: where the clip of a plain model goes; those of domains go beside it.

    Returns:
        the clips; and for each that could not be drawn, why not. No picture costs what was trained or measured.
    """
    made, missing, everyone = [], [], players(loaded.model, loaded.tokenizer)
    for name, config in plans.items():
        where = beside(path, name)
        try:
            record(*everyone[name], config, where)
            made.append(where)
        except Exception as e:
            said = str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}"
            missing.append(f"no clip{name and f' of {name}'}: {said}")
    return made, missing


def finish(run: Path) -> tuple[Path, list[str]]:
    """Draws everything there is to draw of a run that was trained here.

    Args:
        run: the run folder, with a checkpoint.

    Returns:
        the page, and what could not be drawn, in words.
    """
    missing = []
    if (run / "eval.json").is_file():
        try:
            loaded = bundle.load(run)
            plans = plan(loaded.tokenizer, config_for(loaded.recipe, {}))
            # Where nothing could be played there is nothing to film, and why was said already.
            told = as_dict(read_json(run / "eval.json").get("domains"))
            playable = {name: how for name, how in plans.items() if not as_dict(told.get(name)).get("failed")}
            missing += draw_clips(loaded, playable, run / "clip.gif")[1]
        except UserError as e:
            missing.append(f"no clip: {e}")
    if (run / "dream.json").is_file():
        try:
            loaded, view = bundle.load(run), look(run)
            config = config_for(loaded.recipe, {})
            missing += dreams.draw(loaded.model, loaded.tokenizer, view.data, config, run / "dream.gif")[1]
        except UserError as e:
            missing.append(f"no picture of a dream: {e}")
    if not any(run.glob("stream*.html")):
        try:
            _draw_streams(run)
        except UserError as e:
            missing.append(f"no drawing of the stream: {e}")
    with writing(run / "report.html"):
        return write_report(run), missing


def _draw_streams(run: Path) -> None:
    """``stream.html``, or one for each domain: the first episode as the model reads it."""
    view = look(run)
    if view.recipe.tokens.documents:
        loader = loader_for(view.recipe, view.data, view.fitted, "cpu")
        write_whole(run / "stream.html", documents.to_html(*documents.pieces(loader)))
        return
    for name in view.domains or ("",):
        one = replace(view, domain=name)
        stream, _ = one.stream()
        write_whole(beside(run / "stream.html", name), to_html(stream, codecs=one.codecs))
