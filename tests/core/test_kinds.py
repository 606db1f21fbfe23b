import subprocess
import sys

import pytest

from seqrl.core import kinds
from seqrl.core.errors import RecipeError


def test_the_file_name_is_the_kind():
    assert kinds.load("vector", "tokens") is kinds.load("tokens.vector")
    assert "vector" in kinds.names("tokens")


def test_another_packages_dotted_path_works():
    import json.decoder

    assert kinds.load("json.decoder") is json.decoder


@pytest.mark.parametrize(
    ("kind", "room", "said"),
    [
        ("vectr", "tokens", "did you mean 'vector'"),
        ("policies.decison", None, "did you mean 'policies.decision'"),
        ("no.such.thing", None, "unknown kind"),
    ],
)
def test_a_typo_is_answered(kind, room, said):
    with pytest.raises(RecipeError, match=said):
        kinds.load(kind, room)


def test_settings_are_read_without_importing():
    code = "import sys; from seqrl.core.kinds import settings; assert settings('policies.decision'); "
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
