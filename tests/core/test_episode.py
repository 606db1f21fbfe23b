import json

import numpy as np
import pytest

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import DataError


def make(T=6):
    return Episode(
        obs={"observation": np.arange(T + 1.0)[:, None]},
        act={"action": np.arange(T)},
        rew=np.arange(T, dtype=np.float32),
        terminated=np.arange(T) == T - 1,
        truncated=np.zeros(T, bool),
    )


def test_a_slice_is_an_episode_with_one_more_observation_than_steps():
    piece = make()[2:5]
    assert len(piece) == 3
    assert piece.obs["observation"].ravel().tolist() == [2, 3, 4, 5]
    assert piece.act["action"].tolist() == [2, 3, 4]
    assert len(make()[4:99]) == 2
    assert len(make()[5:2]) == 0


def test_lengths_must_agree():
    with pytest.raises(DataError, match="T steps need T"):
        Episode(obs={"o": np.zeros((3, 1))}, act={}, rew=np.zeros(3), terminated=np.zeros(3, bool), truncated=np.zeros(3, bool))


def test_spec_survives_json_with_open_bounds():
    vector = Modality("vector", (2,), "float32", (-np.inf, 0.0), (np.inf, 1.0))
    spec = EpisodeSpec(
        "a/b-v0",
        {"observation": vector},
        {"action": Modality("discrete", (), "int64", n=(3,), start=(1,))},
        references=(0.0, 1.0),
    )
    text = json.dumps(spec.to_json(), allow_nan=False)
    assert EpisodeSpec.from_json(json.loads(text)) == spec
