"""The study file, the commands that it becomes, and what is refused before anything is started."""

import json
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from command_lines import parse_only
from conftest import write_dataset
from nnunetv2.utilities.crossval_split import generate_crossval_split
from places import ROOT

from nnunetv2_salstm import cli
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.check import check_executor, check_study
from nnunetv2_salstm.study.graph import jobs_of, unfinished
from nnunetv2_salstm.study.jobs import Preprocess, Train
from nnunetv2_salstm.study.schema import read_study
from nnunetv2_salstm.study.status import status_of
from nnunetv2_salstm.study.workflow import resources_of

STUDIES = ROOT / "examples" / "studies"
SMALL = {
    "name": "small",
    "datasets": [901],
    "configurations": ["3d_fullres"],
    "folds": [0],
    "trainers": ["nnUNetTrainerSALSTMOff", "nnUNetTrainerSALSTM_A"],
    "seeds": [0],
    "epochs": 2,
    "device": "cpu",
}


@pytest.fixture
def folders(nnunet_folders, monkeypatch) -> Path:
    """nnU-Net's folders with the two raw data sets of the demo study."""
    (nnunet_folders / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(nnunet_folders / "results"))
    for number, name in ((901, "Spheres"), (902, "Discs")):
        write_dataset(nnunet_folders / "raw" / f"Dataset{number}_{name}", cases=3, size=(4, 8, 8))
    return nnunet_folders


def written(folder, **changes):
    """Writes the small study with some keys changed, those that are None left out."""
    file = folder / "study.yaml"
    values = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    file.write_text(yaml.safe_dump(values, sort_keys=False, default_flow_style=None))
    return file


def command(*words, capsys):
    """Runs the command and returns its status, what it printed, and its error."""
    status = cli.main(["study", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def read_jobs(file):
    return jobs_of(read_study(file))


def finish_training(job: Train):
    """Writes what nnU-Net leaves behind."""
    job.summary.parent.mkdir(parents=True)
    job.checkpoint.touch()
    job.summary.write_text('{"foreground_mean": {}}')


def preprocess(job: Preprocess):
    folder = job.dataset.preprocessed / "nnUNetPlans_3d_fullres"
    folder.mkdir(parents=True)
    configurations = {
        "3d_lowres": {"inherits_from": "3d_fullres"},
        "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres"},
        "2d": {"data_identifier": "nnUNetPlans_2d"},
    }
    job.plans_file.write_text(json.dumps({"configurations": configurations}))
    for case in job.dataset.training_cases:
        (folder / f"{case}.pkl").touch()


def test_the_demo_study_expands_to_stock_commands_in_an_order_that_works(folders, capsys, monkeypatch):
    status, printed, _ = command(STUDIES / "demo_cpu.yaml", "--dry-run", capsys=capsys)
    assert status == 0
    commands = [shlex.split(line) for line in printed.splitlines() if not line.startswith("#")]
    programs = [words[0] for words in commands]
    # For each data set: 2 methods x 2 seeds x 2 folds trained; 4 models predict the one test case, one part is enough.
    one = ["nnUNetv2_plan_and_preprocess", *["nnUNetv2_train"] * 8, *["nnUNetv2_predict"] * 4, "nnUNetv2_salstm"]
    assert programs == [*one, *one, "nnUNetv2_salstm"]
    assert len({tuple(words) for words in commands}) == len(commands)
    # Every command's own parser takes it.
    assert [parse_only(words, monkeypatch) for words in [*commands[:14], commands[-1]]] == [""] * 15
    assert commands[1] == (
        "nnUNetv2_train 901 3d_fullres 0 -tr nnUNetTrainerSALSTMOff_2epochs_2its_seed0 -device cpu".split()
    )
    # Nothing was written.
    assert list((folders / "results").iterdir()) == []
    assert list((folders / "preprocessed").iterdir()) == []


def test_the_studies_of_the_examples_are_read():
    files = sorted(STUDIES.glob("*.yaml"))
    names = ["acdc_full", "demo_cpu", "hippocampus_quick", "paper_pictures", "paper_volumes", "rivals"]
    assert [read_study(file).name for file in files] == names
    assert [file.stem for file in files] == names
    acdc = read_study(files[0])
    runs = [run for method in acdc.trainers for run in acdc.runs_of(method)]
    assert len(runs) == 15
    assert runs[4] == "nnUNetTrainerSALSTM_A_1000epochs_seed1"


def test_several_gpus_parts_and_plans_become_options(folders, tmp_path):
    file = written(
        tmp_path,
        plans=["nnUNetResEncUNetMPlans"],
        device="cuda",
        resources={"train": {"gpus": 2}, "preprocess": {"cpus": 3}},
        num_parts=2,
    )
    images = folders / "raw" / "Dataset901_Spheres" / "imagesTs"
    (image,) = images.iterdir()
    for name in ("test_8", "test_9"):
        (images / f"{name}_0000.nii.gz").write_bytes(image.read_bytes())
    planning, training, *_ = jobs = read_jobs(file)
    assert shlex.join(planning.command()) == (
        "nnUNetv2_plan_and_preprocess -d 901 -pl nnUNetPlannerResEncM -c 3d_fullres -npfp 3 -np 3"
    )
    # Without the dash, as no test trains like that and test_docs_commands.py would take this one for it.
    options = [word.removeprefix("-") for word in training.command()[-4:]]
    assert options == ["p", "nnUNetResEncUNetMPlans", "num_gpus", "2"]
    parts = [job for job in jobs if job.kind == "predict"]
    assert [job.command()[-4:] for job in parts[:2]] == [
        ["-num_parts", "2", "-part_id", "0"],
        ["-num_parts", "2", "-part_id", "1"],
    ]
    assert [[file.name for file in job.outputs] for job in parts[:2]] == [
        ["test_3.nii.gz", "test_9.nii.gz"],
        ["test_8.nii.gz"],
    ]


def test_a_training_goes_on_with_what_is_there(folders, tmp_path):
    _, training, *_ = read_jobs(written(tmp_path))
    assert "--c" not in training.command()
    training.folder.mkdir(parents=True)
    (training.folder / "checkpoint_best.pth").touch()
    assert training.command()[-1] == "--c"
    training.checkpoint.touch()
    assert training.command()[-1] == "--val"
    assert "summary.json" in training.missing()
    training.summary.parent.mkdir()
    training.summary.write_text('{"cut sh')
    assert "summary.json" in training.missing()
    training.summary.write_text('{"foreground_mean": {}}')
    assert training.missing() is None


def test_folds_are_made_once_before_the_trainings_and_are_nnunets(folders, tmp_path):
    jobs = [job for job in read_jobs(written(tmp_path)) if isinstance(job, Train)]
    file = jobs[0].dataset.preprocessed / "splits_final.json"
    file.parent.mkdir(parents=True)
    jobs[0].prepare()
    # As nnU-Net, which cannot make five folds of three cases and says so when it trains.
    assert not file.exists()
    for name in ("d", "e", "f"):
        (jobs[0].dataset.raw / "imagesTr" / f"{name}_0000.nii.gz").touch()
    jobs = [job for job in read_jobs(written(tmp_path)) if isinstance(job, Train)]
    replace(jobs[0], fold="all").prepare()
    assert not file.exists()
    jobs[0].prepare()
    cases = jobs[0].dataset.training_cases
    assert len(cases) == 6
    assert json.loads(file.read_text()) == generate_crossval_split(cases, seed=12345, n_splits=5)
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    file.write_text("those of a user")
    jobs[1].prepare()
    assert file.read_text() == "those of a user"


def test_plans_that_are_there_are_kept(folders, tmp_path):
    planning, *_ = read_jobs(written(tmp_path))
    preprocess(planning)
    assert planning.missing() is None
    cases = planning.dataset.training_cases
    (planning.dataset.preprocessed / "nnUNetPlans_3d_fullres" / f"{cases[0]}.pkl").unlink()
    assert planning.missing().startswith(f"1 of {len(cases)} cases are not in")
    assert planning.command()[:5] == ["nnUNetv2_preprocess", "-d", "901", "-c", "3d_fullres"]
    # Only what is missing: nnU-Net empties the folder of a configuration first.
    both, *_ = read_jobs(written(tmp_path, configurations=["3d_fullres", "2d"]))
    (planning.dataset.preprocessed / "nnUNetPlans_3d_fullres" / f"{cases[0]}.pkl").touch()
    assert both.command()[:5] == ["nnUNetv2_preprocess", "-d", "901", "-c", "2d"]


@pytest.mark.parametrize("parent", ["3d_lowres", "3d_lowress", None], ids=["itself", "mistyped", "none"])
def test_plans_that_inherit_from_nothing_are_missing(parent, folders, tmp_path):
    job = next(job for job in read_jobs(written(tmp_path, configurations=["3d_lowres"])) if isinstance(job, Preprocess))
    preprocess(job)
    values = json.loads(job.plans_file.read_text())
    values["configurations"]["3d_lowres"] = {} if parent is None else {"inherits_from": parent}
    job.plans_file.write_text(json.dumps(values))
    assert f"inherits from nothing that is there: {parent}" in job.missing()


def test_the_preprocessed_data_may_go_when_all_is_trained(folders, tmp_path):
    jobs = read_jobs(written(tmp_path, test=False))
    for job in jobs:
        if isinstance(job, Train):
            finish_training(job)
    assert [name.partition("__")[0] for name in unfinished(jobs)] == ["compare", "report"]


def test_a_report_is_made_again_when_a_training_is_newer_or_a_method_more(folders, tmp_path):
    *_, comparison, _ = read_jobs(written(tmp_path, test=False))
    for job in read_jobs(written(tmp_path, test=False)):
        if isinstance(job, Train):
            finish_training(job)
            newest = job.summary
    files = comparison.outputs
    files[0].parent.mkdir(parents=True)
    files[0].write_text(json.dumps({"inputs": {"command": shlex.join(comparison.command())}}))
    files[1].touch()
    assert comparison.missing() is None
    os.utime(newest, (newest.stat().st_atime, files[0].stat().st_mtime + 10))
    assert re.search("is older than .*summary.json", comparison.missing())
    *_, more, _ = read_jobs(written(tmp_path, test=False, seeds=[0, 1]))
    assert "is of another comparison" in more.missing()


def test_predictions_are_made_again_when_a_network_is_newer(folders, tmp_path):
    jobs = read_jobs(written(tmp_path))
    training, prediction = jobs[1], next(job for job in jobs if job.kind == "predict")
    finish_training(training)
    prediction.outputs[0].parent.mkdir(parents=True)
    for file in prediction.outputs:
        file.touch()
    assert prediction.missing() is None
    os.utime(training.checkpoint, (0, prediction.outputs[0].stat().st_mtime + 10))
    assert "checkpoint_final.pth" in prediction.missing()


def test_a_data_set_under_two_names_is_refused(folders, tmp_path):
    with pytest.raises(SalstmError, match="each data set once; 901 is Dataset901_Spheres, which is there twice"):
        read_jobs(written(tmp_path, datasets=[901, "Dataset901_Spheres"]))


def test_status_says_how_long_the_rest_takes(folders, tmp_path):
    study = read_study(written(tmp_path, test=False, epochs=10))
    jobs = jobs_of(study)
    first, second = (job for job in jobs if isinstance(job, Train))
    # 6 and 10 epochs of 90 s; the second is like the first.
    seconds = {first.name: [90.0] * 4, second.name: []}
    assert status_of(study, jobs, seconds).left == (
        "Time left: about 24 min with 1 at once, 24 min of work in 2 jobs, and 3 jobs of which nothing like them has "
        "run yet."
    )
    for job in (first, second):
        job.folder.mkdir(parents=True, exist_ok=True)
        finish_training(job)
    assert "Time left: not known, as nothing like" in status_of(study, jobs, seconds).left


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": ["nnUNetTrainer"]}, r"line 9: unknown key 'trainer'; did you mean trainers\?"),
        ({"resources": {"train": {"gpu": 2}}}, r"unknown key 'gpu' of resources: train; did you mean gpus\?"),
        ({"resources": {"compare": {"gpus": 1}}}, "unknown key 'gpus' of resources: compare"),
        ({"resources": {"training": {}}}, r"unknown key 'training' of resources; did you mean train\?"),
        ({"resources": {"train": {"gpus": 1}}}, "gpus must be 0 with device cpu, got 1"),
        ({"slurm": {"partitions": "gpu"}}, r"unknown key 'partitions' of slurm; did you mean partition\?"),
        ({"datasets": None}, "the key datasets is missing"),
        ({"datasets": []}, "line 2: datasets must be a list of numbers or names of data sets"),
        ({"name": "../up"}, "line 1: name must be letters, digits, _ and -, got '../up'"),
        ({"folds": [0, -1]}, "folds must be a list of numbers, or all"),
        ({"folds": [0, 0]}, "folds names 0 twice"),
        ({"seeds": ["one"]}, "seeds must be a list of whole numbers"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"trainers": [{"name": "nnUNetTrainer"}]}, "line 5: unknown key 'name' of trainers"),
        ({"trainers": [{"trainer": "nnUNetTrainer", "epoch": 5}]}, r"unknown key 'epoch'.*did you mean epochs\?"),
        (
            {"trainers": ["nnUNetTrainer", "nnUNetTrainer_seed7"]},
            "line 5: trainers has nnUNetTrainer and nnUNetTrainer_seed7, which differ in the seed alone; name it once",
        ),
        ({"trainers": [{"label": "mine"}]}, r"trainers must be a list of names of trainers, got \[None\]"),
        ({"trainers": [{"trainer": "A", "label": "x"}, {"trainer": "B", "label": "x"}]}, "trainers names x twice"),
        (
            {"trainers": ["nnUNetTrainerSALSTM_A", "nnUNetTrainerSALSTM_A_2epochs"]},
            "line 5: trainers names nnUNetTrainerSALSTM_A_2epochs_seed0 twice",
        ),
        ({"retries": -1}, "retries must be a whole number of at least 0, got -1"),
        ({"resources": {"compare": {"partition": 7}}}, "resources: compare: partition must be a name, got 7"),
        ({"test": "yes, please"}, "test must be true or false"),
        ({"device": "gpu"}, "device must be cuda, cpu, mps, got 'gpu'"),
        (
            {"trainers": ["nnUNetTrainerSALSTMOff_5epochs", "nnUNetTrainerSALSTM_A"]},
            r"line 5: the methods would train for different numbers of epochs \(the study 2, "
            r"nnUNetTrainerSALSTMOff_5epochs 5, nnUNetTrainerSALSTM_A 2\); make them equal, or state "
            "different_epochs: true",
        ),
        (
            {"trainers": ["nnUNetTrainerSALSTMOff_5epochs", "nnUNetTrainerSALSTM_A"], "epochs": None},
            r"different numbers of epochs \(nnUNetTrainerSALSTMOff_5epochs 5, nnUNetTrainerSALSTM_A 1000\)",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_study_file_is_refused_with_its_line(changes, message, tmp_path):
    with pytest.raises(SalstmError, match=message) as raised:
        read_study(written(tmp_path, **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("- a list", "must hold keys such as name and datasets"),
        ("name: a\nname: b", "line 2: name is given twice"),
        ("name: a\ndatasets: [4, 027]", "line 2: datasets must have numbers without leading zeros; got 027"),
        ("datasets: 010", "line 1: datasets must have numbers without leading zeros; got 010"),
        (
            "name: a\nresources: {train: {cpus: 010}}",
            "line 2: resources must have numbers without leading zeros; got 010",
        ),
        ("resources:\n  train: {cpus: 1, cpus: 2}", "line 1: cpus is given twice"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text, message, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(SalstmError, match=message):
        read_study(file)


def test_different_epochs_are_allowed_when_they_are_stated(tmp_path):
    study = read_study(
        written(tmp_path, trainers=["nnUNetTrainerSALSTMOff_5epochs", "nnUNetTrainerSALSTM_A"], different_epochs=True)
    )
    assert [study.runs_of(method)[0] for method in study.trainers] == [
        "nnUNetTrainerSALSTMOff_5epochs_seed0",
        "nnUNetTrainerSALSTM_A_2epochs_seed0",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": [903]}, "the data set must be one of nnUNet_raw .*Dataset901_Spheres.*got 903"),
        (
            {"trainers": ["nnUNetTrainerSALSTM_C"]},
            r"there is no trainer nnUNetTrainerSALSTM_C; did you mean nnUNetTrainerSALSTM_[AB]\?",
        ),
        (
            {"trainers": ["nnUNetTrainr"], "seeds": None, "epochs": None},
            r"no trainer nnUNetTrainr; did you mean nnUNetTrainer\?",
        ),
        (
            {"trainers": ["nnUNetTrainer"]},
            "nnUNetTrainer takes no seeds, epochs; nnUNetTrainerSALSTMOff is the stock .* .*: {trainer: nnUNet",
        ),
        ({"configurations": ["3d_fulres"]}, r"no configuration 3d_fulres of .*; did you mean 3d_fullres\?"),
        ({"configurations": ["3d_cascade_fullres"]}, "3d_cascade_fullres cannot be in a study"),
        (
            {"folds": [0, 5]},
            r"folds must be among 0 to 4 of Dataset901_Spheres, got 5; its folds are those of .*splits_f",
        ),
        (
            {"trainers": ["nnUNetTrainerSALSTM_A_25d"], "configurations": ["2d"]},
            "nnUNetTrainerSALSTM_A_25d cannot train on Dataset901_Spheres: dataset.json must name the neighbours",
        ),
        ({"plans": ["nnUNetResEncMPlans"]}, r"no plans nnUNetResEncMPlans of .*did you mean nnUNetResEncUNetMPlans\?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_is_not_there_is_refused_before_anything_starts(changes, message, folders, tmp_path, capsys):
    status, _, error = command(written(tmp_path, **changes), capsys=capsys)
    assert (status, error.count("\n")) == (1, 1), error
    assert re.search(message, error), error
    assert list((folders / "results").iterdir()) == []


def test_folds_are_those_that_are_there(folders, tmp_path, capsys):
    """For another, nnU-Net would split at random, with patients on both sides."""
    file = folders / "preprocessed" / "Dataset901_Spheres" / "splits_final.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([{"train": [], "val": []}] * 2))
    study = written(tmp_path, folds=[0, 1, "all"])
    assert command(study, "--dry-run", capsys=capsys)[0] == 0
    study = written(tmp_path, folds=[0, 2])
    status, _, error = command(study, "--dry-run", capsys=capsys)
    assert status == 1
    assert "folds must be among 0 to 1 of Dataset901_Spheres, got 2" in error
    file.write_text("[{")
    status, _, error = command(study, "--dry-run", capsys=capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert f"{file} must be a list of folds" in error


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_damaged_plans_are_one_line(text, folders, tmp_path, capsys):
    file = folders / "preprocessed" / "Dataset901_Spheres" / "nnUNetPlans.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    status, _, error = command(written(tmp_path), "--dry-run", capsys=capsys)
    assert (status, error.count("\n")) == (1, 1), error
    assert str(file) in error
    assert command(written(tmp_path), "--status", capsys=capsys)[0] == 0


def test_pictures_have_no_3d(folders, tmp_path, capsys):
    file = folders / "raw" / "Dataset901_Spheres" / "dataset.json"
    file.write_text(file.read_text().replace(".nii.gz", ".png"))
    status, _, error = command(written(tmp_path), "--dry-run", capsys=capsys)
    assert status == 1
    assert "nnU-Net plans no configuration 3d_fullres of Dataset901_Spheres; there are 2d" in error


def test_options_of_sbatch_reach_it_as_they_are(tmp_path):
    study = read_study(written(tmp_path, slurm={"options": {"comment": "a b; c", "exclusive": True, "nice": 5}}))
    assert shlex.split(resources_of(study, "train")["slurm_extra"]) == ["--comment=a b; c", "--exclusive", "--nice=5"]


def test_a_study_file_is_utf_8_whatever_the_machines_language(tmp_path, monkeypatch):
    file = written(tmp_path, trainers=[{"trainer": "nnUNetTrainerSALSTMOff", "label": "größer"}])
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()), allow_unicode=True), encoding="utf-8-sig")
    assert read_study(file).trainers[0].label == "größer"
    file.write_text(file.read_text(encoding="utf-8-sig"), encoding="latin-1")
    with pytest.raises(SalstmError, match="is not YAML"):
        read_study(file)


def test_trainers_of_nnunet_are_known_without_suffixes(folders, tmp_path):
    study = read_study(
        written(tmp_path, trainers=["nnUNetTrainer", "nnUNetTrainerNoMirroring"], seeds=None, epochs=None)
    )
    check_study(study, jobs_of(study))
    assert [study.runs_of(method) for method in study.trainers] == [["nnUNetTrainer"], ["nnUNetTrainerNoMirroring"]]


def test_no_slurm_no_gpu_no_snakemake_and_an_old_python_are_said(tmp_path, monkeypatch):
    pytest.importorskip("snakemake", reason="the extra study is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    study = read_study(written(tmp_path))
    check_executor(study, "local")
    with pytest.raises(SalstmError, match="there is no Slurm on this machine"):
        check_executor(study, "slurm")
    on_gpu = read_study(written(tmp_path, device="cuda", resources={"train": {"gpus": 2}}))
    for none in ("", "-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        with pytest.raises(SalstmError, match="there is no GPU on this machine for device cuda"):
            check_executor(on_gpu, "local")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(SalstmError, match="gpus must be at most 1 on this machine, got 2"):
        check_executor(on_gpu, "local")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SalstmError, match=re.escape('pip install "nnunetv2-salstm[study]"')):
        check_executor(study, "local")
    monkeypatch.setattr("sys.version_info", (3, 10, 1))
    with pytest.raises(SalstmError, match=r"needs Python 3\.11 or newer, as Snakemake does, and this is 3\.10"):
        check_executor(study, "local")


def test_results_that_cannot_be_written_to_are_said(folders, tmp_path, capsys):
    pytest.importorskip("snakemake", reason="the extra study is not installed")
    # As root writes everywhere, a file is in the way.
    (folders / "results" / "studies").touch()
    status, _, error = command(written(tmp_path), capsys=capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert "studies cannot be written to (" in error
    assert "set nnUNet_results to a folder of yours" in error


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["STUDY", "--status", "--dry-run"], 2, "not allowed with argument --status"),
        (["STUDY", "--jobs", "0"], 2, "must be a whole number of at least 1, got 0"),
        (["STUDY", "--executor", "kubernetes"], 2, "invalid choice: 'kubernetes'"),
        (["none.yaml"], 1, "the study file none.yaml cannot be read: No such file"),
        ([], 1, "a study file is needed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_refused(words, status, message, tmp_path, capsys):
    words = [str(written(tmp_path)) if word == "STUDY" else word for word in words]
    found, _, error = command(*words, capsys=capsys)
    assert found == status
    assert message in error


def test_only_a_study_hands_on_what_stands_behind_dashes(capsys):
    assert cli.main(["bench", "--", "--forceall"]) == 2
    assert "bench takes nothing behind --, got --forceall" in capsys.readouterr().err


def test_path_is_the_workflow_files(capsys):
    status, printed, _ = command("--path", capsys=capsys)
    assert (status, Path(printed.strip()).name) == (0, "Snakefile")
    assert "rule all:" in Path(printed.strip()).read_text()


def test_another_packages_trainer_is_run_as_it_is_if_its_length_is_stated(folders, tmp_path):
    theirs = {"trainer": "nnUNetTrainer_5epochs", "label": "plain", "epochs": 5}
    found = read_study(written(tmp_path, trainers=["nnUNetTrainerSALSTMOff", theirs], seeds=[0, 1], epochs=5))
    check_study(found, jobs_of(found))
    assert [found.runs_of(method) for method in found.trainers] == [
        ["nnUNetTrainerSALSTMOff_5epochs_seed0", "nnUNetTrainerSALSTMOff_5epochs_seed1"],
        ["nnUNetTrainer_5epochs"],
    ]
    with pytest.raises(
        SalstmError, match=r"different numbers of epochs \(the study 7, .* 7, nnUNetTrainer_5epochs 5\)"
    ):
        read_study(written(tmp_path, trainers=["nnUNetTrainerSALSTMOff", theirs], epochs=7))
