"""A recipe's model before any of its data are read: every weight with its shape, none with a number (torch's meta device).

A model of token documents is known from the recipe alone: its body's config, its texts' tokenizer, its frames' codes. One of
packed trajectories also has tables for the codes of its slots, whose sizes the data tell; what is assumed of them is said. They
are small beside the trunk, whose size the recipe does tell.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqrl.core import kinds, shelf
from seqrl.core.contracts import Ports
from seqrl.core.documents import DocumentPorts
from seqrl.core.errors import RecipeError
from seqrl.core.layout import Layout
from seqrl.data.dataset import domains_of
from seqrl.data.documents_tokenizer import DocumentTokenizer
from seqrl.train.engine import bodies_of
from seqrl.train.recipe import Recipe
from seqrl.train.whole import blocks_of

CODES, WORDS = 1024, 256
"""Of a slot whose codec the recipe does not say: codes, as those of Gato's numbers; and words of a text."""
FRAME = (8192, 256)
"""Of videos whose codec cannot be read: codes there are, and codes of a frame (LWM's VQGAN)."""


@dataclass
class Unseen:
    """A model without numbers.

    Args:
        model: on the meta device; body: its one trunk.
        heads: loss -> ids it is scored against. asked: of all places, those that each loss asks.
        documents: whether it reads token documents.
        assumed: what was not known, in words.
    """

    model: nn.Module
    body: nn.Module
    heads: dict[str, int]
    asked: float
    documents: bool
    assumed: list[str] = field(default_factory=list)


def unseen(recipe: Recipe, length: int) -> Unseen:
    """The model of a recipe for rows of ``length`` tokens.

    Raises:
        RecipeError: one that reads windows, or that cannot be known without a base that is not here.
    """
    kind, losses = str(recipe.model["kind"]), list(recipe.train.losses)
    settings = {k: v for k, v in recipe.model.items() if k != "kind"}
    documents = kinds.reads_documents(kind)
    if recipe.tokens.pack is None or not (documents or kinds.reads_packed(kind)):
        raise RecipeError(
            f"--memory: {kind} reads windows of a few steps, which fit anywhere; it plans models of packed rows (tokens.pack)"
        )
    assumed: list[str] = []
    body = _body_of(settings, length)
    if documents:
        found = _documents(recipe, body, assumed)
        config = kinds.load(kind).Config.for_documents(found, length, **settings | {"losses": losses})
        heads, asked = {n: found.vision if n == "vision" else found.text for n in losses}, 1 / len(losses)
    else:
        ports = {d: _ports(recipe, d) for d in domains_of(recipe.data.sources) or ("",)}
        told = f"each slot of codes has the {CODES:,} of no codec in particular and takes one token"
        assumed.append(f"{told}: what the data say is not looked at")
        config = kinds.load(kind).Config.for_domains(ports, length, **settings | {"losses": losses})
        heads = {n: max((p.vocabs.get(n, 0) for p in ports.values()), default=0) for n in losses}
        asked = 1 / min(len(p.widths) for p in ports.values())
    with torch.device("meta"):
        model = kinds.load(kind).Model(config)
    model.train()
    bodies = bodies_of(model)
    if len(bodies) != 1 or not list(blocks_of(bodies[0])):
        raise RecipeError(f"--memory: {kind} has {len(bodies)} trunks, and those of one are planned")
    return Unseen(model, bodies[0], heads, asked, documents, assumed)


def _body_of(settings: dict[str, Any], length: int) -> dict[str, Any] | None:
    """The config of a body of transformers, put in the place of ``base``; one with rotary angles has room for every stage."""
    base = settings.pop("base", None)
    body = settings.get("body")
    if base is not None:
        from transformers import AutoConfig

        folder = Path(base).expanduser()
        try:
            body = AutoConfig.from_pretrained(str(folder) if folder.is_dir() else base, trust_remote_code=False).to_dict()
        except (OSError, ValueError) as e:
            raise RecipeError(
                f"--memory: the config of model.base={base} cannot be read here; plan with one of its shape: "
                "model.base=null model.body='{model_type: llama, hidden_size: 4096, ...}'"
            ) from e
    if not isinstance(body, dict):
        return None
    settings["body"] = body = dict(body)
    if "max_position_embeddings" in body and body.get("model_type") not in ("gpt2", "opt"):
        body["max_position_embeddings"] = max(body["max_position_embeddings"], length)
    return body


def _documents(recipe: Recipe, body: dict[str, Any] | None, assumed: list[str]) -> DocumentPorts:
    """What the documents are made of, without asking the Hub where the body's config says how many words there are."""
    name, frames = recipe.tokens.documents.text.tokenizer, recipe.tokens.documents.frames
    here = name in shelf.names("tokenizers", ".json") or Path(name).expanduser().exists()
    words = (body or {}).get("vocab_size")
    if here or not words:
        try:
            return DocumentTokenizer(recipe.tokens).ports()
        except RecipeError:
            if not words:
                raise
    assumed.append(f"texts have the {words:,} ids of the body's config; '{name}' is not looked at")
    vocab, tokens = (0, 0) if frames is None else FRAME
    if frames and {"vocab", "tokens"} <= set(frames):
        vocab, tokens = int(frames["vocab"]), int(frames["tokens"])
    elif frames:
        assumed.append(f"frames are {tokens} codes of {vocab:,}; the codec that makes them is not looked at")
    return DocumentPorts(int(words), vocab + 2, tokens, 1, 2, (3,), (4,))


def _ports(recipe: Recipe, domain: str) -> Ports:
    """Slots of one domain, as large as the recipe says, or as is assumed."""
    tokens = recipe.tokens.of_domain(domain)
    names = Layout.parse(tokens.layout).names
    sizes = {n: _codes(n, tokens.slots.get(n) or {}) for n in names}
    one, numbers = dict.fromkeys(names, 1), {n: v == 0 for n, v in sizes.items()}
    shares = {n: "text" if n == "task" else "" for n in names}
    return Ports(tokens.layout, one, sizes, numbers, one, shares, levels={n: (0.0, 1.0) for n in ("reward",) if n in names})


def _codes(name: str, codec: dict[str, Any]) -> int:
    if name in ("done", "separator"):
        return 2 if name == "done" else 1
    if name in ("reward", "return"):
        return 0
    said = next((codec[k] for k in ("vocab", "codes", "bins", "n") if isinstance(codec.get(k), int)), None)
    return said or (WORDS if name == "task" else CODES)
