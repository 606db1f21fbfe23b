"""Writes episodes as a Minari dataset: HDF5, lossless, whole or not at all, and the same bytes for the same episodes.

Written straight with h5py, since Minari's own writer makes every array growable (12 KB an episode) and JPEG-encodes pictures
unless told otherwise; what it writes and what this writes, Minari reads alike.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.core.episode import Episode, EpisodeSpec
from seqrl.core.errors import DataError
from seqrl.sources._catalog import FACTS, local_name
from seqrl.sources._files import datasets_home, one_at_a_time, whole_folder
from seqrl.sources._minari_files import FLAGS, MARKS, steps_to
from seqrl.sources._sink import Sink
from seqrl.sources._spaces import Leaf, Space, leaves, space_json


def target_of(id: str) -> Path:
    """The folder a new dataset would have; raises DataError where the id is none or taken."""
    name = local_name(id)
    folder = datasets_home() / name
    if name != id:
        raise DataError(f"'{id}' names a server; a dataset made here is called '{name}'")
    if folder.exists():
        raise DataError(f"there is a dataset '{id}' already ({folder}); choose another id, or delete that folder first")
    return folder


def save_minari(
    episodes: Iterable[Episode],
    spec: EpisodeSpec,
    id: str,
    spaces: tuple[Space, Space] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Writes ``episodes`` as the local Minari dataset ``id``.

    Args:
        episodes: written as they come, so they may be made while writing.
        spec: their spec; its references and facts go into the metadata, its environment too where gymnasium knows it.
        spaces: observation and action space as Minari's JSON; those of ``spec`` where not given.
        settings: how the data came to be, kept under ``seqrl`` in the metadata.

    Returns:
        the folder of the dataset.

    Raises:
        DataError: the id is taken, there are no episodes, or the disk is full; nothing is left behind.
    """
    spaces = spaces or (space_json(spec.obs, "observation"), space_json(spec.act, "action"))
    target = target_of(id)
    with one_at_a_time(target):
        target_of(id)
        with whole_folder(target) as temporary:
            (temporary / "data").mkdir()
            count, steps = _write_episodes(temporary / "data" / "main_data.hdf5", episodes, spaces)
            if not steps:
                raise DataError(f"{id}: there are no steps to save")
            about = _metadata(spec, id, spaces) | {"total_episodes": count, "total_steps": steps}
            size = (temporary / "data" / "main_data.hdf5").stat().st_size
            about |= {"dataset_size": round(size / 1e6, 1)} | ({"seqrl": dict(settings)} if settings else {})
            (temporary / "data" / "metadata.json").write_text(json.dumps(about))
        for folder in target.relative_to(datasets_home()).parents[:-1]:
            mark = datasets_home() / folder / "namespace_metadata.json"
            if not mark.exists():
                mark.write_text("{}")
    return target


def _write_episodes(path: Path, episodes: Iterable[Episode], spaces: tuple[Space, Space]) -> tuple[int, int]:
    """How many episodes and steps were written."""
    import h5py

    parts = [leaves(s, root) for s, root in zip(spaces, ("observation", "action"), strict=True)]
    count = steps = 0
    with Sink(path) as sink, h5py.File(sink, "w", libver=("v110", "v110")) as file:
        for count, episode in enumerate(episodes, 1):
            group = file.create_group(f"episode_{count - 1}")
            group.attrs["id"], group.attrs["total_steps"] = count - 1, len(episode)
            if episode.info.get("seed") is not None:
                group.attrs["seed"] = episode.info["seed"]
            for mark in MARKS:
                if mark in episode.info:
                    group.attrs[mark] = episode.info[mark]
            for root, part, values in zip(("observations", "actions"), parts, (episode.obs, episode.act), strict=True):
                for leaf in part:
                    _put(group, "/".join((root, *steps_to(leaf))), leaf, values[leaf.name])
            for name, values in zip(FLAGS, (episode.rew, episode.terminated, episode.truncated), strict=True):
                group.create_dataset(name, data=values)
            steps += len(episode)
            sink.check()
    return count, steps


def _put(group: Any, way: str, leaf: Leaf, values: np.ndarray) -> None:
    import h5py

    if leaf.modality.kind == "text":
        group.create_dataset(way, data=[str(v) for v in values], dtype=h5py.string_dtype("utf-8"))
    elif leaf.modality.kind == "image":
        group.create_dataset(way, data=values, chunks=values.shape, compression="gzip", compression_opts=4)
    else:
        group.create_dataset(way, data=values)


def _metadata(spec: EpisodeSpec, id: str, spaces: tuple[Space, Space]) -> dict[str, Any]:
    facts = {k: spec.about[k] for k in FACTS if k in spec.about}
    author = facts.get("author", "unknown")
    about = {
        "dataset_id": id,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": version("minari"),
        "observation_space": json.dumps(spaces[0]),
        "action_space": json.dumps(spaces[1]),
        **facts,
        "author": [author] if isinstance(author, str) else list(author),
    }
    envs = {"env_spec": spec.env, "eval_env_spec": spec.eval_env or spec.env}
    about |= {k: text for k, env in envs.items() if (text := _full_spec(env))}
    if spec.references:
        low, high = spec.references
        about |= {"ref_min_score": low, "ref_max_score": high, "num_episodes_average_score": 100}
    return about


def _full_spec(env: Mapping[str, Any] | None) -> str | None:
    """An EnvSpec as gymnasium writes it: what its registry holds of this environment, with the settings of ``env``."""
    import gymnasium

    if env is None:
        return None
    known: dict[str, Any] = {"id": env["id"], "kwargs": {}, "additional_wrappers": []}
    # "package:Name-v0" would make gymnasium import that package; and one registered with a class has no JSON.
    if env["id"] in gymnasium.registry:
        with suppress(ValueError, TypeError):
            known = json.loads(gymnasium.spec(env["id"]).to_json())
    return json.dumps(known | dict(env))
