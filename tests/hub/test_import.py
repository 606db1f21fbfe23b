"""An imported Decision Transformer acts in a real environment exactly as its own code would, and no pickle is ever run."""

import json
import pickle
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from transformers import DecisionTransformerConfig, DecisionTransformerModel, LlamaConfig, LlamaForCausalLM

from seqrl import bundle
from seqrl.core.errors import BundleError, EnvError, UserError
from seqrl.hub import importing, unpickle
from seqrl.rollout.agent import Agent

K, SCALE = 20, 1000.0
MEAN = [1.3, -0.08, -0.5, -0.07, 0.05, 2.1, -0.15, 0.01, -0.28, -0.18, -0.28]
STD = [0.18, 0.05, 0.21, 0.15, 0.61, 0.85, 1.45, 0.68, 1.54, 1.62, 5.61]
CARD = """# Decision Transformer model trained on expert trajectories sampled from the Gym Hopper environment
The following normlization coefficients are required to use this model:

mean = [ {mean}]
std = [{std}]
"""


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    sizes = {"state_dim": 11, "act_dim": 3, "hidden_size": 32, "n_layer": 2, "n_head": 1, "max_ep_len": 1000}
    model = DecisionTransformerModel(DecisionTransformerConfig(**sizes, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


@pytest.fixture
def old(theirs, tmp_path):
    """As they were published in 2022: a pickle, old keys in the config, statistics in the card."""
    folder = tmp_path / "decision-transformer-gym-hopper-medium"
    folder.mkdir()
    weights = {**theirs.state_dict(), "encoder.h.0.attn.masked_bias": torch.tensor(-1e4)}
    torch.save(weights, folder / "pytorch_model.bin")
    config = theirs.config.to_dict() | {"max_length": K, "torch_dtype": "float32", "n_ctx": 1024, "summary_type": "cls_index"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(CARD.format(mean=", ".join(map(str, MEAN)), std="  ".join(map(str, STD))))
    return folder


def their_rollout(model, target, steps):
    """As the example beside those checkpoints plays them: a growing history, its last K steps, padded on the left."""
    env = gymnasium.make("Hopper-v5")
    seen, _ = env.reset(seed=3)
    states, actions, returns, done = [], [], [target / SCALE], []
    for t in range(steps):
        states.append((seen - np.array(MEAN)) / np.array(STD))
        actions.append(np.zeros(3))
        n = min(t + 1, K)
        pad = K - n
        # Returns and times that stand where nothing is do not matter: the mask hides them.
        tensors = [
            torch.tensor(np.concatenate([np.zeros((pad, w)), np.array(x[-n:]).reshape(n, w)]), dtype=torch.float32)[None]
            for x, w in ((states, 11), (actions, 3), (returns, 1))
        ]
        times = torch.tensor([[0] * pad + list(range(t + 1 - n, t + 1))])
        mask = torch.tensor([[0] * pad + [1] * n])
        with torch.no_grad():
            out = model(
                states=tensors[0],
                actions=tensors[1],
                rewards=None,
                returns_to_go=tensors[2],
                timesteps=times,
                attention_mask=mask,
            )
        actions[-1] = out.action_preds[0, -1].numpy().astype(np.float64)
        done.append(actions[-1])
        seen, reward, terminated, truncated, _ = env.step(actions[-1].astype(np.float32))
        returns.append(returns[-1] - reward / SCALE)
        if terminated or truncated:
            break
    return np.array(done)


def our_rollout(folder, target, steps):
    loaded = bundle.load(folder)
    env = gymnasium.make("Hopper-v5")
    seen, _ = env.reset(seed=3)
    agent = Agent(loaded.model, loaded.tokenizer, 1)
    agent.reset([0], [target], [0])
    done = []
    for _ in range(steps):
        action = agent.act({"observation": seen[None]})["action"][0]
        done.append(action)
        seen, reward, terminated, truncated, _ = env.step(action)
        agent.receive(np.array([reward]))
        if terminated or truncated:
            break
    return np.array(done)


def test_it_acts_the_same(theirs, old, tmp_path):
    made = importing.import_model(str(old), tmp_path / "out")
    expected = their_rollout(theirs, 3600, 60)
    got = our_rollout(made.folder, 3600, 60)
    assert len(expected) > 5
    assert got.shape == expected.shape
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_what_it_found_out_is_told_and_kept(old, tmp_path):
    made = importing.import_model(str(old), tmp_path / "out")
    assert any("statistics of the states from its card" in n for n in made.notes)
    assert any(n.startswith("20 steps in a window, from its config") for n in made.notes)
    loaded = bundle.load(made.folder)
    assert loaded.tokenizer.slots["state"].codec.state() == {"center": MEAN, "spread": STD}
    assert loaded.recipe["evaluate"]["targets"] == [3600.0, 1800.0]
    assert loaded.metrics["lineage"]["base_model"] == old.name
    assert loaded.tokenizer.spec.env["id"] == "Hopper-v5"


def test_its_recipe_is_one_of_ours(old, tmp_path):
    from seqrl.train import recipe

    made = importing.import_model(str(old), tmp_path / "out")
    parsed = recipe.load(str(made.folder / "recipe.yaml"))
    assert parsed.model["width"] == 32


def test_safetensors_are_taken_where_they_are(theirs, old, tmp_path):
    (old / "pytorch_model.bin").unlink()
    theirs.save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "saved" / "model.safetensors", old)
    made = importing.import_model(str(old), tmp_path / "out")
    assert len(our_rollout(made.folder, 1800, 3)) == 3


class Boom:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(old, tmp_path, capsys, zipped):
    torch.save({"a": Boom()}, old / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BundleError, match="could run code"):
        importing.import_model(str(old), tmp_path / "out")
    assert "executed" not in capsys.readouterr().out
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 rest", pickle.dumps({"a": 1}), b"\x80\x02}q\x00.", b"not a pickle at all" * 100]
)
def test_files_that_are_no_weights_are_one_message(old, tmp_path, content):
    (old / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(BundleError):
        importing.import_model(str(old), tmp_path / "out")


def test_a_truncated_file_is_one_message(old, tmp_path):
    whole = (old / "pytorch_model.bin").read_bytes()
    (old / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="truncated"):
        importing.import_model(str(old), tmp_path / "out")


@pytest.mark.parametrize("name", ["../x.bin", "/etc/x.bin", "a/b.bin", "x.py"])
def test_an_index_may_not_lead_out_of_its_folder(old, tmp_path, name):
    (old / "pytorch_model.bin").unlink()
    (old / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(BundleError, match="no file of weights beside it"):
        importing.import_model(str(old), tmp_path / "out")


def test_what_the_card_does_not_say_can_be_told(old, tmp_path):
    (old / "README.md").write_text("nothing")
    with pytest.raises(BundleError, match="--statistics FILE"):
        importing.import_model(str(old), tmp_path / "out")
    (tmp_path / "s.json").write_text(json.dumps({"mean": MEAN, "std": STD}))
    made = importing.import_model(str(old), tmp_path / "out", statistics=tmp_path / "s.json")
    assert "statistics of the states from s.json" in made.notes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"env": "Walker2d-v5"}, "state_dim is 11, and Walker2d-v5 has 17"),
        ({"env": "CartPole-v1"}, "must be numbers"),
        ({"env": "Hoper-v5"}, "Hopper"),
    ],
)
def test_the_wrong_environment_is_one_message(old, tmp_path, settings, words):
    with pytest.raises((BundleError, EnvError), match=words):
        importing.import_model(str(old), tmp_path / "out", **settings)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("mean = [1, 2]\nstd = [1, 2]", "2 means and 2 deviations are given, and a state has 11"),
        (f"mean = {MEAN}\nstd = {[0.0] * 11}", "above 0"),
        (f"mean = {MEAN}\nstd = [one, two]", "must be numbers"),
    ],
)
def test_statistics_that_cannot_be_are_one_message(old, tmp_path, card, words):
    (old / "README.md").write_text(card)
    with pytest.raises(BundleError, match=words):
        importing.import_model(str(old), tmp_path / "out")


def test_a_name_that_tells_nothing_asks(old, tmp_path):
    other = old.rename(tmp_path / "mine")
    with pytest.raises(BundleError, match=r"(?s)--env ID.*--targets R,R"):
        importing.import_model(str(other), tmp_path / "out")
    with pytest.raises(BundleError) as e:
        importing.import_model(str(other), tmp_path / "out", env="Hopper-v5")
    assert "--env" not in str(e.value)
    made = importing.import_model(str(other), tmp_path / "out", env="Hopper-v5", targets=[1000.0])
    assert bundle.load(made.folder).recipe["evaluate"]["targets"] == [1000.0]


def test_an_existing_folder_is_left_alone(old, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match="is there already"):
        importing.import_model(str(old), tmp_path / "out")


def test_other_models_are_refused_by_name(old, tmp_path):
    (old / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="model_type is 'vit'"):
        importing.import_model(str(old), tmp_path / "out")


@pytest.fixture
def llama(tmp_path):
    """As LWM's: Llama's format, several pickles, an index."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=128, rope_theta=5e7)).eval()
    folder = tmp_path / "LWM-Text"
    folder.mkdir()
    weights = model.state_dict()
    names = sorted(weights)
    where = {}
    for i, part in enumerate((names[:7], names[7:]), 1):
        file = f"pytorch_model-{i:05d}-of-00002.bin"
        torch.save({n: weights[n] for n in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps(model.config.to_dict() | {"auto_map": {"AutoModel": "evil.Model"}}))
    return folder, model


def test_a_language_model_becomes_a_body(llama, tmp_path):
    from seqrl.nn.pretrained import Pretrained

    folder, model = llama
    made = importing.import_model(str(folder), tmp_path / "body")
    assert not list(made.folder.glob("*.bin"))
    assert "auto_map" not in json.loads((made.folder / "config.json").read_text())
    body = Pretrained.load(made.folder)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        expected = model(ids).logits
        got = body.logits(body(body.embedding(ids)))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_language_model_that_is_not_whole_is_refused(llama, tmp_path):
    folder, _ = llama
    file = folder / "pytorch_model-00002-of-00002.bin"
    weights = torch.load(file, weights_only=True)
    name = next(n for n in weights if n.endswith("q_proj.weight"))
    torch.save({n: t for n, t in weights.items() if n != name}, file)
    with pytest.raises(BundleError, match="1 weights are missing"):
        importing.import_model(str(folder), tmp_path / "body")
    torch.save({**weights, name: torch.zeros(3, 3)}, file)
    with pytest.raises(BundleError, match=r"is \(3, 3\), and its config says \(16, 16\)"):
        importing.import_model(str(folder), tmp_path / "body")
    file.unlink()
    with pytest.raises(BundleError, match="and it is not there"):
        importing.import_model(str(folder), tmp_path / "body")


def test_settings_of_a_policy_are_none_of_a_body(llama, tmp_path):
    with pytest.raises(BundleError, match="has no context"):
        importing.import_model(str(llama[0]), tmp_path / "body", context=3)


def test_old_files_are_read_lazily(tmp_path):
    torch.save({"a": torch.arange(4.0)}, tmp_path / "x.bin")
    assert torch.equal(unpickle.read_bin(tmp_path / "x.bin")["a"], torch.arange(4.0))


ODD = {
    "expanded": lambda: torch.zeros(1).expand(1 << 40),
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "quantised": lambda: torch.zeros(3).to(torch.float8_e4m3fn),
    "meta": lambda: torch.empty(1 << 40, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
}


@pytest.mark.parametrize("what", ODD)
def test_tensors_that_are_not_plain_are_refused(tmp_path, what):
    torch.save({"a": ODD[what]()}, tmp_path / "x.bin")
    with pytest.raises(BundleError, match="'a' is .*only plain tensors are imported"):
        unpickle.read_bin(tmp_path / "x.bin")


def test_more_numbers_than_the_file_has_are_refused(tmp_path):
    whole = torch.arange(1e5)
    torch.save({"a": torch.nn.Parameter(whole), "b": whole}, tmp_path / "x.bin")
    assert not unpickle.read_bin(tmp_path / "x.bin")["a"].requires_grad
    torch.save(dict.fromkeys("abc", whole), tmp_path / "x.bin")
    with pytest.raises(BundleError, match="larger than the file"):
        unpickle.read_bin(tmp_path / "x.bin")


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_ep_len": 10**10}, r"embed_time\.weight is \(1000, 32\).* makes it \(10000000000, 32\)"),
        ({"hidden_size": 10**7}, "10000000"),
        ({"hidden_size": 2**62}, "this Decision Transformer|of this config"),
        ({"n_inner": 10**12}, "1000000000000"),
        ({"n_layer": 10**9}, "weights of 2 layers, and the config of this Decision Transformer says 1000000000"),
        ({"n_layer": 0}, "weights of 2 layers"),
        ({"hidden_size": 1e7}, "hidden_size.*expected int, got float"),
        ({"max_ep_len": 1e10}, "max_ep_len.*expected int, got float"),
        ({"state_dim": "x"}, "state_dim must be a whole number from 1 to 65,536, and is 'x'"),
        ({"state_dim": [11]}, "state_dim must be a whole number"),
        ({"act_dim": float("inf")}, "act_dim must be a whole number"),
        ({"act_dim": 10**12}, "act_dim must be a whole number"),
    ],
)
def test_a_config_that_claims_any_size_is_one_message(old, tmp_path, values, words):
    change(old, **values)
    with pytest.raises(UserError, match=words) as e:
        importing.import_model(str(old), tmp_path / "out")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("length", [0, 10**9, 30.0, True, "20"])
def test_a_length_that_is_none_is_not_taken(old, tmp_path, length):
    change(old, max_length=length)
    made = importing.import_model(str(old), tmp_path / "out")
    assert "20 steps in a window" in made.notes
    assert any("is no length of a window" in n for n in made.notes)


def test_a_folder_has_no_revision(old, tmp_path):
    with pytest.raises(BundleError, match="has no revision 'main'"):
        importing.import_model(str(old), tmp_path / "out", revision="main")


@pytest.mark.parametrize("layers", [0, -1, 10**9, "two", 2.0])
def test_a_body_has_layers_and_not_too_many(llama, tmp_path, layers):
    change(llama[0], num_hidden_layers=layers)
    with pytest.raises(BundleError, match="num_hidden_layers must be 1 to 1024"):
        importing.import_model(str(llama[0]), tmp_path / "body")


def test_a_config_that_cannot_be_says_why(llama, tmp_path):
    change(llama[0], hidden_size="wide")
    with pytest.raises(BundleError, match="can be built of its config .*expected int, got str"):
        importing.import_model(str(llama[0]), tmp_path / "body")


def test_only_what_the_model_has_is_written(llama, tmp_path):
    from safetensors.torch import load_file

    folder, model = llama
    file = folder / "pytorch_model-00002-of-00002.bin"
    weights = torch.load(file, weights_only=True)
    torch.save({**weights, "junk": torch.arange(9)}, file)
    change(folder, tie_word_embeddings=True)
    made = importing.import_model(str(folder), tmp_path / "body")
    written = {k for f in made.folder.glob("*.safetensors") for k in load_file(f)}
    assert written == set(model.state_dict()) - {"lm_head.weight"}
    assert any(n.startswith("2 tensors that such a model has not got") for n in made.notes)
    name = next(n for n in weights if n.endswith("q_proj.weight"))
    torch.save({**weights, name: torch.zeros(16, 16, dtype=torch.int8)}, file)
    with pytest.raises(BundleError, match="of dtype int8, and its model's is float32"):
        importing.import_model(str(folder), tmp_path / "again")
