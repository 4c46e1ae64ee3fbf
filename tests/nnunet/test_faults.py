"""Faults: kills, full disks and damaged files leave something to go on from, and say what."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DATASET, nnunet_variables
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SAVE_TWICE_AND_DIE = """
import json, os, signal, sys
from pathlib import Path
import torch
from nnunetv2_salstm.trainers import get_trainer

folder, name, file = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
plans = {**json.loads((folder / "nnUNetPlans.json").read_text()), "continue_training": False}
dataset = json.loads((folder / "dataset.json").read_text())
trainer = get_trainer(name)(plans, "3d_fullres", 0, dataset, torch.device("cpu"))
trainer.initialize()
trainer.save_checkpoint(file)

def die_halfway(_, target):
    Path(target).write_bytes(b"half of a checkpoint")
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = die_halfway
trainer.current_epoch = 1
trainer.save_checkpoint(file)
"""


@pytest.mark.nightly
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_earlier_one(workspace, make, monkeypatch):
    name = "nnUNetTrainerSALSTM_A_7epochs_1its"
    trainer = make(name)
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    preprocessed = workspace / "preprocessed" / DATASET
    killed = subprocess.run(
        [sys.executable, "-c", SAVE_TWICE_AND_DIE, preprocessed, name, file],
        env={**os.environ, **nnunet_variables(workspace)},
        stdout=subprocess.DEVNULL,
    )
    assert killed.returncode == -signal.SIGKILL
    left = file.with_name(file.name + ".unfinished")
    assert left.read_bytes() == b"half of a checkpoint"
    trainer.initialize()
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert trainer.current_epoch == 1  # nnU-Net stores the epoch to go on with
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    trainer.on_train_start()
    assert not left.exists()
    assert file.is_file()
    file.unlink()


@pytest.fixture
def saved(make, tmp_path):
    """A trainer with whole checkpoints: latest of epoch 3, best of epoch 2."""
    trainer = make("nnUNetTrainerSALSTM_A_9epochs")
    trainer.initialize()
    trainer.output_folder = str(tmp_path)
    for epoch, name in ((1, "best"), (2, "latest")):
        trainer.current_epoch = epoch
        trainer.save_checkpoint(str(tmp_path / f"checkpoint_{name}.pth"))
    return trainer, tmp_path / "checkpoint_latest.pth"


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_a_damaged_checkpoint_is_named_and_the_whole_ones_offered(damage, saved):
    trainer, latest = saved
    content = latest.read_bytes()
    latest.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no checkpoint"}[damage])
    with pytest.raises(
        ValueError, match=r"checkpoint_latest.pth is damaged: it is (empty|cut short|no file)"
    ) as raised:
        maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert "whole are checkpoint_best.pth (epoch 2); remove the damaged file and continue with --c" in str(raised.value)
    latest.unlink()
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert trainer.current_epoch == 2


def test_what_nnunet_reads_is_not_refused(saved, capsys):
    """A checkpoint that holds an object: not read here, but by nnU-Net, which unpickles."""
    trainer, latest = saved
    checkpoint = torch.load(latest, weights_only=False)
    torch.save({**checkpoint, "made_in": Path("/somewhere")}, latest)
    trainer.current_epoch = 0
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert trainer.current_epoch == 3
    assert "nnU-Net loads it all the same; its modules are not compared" in capsys.readouterr().out


def test_another_file_of_torch_is_not_called_damaged(saved):
    trainer, latest = saved
    torch.save({"weights": 1}, latest)
    with pytest.raises(ValueError, match=r"latest.pth is not a checkpoint of nnU-Net: it has no network_weights$"):
        trainer.load_checkpoint(str(latest))


def test_without_a_whole_checkpoint_the_advice_is_to_train_anew(saved):
    trainer, latest = saved
    latest.write_bytes(b"")
    latest.with_name("checkpoint_best.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="there is no whole one beside it; remove it and train anew"):
        trainer.load_checkpoint(str(latest))


def test_a_full_disk_is_named_and_the_earlier_checkpoint_intact(saved):
    trainer, latest = saved
    before = latest.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint_latest.pth could not be written .* GB are free there"):
            trainer.save_checkpoint(str(latest))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert latest.read_bytes() == before
    assert [path.name for path in latest.parent.glob("*unfinished*")] == []


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError], ids=lambda error: error.__name__)
def test_memory_of_a_device_is_not_called_a_full_disk(error, saved, monkeypatch):
    trainer, latest = saved
    before = latest.read_bytes()

    def out_of_memory(*arguments):
        raise error("CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr(torch, "save", out_of_memory)
    with pytest.raises(error, match=r"^CUDA out of memory") as raised:
        trainer.save_checkpoint(str(latest))
    assert type(raised.value) is error
    assert latest.read_bytes() == before
    assert [path.name for path in latest.parent.glob("*unfinished*")] == []


class FixedBatches:
    """A loader whose n-th batch of an epoch is always the same, which nnU-Net's own augmenter cannot promise."""

    def __init__(self, trainer):
        self.trainer, self.drawn = trainer, {}

    def __next__(self):
        epoch = self.trainer.current_epoch
        index = self.drawn[epoch] = self.drawn.get(epoch, -1) + 1
        generator = torch.Generator().manual_seed(100 * epoch + index)
        size = self.trainer.configuration_manager.patch_size
        scales = self.trainer._get_deep_supervision_scales()
        sizes = [[round(edge * factor) for edge, factor in zip(size, scale, strict=True)] for scale in scales]
        return {
            "data": torch.randn(2, 1, *size, generator=generator),
            "target": [torch.randint(0, 3, (2, 1, *edges), generator=generator).to(torch.int16) for edges in sizes],
        }


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", ["nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTM_B", "nnUNetTrainerSALSTMOff"])
@pytest.mark.nightly
def test_continuing_equals_an_uninterrupted_training(name, make, tmp_path, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "get_dataloaders", lambda self: (FixedBatches(self), FixedBatches(self)))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def trainer_in(folder):
        trainer = make(f"{name}_4epochs_2its_seed1")
        trainer.output_folder = str(tmp_path / folder)
        Path(trainer.output_folder).mkdir(exist_ok=True)
        return trainer

    def epochs_of(trainer):
        return len(trainer.logger.local_logger.my_fantastic_logging["train_losses"])

    whole = trainer_in("whole")
    whole.run_training()
    stopped = trainer_in("stopped")
    on_epoch_start = type(stopped).on_epoch_start

    def stop_at_two(self):
        if self.current_epoch == 2:
            raise Stopped
        on_epoch_start(self)

    with monkeypatch.context() as patch:
        patch.setattr(type(stopped), "on_epoch_start", stop_at_two)
        with pytest.raises(Stopped):
            stopped.run_training()
    continued = trainer_in("stopped")
    maybe_load_checkpoint(continued, continue_training=True, validation_only=False)
    assert continued.current_epoch == 2
    continued.run_training()
    for key, value in whole.network.state_dict().items():
        assert torch.allclose(continued.network.state_dict()[key], value, rtol=1e-5, atol=1e-7), key
    other = trainer_in("other")
    other.initialize()
    key = "encoder.stages.0.0.convs.0.conv.weight"
    assert not torch.allclose(other.network.state_dict()[key], whole.network.state_dict()[key], atol=1e-4)  # it trained


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTM_B"])
def test_equal_seeds_give_equal_weights_after_five_steps(name, make, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "get_dataloaders", lambda self: (FixedBatches(self), FixedBatches(self)))
    states = []
    for seed in (1, 1, 2):
        trainer = make(f"{name}_1epochs_5its_seed{seed}")
        trainer.disable_checkpointing = True
        trainer.run_training()
        states.append(trainer.network.state_dict())
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key
    assert not all(torch.equal(states[2][key], value) for key, value in states[0].items())


def test_the_plans_on_disk_stay_stock(workspace, make):
    make("nnUNetTrainerSALSTM_A").initialize()
    plans = json.loads((workspace / "preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    assert "salstm" not in json.dumps(plans)
