"""Studies of stand-ins through Snakemake: killed, stopped, started twice, and retried."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from toy_study import OFF, A, Toys, trained, wait_until

from nnunetv2_salstm.study.locks import holder
from nnunetv2_salstm.study.workflow import SNAKEFILE

pytest.importorskip("snakemake", reason="the extra study is not installed")

pytestmark = [pytest.mark.nightly]


@pytest.fixture
def toys(tmp_path) -> Toys:
    return Toys(tmp_path / "toys", folds=[0], test=False)


def start_and_wait_for_training(toys: Toys, *words: object) -> "subprocess.Popen[str]":
    """Starts the study, whose training with A lasts until `wait.A` is removed, and returns when it has begun."""
    (toys.root / f"wait.{A}").touch()
    before = len(trained(toys, A))
    process = toys.start(*words)
    wait_until(lambda: len(trained(toys, A)) > before and trained(toys, OFF, "end"))
    return process


def snakemake_of(process: "subprocess.Popen[str]") -> int:
    """Returns the number of the process of Snakemake that the command has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def test_ctrl_c_ends_every_process_and_the_next_launch_goes_on(toys):
    process = start_and_wait_for_training(toys, "--jobs", "2")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    process.communicate()
    assert "| train      |        1 |       0 |      0 |           1 |" in toys.run("--status")[1]
    assert toys.folder(A, 0).joinpath("checkpoint_best.pth").is_file()
    (toys.root / f"wait.{A}").unlink()
    assert toys.run("--jobs", "2")[0] == 0
    assert [words[-1] for words in trained(toys, A)] == ["cpu", "--c"]
    assert len(trained(toys, OFF)) == 1


def test_a_killed_launcher_leaves_its_job_which_is_not_started_twice(toys):
    process = start_and_wait_for_training(toys, "--jobs", "2")
    os.kill(snakemake_of(process), signal.SIGKILL)
    process.kill()
    process.wait()
    # What the launcher leaves behind still has the pipe.
    process.stdout.close()
    again = toys.start("--jobs", "2")
    # Nothing to unlock: the second launch waits for the training of the first.
    wait_until(lambda: holder(toys.results / "studies" / "toys" / "launch.lock"))
    (toys.root / f"wait.{A}").unlink()
    printed = again.communicate(timeout=120)[0]
    assert again.returncode == 0, printed
    assert len(trained(toys, A)) == len(trained(toys, A, "end")) == 1


def test_the_second_launch_says_who_holds_the_study(toys):
    process = start_and_wait_for_training(toys, "--jobs", "2")
    number = snakemake_of(process)
    status, printed = toys.run()
    assert status == 1
    assert re.search(
        rf"the study toys is already run by \w+ on \S+, process {number}, since .*nothing has to be unlocked", printed
    )
    # By Snakemake alone, too.
    words = [toys.python, "-m", "snakemake", "--snakefile", SNAKEFILE, "--configfile", toys.file, "--cores", "1"]
    alone = subprocess.run([*words, "--nolock"], env=toys.environment(), capture_output=True, text=True, cwd=toys.root)
    assert alone.returncode == 1
    assert "the study toys is already run by root on" in alone.stderr
    (toys.root / f"wait.{A}").unlink()
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_two_studies_that_share_a_training_train_it_once(toys):
    process = start_and_wait_for_training(toys, "--jobs", "2")
    other = toys.root / "other.yaml"
    other.write_text(toys.file.read_text().replace("name: toys", "name: other"))
    words = [toys.python, "-c", "import sys; from nnunetv2_salstm.cli import main; sys.exit(main())", "study", other]
    second = subprocess.Popen(
        words, env=toys.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    # Of the second study; who it is that trains is said.
    assert any(re.search(rf"train__\S*{A}\S* waits for \w+ on \S+, process", line) for line in second.stdout)
    (toys.root / f"wait.{A}").unlink()
    process.communicate(timeout=120)
    printed = second.communicate(timeout=120)[0]
    # The stand-in of the report knows one study only.
    assert "report__other: there is no report" in printed
    assert (toys.results / "studies" / "other" / "comparisons").is_dir()
    assert (len(trained(toys, A)), len(trained(toys, OFF))) == (1, 1)


def test_a_failing_job_is_tried_again_as_often_as_the_study_says(toys):
    toys.write(folds=[0], test=False, retries=2)
    (toys.root / f"fail.{A}").touch()
    status, printed = toys.run("--jobs", "2")
    assert status == 1
    assert "no more memory" in printed
    assert printed.splitlines()[-1].endswith(f"nnUNetv2_salstm study {toys.file} --status; run it again to go on")
    assert (len(trained(toys, A)), len(trained(toys, OFF))) == (3, 1)
    assert [words[1] for words in toys.calls() if words[0] == "nnUNetv2_salstm"] == []
    (toys.root / f"fail.{A}").unlink()
    assert toys.run("--jobs", "2")[0] == 0
    assert (len(trained(toys, A)), len(trained(toys, OFF))) == (4, 1)
    assert "All jobs are finished." in toys.run("--status")[1]


def test_the_workflow_runs_by_snakemake_alone(toys):
    words = [toys.python, "-m", "snakemake", "--snakefile", SNAKEFILE, "--configfile", toys.file, "--cores", "2"]
    dry = subprocess.run([*words, "-n"], env=toys.environment(), capture_output=True, text=True, cwd=toys.root)
    assert (dry.returncode, toys.calls()) == (0, [])
    assert re.search(r"^train +2$", dry.stdout, re.MULTILINE)
    run = subprocess.run(words, env=toys.environment(), capture_output=True, text=True, cwd=toys.root)
    assert run.returncode == 0, run.stderr
    assert len(toys.calls()) == 5
    wrong = toys.file.with_name("wrong.yaml")
    wrong.write_text(toys.file.read_text().replace("folds:", "fold:"))
    words[words.index(toys.file)] = wrong
    refused = subprocess.run(words, env=toys.environment(), capture_output=True, text=True, cwd=toys.root)
    assert refused.returncode == 1
    assert "unknown key 'fold'; did you mean folds?" in refused.stderr


def test_options_behind_dashes_reach_snakemake(toys):
    status, printed = toys.run("--jobs", "1", "--", "--dry-run", "--until", "train")
    assert status == 0
    assert re.search(r"^train +2$", printed, re.MULTILINE)
    assert "compare" not in printed
    assert toys.calls() == []
