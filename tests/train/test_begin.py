"""A run that begins with a bundle: every weight that means the same, the statistics it was trained with, an account of both."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seqrl import bundle
from seqrl.cli import app
from seqrl.core.episode import Episode, EpisodeSpec, Modality
from seqrl.core.errors import BundleError, HubError, RecipeError
from seqrl.data import dataset
from seqrl.tokens import vq
from seqrl.train import begin, checkpoint, metrics, prepare, run, view
from seqrl.train import recipe as recipes
from seqrl.train.signals import Interrupted

QUICK = ["train.steps=1", "train.batch=4", "train.device=cpu", "train.validate_windows=4", "evaluate.at_end=false"]
SMALL = {
    "decision": "tokens={context: 5}; model={kind: policies.decision, width: 16, layers: 2, heads: 2}",
    "codes": "tokens={context: 5, slots: {state: {kind: bins, bins: 8}}}; model={kind: policies.decision, width: 8, layers: 1}",
    "clone": "tokens={context: 4}; model={kind: policies.clone, history: 2, widths: [16, 16]}",
    "gato": "tokens={pack: 48, layout: state separator action}; model={kind: policies.gato, width: 16, layers: 1, heads: 2}",
    "trajectory": "tokens={pack: 96, layout: state action reward > return, slots: {state: {kind: bins, bins: 8}, "
    "reward: {kind: bins, bins: 8}, return: {kind: bins, bins: 8}}}; model={kind: policies.trajectory, width: 16, layers: 1, "
    "heads: 2}; train.losses={state: 1, action: 1, reward: 1, return: 1}",
    "rssm": "tokens={context: 8, layout: state action > reward done}; model={kind: worlds.rssm, groups: 4, classes: 4, "
    "deter: 16, hidden: 16, layers: 1}; train.losses={state: 1, reward: 1, done: 1, dyn: 1, rep: 1}",
    "ensemble": "tokens={context: 4, layout: state action > reward done}; model={kind: worlds.ensemble, members: 2, "
    "width: 16}; train.losses={state: 1, reward: 1, done: 1}",
}
HOPS = """
name: hops
data: {sources: [{kind: minari, id: from}], held_out: 0.2}
tokens: {context: 4}
model: {kind: policies.decision, width: 16, layers: 1, heads: 2, dropout: 0.0, max_time: 32}
train: {steps: 2, batch: 4, lr: 1e-2, save_every: 1, device: cpu, validate_windows: 4, log_every: 1}
evaluate: {at_end: false}
"""


def small(which, *overrides):
    base = "name: small\ndata: {sources: [{kind: minari, id: tests/cartpole-v0}], held_out: 0.1}\nmodel: {}\n"
    return recipes.parse(base, "small.yaml", [*QUICK, *SMALL[which].split("; "), *overrides])


def box(size, low=-np.inf):
    return Modality("vector", (size,), "float32", (low,) * size, (-low,) * size)


class Source:
    """Random episodes of named fields, at other places and scales where ``at`` differs."""

    def __init__(self, name, obs, act, at=0.0):
        self.spec = EpisodeSpec(name, {n: box(k) for n, k in obs.items()}, {n: box(k, -1.0) for n, k in act.items()})
        rng = np.random.default_rng(len(name))
        self.episodes = []
        for i, T in enumerate((9, 12, 7, 15)):
            end = np.arange(T) == T - 1
            o = {n: (at + (1 + at) * rng.standard_normal((T + 1, k))).astype(np.float32) for n, k in obs.items()}
            a = {n: rng.uniform(-1, 1, (T, k)).astype(np.float32) for n, k in act.items()}
            self.episodes.append(Episode(o, a, rng.random(T).astype(np.float32), end, np.zeros(T, bool), i))
        self.lengths = np.array([len(e) for e in self.episodes])

    def __len__(self):
        return len(self.episodes)

    def episode(self, i):
        return self.episodes[i]

    def fingerprint(self):
        return f"random-{self.spec.id}"


@pytest.fixture
def hops(home, monkeypatch):
    """``hops("init=...", ...)``: a recipe on data ``from``; ``data.sources.0.id=same|more|other`` are other spaces."""
    seen = {"position": 2, "velocity": 3}
    sources = {
        "from": Source("from", seen, {"move": 2}),
        "same": Source("same", seen, {"move": 2}, at=3.0),
        "more": Source("more", {"height": 1, **seen}, {"grip": 1, "move": 2}, at=3.0),
        "other": Source("other", {"position": 4}, {"move": 5}),
        "split": Source("split", {"position": 2, "velocity": 2}, {"move": 3}),
        "four": Source("four", seen, {"move": 4}),
    }
    monkeypatch.setattr(dataset, "_source", lambda raw, i: sources[raw["id"]])
    return lambda *overrides: recipes.parse(HOPS, "hops.yaml", overrides)


def weights(out):
    return load_file(bundle.find(out) / "model.safetensors")


def told(out):
    return json.loads((bundle.find(out) / "metrics.json").read_text())["lineage"]


def begun(recipe):
    """Tokenizer, model and lineage of a recipe that begins with a bundle, before any step."""
    recipe = prepare.settled(recipe)
    data = prepare.open_data(recipe)
    tokenizer, statistics = prepare.inherited(recipe, data)
    model = run.build_model(recipe, tokenizer, recipe.train.seed).eval()
    return SimpleNamespace(
        recipe=recipe,
        data=data,
        tokenizer=tokenizer,
        model=model,
        statistics=statistics,
        lineage=begin.fill(model, tokenizer, recipe),
    )


@pytest.mark.parametrize("which", SMALL)
def test_without_a_step_it_is_the_bundle(cartpole, tmp_path, which):
    out = run.start(small(which), tmp_path / "base").run
    # Better episodes only: fitted anew, statistics would be others.
    made = begun(small(which, f"init={out}", "train.seed=7", "data.top=0.5"))
    base = bundle.load(out)
    assert made.tokenizer.to_json().keys() == base.tokenizer.to_json().keys()
    ours, theirs = made.model.state_dict(), base.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)
    assert sorted(made.lineage["loaded"]) == sorted(theirs)
    assert made.lineage["resized"] == made.lineage["new"] == made.lineage["left"] == []
    # The same batch as the bundle's own tokenizer makes it, and the same losses of it, to the bit.
    batches = [
        prepare.loader_for(made.recipe, made.data, t, "cpu").draw(0, 0, 4, 0, 1) for t in (made.tokenizer, base.tokenizer)
    ]
    sums = []
    for model, batch in zip((made.model, base.model), batches, strict=True):
        torch.manual_seed(0)
        sums.append(model(batch).sums())
    assert all(torch.equal(sums[0][n][0], sums[1][n][0]) for n in sums[1])


def test_statistics_are_kept_or_fitted(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run
    state = {n: s.codec.state() for n, s in bundle.load(out).tokenizer.slots.items()}
    same = [f"init.from={out}", "data.sources.0.id=same"]
    kept, fitted = begun(hops(*same)), begun(hops(*same, "init.statistics=fit"))
    assert kept.statistics == {"return": "kept", "state": "kept", "action": "kept"}
    assert {n: s.codec.state() for n, s in kept.tokenizer.slots.items()} == state
    assert abs(fitted.tokenizer.slots["state"].codec.center - 3.0).max() < 2
    assert abs(kept.tokenizer.slots["state"].codec.center).max() < 1
    # What the evaluation asks for is what the new data got.
    assert kept.tokenizer.returns == fitted.tokenizer.returns
    other = begun(hops(*same, "tokens.slots={state: {kind: vector, clip: 5}}"))
    assert other.statistics["state"] == "other settings"
    assert begun(hops(*same, "data.discount=0.9")).statistics["return"] == "another discount"


def test_other_spaces_are_taken_field_by_field(hops, tmp_path, capsys):
    out = run.start(hops(), tmp_path / "base").run
    recipe = hops(f"init={out}", "data.sources.0.id=more")
    made, old = begun(recipe), weights(out)
    new = made.model.state_dict()
    # height, position, velocity <- position, velocity; grip, move <- move
    state, head = "embed.slots.state.weight", "heads.action.out.weight"
    assert torch.equal(new[state][:, 1:], old[state])
    assert new[state][:, 0].abs().max() > 0
    assert torch.equal(new[head][1:], old[head])
    assert torch.equal(new["heads.action.out.bias"][1:], old["heads.action.out.bias"])
    assert torch.equal(new["embed.slots.action.weight"][:, 1:], old["embed.slots.action.weight"])
    fates = made.lineage
    assert set(fates["resized"]) == {state, head, "heads.action.out.bias", "embed.slots.action.weight"}
    assert sorted(fates["loaded"] + fates["resized"] + fates["new"]) == sorted(new)
    assert fates["new"] == fates["left"] == []
    assert made.statistics["state"] == "kept in 5 of 6"
    codec, before = made.tokenizer.slots["state"].codec, bundle.load(out).tokenizer.slots["state"].codec
    assert np.array_equal(codec.center[1:], before.center)
    assert abs(codec.center[0] - 3.0) < 2
    run.start(recipe, tmp_path / "fine")
    said = capsys.readouterr().err
    assert f"init      {out.name}, step 2: tensors {len(fates['loaded'])} loaded, 4 resized, 0 new, 0 left" in said
    assert "resized embed.slots.state.weight [16, 6]" in said
    assert "state kept in 5 of 6" in said


def test_numbers_without_a_common_name_begin_anew(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run
    made, old = begun(hops(f"init={out}", "data.sources.0.id=other")), weights(out)
    # "position" is here of four numbers and there of two: not the same ones.
    fresh = {"embed.slots.state.weight", "embed.slots.action.weight", "heads.action.out.weight", "heads.action.out.bias"}
    assert set(made.lineage["new"]) == set(made.lineage["left"]) == fresh
    assert made.statistics["state"] == made.statistics["action"] == "other spaces"
    assert torch.equal(made.model.state_dict()["trunk.norm.weight"], old["trunk.norm.weight"])


def test_fields_in_another_order_are_followed(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run
    turned = "tokens.slots={state: {kind: vector, from: [velocity, position]}}"
    made, old = begun(hops(f"init={out}", turned)), weights(out)
    new = made.model.state_dict()["embed.slots.state.weight"]
    assert torch.equal(new, old["embed.slots.state.weight"][:, [2, 3, 4, 0, 1]])
    assert "embed.slots.state.weight" in made.lineage["loaded"]


def world(which, *overrides):
    """Overrides of ``hops`` for a small world of some kind."""
    return [*SMALL[which].split("; "), *overrides]


TURNED = "tokens.slots={state: {kind: vector, from: [velocity, position]}}"
SEES = "sensors.numbers.layers.0"
ROLES = {
    "ensemble": ({"layers.0", "out"}, {"layers.0", "out"}),
    "rssm": ({SEES}, {SEES, "core.cell.action.layers.0", "core.cell.action.norms.0"}),
}


@pytest.mark.parametrize("which", ROLES)
def test_slots_that_are_one_vector_are_the_same_or_begin_anew(hops, tmp_path, which):
    out = run.start(hops(*world(which)), tmp_path / "base").run
    turned, split = (
        {n.rpartition(".")[0] for n in begun(hops(*world(which, f"init={out}", other))).lineage["new"]}
        for other in (TURNED, "data.sources.0.id=split")
    )
    # As wide in all as before, and every column means something else.
    assert (turned, split) == ROLES[which]


def test_what_a_world_answers_begins_anew(hops, tmp_path):
    out = run.start(hops(*world("ensemble")), tmp_path / "base").run
    made = begun(hops(*world("ensemble", f"init={out}", "init.heads=new")))
    assert {n.partition(".")[0] for n in made.lineage["new"]} == {"out", "outcomes"}
    assert made.lineage["new"] == made.lineage["left"]
    # Another head is another answer, and not another model.
    other = begun(hops(*world("ensemble", f"init={out}", "model.reward=twohot")))
    assert "outcomes.reward.head.out.weight" in other.lineage["new"]
    with pytest.raises(RecipeError, match=r"init\.heads: Linear has no heads to begin anew"):
        begin.fill(torch.nn.Linear(3, 3), made.tokenizer, made.recipe)


def test_heads_may_begin_anew(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run
    made = begun(hops(f"init={out}", "init.heads=new"))
    assert made.lineage["new"] == made.lineage["left"] == ["heads.action.out.weight", "heads.action.out.bias"]
    more = begun(hops(f"init={out}", "tokens.layout=return state action > reward", "train.losses={action: 1, reward: 1}"))
    assert more.lineage["new"] == ["heads.reward.out.weight", "heads.reward.out.bias"]
    assert more.statistics["reward"] == "new slot"


PACKED = """
name: packed
data: {sources: [{kind: minari, id: from, domain: middle}], held_out: 0.2}
tokens: {pack: 48, layout: state separator action, slots: {state: {kind: bins, bins: 8}, action: {kind: bins, bins: 4}}}
model: {kind: policies.gato, width: 16, layers: 1, heads: 2, dropout: 0.0, vocabulary: own}
train: {steps: 1, batch: 4, device: cpu, validate_windows: 4}
evaluate: {at_end: false}
"""


@pytest.mark.parametrize("vocabulary", ["own", "shared"])
def test_codes_of_several_domains_are_followed_through_the_table(hops, tmp_path, vocabulary):
    asked = [f"model.vocabulary={vocabulary}"]
    out = run.start(recipes.parse(PACKED, "packed.yaml", asked), tmp_path / "base").run
    # A domain in front of the old one: every row of the table and every place moves.
    both = "data.sources=[{kind: minari, id: more, domain: first}, {kind: minari, id: from, domain: middle}]"
    made, old = begun(recipes.parse(PACKED, "packed.yaml", [*asked, f"init={out}", both])), bundle.load(out)
    for slot, column in (("state", 4), ("action", 1)):
        codes = torch.arange(4 if slot == "action" else 8)[:, None].expand(-1, column + 1)
        ours, theirs = (m.embed.tokens("middle", [slot], {slot: codes}) for m in (made.model, old.model))
        assert torch.equal(ours, theirs)
    fates = made.lineage
    assert {"embed.places.weight"} <= set(fates["resized"])
    shared = "loaded" if vocabulary == "shared" else "resized"
    assert {"embed.table.weight", "heads.codes.weight", "heads.codes.bias"} <= set(fates[shared])
    assert fates["left"] == []
    assert made.statistics["middle-state"] == "kept"
    assert made.statistics["first-state"] == "new domain"


def test_an_only_domain_may_be_called_otherwise(hops, tmp_path):
    numbers = ["tokens.slots={}", "tokens.layout=state > action"]
    out = run.start(recipes.parse(PACKED, "packed.yaml", numbers), tmp_path / "base").run
    made = begun(recipes.parse(PACKED, "packed.yaml", [*numbers, f"init={out}", "data.sources.0.domain=renamed"]))
    assert made.lineage["new"] == made.lineage["left"] == made.lineage["resized"] == []
    assert "heads.numbers.renamed-action.out.weight" in made.lineage["loaded"]
    assert made.statistics == {"renamed-state": "kept", "renamed-action": "kept"}


def test_settings_not_given_are_the_bundles(hops, tmp_path):
    out = run.start(hops("tokens={context: 6, layout: state action}", "model.heads=4"), tmp_path / "base").run
    settled = prepare.settled(hops(f"init={out}", "model={kind: policies.decision, dropout: 0.3}", "tokens={}"))
    assert settled.model == {"kind": "policies.decision", "dropout": 0.3, "width": 16, "layers": 1, "heads": 4, "max_time": 32}
    assert (settled.tokens.context, settled.tokens.layout) == (6, "state action")
    assert prepare.settled(settled) == settled
    assert recipes.parse(settled.dump(), "again.yaml") == settled


def test_another_model_is_refused_by_the_settings_that_differ(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run

    def said(*overrides):
        with pytest.raises(RecipeError) as e:
            prepare.settled(hops(f"init={out}", *overrides))
        return str(e.value)

    wide = said("model.width=32", "model.dropout=0.5")
    assert "model.width=16 (here 32); leave them out to take the bundle's" in wide
    assert "dropout" not in wide
    assert "model.heads=2 (here 4)" in said("model.heads=4")
    assert "model.layers=1 (here 3)" in said("model.layers=3")
    assert "is policies.decision, and this recipe trains policies.clone" in said("model={kind: policies.clone}")
    with pytest.raises(BundleError, match="there is no such folder"):
        prepare.settled(hops("init=nowhere"))
    with pytest.raises(RecipeError, match=r"init\.statistics: .*'keep' or 'fit'"):
        hops("init.from=x", "init.statistics=both")
    with pytest.raises(RecipeError, match=r"init\.head: unknown key; did you mean 'heads'"):
        hops("init.from=x", "init.head=new")


def test_a_head_of_another_kind_begins_anew(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run
    made = begun(hops(f"init={out}", "model.head=gaussian"))
    assert made.lineage["new"] == ["heads.action.out.weight", "heads.action.out.bias"]
    # Means and deviations of two numbers are as many rows as four numbers.
    out = run.start(hops("model.head=gaussian"), tmp_path / "normal").run
    made = begun(hops(f"init={out}", "model.head=tanh_mse", "data.sources.0.id=four"))
    assert set(made.lineage["new"]) >= {"heads.action.out.weight", "heads.action.out.bias"}


def test_settings_that_mean_otherwise_at_the_same_shapes_are_refused(hops, tmp_path):
    tssm = "model={kind: worlds.tssm, width: 16, layers: 1, heads: 2, groups: 4, classes: 4, hidden: 16, head_layers: 1}"
    recipe = ["tokens={context: 4, layout: state action > reward}", tssm, "train.losses={state: 1, reward: 1, kl: 1}"]
    out = run.start(hops(*recipe), tmp_path / "base").run
    for setting, was in (("squash=true", "squash=False"), ("decoder=latent", "decoder='feat'")):
        with pytest.raises(RecipeError, match=f"has model.{was} "):
            prepare.settled(hops(*recipe, f"init={out}", f"model.{setting}"))
    assert {"cosine", "preset"} <= set(begin._MEANING)


def test_a_folder_called_snapshots_is_no_repository(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run
    mine = shutil.copytree(bundle.find(out), tmp_path / "snapshots" / "mine")
    made = begun(hops(f"init={mine}"))
    assert (made.recipe.init.name, made.recipe.init.revision) == (str(mine), None)
    # Nobody else need know where it lay.
    assert made.lineage["base_model"] == "mine"
    assert [begin._public(n) for n in ("~/a/b", "runs/x", "hf://org/x")] == ["b", "runs/x", "org/x"]


def test_an_encoder_need_not_be_there_any_more(hops, home, tmp_path, monkeypatch):
    image, folder = Modality("image", (12, 12), "uint8"), tmp_path / "encoder"
    folder.mkdir()
    vq.tiny(folder, image)
    source = Source("frames", {"image": 144}, {"move": 2})
    source.spec = EpisodeSpec("frames", {"image": image}, source.spec.act)
    for e in source.episodes:
        e.obs["image"] = (e.obs["image"] > 0).astype(np.uint8).reshape(-1, 12, 12)
    monkeypatch.setattr(dataset, "_source", lambda raw, i: source)
    tokens = f"tokens={{context: 4, layout: image action, slots: {{image: {{kind: vq, encoder: {folder}}}}}}}"
    out = run.start(hops(tokens), tmp_path / "base").run
    shutil.rmtree(folder)
    for statistics in ("keep", "fit"):
        made = begun(hops("tokens={}", f"init={out}", f"init.statistics={statistics}"))
        assert made.tokenizer.slots["image"].codec.state() == bundle.load(out).tokenizer.slots["image"].codec.state()
        assert made.lineage["new"] == []
    with pytest.raises(RecipeError, match="there is no such folder"):
        begun(hops(tokens))


BARE = """
name: bare
data: {sources: [{kind: minari, id: from, domain: middle}], held_out: 0.2}
model: {kind: policies.gato}
train: {steps: 1, batch: 4, device: cpu, losses: {state: 1, action: 1}, validate_windows: 4}
evaluate: {at_end: false, domains: {middle: {play: false}}}
"""


def test_what_hangs_on_tokens_is_checked_when_they_are_known(hops, tmp_path, capsys, monkeypatch):
    out = run.start(recipes.parse(PACKED, "packed.yaml"), tmp_path / "base").run
    made = prepare.settled(recipes.parse(BARE, "bare.yaml", [f"init={out}"]))
    assert (made.tokens.pack, made.tokens.layout, made.model["width"]) == (48, "state separator action", 16)
    with pytest.raises(RecipeError, match="no layout has a slot 'reward'"):
        prepare.settled(recipes.parse(BARE, "bare.yaml", [f"init={out}", "train.losses={reward: 1}"]))
    with pytest.raises(RecipeError, match="give tokens.pack"):
        recipes.parse(BARE, "bare.yaml")
    (tmp_path / "bare.yaml").write_text(BARE)
    capsys.readouterr()

    def check(name):
        with pytest.raises(SystemExit) as left:
            app.main(["check", str(tmp_path / "bare.yaml"), f"init={name}"])
        said = capsys.readouterr()
        return left.value.code or 0, said.out + said.err

    code, said = check(out)
    assert code == 0, said
    assert "packed rows of 48 tokens" in said
    assert "model.width=16" in said
    code, said = check(tmp_path / "nowhere")
    assert (code, "nowhere: there is no such folder" in said) == (2, True)

    def unreachable(repo):
        raise HubError(f"{repo}: no network")

    monkeypatch.setattr(bundle, "_fetch", unreachable)
    code, said = check("hf://some/body")
    assert (code, "hf://some/body: cannot be had now" in said) == (0, True), said
    # What is looked at is what would be trained.
    (tmp_path / "fine.yaml").write_text(BARE + f"init: {out}\n")
    assert view.look(tmp_path / "fine.yaml").tokenizer.config.pack == 48


def test_nothing_that_fits_is_an_error_that_names_both(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run
    made = begun(hops(f"init={out}"))
    with pytest.raises(RecipeError, match=r"nothing of .*base \(DecisionTransformer of 25 tensors\) fits .* Linear of 2"):
        begin.fill(torch.nn.Linear(3, 3), made.tokenizer, made.recipe)


def test_code_of_another_package_is_refused(hops, tmp_path):
    out = run.start(hops(), tmp_path / "base").run
    path = bundle.find(out) / "recipe.yaml"
    path.write_text(path.read_text().replace("slots: {}", "slots: {state: {kind: theirs.codec}}"))
    with pytest.raises(BundleError, match=r"asks for code of other packages \(theirs\.codec\)"):
        prepare.settled(hops(f"init={out}"))


def test_lineage_stays_and_the_bundle_is_not_read_again(hops, tmp_path, monkeypatch):
    out = run.start(hops(), tmp_path / "base").run
    recipe = hops(f"init={out}", "data.sources.0.id=more", "train.steps=4", "train.keep=9")
    straight = run.start(recipe, tmp_path / "straight").run
    before = run.Trainer.step

    def step(self, number):
        before(self, number)
        if number + 1 == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as m:
        m.setattr(run.Trainer, "step", step)
        with pytest.raises(Interrupted):
            run.start(recipe, tmp_path / "broken")
    shutil.rmtree(out)
    run.resume(tmp_path / "broken")
    states = [load_file(checkpoint.last(r) / "trainer" / "state.safetensors") for r in (straight, tmp_path / "broken")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    found = [told(c) for c in sorted((tmp_path / "broken" / "checkpoints").glob("step-*"))]
    assert found == [told(straight)] * 4
    assert [found[0][k] for k in ("base_model", "kind", "step", "revision")] == [out.name, "full", 2, None]
    assert metrics.read(straight / "metrics.jsonl")[-1]["step"] == 4


def test_what_lives_in_a_world_takes_that_from_its_own_run(cartpole, tmp_path):
    world = run.start(small("rssm"), tmp_path / "world").run
    dreams = "model={kind: policies.actor_critic, width: 8, layers: 1}; train.losses={actor: 1, critic: 1}; tokens={}"
    lives = [*dreams.split("; "), f"world={world}", "imagination={horizon: 2}"]
    out = run.start(small("decision", *lives), tmp_path / "actor").run
    # The same layout and another world: what is learned of it is not the old one's.
    other = run.start(small("rssm", "train.seed=5"), tmp_path / "other").run
    made = begun(small("decision", *lives, f"world={other}", f"init={out}", "model={kind: policies.actor_critic}"))
    ours, theirs, its = made.model.state_dict(), weights(out), weights(other)
    assert made.lineage["new"] == []
    assert all(torch.equal(ours[n], its[n.removeprefix("world.")] if n.startswith("world.") else t) for n, t in theirs.items())
    assert {n for n in theirs if n.startswith("world.")} == set(made.lineage["left"])
    anew = begun(small("decision", *lives, f"init={out}", "init.heads=new")).lineage["new"]
    assert {n.rpartition(".out.")[0] for n in anew} == {"head", "critic.head", "slow.head"}
    # A critic that stays as it is leaves an actor to train, and the other way round.
    frozen = run.start(small("decision", *lives, f"init={out}", "train.freeze=['critic.*']"), tmp_path / "frozen").run
    moved = {n.partition(".")[0] for n, t in weights(frozen).items() if not torch.equal(t, theirs[n])}
    assert {"body", "head"} <= moved
    assert "critic" not in moved
    run.start(small("decision", *lives, f"init={out}", "train.freeze=['body.*', 'head.*']"), tmp_path / "still")


def test_stages_begin_with_it_too(hops, tmp_path):
    out = run.start(recipes.parse(PACKED, "packed.yaml"), tmp_path / "base").run
    grows = "stages=[{length: 24, steps: 1}, {steps: 1}]"
    recipe = recipes.parse(PACKED, "packed.yaml", [f"init={out}", "train.steps=2", "data.sources.0.id=same", grows])
    fine = bundle.load(run.start(recipe, tmp_path / "fine").run)
    theirs = bundle.load(out).tokenizer.domains["middle"].slots["state"].codec.state()
    assert fine.tokenizer.domains["middle"].slots["state"].codec.state() == theirs
    assert fine.tokenizer.length == fine.model.config.length == 48
    assert fine.metrics["lineage"]["new"] == []


DOCUMENTS = """
name: texts
data: {sources: [{kind: jsonl, path: texts.jsonl}], held_out: 0}
tokens: {pack: 32, documents: {fields: text, text: {tokenizer: missions}}}
model: {kind: worlds.lwm}
train: {steps: 1, batch: 2, lr: 1e-2, device: cpu, losses: {text: 1}, validate_windows: 2}
"""


def test_a_model_of_documents_goes_on_in_longer_rows(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [{"text": f"go to the {color} ball"} for color in ("red", "green", "blue", "grey")]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    body = "{model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
    out = run.start(recipes.parse(DOCUMENTS, "t.yaml", [f"model.body={body}"]), tmp_path / "base").run
    grows = "stages=[{length: 32, steps: 1}, {length: 64, steps: 1}]"
    fine = run.start(recipes.parse(DOCUMENTS, "t.yaml", [f"init={out}", "train.steps=2", grows]), tmp_path / "fine").run
    lineage = told(fine)
    assert lineage["new"] == lineage["left"] == lineage["resized"] == []
    assert bundle.load(fine).tokenizer.length == 64


def test_a_first_stage_may_be_longer_than_the_body(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "go to the red ball"}\n' * 4)
    sizes = "hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, max_position_embeddings: 32"
    recipe = [f"model.body={{model_type: llama, {sizes}}}", "stages=[{length: 64, rope_base: 1e5, steps: 1}]"]
    made = bundle.load(run.start(recipes.parse(DOCUMENTS, "t.yaml", recipe), tmp_path / "long").run)
    assert made.model.config.length == 64
    assert made.model.config.body["max_position_embeddings"] == 64
