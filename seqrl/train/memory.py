"""Before a run is paid for: what each device will hold, how fast it can be at most, and the longest rows that fit.

Weights, gradients and moments follow from the engine; activations from a rehearsal (train/rehearsal.py). Sums are of one
device, in bytes. Rows are taken to hold one document each, which costs most; shorter ones see less and send less.

Letters: P weights, T of them trained, n processes, L tokens in a row, d numbers in a head.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from seqrl.core.documents import DocumentBatch
from seqrl.core.errors import RecipeError
from seqrl.train.begin import settle
from seqrl.train.devices import Device
from seqrl.train.engine import ContextError, Cut, cut_rows, ring_share
from seqrl.train.needs import MemoryPlan, Need, Speed, StagePlan, facts_of
from seqrl.train.recipe import Recipe
from seqrl.train.rehearsal import Nobody, Pass, hollow, rehearse, shorten, unreal
from seqrl.train.unseen import unseen

WORD = 4
"""Bytes of a weight, a gradient, a moment: they stay in float32 in either precision."""
BUCKET = 500_000_000
"""Numbers in the buffer through which DeepSpeed's gradients go (reduce_bucket_size); twice as many weights are kept gathered
(stage3_max_live_parameters). Its defaults, which train/zero.py leaves."""
LARGE = 16384
"""Tokens of a pass that is rehearsed as it is; of a longer one shorter ones tell."""
GATHERED = 3
"""Blocks whose weights FSDP has whole at once: the one at work, the next, and the buffer it was received in."""


class Planner:
    """Plans one recipe for one kind of device.

    Args:
        processes: n; None takes what the recipe asks for, or one.

    Raises:
        RecipeError: a model that cannot be planned, or processes that do not divide.
    """

    def __init__(self, recipe: Recipe, device: Device, processes: int | None = None) -> None:
        how = recipe.engine
        self.recipe, self.device, self.n = recipe, device, processes or how.wanted or 1
        if self.n % how.sequence:
            raise RecipeError(f"--processes {self.n}: no multiple of engine.sequence={how.sequence}")
        self.kind = "ddp" if how.kind == "auto" or self.n == 1 else how.kind
        self.half = recipe.train.precision == "bf16"
        stages = [recipe.stage(i) for i in range(len(recipe.stages or [None]))]
        made = unseen(recipe, max(s.tokens.pack or 0 for s in stages))
        self.facts, self.assumed, self._made = facts_of(made.model, made.body, made.heads), tuple(made.assumed), made
        # What waits in the host's memory is taken off afterwards.
        made.body.recompute("none" if how.recompute == "none" else "blocks", how.chunk)
        if how.ring:
            made.body.prepare_ring()
        # Two blocks tell what each keeps.
        shorten(made.body, 2)
        self._unreal = unreal()
        with self._unreal:
            # FSDP hands out weights in the dtype they are computed in; under autocast copies are made of them.
            hollow(made.model, lambda _: self.half and self.kind == "fsdp")
        self.stages = stages
        self._known: dict[tuple[int, int], Pass] = {}

    def plan(self) -> MemoryPlan:
        """All stages."""
        found = tuple(self._stage(i, s) for i, s in enumerate(self.stages))
        return MemoryPlan(self.recipe, self.device, self.kind, self.n, self.facts, found, self.assumed)

    def _stage(self, number: int, recipe: Recipe) -> StagePlan:
        train, length = recipe.train, int(recipe.tokens.pack or 0)
        groups = self.n // recipe.engine.sequence
        share = groups * train.accumulate
        if train.batch % share:
            raise RecipeError(
                f"stage {number + 1}: train.batch={train.batch} must be a multiple of groups x accumulate = {share} "
                f"({self.n} processes, {recipe.engine.sequence} to a row)"
            )
        rows = train.batch // share
        try:
            tokens = ring_share(length, recipe.engine.sequence, recipe.engine.layout, rows)
        except ContextError as e:
            raise RecipeError(f"stage {number + 1}: {e}") from e
        done = self.passed(rows, length)
        need = self.need(done, rows, length)
        stage = (self.recipe.stages or [None])[number]
        base = None if stage is None else stage.rope_base
        speed = self._speed(rows, length, tokens, done)
        return StagePlan(
            number, length, base, train.steps, train.batch, rows, tokens, need, speed, self._longest(rows, length, need.total)
        )

    # ---- memory -----------------------------------------------------------------------------------------------------

    def passed(self, rows: int, length: int) -> Pass:
        """A pass of ``rows`` rows of one device; long ones as shorter ones tell: all of it grows with the tokens, and masks of
        whole packed rows with the square of a row."""
        n, chunk = self.recipe.engine.sequence, self.recipe.engine.chunk or 1
        most = max(LARGE, 4 * chunk)
        tokens = rows * length // n
        if tokens <= most:
            return self._rehearsed(rows, length)
        if n > 1:
            points, at = [most // 2, most], tokens
            passes = [self._rehearsed(1, x * n) for x in points]
        else:
            unit = max(1, most // rows // 4)
            points, at = [unit, 2 * unit, 4 * unit], length
            passes = [self._rehearsed(rows, x) for x in points]
        values = [[getattr(p, f.name) for p in passes] for f in fields(Pass)]
        found = Pass(*(max(0.0, _through(points, v, at)) for v in values))
        if n == 1 or rows == 1:
            return found
        # Those were of one row; of several short ones fewer keys are seen elsewhere, and only those travel.
        several, one = (self._cut(*shape).plan.received for shape in ((rows, length), (1, tokens * n)))
        ring = found.ring * several / one
        return replace(found, tail=found.tail - found.ring + ring, ring=ring, sent=found.sent * several / one)

    def _cut(self, rows: int, length: int) -> Cut | None:
        """Of the process that receives most, the first or the last; None where rows are whole."""
        how = self.recipe.engine
        if not how.ring:
            return None
        pack = torch.zeros(1, 1, dtype=torch.int64).expand(rows, length)
        peers = Nobody() if how.sequence > 1 else None
        ranks = (cut_rows(pack, peers, how.sequence, r, how.layout) for r in (0, how.sequence - 1))
        return max(ranks, key=lambda c: c.plan.received)

    def _rehearsed(self, rows: int, length: int) -> Pass:
        if (rows, length) not in self._known:
            made, cut = self._made, self._cut(rows, length)
            with self._unreal:
                if cut is not None:
                    at, spot = (torch.empty(t.shape, dtype=t.dtype) for t in (cut.at, cut.spot))
                    cut = replace(cut, at=at, spot=spot)
                run = self._documents(rows, length, cut) if made.documents else self._streams(rows, length, cut)
                exchange = None if cut is None else cut.exchange
                self._known[rows, length] = rehearse(made.model, made.body, run, self.half, exchange, made.asked)
        return self._known[rows, length]

    def _documents(self, rows: int, length: int, cut: Cut | None) -> Callable[[], Tensor]:
        ids, weight = torch.empty(rows, length, dtype=torch.int64), torch.empty(rows, length)
        counts = {n: torch.empty(rows, length) for n in self._made.heads}
        batch = DocumentBatch(ids, ids, ids, ids, weight, counts, cut)
        return lambda: sum(total for total, _ in self._made.model(batch).sums().values())

    def _streams(self, rows: int, length: int, cut: Cut | None) -> Callable[[], Tensor]:
        """The trunk, and scores of a slot's share of all places: how many tokens its values take is the data's to say."""
        body, heads, some = self._made.body, self._made.heads, self._made.asked
        pack = torch.empty(rows, length, dtype=torch.int64)
        shape = pack.shape if cut is None else (1, len(cut.at))
        ids = torch.empty(shape, dtype=torch.int64)
        table = torch.empty(2, self.facts.width, requires_grad=True)
        matrices = [torch.empty(max(v, 8), self.facts.width, requires_grad=True) for v in heads.values()]

        def run() -> Tensor:
            x = F.embedding(ids, table)
            y = body(x, pack=pack, pos=pack) if cut is None else body(x, pos=ids, cut=cut)
            y = y.flatten(0, 1)
            asked = torch.empty(max(1, round(len(y) * some)), dtype=torch.int64)
            return sum(F.cross_entropy(F.linear(y[asked], w).float(), asked) for w in matrices)

        return run

    def need(self, done: Pass, rows: int, length: int) -> Need:
        """Bytes of one device, of a rehearsed pass of ``rows`` rows of ``length``."""
        f, train = self.facts, self.recipe.train
        weights, gradients, moments, buffers = self._states()
        layer, host = done.layer, 0.0
        if self.recipe.engine.recompute == "offload" and self.device.name != "cpu":
            layer, host = layer - done.fed, done.fed * f.layers
        kept = layer * f.layers
        if self.kind == "ddp" and train.accumulate == 1:
            # Gradients come to be while what blocks keep goes: the fullest moment is the first block's backward pass, the last
            # one's, or that of the scores.
            moments_ = ((done.head, f.layers, 0.0), (done.tail, f.layers, f.loose * WORD), (done.tail, 1, gradients))
            work, blocks, gradients = max(moments_, key=lambda m: m[0] + m[1] * layer + m[2])
            kept = layer * blocks
        else:
            work = max(done.head, done.tail)
        # Five tracks of 8 bytes a token and three of 4; those who share a row all have it whole, and where its tokens are.
        batch = rows * length * (52 + (16 if self.recipe.engine.sequence > 1 else 0))
        ring = min(done.ring, work)
        return Need(weights, gradients, moments, buffers, kept, ring, work - ring, batch, host)

    def _states(self) -> tuple[float, float, float, float]:
        """Weights, gradients, AdamW's two moments, and what an engine keeps besides."""
        f, n = self.facts, self.n
        P, T = f.weights * WORD, f.trained * WORD
        average = T if self.recipe.train.ema else 0.0
        if self.kind == "ddp":
            # DDP's buckets hold every gradient once more, from which the others' are received.
            return P, T, 2 * T, average + (T if n > 1 else 0.0)
        # DeepSpeed has two buffers for gradients on a GPU, where one fills while the other is sent.
        buckets = BUCKET * WORD * (2 if self.device.name != "cpu" and self.kind == "zero2" else 1)
        if self.kind == "zero2":
            # Its shard of the weights is a copy beside the whole ones.
            return P + T / n, T / n, 2 * T / n, average + buckets
        if self.kind == "zero3":
            blocks = min(f.block * f.layers, 2 * BUCKET)
            # What stands outside of blocks stays whole (train/zero.py).
            return P / n, T / n, 2 * T / n, buckets + (blocks + f.outside) * WORD
        word = 2 if self.half else WORD
        # Besides gathered weights: the gradients of a block and of all that stands outside, whole, and as they are sent.
        whole = word * (GATHERED * f.block + f.outside) + (word + WORD) * max(f.block, f.loose)
        return P / n, T / n, 2 * T / n, whole

    def _longest(self, rows: int, length: int, total: float) -> int:
        """The longest row that fits, by going where the line through the last two lengths says; 0 where none does."""
        unit = 2 * self.recipe.engine.sequence
        most = self._most()
        a, b = (length, total), (x := max(unit, length // 2 // unit * unit), self._total(rows, x))
        best = 0
        for _ in range(6):
            best = max([best, *(n for n, t in (a, b) if t <= self.device.memory and n <= most)])
            slope = (b[1] - a[1]) / (b[0] - a[0]) if b[0] != a[0] else 0.0
            # A row more never costs nothing; where it seems so, other things are fuller than rows.
            guess = b[0] + (self.device.memory * 0.999 - b[1]) / slope if slope > 0 else b[0] * 4
            aim = int(min(max(guess, b[0] / 8, unit), b[0] * 16, most)) // unit * unit
            if aim <= 0 or aim in (a[0], b[0]) or abs(aim - best) < 0.005 * aim:
                break
            a, b = b, (aim, self._total(rows, aim))
        return best

    def _most(self) -> int:
        """Positions there are, of a body that cannot be stretched; else more than is asked of any."""
        config = self._made.body.config
        learned = getattr(config, "positions", "") == "learned" or getattr(config, "model_type", "") in ("gpt2", "opt")
        limit = getattr(config, "max_positions", None) or getattr(config, "max_position_embeddings", None)
        return limit if learned and limit else 1 << 26

    def _total(self, rows: int, length: int) -> float:
        return self.need(self.passed(rows, length), rows, length).total

    # ---- speed ------------------------------------------------------------------------------------------------------

    def _speed(self, rows: int, length: int, tokens: int, done: Pass) -> Speed:
        cut = self._cut(rows, length)
        f, how, pieces = self.facts, self.recipe.engine, self.recipe.train.accumulate
        again = how.recompute != "none"
        rate = self.device.arithmetic(self.recipe.train.precision)
        # A product multiplies and adds; back it is done twice, once where its weights are frozen; computed again, once more.
        share = f.trained / f.weights
        block = f.products * f.layers * 2 * (2 + share + again)
        head = f.scored * f.width * 2 * (4 if self._made.documents else 3)
        # Scores and outputs are two products of d for each pair that is seen, back they are five (Dao et al. 2022, arXiv
        # 2205.14135). Whole packed rows carry a mask and compute every pair; a cut computes those that are seen.
        pairs = rows * length * length if cut is None else max(cut.plan.cost)
        attention = pairs * f.heads * f.size * 2 * (2 + 5 + 2 * again) * f.layers
        arithmetic = ((block + head) * tokens + attention) * pieces / rate
        sent = done.sent * f.layers * pieces
        ring = sent / self.device.way(how.sequence)
        # Attention's time falls with the square of the tokens, and that of keys with their number: where they are even.
        working = attention * pieces / rate
        least = 0.0 if cut is None else tokens * ring / working
        weights = self._moved(pieces) / self.device.way(self.n)
        return Speed(arithmetic, ring, weights, rows * length * pieces * (self.n // how.sequence), least)

    def _moved(self, pieces: int) -> float:
        """Bytes of weights and gradients that a device sends in a step; a gathering or scattering of all sends (n - 1) / n."""
        f, n = self.facts, self.n
        P, T = f.weights * WORD, f.trained * WORD
        part = (n - 1) / n
        if self.kind == "ddp":
            # Added up and handed out again.
            return 2 * T * part
        if self.kind == "zero2":
            # Every piece's gradients go to their owners; new weights come back once.
            return (T * pieces + P) * part
        word = 2 if self.half and self.kind == "fsdp" else WORD
        # Blocks are gathered forth and back again, what stands outside of them once.
        gathered = (2 * (f.weights - f.outside) + f.outside) * word
        return (gathered + T) * pieces * part


def plan_memory(recipe: Recipe, device: Device, processes: int | None = None) -> MemoryPlan:
    """What ``seqrl check --memory`` tells.

    Raises:
        RecipeError: see ``Planner``.
    """
    return Planner(recipe if recipe.init is None else settle(recipe), device, processes).plan()


def _through(x: list[int], y: list[float], at: float) -> float:
    """The value at ``at`` of the polynomial through points (Lagrange)."""
    total = 0.0
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        for j, c in enumerate(x):
            if j != i:
                b *= (at - c) / (a - c)
        total += b
    return total
