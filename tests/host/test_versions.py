"""What is written down of the nnU-Net that a training ran with."""

import json
from importlib import metadata
from pathlib import Path

import nnunetv2
import pytest

from nnunetv2_salstm.host import versions
from nnunetv2_salstm.host.errors import SalstmError


class Installed:
    """A distribution of nnU-Net."""

    version = "2.8.1"

    def __init__(self, place, origin):
        self.place, self.origin = place, origin

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.origin

    def locate_file(self, name):
        return self.place / name


HERE = Path(nnunetv2.__file__).parents[1]


@pytest.mark.parametrize(
    ("place", "origin", "says"),
    [
        (HERE, None, "2.8.1 (release)"),
        (HERE, {"url": "file:///nnunetv2.whl", "archive_info": {}}, "2.8.1 (release)"),
        (HERE, {"url": "https://host/nnUNet.git", "vcs_info": {"vcs": "git"}}, "2.8.1 (checkout)"),
        (HERE, {"url": "file:///nnUNet", "dir_info": {"editable": True}}, "2.8.1 (checkout)"),
        (HERE / "elsewhere", None, "2.8.1 (checkout)"),
    ],
    ids=["release", "wheel", "git", "editable", "a folder in the way"],
)
def test_a_release_is_told_from_a_checkout(monkeypatch, place, origin, says):
    installed = Installed(place, origin and json.dumps(origin))
    monkeypatch.setattr(versions, "distribution", lambda name: installed)
    assert versions.describe_nnunet() == says


def test_the_installed_version_is_named():
    assert versions.describe_nnunet().startswith(f"{metadata.version('nnunetv2')} (")


@pytest.mark.parametrize(("version", "is_new"), [("2.8", True), ("2.8rc1", True), ("2.10.0", True), ("2.7.9", False)])
def test_which_nnunet_finds_trainers(version, is_new, monkeypatch):
    monkeypatch.setattr(versions, "version", lambda package: version)
    if is_new:
        versions.require_nnunet_with_trainers_by_name()
    else:
        with pytest.raises(SalstmError, match=r"2\.8 or newer.*got 2\.7\.9"):
            versions.require_nnunet_with_trainers_by_name()
