"""Plans for the stock trainer: what they change, what memory they ask for, and how they make room."""

import copy
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from places import ROOT
from presets import PRESETS, as_residual_encoder, build, name_of, plans_of, tiny
from scipy.stats import spearmanr

from nnunetv2_salstm.cli import main
from nnunetv2_salstm.config import SALSTMConfig
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.fit import Fit, Training
from nnunetv2_salstm.host.memory import REFERENCE_GB, REFERENCE_VALUES, MemoryEstimate
from nnunetv2_salstm.host.presets import PRESETS as SHIPPED
from nnunetv2_salstm.host.trainer_names import TrainerName
from nnunetv2_salstm.plans import add_to_plans, architecture_of
from nnunetv2_salstm.reporting.network_drawing import draw_network

DATASET = "Dataset123_Test"
RESULTS = ROOT / "docs" / "results"


@pytest.fixture
def planned(nnunet_folders):
    """The folder of a planned data set with a 2D, a 3D and a cascade's configuration."""
    folder = nnunet_folders / "preprocessed" / DATASET
    folder.mkdir()
    plans = plans_of(PRESETS["acdc3d"])
    plans["configurations"]["2d"] = plans_of(PRESETS["acdc2d"])["configurations"]["2d"]
    plans["configurations"]["3d_lowres"] = copy.deepcopy(plans["configurations"]["3d_fullres"])
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}})
    )
    return folder


def plan(*words):
    return main(["plan", "-d", "123", *map(str, words)])


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_only_network_and_name_change(planned, capsys):
    before = read(planned, "nnUNetPlans")
    assert plan() == 0
    assert read(planned, "nnUNetPlans") == before
    made = read(planned, "nnUNetPlansSALSTM_A")
    assert made["plans_name"] == "nnUNetPlansSALSTM_A"
    assert list(made["configurations"]) == list(before["configurations"])
    for name, configuration in before["configurations"].items():
        found = copy.deepcopy(made["configurations"][name])
        # As the trainer's own rewriting has it.
        expected = add_to_plans(before, name, {"module": "A"})["configurations"][name]["architecture"]
        assert found.pop("architecture") == json.loads(json.dumps(expected))
        resolved = before["configurations"]["3d_fullres" if "inherits_from" in configuration else name]
        assert [found.pop("batch_size"), found.pop("patch_size")] == [resolved["batch_size"], resolved["patch_size"]]
        rest = {k: v for k, v in configuration.items() if k not in ("architecture", "batch_size", "patch_size")}
        assert found == rest
    assert {k: v for k, v in made.items() if k not in ("plans_name", "configurations")} == {
        k: v for k, v in before.items() if k not in ("plans_name", "configurations")
    }
    printed = capsys.readouterr().out
    assert "Changed" not in printed
    # A cascade needs the predictions of the stage before it: in training for all cases, so of all folds.
    assert [line.strip() for line in printed.splitlines() if line.startswith("    nnUNetv2")] == [
        *(f"nnUNetv2_train 123 3d_lowres {fold} -p nnUNetPlansSALSTM_A" for fold in range(5)),
        "nnUNetv2_train 123 3d_cascade_fullres 0 -p nnUNetPlansSALSTM_A",
        "nnUNetv2_predict -d 123 -p nnUNetPlansSALSTM_A -c 3d_lowres -f 0 1 2 3 4 -i INPUT -o PREVIOUS",
        "nnUNetv2_predict -d 123 -p nnUNetPlansSALSTM_A -c 3d_cascade_fullres -f 0 -i INPUT -o OUTPUT "
        "-prev_stage_predictions PREVIOUS",
    ]


def test_modules_values_and_configurations_can_be_chosen(planned, tmp_path):
    (tmp_path / "values.json").write_text('{"steps": 3, "placement": [1, 2]}')
    words = ["-c", "3d_fullres", "--module", "B", "--config", tmp_path / "values.json", "-overwrite_plans_name", "Mine"]
    assert plan(*words) == 0
    made = read(planned, "Mine")
    salstm = architecture_of(made, "3d_fullres")["arch_kwargs"]["salstm"]
    assert (salstm["module"], salstm["steps"], salstm["placement"]) == ("B", 3, [1, 2])
    assert "salstm" not in architecture_of(made, "2d")["arch_kwargs"]
    # The values of plans can be taken over into others.
    assert plan("-c", "3d_fullres", "--config", planned / "Mine.json") == 0
    assert architecture_of(read(planned, "nnUNetPlansSALSTM_B"), "3d_fullres")["arch_kwargs"]["salstm"] == salstm


def test_frames_need_neighbours(planned, tmp_path, capsys):
    """A picture's three colours are no slices."""
    file = planned / "dataset.json"
    file.write_text(file.read_text().replace('{"0": "MRI"}', '{"0": "R", "1": "G", "2": "B"}'))
    (tmp_path / "values.json").write_text('{"sequence": "frames"}')
    assert plan("-c", "2d", "--config", tmp_path / "values.json") == 1
    assert "2d: dataset.json must name the neighbours of a slice or frame" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["abc", "-1", "inf"])
def test_a_target_that_is_no_number(target, planned, capsys):
    assert plan("--gpu-memory-target", target) == 2
    assert f"must be a positive number of GB, got {target}" in capsys.readouterr().err


def test_existing_plans_are_only_replaced_when_asked(planned, capsys):
    assert plan("-c", "2d") == 0
    assert plan("-c", "2d") == 0
    made = read(planned, "nnUNetPlansSALSTM_A")
    assert plan("-c", "3d_fullres") == 1
    assert "is there already and says something else" in capsys.readouterr().err
    assert read(planned, "nnUNetPlansSALSTM_A") == made
    assert plan("-c", "3d_fullres", "--overwrite") == 0
    assert read(planned, "nnUNetPlansSALSTM_A") != made
    assert [file.name for file in planned.glob("unfinished*")] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "Others"], r"there is no file of plans at .*Others.json"),
        (["-c", "3d"], r"has the configurations 3d_fullres, 2d, 3d_lowres, 3d_cascade_fullres; got 3d"),
        (["--config", "none.json"], r"there is no file of SA-LSTM values at none.json"),
        (["-overwrite_plans_name", "nnUNetPlans"], r"must be another name than that of the plans to copy"),
        (["--gpu-memory-target", "0.1"], r"--gpu-memory-target 0.1 GB is too small: the smallest patch .* needs"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_writes_nothing(words, message, planned, capsys):
    before = sorted(planned.iterdir())
    assert plan(*words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert sorted(planned.iterdir()) == before


def test_contradictions_and_strange_targets_are_refused(planned, tmp_path, capsys):
    (tmp_path / "values.json").write_text('{"module": "B"}')
    assert plan("--module", "A", "--config", tmp_path / "values.json") == 1
    assert "--config says module 'B' but --module 'A'; leave one of them out" in capsys.readouterr().err
    for target in ("0", "-1", "nan", "much"):
        assert plan("--gpu-memory-target", target) == 2
    assert main(["plan", "-d", "77"]) == 1
    assert "the data set must be one of nnUNet_preprocessed" in capsys.readouterr().err


def change_plans(folder, change):
    plans = read(folder, "nnUNetPlans")
    change(plans["configurations"])
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    return plans


def resolved(plans, name):
    return PlansManager(plans).get_configuration(name).configuration


def test_what_is_not_named_stays_what_it_was(planned, capsys):
    """Also where it inherits from what is named, over two generations, and the named patch and batch shrink."""
    before = change_plans(
        planned, lambda c: c.update({"3d_bs2": {"inherits_from": "3d_cascade_fullres", "batch_size": 2}})
    )
    assert plan("-c", "3d_fullres", "--gpu-memory-target", "6") == 0
    made = read(planned, "nnUNetPlansSALSTM_A")
    for name in ("2d", "3d_lowres", "3d_cascade_fullres", "3d_bs2"):
        assert resolved(made, name) == resolved(before, name), name
    assert "salstm" in resolved(made, "3d_fullres")["architecture"]["arch_kwargs"]
    assert resolved(made, "3d_fullres")["batch_size"] == 2 != resolved(before, "3d_fullres")["batch_size"]
    printed = capsys.readouterr().out
    assert (
        "3d_cascade_fullres inherits from 3d_fullres and gets no blocks: it keeps its network, batch and patch.\n"
        in printed
    )
    assert "2d inherits" not in printed


def circle(configurations):
    configurations["3d_a"] = {"inherits_from": "3d_b"}
    configurations["3d_b"] = {"inherits_from": "3d_a"}


def itself(configurations):
    configurations["3d_fullres"]["inherits_from"] = "3d_fullres"


def mistyped(configurations):
    configurations["3d_cascade_fullres"]["inherits_from"] = "3d_fulres"


def primus(configurations):
    configurations["2d"]["architecture"] = {
        "network_class_name": "dynamic_network_architectures.architectures.primus.Primus_M_Network",
        "arch_kwargs": {"embed_dim": 864, "patch_embed_size": [8, 8, 8], "eva_depth": 16},
        "_kw_requires_import": [],
    }


def in_network(name, value):
    def change(configurations):
        configurations["3d_fullres"]["architecture"]["arch_kwargs"][name] = value

    return change


DAMAGED = [
    (itself, "configuration '3d_fullres' cannot be read: Circular dependency detected"),
    (circle, "configuration '3d_a' cannot be read: Circular dependency detected"),
    (mistyped, "'3d_cascade_fullres' cannot be read: The configuration 3d_fulres does not exist in the plans I have"),
    (primus, "the network must be one of PlainConvUNet, ResidualEncoderUNet, got dynamic.*Primus_M_Network"),
    (in_network("strides", [[1, 1, 1], [1, 2, 2]]), "strides must have a value for each of 6 stages, got 2"),
    (in_network("features_per_stage", [32, 64]), "features_per_stage must have a value for each of 6 stages, got 2"),
    (
        in_network("n_conv_per_stage_decoder", [2] * 6),
        "n_conv_per_stage_decoder must have a value for each of 5 stages",
    ),
    (in_network("kernel_sizes", [[3, 3, 3]]), "kernel_sizes must have a value for each of 6 stages, got 1"),
    (in_network("n_stages", "6"), "n_stages must be a whole number of at least 1, got '6'"),
    (in_network("strides", [[1, 1], *[[2, 2]] * 5]), "strides must have a value for each of 3 axes"),
    (in_network("conv_op", "torch.nn.Conv9d"), "3d_fullres: its network cannot be built: "),
    (lambda c: c["2d"].pop("architecture"), None),  # a configuration that names no network gets none
    (lambda c: c["2d"]["architecture"].pop("arch_kwargs"), "the architecture of configuration '2d' lacks arch_kwargs"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGED, ids=[str(message)[:30] for _, message in DAMAGED])
def test_damaged_plans_are_one_line_and_nothing_is_written(change, message, planned, capsys):
    change_plans(planned, change)
    before = sorted(planned.iterdir())
    status = plan("--draw")
    captured = capsys.readouterr()
    if message is None:
        assert status == 0
        return
    assert status == 1
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err
    assert sorted(planned.iterdir()) == before


def test_what_is_damaged_elsewhere_is_copied_and_said(planned, capsys):
    before = change_plans(planned, mistyped)
    assert plan("-c", "3d_fullres") == 0
    assert (
        read(planned, "nnUNetPlansSALSTM_A")["configurations"]["3d_cascade_fullres"]
        == (before["configurations"]["3d_cascade_fullres"])
    )
    assert "3d_cascade_fullres is copied as it is: configuration '3d_cascade_fullres' cannot be read: " in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("strides", [2, [1, 2, 2, 2, 2, 2]], ids=["one", "one a stage"])
def test_strides_may_be_numbers(strides, planned):
    plain = in_network("strides", strides)
    change_plans(planned, plain)
    assert plan("-c", "3d_fullres", "--draw", "--gpu-memory-target", "6") == 0
    made = read(planned, "nnUNetPlansSALSTM_A")["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    expected = [strides] * 6 if isinstance(strides, int) else strides
    assert made["strides"] == [[stride] * 3 for stride in expected]
    assert (planned / "nnUNetPlansSALSTM_A_3d_fullres.svg").is_file()


def test_a_reduction_that_does_not_divide_names_one_that_does(planned, tmp_path, capsys):
    change_plans(planned, in_network("features_per_stage", [30, 60, 120, 240, 300, 300]))
    (tmp_path / "values.json").write_text('{"max_hidden_channels": 999, "reduction": 4}')
    words = ["-c", "3d_fullres", "--config", tmp_path / "values.json"]
    assert plan(*words) == 1
    error = capsys.readouterr().err
    assert "reduction must divide the 30 channels" in error
    assert "3 divides all: set reduction to 3" in error
    (tmp_path / "values.json").write_text('{"max_hidden_channels": 999, "reduction": 3}')
    assert plan(*words) == 0


def test_a_cascade_without_its_first_stage_is_said_to_be_one(planned, capsys):
    change_plans(planned, lambda configurations: configurations.pop("3d_lowres"))
    assert plan() == 0
    assert "# 3d_cascade_fullres needs predictions of 3d_lowres, which these plans do not have" in (
        capsys.readouterr().out
    )


# Memory


@pytest.mark.parametrize("dims", [2, 3])
def test_the_reference_is_nnunets_own(dims, nnunet_folders, monkeypatch):
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    for name in ("raw", "preprocessed"):
        folder = nnunet_folders / name / DATASET
        folder.mkdir()
        (folder / "dataset_fingerprint.json").write_text("{}")
        (folder / "dataset.json").write_text(
            '{"numTraining": 0, "file_ending": ".nii.gz", "channel_names": {"0": "x"}}'
        )
    (nnunet_folders / "raw" / DATASET / "imagesTr").mkdir()
    for network, module, planner in (
        ("PlainConvUNet", default_experiment_planner, "ExperimentPlanner"),
        ("ResidualEncoderUNet", residual_encoder_unet_planners, "nnUNetPlannerResEncM"),
    ):
        for place in (default_experiment_planner, module):
            for name in ("raw", "preprocessed"):
                monkeypatch.setattr(place, f"nnUNet_{name}", str(nnunet_folders / name), raising=False)
        monkeypatch.setattr(default_experiment_planner, "maybe_convert_to_dataset_name", lambda name: name)
        nnunets = getattr(module, planner)(DATASET)
        values = getattr(nnunets, f"UNet_reference_val_{dims}d") * getattr(
            nnunets, f"UNet_reference_val_corresp_bs_{dims}d"
        )
        assert REFERENCE_VALUES[network, dims] == values
        assert nnunets.UNet_reference_val_corresp_GB == REFERENCE_GB


def test_the_estimate_is_the_networks_own():
    for plan_ in (tiny(3), as_residual_encoder(tiny(3), 2)):
        configuration = add_to_plans(plans_of(plan_), "3d_fullres", {"module": "A"})["configurations"]["3d_fullres"]
        architecture, patch = configuration["architecture"], configuration["patch_size"]
        values = int(build(plan_, {"module": "A"}).compute_conv_feature_map_size(patch))
        reference = REFERENCE_VALUES[plan_["architecture"]["network_class_name"].rpartition(".")[2], 3]
        assert MemoryEstimate(architecture, 3).gigabytes(patch, 5) == pytest.approx(
            5 * values / reference * REFERENCE_GB
        )


def compared():
    """Returns (plan, trainer, GB estimated, GB measured) of all that was measured on the CPU."""
    rows = []
    for name in ("bench_cpu", "bench_cpu_large", "bench_25d"):
        for measured in json.loads((RESULTS / f"{name}.json").read_text())["measurements"]:
            preset = SHIPPED[measured["plan"]]
            plans, demanded = plans_of(preset), TrainerName.parse(measured["trainer"]).salstm
            if demanded is not None:
                plans = add_to_plans(plans, name_of(preset), demanded)
            estimate = MemoryEstimate(architecture_of(plans, name_of(preset)), 2)
            estimated = estimate.gigabytes(measured["patch_size"], measured["batch_size"])
            rows.append((measured["plan"], measured["trainer"], estimated, measured["peak_memory"] / 1e9))
    return rows


def test_estimates_rank_as_measurements_do():
    rows = compared()
    text = (RESULTS.parent / "performance.md").read_text()
    estimated, measured = [row[2] for row in rows], [row[3] for row in rows]
    correlation = spearmanr(estimated, measured).statistic
    assert correlation > 0.85
    ratios = [a / b for a, b in zip(estimated, measured, strict=True)]
    # What planning is about: how much more than the stock network.
    shares = {}
    for plan_, trainer, estimate, measurement in rows:
        if trainer == "nnUNetTrainerSALSTMOff":
            stock = estimate, measurement
        else:
            shares[plan_, trainer.endswith("25d")] = shares.get((plan_, trainer.endswith("25d")), [])
            shares[plan_, trainer.endswith("25d")].append(estimate / stock[0] - measurement / stock[1])
    slices = [share for (_, frames), values in shares.items() if not frames for share in values]
    frames = [share for (_, frames), values in shares.items() if frames for share in values]
    assert -0.02 < min(slices) <= max(slices) < 0.05
    assert (
        f"Spearman's rank correlation is {correlation:.2f} over {len(rows)} networks; the estimate is between "
        f"{min(ratios):.2f} and {max(ratios):.2f} of what was measured"
    ) in text.replace("\n", " ")
    assert (
        f"by {100 * min(slices):.1f} to {100 * max(slices):.1f} per cent of the stock network's memory, in 2.5D by up "
        f"to {100 * max(frames):.0f} per cent"
    ) in text.replace("\n", " ")


def fit_of(plan_, values=None):
    name = name_of(plan_)
    plans = add_to_plans(plans_of(plan_), name, {"module": "A", **(values or {})})
    configuration = plans["configurations"][name]
    config = SALSTMConfig.from_json(configuration["architecture"]["arch_kwargs"]["salstm"])
    training = Training(config, tuple(configuration["patch_size"]), configuration["batch_size"])
    return Fit(configuration["architecture"], training, configuration["patch_size"], classes=2)


def test_what_fits_is_left_alone():
    fit = fit_of(PRESETS["acdc3d"])
    asked = fit.gigabytes(fit.planned)
    assert fit.search(asked) == fit.planned
    assert fit.planned.changes(fit.planned) == []
    assert fit.search(0.9999 * asked) != fit.planned


@pytest.mark.parametrize("preset", ["hippocampus3d", "acdc2d", "acdc3d", "brats3d"])
def test_blocks_shrink_first_then_the_batch_and_the_patch_last(preset):
    fit = fit_of(PRESETS[preset])
    planned, asked = fit.planned, fit.gigabytes(fit.planned)
    stock = MemoryEstimate(PRESETS[preset]["architecture"], 2).gigabytes(planned.patch_size, planned.batch_size)
    least = fit.gigabytes(replace(planned, config=list(fit._smaller_blocks())[-1]))
    for target in (stock + 0.9 * (asked - stock), least):
        found = fit.search(target)
        assert (found.patch_size, found.batch_size) == (planned.patch_size, planned.batch_size)
        assert fit.gigabytes(found) <= target
        assert found.config.grid > planned.config.grid
        assert (found.config.placement == "all") == (target > least)
        # The bottleneck keeps its block longest.
        stages = PRESETS[preset]["architecture"]["arch_kwargs"]["n_stages"]
        assert found.config.stages(stages)[-1] == stages - 1
    # Below the stock network's memory the planned blocks stay where a smaller batch will do.
    found = fit.search(0.8 * stock)
    assert fit.gigabytes(found) <= 0.8 * stock
    if planned.batch_size > 2:
        assert (found.config, found.patch_size) == (planned.config, planned.patch_size)
        assert 2 <= found.batch_size < planned.batch_size
        assert fit.gigabytes(replace(found, batch_size=found.batch_size + 1)) > 0.8 * stock
    else:
        assert found.patch_size < planned.patch_size
    least = fit.search(0.25 * asked / planned.batch_size * 2)
    assert least.batch_size == 2
    divisors = torch.tensor(PRESETS[preset]["architecture"]["arch_kwargs"]["strides"]).prod(0)
    assert least.patch_size != planned.patch_size
    assert (torch.tensor(least.patch_size) % divisors == 0).all()


def test_every_step_of_the_search_is_a_network_that_can_be_built():
    fit = fit_of(PRESETS["acdc3d"])
    trainings = list(fit._smaller())
    assert trainings[0] == fit.planned
    sizes = [fit.gigabytes(training) for training in trainings]
    blocks = [size for size, training in zip(sizes, trainings, strict=True) if training.batch_size == 4]
    assert blocks == sorted(blocks, reverse=True)
    with pytest.raises(SalstmError, match=r"20 x 32 x 32|needs"):
        fit.search(0.99 * min(sizes))
    assert fit.search(min(sizes)) is not None


def test_the_changes_are_written_and_said(planned, capsys):
    assert plan("-c", "3d_fullres", "--gpu-memory-target", "6") == 0
    made = read(planned, "nnUNetPlansSALSTM_A")["configurations"]["3d_fullres"]
    printed = capsys.readouterr().out
    assert "3d_fullres: 9.07 GB would pass the target of 6 GB. Changed:" in printed
    assert "batch size 4 -> 2" in printed
    assert made["batch_size"] == 2
    estimate = MemoryEstimate(made["architecture"], 2).gigabytes(made["patch_size"], made["batch_size"])
    assert estimate <= 6
    assert f"{estimate:.2f} |" in printed


# The picture


def texts(svg):
    """Returns what matplotlib wrote into a picture, whatever its version made of the letters."""
    return re.findall(r"<!-- (.*?) -->", svg)


def test_the_picture_in_the_documentation_is_the_planned_networks():
    configuration = add_to_plans(plans_of(PRESETS["acdc3d"]), "3d_fullres", {"module": "A"})["configurations"]
    drawn = draw_network(configuration["3d_fullres"], "3d_fullres")
    assert texts(drawn) == texts((RESULTS.parent / "figures" / "planned_network.svg").read_text())
    assert len(texts(drawn)) > 20


def test_the_picture_shows_the_blocks_where_they_are(planned, tmp_path):
    (tmp_path / "values.json").write_text('{"placement": "skips"}')
    assert plan("-c", "2d", "3d_fullres", "--draw", "--config", tmp_path / "values.json") == 0
    picture = planned / "nnUNetPlansSALSTM_A_3d_fullres.svg"
    assert (planned / "nnUNetPlansSALSTM_A_2d.svg").is_file()
    root = ElementTree.fromstring(picture.read_text())
    assert root.tag.endswith("svg")
    comments = texts(picture.read_text())
    arguments = read(planned, "nnUNetPlansSALSTM_A")["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    stages = arguments["n_stages"]
    assert sum("SALSTM (A)" in comment for comment in comments) == stages - 1
    assert sum(comment.endswith(" cells") for comment in comments) == stages - 1
    # Of strides (1, 2, 2) and (2, 2, 2), the next two stages', at 20 x 256 x 224 voxels.
    assert "10 x 64 x 56 cells" in comments
    assert comments.count("320 channels") == 3  # two encoder stages, one of them the bottleneck, and a decoder's
