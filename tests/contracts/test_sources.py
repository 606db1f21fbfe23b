"""Every source on disk keeps the contract; a new file is tested the day it is added.

A source's module offers ``Config``, ``Source`` and ``tiny(folder) -> Config``, which makes the smallest data it can read.
"""

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from seqrl.core import kinds
from seqrl.core.contracts import Source
from seqrl.core.episode import EpisodeSpec
from seqrl.data.store import prepare

KINDS = kinds.names("sources")
# Sources of ready examples hold no episodes; tests/sources has theirs.
EPISODES = [k for k in KINDS if not kinds.gives_examples(k)]


@pytest.fixture(params=EPISODES)
def made(request, home):
    """(module, config, source) of each kind."""
    module = kinds.load(request.param, "sources")
    config = module.tiny(home)
    return module, config, module.Source(config)


def test_contract(made):
    module, config, source = made
    assert config.kind == module.__name__.rpartition(".")[2]
    assert isinstance(source, Source)
    assert len(source) == len(source.lengths) > 1
    assert source.lengths.dtype == np.int64
    for i in range(len(source)):
        episode = source.episode(i)
        assert len(episode) == source.lengths[i]
        for modalities, values, extra in ((source.spec.obs, episode.obs, 1), (source.spec.act, episode.act, 0)):
            assert list(modalities) == list(values)
            for name, m in modalities.items():
                assert values[name].shape == (len(episode) + extra, *m.shape)
                # Texts are as wide as the longest of them.
                assert values[name].dtype == m.dtype or (m.kind == "text" and values[name].dtype.kind == "U")
        assert episode.rew.dtype == np.float32
        assert episode.terminated.dtype == episode.truncated.dtype == bool
        # Flags stand at the end and nowhere else.
        assert not (episode.terminated | episode.truncated)[:-1].any()


def test_it_is_the_same_every_time(made, same_episode):
    module, config, source = made
    again = module.Source(config)
    assert again.fingerprint() == source.fingerprint()
    assert again.spec == source.spec
    same_episode(again.episode(1), source.episode(1))


def test_its_spec_is_plain_json(made):
    import json

    spec = made[2].spec
    assert EpisodeSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False))) == spec


def test_its_store_holds_what_it_gave(made, same_episode):
    source = made[2]
    store = prepare(source)
    assert store.spec == source.spec
    assert store.episodes.length.tolist() == source.lengths.tolist()
    for i in range(len(source)):
        same_episode(store.episode(i), source.episode(i))


@pytest.mark.parametrize("kind", KINDS)
def test_config_is_strict_and_says_what_it_means(kind):
    config = kinds.load(kind, "sources").Config
    assert all(f.description for name, f in config.model_fields.items() if name != "kind")
    with pytest.raises(ValidationError, match="extra"):
        config.model_validate({"kind": kind, "no_such_setting": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_checking_a_recipe_imports_nothing_heavy(kind):
    code = f"import sys, seqrl.sources.{kind}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "h5py", "pyarrow", "gymnasium", "minari"} & set(loaded)
