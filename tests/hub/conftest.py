"""A practice Hub for every test that wants one, and clients that can reach nothing else."""

import sys

import pytest

from seqrl.hub.practice import PracticeHub


@pytest.fixture
def practice(tmp_path, monkeypatch):
    """A running ``PracticeHub``; ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HOME`` lead to it, and Xet is off."""
    with PracticeHub(tmp_path / "hub") as hub:
        _lead_to(hub, tmp_path / "hf", monkeypatch)
        yield hub


def _lead_to(hub, home, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    chosen = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    for name, value in (chosen | {"HF_HUB_CACHE": str(home / "hub"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # The client reads most of its environment once, when it is imported, and this process may have imported it long ago.
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    if "datasets" in sys.modules:
        monkeypatch.setattr(sys.modules["datasets"].config, "HF_ENDPOINT", hub.url)
    # Connections to the Hub of the test before are of no use.
    huggingface_hub.close_session()
