"""One of the two processes that test_ring_bodies.py starts: ``python ring_bodies_worker.py RANK FOLDER``.

Every body runs over whole packed rows with its own attention, and over this process's piece of them with ring attention; what
is left of the difference, of outputs and of gradients added over both processes, is written to a file.
"""

import importlib.util
import json
import os
import sys
import warnings
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import CONFIG_MAPPING
from transformers.utils import logging

from seqrl.context.cut import cut_rows
from seqrl.context.exchange import Exchange
from seqrl.core import kinds
from seqrl.nn.attention import places_in
from seqrl.nn.pretrained import Pretrained
from seqrl.nn.transformer import FAMILIES, Transformer, family_config

WORDS = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
DEEP = WORDS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
}
SHARED = DEEP | {"num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
NO_WINDOW, NARROW = {"sliding_window": None}, {"head_dim": 8}
ZOO = {
    "llama": SHARED,
    "llama3": SHARED | {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 32}},
    "mistral": SHARED | NO_WINDOW,
    "ministral3": SHARED,
    "mixtral": SHARED | NO_WINDOW | {"num_local_experts": 4},
    "qwen2": SHARED,
    "qwen2_moe": SHARED | EXPERTS,
    "qwen3": SHARED | {"head_dim": 16},
    "qwen3_moe": SHARED | EXPERTS | {"head_dim": 16},
    "gemma": SHARED | {"head_dim": 16},
    "phi": SHARED,
    "phi3": SHARED | NO_WINDOW,
    "olmo": SHARED,
    "olmo2": SHARED,
    "olmoe": SHARED | EXPERTS,
    "granite": SHARED,
    "granitemoe": SHARED,
    "smollm3": SHARED,
    "gpt_neox": DEEP,
    "gpt2": WORDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96},
    "opt": DEEP | {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "starcoder2": SHARED | NO_WINDOW,
    "glm": SHARED | NARROW,
    "glm4": SHARED | NARROW,
    "stablelm": SHARED,
    "nemotron": SHARED,
    "helium": SHARED | NARROW,
    "arcee": SHARED,
    "apertus": SHARED,
    "ernie4_5": SHARED,
    "seed_oss": SHARED,
    "jais2": SHARED,
    "bitnet": SHARED,
}
RANKS = 2
PACK = torch.tensor([[0] * 5 + [1] * 50 + [2] + [3] * 20 + [-1] * 20, [0] * 96])
ROWS = [[[("a", 3)], [("b", 2)], [("a", 1)]], [[("b", 1), ("b", 3)], [("a", 2)]]]
WORLD = {"plain": "codes", "front": "told", "readout": "codes", "world": "told"}


def gap(found, wanted, least=1e-3):
    """The largest difference, in units of the largest number, or of ``least``."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=least))


def gaps(found, wanted):
    """The largest ``gap`` of several gradients by name; some are nought but for rounding, which the largest tell."""
    wanted = {n: g for n, g in wanted.items() if g is not None}
    least = 0.01 * max(float(g.abs().max()) for g in wanted.values())
    return max(gap(found[n], g, least) for n, g in wanted.items())


def makers():
    """The makers of packed rows, which the contract tests share."""
    place = Path(__file__).parents[1] / "contracts" / "conftest.py"
    spec = importlib.util.spec_from_file_location("makers", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pair:
    """This process, and the way to the other."""

    def __init__(self, rank):
        self.rank, self.exchange = rank, Exchange(dist.new_group([0, 1]))
        self.makers = makers()

    def cut(self, pack, layout="balanced"):
        return cut_rows(pack, self.exchange, RANKS, self.rank, layout)

    def added(self, t):
        t = t.clone()
        dist.all_reduce(t)
        return t

    def worst(self, *gaps):
        t = torch.tensor(gaps)
        dist.all_reduce(t, dist.ReduceOp.MAX)
        return t.tolist()

    def gradients(self, body):
        """Of every parameter, added over both processes; zeros where there is none."""
        named = dict(body.named_parameters())
        # In one message: a machine with few cores takes its time for each.
        whole = self.added(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in named.values()]))
        parts = whole.split([p.numel() for p in named.values()])
        return {n: part.view_as(p) for (n, p), part in zip(named.items(), parts, strict=True)}

    def compare(self, body, width, layout="balanced", passes=1):
        """Gaps of outputs, of the input's gradient and of all parameters'; how often the ring was asked."""
        draw = torch.Generator().manual_seed(1)
        packs = [PACK, PACK.flip(1)][:passes]
        xs = [torch.randn(*PACK.shape, width, generator=draw).requires_grad_() for _ in packs]
        ws = [torch.randn(*PACK.shape, width, generator=draw) * (p >= 0)[..., None] for p in packs]
        own = deepcopy(body)
        whole = [own(x, pack=pack) for x, pack in zip(xs, packs, strict=True)]
        sum((y * w).sum() for y, w in zip(whole, ws, strict=True)).backward()
        wanted_x = [x.grad for x in xs]
        for x in xs:
            x.grad = None
        cuts = [self.cut(pack, layout) for pack in packs]
        pieces = [
            body(cut.take(x), pos=cut.take(places_in(pack).where(pack >= 0, 0)), cut=cut)
            for x, pack, cut in zip(xs, packs, cuts, strict=True)
        ]
        calls = cuts[0].calls
        # A whole pass in between changes nothing of what the backward pass computes again.
        body(xs[0].detach(), pack=PACK)
        sum((y * cut.take(w)).sum() for y, w, cut in zip(pieces, ws, cuts, strict=True)).backward()
        real = [cut.take(p >= 0) for p, cut in zip(packs, cuts, strict=True)]
        out = max(gap(y.detach()[r], cut.take(z.detach())[r]) for y, z, r, cut in zip(pieces, whole, real, cuts, strict=True))
        given = max(gap(self.added(x.grad), g) for x, g in zip(xs, wanted_x, strict=True))
        found = self.gradients(body)
        of_weights = gaps(found, {n: p.grad for n, p in own.named_parameters()})
        return {"gaps": self.worst(out, given, of_weights), "calls": calls}

    def streams(self, kind, layouts, numbers, layout, rows=ROWS, **settings):
        """Sums, counts and gradients of a stream model."""
        module = kinds.load(kind)
        names = [self.makers.LAYOUTS[WORLD[n] if kind.startswith("worlds.") else n] for n in layouts]
        ports = {d: self.makers.make_ports(text, numbers) for d, text in zip("ab", names, strict=True)}
        torch.manual_seed(0)
        model = module.Model(module.Config.tiny(ports, 96, **settings)).eval()
        batch, _ = self.makers.lay_out(ports, 96, rows)
        whole = model(batch).sums()
        share = {n: 1 / c.clamp(min=1) for n, (_, c) in whole.items()}
        sum(t * share[n] for n, (t, _) in whole.items()).backward()
        wanted = {n: p.grad for n, p in model.named_parameters()}
        model.zero_grad()
        piece = replace(batch, cut=self.cut(batch.pack, layout))
        found = model(piece).sums()
        sum(t * share[n] for n, (t, _) in found.items()).backward()
        told = model.counts(piece)
        added = self.added(torch.stack([torch.stack(found[n]).detach() for n in whole]))
        sums = max(gap(a, t.detach()) for (a, _), (t, _) in zip(added, whole.values(), strict=True))
        counts = max(gap(a, c) for (_, a), (_, c) in zip(added, whole.values(), strict=True))
        counts += max(gap(told[n], c) for n, (_, c) in found.items())
        return {"gaps": self.worst(sums, counts, gaps(self.gradients(model), wanted))}


def stir(body):
    """Strong random weights."""
    with torch.no_grad():
        for p in body.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return body


def pretrained(name):
    config = CONFIG_MAPPING["llama" if name == "llama3" else name](**ZOO[name])
    for drop in ("dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout"):
        setattr(config, drop, 0.0)
    for drop in ("residual_dropout", "embedding_dropout"):
        setattr(config, drop, 0.0)
    torch.manual_seed(2)
    return stir(Pretrained(config)).train()


def main(rank, folder):
    torch.set_num_threads(1)
    meet = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=RANKS, timeout=timedelta(seconds=300))
    pair, found = Pair(rank), {}
    for name in ZOO:
        body = pretrained(name)
        body.prepare_ring()
        body.prove_ring(2, pair.cut)
        found[f"zoo {name}"] = pair.compare(body, body.width)
    for family in FAMILIES:
        torch.manual_seed(2)
        trunk = stir(Transformer(family_config(family, width=32, layers=2, heads=4, kv_heads=None if family == "gpt2" else 2)))
        trunk.prepare_ring()
        trunk.prove_ring(2, pair.cut)
        for layout in ("balanced", "contiguous"):
            found[f"own {family} {layout}"] = pair.compare(deepcopy(trunk), 32, layout)
        for how in ("blocks", "offload"):
            again = deepcopy(trunk)
            again.recompute(how, 7)
            found[f"own {family} {how}"] = pair.compare(again, 32, passes=2)
    for name in ("llama", "gpt2", "stablelm", "mixtral"):
        body = pretrained(name)
        body.recompute("blocks", 7)
        found[f"zoo {name} blocks"] = pair.compare(body, body.width, passes=2)
    for kind in ("policies.gato", "policies.trajectory", "policies.vla", "worlds.autoregressive"):
        for numbers in (False, True):
            for layouts in (("plain", "front"), ("readout", "world")):
                for layout in ("balanced", "contiguous"):
                    key = f"streams {kind} {'-'.join(layouts)} {'numbers' if numbers else 'codes'} {layout}"
                    found[key] = pair.streams(kind, layouts, numbers, layout)
        # All there is lies in the first piece.
        found[f"streams {kind} empty"] = pair.streams(kind, ("plain", "front"), False, "contiguous", [[[("a", 2)]], []])
    frozen = {"freeze": True}
    found["streams policies.vla frozen"] = pair.streams(
        "policies.vla", ("plain", "front"), False, "contiguous", [[[("a", 2)]], []], **frozen
    )
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads sometimes abort an interpreter that ends in its own time.
    os._exit(0)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    main(int(sys.argv[1]), Path(sys.argv[2]))
