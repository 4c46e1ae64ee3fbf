"""The benchmark: presets that nnU-Net would plan, honest clocks and ratios, and rows that fail alone."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from presets import plans_of, tiny
from torch import nn

from nnunetv2_salstm import cli
from nnunetv2_salstm.commands.bench import _document
from nnunetv2_salstm.evaluation import measure, measure_processes
from nnunetv2_salstm.evaluation import measure_worker as worker
from nnunetv2_salstm.evaluation.benchmark import BASELINE, Benchmark
from nnunetv2_salstm.evaluation.measure import Subject, is_out_of_memory, time_in_turns
from nnunetv2_salstm.host.configurations import BenchPlan, plans_in_file, plans_of_dataset
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.presets import PRESETS, load_preset, name_of
from nnunetv2_salstm.reporting.document import to_html, to_terminal

A, B = "nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTM_B"

DATASET_JSON = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_wandb_enabled", "0")
    return tmp_path


def tiny_plan(dataset_json=None):
    return BenchPlan("tiny", plans_of(tiny(3)), "3d_fullres", dataset_json or DATASET_JSON)


# Presets: the data sets' published spacing in mm, median size in voxels and number of training cases.

FACTS = {
    "hippocampus": ((1, 1, 1), (36, 50, 35), 260),
    "acdc": ((5, 1.5625, 1.5625), (18, 237, 208), 200),
    "btcv": ((3, 0.76, 0.76), (148, 512, 512), 30),
    "brats": ((1, 1, 1), (138, 171, 137), 1251),
    "isic": ((999, 1, 1), (1, 512, 512), 2594),
}
# nnU-Net's planner builds every network that it weighs: the larger ones at night.
QUICK = ("hippocampus3d", "acdc2d", "hippocampus3d_resenc")


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[pytest.mark.nightly] * (name not in QUICK)) for name in PRESETS]
)
def test_presets_are_what_nnunet_plans(preset, nnunet_folders, monkeypatch):
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
        nnUNetPlannerResEncM,
    )

    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    plans, dataset_json = load_preset(preset)
    spacing, shape, cases = next(facts for name, facts in FACTS.items() if preset.startswith(name))
    raw, preprocessed = (nnunet_folders / name / "Dataset001_Facts" for name in ("raw", "preprocessed"))
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True)
    for channel in dataset_json["channel_names"]:
        (raw / "imagesTr" / f"case_{int(channel):04d}.nii.gz").touch()
    (raw / "labelsTr" / "case.nii.gz").touch()
    description = {**dataset_json, "numTraining": cases, "overwrite_image_reader_writer": "SimpleITKIO"}
    (raw / "dataset.json").write_text(json.dumps(description))
    fingerprint = {
        "spacings": [spacing] * cases,
        "shapes_after_crop": [shape] * cases,
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    planner = nnUNetPlannerResEncM if preset.endswith("resenc") else ExperimentPlanner
    planned = json.loads(json.dumps(planner("Dataset001_Facts").plan_experiment()))
    configuration = name_of(PRESETS[preset])
    theirs, ours = planned["configurations"][configuration], plans["configurations"][configuration]
    assert ours["architecture"] == theirs["architecture"]
    names = ("patch_size", "batch_size", "spacing", "batch_dice")
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


# Measuring


def test_a_step_is_nnunets_and_a_tile_is_one_patch(nnunet_folders):
    subject = Subject(A, tiny_plan(), "cpu")
    assert subject.batch_size == 2
    before = {name: parameter.clone() for name, parameter in subject.network.named_parameters()}
    for _ in range(2):  # in the first step the blocks' last convolutions are zero
        subject.train_step()
    moved = [name for name, parameter in subject.network.named_parameters() if not torch.equal(parameter, before[name])]
    assert any(name.startswith("encoder") for name in moved)
    assert any(name.startswith("salstm") and "forward_net" in name for name in moved)
    seen = []
    subject.network.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].shape, output)))
    subject.prepare_inference()
    subject.infer()
    ((shape, output),) = seen
    assert tuple(shape) == (1, 1, 8, 24, 16)
    assert tuple(output.shape) == (1, 3, 8, 24, 16)
    assert output.is_inference()


def test_a_25d_trainer_gets_the_plans_data_with_neighbours(nnunet_folders):
    plan = BenchPlan("tiny 2d", plans_of({**tiny(2), "batch_size": 6}), "2d", DATASET_JSON)
    channels = len(DATASET_JSON["channel_names"])
    subjects = {name: Subject(name, plan, "cpu") for name in (BASELINE, f"{A}_25d")}
    assert [subject.tile.shape[1] for subject in subjects.values()] == [channels, 3 * channels]
    assert [subject.batch_size for subject in subjects.values()] == [6, 2]
    for subject in subjects.values():
        subject.train_step()
    flops = [subject.count_flops() for subject in subjects.values()]
    assert 1.5 < flops[1] / flops[0] < 3


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ({"background": 0, "a": 1, "ignore": 2}, None),
        ({"background": 0, "whole": [1, 2], "core": 2}, [1, 2]),
    ],
    ids=["ignore", "regions"],
)
def test_trains_on_every_kind_of_labels(labels, order, nnunet_folders):
    description = {**DATASET_JSON, "labels": labels, **({"regions_class_order": order} if order else {})}
    Subject(BASELINE, tiny_plan(description), "cpu").train_step()


def test_the_batch_is_bounded_not_set(nnunet_folders):
    assert Subject(BASELINE, tiny_plan(), "cpu", batch_size=1).batch_size == 1
    assert Subject(BASELINE, tiny_plan(), "cpu", batch_size=5).batch_size == 2


def test_flops_are_those_of_the_convolutions(nnunet_folders):
    subject = Subject(BASELINE, tiny_plan(), "cpu")
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        # A transposed convolution applies its kernel once for each voxel of its input.
        spread = inputs[0] if isinstance(module, nn.modules.conv._ConvTransposeNd) else output
        counted += (
            2 * math.prod(spread.shape[2:]) * math.prod(module.kernel_size) * module.in_channels * module.out_channels
        )

    for module in subject.network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.register_forward_hook(count)
    assert subject.count_flops() == counted > 0


def test_a_tile_is_the_median_of_many_that_were_taken_in_turns(monkeypatch):
    monkeypatch.setattr(measure, "MOST_TILES", 3)
    seconds = iter([*[1] * 4, *[0.1] * 2, *(1, 10), *(20, 2), *(3, 30), *(40, 4), *(5, 50), *(60, 6)])
    monkeypatch.setattr(measure, "_seconds", lambda work: float(next(seconds)))
    times = time_in_turns({name: Fake(name, []) for name in "ab"}, 2, lambda: None)
    # The first four are training steps, two warm up.
    assert times["a"]["inference_tile"] == [2, 5]
    assert times["b"]["inference_tile"] == [20, 50]


class Fake:
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def train_step(self):
        self.calls.append(self.name)

    def prepare_inference(self):
        self.calls.append("inference")

    def infer(self):
        self.calls.append(self.name)


def test_trainers_take_turns_in_rotating_order(monkeypatch):
    monkeypatch.setattr(measure, "MOST_TILES", 1)
    calls, steps = [], []
    times = time_in_turns({name: Fake(name, calls) for name in "abc"}, 4, lambda: steps.append(None))
    turns = list("abcbcacababc")
    assert calls == [*turns, *["inference"] * 3, *"aabbcc", *turns]
    assert len(steps) == 24
    assert {name: {kind: len(values) for kind, values in kinds.items()} for name, kinds in times.items()} == {
        name: {"training_step": 4, "inference_tile": 4} for name in "abc"
    }


def test_memory_is_the_peak_and_not_what_is_left():
    code = (
        "from nnunetv2_salstm.evaluation.peak_memory import measure_growth\n"
        "def work():\n"
        "    b'x' * 200_000_000\n"
        "    return b'x' * 20_000_000\n"
        "print(measure_growth('cpu', work)[1])"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    if result.stdout.strip() == "None":
        pytest.skip("this system does not tell")
    assert 195e6 < int(result.stdout) < 260e6


def test_knows_what_running_out_of_memory_looks_like():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_a_worker_reports_each_trainer_and_goes_on(nnunet_folders, capfd):
    events = []
    plan = tiny_plan()
    job = worker.Job(plan, [BASELINE, "nnUNetTrainerSALSTM_A_seed1", A], "cpu", None, 2)
    job.write(nnunet_folders / "job.json")
    assert worker.Job.read(nnunet_folders / "job.json") == job
    with pytest.MonkeyPatch.context() as patch:
        real = measure.measure_size

        def fail(name, *arguments):
            if name.endswith("seed1"):
                raise MemoryError
            return real(name, *arguments)

        patch.setattr(measure, "measure_size", fail)
        patch.setattr(measure, "MOST_TILES", 1)
        patch.setattr(worker.multiprocessing, "cpu_count", torch.get_num_threads)
        worker.work(job, events.append)
    kinds = [event["event"] for event in events if event["event"] != "step"]
    assert kinds == ["size", "failed", "size", "times"]
    failed = next(event for event in events if event["event"] == "failed")
    assert (failed["trainer"], failed["error"]) == ("nnUNetTrainerSALSTM_A_seed1", "does not fit in memory")
    stock, ours = (event for event in events if event["event"] == "size")
    assert 1 < ours["parameters"] / stock["parameters"] < 1.3
    assert ours["flops"] > stock["flops"] > 0
    assert set(events[-1]["times"]) == {BASELINE, A}
    assert sum(event["event"] == "step" for event in events) == 2 * 2 + 2 * 2 * 2


def run_fake_worker(tmp_path, monkeypatch, script):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(measure_processes.sys, "executable", str(fake))
    job = worker.Job(tiny_plan(), [BASELINE, A], "cpu", None, 1)
    return list(measure_processes._run_worker(job, tmp_path, {}, lambda: None))


def test_a_killed_process_ran_out_of_memory(tmp_path, monkeypatch):
    events = run_fake_worker(tmp_path, monkeypatch, "kill -9 $$")
    assert [(event["trainer"], event["error"]) for event in events] == [
        (BASELINE, "does not fit in memory"),
        (A, "does not fit in memory"),
    ]


def test_a_process_that_crashed_is_an_error_with_its_last_words(tmp_path, monkeypatch):
    with pytest.raises(SalstmError, match=r"measuring tiny failed with status 3:\nlast words"):
        run_fake_worker(tmp_path, monkeypatch, "echo last words >&2; exit 3")


# Plans


def test_a_file_of_plans_gives_every_configuration_with_a_network(tmp_path):
    plans = tiny_plan().plans
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres"}
    plans["configurations"]["nothing"] = {"batch_size": 2}
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(json.dumps(plans))
    assert [plan.configuration for plan in plans_in_file(file)] == ["3d_fullres", "3d_cascade_fullres"]
    (plan,) = plans_in_file(file, ["3d_fullres"])
    assert plan.name == "Dataset999_Preset 3d_fullres"
    assert plan.dataset_json["labels"] == {"background": 0, "label 1": 1}
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON))
    assert plans_in_file(file, ["3d_fullres"])[0].dataset_json == DATASET_JSON


def test_a_data_set_is_found_by_number_and_by_name(tmp_path, monkeypatch):
    folder = tmp_path / "Dataset004_Hippocampus"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(tiny_plan().plans))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    for name in ("4", "004", "Dataset004_Hippocampus"):
        assert plans_of_dataset(name, "nnUNetPlans", ["3d_fullres"])[0].configuration == "3d_fullres"
    with pytest.raises(SalstmError, match=r"has Dataset004_Hippocampus; got 5; plan it with"):
        plans_of_dataset("5", "nnUNetPlans", ["3d_fullres"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "hippo"], f"--preset must name some of {', '.join(PRESETS)}; got hippo"),
        (["--preset", "acdc2d", "-c", "2d"], "-c needs a data set (-d) or a file of plans"),
        (["-tr", "nnUNetTrainerSALSTM_C"], "nnU-Net finds no trainer nnUNetTrainerSALSTM_C; one of this"),
        (["--plans", "absent.json"], "there is no file of plans at absent.json"),
        (["--plans", "{broken}"], "is not JSON"),
        (["--plans", "{list}"], "holds no plans"),
        (["--plans", "{empty}"], "holds no nnU-Net plans (no configurations)"),
        (["--plans", "{good}", "-c", "4d"], "has the configurations 3d_fullres; got 4d"),
        (["-d", "4"], "-d needs the configurations too"),
        (["-d", "4", "-c", "2d"], "set the variable nnUNet_preprocessed"),
        (["--json", "{folder}"], "cannot be written; choose another place"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    texts = {"broken": "{", "list": "[]", "empty": "{}", "good": json.dumps(tiny_plan().plans)}
    files = {"folder": tmp_path}
    for name, text in texts.items():
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(text)
    assert cli.main(["bench", *(argument.format(**files) for argument in arguments)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("nnUNetv2_salstm bench: ")
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_line(capsys):
    assert cli.main(["bench", "-device", "cuda"]) == 1
    assert capsys.readouterr().err.endswith("it finds none; run with -device cpu\n")


# Report


def measured(plan, trainer, step, tile, memory=100, parameters=1000, error=None):
    return {
        **{"plan": plan, "configuration": "2d", "trainer": trainer, "patch_size": [8, 8], "batch_size": 2},
        **{"compiled": False, "parameters": parameters, "flops": 10**9, "peak_memory": memory},
        **{"first_step_seconds": 1.0, "training_step": step, "inference_tile": tile, "error": error},
    }


@pytest.fixture
def benchmark():
    return Benchmark(
        "nnUNetv2_salstm bench --preset <x>",
        3,
        {"torch": "2"},
        {"device": "a chip"},
        [
            measured("one", BASELINE, [1.0, 2.0, 4.0], [0.1, 0.1, 0.1]),
            measured("one", A, [1.5, 2.0, 5.0], [0.2, 0.1, 0.3], memory=110, parameters=1200),
            measured("two", BASELINE, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
            measured("two", A, [1.5, 1.5, 1.5], [1.0, 1.0, 1.0], memory=130),
            {
                **dict.fromkeys(measured("", "", [], [])),
                **{"plan": "three", "trainer": BASELINE, "patch_size": [8, 8], "error": "does not fit in memory"},
            },
            measured("three", A, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
        ],
    )


def test_ratios_are_of_medians_with_the_range_of_the_rounds(benchmark):
    frame = benchmark.frame().set_index(["plan", "trainer"])
    ours = frame.loc[("one", A)]

    def compared(quantity):
        return [ours[f"{quantity}{what}"] for what in ("", "_ratio", "_low", "_high")]

    assert compared("training_step") == [2.0, 1.0, 1.0, 1.5]
    assert compared("inference_tile") == pytest.approx([0.2, 2.0, 1.0, 3.0])
    assert compared("parameters")[:2] == [1200, 1.2]
    assert frame["parameters_low"].isna().all()
    assert math.isnan(frame.loc[("three", A), "training_step_ratio"])
    assert frame["error"].notna().tolist() == [False] * 4 + [True, False]
    summary = benchmark.summary()[A]
    assert summary["training_step"] == {"mean": pytest.approx(1.5**0.5), "worst": 1.5, "plans": 2}
    assert summary["peak_memory"]["worst"] == 1.3


def test_no_ratio_without_the_stock_network(benchmark):
    ours = [m for m in benchmark.measurements if m["trainer"] == A]
    alone = Benchmark(benchmark.command, 3, {}, {}, ours)
    assert "(x" not in to_terminal(_document(alone))
    assert "there are no ratios" in to_terminal(_document(alone))
    assert alone.summary() == {}
    assert "<svg" not in to_html(_document(alone))
    assert all(row["ratio"] == {} for row in json.loads(alone.to_json())["measurements"])


def test_table_json_and_page_say_the_same(benchmark):
    document = _document(benchmark)
    table = to_terminal(document)
    assert "2 (x 1.00, 1.00-1.50)" in table
    assert "0.2 (x 2.00, 1.00-3.00)" in table
    assert "does not fit in memory" in table
    sentence = f"{A}, mean ratios over the plans: parameters 1.095 (worst 1.200), training step 1.225 (worst 1.500)"
    assert sentence in " ".join(table.split())
    values = json.loads(benchmark.to_json())
    assert values["measurements"][1]["ratio"]["training_step"] == {"value": 1.0, "low": 1.0, "high": 1.5}
    assert Benchmark.from_json(benchmark.to_json()) == benchmark
    page = to_html(document)
    assert "<svg" in page
    assert "does not fit in memory" in page
    assert "2 (x 1.00, 1.00-1.50)" in page
    assert "&lt;x&gt;" in page
    assert page == to_html(_document(benchmark))


@pytest.mark.nightly
def test_the_command_measures_what_fits_and_reports_what_does_not(tmp_path):
    plans = tiny_plan().plans
    huge = json.loads(json.dumps(plans["configurations"]["3d_fullres"]))
    huge["patch_size"] = [8192, 8192, 8192]
    plans["configurations"]["3d_huge"] = huge
    file = tmp_path / "plans" / "nnUNetPlans.json"
    file.parent.mkdir()
    file.write_text(json.dumps(plans))
    command = [Path(sys.executable).parent / "nnUNetv2_salstm", "bench", "--plans", file, "-tr", BASELINE, A]
    command += ["--repeats", "2", "--json", "new/bench.json", "--html", "bench.html"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "new" / "bench.json").read_text())
    fits, too_large = found["measurements"][:2], found["measurements"][2:]
    assert [m["error"] for m in fits] == [None, None]
    assert [m["error"] for m in too_large] == ["does not fit in memory"] * 2
    ratio = fits[1]["ratio"]
    assert 1 < ratio["parameters"]["value"] < 1.3
    assert ratio["training_step"]["low"] <= ratio["training_step"]["high"]
    assert len(fits[1]["training_step"]) == len(fits[1]["inference_tile"]) == 2
    if sys.platform == "linux":
        assert fits[0]["peak_memory"] > 1e6
    assert found["command"].startswith("nnUNetv2_salstm bench --plans")
    assert "does not fit in memory" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.html", "new", "plans"]
