"""Pictures as an encoder's codes: the weights travel with the tokenizer, and what is not whole is named."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from seqrl import bundle
from seqrl.core.episode import EpisodeSpec, Modality
from seqrl.core.errors import BundleError, DataError, RecipeError
from seqrl.data.mixture import Mixture, read_tokenizer
from seqrl.data.slots import TokensConfig
from seqrl.data.tokenizer import Tokenizer
from seqrl.tokens.vq import Codec, Config, tiny

IMAGE = Modality("image", (12, 12), "uint8")
SPEC = EpisodeSpec("tests/frames-v0", {"observation": IMAGE}, {"action": Modality("discrete", (), "int64", n=(3,))})


def frames(n=9, shape=(12, 12), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, int(np.prod(shape))), np.uint8)


@pytest.fixture
def encoder(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    tiny(folder, IMAGE)
    return folder


def tokenizer(encoder, **more):
    config = TokensConfig(layout="image action", slots={"image": {"kind": "vq", "encoder": str(encoder)}}, **more)
    made = Tokenizer(config, SPEC)
    made.fit({"image": {"observation": frames().reshape(-1, 12, 12)}, "action": {"action": np.arange(9) % 3}}, np.zeros(2))
    return made


def test_codes_are_the_models_whatever_the_block(encoder, monkeypatch):
    codec, rows = Codec(Config(encoder=str(encoder)), IMAGE), frames(300)
    codes = codec.encode(rows)
    assert (codes.shape, codes.dtype, codec.vocab, codec.width) == ((300, 4), np.int64, 8, 4)
    assert len(np.unique(codes)) > 1
    model = codec._encoder.model
    assert (codes == model.encode(torch.from_numpy(rows)).numpy()).all()
    assert (codec.decode(codes) == model.decode(torch.from_numpy(codes)).numpy()).all()
    assert codec.encode(rows[:0]).shape == (0, 4)
    assert codec.decode(codes[:0]).shape == (0, 144)
    assert (codec.encode(rows.reshape(2, 150, -1)) == codes.reshape(2, 150, 4)).all()


def test_channels_may_stand_first(tmp_path):
    first = Modality("image", (3, 12, 12), "uint8")
    codec = Codec(tiny(tmp_path, first), first)
    rows = frames(5, first.shape)
    last = np.moveaxis(rows.reshape(5, 3, 12, 12), 1, 3).reshape(5, -1)
    codes = codec.encode(rows)
    assert (codes == codec._encoder.model.encode(torch.from_numpy(last)).numpy()).all()
    painted = codec._encoder.model.decode(torch.from_numpy(codes)).numpy().reshape(5, 12, 12, 3)
    assert (codec.decode(codes).reshape(5, 3, 12, 12) == np.moveaxis(painted, 3, 1)).all()


def test_a_tokenizer_is_whole_without_the_run_it_came_from(encoder, tmp_path):
    made = tokenizer(encoder)
    ports, codes = made.ports(), made.encode_slot("image", {"observation": frames().reshape(-1, 12, 12)})
    assert (ports.vocabs["image"], ports.widths["image"], ports.tokens["image"]) == (8, 4, 4)
    assert ports.shares["image"].startswith("vq-")
    assert "image" not in ports.images
    made.save(tmp_path)
    shutil.rmtree(encoder)
    again = read_tokenizer(tmp_path / "tokenizer.json")
    assert again.ports() == ports
    assert (again.encode_slot("image", {"observation": frames().reshape(-1, 12, 12)}) == codes).all()
    (tmp_path / "b").mkdir()
    again.save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_each_domain_of_a_mixture_keeps_its_own(tmp_path):
    made = {}
    for i, name in enumerate(("one", "two")):
        folder = tmp_path / name
        folder.mkdir()
        tiny(folder, IMAGE)
        weights = load_file(folder / "model.safetensors")
        save_file({n: t + np.float32(i) * 0.1 for n, t in weights.items()}, folder / "model.safetensors")
        made[name] = tokenizer(folder, pack=32)
    Mixture(made).save(tmp_path)
    assert {k.split("/")[0] for k in load_file(tmp_path / "tokenizer.safetensors")} == {"one", "two"}
    again = read_tokenizer(tmp_path / "tokenizer.json")
    for name in made:
        assert again.domains[name].ports() == made[name].ports()
    assert made["one"].ports().shares["image"] != made["two"].ports().shares["image"]


def test_a_tokenizer_without_an_encoder_writes_no_weights(tmp_path):
    Tokenizer(TokensConfig(layout="image action", slots={"image": {"kind": "patches", "size": None}}), SPEC).save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_fitted_file_has_its_weights_beside_it(encoder, tmp_path):
    tokenizer(encoder).save(tmp_path)
    for end in ("json", "safetensors"):
        (tmp_path / f"tokenizer.{end}").rename(tmp_path / f"mine.{end}")
    assert read_tokenizer(tmp_path / "mine.json").ports().vocabs["image"] == 8


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: f.unlink(), "slot 'image' needs weights that are not there"),
        (lambda f: f.write_bytes(f.read_bytes()[:-9]), "truncated or no safetensors"),
        (lambda f: f.write_bytes(b""), "truncated or no safetensors"),
        (lambda f: change(f, lambda w: {n: t for n, t in w.items() if "canvas" not in n}), "do not belong together"),
        (lambda f: change(f, lambda w: {n: t[:-1] if "canvas" in n else t for n, t in w.items()}), "do not belong together"),
        (lambda f: change(f, lambda w: {n: t + 1 for n, t in w.items()}), "not those that the tokenizer was saved with"),
        (lambda f: change(f, lambda w: w | {"image/more": w["image/canvas"]}), "do not belong together"),
    ],
)
def test_weights_that_are_not_whole_are_named(encoder, tmp_path, harm, said):
    tokenizer(encoder).save(tmp_path)
    harm(tmp_path / "tokenizer.safetensors")
    with pytest.raises(BundleError, match=said):
        read_tokenizer(tmp_path / "tokenizer.json")


def change(file, how):
    save_file({n: np.ascontiguousarray(t) for n, t in how(load_file(file)).items()}, file)


@pytest.mark.parametrize("kind", ["policies.decision", "os.path", "encoders.nonsense", "encoders"])
def test_only_encoders_of_the_house_are_made(encoder, tmp_path, kind):
    tokenizer(encoder).save(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["state"]["image"]["kind"] = kind
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="none of this house's encoders"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_an_encoder_that_is_not_there_is_named_with_the_command_that_makes_it(tmp_path):
    for config in (Config(), Config(encoder=str(tmp_path / "none")), Config(encoder=str(tmp_path))):
        codec = Codec(config, IMAGE)
        for ask in (lambda c=codec: c.width, lambda c=codec: c.fit(frames())):
            with pytest.raises(RecipeError, match="seqrl train vq_pong --out runs/vq_pong"):
                ask()


def test_an_encoder_of_other_pictures_is_named(encoder):
    codec = Codec(Config(encoder=str(encoder)), Modality("image", (12, 16, 3), "uint8"))
    with pytest.raises(RecipeError, match="12x12x1 and 12x16x3 here"):
        codec.fit(frames(2, (12, 16, 3)))


def test_a_folder_of_another_model_or_a_broken_one_is_named(encoder):
    (encoder / "recipe.yaml").write_text("model: {kind: policies.decision}\n")
    with pytest.raises(RecipeError, match="of kind policies.decision"):
        Codec(Config(encoder=str(encoder)), IMAGE).fit(frames())
    (encoder / "recipe.yaml").write_text("model: {kind: encoders.vqvae}\n")
    (encoder / "config.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        Codec(Config(encoder=str(encoder)), IMAGE).fit(frames())


def test_values_and_codes_that_are_none_are_named(encoder):
    codec = Codec(Config(encoder=str(encoder)), IMAGE)
    with pytest.raises(DataError, match="uint8"):
        codec.encode(frames().astype(np.float32))
    with pytest.raises(DataError, match="144 bytes"):
        codec.encode(frames()[:, :-1])
    with pytest.raises(DataError, match="is 4 codes"):
        codec.decode(np.zeros((2, 5), np.int64))
    with pytest.raises(DataError, match="0 to 7 .got -1 to 8"):
        codec.decode(np.array([[0, -1, 8, 2]]))
    with pytest.raises(RecipeError, match="patches are cut from pictures"):
        Codec(Config(), Modality("vector", (3,), "float32"))


def test_a_run_and_its_checkpoints_are_encoders(encoder, tmp_path):
    inside = tmp_path / "run" / "checkpoints" / "last" / "bundle"
    inside.parent.mkdir(parents=True)
    shutil.copytree(encoder, inside)
    made = [Codec(Config(encoder=str(p)), IMAGE) for p in (encoder, inside, inside.parent, tmp_path / "run")]
    assert len({c.state()["digest"] for c in made}) == 1


def test_it_is_the_encoder_that_bundle_loads(encoder, tmp_path):
    """What the house's own loader makes of the folder and what the codec makes of it answer alike."""
    loaded = bundle.load_model(encoder, "encoders.vqvae")
    rows = frames()
    codes = Codec(Config(encoder=str(encoder)), IMAGE).encode(rows)
    assert (codes == loaded.encode(torch.from_numpy(rows)).numpy()).all()
