"""Reading checkpoints: everything nnU-Net stores, and nothing that could run code."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from nnunetv2_salstm.host.checkpoints import UNREADABLE, read_checkpoint

GOLDEN = sorted(Path(__file__).with_name("data").glob("nnUNetTrainer*.pth"))


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_reads_nnunets_checkpoints(file):
    found, expected = read_checkpoint(file), torch.load(file, weights_only=False)
    assert list(found) == list(expected)
    assert found["init_args"]["plans"] == expected["init_args"]["plans"]
    assert found["logging"] == expected["logging"]
    for key, value in expected["network_weights"].items():
        assert torch.equal(found["network_weights"][key], value)


def test_executes_nothing(tmp_path):
    checkpoint = {**torch.load(GOLDEN[0], weights_only=False), "extra": Malicious(tmp_path / "made by a checkpoint")}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    with pytest.raises(pickle.UnpicklingError):
        read_checkpoint(tmp_path / "checkpoint.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]
    torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert (tmp_path / "made by a checkpoint").is_dir()  # what nnU-Net's own loading would do


@pytest.mark.parametrize("content", [b"", b"text", GOLDEN[0].read_bytes()[:20_000]], ids=["empty", "text", "cut"])
def test_what_is_no_whole_checkpoint_is_an_error(content, tmp_path):
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(content)
    with pytest.raises(UNREADABLE):
        read_checkpoint(file)


def test_other_files_of_torch_are_an_error(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(KeyError, match="network_weights"):
        read_checkpoint(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")
