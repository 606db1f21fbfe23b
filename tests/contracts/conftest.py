"""Packed rows made by hand, token by token, for tests of models that read them: nothing of the house's packing is used."""

import pytest
import torch

from seqrl.core.contracts import Ports
from seqrl.core.layout import Layout
from seqrl.core.packed import PackedBatch, Part

# slot -> (width, vocab, tokens, share): numbers have no vocabulary, the task's last code is padding.
SLOTS = {
    "task": (4, 9, 4, "text-0"),
    "state": (2, 16, 2, "bins16"),
    "vector": (3, 0, 1, ""),
    "image": (8 * 8 * 3, 0, 4, ""),
    "separator": (1, 1, 1, "choice"),
    "action": (2, 5, 2, "choice"),
    "move": (2, 0, 1, ""),
    "reward": (1, 16, 1, "bins16"),
    "return": (1, 16, 1, "bins16"),
    "done": (1, 2, 1, "choice"),
}
IMAGE = {"shape": [8, 8, 3], "size": 4, "encoder": "resnet"}
LAYOUTS = {
    "plain": "state action",
    "front": "task | state separator action",
    "readout": "vector > action",
    "world": "task | image vector action reward > return done",
    "codes": "state action > reward done",
    "told": "task | state separator action > reward done",
}


def make_ports(layout, numbers=False):
    """The ports of a layout; ``numbers`` makes the action a vector of two."""
    names = Layout.parse(layout).names
    own = {n: SLOTS["move" if n == "action" and numbers else n] for n in names}
    return Ports(
        layout,
        {n: own[n][0] for n in names},
        {n: own[n][1] for n in names},
        {n: n == "action" and numbers for n in names},
        {n: own[n][2] for n in names},
        {n: own[n][3] for n in names},
        {n: IMAGE for n in names if n == "image"},
        {"reward": [i / 4 for i in range(SLOTS["reward"][1])]} if "reward" in names else {},
    )


def make_values(ports, slot, n, g):
    width, vocab = ports.widths[slot], ports.vocabs[slot]
    if slot == "task":
        codes = torch.randint(vocab - 1, (n, width), generator=g)
        real = torch.randint(1, width + 1, (n,), generator=g)
        return torch.where(torch.arange(width) < real[:, None], codes, vocab - 1)
    if slot == "image" and not vocab:
        return torch.randint(256, (n, width), generator=g).to(torch.uint8)
    return torch.randint(vocab, (n, width), generator=g) if vocab else torch.rand(n, width, generator=g) * 2 - 1


def lay_out(ports, L, rows, seed=0, values=None):
    """A batch of rows of documents.

    Args:
        ports: domain -> ports.
        rows: for each row its documents, each a list of spans ``(domain, steps)``.
        values: the values to use, as ``lay_out`` made them before; drawn where not given.
    """
    g = torch.Generator().manual_seed(seed)
    layouts = {d: Layout.parse(p.layout, p.tokens) for d, p in ports.items()}
    if values is None:
        count = {d: [sum(s for row in rows for doc in row for e, s in doc if e == d), 0] for d in ports}
        for d in ports:
            count[d][1] = sum(1 for row in rows for doc in row for e, _ in doc if e == d)
        values = {
            d: {n: make_values(p, n, count[d][n in [s.name for s in layouts[d].prefix]], g) for n in p.widths}
            for d, p in ports.items()
        }
    pack, pos = torch.full((len(rows), L), -1), torch.zeros(len(rows), L, dtype=torch.int64)
    made = {d: {"at": [], "time": [], "front": [], "lengths": {s.name: [] for s in layouts[d].prefix}} for d in ports}
    for b, row in enumerate(rows):
        at = 0
        for number, document in enumerate(row):
            start = at
            for d, steps in document:
                of, layout = made[d], layouts[d]
                of["front"].append(b * L + at)
                for s in layout.prefix:
                    codes = values[d][s.name][len(of["lengths"][s.name])]
                    real = int((codes != ports[d].vocabs[s.name] - 1).sum())
                    of["lengths"][s.name].append(real)
                    at += real
                for t in range(steps):
                    of["at"].append(b * L + at)
                    of["time"].append(t)
                    at += layout.step_width
            pack[b, start:at], pos[b, start:at] = number, torch.arange(at - start)
        assert at <= L
    parts = {}
    for d, of in made.items():
        if of["at"]:
            long = {k: torch.tensor(of[k]) for k in ("at", "time", "front")}
            lengths = {n: torch.tensor(v) for n, v in of["lengths"].items()}
            weights = torch.ones(len(of["at"])), torch.ones(len(of["front"]))
            parts[d] = Part(
                values[d], long["at"], long["time"], weights[0], long["front"], lengths, weights[1], frozenset(lengths)
            )
    return PackedBatch(parts, pack, pos), values


@pytest.fixture
def packed():
    """The makers of this file, as one value."""

    class Makers:
        layouts = LAYOUTS
        ports, lay_out = staticmethod(make_ports), staticmethod(lay_out)

    return Makers
