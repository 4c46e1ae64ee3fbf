"""Stock checkpoints with blocks added: the same predictions, the same next steps, and nothing else accepted."""

import copy
import json
import re
import resource
import shutil
import signal

import pytest
import torch
from golden import CHECKPOINTS, Malicious
from presets import as_residual_encoder, build, name_of, plans_of, tiny

from nnunetv2_salstm import SALSTMConfig
from nnunetv2_salstm.cli import main
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.grafting import Graft, add_blocks
from nnunetv2_salstm.plans import add_to_plans, architecture_of, build_network

NETWORKS = {"plain 3D": tiny(), "plain 2D": tiny(2), "residual 3D": as_residual_encoder(tiny(), 2)}


def sgd(network):
    return torch.optim.SGD(network.parameters(), 1e-3, weight_decay=3e-5, momentum=0.99, nesterov=True)


def step(network, optimizer, batch):
    optimizer.zero_grad()
    sum(output.square().mean() + output.mean() for output in network(batch)).backward()
    optimizer.step()


def trained(plan, make_optimizer=sgd, channels=1):
    """Returns a stock network after a few steps and the checkpoint that nnU-Net would write of it."""
    network = build(plan, input_channels=channels)
    optimizer = make_optimizer(network)
    for _ in range(3):
        step(network, optimizer, torch.randn(2, channels, *plan["patch_size"]))
    dataset_json = {
        "channel_names": {str(channel): "MRI" for channel in range(channels)},
        "labels": {"background": 0, "a": 1, "b": 2},
        "file_ending": ".nii.gz",
        "numTraining": 1,
    }
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [0.1]},
        "_best_ema": 0.1,
        "current_epoch": 5,
        "init_args": {
            "plans": {**plans_of(plan, channels), "continue_training": False},
            "configuration": name_of(plan),
            "fold": 0,
            "dataset_json": dataset_json,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }
    return network, copy.deepcopy(checkpoint)


def network_of(checkpoint):
    """Returns the network that nnU-Net builds for a checkpoint, with its weights."""
    arguments = checkpoint["init_args"]
    architecture = architecture_of(arguments["plans"], arguments["configuration"])
    network = build_network(architecture, len(arguments["dataset_json"]["channel_names"]), 3)
    network.load_state_dict(checkpoint["network_weights"])
    return network


@pytest.mark.parametrize(
    ("network", "trainer"),
    [
        ("plain 3D", "nnUNetTrainerSALSTM_A"),
        ("plain 2D", "nnUNetTrainerSALSTM_B_bottleneck"),
        ("residual 3D", "nnUNetTrainerSALSTM_A"),
        ("plain 2D", "nnUNetTrainerSALSTMConvControl"),
    ],
)
def test_outputs_and_next_steps_are_the_stock_networks(network, trainer):
    plan = NETWORKS[network]
    stock, checkpoint = trained(plan)
    before = copy.deepcopy(checkpoint)
    result = add_blocks(checkpoint, Graft(trainer, {}))
    ours = network_of(result)
    assert type(ours).__name__.startswith("SALSTM")
    batch = torch.randn(2, 1, *plan["patch_size"])
    for ours_output, output in zip(ours(batch), stock(batch), strict=True):
        assert torch.equal(ours_output, output)
    optimizers = sgd(stock), sgd(ours)
    for optimizer, state in zip(optimizers, (checkpoint, result), strict=True):
        optimizer.load_state_dict(copy.deepcopy(state["optimizer_state"]))
    for optimizer, network in zip(optimizers, (stock, ours), strict=True):
        step(network, optimizer, batch)
    state = ours.state_dict()
    for key, value in stock.state_dict().items():
        assert torch.equal(state[key], value), key
    # The new parameters learn from the next step on, from no momentum.
    new = [name for name in state if name.startswith("salstm.") and ".layer.conv." in name]
    assert new
    assert all((state[name] != 0).any() for name in new if name.endswith("weight"))
    assert checkpoint["init_args"] == before["init_args"]
    kept = ("logging", "_best_ema", "current_epoch", "grad_scaler_state", "inference_allowed_mirroring_axes")
    assert {name: result[name] for name in kept} == {name: before[name] for name in kept}
    assert result["trainer_name"] == trainer


def test_the_momentum_of_the_new_parameters_is_empty():
    _, checkpoint = trained(tiny(2))
    state = add_blocks(checkpoint, Graft("nnUNetTrainerSALSTM_A", {}))["optimizer_state"]
    assert set(state["state"]) == set(checkpoint["optimizer_state"]["state"])
    (group,), (stock,) = state["param_groups"], checkpoint["optimizer_state"]["param_groups"]
    assert len(group["params"]) > len(stock["params"])
    assert {**group, "params": 0} == {**stock, "params": 0}


def test_another_optimiser_is_replaced_by_nnunets():
    plan = tiny(2)
    _, checkpoint = trained(plan, lambda network: torch.optim.AdamW(network.parameters()))
    result = add_blocks(checkpoint, Graft("nnUNetTrainerSALSTM_A", {}))
    network = network_of(result)
    optimizer = sgd(network)
    optimizer.load_state_dict(result["optimizer_state"])
    assert optimizer.state_dict()["state"] == {}
    assert optimizer.param_groups[0]["momentum"] == 0.99
    step(network, optimizer, torch.randn(2, 1, *plan["patch_size"]))


def test_a_seed_in_the_trainers_name_fixes_the_blocks():
    _, checkpoint = trained(tiny(2))
    first, second, other = (
        add_blocks(checkpoint, Graft(f"nnUNetTrainerSALSTM_A_seed{seed}", {}))["network_weights"] for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("graft", "name", "module"),
    [
        (Graft("nnUNetTrainerSALSTM_B", {}), "nnUNetPlans", "B"),
        (Graft("nnUNetTrainerSALSTM_B", {"steps": 3}), "nnUNetPlansSALSTM_B", "B"),
        (Graft("nnUNetTrainer", {}), "nnUNetPlansSALSTM_A", "A"),
        (Graft("nnUNetTrainer", {"module": "B"}), "nnUNetPlansSALSTM_B", "B"),
    ],
    ids=str,
)
def test_plans_take_a_new_name_only_where_the_trainers_name_does_not_say_all(graft, name, module):
    plan = tiny()
    plans = graft.plans(plans_of(plan), name_of(plan))
    assert plans["plans_name"] == name
    assert architecture_of(plans, name_of(plan))["arch_kwargs"]["salstm"]["module"] == module


def test_grafted_blocks_start_as_the_identity_whatever_the_default_is(monkeypatch):
    defaults = {**SALSTMConfig.__init__.__kwdefaults__, "initial_gain": 1.0}
    monkeypatch.setattr(SALSTMConfig.__init__, "__kwdefaults__", defaults)
    plan = tiny(2)
    plans = Graft("nnUNetTrainerSALSTM_A", {}).plans(plans_of(plan), name_of(plan))
    assert architecture_of(plans, name_of(plan))["arch_kwargs"]["salstm"]["initial_gain"] == 0
    with pytest.raises(SalstmError, match=r"--config says initial_gain 0\.5, but grafted blocks start as the identity"):
        Graft("nnUNetTrainerSALSTM_A", {"initial_gain": 0.5}).plans(plans_of(plan), name_of(plan))


def cut_a_convolution(checkpoint):
    key = "decoder.stages.0.convs.0.conv.weight"
    checkpoint["network_weights"][key] = checkpoint["network_weights"][key][:, :7]


def leave_out_a_weight(checkpoint):
    del checkpoint["network_weights"]["encoder.stages.1.0.convs.0.conv.bias"]


def add_a_weight(checkpoint):
    checkpoint["network_weights"]["mamba.weight"] = torch.zeros(3, 4)


def put_blocks_in(checkpoint):
    arguments = checkpoint["init_args"]
    arguments["plans"] = add_to_plans(arguments["plans"], arguments["configuration"], {"module": "A"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            cut_a_convolution,
            r"first difference is decoder.stages.0.convs.0.conv.weight: \(16, 7, 3, 3\) in the checkpoint, "
            r"\(16, 32, 3, 3\) in the stock network",
        ),
        (leave_out_a_weight, r"first difference is encoder.stages.1.0.convs.0.conv.bias: not there in the checkpoint"),
        (add_a_weight, r"mamba.weight: \(3, 4\) in the checkpoint, not there in the stock network"),
        (put_blocks_in, "the checkpoint of nnUNetTrainer has SA-LSTM blocks already"),
    ],
    ids=["shape", "missing", "surplus", "blocks"],
)
def test_refuses_checkpoints_of_other_networks(damage, message):
    _, checkpoint = trained(tiny(2))
    damage(checkpoint)
    with pytest.raises(SalstmError, match=message):
        add_blocks(checkpoint, Graft("nnUNetTrainerSALSTM_A", {}))


@pytest.mark.parametrize(
    ("graft", "message"),
    [
        (Graft("nnUNetTrainerSALSTMOff", {}), "-tr nnUNetTrainerSALSTMOff trains the stock network"),
        (Graft("nnUNetTrainerSALSTM_A", {"module": "B"}), "--config says module 'B' but -tr .* demands 'A'"),
        (Graft("nnUNetTrainerSALSTM_A", {"reduction": 3}), "reduction must divide the 8 channels"),
        (Graft("nnUNetTrainerSALSTM_A_25d", {}), "2.5D cannot be grafted: its encoder sees one frame"),
    ],
    ids=["off", "contradiction", "reduction", "2.5D"],
)
def test_refuses_blocks_that_do_not_fit(graft, message):
    _, checkpoint = trained(tiny(2))
    with pytest.raises(SalstmError, match=message):
        add_blocks(checkpoint, graft)


# The command


@pytest.fixture
def model(tmp_path):
    """A results folder with two trained folds and an empty one."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
    (folder / "fold_2").mkdir(parents=True)
    (folder / "dataset_fingerprint.json").write_text("{}")
    for fold in (0, 1):
        (folder / f"fold_{fold}").mkdir()
        _, checkpoint = trained(tiny(2))
        checkpoint["init_args"]["fold"] = fold
        checkpoint["init_args"]["plans"]["continue_training"] = fold == 1
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def graft(*words):
    return main(["graft", *map(str, words)])


def test_a_folder_becomes_a_folder(model, tmp_path, capsys):
    out = tmp_path / "results"
    assert graft(model, "-o", out) == 0
    printed = capsys.readouterr().out
    assert "fold_2 has no checkpoint and is left out" in printed
    assert "momentum starts empty" not in printed
    (dataset,) = out.iterdir()
    (made,) = dataset.iterdir()
    assert f"-m {made} " in printed
    assert made.name == "nnUNetTrainerSALSTM_A__nnUNetPlans__2d"
    assert sorted(str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()) == [
        "dataset.json",
        "dataset_fingerprint.json",
        "fold_0/checkpoint_final.pth",
        "fold_1/checkpoint_final.pth",
        "plans.json",
    ]
    plans = json.loads((made / "plans.json").read_text())
    assert plans["dataset_name"] == dataset.name
    for fold in (0, 1):
        checkpoint = torch.load(made / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)
        assert checkpoint["init_args"]["fold"] == fold
        assert architecture_of(checkpoint["init_args"]["plans"], "2d") == architecture_of(plans, "2d")
    assert graft(model, "-o", out) == 1
    assert f"-o: {made} is there already; remove it, or give another folder" in capsys.readouterr().err


def test_a_file_becomes_the_folder_of_its_fold(model, tmp_path, capsys):
    file = model / "fold_1" / "mine.pth"
    (model / "fold_1" / "checkpoint_final.pth").rename(file)
    (tmp_path / "values.json").write_text('{"steps": 3}')
    words = ["--config", tmp_path / "values.json", "-tr", "nnUNetTrainerSALSTM_B_9epochs"]
    assert graft(file, "-o", tmp_path / "out", *words) == 0
    made = "nnUNetTrainerSALSTM_B_9epochs__nnUNetPlansSALSTM_B__2d/fold_1/checkpoint_final.pth"
    (result,) = (tmp_path / "out").glob(f"*/{made}")
    checkpoint = torch.load(result, weights_only=False)
    salstm = architecture_of(checkpoint["init_args"]["plans"], "2d")["arch_kwargs"]["salstm"]
    assert (salstm["steps"], salstm["module"]) == (3, "B")
    printed = capsys.readouterr().out
    assert "(epoch 5 of 9)" in printed
    assert "Training needs these plans, nnUNetPlansSALSTM_B, which nnUNetv2_salstm plan writes." in printed
    # What was resolved for one model can be asked for again.
    shutil.rmtree(tmp_path / "out")
    words[1] = tmp_path / "plans.json"
    words[1].write_text(json.dumps(checkpoint["init_args"]["plans"]))
    assert graft(file, "-o", tmp_path / "out", *words) == 0
    again = torch.load(result, weights_only=False)["init_args"]["plans"]
    assert architecture_of(again, "2d")["arch_kwargs"]["salstm"] == salstm


@pytest.mark.parametrize("word", ["checkpoint_final.pth", "."])
def test_a_source_may_be_given_from_its_own_folder(word, model, tmp_path, monkeypatch):
    monkeypatch.chdir(model / "fold_1")
    assert graft(word, "-o", tmp_path / "out") == 0
    (made,) = (tmp_path / "out").glob("*/*")
    assert (made / "dataset_fingerprint.json").is_file()
    assert (made / "fold_1" / "checkpoint_final.pth").is_file()


def test_a_full_disk_is_one_line_and_leaves_nothing(model, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert graft(model, "-o", tmp_path / "out") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    error = capsys.readouterr().err
    assert f"cannot write to -o {tmp_path / 'out'}: " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_advises_a_longer_trainer_when_all_epochs_are_done(model, tmp_path, capsys):
    assert graft(model, "-o", tmp_path / "out", "-tr", "nnUNetTrainerSALSTM_A_5epochs") == 0
    assert "all 5 epochs are done: graft with a trainer of more, such as -tr nnUNet" in capsys.readouterr().out
    assert graft(model, "-o", tmp_path / "out", "-tr", "nnUNetTrainerSALSTM_B_skips_5epochs_3its_seed3") == 0
    assert "such as -tr nnUNetTrainerSALSTM_B_skips_105epochs_3its_seed3)" in capsys.readouterr().out


@pytest.mark.parametrize("left", ["optimizer_state", "all that training needs"])
def test_a_checkpoint_without_its_training_is_taken(left, model, tmp_path, capsys):
    file = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    gone = ["optimizer_state"]
    if left != "optimizer_state":
        gone += ["logging", "current_epoch", "_best_ema", "grad_scaler_state"]
    torch.save({name: value for name, value in checkpoint.items() if name not in gone}, file)
    assert graft(file, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    (result,) = (tmp_path / "out").glob("*/*/fold_0/checkpoint_final.pth")
    made = torch.load(result, weights_only=False)
    weights = checkpoint["network_weights"]
    assert all(torch.equal(made["network_weights"][key], weights[key]) for key in weights)
    assert sgd(network_of(made)).load_state_dict(made["optimizer_state"]) is None
    assert made["optimizer_state"]["param_groups"][0]["momentum"] == 0.99
    if left == "optimizer_state":
        assert "epoch 5; " in printed
        assert "it has no state of nnU-Net's SGD: momentum starts empty" in printed
        assert " --c\n" in printed
    else:
        assert "it holds no training that nnU-Net could continue" in printed
        assert " --c\n" not in printed
    assert "-pretrained_weights" in printed


def text_file(model):
    (model / "fold_0" / "checkpoint_final.pth").write_text("text")


def malicious(model):
    torch.save({"network_weights": {}, "x": Malicious(model / "made")}, model / "fold_0" / "checkpoint_final.pth")


def weights_only(model):
    torch.save({"network_weights": {}}, model / "fold_0" / "checkpoint_final.pth")


def other_plans(model):
    checkpoint = torch.load(model / "fold_1" / "checkpoint_final.pth", weights_only=False)
    checkpoint["init_args"]["plans"]["configurations"]["2d"]["batch_size"] = 77
    torch.save(checkpoint, model / "fold_1" / "checkpoint_final.pth")


def a_backup(model):
    shutil.copytree(model / "fold_0", model / "fold_0_old")


def nothing(model):
    for fold in model.glob("fold_*"):
        shutil.rmtree(fold)


def config(text):
    def write(model):
        (model / "values.json").write_text(text)
        return ["--config", model / "values.json"]

    return write


# nnU-Net's lookup imports all of its trainers, and torch warns of what they import.
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (text_file, "checkpoint_final.pth is damaged: it is no file that torch writes"),
        (malicious, "checkpoint_final.pth holds more than numbers and plain values, .* could run code"),
        (weights_only, "it has no init_args, trainer_name"),
        (other_plans, "checkpoint_final.pth was trained with other plans than the folds before it"),
        (a_backup, "checkpoint_final.pth is of fold_0/checkpoint_final.pth, which another checkpoint is of too"),
        (nothing, "has no checkpoints; a results folder such as nnUNetTrainer__nnUNetPlans__3d_fullres has them"),
        (shutil.rmtree, "CHECKPOINT must be a file or a results folder, there is nothing at"),
        (lambda model: ["-tr", "nnUNetTrainerSALSTM_C"], "-tr must be one of nnUNetTrainerSALSTM_A,"),
        (lambda model: ["--config", model / "none.json"], "there is no file of SA-LSTM values at"),
        (config("{"), "values.json is not JSON"),
        (config('{"step": 3}'), "values.json: salstm takes module, placement, .* got 'step'"),
        (config('{"steps": 1}'), "values.json: steps must be a whole number of at least 2, got 1"),
        (config('{"configurations": {"3d_fullres": {}}}'), "are plans without the configuration 2d; name others"),
        (config(json.dumps(plans_of(tiny(2)))), "are plans whose configuration 2d has no SA-LSTM blocks"),
        (lambda model: ["-o", CHECKPOINTS[0]], "cannot write to -o .*: Not a directory"),
    ],
    ids=lambda value: None if isinstance(value, str) else getattr(value, "__name__", "value"),
)
def test_bad_input_is_one_line_and_leaves_nothing(prepare, message, model, tmp_path, capsys):
    words = prepare(model) or []
    status = graft(model, "-o", tmp_path / "out", *words)
    error = capsys.readouterr().err
    assert status == 1
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists() or [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
    assert not (model / "made").exists()
