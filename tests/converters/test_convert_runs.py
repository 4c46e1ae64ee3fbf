"""Where `convert` writes, what it refuses to replace, and how it stops and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import official_folders as official
import pytest
import SimpleITK as sitk
from official_folders import KillsItsProcess, snapshot, write_acdc, write_cvc, write_isic

from nnunetv2_salstm import cli
from nnunetv2_salstm.converters import conversion, dataset
from nnunetv2_salstm.converters.case import Collection

MARK = dataset.BEGUN


def convert(data, folder, *arguments, processes=1):
    return cli.main(["convert", data, "-i", str(folder), "-np", str(processes), *map(str, arguments)])


def start(data, folder, *arguments, before="pass"):
    """Starts a conversion in a session of its own, as a terminal does."""
    argv = ["convert", data, "-i", str(folder), *map(str, arguments)]
    # A background job of a shell ignores Ctrl-C, and so would what it starts.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from nnunetv2_salstm.cli import main; {before}; sys.exit(main({argv!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def session_has_ended(process, seconds=10):
    """Waits for every process of a session, workers included."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def result_of(nnunet_folders):
    """Returns all that was written, and makes sure that it is whole."""
    written = snapshot(nnunet_folders)
    assert not [name for name in written if "unfinished" in name or MARK in name]
    return written


# Nothing elsewhere, nothing with --dry-run


@pytest.mark.parametrize("data", ["acdc", "isic2018", "cvc-clinicdb", "synapse", "transunet"])
def test_nothing_is_written_outside_the_two_folders(data, nnunet_folders, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for part in ("raw", "preprocessed"):
        (nnunet_folders / part / "Dataset001_Other").mkdir()
        (nnunet_folders / part / "Dataset001_Other" / "dataset.json").write_text("{}")
    source = official.WRITERS[data](tmp_path / "source")
    before = snapshot(tmp_path)
    assert convert("synapse" if data == "transunet" else data, source, "-d", 500) == 0
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    new = {"/".join(name.split("/")[:3]) for name in after.keys() - before.keys()}
    assert {name.partition("_")[0] for name in new} == {"nnunet/raw/Dataset500", "nnunet/preprocessed/Dataset500"}
    preprocessed = [name for name in after.keys() - before.keys() if name.startswith("nnunet/preprocessed/")]
    assert sorted(name.count("/") for name in preprocessed) == [2, 3], "a folder and splits_final.json in it"


@pytest.mark.parametrize("data", ["acdc", "isic2018", "cvc-clinicdb", "synapse", "transunet"])
def test_a_dry_run_says_the_same_and_writes_nothing(data, nnunet_folders, tmp_path, capsys):
    source = official.WRITERS[data](tmp_path / "source")
    name = "synapse" if data == "transunet" else data
    before = snapshot(tmp_path)
    assert convert(name, source, "--dry-run") == 0
    assert snapshot(tmp_path) == before
    dry = capsys.readouterr().out.splitlines()
    assert convert(name, source) == 0
    assert (dry[:-1], dry[-1]) == (capsys.readouterr().out.splitlines()[:-2], "Dry run: nothing was written.")


def test_several_processes_write_the_same_as_one(nnunet_folders, tmp_path, capsys):
    source = write_acdc(tmp_path / "ACDC", patients=5)
    results, summaries = [], []
    for processes in (1, 2):
        assert convert("acdc", source, "--overwrite", processes=processes) == 0
        results.append(result_of(nnunet_folders))
        summaries.append(capsys.readouterr().out)
    assert results[0] == results[1]
    assert summaries[0] == summaries[1]


# What is there already


def test_a_finished_dataset_is_replaced_with_overwrite_only(nnunet_folders, tmp_path, capsys):
    source = write_acdc(tmp_path / "ACDC", patients=5)
    assert convert("acdc", source) == 0
    before = result_of(nnunet_folders)
    for again in ((), ("--dry-run",)):
        assert convert("acdc", source, *again) == 1
        assert "Dataset027_ACDC is there and finished; replace it with --overwrite" in capsys.readouterr().err
    (nnunet_folders / "preprocessed" / "Dataset027_ACDC" / "nnUNetPlans.json").write_text("mine")
    smaller = write_acdc(tmp_path / "smaller", patients=3, test=0)
    assert convert("acdc", smaller, "--dry-run", "--overwrite") == 0
    assert before.items() <= snapshot(nnunet_folders).items()
    assert convert("acdc", smaller, "--overwrite") == 0
    after = result_of(nnunet_folders)
    assert after["preprocessed/Dataset027_ACDC/nnUNetPlans.json"] == b"mine"
    assert json.loads(after["raw/Dataset027_ACDC/dataset.json"])["numTraining"] == 6
    assert not [name for name in after if "patient005" in name or "imagesTs" in name]
    assert len(json.loads(after["preprocessed/Dataset027_ACDC/splits_final.json"])) == 3


@pytest.mark.parametrize("content", ["dataset.json", "a link", "a file", "files"])
def test_a_folder_of_something_else_is_never_removed(content, nnunet_folders, tmp_path, capsys):
    target = nnunet_folders / "raw" / "Dataset027_ACDC"
    if content == "a link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / MARK).write_text(json.dumps({"converted_by": dataset.MADE_BY}))
        target.symlink_to(tmp_path / "elsewhere")
    elif content == "a file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / ("dataset.json" if content == "dataset.json" else "imagesTr")).write_text('{"numTraining": 1}')
    before = snapshot(tmp_path)
    source = write_acdc(tmp_path / "ACDC", 2)
    assert convert("acdc", source, "--overwrite") == 1
    assert "was not made by nnUNetv2_salstm convert; remove it" in capsys.readouterr().err
    assert before.items() <= snapshot(tmp_path).items()
    assert not [path for path in target.rglob("*") if path.name == "imagesTr" and path.is_dir()]


def test_an_empty_folder_is_filled(nnunet_folders, tmp_path):
    (nnunet_folders / "raw" / "Dataset027_ACDC").mkdir()
    assert convert("acdc", write_acdc(tmp_path / "ACDC", 2)) == 0


def test_a_source_in_the_dataset_is_not_removed(nnunet_folders, tmp_path, capsys):
    source = write_cvc(tmp_path / "CVC")
    assert convert("cvc-clinicdb", source) == 0
    inside = write_cvc(nnunet_folders / "raw" / "Dataset702_CVC-ClinicDB" / "source")
    before = snapshot(nnunet_folders)
    assert convert("cvc-clinicdb", inside, "--overwrite") == 1
    assert "must not lie in the dataset that is written" in capsys.readouterr().err
    assert snapshot(nnunet_folders) == before


@pytest.mark.parametrize("where", ["raw", "preprocessed", "results"])
def test_a_number_that_another_dataset_has(where, nnunet_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_results", str(nnunet_folders / "results"))
    (nnunet_folders / where / "Dataset027_Hearts").mkdir(parents=True)
    source = write_acdc(tmp_path / "ACDC", 2)
    assert convert("acdc", source) == 1
    assert f"there is {nnunet_folders / where / 'Dataset027_Hearts'}; choose another with -d" in capsys.readouterr().err
    assert convert("acdc", source, "-d", 28) == 0


def test_a_removal_that_is_interrupted_leaves_nothing_that_nnunet_reads(nnunet_folders, tmp_path, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    source = write_acdc(tmp_path / "ACDC", patients=2, test=0)
    assert convert("acdc", source) == 0
    made = nnunet_folders / "raw" / "Dataset027_ACDC"
    smaller = write_acdc(tmp_path / "smaller", patients=1, test=0)
    monkeypatch.setattr("nnunetv2_salstm.converters.dataset.shutil.rmtree", interrupt)
    convert("acdc", smaller, "--overwrite")
    assert (made / "imagesTr").is_dir()
    assert not (made / "dataset.json").exists()


def test_other_splits_are_replaced_with_overwrite_only(nnunet_folders, tmp_path, capsys):
    source = write_acdc(tmp_path / "ACDC", patients=5)
    splits = nnunet_folders / "preprocessed" / "Dataset027_ACDC" / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text('[{"train": ["mine"], "val": []}]')
    before = snapshot(nnunet_folders)
    assert convert("acdc", source) == 1
    assert f"{splits} is there and differs from the splits of this conversion" in capsys.readouterr().err
    assert snapshot(nnunet_folders) == before
    assert convert("acdc", source, "--overwrite") == 0
    folds = json.loads(splits.read_text())
    assert len(folds) == 5
    # The same folds, in whatever layout, are no hindrance.
    splits.write_text(json.dumps(folds))
    assert convert("acdc", source, "--overwrite") == 0


def test_other_splits_are_not_used_for_a_single_group(nnunet_folders, tmp_path, capsys):
    source = write_cvc(tmp_path / "CVC", frames=(1, 2))
    splits = nnunet_folders / "preprocessed" / "Dataset702_CVC-ClinicDB" / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text('[{"train": ["mine"], "val": []}]')
    assert convert("cvc-clinicdb", source) == 1
    assert "differs from the splits of this conversion" in capsys.readouterr().err
    assert convert("cvc-clinicdb", source, "--overwrite") == 0
    assert not splits.exists()


@pytest.mark.parametrize("unset", [["nnUNet_raw"], ["nnUNet_preprocessed"], ["nnUNet_raw", "nnUNet_preprocessed"]])
def test_both_variables_are_needed(unset, nnunet_folders, tmp_path, monkeypatch, capsys):
    for variable in unset:
        monkeypatch.delenv(variable)
    assert convert("acdc", write_acdc(tmp_path / "ACDC", 2)) == 1
    error = capsys.readouterr().err
    assert f"set nnUNet_raw and nnUNet_preprocessed, {' and '.join(unset)} is not set" in error
    assert error.count("\n") == 1


# Stop and go on


@pytest.fixture
def stuck(tmp_path):
    """Returns an ISIC folder whose last image is a pipe, at which a conversion waits, and that image."""
    source = write_isic(tmp_path / "ISIC", (12, 0, 0))
    last = source / "ISIC2018_Task1-2_Training_Input" / "ISIC_0000012.jpg"
    content = last.read_bytes()
    last.unlink()
    os.mkfifo(last)
    return source, last, content


@pytest.mark.nightly
def test_killed_in_the_middle_it_goes_on_and_finished_cases_are_kept(stuck, nnunet_folders):
    source, last, content = stuck
    target = nnunet_folders / "raw" / "Dataset701_ISIC2018"
    process = start("isic2018", source, "-np", 2)
    wait_until(lambda: len(list(target.glob("labelsTr/ISIC*"))) == 11, process)
    process.kill()
    process.communicate()
    assert session_has_ended(process), "workers must not outlive a killed conversion"
    finished = {file: file.stat().st_mtime_ns for file in target.glob("*/ISIC*")}
    assert len(finished) == 22
    assert not (target / "dataset.json").exists()
    # What may be left of a file that was being written.
    (target / "imagesTr" / "unfinished.ISIC_0000012_0000.png").write_bytes(b"half")
    (target / "labelsTr" / "unfinished.ISIC_9999999.png").write_bytes(b"half")
    last.unlink()
    last.write_bytes(content)
    assert convert("isic2018", source) == 0
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    went_on = result_of(nnunet_folders)
    assert convert("isic2018", source, "--overwrite") == 0
    assert result_of(nnunet_folders) == went_on


@pytest.mark.nightly
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_ends_all_processes_and_the_next_run_goes_on(processes, stuck, nnunet_folders):
    source, last, content = stuck
    target = nnunet_folders / "raw" / "Dataset701_ISIC2018"
    process = start("isic2018", source, "-np", processes)
    wait_until(lambda: len(list(target.glob("labelsTr/ISIC*"))) == 11, process)
    os.killpg(process.pid, signal.SIGINT)
    # A worker ends the case it is at, and a signal just before a call that blocks is seen after it: the wait must end.
    while process.poll() is None:
        with suppress(OSError):  # nobody has opened the pipe yet, or any more
            os.close(os.open(last, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.05)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert error.endswith("nnUNetv2_salstm convert: interrupted\n")
    assert "Traceback" not in error
    assert session_has_ended(process)
    written = snapshot(nnunet_folders)
    assert f"raw/{target.name}/{MARK}" in written
    assert not [name for name in written if "unfinished" in name or "dataset.json" in name]
    last.unlink()
    last.write_bytes(content)
    assert convert("isic2018", source) == 0
    assert len(list(target.glob("labelsTr/*"))) == 12


@pytest.mark.parametrize("data", ["acdc", "isic2018"])
def test_a_case_whose_source_has_changed_since_is_written_anew(data, nnunet_folders, tmp_path):
    """Even if size and time of the file are as they were."""
    source = official.WRITERS[data](tmp_path / "source")
    if data == "acdc":
        changed, bad = (source / "training" / f"patient00{n}" / f"patient00{n}_frame01_gt.nii.gz" for n in (1, 5))
        labels = "labelsTr/patient001_frame01.nii.gz"
    else:
        changed, bad = (
            source / "ISIC2018_Task1_Training_GroundTruth" / f"ISIC_000000{n}_segmentation.png" for n in (1, 6)
        )
        labels = "labelsTr/ISIC_0000001.png"
    whole, time_before = bad.read_bytes(), changed.stat().st_mtime_ns
    bad.write_bytes(whole[:20])
    assert convert(data, source) == 1
    bad.write_bytes(whole)
    target = next((nnunet_folders / "raw").iterdir())
    before = {file: file.stat().st_mtime_ns for file in target.glob("*Tr/*")}
    if data == "acdc":
        mask = sitk.ReadImage(str(changed))
        mask[0, 0, 0] = (mask[0, 0, 0] + 1) % 4
        expected = sitk.GetArrayFromImage(mask)
        sitk.WriteImage(mask, str(changed))
    else:
        with official.Image.open(changed) as image:
            expected = 255 - np.asarray(image)
        official.Image.fromarray(expected).save(changed)
        expected = expected > 127
    os.utime(changed, ns=(time_before, time_before))
    assert convert(data, source) == 0
    again = {file: file.stat().st_mtime_ns for file in before}
    assert [file for file in before if again[file] != before[file]] == [target / labels]
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(target / labels)))
    np.testing.assert_array_equal(written, expected)


def test_a_case_that_is_for_testing_now_is_no_longer_trained_on(nnunet_folders, tmp_path):
    source = write_acdc(tmp_path / "ACDC", patients=4)
    bad = source / "training" / "patient004" / "patient004_frame12.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:20])
    assert convert("acdc", source) == 1
    bad.write_bytes(whole)
    (source / "training" / "patient001").rename(source / "testing" / "patient001")
    (source / "testing" / "patient001" / "patient001_frame01_gt.nii.gz").unlink()
    assert convert("acdc", source) == 0
    written = result_of(nnunet_folders)
    assert not [name for name in written if "Tr/patient001" in name]
    assert "raw/Dataset027_ACDC/labelsTs/patient001_frame12.nii.gz" in written
    assert "raw/Dataset027_ACDC/labelsTs/patient001_frame01.nii.gz" not in written


def test_the_first_bad_case_stops_a_conversion(nnunet_folders, tmp_path):
    source = write_isic(tmp_path / "ISIC", (4, 0, 0))
    (source / "ISIC2018_Task1-2_Training_Input" / "ISIC_0000002.jpg").write_bytes(b"")
    assert convert("isic2018", source) == 1
    assert [file.stem for file in nnunet_folders.glob("raw/*/labelsTr/*")] == ["ISIC_0000001"]


def test_begun_with_other_options_it_is_refused_unless_overwritten(nnunet_folders, tmp_path, capsys):
    source = write_isic(tmp_path / "ISIC", (4, 0, 0))
    bad = source / "ISIC2018_Task1_Training_GroundTruth" / "ISIC_0000003_segmentation.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:20])
    assert convert("isic2018", source) == 1
    bad.write_bytes(whole)
    capsys.readouterr()
    other = write_isic(tmp_path / "other", (4, 0, 0))
    before = snapshot(nnunet_folders)
    for folder, arguments, difference in (
        (source, ("--max-size", 10), "max_size None there, 10 now"),
        (other, (), f"source {source} there, {other} now"),
    ):
        assert convert("isic2018", folder, *arguments) == 1
        error = capsys.readouterr().err
        assert f"was begun with other settings: {difference}; give the same ones, replace it with --overwrite" in error
        assert snapshot(nnunet_folders) == before
    assert convert("isic2018", source, "--max-size", 10, "--overwrite") == 0
    with official.Image.open(next((nnunet_folders / "raw").glob("*/imagesTr/ISIC_0000001_0000.png"))) as image:
        assert max(image.size) == 10, "not what the other conversion had left"


def test_a_half_removed_dataset_is_not_gone_on_with(nnunet_folders, tmp_path, monkeypatch):
    source = write_isic(tmp_path / "ISIC", (4, 0, 0))
    assert convert("isic2018", source) == 0
    target = nnunet_folders / "raw" / "Dataset701_ISIC2018"

    def interrupted(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset.shutil, "rmtree", interrupted)
        assert convert("isic2018", source, "--overwrite") == 130
    assert json.loads((target / MARK).read_text())["removed"]
    assert convert("isic2018", source) == 1
    assert convert("isic2018", source, "--overwrite") == 0
    assert (target / "dataset.json").exists()


def test_a_killed_worker_is_explained(nnunet_folders, tmp_path, monkeypatch, capsys):
    cases = [KillsItsProcess(f"case{number}", "", "", False) for number in range(3)]
    collection = Collection("Deadly", "", "", ("CT",), {"background": 0}, ".nii.gz", "patient", cases, [])
    monkeypatch.setitem(conversion.FINDERS, "acdc", lambda folder, neighbours: collection)
    assert convert("acdc", tmp_path, processes=2) == 1
    error = capsys.readouterr().err
    assert "was killed, most likely for lack of memory; try fewer than 2 with -np. Finished cases are kept." in error


@pytest.mark.parametrize("data", ["acdc", pytest.param("isic2018", marks=pytest.mark.nightly)])
def test_a_full_disk_is_explained_and_leaves_no_half_file(data, nnunet_folders, tmp_path):
    if data == "acdc":
        source = write_acdc(tmp_path / "ACDC", patients=2, test=0)
        official.write_patient(source / "training" / "patient009", size=(20, 60, 60))
    else:
        source = write_isic(tmp_path / "ISIC", (3, 0, 0), size=(200, 300))
    # Files longer than this cannot be written; SimpleITK says nothing of it.
    full = "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    full += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))"
    process = start(data, source, "-np", 1, before=full)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nnUNetv2_salstm convert: cannot write: " in error
    assert "Traceback" not in error
    written = list((nnunet_folders / "raw").glob("*/*/*"))
    assert not [file for file in written if "patient009_frame01_0000" in file.name or "unfinished" in file.name]
    assert convert(data, source) == 0


def test_splits_that_cannot_be_written_are_explained(nnunet_folders, tmp_path, capsys):
    in_the_way = nnunet_folders / "preprocessed" / "Dataset027_ACDC"
    in_the_way.write_text("a file")
    source = write_acdc(tmp_path / "ACDC", 2)
    assert convert("acdc", source) == 1
    assert f"cannot write: [Errno 17] File exists: '{in_the_way}'" in capsys.readouterr().err
    assert not list(nnunet_folders.rglob("dataset.json"))
    in_the_way.unlink()
    assert convert("acdc", source) == 0
