"""Does fine-tuning pay: steps until a Decision Transformer acts like hopper's expert, begun from medium data and from nothing.

For each seed a model is pretrained on hopper/medium; from its bundle one run trains all weights on hopper/expert and one trains
LoRA's, and a third begins at random. All three have a short warm-up and then a constant rate, and the moving average of the
weights is what plays, so that a score after n steps is what a run of n steps would have had; the rate is the same with all
weights, begun or not. To reach: the score that training from scratch ends with in half of its steps, and LoRA within 3 points
of training all weights.

With a constant rate scores jump by tens of points between evaluations; the table in recipes/RESULTS.md is of annealed runs,
whose commands stand there.

Runs are kept in a folder and gone on with: call it again until it draws. ``--only scratch --seeds 0`` trains one of them, and
``--draw`` only reads what is there.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from _timing import show, table, verdict

import seqrl
from seqrl.train import checkpoint, metrics, run
from seqrl.train import recipe as recipes

TARGET = 3600
CASES = {"scratch": "from scratch", "full": "fine-tuned, all weights", "lora": "fine-tuned, LoRA"}
COLOURS = {"scratch": "#8a8a8a", "full": "#1f6fb2", "lora": "#d9822b"}
SAME = ["train.precision=fp32", "train.keep=1", "train.device=cpu", "train.ema=0.97"]
CONSTANT = ["train.decay=none", "train.warmup=50"]
Curve = dict[int, list[float]]
"""Steps -> a score for each seed."""


def recipe_of(case: str, seed: int, asked: argparse.Namespace, home: Path) -> recipes.Recipe:
    """The run of a case; ``medium`` is the pretraining."""
    steps = {"medium": asked.pretrain, "scratch": asked.steps}.get(case, asked.steps // 2)
    seeds = [f"train.seed={seed}", f"train.steps={steps}", "train.save_every=200", f"train.validate_every={steps}"]
    if case == "medium":
        return recipes.load("dt_hopper_medium", [*SAME, *seeds, "evaluate.at_end=false"])
    plays = [f"evaluate.every={asked.every}", f"evaluate.targets=[{TARGET}]"]
    plays += [f"evaluate.episodes={asked.episodes}", f"evaluate.envs={asked.episodes}"]
    more = [f"train.lr={asked.lora_lr if case == 'lora' else asked.lr}"]
    if case != "scratch":
        more.append(f"init={home / f'medium-{seed}'}")
    if case == "lora":
        more.append(f"train.lora={asked.lora}")
    return recipes.load("dt_hopper_expert", [*SAME, *CONSTANT, *seeds, *plays, *more])


def train(case: str, seed: int, asked: argparse.Namespace, home: Path) -> None:
    """Trains a run to its end, or what is left of it."""
    out = home / f"{case}-{seed}"
    wanted = recipe_of(case, seed, asked, home)
    last = checkpoint.last(out) if out.exists() else None
    if last and checkpoint.load(last).step >= wanted.train.steps:
        return
    print(f"{case}, seed {seed}: {wanted.train.steps:,} steps", file=sys.stderr, flush=True)
    run.resume(out) if (out / "recipe.yaml").exists() else run.start(wanted, out)


def before(seed: int, asked: argparse.Namespace, home: Path) -> None:
    """What the pretrained model itself gets, measured once: the first point of what begins with it."""
    path = home / f"medium-{seed}" / "asked.json"
    if not path.exists():
        settings = {"targets": [TARGET], "episodes": asked.episodes, "envs": asked.episodes}
        found = seqrl.evaluate(home / f"medium-{seed}", **settings)
        path.write_text(json.dumps({"normalized": found.targets[0].normalized}))


def curve(case: str, seeds: list[int], home: Path) -> Curve:
    """What a case got, in normalised points; only steps that all seeds have come to."""
    each = []
    for seed in seeds:
        first = home / f"medium-{seed}" / "asked.json"
        one = {0: json.loads(first.read_text())["normalized"]} if case != "scratch" and first.exists() else {}
        key = f"eval/{TARGET}/normalized"
        one |= {r["step"]: r[key] for r in metrics.read(home / f"{case}-{seed}" / "metrics.jsonl") if key in r}
        each.append(one)
    return {s: [one[s] for one in each] for s in sorted(set.intersection(*map(set, each)))}


def reached(points: Curve, score: float) -> int | None:
    """The first step at which the seeds' mean is there; None where it never is."""
    return next((s for s, scores in points.items() if np.mean(scores) >= score), None)


def judge(curves: Mapping[str, Curve]) -> list[str]:
    """The table, and the numbers to reach."""
    # The last two evaluations, of few episodes each.
    ends = {c: np.mean(list(points.values())[-2:], 0) for c, points in curves.items()}
    goal = float(ends["scratch"].mean())
    rows, at = [], {}
    for case, points in curves.items():
        steps = [reached(points, score) for score in (50.0, 90.0, goal)]
        at[case] = steps[-1]
        said = ["never" if s is None else f"{s:,}" for s in steps]
        rows.append([CASES[case], *said, f"{ends[case].mean():.1f}", f"{ends[case].min():.1f} to {ends[case].max():.1f}"])
    out = [table(["begun", "steps to 50", "steps to 90", f"steps to {goal:.1f}", "at its end", "each seed"], rows)]
    for case in ("full", "lora"):
        share = float("inf") if at[case] is None else 100 * at[case] / at["scratch"]
        what = f"% of the steps from scratch until {goal:.1f}, the score which that ends with; {CASES[case]}"
        out.append(verdict(what, share, 50, at_least=False))
    apart = float(ends["full"].mean() - ends["lora"].mean())
    out.append(verdict("points by which LoRA ends below training all weights", apart, 3, at_least=False))
    return [out[0], "\n".join(out[1:])]


def draw(curves: Mapping[str, Curve], path: Path) -> None:
    """Mean over seeds with the lowest and highest, by steps."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), dpi=160)
    for case, points in curves.items():
        steps, scores = list(points), np.array(list(points.values()))
        axes.plot(steps, scores.mean(1), color=COLOURS[case], label=CASES[case], linewidth=1.8)
        axes.fill_between(steps, scores.min(1), scores.max(1), color=COLOURS[case], alpha=0.18, linewidth=0)
    seeds = len(next(iter(next(iter(curves.values())).values())))
    axes.set(
        xlabel="training steps on hopper/expert", ylabel=f"normalised return, asked {TARGET}", ylim=(0, None), xlim=(0, None)
    )
    axes.set_title(f"Decision Transformer begun from hopper/medium; {seeds} seeds, mean and range", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("runs/finetune"), help="folder of the runs, the table and the curve")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=["medium", *CASES], nargs="+", default=["medium", *CASES])
    parser.add_argument("--pretrain", type=int, default=2000, help="steps on medium, as its recipe has them")
    parser.add_argument("--steps", type=int, default=1600, help="steps from scratch; fine-tuning takes half of them")
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations")
    parser.add_argument("--episodes", type=int, default=15, help="of an evaluation")
    parser.add_argument("--lora", default="{rank: 16, alpha: 32, also: [embed*, heads.*]}")
    parser.add_argument("--lr", default="3e-4", help="of all weights, from scratch and fine-tuned")
    parser.add_argument("--lora-lr", default="1.2e-3", help="of LoRA, whose small matrices take larger steps")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    asked = parser.parse_args()
    for seed in asked.seeds if not asked.draw else ():
        for case in ("medium", *CASES):
            if case in asked.only:
                train(case, seed, asked, asked.home)
                if case == "medium":
                    before(seed, asked, asked.home)
    try:
        curves = {c: curve(c, asked.seeds, asked.home) for c in CASES}
    except OSError as e:
        sys.exit(f"not all of it is trained yet: {e}")
    if not all(curves.values()):
        sys.exit("nothing was evaluated yet in all of the seeds")
    draw(curves, asked.home / "finetune.png")
    print(f"{asked.home / 'finetune.png'}", file=sys.stderr)
    show("fine-tuning hopper/expert from hopper/medium", judge(curves), asked.record)


if __name__ == "__main__":
    main()
