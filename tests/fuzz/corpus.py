"""The valid files that are made wrong: small, whole, and of every form that a reader has to tell apart.

Every function fills an empty folder with examples, each a folder of its own that its reader reads. They are written by seqrl
itself, or by the library whose files they are.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core import shelf
from seqrl.core.episode import Episode, EpisodeSpec, Modality

INF = float("inf")
RUNS = {
    "decision": """
name: decision
data: {sources: [{kind: minari, id: fuzz/pole-v0}], held_out: 0.2}
tokens: {context: 4}
model: {kind: policies.decision, width: 8, layers: 1, heads: 1}
train: {steps: 2, batch: 4, save_every: 1, log_every: 1, validate_every: 2, validate_windows: 4, device: cpu}
evaluate: {at_end: true, episodes: 2, envs: 2, targets: [50, 20], env: CartPole-v1}
""",
    "gato": """
name: gato
data:
  sources:
    - {kind: minari, id: fuzz/pole-v0, domain: asked, weight: 1}
    - {kind: minari, id: fuzz/pole-v0, domain: best, weight: 2, top: 0.5}
tokens:
  pack: 32
  layout: state separator action
  slots: {state: {kind: bins, bins: 8}}
  domains: {asked: {layout: return state > action, slots: {state: {kind: vector}}}}
model: {kind: policies.gato, width: 8, layers: 1, heads: 1}
train: {steps: 1, batch: 2, device: cpu}
evaluate: {at_end: false, episodes: 2, envs: 2}
""",
    "rssm": """
name: rssm
data: {sources: [{kind: minari, id: fuzz/pole-v0}]}
tokens: {layout: "state action > reward done", context: 4, slots: {reward: {kind: mulaw, bins: 16}}}
model: {kind: worlds.rssm, hidden: 8, deter: 8, classes: 4, groups: 2}
train: {steps: 1, batch: 2, device: cpu, losses: {state: 1, reward: 1, done: 1, dyn: 1, rep: 0.1}}
evaluate: {at_end: false}
""",
    "trajectory": """
name: trajectory
data: {sources: [{kind: minari, id: fuzz/pole-v0}]}
tokens: {layout: state action reward > return, pack: 64, context: 10, slots: {state: {kind: bins, bins: 8, spacing: quantile},
  reward: {kind: levels}, return: {kind: bins, bins: 8}}}
model: {kind: policies.trajectory, width: 8, layers: 1, heads: 1}
train: {steps: 1, batch: 2, device: cpu, losses: {state: 1.0, action: 1.0, reward: 1.0, return: 1.0}}
evaluate: {at_end: false}
""",
}


def episodes(obs: dict[str, Modality], act: dict[str, Modality], lengths: tuple[int, ...] = (4, 1, 3)) -> list[Episode]:
    """A few episodes of any modalities, the same every time."""
    rng = np.random.default_rng(0)

    def some(m: Modality, n: int) -> np.ndarray:
        if m.kind == "text":
            return np.array([f"go {k % 2}" for k in range(n)])
        if m.kind == "image":
            return rng.integers(0, 256, (n, *m.shape)).astype(m.dtype)
        if m.kind == "discrete":
            return (rng.integers(0, 2, (n, *m.shape)) + np.reshape(m.start or (0,) * m.size, m.shape)).astype(m.dtype)
        return rng.uniform(-1, 1, (n, *m.shape)).astype(m.dtype)

    made = []
    for i, T in enumerate(lengths):
        seen, done = {n: some(m, T + 1) for n, m in obs.items()}, {n: some(m, T) for n, m in act.items()}
        last = np.arange(T) == T - 1
        made.append(Episode(seen, done, rng.random(T).astype(np.float32), last, ~last & False, i, {"seed": i}))
    return made


def specs() -> dict[str, EpisodeSpec]:
    """Numbers alone, and everything at once."""
    box, act = (
        Modality("vector", (3,), "float32", (-INF,) * 3, (INF,) * 3),
        Modality("vector", (2,), "float32", (-1.0,) * 2, (1.0,) * 2),
    )
    plain = EpisodeSpec("fuzz/plain-v0", {"observation": box}, {"action": act}, {"id": "Pendulum-v1", "kwargs": {}})
    obs = {
        "state": Modality("vector", (2,), "float64", (-INF,) * 2, (INF,) * 2),
        "image": Modality("image", (4, 4, 3), "uint8"),
        "mission": Modality("text", (), "str"),
        "place": Modality("discrete", (2,), "int64", n=(3, 4), start=(0, 1)),
    }
    return {"plain": plain, "rich": EpisodeSpec("fuzz/rich-v0", obs, {"action": Modality("discrete", (), "int64", n=(2,))})}


# ---- sources ------------------------------------------------------------------------------------------------------------


def minari(folder: Path) -> None:
    """Minari's HDF5 by our own writer, and its three formats by Minari's, with a JPEG picture."""
    from seqrl.sources import _write
    from seqrl.sources._files import datasets_home

    for name, spec in specs().items():
        _write.save_minari(episodes(spec.obs, spec.act), spec, spec.id)
        shutil.move(datasets_home() / spec.id, folder / name)
    for form in ("hdf5", "arrow", "parquet"):
        _by_minari(form)
        shutil.move(datasets_home() / f"fuzz/{form}-v0", folder / f"minari-{form}")


def _by_minari(form: str) -> None:
    import gymnasium
    import minari

    obs = gymnasium.spaces.Dict(
        {"seen": gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8), "far": gymnasium.spaces.Box(-1, 1, (2,))}
    )
    act, rng = gymnasium.spaces.Discrete(3), np.random.default_rng(0)
    buffers = []
    for i, T in enumerate((3, 2)):
        seen = {
            "seen": rng.integers(0, 256, (T + 1, 32, 32, 3)).astype(np.uint8),
            "far": rng.uniform(-1, 1, (T + 1, 2)).astype(np.float32),
        }
        buffer = minari.data_collector.EpisodeBuffer(
            id=i,
            seed=i,
            observations={k: list(v) for k, v in seen.items()},
            actions=list(rng.integers(0, 3, T)),
            rewards=rng.random(T).tolist(),
            terminations=[False] * (T - 1) + [True],
            truncations=[False] * T,
        )
        buffers.append(buffer)
    minari.create_dataset_from_buffers(
        f"fuzz/{form}-v0",
        buffers,
        observation_space=obs,
        action_space=act,
        data_format=form,
        author="a",
        author_email="a@b.c",
        code_permalink="c",
        algorithm_name="d",
        eval_env="CartPole-v1",
    )


def d4rl(folder: Path) -> None:
    from seqrl.sources import d4rl as source

    for name in ("a", "b"):
        (folder / name).mkdir()
        source.tiny(folder / name)
    import h5py

    with h5py.File(folder / "b" / "hopper_tiny-v2.hdf5", "r+") as file:
        file["next_observations"] = file["observations"][()] + 1
        del file["timeouts"]


def parquet(folder: Path) -> None:
    from seqrl.sources import _parquet

    for name, spec in specs().items():
        (folder / name).mkdir()
        _parquet.write_parquet(episodes(spec.obs, spec.act), spec, folder / name, group=200, file=400)


def rows(folder: Path) -> None:
    """Tables with a row a step: as LeRobot writes them, and as Arrow streams and files."""
    import pyarrow as pa
    from pyarrow import parquet

    from seqrl.sources import rows as source

    source.tiny(folder)
    (folder / "rows").rename(folder / "lerobot")
    place = folder / "arrow" / "data" / "train"
    place.mkdir(parents=True)
    for k, file in enumerate(sorted((folder / "lerobot").rglob("*.parquet"))):
        table = parquet.read_table(file, partitioning=None)
        with pa.OSFile(str(place / f"file-{k:03d}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)


def jsonl(folder: Path) -> None:
    from seqrl.sources import jsonl as source

    (folder / "a").mkdir()
    source.tiny(folder / "a")


def stores(folder: Path) -> None:
    from seqrl.data import store

    class Held:
        def __init__(self, spec: EpisodeSpec) -> None:
            self.spec, self.held = spec, episodes(spec.obs, spec.act)
            self.lengths = np.array([len(e) for e in self.held])

        def fingerprint(self) -> str:
            return f"fuzz-{self.spec.id}"

        def __len__(self) -> int:
            return len(self.held)

        def episode(self, i: int) -> Episode:
            return self.held[i]

    for name, spec in specs().items():
        shutil.copytree(store.prepare(Held(spec)).path, folder / name)


# ---- settings -----------------------------------------------------------------------------------------------------------


def shelf_files(name: str) -> Any:
    """A maker of examples out of a shelf's YAML files."""

    def make(folder: Path) -> None:
        for file in shelf.names(name):
            (folder / file).mkdir()
            shutil.copyfile(shelf.folder(name) / f"{file}.yaml", folder / file / "it.yaml")

    return make


def deepspeed(folder: Path) -> None:
    """The JSON of a DeepSpeed user, and one that says all that seqrl itself would."""
    from seqrl.core.config import parse_yaml

    for name in ("zero2", "zero3"):
        (folder / name).mkdir()
        said = parse_yaml(shelf.text("recipes/engines", name), name)[0].get("deepspeed") or {}
        (folder / name / "it.json").write_text(json.dumps(said))


def vocabularies(folder: Path) -> None:
    for name in ("missions", "needles"):
        (folder / name).mkdir()
        shutil.copyfile(shelf.find("tokenizers", name, ".json"), folder / name / "it.json")


# ---- runs and what becomes of them --------------------------------------------------------------------------------------


def runs(folder: Path) -> None:
    """Whole run folders, trained for a step or two on a small collected dataset, and one of many dreams that were not."""
    from seqrl.sources import collected
    from seqrl.train import recipe, run

    collected.collect("CartPole-v1", 6, "fuzz/pole-v0", "scripted", references=(22.0, 500.0))
    for name, text in RUNS.items():
        run.start(recipe.parse(text, name), folder / name)
    fidelity = {"horizons": [1, 2], "episodes": 3, "slots": {"state": {"error": [0.1, 0.2], "still": [0.3, 0.4]}}}
    (folder / "rssm" / "dream.json").write_text(json.dumps(fidelity))


def documents(folder: Path) -> None:
    """A tokenizer of token documents."""
    from seqrl.data.documents_tokenizer import DocumentTokenizer
    from seqrl.data.slots import TokensConfig

    (folder / "documents").mkdir()
    config = TokensConfig(pack=32, documents={"text": {"tokenizer": "missions"}, "frames": {"vocab": 8, "tokens": 4}})
    DocumentTokenizer(config).save(folder / "documents")


def transformers(folder: Path) -> None:
    """Other people's checkpoints: a Decision Transformer as it was published in 2022, and a language model."""
    import torch
    from transformers import DecisionTransformerConfig, DecisionTransformerModel, LlamaConfig, LlamaForCausalLM

    sizes = {"state_dim": 3, "act_dim": 1, "hidden_size": 8, "n_layer": 1, "n_head": 1, "max_ep_len": 100}
    theirs = DecisionTransformerModel(DecisionTransformerConfig(**sizes, bos_token_id=0, eos_token_id=0))
    for name in ("policy-bin", "policy"):
        (place := folder / name).mkdir()
        (place / "config.json").write_text(json.dumps(theirs.config.to_dict() | {"max_length": 4}))
        (place / "README.md").write_text("# A card\n\nmean = [0.5, 0.1, -2]\nstd = [1, 2, 3]\n")
    torch.save(theirs.state_dict(), folder / "policy-bin" / "pytorch_model.bin")
    theirs.save_pretrained(folder / "saved")
    shutil.move(folder / "saved" / "model.safetensors", folder / "policy")
    shutil.rmtree(folder / "saved")
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    body = LlamaForCausalLM(config)
    body.save_pretrained(folder / "body", max_shard_size="2kB")
    (folder / "body" / "generation_config.json").unlink(missing_ok=True)


def publications(folder: Path) -> None:
    from seqrl.hub import publication

    (place := folder / "a").mkdir()
    (place / "model.safetensors").write_bytes(b"")
    publication.write_publication(place, 3, "dt")
    publication.remember(place, "https://server", "a/b", "0" * 40, ["step-3"])
