"""Does a training step hold what `seqrl check --memory` says it will?

A small llama of transformers under worlds.lwm, and a small Gato on our own trunk, are trained on CPU at several lengths and
with everything that spares memory. Every storage is counted while it lives (weights, gradients, moments, activations, the
batch), so what is measured is exact: it is what a device would have to hold, without gaps. The plan sees the recipe alone.
"""

import sys
from collections.abc import Callable

import torch
from _timing import number, options, show, table
from streams import batch as stream_batch
from streams import hopper
from streams import model as gato

from seqrl.core.documents import DocumentBatch, DocumentPorts
from seqrl.train.devices import device
from seqrl.train.memory import Planner
from seqrl.train.recipe import parse
from seqrl.train.rehearsal import Live
from seqrl.worlds.lwm import LWM, LWMConfig

WORDS, CODES, ROWS = 2000, 1024, 2
BODY = {"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 704}
LWM_TEXT = """
name: lwm
data: {sources: [{kind: jsonl, path: documents.jsonl}]}
tokens: {pack: 512, documents: {text: {tokenizer: nobody/reads-this}, frames: {vocab: 1024, tokens: 64}}}
model:
  kind: worlds.lwm
  body: {model_type: llama, hidden_size: 256, num_hidden_layers: 6, num_attention_heads: 4, intermediate_size: 704,
         vocab_size: 2000, max_position_embeddings: 65536}
train: {batch: 2, losses: {text: 0.5, vision: 0.5}}
evaluate: {at_end: false}
"""
GATO_TEXT = """
name: gato
data: {sources: [{kind: minari, id: mujoco/hopper/expert-v0, domain: one}]}
tokens: {pack: 240, layout: state separator action}
model: {kind: policies.gato, body: gpt2, width: 128, layers: 3, heads: 4, dropout: 0.1}
train: {batch: 16}
evaluate: {at_end: false}
"""


def documents(rows: int, length: int) -> DocumentBatch:
    """Rows of one document each, the first half of it words, the second codes."""
    g = torch.Generator().manual_seed(0)
    words = torch.randint(WORDS, (rows, length // 2), generator=g)
    ids = torch.cat([words, torch.randint(WORDS, WORDS + CODES, (rows, length - length // 2), generator=g)], 1)
    pos = torch.arange(length).expand(rows, length).contiguous()
    ones = torch.ones(rows, length)
    return DocumentBatch(ids, torch.zeros_like(ids), pos, ids.roll(-1, 1), ones, {"text": ones.clone(), "vision": ones.clone()})


def measured(model: torch.nn.Module, step: Callable[[], torch.Tensor], held: int) -> int:
    """Bytes at the fullest moment of a training step that is not the first; ``held`` are those of its batch."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, 1e-4, fused=True)

    def once() -> None:
        step().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    once()
    live = Live()
    with live:
        once()
    weights = sum(p.numel() * p.element_size() for p in parameters)
    moments = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values())
    return weights + moments + live.peak + held


def size(batch: DocumentBatch) -> int:
    tensors = (batch.ids, batch.pack, batch.pos, batch.target, batch.weight, *batch.counts.values())
    return sum(t.numel() * t.element_size() for t in tensors)


def lwm(length: int, *settings: str) -> tuple[float, float]:
    """Planned and measured bytes."""
    recipe = parse(LWM_TEXT, "lwm.yaml", [f"tokens.pack={length}", *settings])
    planner = Planner(recipe, device("cpu"))
    planned = planner.need(planner.passed(ROWS, length), ROWS, length).total
    torch.manual_seed(0)
    ports = DocumentPorts(WORDS, CODES + 2, 64, 1, 2, (3,), (4,))
    model = LWM(LWMConfig.for_documents(ports, length, body=BODY | {"vocab_size": WORDS, "max_position_embeddings": 65536}))
    model.train().trunk.recompute(recipe.engine.recompute, recipe.engine.chunk)
    batch = documents(ROWS, length)
    half = recipe.train.precision == "bf16"

    def step() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return sum(total for total, _ in model(batch).sums().values()) / batch.ids.numel()

    return planned, measured(model, step, size(batch))


def packed(rows: int, *settings: str) -> tuple[float, float]:
    """The same of Gato, in rows of 240."""
    recipe = parse(GATO_TEXT, "gato.yaml", [f"train.batch={rows}", *settings])
    planner = Planner(recipe, device("cpu"))
    planned = planner.need(planner.passed(rows, 240), rows, 240).total
    model = gato(hopper(), 240)
    model.trunk.recompute(recipe.engine.recompute, recipe.engine.chunk)
    batch = stream_batch(hopper(), [[16]] * rows, 240)
    values = [*batch.parts["one"].values.values(), batch.pack, batch.pos]

    def step() -> torch.Tensor:
        total, count = model(batch).sums()["action"]
        return total / count

    return planned, measured(model.train(), step, sum(t.numel() * t.element_size() for t in values))


SPARED = {
    "all kept": (),
    "blocks computed again": ("engine.recompute=blocks",),
    "and in chunks of 256": ("engine.recompute=blocks", "engine.chunk=256"),
}


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="tokens in a row")
    chosen = parser.parse_args()
    lines, ratios = [], []

    def add(name: str, found: tuple[float, float]) -> None:
        planned, true = found
        ratios.append(planned / true)
        print(name, f"{ratios[-1]:.3f}", file=sys.stderr, flush=True)
        lines.append((name, number(planned / 2**20), number(true / 2**20), f"{ratios[-1]:.3f}"))

    for name, settings in SPARED.items():
        for length in chosen.lengths:
            add(f"worlds.lwm, 2 rows of {length:,}, {name}", lwm(length, *settings))
    add("worlds.lwm, 2 rows of 1,024, bfloat16, all kept", lwm(1024, "train.precision=bf16"))
    add("worlds.lwm, 2 rows of 1,024, bfloat16, computed again", lwm(1024, "train.precision=bf16", "engine.recompute=blocks"))
    for name, settings in list(SPARED.items())[:2]:
        for rows in (16, 64):
            add(f"policies.gato, {rows} rows of 240, {name}", packed(rows, *settings))
    worst = max(ratios, key=lambda r: abs(r - 1))
    off = sorted(abs(r - 1) for r in ratios)[len(ratios) // 2]
    told = f"- planned / measured: furthest from 1 is **{worst:.3f}** (wanted within 0.15), the middle one is off by {off:.3f}"
    head = ("a training step", "planned MiB", "measured MiB", "planned / measured")
    show("memory of a training step, planned and measured", [table(head, lines), told], chosen.record)


if __name__ == "__main__":
    main()
