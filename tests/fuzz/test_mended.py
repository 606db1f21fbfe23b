"""What fuzzing found, and was mended: each input as small as it got."""

import io
import json
import shutil

import h5py
import numpy as np
import pytest
import yaml

from seqrl import bundle
from seqrl.core import kinds, plain, shelf
from seqrl.core.config import parse_yaml
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import BundleError, DataError, HubError, RecipeError, UserError
from seqrl.data.mixture import read_tokenizer
from seqrl.data.store import prepare
from seqrl.hub import manifest, privacy, publication, weights
from seqrl.report import folder
from seqrl.sources import d4rl, minari
from seqrl.sources._files import datasets_home

DEEP = "[" * 100_000
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
SPEC = {"id": "a", "obs": {"observation": {"kind": "vector", "shape": [3], "dtype": "float32"}}, "act": {}}


@pytest.mark.parametrize(
    "text", [DEEP, BOMB, "a: &a [*a]", "a: !!bool perhaps", "a: !!timestamp x", "a: !!int ''", "a: !!float _"]
)
def test_yaml_of_strangers_is_refused_in_every_reader(text, tmp_path):
    # Of PyYAML these were RecursionError, KeyError, AttributeError and IndexError, and with libyaml a segmentation fault.
    with pytest.raises(ValueError, match="nested|values|alias|tag"):
        plain.read_yaml(text)
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        parse_yaml(text, "r.yaml")
    (tmp_path / "recipe.yaml").write_text(text)
    assert folder.read_yaml(tmp_path / "recipe.yaml") == {}
    with pytest.raises(HubError, match=r"recipe\.yaml"):
        privacy.clean(tmp_path)


def test_plain_yaml_is_what_it_was(tmp_path):
    for name in shelf.names("recipes"):
        text = shelf.text("recipes", name)
        assert plain.read_yaml(text) == yaml.safe_load(text)
    assert plain.read_yaml("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}}") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}}
    assert plain.read_yaml("") is None


@pytest.mark.parametrize("text", [DEEP, "[" * 101 + "]" * 101, '{"a":' * 500 + "1" + "}" * 500, "1" + "0" * 5000])
def test_json_of_strangers_is_refused_in_every_reader(text, tmp_path):
    with pytest.raises(ValueError, match="nested|digits"):
        plain.read_json(text)
    for name in ("metrics.json", "tokenizer.json", publication.NAME):
        (tmp_path / name).write_text(text)
    assert folder.read_json(tmp_path / "metrics.json") == {}
    assert folder.read_lines(tmp_path / "metrics.json") == []
    assert publication.read_files(tmp_path / publication.NAME) == []
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_a_head_nested_without_end_counts_as_none(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(DEEP).to_bytes(8, "little") + DEEP.encode())
    assert folder.count_parameters(file) is None
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        weights.read_header(file)


@pytest.mark.parametrize("kind", ["sys", "math", "tests", "os.path", "torch._C", "tokens.vector"])
def test_a_module_that_is_no_kind_is_told(kind):
    with pytest.raises(RecipeError, match=kind):
        kinds.settings(kind)


def test_a_message_does_not_repeat_a_book():
    from seqrl.train import recipe

    text = shelf.text("recipes", "dt_cartpole").replace("policies.decision", "a" * 70_000)
    with pytest.raises(RecipeError, match="unknown kind 'aaa") as e:
        recipe.parse(text.replace("device: cpu", "device: " + "b" * 70_000), "r.yaml")
    assert len(str(e.value)) < 2000


def test_a_kind_of_another_room_is_not_imported():
    with pytest.raises(RecipeError, match="one of policies, and one of tokens is wanted"):
        kinds.load("policies.vla", "tokens")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": ["vector"]},
        {"shape": [-1]},
        {"shape": [1 << 40]},
        {"shape": 3},
        {"dtype": "object"},
        {"dtype": ">f4"},
        {"low": [0.0]},
        {"low": [0.0] * 3},
        {"low": [float("nan")] * 3, "high": [1.0] * 3},
        {"kind": "discrete"},
        {"kind": "discrete", "n": [2, 2, 0]},
        {"kind": "text", "dtype": "str"},
        {"more": 1},
    ],
)
def test_a_modality_that_no_value_could_have(wrong):
    with pytest.raises(DataError):
        EpisodeSpec.from_json(SPEC | {"obs": {"observation": SPEC["obs"]["observation"] | wrong}})


@pytest.mark.parametrize(
    "wrong", [{"obs": None}, {"obs": {"a": 1}}, {"env": []}, {"about": "x"}, {"references": [1, 2, 3]}, {"id": 1}]
)
def test_a_spec_that_describes_no_episodes(wrong):
    with pytest.raises(DataError):
        EpisodeSpec.from_json(SPEC | wrong)
    assert EpisodeSpec.from_json(SPEC).obs["observation"] == Modality("vector", (3,), "float32")


def edited(place, change):
    """A tokenizer of vectors and bins with its JSON changed."""
    from seqrl.data.slots import TokensConfig
    from seqrl.data.tokenizer import Tokenizer

    spec = EpisodeSpec(
        "a",
        {"observation": Modality("vector", (2,), "float32", (0.0,) * 2, (1.0,) * 2)},
        {"action": Modality("discrete", (), "int64", n=(2,))},
    )
    slots = {"state": {"kind": "vector"}, "observation": {"kind": "bins", "bins": 4}}
    made = Tokenizer(TokensConfig(layout="return state observation action", slots=slots), spec)
    made.save(place)
    raw = json.loads((place / "tokenizer.json").read_text())
    assert read_tokenizer(place / "tokenizer.json").to_json() == made.to_json()
    change(raw)
    (place / "tokenizer.json").write_text(json.dumps(raw))
    return place / "tokenizer.json"


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["state"]["state"].update(center=[1.0]),
        lambda raw: raw["state"]["state"].update(spread=[0.0, 1.0]),
        lambda raw: raw["state"]["state"].update(spread=[float("nan"), 1.0]),
        lambda raw: raw["state"]["observation"]["edges"][0].pop(),
        lambda raw: raw["state"]["observation"].update(centers=[]),
        lambda raw: raw["state"]["observation"]["edges"][0].reverse(),
        lambda raw: raw["state"]["return"].update(by=0),
        lambda raw: raw["state"]["return"].update(by=float("inf")),
        lambda raw: raw["spec"]["obs"]["observation"].update(shape=[1 << 23]),
        lambda raw: raw["spec"]["obs"]["observation"].update(low=None, high=None, shape=[1 << 22]),
        lambda raw: raw.update(discount=float("nan")),
        lambda raw: raw.update(returns=[1]),
    ],
)
def test_statistics_that_fit_nothing(change, tmp_path):
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        read_tokenizer(edited(tmp_path, change))


def hdf5(**columns):
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        for name, values in columns.items():
            if isinstance(values, tuple):
                file.create_dataset(name, values, "f4", chunks=tuple(min(s, 100) for s in values))
            else:
                file[name] = values
    return held.getvalue()


def test_an_array_of_terabytes_in_a_file_of_kilobytes(tmp_path):
    whole = {"observations": np.zeros((4, 3), "f4"), "actions": np.zeros((4, 1)), "terminals": np.zeros(4, bool)}
    path = tmp_path / "it.hdf5"
    path.write_bytes(hdf5(**whole, rewards=(10**12,)))
    with pytest.raises(DataError, match="'rewards' says it has 4,000,000,000,000 bytes, and the file holds 0 of it"):
        len(d4rl.Source(d4rl.Config(path=str(path))))


@pytest.mark.parametrize("steps", [2**70, -1, "seven"])
def test_a_minari_file_whose_numbers_cannot_be(steps, home):
    config = minari.tiny(home)
    metadata = datasets_home() / config.id / "data" / "metadata.json"
    with h5py.File(metadata.with_name("main_data.hdf5"), "r+") as file:
        file["episode_1"].attrs["total_steps"] = str(steps) if steps == 2**70 else steps
    with pytest.raises(DataError, match=r"main_data\.hdf5: episode 1"):
        _ = minari.Source(config).lengths
    with h5py.File(metadata.with_name("main_data.hdf5"), "r+") as file:
        del file["episode_0/actions"]
        file["episode_0/actions"] = 1.5
    with pytest.raises(DataError, match="a single value, a row a step was expected"):
        minari.Source(config).episode(0)
    metadata.write_text(DEEP)
    with pytest.raises(DataError, match=r"metadata\.json"):
        minari.Source(config)


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-this-name/x"])
def test_names_that_no_file_can_have(name, tmp_path, home):
    entry = manifest.Entry(repo="a/b", recipe="dt_cartpole", run=name, least={"mean": 1})
    assert manifest._checked(entry).why_not
    for ask in (
        lambda: shelf.find("recipes", name),
        lambda: bundle.find(name),
        lambda: minari.Source(minari.Config(id=f"{name.strip('~')}-v0", download=False)),
        lambda: d4rl.Source(d4rl.Config(path=name)),
    ):
        with pytest.raises(UserError):
            ask()


def test_a_million_layers_are_not_built(tmp_path):
    from seqrl.data.slots import TokensConfig
    from seqrl.data.tokenizer import Tokenizer

    box = Modality("vector", (2,), "float32", (-1.0,) * 2, (1.0,) * 2)
    tokenizer = Tokenizer(TokensConfig(context=2), EpisodeSpec("a", {"observation": box}, {"action": box}))
    module = kinds.load("policies.decision")
    model = module.Model(module.Config.for_ports(tokenizer.ports(), 2, width=8, layers=1, heads=1))
    bundle.save(tmp_path, model, tokenizer, "model: {kind: policies.decision}\n", {})
    assert bundle.load(tmp_path).model
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"layers": 10**9}))
    with pytest.raises(BundleError, match="layers=1000000000, and there are"):
        bundle.load(tmp_path)
    shutil.copy(tmp_path / "metrics.json", tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(BundleError, match=r"config\.json"):
        bundle.load(tmp_path)


def test_a_checkpoint_whose_facts_are_no_mapping(tmp_path):
    from seqrl.train import saved

    (tmp_path / "step-1" / "trainer").mkdir(parents=True)
    for text in ("1.0", "[]", "null", DEEP, '{"step": {}}'):
        (tmp_path / "step-1" / "trainer" / "state.json").write_text(text)
        with pytest.raises(BundleError, match="step-1"):
            saved.load(tmp_path / "step-1")


@pytest.mark.parametrize("text", ['{"domains": {"a": 0}}', '{"domains": {"a": []}}', '{"domains": 1}', "1", '{"version": {}}'])
def test_a_tokenizer_that_is_no_mapping(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("shape", [[2**64], [-5], [1.5], "x", None, [[1]]])
def test_a_head_with_impossible_shapes_counts_as_none(shape, tmp_path):
    head = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    assert folder.count_parameters(tmp_path / "model.safetensors") is None


def test_a_head_with_places_beyond_all_numbers(tmp_path):
    head = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}'
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        weights.read_header(tmp_path / "model.safetensors")


def test_a_table_with_two_columns_of_one_name(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    from seqrl.sources import rows

    columns = [pa.array([1.0, 2.0])] * 4
    names = ["action", "observation", "next.reward", "next.reward"]
    (tmp_path / "data").mkdir()
    parquet.write_table(pa.Table.from_arrays(columns, names), tmp_path / "data" / "a.parquet")
    with pytest.raises(DataError, match="more than one column 'next.reward'"):
        _ = rows.Source(rows.Config(id=str(tmp_path))).spec


def test_a_table_whose_column_names_are_in_no_encoding(tmp_path):
    import pyarrow as pa

    from seqrl.sources import rows

    (tmp_path / "data").mkdir()
    with pa.OSFile(str(tmp_path / "data" / "a.arrow"), "wb") as sink:
        table = pa.table({"action": [1.0], "observation": [2.0]})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    content = (tmp_path / "data" / "a.arrow").read_bytes()
    (tmp_path / "data" / "a.arrow").write_bytes(content.replace(b"action", b"act\xe0on"))
    with pytest.raises(DataError, match=r"a\.arrow"):
        len(rows.Source(rows.Config(id=str(tmp_path))))


class _One:
    """A source of one episode."""

    lengths = (2,)

    def __init__(self, act, seed=0, dtype="float32"):
        obs = {"observation": Modality("vector", (1,), "float32")}
        self.spec = EpisodeSpec("fuzz/one-v0", obs, {"action": Modality("discrete", (), dtype, n=(4,))})
        flags, seen = np.zeros(2, bool), {"observation": np.zeros((3, 1), np.float32)}
        self.only = Episode(seen, {"action": act}, np.zeros(2, np.float32), flags, flags, 0, {"seed": seed})

    def fingerprint(self):
        return str(self.only.info)

    def __len__(self):
        return 1

    def episode(self, i):
        return self.only


def test_a_seed_that_no_column_holds_is_kept_in_the_info(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQRL_CACHE", str(tmp_path))
    store = prepare(_One(np.zeros(2, np.int64), seed=1 << 63, dtype="int64"))
    assert store.episodes.seed.tolist() == [-1]
    assert store.episode(0).info == {"seed": 1 << 63}


def test_actions_of_nothing_are_no_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQRL_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="act.action holds object and no numbers"):
        prepare(_One(np.array([None, None]), dtype="object"))
