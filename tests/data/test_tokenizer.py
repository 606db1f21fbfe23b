import numpy as np
import pytest

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import RecipeError
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer

INF = float("inf")
GOALS = EpisodeSpec(
    "tests/goals-v0",
    {
        "achieved_goal": Modality("vector", (2,), "float32", (-INF,) * 2, (INF,) * 2),
        "desired_goal": Modality("vector", (2,), "float32", (-INF,) * 2, (INF,) * 2),
        "observation": Modality("vector", (4,), "float64", (-INF,) * 4, (INF,) * 4),
        "mission": Modality("text", (), "str"),
    },
    {
        "arm": Modality("vector", (2,), "float32", (-2.0, 0.0), (2.0, 1.0)),
        "grip": Modality("vector", (), "float32", (0.0,), (1.0,)),
    },
)
PLAIN = EpisodeSpec(
    "tests/plain-v0",
    {"observation": Modality("vector", (3,), "float32")},
    {"action": Modality("discrete", (), "int64", n=(3,), start=(2,))},
)

SCREEN = EpisodeSpec(
    "tests/screen-v0",
    {"image": Modality("image", (4, 4, 3), "uint8"), "return": Modality("vector", (1,), "float32")},
    PLAIN.act,
)


def columns(spec, n=50, seed=0):
    rng = np.random.default_rng(seed)
    out = {k: rng.normal(size=(n, *m.shape)).astype(np.float32) for k, m in spec.obs.items() if m.kind == "vector"}
    for k, m in spec.act.items():
        out[k] = rng.integers(2, 5, n) if m.kind == "discrete" else rng.uniform(m.low, m.high, (n, *m.shape)).astype(np.float32)
    return out | {"return": rng.normal(size=n).astype(np.float32) * 100}


def fitted(spec, **tokens):
    tokenizer = Tokenizer(TokensConfig(**tokens), spec)
    tokenizer.fit(columns(spec), np.array([1.0, 3.0]))
    return tokenizer


def test_a_goal_dictionary_becomes_one_state_and_several_actions_one_slot():
    tokenizer = fitted(GOALS)
    assert tokenizer.ports().widths == {"return": 1, "state": 8, "action": 3}
    assert tokenizer.ports().bounded["action"]
    raw = columns(GOALS, seed=1)
    state = tokenizer.encode_obs(raw)["state"]
    assert state.shape == (50, 8)
    assert state.dtype == np.float32
    back = tokenizer.decode_action(tokenizer.encode_action(raw))
    assert back.keys() == {"arm", "grip"}
    assert back["grip"].shape == (50,)
    np.testing.assert_allclose(back["arm"], raw["arm"], atol=1e-5)
    np.testing.assert_allclose(back["grip"], raw["grip"], atol=1e-5)


def test_fields_are_chosen_with_from():
    tokenizer = fitted(GOALS, slots={"state": {"from": ["observation", "desired_goal"]}})
    assert tokenizer.ports().widths["state"] == 6


def test_answers_are_clipped_to_the_bounds_and_in_the_datas_dtype():
    out = fitted(GOALS).decode_action({"action": np.array([[9.0, -9.0, 0.0]], np.float32)})
    assert out["arm"].tolist() == [[2.0, 0.0]]
    assert out["arm"].dtype == np.float32


def test_a_choice_that_starts_at_two():
    tokenizer = fitted(PLAIN)
    raw = columns(PLAIN)
    codes = tokenizer.encode_action(raw)["action"]
    assert codes.min() == 0
    assert codes.max() == 2
    assert (tokenizer.decode_action({"action": codes})["action"] == raw["action"]).all()


def test_a_stream_spells_every_token_out():
    tokenizer, T = fitted(PLAIN), 6
    raw = columns(PLAIN, T + 1)
    ends = np.zeros(T, bool)
    episode = Episode({"observation": raw["observation"]}, {"action": raw["action"][:T]}, np.ones(T, np.float32), ends, ends)
    stream = tokenizer.stream(episode, np.arange(T, 0, -1.0), ("action",))
    assert len(stream) == 3 * T
    assert stream.tracks["target"].tolist() == [0, 0, 1] * T
    assert stream.raw["return"].ravel().tolist() == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("spec", "tokens", "said"),
    [
        (GOALS, {"slots": {"state": {"from": ["observatoin"]}}}, "did you mean 'observation'"),
        (GOALS, {"slots": {"state": {"from": ["observation", "mission"]}}}, "different kinds"),
        (GOALS, {"layout": "image action"}, "no field 'image'"),
        (PLAIN, {"slots": {"state": {"kind": "discrete"}}}, "use 'vector' or 'bins'"),
        (PLAIN, {"slots": {"state": {"kind": "vector", "scale": "bounds"}}}, "finite bounds"),
        (GOALS, {"slots": {"state": {"from": "mission"}}}, "'mission' is text, and no codec here reads text yet"),
        (GOALS, {"slots": {"state": {"from": "mission", "kind": "bins"}}}, "no codec here reads text yet"),
        (SCREEN, {"layout": "image action"}, "'image' is image, and no codec here reads image yet"),
        (SCREEN, {"layout": "image action", "slots": {"image": {"kind": "scale"}}}, "reads image yet"),
        (PLAIN, {"slots": {"state": {"from": 3}}}, r"tokens.slots.state.from: the name of a field, .* \(got 3\)"),
        (PLAIN, {"slots": {"state": {"from": [["observation"]]}}}, "or a list of names"),
        (PLAIN, {"slots": {"state": {"kind": 3}}}, "unknown kind '3'"),
        (SCREEN, {"layout": "return image action"}, "'return' means two things in tests/screen-v0"),
        (SCREEN, {"layout": "state action"}, "'return' means two things in tests/screen-v0"),
    ],
)
def test_what_does_not_fit_the_data_is_named(spec, tokens, said):
    with pytest.raises(RecipeError, match=said):
        Tokenizer(TokensConfig(**tokens), spec)
