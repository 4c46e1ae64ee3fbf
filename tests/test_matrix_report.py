"""`nnUNetv2_salstm matrix report` on comparisons as compare writes them, of scores that are made up."""

import json
import os
import re
import shlex
from html import escape
from pathlib import Path

import numpy as np
import pytest
import seaborn
import yaml
from conftest import write_dataset
from matplotlib import rc_context
from test_compare import Elements

from nnunetv2_salstm import cli
from nnunetv2_salstm.evaluation.metrics import Scores
from nnunetv2_salstm.evaluation.results import Results, ScoredCase
from nnunetv2_salstm.evaluation.runs import Run, arms_of
from nnunetv2_salstm.evaluation.written import WrittenReport
from nnunetv2_salstm.reporting.comparison import Report as Comparison
from nnunetv2_salstm.study.attempts import begin
from nnunetv2_salstm.study.state import Folder
from nnunetv2_salstm.study.study import read_study
from nnunetv2_salstm.study.tasks import Compare, Report, Train, expand

OFF, SALSTM = "nnUNetTrainerSALSTMOff_3epochs", "nnUNetTrainerSALSTM_A_3epochs"
SPHERES, DISCS = "901_Spheres 3d_fullres validation", "902_Discs 3d_fullres validation"
STUDY = {
    "name": "made_up",
    "datasets": [901, 902],
    "configurations": ["3d_fullres"],
    "folds": [0, 1],
    "trainers": ["nnUNetTrainerSALSTMOff", "nnUNetTrainerSALSTM_A"],
    "seeds": [0, 1],
    "epochs": 3,
    "test": False,
    "device": "cpu",
}
LABELS = ["shell", "core"]
CASES = 4  # of a fold


def write_log(task: Train, seconds: tuple[float, ...], again: tuple[float, ...] = ()) -> None:
    """Writes nnU-Net's log of a finished training; with the seconds of epochs 1, 2, ... that it had to repeat."""
    task.folder.mkdir(parents=True, exist_ok=True)
    for number, (first, times) in enumerate([(1, again), (0, seconds)] if again else [(0, seconds)]):
        lines = [
            f"12:00: Epoch {epoch}\n12:00: Epoch time: {time} s\n" for epoch, time in enumerate(times, start=first)
        ]
        (task.folder / f"training_log_{number}.txt").write_text("".join(lines))


def finish_training(task: Train) -> None:
    """Writes what nnU-Net leaves behind, long ago."""
    task.summary.parent.mkdir(parents=True, exist_ok=True)
    task.checkpoint.touch()
    task.summary.write_text('{"foreground_mean": {}}')
    os.utime(task.summary, (0, 0))


def score(dice: float, far: float) -> Scores:
    return Scores(dice, dice / (2 - dice), far, dice, 0.1, 100, 100)


def write_comparison(task: Compare, dice: np.ndarray, versions: dict[str, str], unlike: list[str]) -> Comparison:
    """Writes what compare does, of Dice by arm, seed, fold, case and label; HD95 is 10 times what Dice lacks."""
    words = list(task.arguments)
    names = words[words.index("--trainers") + 1 : words.index("-f")]
    arms = arms_of(Run(name, {}) for name in names)
    scored = [
        ScoredCase(
            arm.name,
            run.name,
            fold,
            f"case_{fold}_{case}",
            dict(
                zip(LABELS, (score(value, 10 * (1 - value)) for value in dice[a, s, fold, case].tolist()), strict=True)
            ),
        )
        for a, arm in enumerate(arms)
        for s, run in enumerate(arm.runs)
        for fold in range(dice.shape[2])
        for case in range(dice.shape[3])
    ]
    inputs = {
        "command": shlex.join(task.command()),
        "reference": "nnUNet_preprocessed",
        "labels": {label: [value] for value, label in enumerate(LABELS, start=1)},
        "tolerances": dict.fromkeys(LABELS, 2.0),
    }
    comparison = Comparison(task.name, inputs, Results(arms, LABELS, scored, {}), unlike, {}, [], versions)
    task.report.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{task.report}.json").write_text(comparison.to_json())
    Path(f"{task.report}.html").write_text("the comparison's own page")
    return comparison


class MadeUp:
    """A study whose trainings and comparisons are finished; the Dice by data set, arm, seed, fold, case and label."""

    def __init__(self, root: Path):
        self.file = root / "study.yaml"
        self.file.write_text("# A & B <b>?\n" + yaml.safe_dump(STUDY, sort_keys=False, default_flow_style=None))
        self.dice = np.random.default_rng(0).uniform(0.5, 0.9, (2, 2, 2, 2, CASES, len(LABELS)))
        self.dice[0, 1] += 0.1
        self.comparisons = []
        for task in self.tasks:
            if isinstance(task, Train):
                finish_training(task)
                write_log(task, (3600.0, 1800.0, 1800.0) if "Off" in task.trainer else (5400.0, 1800.0, 1800.0))
            elif isinstance(task, Compare):
                place = len(self.comparisons)
                versions = {"python": "3.11", "torch": f"2.{place}"}
                self.comparisons.append(write_comparison(task, self.dice[place], versions, ["They differ in luck."]))

    @property
    def tasks(self):
        study = read_study(self.file)
        return expand(study, Folder(study.name).study)

    def of(self, kind):
        return [task for task in self.tasks if isinstance(task, kind)]

    def report(self, capsys):
        """Runs the command; returns its status, what it printed, its error, and report.json's values."""
        status = cli.main(["matrix", "report", str(self.file)])
        captured = capsys.readouterr()
        file = Path(f"{self.of(Report)[0].output}.json")
        return status, captured.out, captured.err, json.loads(file.read_text()) if file.is_file() else None

    def page(self):
        return Path(f"{self.of(Report)[0].output}.html").read_text()


@pytest.fixture
def made_up(nnunet_folders, monkeypatch, tmp_path) -> MadeUp:
    (nnunet_folders / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(nnunet_folders / "results"))
    for number, name in ((901, "Spheres"), (902, "Discs")):
        write_dataset(nnunet_folders / "raw" / f"Dataset{number}_{name}", cases=1, size=(2, 4, 4))
    return MadeUp(tmp_path)


def test_means_and_spreads_are_those_of_the_cases(made_up, capsys):
    status, printed, _, values = made_up.report(capsys)
    assert status == 0
    assert list(values["places"]) == [SPHERES, DISCS]
    for place, dice in zip(values["places"].values(), made_up.dice, strict=True):
        for arm, name in enumerate((OFF, SALSTM)):
            means = place["means"][name]
            for metric, of in (("dice", dice[arm]), ("hd95", 10 * (1 - dice[arm])), ("nsd", dice[arm])):
                assert means[metric]["mean"] == pytest.approx(of.mean())
                assert means[metric]["over_seeds"] == pytest.approx(of.mean(axis=(1, 2, 3)).std(ddof=1))
                assert means[metric]["over_folds"] == pytest.approx(of.mean(axis=(0, 2, 3)).std(ddof=1))
    off, ours = (made_up.dice[0, arm] for arm in (0, 1))
    cells = [
        f"{d.mean():.4f} ({d.mean(axis=(1, 2, 3)).std(ddof=1):.4f} / {d.mean(axis=(0, 2, 3)).std(ddof=1):.4f})"
        for d in (off, ours)
    ]
    # The better one stands out.
    assert f" {cells[0]} |" in printed
    assert f" **{cells[1]}** |" in printed
    assert f"<td>{cells[0]}</td>" in made_up.page()
    assert f"<td><strong>{cells[1]}</strong></td>" in made_up.page()


def test_differences_and_verdicts_are_those_of_the_comparisons(made_up, capsys):
    _, printed, _, values = made_up.report(capsys)
    for place, comparison in zip(values["places"].values(), made_up.comparisons, strict=True):
        found = comparison.results.comparisons[SALSTM, "mean", "hd95"]
        written = place["differences"][SALSTM]["hd95"]
        assert (written["low"], written["p_holm"], written["losses"]) == (found.low, found.p_holm, found.losses)
        assert place["verdicts"] == comparison.verdicts()
    gaps = [f"{(d[1] - d[0]).mean():+.4f}" for d in made_up.dice]
    assert (
        f"- SALSTM_A against SALSTMOff in Dice: no difference shown in 2 of 2 ({SPHERES} {gaps[0]}; {DISCS} {gaps[1]})."
    ) in printed
    assert "- everywhere: They differ in luck." in printed


def test_a_comparison_is_copied_not_made_again(made_up, capsys):
    """What is written counts: another statistic than that of the cases shows where it comes from."""
    file = Path(f"{made_up.of(Compare)[0].report}.json")
    values = json.loads(file.read_text())
    (found,) = [f for f in values["comparisons"] if (f["label"], f["metric"]) == ("mean", "dice")]
    found |= {"mean_difference": 0.1234, "p_holm": 0.0123, "wins": 7, "losses": 1}
    file.write_text(json.dumps(values))
    _, printed, _, _ = made_up.report(capsys)
    assert f"better in 1 of 2 ({SPHERES} +0.1234), no difference shown in 1 of 2 ({DISCS} " in printed


def test_hours_are_those_of_the_logs(made_up, capsys):
    off, *_ = (task for task in made_up.of(Train) if task.trainer.startswith(OFF))
    ours = [task for task in made_up.of(Train) if task.trainer.startswith(SALSTM)]
    # Epochs 1 and 2 were trained again, and one training is not finished.
    write_log(off, (3600.0, 1800.0, 1800.0), again=(900.0, 900.0))
    ours[0].checkpoint.unlink()
    ours[0].summary.unlink()
    write_log(ours[0], (36_000.0,))
    # The other data set is trained on twice as fast.
    for task in made_up.of(Train)[8:]:
        seconds = (1800.0, 900.0, 900.0) if task.trainer.startswith(OFF) else (2700.0, 900.0, 900.0)
        write_log(task, seconds)
    _, printed, _, values = made_up.report(capsys)
    hours = values["hours"]
    assert (
        hours[OFF].items() >= {"trainings": 8, "finished": 8, "with_a_log": 8, "total": 12.5, "repeated": 0.5}.items()
    )
    assert hours[OFF]["per_training"] == {"901_Spheres 3d_fullres": 2.0, "902_Discs 3d_fullres": 1.0}
    # The unfinished one counts in the total only.
    assert hours[SALSTM]["per_training"] == {"901_Spheres 3d_fullres": 2.5, "902_Discs 3d_fullres": 1.25}
    assert hours[SALSTM].items() >= {"finished": 7, "total": 3 * 2.5 + 10 + 4 * 1.25, "relative": 1.25}.items()
    assert "| SALSTM_A  |   7 of 8 |     22.5 |     0.00 |   x 1.25 |" in printed
    assert "GPU" not in printed


def test_hours_on_gpus_count_each_of_them(made_up, capsys):
    made_up.file.write_text(made_up.file.read_text().replace("cpu", "cuda\nresources: {train: {gpus: 4}}"))
    # Commands say -num_gpus now; comparisons stay as they are.
    by_hand, *_, other = made_up.of(Train)
    for task, distributed in ((by_hand, "False"), (other, "True")):
        (task.folder / "debug.json").write_text(json.dumps({"is_ddp": distributed, "gpu_name": "Some GPU"}))
    _, printed, _, values = made_up.report(capsys)
    assert values["hours"][OFF]["total"] == 7 * 4 * 2 + 2
    assert values["hours"][SALSTM]["devices"] == ["Some GPU"]
    assert "## GPU hours" in printed
    assert printed.count("Trained on Some GPU.") == 1
    (by_hand.folder / "debug.json").write_text(json.dumps({"gpu_name": "Another GPU"}))
    _, printed, _, _ = made_up.report(capsys)
    assert "different devices do not compare; trained were SALSTMOff on Another GPU; SALSTM_A on Some GPU." in printed


def test_what_is_there_is_reported_and_the_rest_named(made_up, capsys):
    first, second = made_up.of(Compare)
    Path(f"{first.report}.json").unlink()
    status, printed, _, values = made_up.report(capsys)
    assert status == 0
    assert list(values["places"]) == [DISCS]
    assert list(values["missing"]) == [SPHERES]
    where = "matrix/studies/made_up/reports"
    assert f"- {SPHERES}: there is no report at {where}/" in printed
    assert "Not complete: 1 of 2 comparisons are missing." in printed
    assert printed.index("Not complete") < printed.index("- SALSTM_A against")
    assert f"<li>{SPHERES}: there is no report at" in made_up.page()
    # One that is older than a training is as good as missing.
    newer = second.inputs[0]
    os.utime(newer, (0, Path(f"{second.report}.html").stat().st_mtime + 10))
    status, _, error, _ = made_up.report(capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert (
        f"none of the 2 comparisons of made_up is there yet; make them with: nnUNetv2_salstm matrix {made_up.file}"
        in error
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:99], "Expecting|delimiter|Unterminated|Invalid"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "its format must be 1, got 2"),
        (lambda text: text.replace('"wins"', '"win"'), "KeyError 'wins'"),
        (lambda text: "[]", "its format must be 1, got None"),
    ],
    ids=["cut", "other format", "other keys", "no object"],
)
def test_a_comparison_that_cannot_be_read_is_named(made_up, damage, message, capsys):
    file = Path(f"{made_up.of(Compare)[1].report}.json")
    file.write_text(damage(file.read_text()))
    status, _, error, values = made_up.report(capsys)
    assert (status, error.count("\n"), values) == (1, 1, None)
    assert re.search(f"{re.escape(str(file))} cannot be read as a comparison \\(.*({message})", error)
    assert f"remove it and run the study again: nnUNetv2_salstm matrix {made_up.file}" in error


def test_the_report_is_the_last_task_and_made_again_when_anything_changes(made_up, capsys):
    task = made_up.tasks[-1]
    assert (task.kind, task.name, len(task.after)) == ("report", "report__made_up", 2)
    assert task.command() == ["nnUNetv2_salstm", "matrix", "report", str(made_up.file)]
    assert "there is no report at" in task.missing()
    made_up.report(capsys)
    assert task.missing() is None
    output = Path(f"{task.output}.json")
    newer = Path(f"{task.comparisons[1].report}.json")
    os.utime(newer, (0, output.stat().st_mtime + 10))
    assert re.search(r"report\.(json|html) is older than", task.missing())
    os.utime(newer, (0, output.stat().st_mtime - 10))
    assert task.missing() is None
    text = made_up.file.read_text()
    made_up.file.write_text(f"{text}# more\n")
    assert "is of another text of" in task.missing()
    made_up.file.write_text(text)
    # A training that is made again.
    made_up.of(Train)[0].summary.unlink()
    assert "summary.json" in task.missing()
    finish_training(made_up.of(Train)[0])
    assert task.missing() is None
    values = json.loads(output.read_text())
    output.write_text(json.dumps({**values, "missing": {DISCS: "gone"}}))
    assert task.missing().endswith(f"lacks {DISCS}")
    Path(f"{task.output}.html").unlink()
    assert "there is no report at" in task.missing()
    # It is made again, although it has been made: its last attempt did not fail.
    folder = Folder("made_up")
    begin(folder.of(task)).end(0)
    assert folder.states(made_up.tasks)[task.name].name == "ready"


def test_the_report_runs_last(made_up, capsys, monkeypatch):
    monkeypatch.chdir(made_up.file.parent)
    cli.main(["matrix", made_up.file.name, "--dry-run"])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "# report__made_up",
        f"nnUNetv2_salstm matrix report {made_up.file}",
    ]
    cli.main(["matrix", "status", str(made_up.file)])
    assert re.search(r"^\| report +\| +0 \|", capsys.readouterr().out, re.MULTILINE)
    made_up.report(capsys)
    cli.main(["matrix", "status", str(made_up.file)])
    assert capsys.readouterr().out.endswith("All tasks are finished.\n")


def test_a_study_of_one_trainer_compares_nothing(made_up, capsys):
    made_up.file.write_text(made_up.file.read_text().replace(", nnUNetTrainerSALSTM_A", ""))
    assert not made_up.of(Report)
    assert cli.main(["matrix", "report", str(made_up.file)]) == 1
    assert "compares nothing, as it names one trainer" in capsys.readouterr().err


def test_an_interrupted_report_leaves_the_one_before(made_up, capsys, monkeypatch):
    made_up.report(capsys)
    output = made_up.of(Report)[0].output
    before = {file.name: file.read_bytes() for file in output.parent.iterdir() if file.is_file()}
    assert sorted(before) == ["report.html", "report.json"]

    def interrupted(path, text):
        path.write_bytes(text[:100].encode())
        raise KeyboardInterrupt

    for file in made_up.of(Compare):
        write_comparison(file, made_up.dice[0], {}, [])
    monkeypatch.setattr(Path, "write_text", interrupted)
    assert cli.main(["matrix", "report", str(made_up.file)]) != 0
    assert {file.name: file.read_bytes() for file in output.parent.iterdir() if file.is_file()} == before


def test_a_folder_that_cannot_be_written_to_is_said(made_up, capsys):
    output = made_up.of(Report)[0].output
    (output.parent / "report.html").mkdir()  # in its way
    status, _, error, _ = made_up.report(capsys)
    assert (status, error.count("\n")) == (1, 1)
    assert "report.html cannot be written" in error


def test_the_page_is_whole_and_ends_with_the_study_file_and_versions(made_up, capsys):
    made_up.report(capsys)
    page = made_up.page()
    elements = Elements(page)
    assert not elements.open
    links = [attributes["href"] for tag, attributes in elements.found if tag == "a"]
    folder = made_up.of(Report)[0].output.parent
    assert [(folder / link).read_text() for link in links] == ["the comparison's own page"] * 2
    others = [a[name] for tag, a in elements.found if tag != "a" for name in ("src", "href") if name in a]
    assert all(address.startswith(("data:", "#")) for address in others)
    assert f"<pre>\n{escape(made_up.file.read_text())}</pre>" in page
    assert "# A &amp; B &lt;b&gt;?\n" in page
    assert f"<li>torch: differs: 2.0 ({SPHERES}), 2.1 ({DISCS})</li>" in page
    assert "<li>python: 3.11</li>" in page
    assert page.index("<pre>") < page.index("<h2>Versions</h2>")
    # The same files make the same page, wherever they lie.
    made_up.report(capsys)
    assert made_up.page() == page
    assert str(folder) not in page


def test_a_training_in_the_same_process_changes_no_figure(made_up, capsys):
    """nnU-Net's logger sets the fonts of all figures, large enough to leave no room for the smallest."""
    Path(f"{made_up.of(Compare)[0].report}.json").unlink()
    made_up.report(capsys)
    page = made_up.page()
    with rc_context():
        seaborn.set_theme(font_scale=2.5)
        made_up.report(capsys)
    assert made_up.page() == page


def test_infinite_distances_are_counted_and_never_best(made_up, capsys):
    task = made_up.of(Compare)[0]
    file = Path(f"{task.report}.json")
    values = json.loads(file.read_text())
    case = next(case for case in values["cases"] if case["arm"] == SALSTM)
    case["labels"]["core"] |= {"hd95": None, "infinite": ["hd95"]}
    file.write_text(json.dumps(values))
    read = WrittenReport.read(file)
    assert read.results.summary(SALSTM, "mean", "hd95").infinite == 1
    _, printed, _, _ = made_up.report(capsys)
    row = next(line for line in printed.splitlines() if re.match(r"\| SALSTM_A .*, 1 infinite", line))
    assert "**" not in row.split("|")[2]
    below = next(line for line in printed[printed.index("## HD95") :].splitlines() if line.startswith("| SALSTMOff"))
    assert "**" in below.split("|")[2]
