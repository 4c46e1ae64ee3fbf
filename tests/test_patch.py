"""`nnUNetv2_salstm patch`, on copies of published nnU-Net releases."""

import importlib.util
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import nnunetv2
import pytest
from environments import clean_variables, installed
from presets import plans_of, tiny
from releases import contents, release
from users import unprivileged

import nnunetv2_salstm
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.patch import session
from nnunetv2_salstm.patch.patches import Patch, patches_folder
from nnunetv2_salstm.patch.unified_diff import HunkMismatch, blob_name, parse
from nnunetv2_salstm_autoload import trainers_folder

PACKAGE = Path(nnunetv2_salstm.__file__).parents[1]
# Where the packages are installed Python looks anyway; in front of the standard library they would hide parts of it.
OURS = [] if PACKAGE.name in ("site-packages", "dist-packages") else [str(PACKAGE)]
PATCHES = [Patch.read(file) for file in sorted(patches_folder().glob("*.patch"))]
ACDC = "nnunetv2/dataset_conversion/Dataset027_ACDC.py"
TRAINER = "nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py"
DIFF = b"""why

diff --git a/a.txt b/a.txt
index %s..%s 100644
--- a/a.txt
+++ b/a.txt
@@ -1,2 +1,3 @@ section
 one
-two
+TWO
+and a half
@@ -5 +6 @@
-five\r
+FIVE\r
"""
BEFORE, AFTER = b"one\ntwo\nthree\nfour\nfive\r\nsix", b"one\nTWO\nand a half\nthree\nfour\nFIVE\r\nsix"


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp() / "releases"


@pytest.fixture(scope="module", autouse=True)
def _installed_nnunet_is_left_alone() -> Iterator[None]:
    before = contents(Path(nnunetv2.__file__).parent)
    yield
    assert contents(Path(nnunetv2.__file__).parent) == before


@pytest.fixture
def nnunet(request, base, tmp_path) -> Path:
    """A copy of a release, by default of the installed one, which the test may change."""
    wanted = getattr(request, "param", "2.8.1")
    if wanted == "2.8.1" != version("nnunetv2"):
        pytest.skip(f"needs nnU-Net 2.8.1, installed is {version('nnunetv2')}")
    return Path(shutil.copytree(release(base, wanted), tmp_path / "site packages"))


every_version = pytest.mark.parametrize(
    "nnunet",
    [
        "2.8.1",
        # Fetched.
        pytest.param("2.7.0", marks=pytest.mark.slow),
        pytest.param("2.6.4", marks=pytest.mark.slow),
    ],
    indirect=True,
)


def python(nnunet: Path, code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with a copy of nnU-Net in front of the installed one."""
    path = {"PYTHONPATH": os.pathsep.join([str(nnunet), *OURS])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=nnunet.parent, env=clean_variables() | path | variables, capture_output=True, text=True
    )


def patch(nnunet: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from nnunetv2_salstm.cli import main; sys.exit(main(['patch', *sys.argv[1:]]))"
    result = python(nnunet, code, *arguments)
    assert result.stdout.startswith("nnU-Net") or result.returncode, result.stderr
    return result


def states(result: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^\d{4}-\S+ +(applied|can be applied|does not fit)", result.stdout, re.MULTILINE)


def example() -> bytes:
    return DIFF % (blob_name(BEFORE).encode(), blob_name(AFTER).encode())


def test_a_diff_and_its_reverse():
    (change,) = parse(example())
    assert change.apply(BEFORE) == AFTER
    assert change.reversed().apply(AFTER) == BEFORE


@pytest.mark.parametrize(
    ("content", "hunk"),
    [
        (b"zero\n" + BEFORE, "hunk 1 (line 1)"),
        (BEFORE.replace(b"two", b"too"), "hunk 1 (line 1)"),
        (BEFORE.replace(b"five\r", b"five"), "hunk 2 (line 5)"),
        (BEFORE.replace(b"one\n", b"one\r\n"), "hunk 1 (line 1)"),
        (b"one\ntwo\nthree", "hunk 2 (line 5)"),
        (b"", "hunk 1 (line 1)"),
    ],
    ids=["shifted", "other line", "no carriage return", "carriage return", "too short", "empty"],
)
def test_a_hunk_that_does_not_match_exactly(content, hunk):
    (change,) = parse(example())
    with pytest.raises(HunkMismatch, match=re.escape(hunk)):
        change.apply(content)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"diff --git", b"diff --cc", "a line that starts with 'diff --git'"),
        (b"--- a/a.txt", b"--- /dev/null", "both names"),
        (b"100644", b"100644 and more", "full index"),
        (b" one", b"one", "must start with a space"),
        (b"@@ -5", b"\\ No newline at end of file\n@@ -5", "hunks and nothing else"),
    ],
    ids=["no file", "new file", "index", "line without a mark", "marker"],
)
def test_diffs_that_are_refused(old, new, message):
    with pytest.raises(ValueError, match=message):
        parse(example().replace(old, new))


def test_git_names_files_alike():
    assert blob_name(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_a_file_belongs_to_one_patch_of_a_version():
    """Otherwise neither would know the file once the other one is applied."""
    files = [(patch.version, change.path) for patch in PATCHES for change in patch.changes]
    assert len(files) == len(set(files)) > 0
    assert {patch.version for patch in PATCHES} == {"2.6.4", "2.7.0", "2.8.1"}


@every_version
def test_apply_check_and_revert(nnunet):
    published = contents(nnunet)
    named = patch(nnunet).stdout.split()[1]
    own = [candidate for candidate in PATCHES if candidate.version == named]
    assert own
    assert states(patch(nnunet)) == states(patch(nnunet, "--check")) == ["can be applied"] * len(own)
    assert contents(nnunet) == published

    result = patch(nnunet, "--apply")
    assert (result.returncode, states(result)) == (0, ["applied"] * len(own)), result.stderr
    changed = {name for name, content in contents(nnunet).items() if published.get(name) != content}
    assert changed == {change.path for candidate in own for change in candidate.changes}
    assert contents(nnunet).keys() == published.keys()
    for name in changed:
        compile((nnunet / name).read_text(encoding="utf-8"), name, "exec")

    times = {name: (nnunet / name).stat().st_mtime_ns for name in changed}
    assert states(patch(nnunet, "--apply")) == ["applied"] * len(own)
    assert {name: (nnunet / name).stat().st_mtime_ns for name in changed} == times

    result = patch(nnunet, "--revert")
    assert (result.returncode, states(result)) == (0, ["can be applied"] * len(own))
    assert contents(nnunet) == published
    assert patch(nnunet, "--revert").returncode == 0
    assert contents(nnunet) == published


@pytest.mark.parametrize("name", ["0002", "0002-checkpoint-in-one-piece", "0002-checkpoint-in-one-piece.patch"])
def test_only_some(nnunet, name):
    published = contents(nnunet)
    assert states(patch(nnunet, "--apply", "--only", name)) == ["applied"]
    assert {file for file, content in contents(nnunet).items() if published[file] != content} == {TRAINER}
    assert states(patch(nnunet)) == ["can be applied", "applied"]
    patch(nnunet, "--revert")
    assert contents(nnunet) == published


@pytest.mark.parametrize("name", ["0003", "acdc"])
def test_only_names_what_is_not_for_this_version(nnunet, name):
    result = patch(nnunet, "--apply", "--only", name)
    assert result.returncode == 1
    there = "0001-acdc-converter-path, 0002-checkpoint-in-one-piece"
    assert f"--only must name patches for nnU-Net 2.8.1 ({there}), got {name}" in result.stderr


@pytest.mark.parametrize("action", ["--check", "--apply", "--revert"])
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"torch.save(checkpoint, filename)", b"torch.save(checkpoint, str(filename))", "hunk 1 (line 1213)"),
        (b"import os\n", b"import os \n", "not the release's file, although all hunks match"),
        (b"\n", b"\r\n", "hunk 1 (line 1213)"),
        (None, None, "is missing"),
    ],
    ids=["hunk", "elsewhere", "line endings", "missing"],
)
def test_a_file_that_is_not_the_releases_is_refused(nnunet, old, new, reason, action):
    file = nnunet / TRAINER
    if old is None:
        file.unlink()
    else:
        assert old in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(old, new))
    before = contents(nnunet)
    result = patch(nnunet, action)
    assert (result.returncode, states(result)) == (1, ["can be applied", "does not fit"])
    assert TRAINER in result.stdout
    assert reason in result.stdout
    assert result.stderr.startswith(
        "nnUNetv2_salstm patch: 0002-checkpoint-in-one-piece must find the files of nnU-Net"
    )
    assert contents(nnunet) == before
    assert states(patch(nnunet, action, "--only", "0001")) == ["applied" if action == "--apply" else "can be applied"]


def test_interrupted_between_two_files(tmp_path):
    changes = []
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(BEFORE)
        changes += parse(example().replace(b"a.txt", name.encode()))
    (tmp_path / "b.txt").write_bytes(AFTER)
    session.write_changes(changes, tmp_path)
    assert contents(tmp_path) == {"a.txt": AFTER, "b.txt": AFTER}
    (tmp_path / "a.txt").write_bytes(BEFORE)
    session.write_changes([change.reversed() for change in changes], tmp_path)
    assert contents(tmp_path) == {"a.txt": BEFORE, "b.txt": BEFORE}


def test_no_file_is_replaced_before_all_are_written(tmp_path, monkeypatch):
    changes = []
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(BEFORE)
        changes += parse(example().replace(b"a.txt", name.encode()))
    write_bytes = Path.write_bytes

    def full_at_the_second(file, content):
        if file.name == "unfinished.b.txt":
            raise OSError(28, "No space left on device", str(file))
        return write_bytes(file, content)

    monkeypatch.setattr(Path, "write_bytes", full_at_the_second)
    with pytest.raises(SalstmError, match=r"cannot write .*unfinished.b.txt: No space left on device; run this as"):
        session.write_changes(changes, tmp_path)
    assert contents(tmp_path) == {"a.txt": BEFORE, "b.txt": BEFORE}


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX users")
def test_read_only_site_packages():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.txt")
        file.write_bytes(BEFORE)
        file.chmod(0o444)
        Path(folder).chmod(0o555)
        with (
            unprivileged(),
            pytest.raises(SalstmError, match=r"cannot write .*: Permission denied; run this as the own"),
        ):
            session.write_changes(parse(example()), Path(folder))
        assert contents(Path(folder)) == {"a.txt": BEFORE}


def test_mode_and_links(tmp_path):
    """Some installers link the files of several environments: the other ones must keep theirs."""
    file, other = tmp_path / "a.txt", tmp_path / "other"
    file.write_bytes(BEFORE)
    file.chmod(0o640)
    os.link(file, other)
    session.write_changes(parse(example()), tmp_path)
    assert (file.read_bytes(), other.read_bytes()) == (AFTER, BEFORE)
    assert file.stat().st_mode & 0o777 == 0o640


def test_byte_code_that_is_never_checked_does_not_hide_the_change(nnunet):
    file = nnunet / ACDC
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    cached = py_compile.compile(
        str(file), cfile=importlib.util.cache_from_source(str(file)), invalidation_mode=unchecked
    )
    assert Path(cached).is_file()
    (nnunet / "raw").mkdir()
    convert = "from nnunetv2.dataset_conversion.Dataset027_ACDC import make_out_dirs; print(make_out_dirs(27)[0])"
    raw = {"nnUNet_raw": str(nnunet / "raw")}
    assert "object has no attribute 'replace'" in python(nnunet, convert, **raw).stderr
    patch(nnunet, "--apply")
    result = python(nnunet, convert, **raw)
    assert result.stdout.strip() == str(nnunet / "raw" / "Dataset027_ACDC"), result.stderr


def test_a_version_without_patches(nnunet):
    metadata = nnunet / "nnunetv2-2.8.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 2.8.1", "Version: 2.8.0"))
    before = contents(nnunet)
    result = patch(nnunet, "--apply")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:] == ["No patch is made for this version: nothing is needed."]
    assert contents(nnunet) == before


def test_nnunet_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(session, "find_spec", lambda name: None)
    with pytest.raises(SalstmError, match="nnU-Net is not installed here; run: pip install nnunetv2"):
        session.find_nnunet()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_an_installation_has_the_patches(kind, nnunet, tmp_path_factory):
    environment = installed(tmp_path_factory.getbasetemp(), kind)
    code = "import sys; from nnunetv2_salstm.cli import main; sys.exit(main(['patch']))"
    result = environment.run("-c", code, PYTHONPATH=str(nnunet))
    assert (result.returncode, states(result)) == (0, ["can be applied"] * 2), result.stderr


FIND = """
import sys
import torch
from nnunetv2.run.run_training import get_trainer_from_args
trainer = get_trainer_from_args("Dataset998_Tiny", "3d_fullres", 0, sys.argv[1], device=torch.device("cpu"))
print(type(trainer).__module__)
"""
TRAIN_AND_LOAD = f"""{FIND}
import json
from pathlib import Path
import nnunetv2
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
trainer.initialize()
trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
model = Path(trainer.output_folder_base)
(model / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
(model / "dataset.json").write_text(json.dumps(trainer.dataset_json))
predictor = nnUNetPredictor(device=torch.device("cpu"))
predictor.initialize_from_trained_model_folder(str(model), (0,))
print(type(predictor.network).__name__, nnunetv2.__file__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("nnunet", ["2.7.0", pytest.param("2.6.4", marks=pytest.mark.grid)], indirect=True)
def test_older_releases_learn_to_find_our_trainers(nnunet, tmp_path):
    folder = tmp_path / "preprocessed" / "Dataset998_Tiny"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans_of(tiny()) | {"dataset_name": folder.name}))
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "core": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    # nnU-Net chooses a reader by what it finds here.
    (folder / plans_of(tiny())["configurations"]["3d_fullres"]["data_identifier"]).mkdir()
    (folder / plans_of(tiny())["configurations"]["3d_fullres"]["data_identifier"] / "case.b2nd").touch()
    theirs = tmp_path / "theirs" / "package"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").touch()
    code = (
        "from nnunetv2_salstm.trainers import get_trainer\nclass Theirs(get_trainer('nnUNetTrainerSALSTMOff')): pass\n"
    )
    (theirs / "module.py").write_text(code)
    external = os.pathsep.join([str(tmp_path / "missing"), str(tmp_path / "theirs"), str(trainers_folder())])
    variables = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    variables |= {"nnUNet_extTrainer": external}

    result = python(nnunet, FIND, "nnUNetTrainerSALSTM_A", **variables)
    assert "Could not find requested nnunet trainer nnUNetTrainerSALSTM_A" in result.stderr
    assert patch(nnunet, "--apply").returncode == 0
    result = python(nnunet, TRAIN_AND_LOAD, "nnUNetTrainerSALSTM_A", **variables)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "nnunetv2_salstm.trainers" in lines
    assert lines[-1] == f"SALSTMPlainConvUNet {nnunet / 'nnunetv2' / '__init__.py'}"
    assert python(nnunet, FIND, "Theirs", **variables).stdout.split()[-1] == "package.module"
    wrong = python(nnunet, FIND, "nnUNetTrainerNobodys", **variables)
    assert f"nor in the folders of nnUNet_extTrainer ({external})" in wrong.stderr
    assert patch(nnunet, "--revert").returncode == 0
    result = python(nnunet, FIND, "nnUNetTrainerSALSTM_A", **variables)
    assert "Could not find requested nnunet trainer nnUNetTrainerSALSTM_A" in result.stderr
