"""A small language model of BabyAI's words, for trying policies.vla where no pretrained one can be downloaded.

``python language_base.py OUT MINUTES`` trains a llama of 4 layers of 128 on MiniGrid's missions and on made-up scenes in words,
and leaves it in OUT; beside it, in OUT-random, the same llama as it began, to compare with. The scenes end in a first action
("turn or go: left"), so this is no neutral pretraining: it has read of the task.
"""

import random
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from seqrl.tokens._train_text import minigrid_missions, train

COLORS, THINGS = ("red", "green", "blue", "purple", "yellow", "grey"), ("ball", "box", "key", "door")
MISSION = ("go to the {}", "pick up the {}", "go to a {}", "put the {} next to the {}", "pick up a {}")


def where(x: int, y: int) -> str:
    side = "straight" if x == 0 else f"{abs(x)} to the {'left' if x < 0 else 'right'}"
    return f"{y} ahead and {side}" if y else f"beside, {side}"


def scene(r: random.Random) -> str:
    """A description of some things, a mission, and what to do first."""
    things = r.sample([(c, t) for c in COLORS for t in THINGS], r.randint(2, 5))
    spots = r.sample([(x, y) for x in range(-3, 4) for y in range(7) if (x, y) != (0, 0)], len(things))
    lines = [f"a {c} {t} is {where(*p)}." for (c, t), p in zip(things, spots, strict=True)]
    i = r.randrange(len(things))
    x, y = spots[i]
    act = "done" if (x, y) == (0, 1) else "forward" if y > 1 or (y and x == 0) else "left" if x < 0 else "right"
    mission = r.choice(MISSION[:2]).format(" ".join(things[i]))
    front = [mission + ".", *lines] if r.random() < 0.5 else [*lines, mission + "."]
    return " ".join([*front, f"it is {where(x, y)}. turn or go: {act}."])


def main(out: str, minutes: float) -> None:
    torch.manual_seed(0)
    r = random.Random(0)
    missions = minigrid_missions(30)
    scenes = [scene(r) for _ in range(20000)]
    tokenizer = train([*missions, *scenes[:4000]], 512)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    V = tokenizer.get_vocab_size()
    config = LlamaConfig(
        vocab_size=V + 2,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=V,
        eos_token_id=V + 1,
        pad_token_id=None,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(f"{out}-random")
    tokenizer.save(f"{out}-random/tokenizer.json")
    texts = [[*e.ids, V + 1] for e in tokenizer.encode_batch([*r.sample(missions, min(2000, len(missions))), *scenes])]
    r.shuffle(texts)
    held = torch.tensor([i for t in texts[:300] for i in t])
    flat = torch.tensor([i for t in texts[300:] for i in t])
    L, B = 128, 16
    optim = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01, fused=True)
    began, step = time.time(), 0
    total = 60 * minutes
    while (spent := time.time() - began) < total:
        at = torch.randint(len(flat) - L, (B,))
        x = flat[at[:, None] + torch.arange(L)]
        for g in optim.param_groups:
            g["lr"] = 2e-3 * min(1, (step + 1) / 50) * max(0.02, 1 - spent / total)
        loss = model(input_ids=x, labels=x).loss
        optim.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        step += 1
        if step % 100 == 0:
            print(step, f"{loss.item():.3f}", f"{spent:.0f}s", flush=True)
    model.eval()
    with torch.no_grad():
        x = held[: len(held) // L * L].view(-1, L)
        print(
            "held-out", model(input_ids=x, labels=x).loss.item(), "steps", step, "V", V, "missions", len(missions), flush=True
        )
    model.save_pretrained(out)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
