"""Reading checkpoints: everything nnU-Net stores, and nothing that could run code."""

import zipfile

import numpy as np
import pytest
import torch
from golden import CHECKPOINTS, Malicious

from nnunetv2_salstm.host.checkpoints import CheckpointError, DamagedCheckpoint, RefusedCheckpoint, read_checkpoint


@pytest.mark.parametrize("file", CHECKPOINTS, ids=lambda file: file.stem)
def test_reads_nnunets_checkpoints(file):
    found, expected = read_checkpoint(file), torch.load(file, weights_only=False)
    assert list(found) == list(expected)
    assert found["init_args"]["plans"] == expected["init_args"]["plans"]
    assert found["logging"] == expected["logging"]
    for key, value in expected["network_weights"].items():
        assert torch.equal(found["network_weights"][key], value)


def renamed(source, target, old, new):
    """Copies a checkpoint with other names in its pickle."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as written:
        count = 0
        for entry in read.infolist():
            content = read.read(entry)
            if entry.filename.endswith("/data.pkl"):
                count = content.count(old)
                content = content.replace(old, new)
            written.writestr(entry.filename, content)
    assert count, "nothing renamed"
    return target


@pytest.fixture
def checkpoint():
    """What a training stores, with numpy's numbers in it, as nnU-Net's logging and plans have them."""
    return {
        "network_weights": {"a": torch.arange(6.0).reshape(2, 3)},
        "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.25)], "steps": np.int64(3)},
        "_best_ema": np.float64(0.125),
        "init_args": {"plans": {"spacing": np.array([3.0, 1.5]), "transpose": np.array([0, 1])}},
        "finished": np.bool_(True),
    }


def same(found, expected):
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    return type(found) is type(expected) and np.array_equal(found, expected)


@pytest.mark.parametrize("wrote", ["numpy.core", "numpy._core"], ids=["numpy 1", "numpy 2"])
def test_reads_what_any_numpy_wrote(wrote, checkpoint, tmp_path):
    """The functions that make numbers and arrays of numpy are named by the numpy that wrote them."""
    torch.save(checkpoint, tmp_path / "here.pth")
    ours = np.float64(0).__reduce__()[0].__module__.removesuffix(".multiarray")
    file = renamed(
        tmp_path / "here.pth", tmp_path / "there.pth", f"{ours}.multiarray".encode(), f"{wrote}.multiarray".encode()
    )
    assert same(read_checkpoint(file), checkpoint)


def test_reads_where_files_cannot_be_mapped(checkpoint, tmp_path, monkeypatch):
    torch.save(checkpoint, tmp_path / "checkpoint.pth")

    def cannot(name, *arguments):
        raise RuntimeError(f"unable to mmap 18 bytes from file <{name}>: No such device (19)")

    monkeypatch.setattr(torch.UntypedStorage, "from_file", cannot)
    assert same(read_checkpoint(tmp_path / "checkpoint.pth"), checkpoint)


def test_reads_the_format_before_torch_1_6(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(tmp_path / "checkpoint.pth"), checkpoint)


def test_executes_nothing(tmp_path):
    checkpoint = {
        **torch.load(CHECKPOINTS[0], weights_only=False),
        "extra": Malicious(tmp_path / "made by a checkpoint"),
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    with pytest.raises(
        RefusedCheckpoint, match=r"as they could run code \(.*mkdir.*if you trust it, load it with"
    ) as raised:
        read_checkpoint(tmp_path / "checkpoint.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]
    assert "remove" not in str(raised.value)
    assert str(raised.value).isprintable(), "one line, without terminal escapes"
    torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert (tmp_path / "made by a checkpoint").is_dir()  # what nnU-Net's own loading would do


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"text", "it is no file that torch writes"),
        (CHECKPOINTS[0].read_bytes()[:20_000], "it is cut short"),
        (CHECKPOINTS[0].read_bytes()[:-4], "it is cut short"),
    ],
    ids=["empty", "text", "half", "end"],
)
def test_damage_is_proven(content, reason, tmp_path):
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=rf"checkpoint.pth is damaged: {reason}$"):
        read_checkpoint(file)


def test_what_fails_without_proof_is_not_called_damaged(checkpoint, tmp_path, monkeypatch):
    torch.save(checkpoint, tmp_path / "checkpoint.pth")

    def fails(*arguments, **options):
        raise RuntimeError("\x1b[1mInput/output error\x1b[0m\n\nsecond line")

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(RefusedCheckpoint) as raised:
        read_checkpoint(tmp_path / "checkpoint.pth")
    assert "cannot be read here, though nothing proves that it is damaged (RuntimeError: Input/output error)" in str(
        raised.value
    )
    assert str(raised.value).isprintable()


def test_other_files_of_torch_are_an_error(tmp_path):
    for content in ({"state_dict": {}}, [1]):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match="is not a checkpoint of nnU-Net: it has no network_weights"):
            read_checkpoint(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"none\.pth cannot be read: No such file or directory"):
        read_checkpoint(tmp_path / "none.pth")
