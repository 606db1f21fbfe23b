"""What unmodified clients find on the Hub that HF_ENDPOINT names, as one JSON object on stdout; no test, run by one.

In one process of its own, because the clients read their environment when they are imported and importing them takes seconds.
The argument is a folder to work in.
"""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import huggingface_hub as hf
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

CARD = """---
library_name: seqrl
license: mit
tags: [trajectories]
model-index:
- name: walker
  results:
  - task: {type: reinforcement-learning}
    dataset: {type: minari, name: hopper}
    metrics: [{type: score, value: 91.5}]
---
# Walker
"""


def status(call, *args, **options):
    """The HTTP status a call is refused with."""
    try:
        call(*args, **options)
    except HfHubHTTPError as e:
        return [type(e).__name__, e.response.status_code]
    return None


def files(api, folder):
    """Create, upload a folder, read it back in every way."""
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "big.safetensors").write_bytes(bytes(range(256)) * 9000)
    (folder / "empty.txt").touch()
    (folder / "sub").mkdir()
    (folder / "sub" / "naïve name.json").write_text("{}")
    url = api.create_repo("org/walker")
    again = api.create_repo("org/walker", exist_ok=True)
    api.upload_folder(folder_path=folder, repo_id="org/walker", commit_message="first")
    info = api.model_info("org/walker", files_metadata=True)
    got = Path(api.snapshot_download("org/walker"))
    big = next(s for s in info.siblings if s.rfilename == "big.safetensors")
    fs, some = hf.HfFileSystem(), ("big.safetensors", "sub/naïve name.json")
    with fs.open("org/walker/big.safetensors", "rb") as file:
        file.seek(257)
        ranged = list(file.read(3))
    return {
        "url": str(url),
        "same": str(again) == str(url),
        "twice": status(api.create_repo, "org/walker"),
        "siblings": [s.rfilename for s in info.siblings],
        "tags": info.tags,
        "metric": info.card_data.eval_results[0].metric_value,
        "lfs": [big.size, big.lfs.sha256, big.lfs.pointer_size],
        "same_bytes": all((got / p).read_bytes() == (folder / p).read_bytes() for p in some),
        "etag": hf.get_hf_file_metadata(hf.hf_hub_url("org/walker", "big.safetensors")).etag,
        "tree": [(e.path, type(e).__name__) for e in api.list_repo_tree("org/walker", recursive=True)],
        "below": [e.path for e in api.list_repo_tree("org/walker", "sub")],
        "known": [e.path for e in api.get_paths_info("org/walker", ["sub", "README.md", "nowhere"], expand=True)],
        "ranged": ranged,
        "missing": [
            status(api.hf_hub_download, "org/walker", "nowhere.bin"),
            status(api.hf_hub_download, "org/walker", "README.md", revision="nowhere"),
            status(api.model_info, "org/nobody"),
        ],
        "exists": [api.file_exists("org/walker", "README.md"), api.file_exists("org/walker", "x"), api.repo_exists("org/y")],
    }


def commits(api):
    """One commit with additions, a copy and deletions; a stale parent; nothing to commit; history, tags, branches."""
    head = api.model_info("org/walker").sha
    operations = [
        hf.CommitOperationAdd("config.json", b"{}"),
        hf.CommitOperationCopy("big.safetensors", "copy.safetensors"),
        hf.CommitOperationDelete("sub/", is_folder=True),
        hf.CommitOperationDelete("empty.txt"),
    ]
    made = api.create_commit("org/walker", operations, commit_message="second", commit_description="why", parent_commit=head)
    stale = [hf.CommitOperationAdd("late.txt", b"x")]
    late = status(api.create_commit, "org/walker", stale, commit_message="late", parent_commit=head)
    idle = api.create_commit("org/walker", [hf.CommitOperationAdd("config.json", b"{}")], commit_message="same again")
    api.create_tag("org/walker", tag="step-2000", revision=head)
    twice = status(api.create_tag, "org/walker", tag="step-2000")
    api.create_branch("org/walker", branch="next")
    api.upload_file(path_or_fileobj=b"n", path_in_repo="next.txt", repo_id="org/walker", revision="next")
    refs = api.list_repo_refs("org/walker")
    on_tag = api.list_repo_files("org/walker", revision="step-2000")
    api.delete_tag("org/walker", tag="step-2000")
    api.delete_branch("org/walker", branch="next")
    history = api.list_repo_commits("org/walker")
    hf.metadata_update("org/walker", {"license": "apache-2.0"}, overwrite=True)
    return {
        "files": api.list_repo_files("org/walker", revision=made.oid),
        "late": late,
        "idle": idle.oid == made.oid,
        "twice": twice,
        "refs": [[r.name for r in part] for part in (refs.branches, refs.tags)],
        "tagged": refs.tags[0].target_commit == head,
        "on_tag": "sub/naïve name.json" in on_tag,
        "gone": status(api.model_info, "org/walker", revision="step-2000"),
        "titles": [c.title for c in history],
        "authors": history[0].authors,
        "license": hf.ModelCard.load("org/walker").data.license,
    }


def pulls(api):
    """A pull request with changes: seen, read by its name, merged; and one that clashes with the main branch."""
    add = [hf.CommitOperationAdd("pr.txt", b"from a pull request")]
    made = api.create_commit("org/walker", add, commit_message="an idea", create_pr=True)
    again = [hf.CommitOperationAdd("pr2.txt", b"more")]
    api.create_commit("org/walker", again, commit_message="more", revision=made.pr_revision)
    before = api.file_exists("org/walker", "pr.txt")
    api.comment_discussion("org/walker", made.pr_num, "good")
    read = Path(api.hf_hub_download("org/walker", "pr.txt", revision=made.pr_revision)).read_text()
    details = api.get_discussion_details("org/walker", made.pr_num)
    api.merge_pull_request("org/walker", made.pr_num, comment="in it goes")
    clash = [hf.CommitOperationAdd("config.json", b"1")]
    other = api.create_commit("org/walker", clash, commit_message="clash", create_pr=True)
    api.upload_file(path_or_fileobj=b"2", path_in_repo="config.json", repo_id="org/walker")
    empty = api.create_pull_request("org/walker", title="nothing yet")
    api.change_discussion_status("org/walker", empty.num, "closed")
    return {
        "revision": made.pr_revision,
        "before": before,
        "read": read,
        "events": [e.type for e in details.events],
        "after": [api.file_exists("org/walker", p) for p in ("pr.txt", "pr2.txt")],
        "status": api.get_discussion_details("org/walker", made.pr_num).status,
        "conflicts": api.get_discussion_details("org/walker", other.pr_num).conflicting_files,
        "clash": status(api.merge_pull_request, "org/walker", other.pr_num),
        "all": [[d.num, d.status, d.is_pull_request] for d in api.get_repo_discussions("org/walker")],
        "refs": [r.ref for r in api.list_repo_refs("org/walker", include_pull_requests=True).pull_requests],
    }


def rights(api):
    """Private repositories, wrong and missing tokens, other people's names; moving, deleting, lists and collections."""
    api.create_repo("secret", private=True)
    api.upload_file(path_or_fileobj=b"\0" * 64, path_in_repo="w.bin", repo_id="me/secret")
    other, nobody, wrong = (hf.HfApi(token=t) for t in ("hf_other", False, "hf_wrong"))
    kept = Path(api.hf_hub_download("me/secret", "w.bin")).stat().st_size
    listed = [[m.id for m in a.list_models(author="me")] for a in (api, other)]
    api.update_repo_settings("me/secret", private=False)
    add = [hf.CommitOperationAdd("x", b"x")]
    seen = {
        "names": [api.whoami()["name"], other.whoami()["name"], [o["name"] for o in api.whoami()["orgs"]]],
        "kept": kept,
        "listed": listed,
        "foreign": status(other.create_commit, "me/secret", add, commit_message="x"),
        "foreign_name": status(other.create_repo, "me/mine"),
        "anonymous": status(nobody.create_commit, "me/secret", add, commit_message="x"),
        "wrong": status(wrong.model_info, "me/secret"),
        "public_now": nobody.model_info("me/secret").private,
    }
    api.update_repo_settings("me/secret", private=True)
    seen["hidden"] = [status(a.model_info, "me/secret") for a in (other, nobody)]
    api.move_repo("me/secret", "org/moved")
    made = api.create_collection("My finest", namespace="org", description="of all")
    api.add_collection_item(made.slug, "org/walker", "model", note="quick")
    api.add_collection_item(made.slug, "org/moved", "model")
    found = api.get_collection(made.slug)
    seen["collection"] = [found.title, [[i.item_id, i.note] for i in found.items]]
    seen["twice"] = status(api.add_collection_item, made.slug, "org/walker", "model")
    api.delete_collection_item(made.slug, found.items[0].item_object_id)
    seen["collections"] = [[c.slug == made.slug, len(c.items)] for c in api.list_collections(owner="org")]
    api.delete_collection(made.slug)
    seen["moved"] = api.list_repo_files("org/moved")
    api.delete_repo("org/moved")
    seen["deleted"] = status(api.model_info, "org/moved")
    seen["search"] = [m.id for m in api.list_models(search="WALK", filter="trajectories")]
    return seen


def models(folder):
    """transformers: a model of its own, and one whose code comes with it."""
    import torch
    from transformers import AutoModel, GPT2Config, GPT2Model

    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=11, n_positions=8)).eval()
    model.push_to_hub("org/gpt")
    back = AutoModel.from_pretrained("org/gpt").eval()
    ids = torch.arange(5)[None]
    out, again = (m(ids).last_hidden_state for m in (model, back))
    folder.mkdir()
    (folder / "own_model.py").write_text(
        "import torch\nfrom transformers import PreTrainedConfig, PreTrainedModel\n"
        "from .own_parts import double\n\n\n"
        "class OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n    width: int = 3\n\n\n"
        "class Own(PreTrainedModel):\n    config_class = OwnConfig\n\n"
        "    def __init__(self, config):\n        super().__init__(config)\n"
        "        self.line = torch.nn.Linear(config.width, config.width)\n        self.post_init()\n\n"
        "    def forward(self, x):\n        return double(self.line(x))\n"
    )
    (folder / "own_parts.py").write_text("def double(x):\n    return 2 * x\n")
    auto = {"AutoConfig": "own_model.OwnConfig", "AutoModel": "own_model.Own"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "width": 3, "auto_map": auto}))
    from safetensors.torch import save_file

    save_file({"line.weight": torch.eye(3), "line.bias": torch.ones(3)}, folder / "model.safetensors", {"format": "pt"})
    hf.HfApi().create_repo("org/own")
    hf.HfApi().upload_folder(folder_path=folder, repo_id="org/own")
    own = AutoModel.from_pretrained("org/own", trust_remote_code=True)
    return {
        "equal": torch.equal(out, again),
        "own": own(torch.ones(1, 3)).tolist(),
        "module": type(own).__module__.split(".")[0],
    }


def tables():
    """datasets: push, load, stream."""
    import datasets

    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict({"x": list(range(1000)), "y": [[float(i)] * 3 for i in range(1000)]})
    made.push_to_hub("org/table", "steps", split="train")
    made.select(range(7)).push_to_hub("org/table", "episodes", split="train", private=True)
    back = datasets.load_dataset("org/table", "steps", split="train")
    short = datasets.load_dataset("org/table", "episodes", split="train")
    streamed = datasets.load_dataset("org/table", "steps", split="train", streaming=True)
    names = datasets.get_dataset_config_names("org/table")
    return {
        "rows": [len(back), len(short)],
        "equal": back["y"][:] == made["y"][:],
        "streamed": [r["x"] for r in streamed.skip(990)],
        "names": sorted(names),
    }


def trajectories():
    """minari: upload, list and download in both of its formats."""
    import gymnasium as gym
    import minari
    import numpy as np
    from minari.data_collector import EpisodeBuffer

    def episode(i):
        T, rng = 3 + i, np.random.default_rng(i)
        end = np.arange(T) == T - 1
        obs, act = rng.random((T + 1, 2), np.float32), rng.integers(0, 2, T)
        return EpisodeBuffer(i, i, None, obs, act, rng.random(T).tolist(), end.tolist(), [False] * T, None)

    spaces = {"observation_space": gym.spaces.Box(0, 1, (2,), np.float32), "action_space": gym.spaces.Discrete(2)}
    about = {"algorithm_name": "random", "author": "me", "author_email": "m@e", "code_permalink": "here"}
    minari.namespace.create_namespace("tests")
    minari.namespace.upload_namespace("tests", token=hf.get_token())
    found = {}
    for form in ("hdf5", "arrow"):
        id = f"tests/{form}-v0"
        made = minari.create_dataset_from_buffers(id, [episode(i) for i in range(3)], data_format=form, **spaces, **about)
        before = [e.observations.tolist() for e in made.iterate_episodes()]
        minari.upload_dataset(id, token=hf.get_token())
        minari.delete_dataset(id)
        minari.download_dataset(f"hf://org/{id}")
        after = minari.load_dataset(id)
        found[form] = len(before) == 3 and [e.observations.tolist() for e in after.iterate_episodes()] == before
    found["listed"] = sorted(minari.list_remote_datasets(remote_path="hf://org"))
    return found


def main():
    folder, api = Path(sys.argv[1]), hf.HfApi()
    assert {RepositoryNotFoundError, RevisionNotFoundError}
    with redirect_stdout(io.StringIO()):
        told = {"files": files(api, folder / "walker"), "commits": commits(api), "pulls": pulls(api), "rights": rights(api)}
        told |= {"models": models(folder / "own"), "tables": tables(), "trajectories": trajectories()}
    print(json.dumps(told))


main()
