"""The planned costs of a study: the scheduler against hand-computed cases, and docs/scale.md against the script."""

import json
import re
import runpy
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from nnunetv2_salstm.evaluation.benchmark import Benchmark
from nnunetv2_salstm.host.presets import PRESETS
from nnunetv2_salstm.study import launch
from nnunetv2_salstm.study.state import Folder
from nnunetv2_salstm.study.study import read_study

# A warning of nnU-Net's own imports.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.interface:FutureWarning")

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
list_scheduler, study_cost = import_module("list_scheduler"), import_module("study_cost")
PAGE = (ROOT / "docs" / "scale.md").read_text()
WRITTEN = json.loads((ROOT / "docs" / "results" / "study_cost.json").read_text())
REPORTS = [Benchmark.from_json(file.read_text()) for file in study_cost.BENCHMARKS]
TINY = {
    "name": "tiny",
    "datasets": [27],
    "configurations": ["3d_fullres", "2d"],
    "folds": [0, 1],
    "trainers": ["nnUNetTrainerSALSTMOff", "nnUNetTrainerSALSTM_A"],
    "seeds": [0],
    "num_parts": 3,
}


SAMPLES = {"27": "ACDC", "701": "ISIC", "702": "CVC-ClinicDB"}


def job(name, hours, gpus=1, cpus=1, after=(), array="", **more):
    return list_scheduler.Job(name, array or name, hours, gpus, cpus, tuple(after), **more)


def times(jobs, gpus, cpus=1000):
    return list_scheduler.schedule(jobs, gpus, cpus)


def makespan(jobs, gpus):
    return max(end for _, end in times(jobs, gpus).values())


@pytest.fixture
def tiny(tmp_path):
    """Writes a small study with some keys changed, and reads it."""

    def write(**changes):
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
        return read_study(file)

    return write


@pytest.fixture(scope="module", autouse=True)
def datasets():
    """The data sets' folders, with empty files."""
    with study_cost.empty_datasets():
        yield


DIAMOND = [job("a", 1), job("b", 2, after="a"), job("c", 3, after="a"), job("d", 4, after="bc"), job("e", 1)]


def test_one_gpu_takes_the_sum_and_many_the_longest_chain():
    assert makespan(DIAMOND, 1) == list_scheduler.gpu_hours(DIAMOND) == 11
    assert makespan(DIAMOND, 10) == list_scheduler.critical_path(DIAMOND) == 8


def test_jobs_start_in_the_order_of_the_queue_when_what_they_wait_for_has_ended():
    assert times(DIAMOND, 2) == {"a": (0, 1), "e": (0, 1), "b": (1, 3), "c": (1, 4), "d": (4, 8)}
    assert times([job("a", 3), job("b", 2), job("c", 2), job("d", 1)], 2) == {
        "a": (0, 3), "b": (0, 2), "c": (2, 4), "d": (3, 4),
    }  # fmt: skip


def test_a_smaller_job_starts_before_one_of_two_gpus_that_finds_no_room():
    found = times([job("a", 3), job("b", 1, gpus=2), job("c", 2)], 2)
    assert found == {"a": (0, 3), "c": (0, 2), "b": (3, 4)}


def test_cores_and_arrays_limit_too():
    assert times([job("a", 1, cpus=12), job("b", 1, cpus=12)], 2, cpus=16) == {"a": (0, 1), "b": (1, 2)}
    array = [job(name, 1, array="x", parallel=2) for name in "abc"]
    assert times([*array, job("d", 1)], 8) == {"a": (0, 1), "b": (0, 1), "d": (0, 1), "c": (1, 2)}


@pytest.mark.parametrize(
    "jobs", [[job("a", 1, gpus=3)], [job("a", 1, after="b"), job("b", 1, after="a")]], ids=["large", "circle"]
)
def test_what_never_starts_is_refused(jobs):
    with pytest.raises(ValueError, match=r"a and \d others never start"):
        times(jobs, 2)


def test_a_time_limit_costs_what_lies_behind_the_last_checkpoint():
    start = study_cost.START
    assert study_cost.under_limit(10, 24, 0.5) == (1, start + 10)
    # Of 4 h, 3 h 55 min are epochs, of which 3.5 h are kept: 10, 6.5 and 3 h are left.
    assert study_cost.under_limit(10, 4, 0.5) == (3, 2 * 4 + start + 3)
    with pytest.raises(SystemExit, match=r"0\.5 h is shorter than a start and 0\.50 h"):
        study_cost.under_limit(10, 0.5, 0.5)


def test_checkpoints_are_as_far_apart_as_the_trainers_save_them():
    assert study_cost.between_checkpoints(1000) == 50 / 1000
    assert study_cost.between_checkpoints(100) == 5 / 100
    assert study_cost.between_checkpoints(2) == 1 / 2


def test_measured_steps_are_250_training_steps_and_50_validation_batches():
    (report,) = [r for r in REPORTS if "acdc3d" in r.plans]
    stock = next(m for m in report.measurements if (m.plan, m.trainer) == ("acdc3d", study_cost.BASELINE))
    assert stock.batch_size == 1
    epoch = 4 * (250 * stock.value("training_step") + 50 * stock.value("inference_tile"))
    measured = study_cost.Costs(REPORTS, "measured")
    assert measured.stock_hours("acdc3d") == pytest.approx(epoch * 1000 / 3600)
    # Measured with the plan's own batch, as on a GPU, nothing is scaled.
    whole = replace(stock, batch_size=4, training_step=[4 * seconds for seconds in stock.training_step])
    report = replace(report, measurements=[whole])
    assert study_cost.Costs([report], "measured").stock_hours("acdc3d") == pytest.approx(epoch * 1000 / 3600)
    # Nine hours, whichever way they are scaled.
    for reading in study_cost.READINGS:
        assert study_cost.Costs(REPORTS, reading).stock_hours("acdc3d") == pytest.approx(9)


def test_the_jobs_are_submitted_as_the_matrix_does(tiny, monkeypatch):
    study, arrays = tiny(), []

    def submit(study, tasks, folder, after):
        arrays.append([task.name for task in tasks])
        return [f"{len(arrays)}_{number}" for number in range(len(tasks))]

    monkeypatch.setattr(launch, "_submit", submit)
    monkeypatch.setattr(Folder, "queued_job", lambda *arguments: None)
    expanded = study_cost.tasks_of([study])
    launch.submit_to_slurm(study, expanded[0][1], Folder(study.name))
    jobs = study_cost.jobs_of(expanded, study_cost.Costs(REPORTS, "published"))
    assert [job.name for job in jobs] == [name for array in arrays for name in array]
    ours = list(dict.fromkeys(job.array for job in jobs))
    assert [[job.name for job in jobs if job.array == array] for array in ours] == arrays
    # 1 preprocessing, 2 x 2 x 2 trainings, 3 parts of 4 models, 2 comparisons of validation and 2 of test, a report.
    assert [len(array) for array in arrays] == [1, 8, 3, 3, 1, 1, 3, 3, 1, 1, 1]


def test_hours_of_tasks_follow_arms_epochs_and_cases(tiny):
    costs = study_cost.Costs(REPORTS, "published")

    def hours_of(study):
        jobs = study_cost.jobs_of(study_cost.tasks_of([study]), costs)
        return {job.name.removesuffix("__nnUNetPlans__3d_fullres__fold_0"): job.hours for job in jobs}

    full, short = hours_of(tiny(epochs=1000)), hours_of(tiny(epochs=250))
    names = [f"train__Dataset027_ACDC__nnUNetTrainerSALSTM{arm}_{{}}epochs_seed0" for arm in ("Off", "_A")]
    rest = study_cost.START + 40 * sum(costs.case_hours(study_cost.DATASETS["27"], "3d_fullres", study_cost.BASELINE))
    assert full[names[0].format(1000)] == pytest.approx(9 + rest)
    assert short[names[0].format(250)] == pytest.approx(9 / 4 + rest)
    ratio = WRITTEN["arms"]["nnUNetTrainerSALSTM_A"]["time"]
    assert full[names[1].format(1000)] == pytest.approx(9 * ratio + rest, rel=1e-3)


def test_data_sets_without_figures_and_arms_without_benchmark_are_refused(tiny):
    with pytest.raises(SystemExit, match="no figures for the data sets 4; known: 27, 703"):
        study_cost.tasks_of([tiny(datasets=[4])])
    with pytest.raises(SystemExit, match="no nnUNetTrainerSALSTMOff on btcv3d"):
        study_cost.Costs(REPORTS[:1], "published").stock("btcv3d")
    with pytest.raises(SystemExit, match="no nnUNetTrainerSALSTM_A_25d; measure it"):
        study_cost.estimate([tiny(trainers=["nnUNetTrainerSALSTM_A_25d"])], REPORTS, "published")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The script's results now."""
    folder = tmp_path_factory.mktemp("cost")
    study_cost.main(["--out", str(folder / "cost.json"), "--figure", str(folder / "queue.svg")])
    assert (folder / "queue.svg").read_text().count("GPUs: ") == (
        ROOT / "docs" / "figures" / "study_queue.svg"
    ).read_text().count("GPUs: ")
    return json.loads((folder / "cost.json").read_text())


def test_the_results_are_the_scripts(again):
    ours = {name: value for name, value in again.items() if name not in ("command", "versions")}
    assert ours == {name: value for name, value in WRITTEN.items() if name not in ("command", "versions")}
    assert WRITTEN["command"].startswith("python benchmarks/study_cost.py --out docs/results/study_cost.json")


def test_the_script_takes_other_studies(monkeypatch, capsys):
    script = ROOT / "benchmarks" / "study_cost.py"
    monkeypatch.setattr(sys, "argv", [script.name, str(ROOT / "examples" / "studies" / "acdc_full.yaml")])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| train      |    150 |" in printed
    assert "Synapse" not in printed
    # Arrays of 32 at most.
    days, busy = re.search(r"\| 64   \| +([\d.]+) \| +([\d.]+)% \|", printed).groups()
    text = " ".join(PAGE.split())
    assert f"has 32, and takes {days} days on 64 GPUs, of which {float(busy):.0f} % are busy" in text


def test_volumes_are_cut_to_three_dimensions_and_pictures_stay(tiny):
    volumes, pictures = tiny(configurations=["2d", "3d_fullres"]), tiny(datasets=[701, 702], configurations=["2d"])
    left = study_cost.cuts_of([volumes, pictures])
    assert [study.configurations for study in left["2D of the volumes"]] == [("3d_fullres",), ("2d",)]
    assert [study.datasets for study in left["CVC-ClinicDB"]] == [("27",), ("701",)]
    # There are no more seeds and folds than those, and neither control.
    assert list(left) == ["nothing", "2D of the volumes", "CVC-ClinicDB", "epochs beyond 250"]


def test_the_steps_of_a_gpu_take_the_place_of_the_published_hours(tiny):
    fast = [
        replace(report, measurements=[
            replace(m, training_step=[0.1], inference_tile=[0.02], batch_size=PRESETS[m.plan]["batch_size"])
            for m in report.measurements
        ])
        for report in REPORTS
    ]  # fmt: skip
    result, _ = study_cost.estimate([tiny(configurations=["3d_fullres"])], fast, "measured")
    (row,) = result["configurations"]
    # 250 steps of 0.1 s and 50 batches of four tiles are 29 s.
    assert row["stock_hours"]["measured"] == round(29 * 1000 / 3600, 1)
    assert result["gpu_hours_by_reading"]["measured"] < result["gpu_hours_by_reading"]["published"]
    assert "measured, h" in study_cost.tables(result)["configurations"]


def test_the_tables_are_the_results():
    tables = study_cost.tables(WRITTEN)
    assert len(tables) == 7
    assert [name for name, table in tables.items() if table not in PAGE] == []


def test_the_numbers_in_the_text_are_the_results():
    text, queue = " ".join(PAGE.split()), {row["gpus"]: row for row in WRITTEN["queue"]}
    disk = sum(row[name] for row in WRITTEN["disk"] for name in row if name.endswith("_gb"))
    assert (
        f"**{WRITTEN['tasks']['train']['number']} trainings, about {WRITTEN['gpu_hours'] / 1000:.1f}".replace(".", " ")
        + f"00 GPU hours on an A100, {disk / 1000:.1f} TB of disk, {queue[64]['days']:.0f} days on 64 GPUs or "
        f"{queue[8]['days'] / 7:.0f} weeks on 8.**"
    ) in text
    assert f"Of the GPU hours {WRITTEN['epoch_hours']:,} are epochs".replace(",", " ") in text
    seconds = study_cost.EPOCH_SECONDS
    ratio = sum(seconds["2d"]) / sum(seconds["3d_fullres"])
    assert f"{ratio:.2f} times as long. We take 9 h for every `3d_fullres` plan and {9 * ratio:.1f} h" in text
    arms = {name: WRITTEN["arms"][f"nnUNetTrainerSALSTM_{name}"]["time"] for name in "AB"}
    assert f"A {arms['A']:.2f}, B {arms['B']:.2f}" in text
    measured = [
        report.ratio(m, "training_step").value
        for report in REPORTS
        for m in report.measurements
        if m.trainer != study_cost.BASELINE
    ]
    assert f"Over all plans they were {min(measured):.2f} to {max(measured):.2f}" in text
    assert f"The longest training, {WRITTEN['limits']['training_hours']} h," in text
    assert f"{study_cost.START * 60:.0f} min" in text
    assert ", ".join(f"{study_cost.DATASETS[n].cpu_seconds:g} s" for n in ("27", "703", "701")) in text
    compressed = [f"{study_cost.DATASETS[n].compression:.2f} ({name})" for n, name in SAMPLES.items()]
    assert "{}, {} and {} of their size".format(*compressed) in text
    report = Benchmark.from_json((ROOT / "docs" / "results" / "bench_25d.json").read_text())
    steps = [values["training_step"]["mean"] for values in report.summary().values()]
    assert {f"{step:.1f}" for step in steps} == {"2.1"}
    assert "2.1 times as long a step as the stock 2D network" in text
    hours = {f"{9 * ratio * step:.0f} h" for step in steps}
    assert [f"{found} instead of {9 * ratio:.1f} h" in text for found in hours] == [True]


def test_no_more_gpus_are_busy_than_there_are_and_bounds_hold(again):
    for row in again["queue"]:
        assert row["days"] >= max(row["work_days"], row["critical_path_days"])
        assert row["busy"] <= 1
    days = {row["gpus"]: row["days"] for row in again["queue"]}
    assert days[1] > days[8] > days[64]
    studies = [read_study(file) for file in study_cost.STUDIES]
    jobs = study_cost.jobs_of(study_cost.tasks_of(studies), study_cost.Costs(REPORTS, "published"))
    found = times(jobs, 64, 64 * study_cost.CORES_PER_GPU)
    assert all(found[before][1] <= found[job.name][0] for job in jobs for before in job.after)
    _, busy = study_cost.busy_gpus(jobs, [data.name for data in study_cost.DATASETS.values()], 64)
    assert max(map(sum, busy)) == 64
    assert sum(busy[-1]) == 0
