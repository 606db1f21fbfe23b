import numpy as np
import pytest

from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import BundleError, RecipeError
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

MIXED = EpisodeSpec("tests/mixed-v0", PLAIN.obs | {"mode": Modality("discrete", (), "int64", n=(2,))}, PLAIN.act)


def columns(spec, n=50, seed=0):
    rng = np.random.default_rng(seed)
    out = {k: rng.normal(size=(n, *m.shape)).astype(np.float32) for k, m in spec.obs.items() if m.kind == "vector"}
    out |= {k: rng.integers(0, 256, (n, *m.shape), np.uint8) for k, m in spec.obs.items() if m.kind == "image"}
    out |= {
        k: np.array(["go to the red ball", "open the door"])[rng.integers(0, 2, n)]
        for k, m in spec.obs.items()
        if m.kind == "text"
    }
    for k, m in spec.act.items():
        out[k] = rng.integers(2, 5, n) if m.kind == "discrete" else rng.uniform(m.low, m.high, (n, *m.shape)).astype(np.float32)
    made = {"reward": np.ones(n, np.float32), "done": np.zeros(n, np.int64), "separator": np.zeros(n, np.int64)}
    return made | {"return": rng.normal(size=n).astype(np.float32) * 100} | out


def fitted(spec, **tokens):
    tokenizer, raw = Tokenizer(TokensConfig(**tokens), spec), columns(spec)
    tokenizer.fit({n: {f: raw[f] for f in s.fields} for n, s in tokenizer.slots.items()}, np.array([1.0, 3.0]))
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


def episode_of(spec, T):
    raw, ends = columns(spec, T + 1), np.arange(T) == T - 1
    obs, act = {n: raw[n] for n in spec.obs}, {n: raw[n][:T] for n in spec.act}
    return Episode(obs, act, np.ones(T, np.float32), ends, np.zeros(T, bool))


def test_a_packed_stream_has_a_token_a_code_and_a_text_as_long_as_it_is():
    slots = {"state": {"kind": "mulaw"}, "action": {"kind": "bins", "bins": 16}}
    tokenizer = fitted(GOALS, layout="task | state separator action > reward done", slots=slots, pack=100)
    episode = episode_of(GOALS, 5)
    stream = tokenizer.stream(episode, np.zeros(5), ("action", "reward"))
    said = tokenizer.slots["task"].codec.encode(episode.obs["mission"][:1])
    front = int(tokenizer.slots["task"].codec.lengths(said)[0])
    assert stream.layout.prefix_width == front <= tokenizer.layout.prefix_width
    assert stream.values["task"].shape == (5, front)
    assert len(stream) == front + 5 * (8 + 1 + 3)
    assert stream.tracks["target"].sum() == 5 * 3
    # The reward is the first read-out and done the second; only the reward is trained, at the last token of each step.
    assert np.flatnonzero(stream.tracks["readout"]).tolist() == [front + 12 * t + 11 for t in range(5)]
    assert set(stream.tracks["readout"].tolist()) == {0, 1}


@pytest.mark.parametrize(("trained", "bits"), [((), 0), (("done",), 2), (("done", "reward", "state"), 3)])
def test_trained_read_outs_are_bits_of_the_last_token(trained, bits):
    stream = fitted(PLAIN, layout="state action > reward done").stream(episode_of(PLAIN, 3), np.zeros(3), trained)
    assert stream.tracks["readout"].tolist() == [0, bits] * 3


def test_a_vocabulary_is_no_fitted_tokenizer():
    with pytest.raises(BundleError, match=r"no seqrl tokenizer \(its version is '1.0'\)"):
        Tokenizer.from_json({"version": "1.0", "model": {}})


@pytest.mark.parametrize(
    ("spec", "tokens", "said"),
    [
        (GOALS, {"slots": {"state": {"from": ["observatoin"]}}}, "did you mean 'observation'"),
        (GOALS, {"slots": {"state": {"from": ["observation", "mission"]}}}, "a slot of pictures or texts is made of one field"),
        (MIXED, {"slots": {"state": {"from": ["observation", "mode"]}}}, r"different kinds \(discrete, vector\)"),
        (GOALS, {"layout": "image action"}, "no field 'image'"),
        (PLAIN, {"slots": {"state": {"kind": "discrete"}}}, "use 'vector' or 'bins'"),
        (PLAIN, {"slots": {"state": {"kind": "vector", "scale": "bounds"}}}, "finite bounds"),
        (
            GOALS,
            {"slots": {"state": {"from": "mission", "kind": "vector"}}},
            "'mission' is text, which the codec 'vector' does not read",
        ),
        (
            GOALS,
            {"slots": {"state": {"from": "mission", "kind": "bins"}}},
            "there are: achieved_goal, desired_goal, observation",
        ),
        (SCREEN, {"layout": "image action"}, "size 16 does not divide a picture of 4x4 pixels"),
        (
            SCREEN,
            {"layout": "image action", "slots": {"image": {"kind": "scale"}}},
            "'image' is image, which the codec 'scale'",
        ),
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
