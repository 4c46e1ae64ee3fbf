"""What Slurm is asked for: arrays, resources, dependencies; with programs that stand in for Slurm's."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_dataset

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.study.attempts import Jobs, begin
from nnunetv2_salstm.study.check import check_folder
from nnunetv2_salstm.study.launch import submit_to_slurm
from nnunetv2_salstm.study.state import Folder
from nnunetv2_salstm.study.study import read_study
from nnunetv2_salstm.study.tasks import expand

pytest.importorskip("submitit", reason="the extra matrix is not installed")

STUDY = """
name: small
datasets: [901]
configurations: [3d_fullres]
folds: [0, 1]
trainers: [nnUNetTrainerSALSTMOff, nnUNetTrainerSALSTM_A]
epochs: 2
resources:
  train: {gpus: 2, cpus: 6, memory_gb: 20, hours: 1.5}
slurm: {partition: gpu, parallel: 3, options: {mail-type: FAIL}}
"""
# Numbers jobs from 100 on, keeps what it is given, and refuses if it is told to.
SBATCH = """#!{python}
import pathlib, shutil, sys
folder = pathlib.Path({folder!r})
if (folder / "refuse").exists():
    sys.exit("sbatch: error: invalid partition specified: gpu")
number = 100 + len(list(folder.glob("*.sh")))
shutil.copy(sys.argv[1], folder / f"{{number}}.sh")
print(f"Submitted batch job {{number}}")
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A folder with the submitted scripts by job; its file `queue` is what squeue prints."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "queue").touch()
    programs = {
        "sbatch": SBATCH.format(python=sys.executable, folder=str(folder)),
        "squeue": f"#!/bin/sh\n/bin/cat {folder / 'queue'}\n",
        "srun": "#!/bin/sh\n",
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return folder


@pytest.fixture
def study(nnunet_folders, tmp_path, monkeypatch):
    """A study of one data set, its tasks and its folder."""
    (nnunet_folders / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(nnunet_folders / "results"))
    write_dataset(nnunet_folders / "raw" / "Dataset901_Spheres", cases=3, size=(4, 8, 8))
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    read = read_study(file)
    folder = Folder(read.name)
    check_folder(folder)
    return read, expand(read, folder.study), folder


def options(file: Path) -> dict[str, str]:
    """Returns the options in a script for sbatch."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", file.read_text(), re.MULTILINE))


def test_each_kind_is_an_array_that_waits_for_what_it_needs(slurm, study, capsys):
    submit_to_slurm(*study)
    preprocess, train, off, module_a, compare, report = [options(slurm / f"{job}.sh") for job in range(100, 106)]
    assert "dependency" not in preprocess
    assert "array" not in preprocess
    assert train["array"] == "0-3%3"
    assert train["dependency"] == "afterok:100"
    assert (train["gpus-per-node"], train["cpus-per-task"], train["mem"], train["time"]) == ("2", "6", "20GB", "90")
    assert re.search(r"^srun .*--cpus-per-task 6 ", (slurm / "101.sh").read_text(), re.MULTILINE)
    assert (train["partition"], train["mail-type"], train["job-name"]) == ("gpu", "FAIL", "small_train")
    # A job that can never start is dropped, one that is stopped is requeued.
    assert train["kill-on-invalid-dep"] == "yes"
    assert train["requeue"] == ""
    # The prediction of an arm waits for its own folds only.
    assert off["dependency"] == "afterok:101_0:101_1"
    assert module_a["dependency"] == "afterok:101_2:101_3"
    assert off["gpus-per-node"] == "1"
    assert compare["dependency"] == "afterok:101_0:101_1:101_2:101_3"
    assert "gpus-per-node" not in compare
    assert (report["dependency"], report["cpus-per-task"]) == ("afterok:104", "1")
    printed = capsys.readouterr().out
    assert "train, Dataset901_Spheres: 4 tasks, job 101\n" in printed
    assert printed.endswith("report, study.yaml: 1 task, job 105\n")


def test_what_is_queued_is_not_submitted_again(slurm, study, capsys):
    submit_to_slurm(*study)
    _, tasks, folder = study
    (slurm / "queue").write_text("100\n101_0\n101_1\n101_2\n102\n103\n104\n105\n")
    submit_to_slurm(*study)
    # Only the training that is no longer there; what waits for it was dropped with it, here it was not.
    assert sorted(file.name for file in slurm.glob("*.sh"))[6:] == ["106.sh"]
    assert options(slurm / "106.sh")["dependency"] == "afterok:100"
    (slurm / "queue").write_text("100\n101_0\n101_1\n101_2\n102\n103\n104\n105\n106\n")
    assert folder.queued_job(tasks[4], Jobs()) == "106"
    capsys.readouterr()
    submit_to_slurm(*study)
    assert capsys.readouterr().out == "Nothing to submit: every task is finished, runs or is queued.\n"


def test_two_do_not_submit_at_the_same_time(slurm, study):
    *_, folder = study
    other = begin(folder.tasks.parent / "submissions")
    with pytest.raises(SalstmError, match="another run is submitting tasks; wait until it is done"):
        submit_to_slurm(*study)
    other.end(0)
    submit_to_slurm(*study)


def test_what_runs_elsewhere_is_waited_for_by_a_later_submission(slurm, study, capsys):
    _, tasks, folder = study
    begin(folder.of(tasks[0]))  # on this machine, in no job
    submit_to_slurm(*study)
    assert list(slurm.glob("*.sh")) == []
    assert "8 tasks wait for some that do not run on Slurm; submit again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("private", "runs"), [("none", False), ("usage,users", False), ("jobs,usage", True), ("all", True)]
)
def test_a_job_of_someone_else_may_run_unseen_where_slurm_hides_it(private, runs, slurm, tmp_path):
    attempt = replace(begin(tmp_path), host="node1", job="77_1")
    scontrol = slurm.parent / "bin" / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho 'Priority = x'\necho 'PrivateData             = {private}'\n")
    scontrol.chmod(0o755)
    assert not attempt.is_under_way(Jobs())
    assert replace(attempt, user="someone else").is_under_way(Jobs()) == runs


def test_a_refusal_of_slurm_is_one_line(slurm, study):
    (slurm / "refuse").touch()
    with pytest.raises(SalstmError, match=r"Slurm refused the tasks of kind preprocess: .*invalid partition") as raised:
        submit_to_slurm(*study)
    assert "\n" not in str(raised.value)
