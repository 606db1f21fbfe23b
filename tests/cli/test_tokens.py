"""``seqrl tokens``: the drawing of plain and packed recipes, fitting once and for all, and what people do wrong there."""

import json

import numpy as np
import pytest

from seqrl.core import shelf
from seqrl.core.errors import UserError
from seqrl.train import recipe as recipes
from seqrl.train.prepare import loader_for, open_data, tokenizer_for

PLAIN = """
name: plain
data: {sources: [{kind: minari, id: tests/cartpole-v0}]}
tokens: {layout: return state action > reward, context: 4}
model: {kind: policies.decision, width: 16, layers: 1, heads: 1}
"""
PACKED = """
name: packed
data:
  sources:
    - {kind: minari, id: tests/cartpole-v0, domain: cart}
    - {kind: minari, id: tests/talk-v0, domain: talk}
tokens:
  pack: 90
  layout: state separator action
  slots: {state: {kind: mulaw}}
  domains:
    talk: {layout: task | rgb action > reward, slots: {rgb: {kind: patches, size: 4}, reward: {kind: bins, bins: 8}}}
model: {kind: policies.gato}
train: {batch: 4, losses: {action: 1, reward: 1}}
"""


@pytest.fixture(scope="session")
def talk(_own_folders):
    """A small Minari dataset of pictures and missions."""
    from seqrl.core.episode import Episode, EpisodeSpec, Modality
    from seqrl.sources._write import save_minari

    obs = {"rgb": Modality("image", (8, 8, 3), "uint8"), "mission": Modality("text", (), "str")}
    spec = EpisodeSpec("tests/talk-v0", obs, {"action": Modality("discrete", (), "int64", n=(7,))})
    rng, episodes = np.random.default_rng(0), []
    for i, T in enumerate((3, 5, 4, 6, 2, 7)):
        said = ("go to the red ball", "open the door")[i % 2]
        seen = {"rgb": rng.integers(0, 256, (T + 1, 8, 8, 3), np.uint8), "mission": np.full(T + 1, said)}
        ends = np.arange(T) == T - 1
        acts = {"action": rng.integers(0, 7, T)}
        episodes.append(Episode(seen, acts, ends.astype(np.float32), ends, np.zeros(T, bool), i))
    save_minari(episodes, spec, spec.id)
    return spec.id


@pytest.fixture
def work(cartpole, talk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.yaml").write_text(PLAIN)
    (tmp_path / "packed.yaml").write_text(PACKED)
    return tmp_path


def test_show_draws_a_plain_recipe(seqrl, work):
    code, out, err = seqrl("tokens", "show", "plain.yaml", "--steps", "2")
    assert code == 0, err
    assert "3 tokens a step, windows of 4 steps: 12 tokens" in out
    assert "of the places in a batch hold a token" in out
    assert "domain" not in out
    for head in ("who sees whom", "there and back", "mean error", "outside"):
        assert head in out
    assert any(line.split()[:3] == ["return", "return", "scale"] for line in out.splitlines())


def test_show_names_the_domains_and_shows_the_first_or_the_one_asked(seqrl, work):
    code, out, err = seqrl("tokens", "show", "packed.yaml")
    assert code == 0, err
    assert "domain cart of cart, talk; choose with --domain" in out
    assert "tests/cartpole-v0, episode 0" in out
    code, out, err = seqrl("tokens", "show", "packed.yaml", "--domain", "talk", "--episode", "1", "--html", "talk.html")
    assert code == 0, err
    assert "tests/talk-v0, episode 1: 5 steps" in out
    assert "5 tokens a step behind up to" in out
    assert "‹open› ‹the› ‹door›" in out
    assert "8×8×3 bytes" in out
    assert "reward*" in out
    # The reward is read at the last token of each of the five steps.
    assert max(line.count("▀") for line in out.splitlines() if set(line.strip()) <= {"▀", " "}) == 5
    page = (work / "talk.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count('<span class="code">door</span>') == 1
    assert "<svg" in page
    assert 'class="px c' in page


def test_show_reads_a_bundle_s_own_tokenizer(seqrl, work):
    from seqrl.train.view import look

    folder = work / "bundle"
    folder.mkdir()
    view = look("packed.yaml")
    view.fitted.save(folder)
    (folder / "recipe.yaml").write_text(view.recipe.dump())
    again = look(folder, "talk")
    ours, theirs = look("packed.yaml", "talk").stream(2), again.stream(2)
    assert ours[1] == theirs[1]
    assert all(np.array_equal(ours[0].values[n], theirs[0].values[n]) for n in ours[0].values)
    (folder / "recipe.yaml").write_text(PACKED.replace("domain: cart", "domain: pole"))
    code, _, err = seqrl("tokens", "show", "bundle")
    assert code == 2
    assert "only one of recipe.yaml and tokenizer.json has the domain 'cart'" in err
    (folder / "recipe.yaml").write_text(PLAIN)
    code, _, err = seqrl("tokens", "show", "bundle")
    assert code == 2
    assert "do not belong together" in err


@pytest.mark.parametrize("name", ["plain", "packed"])
def test_a_fitted_tokenizer_gives_the_same_tokens_bit_for_bit(seqrl, work, name):
    code, out, err = seqrl("tokens", "fit", f"{name}.yaml", "--out", "fitted.json")
    assert code == 0, err
    assert f"next: seqrl train {name}.yaml tokens.fitted=fitted.json" in out
    assert "fitted on tests/cartpole-v0" in out
    drawn = []
    for overrides in ([], ["tokens.fitted=fitted.json"]):
        recipe = recipes.load(f"{name}.yaml", overrides)
        data = open_data(recipe)
        tokenizer = tokenizer_for(recipe, data)
        batch = loader_for(recipe, data, tokenizer, "cpu").draw(0, 7, 4)
        drawn.append((json.dumps(tokenizer.to_json()["domains" if name == "packed" else "state"], sort_keys=True), batch))
    assert drawn[0][0].replace('"fitted": null', "") == drawn[1][0].replace('"fitted": null', "")
    for a, b in zip(*(_tensors(batch) for _, batch in drawn), strict=True):
        assert a.dtype == b.dtype
        assert a.equal(b)


def _tensors(batch):
    if not hasattr(batch, "parts"):
        return [batch.values[n] for n in sorted(batch.values)] + [batch.time, batch.length]
    parts = [p for _, p in sorted(batch.parts.items())]
    return [batch.pack, batch.pos, *(p.values[n] for p in parts for n in sorted(p.values)), *(p.at for p in parts)]


def test_fit_writes_whole_files_and_overwrites_only_when_told(seqrl, work):
    (work / "mine.json").write_text("mine")
    code, _, err = seqrl("tokens", "fit", "plain.yaml", "--out", "mine.json")
    assert (code, (work / "mine.json").read_text()) == (2, "mine")
    assert "--force" in err
    code, _, err = seqrl("tokens", "fit", "plain.yaml", "data.sources.0.id=tests/cartpoel-v0", "--out", "mine.json", "--force")
    assert (code, (work / "mine.json").read_text()) == (2, "mine")
    code, _, err = seqrl(
        "tokens", "fit", "plain.yaml", "tokens.slots.return={kind: scale, by: 7}", "--out", "mine.json", "--force"
    )
    assert code == 0, err
    assert json.loads((work / "mine.json").read_text())["state"]["return"] == {"by": 7.0}
    assert {p.name for p in work.iterdir()} == {"plain.yaml", "packed.yaml", "mine.json"}
    # To fit is what was asked for, whatever the recipe takes otherwise.
    code, _, err = seqrl("tokens", "fit", "plain.yaml", "tokens.fitted=mine.json", "--out", "other.json")
    assert code == 0, err
    assert json.loads((work / "other.json").read_text())["state"]["return"] != {"by": 7.0}


def test_a_fitted_tokenizer_that_does_not_fit_is_named(seqrl, work):
    for name in ("plain", "packed"):
        assert seqrl("tokens", "fit", f"{name}.yaml", "--out", f"{name}.json")[0] == 0

    def said(name, *overrides):
        recipe = recipes.load(f"{name}.yaml", overrides)
        with pytest.raises(UserError) as e:
            tokenizer_for(recipe, open_data(recipe))
        return str(e.value)

    assert "fitted for windows; fit one with this recipe" in said("packed", "tokens.fitted=plain.json")
    assert "fitted with another tokens.layout" in said("plain", "tokens.fitted=plain.json", "tokens.layout=state action")
    other = said("plain", "tokens.fitted=plain.json", "tokens.slots.state={kind: mulaw}")
    assert "fitted with another tokens.slots; make them agree, or leave 'fitted' out" in other
    spaces = said("plain", "tokens.fitted=plain.json", "data.sources.0.id=tests/talk-v0")
    assert "was fitted on tests/cartpole-v0, and" in spaces
    assert "differs from tests/talk-v0's" in spaces
    assert "no domain 'pole'" in said("packed", "tokens.fitted=packed.json", "data.sources.0.domain=pole")
    assert "there is no such file" in said("plain", "tokens.fitted=nowhere.json")
    (work / "broken.json").write_text((work / "plain.json").read_text()[:200])
    assert "broken.json: cannot be read" in said("plain", "tokens.fitted=broken.json")
    assert "no seqrl tokenizer" in said("plain", "tokens.fitted=missions")


MISTAKES = {
    "an unknown domain": (["show", "packed.yaml", "--domain", "tlak"], "did you mean 'talk'? (there are: cart, talk)"),
    "a domain of a plain recipe": (["show", "plain.yaml", "--domain", "cart"], "it reads windows; leave --domain out"),
    "an episode too far": (["show", "packed.yaml", "--domain", "talk", "--episode", "6"], "has episodes 0 to 5"),
    "a page for a folder": (["show", "plain.yaml", "--html", "."], "this is a folder"),
    "a page that is there": (["show", "plain.yaml", "--html", "plain.yaml"], "--force"),
    "a file in no folder": (["fit", "plain.yaml", "--out", "no/x.json"], "there is no folder no"),
    "a file of another kind": (["fit", "plain.yaml", "--out", "x.yaml"], "write x.json"),
    "an override for a recipe": (["fit", "train.lr=1", "--out", "x.json"], "name a recipe before train.lr=1"),
    "an unknown recipe": (["fit", "dt_cartpol", "--out", "x.json"], "did you mean 'dt_cartpole'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message(seqrl, work, mistake):
    words, said = MISTAKES[mistake]
    code, _, err = seqrl("tokens", *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert {p.name for p in work.iterdir()} == {"plain.yaml", "packed.yaml"}


def test_ls_says_what_is_on_the_shelf(seqrl, work, monkeypatch):
    assert seqrl("tokens", "fit", "plain.yaml", "--out", "cart.json")[0] == 0
    assert seqrl("tokens", "fit", "packed.yaml", "--out", "both.json")[0] == 0
    vocabulary = shelf.find("tokenizers", "missions", ".json").read_text()
    (work / "missions.json").write_text(vocabulary)
    (work / "broken.json").write_text("{")
    monkeypatch.setattr(shelf, "folder", lambda name: work)
    code, out, err = seqrl("tokens", "ls")
    assert code == 0, err
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.strip()}
    assert lines["missions"] == "vocabulary for texts: 453 ids, BPE"
    assert lines["cart"] == "fitted, windows: return state action > reward of tests/cartpole-v0"
    assert lines["both"].startswith("fitted, rows of 90 tokens: cart: state separator action of tests/cartpole-v0; talk:")
    assert lines["broken"].startswith("cannot be read")
