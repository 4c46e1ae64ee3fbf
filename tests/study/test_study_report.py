"""`nnUNetv2_salstm study --report` on comparisons as compare writes them, of scores that are made up."""

import json
import os
import re
import shlex
from html import escape
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_dataset

from nnunetv2_salstm import cli
from nnunetv2_salstm.evaluation.comparison import Comparison
from nnunetv2_salstm.evaluation.metrics import Scores
from nnunetv2_salstm.evaluation.results import Endpoint, Results, ScoredCase, results_table
from nnunetv2_salstm.host.trainer_names import split_seed
from nnunetv2_salstm.study.graph import jobs_of, unfinished
from nnunetv2_salstm.study.jobs import Compare, Report, Train
from nnunetv2_salstm.study.schema import read_study

OFF, SALSTM = "nnUNetTrainerSALSTMOff_3epochs", "nnUNetTrainerSALSTM_A_3epochs"
SPHERES, DISCS = "901_Spheres 3d_fullres validation", "902_Discs 3d_fullres validation"
STUDY = {
    "name": "made_up",
    "datasets": [901, 902],
    "configurations": ["3d_fullres"],
    "folds": [0, 1],
    "trainers": ["nnUNetTrainerSALSTMOff", {"trainer": "nnUNetTrainerSALSTM_A", "label": "ours"}],
    "seeds": [0, 1],
    "epochs": 3,
    "test": False,
    "device": "cpu",
}
LABELS = ["shell", "core"]
CASES = 4  # of a fold


def write_log(job: Train, seconds: tuple[float, ...], again: tuple[float, ...] = ()) -> None:
    """Writes nnU-Net's log of a finished training; with the seconds of epochs 1, 2, ... that it had to repeat."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for number, (first, times) in enumerate([(1, again), (0, seconds)] if again else [(0, seconds)]):
        lines = [f"12:00: Epoch {n}\n12:00: Epoch time: {time} s\n" for n, time in enumerate(times, start=first)]
        (job.folder / f"training_log_{number}.txt").write_text("".join(lines))


def finish_training(job: Train) -> None:
    """Writes what nnU-Net leaves behind, long ago."""
    job.summary.parent.mkdir(parents=True, exist_ok=True)
    job.checkpoint.touch()
    job.summary.write_text('{"foreground_mean": {}}')
    os.utime(job.summary, (0, 0))


def write_comparison(job: Compare, dice: np.ndarray, versions: dict[str, str], confounders: list[str]) -> Comparison:
    """Writes what compare does, of Dice by method, seed, fold, case and label; HD95 is 10 times what Dice lacks."""
    words = job.command()
    runs: dict[str, list[str]] = {}
    for name in words[words.index("-tr") + 1 : words.index("-f")]:
        runs.setdefault(split_seed(name)[0], []).append(name)
    cases = [
        ScoredCase(
            method,
            str(seed),
            str(fold),
            f"case_{fold}_{case}",
            {
                label: Scores(value, value / (2 - value), 10 * (1 - value), value, 0.1, 100, 100)
                for label, value in zip(LABELS, dice[m, seed, fold, case].tolist(), strict=True)
            },
        )
        for m, (method, names) in enumerate(runs.items())
        for seed in range(len(names))
        for fold in range(dice.shape[2])
        for case in range(dice.shape[3])
    ]
    metrics = ["dice", "iou", "hd95", "nsd", "volume_error"]
    inputs = {
        "command": shlex.join(job.command()),
        "reference": "nnUNet_preprocessed",
        "labels": {label: [value] for value, label in enumerate(LABELS, start=1)},
        "tolerances": dict.fromkeys(LABELS, 2.0),
        "unit": "mm",
    }
    results = Results(results_table(cases, {}, metrics), list(runs), LABELS, metrics)
    comparison = Comparison(job.name, inputs, runs, results, Endpoint(), confounders, {}, [], versions)
    job.outputs[0].parent.mkdir(parents=True, exist_ok=True)
    job.outputs[0].write_text(comparison.to_json())
    job.outputs[1].write_text("the comparison's own page")
    return comparison


class MadeUp:
    """A study whose trainings and comparisons are finished; Dice by data set, method, seed, fold, case and label."""

    def __init__(self, root: Path):
        self.file = root / "study.yaml"
        self.file.write_text("# A & B <b>?\n" + yaml.safe_dump(STUDY, sort_keys=False, default_flow_style=None))
        self.dice = np.random.default_rng(0).uniform(0.5, 0.9, (2, 2, 2, 2, CASES, len(LABELS)))
        self.dice[0, 1] += 0.1
        self.comparisons = []
        for job in self.jobs:
            if isinstance(job, Train):
                finish_training(job)
                write_log(job, (3600.0, 1800.0, 1800.0) if "Off" in job.trainer else (5400.0, 1800.0, 1800.0))
            elif isinstance(job, Compare):
                place = len(self.comparisons)
                versions = {"python": "3.11", "torch": f"2.{place}"}
                self.comparisons.append(write_comparison(job, self.dice[place], versions, ["They differ in luck."]))

    @property
    def jobs(self):
        return jobs_of(read_study(self.file))

    def of(self, kind):
        return [job for job in self.jobs if isinstance(job, kind)]

    def report(self, capsys):
        """Runs the command; returns its status, what it printed, its error, and report.json's values."""
        status = cli.main(["study", str(self.file), "--report"])
        captured = capsys.readouterr()
        file = self.of(Report)[0].outputs[0]
        return status, captured.out, captured.err, json.loads(file.read_text()) if file.is_file() else None

    def page(self):
        return self.of(Report)[0].outputs[1].read_text()


@pytest.fixture
def made_up(nnunet_folders, monkeypatch, tmp_path) -> MadeUp:
    (nnunet_folders / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(nnunet_folders / "results"))
    for number, name in ((901, "Spheres"), (902, "Discs")):
        write_dataset(nnunet_folders / "raw" / f"Dataset{number}_{name}", cases=1, size=(2, 4, 4))
    return MadeUp(tmp_path)


def test_means_and_spreads_are_those_of_the_cases(made_up, capsys):
    status, printed, error, values = made_up.report(capsys)
    assert status == 0, error
    assert list(values["places"]) == [SPHERES, DISCS]
    scores = {(row["place"], row["method"], row["metric"]): row for row in values["scores"]}
    for place, dice in zip((SPHERES, DISCS), made_up.dice, strict=True):
        for method, name in enumerate((OFF, SALSTM)):
            for metric, of in (("dice", dice[method]), ("hd95", 10 * (1 - dice[method])), ("nsd", dice[method])):
                found = scores[place, name, metric]
                assert found["mean"] == pytest.approx(of.mean())
                assert found["over_seeds"] == pytest.approx(of.mean(axis=(1, 2, 3)).std(ddof=1))
                assert found["over_folds"] == pytest.approx(of.mean(axis=(0, 2, 3)).std(ddof=1))
    off, ours = (made_up.dice[0, method] for method in (0, 1))
    cells = [
        f"{d.mean():.4f} ({d.mean(axis=(1, 2, 3)).std(ddof=1):.4f} / {d.mean(axis=(0, 2, 3)).std(ddof=1):.4f})"
        for d in (off, ours)
    ]
    # The better one stands out.
    assert f" {cells[0]} |" in printed
    assert f" **{cells[1]}** |" in printed
    assert f"<strong>{cells[1]}</strong>" in made_up.page()


def test_differences_and_verdicts_are_those_of_the_comparisons(made_up, capsys):
    _, printed, _, values = made_up.report(capsys)
    for found, comparison in zip(values["verdicts"], made_up.comparisons, strict=True):
        expected = comparison.verdicts[SALSTM]
        assert found["method"] == SALSTM
        for question, answer in (("networks", expected.networks), ("methods", expected.methods)):
            assert found[f"{question}_verdict"] == answer.verdict
            assert found[f"{question}_low"] == pytest.approx(answer.low)
            assert found[f"{question}_p_holm"] == pytest.approx(answer.p)
    verdicts = [comparison.verdicts[SALSTM].networks.verdict for comparison in made_up.comparisons]
    gaps = [f"{(d[1] - d[0]).mean():+.4f}" for d in made_up.dice]
    text = " ".join(printed.split())
    assert "ours against SALSTMOff in Dice: these networks " in text
    for verdict, place, gap in zip(verdicts, (SPHERES, DISCS), gaps, strict=True):
        assert re.search(rf"{verdict} in \d of 2 \([^)]*{place} {re.escape(gap)}", text)
    assert "everywhere: They differ in luck." in text
    (hd95,) = {row["difference"] for row in values["secondary"] if (row["place"], row["metric"]) == (DISCS, "hd95")}
    assert hd95 == pytest.approx(10 * (made_up.dice[1, 0] - made_up.dice[1, 1]).mean())


def test_hours_are_those_of_the_logs(made_up, capsys):
    off, *_ = (job for job in made_up.of(Train) if job.trainer.startswith(OFF))
    ours = [job for job in made_up.of(Train) if job.trainer.startswith(SALSTM)]
    # Epochs 1 and 2 were trained again, and one training is not finished.
    write_log(off, (3600.0, 1800.0, 1800.0), again=(900.0, 900.0))
    ours[0].checkpoint.unlink()
    write_log(ours[0], (36_000.0,))
    # The other data set is trained on twice as fast.
    for job in made_up.of(Train)[8:]:
        write_log(job, (1800.0, 900.0, 900.0) if job.trainer.startswith(OFF) else (2700.0, 900.0, 900.0))
    for job in made_up.of(Compare):
        for file in job.outputs:
            os.utime(file)
    _, printed, _, values = made_up.report(capsys)
    first, second = values["hours"]
    assert first == {
        "method": OFF, "finished": 8, "total": 12.5, "repeated": 0.5, "relative": 1.0,
        "901_Spheres 3d_fullres": 2.0, "902_Discs 3d_fullres": 1.0,
    }  # fmt: skip
    # The unfinished one counts in the total only.
    assert second == {
        "method": SALSTM, "finished": 7, "total": 3 * 2.5 + 10 + 4 * 1.25, "repeated": 0.0, "relative": 1.25,
        "901_Spheres 3d_fullres": 2.5, "902_Discs 3d_fullres": 1.25,
    }  # fmt: skip
    assert re.search(r"\| ours +\| +7 of 8 \| +22\.5 \| +0\.00 \| +x 1\.25 \|", printed)
    assert "GPU" not in printed


def test_hours_on_gpus_count_each_of_them(made_up, capsys):
    made_up.file.write_text(made_up.file.read_text().replace("cpu", "cuda\nresources: {train: {gpus: 4}}"))
    by_hand, *_, other = made_up.of(Train)
    for job, distributed in ((by_hand, "False"), (other, "True")):
        (job.folder / "debug.json").write_text(json.dumps({"is_ddp": distributed, "gpu_name": "Some GPU"}))
    _, printed, _, values = made_up.report(capsys)
    assert values["hours"][0]["total"] == 7 * 4 * 2 + 2
    assert "GPU hours" in printed
    assert printed.count("Trained on Some GPU.") == 1
    (by_hand.folder / "debug.json").write_text(json.dumps({"gpu_name": "Another GPU"}))
    printed = " ".join(made_up.report(capsys)[1].split())
    assert "different devices do not compare; trained were SALSTMOff on Another GPU; ours on Some GPU." in printed


def test_what_is_there_is_reported_and_the_rest_named(made_up, capsys):
    first, second = made_up.of(Compare)
    first.outputs[0].unlink()
    status, printed, _, values = made_up.report(capsys)
    assert status == 0
    assert (list(values["places"]), list(values["missing"])) == ([DISCS], [SPHERES])
    assert f"{SPHERES}: there is no report at studies/made_up/comparisons/" in " ".join(printed.split())
    assert "Not complete: 1 of 2 comparisons are missing." in printed
    # One that is older than a training is as good as missing.
    os.utime(second.inputs[0], (0, second.outputs[1].stat().st_mtime + 10))
    status, _, error, _ = made_up.report(capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert (
        f"none of the 2 comparisons of made_up is there yet; make them with: nnUNetv2_salstm study {made_up.file}"
        in error
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"format": 2', '"format": 9'), "must be a comparison of format 2, got 9"),
        (lambda text: text.replace('"overlap"', '"over"'), "is damaged: KeyError 'overlap'"),
    ],
    ids=["other format", "other keys"],
)
def test_a_comparison_that_cannot_be_read_is_named(made_up, damage, message, capsys):
    file = made_up.of(Compare)[1].outputs[0]
    file.write_text(damage(file.read_text()))
    status, _, error, values = made_up.report(capsys)
    assert (status, error.count("\n"), values) == (1, 1, None)
    assert f"{file} {message}" in error
    assert f"remove it and run the study again: nnUNetv2_salstm study {made_up.file}" in error


def test_the_report_is_the_last_job_and_made_again_when_anything_changes(made_up, capsys):
    job = made_up.jobs[-1]
    assert (job.kind, job.name, len(job.after)) == ("report", "report__made_up", 2)
    assert job.command() == ["nnUNetv2_salstm", "study", str(made_up.file), "--report"]
    assert "there is no report at" in job.missing()
    made_up.report(capsys)
    assert job.missing() is None
    output = job.outputs[0]
    newer = job.inputs[1]
    os.utime(newer, (0, output.stat().st_mtime + 10))
    assert re.search(r"report\.(json|html) is older than", job.missing())
    os.utime(newer, (0, output.stat().st_mtime - 10))
    assert job.missing() is None
    text = made_up.file.read_text()
    made_up.file.write_text(f"{text}# more\n")
    assert "is of another text of" in job.missing()
    made_up.file.write_text(text)
    # A training that is made again.
    made_up.of(Train)[0].summary.unlink()
    assert "is not finished" in unfinished(made_up.jobs)[job.name]
    finish_training(made_up.of(Train)[0])
    values = json.loads(output.read_text())
    output.write_text(json.dumps({**values, "missing": {DISCS: "gone"}}))
    assert job.missing().endswith(f"lacks {DISCS}")


def test_a_study_of_one_trainer_compares_nothing(made_up, capsys):
    made_up.file.write_text(yaml.safe_dump({**STUDY, "trainers": ["nnUNetTrainerSALSTM_A"]}))
    assert not made_up.of(Report)
    assert cli.main(["study", str(made_up.file), "--report"]) == 1
    assert "compares nothing, as it names one trainer" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_said(made_up, capsys):
    (made_up.of(Report)[0].outputs[0].parent / "report.html").mkdir()  # in its way
    status, printed, error, _ = made_up.report(capsys)
    assert (status, printed, error.count("\n")) == (1, "", 1)
    assert "report.html" in error


def test_the_page_is_whole_and_the_same_for_the_same_files(made_up, capsys):
    made_up.report(capsys)
    page, folder = made_up.page(), made_up.of(Report)[0].outputs[0].parent
    links = re.findall(r'<a href="([^"]+)"', page)
    assert [(folder / link).read_text() for link in links] == ["the comparison's own page"] * 2
    assert escape(made_up.file.read_text()) in page
    assert f"torch differs: 2.0 ({SPHERES}), 2.1 ({DISCS})" in page
    assert page.count("<svg") == 1
    made_up.report(capsys)
    assert made_up.page() == page
    assert str(folder) not in page


def test_infinite_distances_are_counted_and_never_best(made_up, capsys):
    file = made_up.of(Compare)[0].outputs[0]
    values = json.loads(file.read_text())
    columns = values["scores"]["columns"]
    row = next(r for r in values["scores"]["rows"] if r[columns.index("method")] == SALSTM)
    row[columns.index("hd95")] = "inf"
    file.write_text(json.dumps(values))
    _, printed, _, values = made_up.report(capsys)
    (found,) = (r for r in values["scores"] if (r["place"], r["method"], r["metric"]) == (SPHERES, SALSTM, "hd95"))
    assert found["infinite"] == 1
    below = printed[printed.index("\nHD95") :].splitlines()
    ours, off = (next(line for line in below if line.startswith(f"| {name}")) for name in ("ours", "SALSTMOff"))
    assert "1 infinite" in ours.split("|")[2]
    assert ("**" in ours.split("|")[2], "**" in off.split("|")[2]) == (False, True)
