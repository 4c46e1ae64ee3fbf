"""The trainers: names, what they set, and what they refuse."""

import ast
import pickle
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunetv2_salstm import networks, trainers
from nnunetv2_salstm.evaluation.runs import TrainingLog
from nnunetv2_salstm.host import frames as neighbours
from nnunetv2_salstm.host.augmentation import OneDrawForAllFrames
from nnunetv2_salstm.host.trainer_names import DESCRIPTIONS, METHODS, TrainerName, epochs_of
from nnunetv2_salstm.host.versions import describe_nnunet
from nnunetv2_salstm.plans import salstm_of
from nnunetv2_salstm.trainers import SALSTMTrainerMixin, get_trainer
from nnunetv2_salstm_autoload import trainers_folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nnUNetTrainerSALSTM_A", TrainerName({"module": "A"}, None, None, None)),
        ("nnUNetTrainerSALSTM_B_skips", TrainerName({"module": "B", "placement": "skips"}, None, None, None)),
        ("nnUNetTrainerSALSTM_A_bottleneck", TrainerName({"module": "A", "placement": "bottleneck"}, None, None, None)),
        (
            "nnUNetTrainerSALSTM_A_skips_50epochs_20its_seed1",
            TrainerName({"module": "A", "placement": "skips"}, 50, 20, 1),
        ),
        ("nnUNetTrainerBDCLSTM_seed0", TrainerName({"module": "bdclstm"}, None, None, 0)),
        ("nnUNetTrainerSALSTMConvControl_3its", TrainerName({"module": "conv"}, None, 3, None)),
        ("nnUNetTrainerSALSTMOff_1epochs", TrainerName(None, 1, None, None)),
        ("nnUNetTrainerSALSTM_A_25d", TrainerName({"module": "A", "sequence": "frames"}, None, None, None)),
        (
            "nnUNetTrainerSALSTM_B_skips_25d_2epochs_seed3",
            TrainerName({"module": "B", "placement": "skips", "sequence": "frames"}, 2, None, 3),
        ),
    ],
)
def test_names(name, expected):
    assert TrainerName.parse(name) == expected
    trainer = getattr(trainers, name)
    assert trainer.__name__ == name
    assert issubclass(trainer, nnUNetTrainer)
    assert get_trainer(name) is trainer
    assert pickle.loads(pickle.dumps(trainer)) is trainer


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("nnUNetTrainer_1epoch", 1),
        ("nnUNetTrainer_250epochs", 250),
        ("nnUNetTrainerX_9epochs_seed1", 9),
        ("nnUNetTrainer", 1000),
    ],
)
def test_epochs_of_any_trainer(name, epochs):
    assert epochs_of(name) == epochs


def test_the_source_that_nnunet_reads_names_the_trainers():
    source = (Path(trainers_folder()) / "nnunetv2_salstm_trainers.py").read_text()
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes] == list(METHODS) == list(DESCRIPTIONS)
    assert {ast.unparse(base) for node in classes for base in node.bases} == {"nnUNetTrainer"}
    shown: dict = {"__name__": "nnunetv2_salstm_trainers"}
    exec(source, shown)
    for name in METHODS:
        assert name not in shown
        assert shown["__getattr__"](name) is get_trainer(name)


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainerSALSTM",
        "nnUNetTrainerSALSTM_C",
        "nnUNetTrainerSALSTM_A_",
        "nnUNetTrainerSALSTM_A_0epochs",
        "nnUNetTrainerSALSTM_A_05epochs",
        "nnUNetTrainerSALSTM_A_its",
        "nnUNetTrainerSALSTM_A_0its",
        "nnUNetTrainerSALSTM_A_seed",
        "nnUNetTrainerSALSTM_A_seed-1",
        "nnUNetTrainerSALSTM_A_seed1_5epochs",
        "nnUNetTrainerSALSTM_A_5its_5epochs",
        "nnUNetTrainerSALSTM_A_5epochs_skips",
        "nnUNetTrainerSALSTM_A_all",
        "nnUNetTrainerSALSTM_A_5epochs ",
        "nnUNetTrainerSALSTMOff_skips",
        "nnUNetTrainerSALSTMOff_25d",
        "nnUNetTrainerSALSTM_A_25d_skips",
        "nnUNetTrainerSALSTM_A_1epochs_25d",
        "nnUNetTrainer",
    ],
)
def test_malformed_names_are_not_found(name):
    with pytest.raises(ValueError, match=r"the trainer must be one of nnUNetTrainerSALSTM_A, .* got "):
        TrainerName.parse(name)
    if name != "nnUNetTrainer":  # imported there, from nnU-Net
        assert not hasattr(trainers, name)


def test_the_name_sets_length_seed_and_network(make):
    trainer = make("nnUNetTrainerSALSTM_B_bottleneck_3epochs_12its_seed4")
    trainer.initialize()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (3, 12, 2)
    assert trainer.save_every == 1
    assert type(trainer.network) is networks.SALSTMPlainConvUNet
    assert list(trainer.network.salstm) == ["3"]
    assert (trainer.salstm["module"], trainer.salstm["placement"]) == ("B", "bottleneck")
    # What a checkpoint stores, and what plans.json is written from.
    assert salstm_of(trainer.my_init_kwargs["plans"], "3d_fullres") == trainer.salstm
    assert salstm_of(trainer.plans_manager.plans, "3d_fullres") == trainer.salstm


def test_without_suffixes_nnunets_own_length_stands(make):
    trainer, stock = make("nnUNetTrainerSALSTM_A"), make(nnUNetTrainer)
    trainer.initialize()
    stock.initialize()
    for name in ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "save_every", "initial_lr"):
        assert getattr(trainer, name) == getattr(stock, name), name


def test_a_trainers_own_saving_is_not_made_rarer(make):
    trainer = make("nnUNetTrainerSALSTM_A")
    trainer.save_every = 7  # as a class derived from ours may
    trainer.initialize()
    assert trainer.save_every == 7


def test_at_least_one_validation_iteration(make):
    trainer = make("nnUNetTrainerSALSTM_A_1its")
    trainer.initialize()
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (1, 1)


def test_methods_of_one_seed_start_with_equal_weights(make):
    states = {}
    for name in ("Off_seed1", "_A_seed1", "ConvControl_seed1", "Off_seed2"):
        trainer = make(f"nnUNetTrainerSALSTM{name}")
        trainer.initialize()
        states[name] = trainer.network.state_dict()
    for key, value in states["Off_seed1"].items():
        assert torch.equal(states["_A_seed1"][key], value), key
        assert torch.equal(states["ConvControl_seed1"][key], value), key
    key = "encoder.stages.0.0.convs.0.conv.weight"
    assert not torch.equal(states["Off_seed1"][key], states["Off_seed2"][key])


def test_methods_of_one_seed_draw_the_same_augmentation(make, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        nnUNetTrainer, "on_train_start", lambda self: drawn.append((self.was_initialized, torch.rand(3)))
    )
    for name in ("Off_seed1", "_A_seed1", "Off_seed2"):
        make(f"nnUNetTrainerSALSTM{name}").on_train_start()
    assert [initialized for initialized, _ in drawn] == [True] * 3
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][1], drawn[2][1])


@pytest.mark.parametrize(
    ("workers", "says"), [(0, "and the batches, as"), (3, "and not the batches, as the 3 augmentation workers")]
)
def test_the_log_says_what_a_seed_fixes(make, monkeypatch, workers, says):
    monkeypatch.setattr("nnunetv2_salstm.trainers.get_allowed_n_proc_DA", lambda: workers)
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    trainer = make("nnUNetTrainerSALSTMOff_seed5")
    trainer.on_train_start()
    log = Path(trainer.log_file).read_text()
    assert f"Seed 5 fixes the start of the weights {says}" in log
    assert f": nnU-Net {describe_nnunet()}" in log
    assert TrainingLog.read(Path(trainer.output_folder)).nnunet == {describe_nnunet()}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "nnUNetTrainerSALSTM_A",
            "module A on the outputs of encoder stages 0, 1, 2, 3, {} of {} parameters",
        ),
        (
            "nnUNetTrainerSALSTM_B_skips",
            "module B on the outputs of encoder stages 0, 1, 2, {} of {} parameters",
        ),
        ("nnUNetTrainerSALSTMOff", "no blocks, the stock network"),
    ],
)
def test_the_log_says_which_blocks_there_are(make, name, says):
    trainer = make(name)
    trainer.initialize()
    sizes = {key: value.numel() for key, value in trainer.network.named_parameters()}
    blocks = sum(size for key, size in sizes.items() if key.startswith("salstm."))
    log = Path(trainer.log_file).read_text()
    assert f": SA-LSTM: {says.format(f'{blocks:,}', f'{sum(sizes.values()):,}')} \n" in log
    # Also where nnU-Net wraps the network.
    wrapped = nn.Module()
    wrapped.add_module("module", trainer.network)
    assert trainers._describe(trainer.salstm, wrapped) in log


class OfMaster(nnUNetTrainer):
    """nnU-Net's trainer as it is after 2.8.1, whose argument has another name."""

    def load_checkpoint(self, checkpoint):
        self.loaded = checkpoint


@pytest.mark.parametrize("named", [True, False])
def test_checkpoints_load_by_either_name_of_the_argument(make, tmp_path, named):
    trainer = make("nnUNetTrainerSALSTM_A")
    trainer.initialize()
    file = str(tmp_path / "checkpoint_latest.pth")
    trainer.save_checkpoint(file)
    trainer.load_checkpoint(filename_or_checkpoint=file) if named else trainer.load_checkpoint(file)
    trainer.__class__ = type("nnUNetTrainerSALSTM_A", (SALSTMTrainerMixin, OfMaster), {})
    for given in (file, torch.load(file, weights_only=False)):
        trainer.load_checkpoint(checkpoint=given) if named else trainer.load_checkpoint(given)
        assert trainer.loaded is given
    (tmp_path / "checkpoint_latest.pth").write_bytes(b"half")
    with pytest.raises(ValueError, match="is damaged"):
        trainer.load_checkpoint(checkpoint=file) if named else trainer.load_checkpoint(file)


def test_values_in_the_plans_configure_the_modules(make):
    trainer = make("nnUNetTrainerSALSTM_A", {"placement": [0, 2], "kernel_size": 5, "attention_scale": 100})
    trainer.initialize()
    assert list(trainer.network.salstm) == ["0", "2"]
    layer = trainer.network.salstm["0"].layer.layer
    assert layer.forward_net.cell0.conv.kernel_size == (5, 5)
    assert layer.forward_net.attention.tau == 100


@pytest.mark.parametrize(
    ("name", "salstm", "message"),
    [
        ("nnUNetTrainerSALSTM_A", {"module": "B"}, "module is 'B' in the plans but the trainer demands 'A'"),
        (
            "nnUNetTrainerSALSTM_A_skips",
            {"placement": "all"},
            "placement is 'all' in the plans but the trainer demands",
        ),
        ("nnUNetTrainerSALSTM_A", {"steps": 0}, "steps must be a whole number of at least 2, got 0"),
        ("nnUNetTrainerSALSTMOff", {"module": "A"}, "name SA-LSTM blocks but nnUNetTrainerSALSTMOff trains the stock"),
    ],
)
def test_refuses_plans_that_contradict_the_name(make, name, salstm, message):
    with pytest.raises(ValueError, match=message):
        make(name, salstm)


def test_a_checkpoint_round_trip(make, tmp_path):
    trainer, other = make("nnUNetTrainerSALSTM_A_seed1"), make("nnUNetTrainerSALSTM_A_seed2")
    for each in (trainer, other):
        each.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_latest.pth"]
    other.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[key], value), key


def test_an_interrupted_save_keeps_the_earlier_checkpoint(make, tmp_path, monkeypatch):
    trainer = make("nnUNetTrainerSALSTM_A")
    trainer.initialize()
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()

    def full_disk(_, filename):
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("saved", "salstm", "message"),
    [
        (
            "nnUNetTrainerSALSTM_B",
            None,
            r"checkpoint .*checkpoint_latest.pth holds another configuration than this run: "
            r"{'module': 'B'} there, {'module': 'A'} here",
        ),
        (
            "nnUNetTrainerSALSTM_A",
            {"boundary": "replicate", "reduction": 2},
            r"{'reduction': 2, 'boundary': 'replicate'} there, {'reduction': 4, 'boundary': 'zero'} here",
        ),
        ("nnUNetTrainerSALSTMOff", None, r"{'network': 'stock, without SA-LSTM blocks', .* there"),
    ],
    ids=["module", "boundary", "stock"],
)
def test_refuses_checkpoints_of_another_configuration(make, tmp_path, saved, salstm, message):
    other, trainer = make(saved, salstm), make("nnUNetTrainerSALSTM_A")
    for each in (other, trainer):
        each.initialize()
    other.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    file = tmp_path / "checkpoint_latest.pth"
    with pytest.raises(ValueError, match=message):
        trainer.load_checkpoint(str(file))
    with pytest.raises(ValueError, match="the checkpoint holds another configuration than this run"):
        trainer.load_checkpoint(torch.load(file, weights_only=False))


def test_a_checkpoint_by_its_path(make, tmp_path):
    trainer = make("nnUNetTrainerSALSTM_A")
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    trainer.load_checkpoint(tmp_path / "checkpoint_latest.pth")


@pytest.mark.parametrize("change", [{"initial_gain": 0.5}, {"format": 1}], ids=str)
def test_continues_a_checkpoint_of_another_start_or_an_older_format(make, tmp_path, change):
    other, trainer = make("nnUNetTrainerSALSTM_A"), make("nnUNetTrainerSALSTM_A")
    for each in (other, trainer):
        each.initialize()
    file = tmp_path / "checkpoint_latest.pth"
    other.save_checkpoint(str(file))
    checkpoint = torch.load(file, weights_only=False)
    arguments = checkpoint["init_args"]
    architecture = arguments["plans"]["configurations"][arguments["configuration"]]["architecture"]
    salstm = architecture["arch_kwargs"]["salstm"]
    salstm.update(change)
    if change == {"format": 1}:
        del salstm["initial_gain"], salstm["attention"]
    torch.save(checkpoint, file)
    trainer.load_checkpoint(str(file))


def test_refuses_a_results_folder_of_another_configuration(make):
    def folds(fold, salstm):
        trainer = make("nnUNetTrainerSALSTM_A_1epochs_1its_seed9", salstm, plans_name="MixedPlans", fold=fold)
        trainer.initialize()
        return trainer

    first = folds(0, {"steps": 3})
    first.on_train_start()
    first.save_checkpoint(str(Path(first.output_folder) / "checkpoint_best.pth"))
    first.dataloader_train._finish()
    first.dataloader_val._finish()
    with pytest.raises(ValueError, match=r"results folder .* holds another .* {'steps': 3} there, {'steps': 2} here"):
        folds(1, None).on_train_start()
    # The same configuration goes on, and so does the same fold, begun anew with another one.
    folds(1, {"steps": 3})._check_results_folder()
    folds(0, None)._check_results_folder()


def test_25d_reads_frames_from_the_channels(make):
    trainer = make(
        "nnUNetTrainerSALSTM_A_25d", configuration="2d", batch_size=12, frames=neighbours.neighbours_entry(1)
    )
    trainer.initialize()
    assert trainer.network.salstm.frames == 3
    assert trainer.network.encoder.stages[0][0].convs[0].conv.in_channels == 1
    assert trainer.batch_size == trainer.configuration_manager.batch_size < 6
    assert f"Batch size {trainer.batch_size} instead of the planned 12" in Path(trainer.log_file).read_text()
    rotation, _, _, mirror = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    transforms = trainer.get_training_transforms((40, 40), rotation, None, mirror, False)
    assert sum(isinstance(getattr(t, "transform", None), OneDrawForAllFrames) for t in transforms.transforms) == 7
    # Prediction rebuilds it from what the checkpoint holds.
    assert salstm_of(trainer.my_init_kwargs["plans"], "2d")["sequence"] == "frames"


def test_other_trainers_take_the_frames_as_channels(make):
    for name in ("nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTMOff"):
        trainer = make(name, configuration="2d", batch_size=12, frames=neighbours.neighbours_entry(1))
        trainer.initialize()
        assert trainer.network.encoder.stages[0][0].convs[0].conv.in_channels == 3
        assert trainer.batch_size == 12
        assert "instead of the planned" not in Path(trainer.log_file).read_text()
        transforms = trainer.get_training_transforms((40, 40), (-3, 3), None, (0, 1), False)
        assert not any(isinstance(getattr(t, "transform", None), OneDrawForAllFrames) for t in transforms.transforms)


@pytest.mark.parametrize(
    ("configuration", "frames", "message"),
    [
        ("2d", None, r"dataset.json must name the neighbours .* nnUNetv2_salstm convert \.\.\. --neighbours 1"),
        (
            "2d",
            neighbours.neighbours_entry(2),
            r"'salstm_neighbours' in dataset.json must be .*\[\[0\], \[1\], \[2\]\].* got",
        ),
        ("3d_fullres", neighbours.neighbours_entry(1), "sequence 'frames' needs a 2D configuration"),
    ],
)
def test_25d_refuses_data_without_neighbours_and_3d(make, configuration, frames, message):
    with pytest.raises(ValueError, match=message):
        make("nnUNetTrainerSALSTM_A_25d", configuration=configuration, frames=frames)


def test_the_mixin_extends_any_trainer(make):
    class SmallSteps(nnUNetTrainer):
        def __init__(self, plans, configuration, fold, dataset_json, device=None):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.initial_lr = 1e-4

    class Mine(SALSTMTrainerMixin, SmallSteps):
        parsed_name = TrainerName.parse("nnUNetTrainerSALSTM_B_skips_2epochs")

    trainer = make(Mine)
    trainer.initialize()
    assert (trainer.initial_lr, trainer.num_epochs, trainer.salstm["module"]) == (1e-4, 2, "B")
