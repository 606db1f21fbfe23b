"""What a run is given to look at when it is over: its scores, a clip, the stream it read, and the page that shows them."""

import json
import os
from pathlib import Path

from seqrl import bundle
from seqrl.core.errors import UserError
from seqrl.report.page import write_report
from seqrl.report.stream import to_html
from seqrl.rollout.clip import record
from seqrl.rollout.evaluate import Report, config_for
from seqrl.train.view import stream_of


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it appears complete or not at all."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def keep_report(run: Path, report: Report) -> None:
    """``eval.json``: the report, with the single returns and the words that only the page needs."""
    more = {"why": report.why, "returns": [[float(x) for x in r] for r in report.returns]}
    write_whole(run / "eval.json", json.dumps({**report.to_json(), **more}, indent=1) + "\n")


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
            record(loaded.model, loaded.tokenizer, config_for(loaded.recipe, {}), run / "clip.gif")
        except UserError as e:
            missing.append(f"no clip: {e}")
    if not (run / "stream.html").is_file():
        try:
            stream, _ = stream_of(run)
            write_whole(run / "stream.html", to_html(stream))
        except UserError as e:
            missing.append(f"no drawing of the stream: {e}")
    return write_report(run), missing
