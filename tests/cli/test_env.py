"""``seqrl env``: says what a report needs, and nothing that is private."""

import getpass
import re
from pathlib import Path

from seqrl.cli import env


def test_says_versions_devices_and_backends(seqrl):
    code, out, _ = seqrl("env")
    assert code == 0
    for line in (r"torch +\d", r"python +3\.", r"threads +\d", r"backends +\S", r"cores +\d+ usable", r"MUJOCO_GL +\S"):
        assert re.search(rf"^ +{line}", out, re.MULTILINE), line


def test_nothing_private(seqrl, monkeypatch):
    monkeypatch.setenv("SEQRL_CACHE", str(Path.home() / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", f"/data/{getpass.getuser()}/minari")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@hub.example")
    _, out, _ = seqrl("env")
    assert re.search(r"SEQRL_CACHE +~/cache$", out, re.MULTILINE)
    assert re.search(r"MINARI_DATASETS_PATH +/data/<user>/minari$", out, re.MULTILINE)
    assert re.search(r"HF_ENDPOINT +https://hub.example$", out, re.MULTILINE)
    assert str(Path.home()) not in out


def test_a_longer_name_is_no_user(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "al")
    assert env.discreet("/data/alice/x") == "/data/alice/x"
    assert env.discreet("/data/al/x") == "/data/<user>/x"
