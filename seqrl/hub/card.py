"""The model card: README.md with scores in both of the Hub's formats, and the pictures it shows, beside the bundle's files.

The words stand in the template ``hub/card.md.j2`` and the facts come from the bundle (``facts``), so a card has no branch for
any model. Scores go into the card's ``model-index``, which the Hub's pages show, and, where the data are a public Minari
dataset, into ``.eval_results/minari.yaml``, which its leaderboards read.
"""

import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from seqrl.core import shelf
from seqrl.hub.facts import Facts, gather, plain
from seqrl.report import dream, plots, words
from seqrl.report.folder import beside, read_clip
from seqrl.report.ink import number, png
from seqrl.report.plots import finite

# The public Minari datasets (minari.farama.org): only of these does a score belong to everybody's table.
_PUBLIC = re.compile(
    r"(mujoco|D4RL|minigrid|atari)/("
    r"(?:hopper|halfcheetah|walker2d|ant|humanoid|humanoidstandup|swimmer|reacher|pusher|invertedpendulum|inverteddoublependulum)"
    r"/(?:simple|medium|expert)-v0"
    r"|(?:pen|door|hammer|relocate)/(?:human|cloned|expert)-v2"
    r"|(?:antmaze/(?:umaze|medium|large)(?:-diverse|-play)?-v1|pointmaze/(?:open|umaze|medium|large)(?:-dense)?-v2)"
    r"|kitchen/(?:complete|mixed|partial)-v2|minigrid/fourrooms(?:-random)?-v0|BabyAI-[\w-]+/[\w-]+|[\w-]+/expert-v0)"
)
_MOST_CLIP = 8 << 20


def write_card(staged: Path, run: Path | None, repo: str, revision: str | None = None, license: str | None = None) -> None:
    """Writes ``README.md``, the pictures it shows and ``.eval_results/`` into the folder of a bundle.

    Args:
        staged: the bundle, with whatever else is published; files of portable code make the card say how to use them.
        run: the folder of its run, for clips and single returns; None where there is only the bundle.
        repo, revision: where it will be found; the snippet names both. None means the tag that a push gives its step.
        license: what the publisher says (an identifier of the Hub's, such as ``apache-2.0``); None says nothing.

    Raises:
        BundleError: the bundle's tokenizer cannot be read.
    """
    facts = gather(staged, run)
    revision = revision or (f"step-{facts['step']}" if facts["step"] is not None else "main")
    pictures = _pictures(facts, run, staged)
    text = _header(facts, repo, license) + "\n" + _body(facts, staged, pictures, repo, revision)
    (staged / "README.md").write_text(text, encoding="utf-8")
    if entries := _entries(facts):
        (staged / ".eval_results").mkdir(exist_ok=True)
        (staged / ".eval_results" / "minari.yaml").write_text(entries, encoding="utf-8")


def _header(facts: Facts, repo: str, license: str | None) -> str:
    """The card's YAML: what the Hub's pages, filters and trees of models read."""
    from huggingface_hub import EvalResult, ModelCardData

    leaf = facts["kind"].rpartition(".")[2].replace("\\", "")
    tags = ["seqrl", "reinforcement-learning", "offline-rl", leaf, *facts["environments"]]
    results = [EvalResult(**result) for result in _results(facts)]
    own: dict[str, Any] = {}
    base = facts["lineage"].get("base_model", "")
    if facts["lineage"].get("published") and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and base != repo:
        own = {"base_model": base} | ({} if facts["lineage"]["converted"] else {"base_model_relation": "finetune"})
    data = ModelCardData(
        library_name="seqrl",
        pipeline_tag="reinforcement-learning",
        license=license,
        tags=list(dict.fromkeys(tags)),
        model_name=repo.rpartition("/")[2] if results else None,
        eval_results=results or None,
        **own,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _results(facts: Facts) -> list[dict[str, Any]]:
    """One result a domain and measure, of the target that got most."""
    found = []
    for report in facts["reports"].values():
        targets = words.targets_of(report)
        env = str(report.get("env") or "")
        if not targets or not env:
            continue
        best = max(targets, key=lambda t: float(t["mean"]))
        about = {
            "task_type": "reinforcement-learning",
            "task_name": "reinforcement-learning",
            "dataset_type": env,
            "dataset_name": env,
        }
        spread = f" +/- {float(best['std']):.2f}" if finite(best.get("std")) else ""
        found.append(
            about | {"metric_type": "mean_reward", "metric_name": "mean_reward", "metric_value": f"{best['mean']:.2f}{spread}"}
        )
        if finite(best.get("normalized")):
            score = {"metric_type": "normalized_score", "metric_value": round(float(best["normalized"]), 2)}
            found.append(about | score | {"metric_name": f"normalised score ({best.get('reference')})"})
    return found


def _entries(facts: Facts) -> str:
    """``.eval_results``: normalised scores of public Minari datasets, as the Hub's leaderboards read them."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = []
    for report, data in zip(facts["reports"].values(), facts["data"], strict=False):
        targets = [t for t in words.targets_of(report) if finite(t.get("normalized"))]
        known = _PUBLIC.fullmatch(data.replace("\\", ""))
        if not targets or not known:
            continue
        best = max(targets, key=lambda t: float(t["normalized"]))
        notes = (
            f"normalised score; {best.get('episodes')} episodes; reference: {best.get('reference')}; "
            "trained on the dataset of that id as it was on the publisher's machine"
        )
        entries.append(
            EvalResultEntry(
                dataset_id=f"farama-minari/{known[1]}",
                task_id=known[2],
                value=round(float(best["normalized"]), 2),
                date=time.strftime("%Y-%m-%d"),
                notes=notes,
            )
        )
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False) if entries else ""


def _pictures(facts: Facts, run: Path | None, staged: Path) -> list[dict[str, str]]:
    """Draws and copies the pictures of a card; returns their files and what they show, in words."""
    shown = []
    for name, report in facts["reports"].items():
        targets = words.targets_of(report)
        swept = plots.sweep(targets) if any(finite(t.get("target")) for t in targets) and len(targets) > 1 else None
        if swept:
            file = beside(staged / "sweep.png", name)
            file.write_bytes(png(swept, dpi=110))
            shown.append({"file": file.name, "says": plain(words.sweep_spoken(targets), 200) or "asked and got"})
    for name, fidelity in dream.fidelities(facts["dream"]).items():
        if curve := dream.curve(fidelity):
            file = beside(staged / "dream.png", name)
            file.write_bytes(png(curve, dpi=110))
            shown.append({"file": file.name, "says": plain(dream.spoken(fidelity), 120) or "error by steps ahead"})
    for stem, says in (("clip", "It plays"), ("dream", "A dream beside what really came")):
        # A clip is of the checkpoint that was scored, and this may be another.
        for name in (facts["reports"] if facts["played"] else ()) if stem == "clip" else dream.fidelities(facts["dream"]):
            source = beside(run / f"{stem}.gif", name) if run else None
            if source and source.is_file() and source.stat().st_size <= _MOST_CLIP and read_clip(source):
                shutil.copyfile(source, staged / source.name)
                shown.append({"file": source.name, "says": f"{says} {plain(name)}".strip()})
    return shown


def _body(facts: Facts, staged: Path, pictures: list[dict[str, str]], repo: str, revision: str) -> str:
    room = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = room.from_string((shelf.folder("hub") / "card.md.j2").read_text(encoding="utf-8"))
    portable = (staged / "processor_config.json").is_file()
    horizons, rows = _dreamt(facts["dream"])
    text = template.render(
        facts
        | {
            "pictures": pictures,
            "domains": any(row["domain"] for row in facts["scores"]),
            "solved": any(row["solved"] != "–" for row in facts["scores"]),
            "commands": _commands(facts, repo, revision),
            "portable": portable,
            "repo": repo,
            "revision": revision,
            "horizons": horizons,
            "dream_rows": rows,
        }
    )
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


def _commands(facts: Facts, repo: str, revision: str) -> list[str]:
    repo = repo if revision == "main" else f"{repo}@{revision}"
    lines = [f"seqrl pull {repo}"]
    if facts["room"] == "policies" and facts["environments"]:
        lines.append(f"seqrl eval {repo} --episodes 20")
    if facts["documents"]:
        lines.append(f"seqrl generate {repo} --video 0 --gif video.gif   # a held-out video of its data, gone on with")
    elif facts["room"] == "worlds" or facts["dream"]:
        lines.append(f"seqrl dream {repo} --gif dream.gif")
    return [*lines, f"seqrl train RECIPE init={repo}   # fine-tune it on data of your own"]


def _dreamt(found: Mapping[str, Any]) -> tuple[list[int], list[dict[str, Any]]]:
    """The table of a world: a row for each slot, measure and who tells it; of several domains the first that has one."""
    for fidelity in dream.fidelities(found).values():
        horizons = dream.horizons_of(fidelity)
        rows = [
            {"name": f"{plain(slot)} {measure}, {who}", "values": [number(v) for v in values]}
            for slot, measure, lines in dream.panels(fidelity)
            for who, values in lines.items()
        ]
        if horizons and rows:
            return horizons, rows
    return [], []
