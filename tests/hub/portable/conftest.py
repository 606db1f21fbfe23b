"""Tiny bundles of every kind, with fitted tokenizers and random weights: what is published need not have learned anything."""

import numpy as np
import pytest
import torch
import yaml

from seqrl import bundle
from seqrl.core import kinds
from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.data.mixture import Mixture
from seqrl.data.slots import COMPUTED, TokensConfig
from seqrl.data.tokenizer import Tokenizer

OPEN = float("inf")
VECTOR = Modality("vector", (3,), "float32", (-OPEN,) * 3, (OPEN,) * 3)
MOVE = Modality("vector", (2,), "float32", (-1.0, -2.0), (1.0, 2.0))
BUTTON = Modality("discrete", (), "int64", n=(3,), start=(1,))
CELLS = Modality("image", (4, 4, 2), "uint8")
MISSION = Modality("text", (), "str")
ROBOT = EpisodeSpec("tests/robot-v0", {"observation": VECTOR}, {"action": MOVE})
CART = EpisodeSpec("tests/cart-v0", {"observation": VECTOR}, {"action": BUTTON})
GRID = EpisodeSpec("tests/grid-v0", {"image": CELLS, "mission": MISSION}, {"action": BUTTON})

WORLD = "state action > reward done"
BINS = {"kind": "bins", "bins": 12}
QUANTILES = {"kind": "bins", "bins": "8", "spacing": "quantile"}
TT = dict.fromkeys(("state", "action", "reward", "return"), QUANTILES)
CLIPPED, MULAW = {"state": {"kind": "vector", "clip": 1}}, {"state": {"kind": "mulaw", "bins": 64}}
PATCHES = {"image": {"kind": "patches", "size": 2}}
GRIDS = {"image": {"kind": "patches", "encoder": "cells", "values": 4}}
# name -> kind, domains (one called "" is a plain model), and what the recipe says of tokens for each.
BUNDLES = {
    "decision": ("policies.decision", {"": (ROBOT, {"layout": "return state action"})}),
    "decision_codes": ("policies.decision", {"": (CART, {"layout": "state action", "slots": CLIPPED})}),
    "decision_mulaw": ("policies.decision", {"": (ROBOT, {"layout": "state action", "slots": MULAW})}),
    "clone": ("policies.clone", {"": (ROBOT, {"layout": "state action"})}),
    "gato": (
        "policies.gato",
        {
            "robot": (ROBOT, {"layout": "state > action", "slots": {"state": {"kind": "mulaw", "bins": 32}, "action": BINS}}),
            "grid": (GRID, {"layout": "task | image action", "slots": GRIDS}),
        },
    ),
    "trajectory": ("policies.trajectory", {"hopper": (ROBOT, {"layout": "state action reward > return", "slots": TT})}),
    "vla": ("policies.vla", {"grid": (GRID, {"layout": "task | image action", "slots": PATCHES})}),
    "actor_critic": ("policies.actor_critic", {"": (CART, {"layout": WORLD})}),
    "tssm": ("worlds.tssm", {"": (ROBOT, {"layout": WORLD})}),
    "rssm": ("worlds.rssm", {"": (CART, {"layout": WORLD})}),
    "ensemble": ("worlds.ensemble", {"": (ROBOT, {"layout": WORLD})}),
    "autoregressive": (
        "worlds.autoregressive",
        {"cart": (CART, {"layout": WORLD, "slots": {"state": BINS, "reward": {"kind": "levels"}}})},
    ),
}  # fmt: skip


def columns(tokenizer, n=200):
    """Values of every field of the tokenizer's slots, slot -> field -> ``(n, *shape)``."""
    rng = np.random.default_rng(5)

    def one(field, m):
        if m.kind == "text":
            return np.array(["go to the red ball", "open a door"] * (n // 2), object)
        if m.n:
            return (rng.integers(m.n, size=(n, len(m.n))) + np.array(m.start or 0)).astype(m.dtype).reshape(n, *m.shape)
        if m.kind == "image":
            return rng.integers(4, size=(n, *m.shape)).astype(m.dtype)
        if field == "reward":
            return rng.integers(-1, 2, n).astype(np.float32)
        return rng.uniform(-1, 1, (n, *m.shape)).astype(m.dtype)

    known = {**COMPUTED, **tokenizer.spec.obs, **tokenizer.spec.act}
    return {name: {f: one(f, known[f]) for f in slot.fields} for name, slot in tokenizer.slots.items()}


def make_tokenizer(spec, tokens, **more):
    made = Tokenizer(TokensConfig(**tokens, **more), spec)
    made.fit(columns(made), np.arange(50.0), discount=0.99)
    return made


# A body has at least the words of the mission's tokenizer.
BODY = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SETTINGS = {"vla": {"body": BODY | {"vocab_size": 512, "max_position_embeddings": 96}}}


def make_bundle(folder, name):
    """Writes the bundle of that name."""
    kind, domains = BUNDLES[name]
    module = kinds.load(kind)
    torch.manual_seed(0)
    if "" in domains:
        tokenizer = make_tokenizer(*domains[""], context=4)
        config = module.Config.tiny(tokenizer.ports())
    else:
        tokenizer = Mixture({d: make_tokenizer(*said, pack=96, context=4) for d, said in domains.items()})
        config = module.Config.tiny(tokenizer.ports(), 96, **SETTINGS.get(name, {}))
    recipe = yaml.safe_dump({"name": name, "model": {"kind": kind}})
    bundle.save(folder, module.Model(config), tokenizer, recipe, {"step": 3})
    return folder


@pytest.fixture
def bundle_of(tmp_path):
    """``bundle_of(name)``: a fresh folder with the tiny bundle of that name."""
    return lambda name: make_bundle(tmp_path / name, name)


@pytest.fixture(scope="session")
def portables(tmp_path_factory):
    """name -> the folder of a tiny bundle with its code; made once."""
    from seqrl.hub.portable import make_portable

    home = tmp_path_factory.mktemp("portables")
    made = {name: make_bundle(home / name, name) for name in BUNDLES}
    for folder in made.values():
        make_portable(folder)
    return made
