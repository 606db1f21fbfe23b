"""The page of a published dataset: what it holds in numbers, how to load it, where it comes from. All of it from its store."""

from typing import TYPE_CHECKING, Any

from seqrl.core import shelf
from seqrl.hub.facts import plain
from seqrl.sources import _parquet

if TYPE_CHECKING:
    from seqrl.data.store import Store

_ORIGIN = ("author", "algorithm_name", "code_permalink", "source", "family", "minari_version")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def write_card(store: "Store", about: dict[str, Any], repo: str, license: str | None) -> str:
    """``README.md``: the YAML that ``load_dataset`` and the Hub's pages read, and what a person wants to know."""
    import jinja2
    import yaml

    from seqrl.data.describe import describe

    facts, spec = describe(store), store.spec
    names = {f"{part}.{name}": column for column, (part, name, _) in _parquet.columns(spec).items()}
    columns = [
        {
            "name": plain(names[c.name]).replace("\\", ""),
            "kind": c.kind,
            "shape": "x".join(map(str, c.shape)),
            "dtype": c.dtype,
            "declared": plain(c.declared),
            "found": plain(c.found),
        }
        for c in facts.columns
    ]
    head = {
        "pretty_name": spec.id,
        "license": license or "unknown",
        "task_categories": ["reinforcement-learning"],
        "tags": ["seqrl", "offline-rl", "trajectories", *([facts.env] if facts.env else [])],
        "size_categories": [next((word for most, word in _SIZES if about["rows"] < most), "n>10M")],
        "configs": [
            {"config_name": "steps", "default": True, "data_files": "steps/*.parquet"},
            {"config_name": "episodes", "data_files": "episodes/*.parquet"},
        ],
    }
    template = shelf.folder("hub") / "dataset_card.md.j2"
    made = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = made.from_string(template.read_text(encoding="utf-8")).render(
        name=plain(spec.id),
        episodes=facts.episodes,
        steps=facts.steps,
        env=plain(facts.env).replace("\\", "") if facts.env else "",
        description=plain(spec.about.get("description") or "", 2000),
        columns=columns,
        returns={k: _number(v) for k, v in facts.returns.items()},
        lengths={k: _number(v) for k, v in facts.lengths.items()},
        ended=f"{facts.terminated:.0%} of the episodes end for good, the others are cut off.",
        references=[_number(r) for r in facts.references] if facts.references else None,
        normalised=None if facts.normalised is None else f"{facts.normalised:.1f}",
        repo=repo,
        source=plain(spec.id),
        origin={k.replace("_", " "): _listed(v) for k in _ORIGIN if (v := spec.about.get(k))},
        license=plain(license or ""),
        notes=[plain(n) for n in facts.notes],
    )
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{text.rstrip()}\n"


def _listed(value: Any) -> str:
    return plain(", ".join(map(str, value)) if isinstance(value, list) else value)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
