"""Random rows for policies: ports of several shapes of data, and batches that fit them."""

import pytest
import torch

from seqrl.core.contracts import Ports
from seqrl.core.layout import Layout
from seqrl.core.stream import StreamBatch

SHAPES = {
    "vectors": ({"return": 1, "state": 5, "action": 3}, {}, {"action": True}),
    "open": ({"return": 1, "state": 5, "action": 3}, {}, {}),
    "choices": ({"return": 1, "state": 2, "action": 2}, {"state": 6, "action": 4}, {}),
}


def make_ports(layout, shape="vectors"):
    widths, vocabs, bounded = SHAPES[shape]
    names = Layout.parse(layout).names
    widths = {n: widths.get(n, 2) for n in names}
    return Ports(layout, widths, {n: vocabs.get(n, 0) for n in names}, {n: bounded.get(n, False) for n in names})


def make_rows(ports, B=5, T=6, seed=0, length=None):
    """``length`` is a list of real steps, T each if not given."""
    g = torch.Generator().manual_seed(seed)
    values = {}
    for name, width in ports.widths.items():
        if ports.vocabs[name]:
            values[name] = torch.randint(ports.vocabs[name], (B, T, width), generator=g)
        else:
            values[name] = torch.rand(B, T, width, generator=g) * 2 - 1
    time = torch.randint(0, 40, (B, 1), generator=g) + torch.arange(T)
    return StreamBatch(values, time, torch.full((B,), T) if length is None else torch.tensor(length))


def cut(batch, stop, start=0, rows=slice(None)):
    """Steps ``start`` to ``stop`` of some rows, all real."""
    values = {n: v[rows, start:stop] for n, v in batch.values.items()}
    time = batch.time[rows, start:stop]
    return StreamBatch(values, time, torch.full((len(time),), stop - start))


def one_step(batch, t, begun):
    """What an agent feeds at step ``t [B]``: the step, and under ``action`` the one before, nonsense where none was."""
    at = torch.arange(len(t))
    values = {n: v[at, t][:, None] for n, v in batch.values.items()}
    before = batch.values["action"][at, (t - 1).clamp(min=0)]
    nonsense = -7 if before.dtype == torch.int64 else float("nan")
    values["action"] = torch.where(torch.as_tensor(begun)[:, None], before, nonsense)[:, None]
    return StreamBatch(values, batch.time[at, t][:, None], torch.ones_like(t))


@pytest.fixture
def rows():
    """The makers of this file, as one value."""

    class Makers:
        ports, batch, cut, step, shapes = make_ports, make_rows, cut, one_step, SHAPES

    Makers.ports, Makers.batch, Makers.cut, Makers.step = map(staticmethod, (make_ports, make_rows, cut, one_step))
    return Makers
