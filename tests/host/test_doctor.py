"""`nnUNetv2_salstm doctor`: each fault is made, and the report names it and what to do."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import nnunet_variables
from environments import clean_variables
from releases import release
from users import unprivileged

import nnunetv2_salstm
from nnunetv2_salstm import cli
from nnunetv2_salstm.host import child_python, diagnosis
from nnunetv2_salstm.host.diagnosis import FOLDERS, NOTE, OFF_SWITCH, OK, VARIABLE, WRONG, Finding
from nnunetv2_salstm_autoload import trainers_folder

PACKAGE = Path(nnunetv2_salstm.__file__).parents[1]
# Where the packages are installed Python looks anyway; in front of the standard library they would hide parts of it.
OURS = [] if PACKAGE.name in ("site-packages", "dist-packages") else [str(PACKAGE)]
CHECK = """
import json, os, sys
from dataclasses import asdict
from nnunetv2_salstm.host import diagnosis
found = eval(f"diagnosis.{sys.argv[1]}")
print(json.dumps([asdict(finding) for finding in (found if hasattr(found, "__iter__") else [found])]))
"""
THEIRS = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
class nnUNetTrainerSALSTM_A(nnUNetTrainer): pass
"""


def check(call: str, *folders: Path, **variables: str) -> dict[str, Finding]:
    """Makes a check in a process of its own, which looks in these folders first; returns the last of each subject."""
    path = {"PYTHONPATH": os.pathsep.join([*map(str, folders), *OURS])}
    command = [sys.executable, "-c", CHECK, call]
    environment = clean_variables() | path | variables
    result = subprocess.run(command, env=environment, cwd=Path(sys.prefix), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {values["subject"]: Finding(**values) for values in json.loads(result.stdout.splitlines()[-1])}


def write(folder: Path, **files: str) -> Path:
    """Writes modules; a name with two underscores is that of a module in a package."""
    for name, text in files.items():
        file = folder.joinpath(*name.split("__", 1)).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def describe(folder: Path, name: str, number: str, *requirements: str) -> Path:
    """Writes what pip writes about an installed package."""
    metadata = folder / f"{name.replace('-', '_')}-{number}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    lines = [f"Requires-Dist: {requirement}" for requirement in requirements]
    metadata.write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}", *lines, "", ""]))
    return folder


class TestReport:
    @pytest.fixture
    def doctor(self, monkeypatch, capsys):
        def run(*findings, json_form=False):
            monkeypatch.setattr(diagnosis, "diagnose", lambda: iter(findings))
            status = cli.main(["doctor", *(["--json"] if json_form else [])])
            return status, *capsys.readouterr()

        return run

    def test_all_good(self, doctor):
        status, out, err = doctor(Finding("a", OK, "fine"), Finding("b", NOTE, "odd"))
        assert (status, err) == (0, "")
        assert out.splitlines() == ["ok     a: fine", "note   b: odd", "", "all good"]

    def test_what_to_do_is_said_once(self, doctor):
        texts = (("a", "bad", "do this"), ("b", "bad too", "do that"), ("c", "as a", "do this"))
        status, out, err = doctor(*(Finding(subject, WRONG, text, todo) for subject, text, todo in texts))
        assert (status, err) == (1, "nnUNetv2_salstm doctor: 2 things need doing, as listed\n")
        assert out.splitlines()[:1] == ["wrong  a: bad"]
        assert out.splitlines()[3:] == ["", "1. do this", "2. do that"]

    def test_json_has_the_same_and_nothing_else_is_printed(self, doctor):
        status, out, _ = doctor(Finding("a", OK, "fine"), Finding("b", WRONG, "bad", "mend"), json_form=True)
        assert status == 1
        assert json.loads(out) == {
            "format": 1,
            "all_good": False,
            "todo": ["mend"],
            "findings": [
                {"subject": "a", "status": "ok", "text": "fine", "todo": ""},
                {"subject": "b", "status": "wrong", "text": "bad", "todo": "mend"},
            ],
        }

    def test_a_check_that_fails_itself(self, monkeypatch):
        def check_luck():
            yield Finding("first half", OK, "fine")
            raise ZeroDivisionError("no luck")

        for name in ("check_versions", "check_trainers", "check_command", "check_devices"):
            monkeypatch.setattr(diagnosis, name, lambda: [])
        monkeypatch.setattr(diagnosis, "check_nnunet", check_luck)
        monkeypatch.setattr(diagnosis, "check_folders", lambda: [Finding("next", OK, "fine")])
        first, failed, after = diagnosis.diagnose()
        assert (first.subject, failed.subject, after.subject) == ("first half", "check_luck", "next")
        assert failed.todo == "report that check_luck failed with ZeroDivisionError: no luck"

    @pytest.mark.nightly
    def test_this_installation(self, tmp_path):
        for variable in FOLDERS:
            (tmp_path / variable.removeprefix("nnUNet_")).mkdir()
        path = {"PYTHONPATH": os.pathsep.join(OURS)}
        code = "import sys; from nnunetv2_salstm.cli import main; sys.exit(main(['doctor', '--json']))"
        environment = clean_variables() | path | nnunet_variables(tmp_path)
        # Elsewhere, as -c would import a checkout in place of what is installed.
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        report = json.loads(result.stdout)
        assert report["todo"] == []
        assert (result.returncode, result.stderr) == (0, "")
        found = {finding["subject"]: finding["text"] for finding in report["findings"]}
        assert {"nnunetv2-salstm", "nnunetv2", "torch", "nnunetv2's folder", "trainers", *FOLDERS, "cpu"} <= set(found)
        assert all(trainer in found["trainers"] for trainer in diagnosis.TRAINERS)
        assert "all finite" in found["cpu"]
        assert found[VARIABLE] == trainers_folder()


class TestChild:
    """Processes that end badly."""

    @pytest.mark.parametrize(
        ("code", "failure"),
        [
            ("print('chatter')", ""),
            ("raise ValueError('why')", "the process ended with status 1: ValueError: why"),
            ("os._exit(7)", "the process ended with status 7"),
            ("os.kill(os.getpid(), 11)", "the process was ended by SIGSEGV"),
        ],
        ids=["good", "exception", "exit", "crash"],
    )
    def test_what_was_answered_before_the_end_is_kept(self, code, failure):
        assert child_python.run_child(f"answer(a=sys.argv[1])\n{code}", "1") == ([{"a": "1"}], failure)

    def test_no_answer(self, monkeypatch):
        monkeypatch.setattr(child_python, "SECONDS", 1)
        found = child_python.run_child("import time; answer(a=1); time.sleep(60)")
        assert found == ([{"a": 1}], "no answer within 1 s")

    def test_the_working_directory_is_not_looked_at(self, tmp_path, monkeypatch):
        write(tmp_path, torch="raise RuntimeError")
        monkeypatch.chdir(tmp_path)
        (found,), _ = child_python.run_child("import importlib.util as u; answer(a=u.find_spec('torch').origin)")
        assert found["a"] != str(tmp_path / "torch.py")


class TestVersions:
    def test_versions_packages_and_imports_that_are_wrong(self, tmp_path):
        """All at once, as each look at the packages imports torch."""
        describe(tmp_path, "torch", "2.9.1+cu128")
        describe(
            tmp_path, "nnunetv2", "2.7.0", "torch!=2.9.*,>=2.1.2", "blosc2-of-nobody>=3", 'pytest>99; extra == "dev"'
        )
        describe(tmp_path, "torchvision", "0.99")
        write(tmp_path, torchvision____init__="raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
        write(tmp_path, batchgeneratorsv2____init__="import os; os.kill(os.getpid(), 11)")
        write(tmp_path, dynamic_network_architectures____init__="raise ImportError('half of it is missing')")
        found = check("check_versions()", tmp_path)
        assert {name: finding.text for name, finding in found.items() if finding.status != OK} == {
            "torch": "nnunetv2 2.7.0 needs !=2.9.*,>=2.1.2, got 2.9.1+cu128",
            "blosc2-of-nobody": "not installed, needed by nnunetv2",
            "nnunetv2": "2.7.0 does not look for trainers of other packages by itself, 2.8 does; the plans route works",
            "torchvision": "0.99 cannot be imported: RuntimeError: operator torchvision::nms does not exist",
            "batchgeneratorsv2": f"{found['batchgeneratorsv2'].text.split(' ')[0]} cannot be imported: "
            "the process was ended by SIGSEGV",
            "dynamic-network-architectures": f"{found['dynamic-network-architectures'].text.split(' ')[0]} cannot be "
            "imported: ImportError: half of it is missing",
        }
        assert '"torch!=2.9.*' in found["torch"].todo
        assert found["blosc2-of-nobody"].todo == 'run: pip install "blosc2-of-nobody>=3"'
        assert "pip install --upgrade torch torchvision" in found["torchvision"].todo
        assert found["nnunetv2"].status == NOTE

    @pytest.mark.parametrize("number", ["2.5.2", "3.0.0"])
    def test_nnunet_that_is_too_old_or_too_new(self, number, tmp_path, monkeypatch):
        describe(tmp_path, "nnunetv2", number)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(diagnosis, "_import_failures", lambda: {})
        found = {finding.subject: finding for finding in diagnosis.check_versions()}["nnunetv2"]
        assert found.text.endswith(f", got {number}")
        assert found.todo == 'run: pip install "nnunetv2<3,>=2.6.4"'


class TestWhichNnunet:
    def check(self, *folders: Path) -> Finding:
        return check("check_nnunet()", *folders)["nnunetv2's folder"]

    def test_the_installed_one(self):
        found = self.check()
        assert found.status == OK
        assert found.text.startswith("nnunetv2 ")

    def test_a_folder_in_the_way(self, tmp_path):
        write(tmp_path, nnunetv2____init__="")
        found = self.check(tmp_path)
        assert found.status == WRONG
        assert found.text.startswith(f"Python imports {tmp_path / 'nnunetv2'}, which is not the installed nnU-Net (2.")
        assert found.todo.startswith(f"take {tmp_path} out of PYTHONPATH")

    def test_a_fork_under_its_name(self, tmp_path):
        write(tmp_path, nnunetv2____init__="", **{"nnunetv2__nets/UMambaBot_3d": ""})
        found = self.check(describe(tmp_path, "nnunetv2", "2.1.1"))
        assert found.status == WRONG
        assert "a fork under nnU-Net's name: nnunetv2 2.1.1 in" in found.text
        assert "give this package an environment without it" in found.todo

    def test_trainers_that_someone_put_into_it(self, tmp_path):
        write(tmp_path, nnunetv2____init__="", **{"nnunetv2__training/nnUNetTrainer/nnUNetTrainerMine": ""})
        found = self.check(describe(tmp_path, "nnunetv2", "2.8.1"))
        assert (found.status, found.text.partition("with ")[2]) == (
            NOTE,
            "trainers that nnU-Net is not published with: nnUNetTrainerMine",
        )

    def test_what_an_uninstallation_left(self, tmp_path, monkeypatch):
        # Only where no package of that name is installed does Python take a folder without __init__.py for one.
        (tmp_path / "nnunetv2").mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, "nnunetv2", raising=False)
        (found,) = diagnosis.check_nnunet()
        assert found.text == f"{tmp_path / 'nnunetv2'} has no __init__.py: what an uninstallation left"
        (tmp_path / "nnunetv2").rmdir()
        (found,) = diagnosis.check_nnunet()
        assert found.todo == "run: pip install nnunetv2"

    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
    def test_the_shells_command(self, tmp_path, monkeypatch):
        script = tmp_path / "nnUNetv2_train"
        monkeypatch.setenv("PATH", str(tmp_path))
        (found,) = diagnosis.check_command()
        assert (found.status, found.text[:15]) == (NOTE, "not on the PATH")
        script.write_text("#!/opt/other/bin/python\n")
        script.chmod(0o755)
        (found,) = diagnosis.check_command()
        assert (found.status, found.text[: len(str(script))]) == (WRONG, str(script))
        script.write_text(f"#!{sys.executable}\n")
        (found,) = diagnosis.check_command()
        assert found == Finding("nnUNetv2_train", OK, str(script))


class TestTrainers:
    def check(self, **variables: str) -> dict[str, Finding]:
        return check("check_trainers(os.environ | json.loads(os.environ['SEEN']))", SEEN=json.dumps(variables))

    @pytest.mark.nightly
    def test_switched_off(self):
        found = self.check(**{OFF_SWITCH: "1", VARIABLE: ""})
        assert found[VARIABLE].text == (
            f"empty: the folder of our trainers is missing, as {OFF_SWITCH}=1 keeps Python's start-up from adding it"
        )
        assert found["trainers"].text.startswith(
            "nnU-Net does not find nnUNetTrainerSALSTM_A: RuntimeError: Could not find requested nnunet trainer"
        )
        assert found["trainers"].todo == found[VARIABLE].todo
        assert found["trainers"].todo.startswith(f"unset {OFF_SWITCH}, or: export {VARIABLE}=")

    @pytest.mark.nightly
    def test_a_module_before_ours_that_cannot_be_imported(self, tmp_path):
        write(tmp_path, mine="import nothing_of_that_name")
        found = self.check(**{VARIABLE: os.pathsep.join([str(tmp_path), "/missing"])})
        assert found["trainers"].status == WRONG
        assert found["trainers"].text == (
            f"nnU-Net stops its search at {tmp_path / 'mine.py'}, which cannot be imported: "
            "ModuleNotFoundError: No module named 'nothing_of_that_name'"
        )
        assert found["trainers"].todo == f"mend {tmp_path / 'mine.py'}, or take its folder out of {VARIABLE}"

    @pytest.mark.nightly
    @pytest.mark.parametrize(
        ("code", "text"),
        [
            ("def f(:", "SyntaxError"),
            ("from .package import x\n", "ImportError: attempted relative import"),
            ("import os; os._exit(3)", "nnU-Net's search fails: the process ended with status 3"),
            (THEIRS, "nnUNetTrainerSALSTM_A comes from"),
        ],
        ids=["syntax", "inside of a package", "ends Python", "hides ours"],
    )
    def test_other_modules_before_ours(self, code, text, tmp_path):
        write(tmp_path, mine=code)
        found = self.check(**{VARIABLE: str(tmp_path)})["trainers"]
        assert found.status == WRONG
        assert text in found.text
        assert str(tmp_path) in found.text + found.todo

    @pytest.mark.nightly
    def test_nnunet_that_knows_nothing_of_trainers_of_others(self, tmp_path_factory):
        older = release(tmp_path_factory.getbasetemp() / "releases", "2.7.0")
        found = check("check_trainers(os.environ)", older)["trainers"]
        assert found.text == "nnU-Net 2.7.0 cannot find trainers of other packages, only networks that plans name"
        assert "pip install --upgrade nnunetv2" in found.todo

    def test_an_installation_without_the_folder(self, monkeypatch):
        monkeypatch.setattr(diagnosis, "trainers_folder", lambda: None)
        monkeypatch.setattr(diagnosis, "run_child", lambda *_, **__: ([{"variable": "/users"}], ""))
        missing, folder = diagnosis.check_trainers({})
        assert (missing.status, folder.status) == (NOTE, WRONG)
        assert folder.text == "/users: the folder of our trainers is missing, and the installation lacks it"

    def test_variables_are_those_that_the_process_was_started_with(self, tmp_path, monkeypatch):
        monkeypatch.setenv(VARIABLE, os.pathsep.join(["/users", str(trainers_folder())]))
        (tmp_path / "environ").write_bytes(f"A=1\0{VARIABLE}=/at/start\0".encode())
        assert diagnosis.variables_at_start(tmp_path / "environ")[VARIABLE] == "/at/start"
        assert diagnosis.variables_at_start(tmp_path / "none")[VARIABLE] == "/users"


class TestFolders:
    @pytest.fixture(autouse=True)
    def _set(self, monkeypatch, tmp_path):
        for variable in FOLDERS:
            (tmp_path / variable).mkdir()
            monkeypatch.setenv(variable, str(tmp_path / variable))

    def check(self) -> dict[str, Finding]:
        return {finding.subject: finding for finding in diagnosis.check_folders()}

    def test_good(self, tmp_path):
        found = self.check()
        assert [finding.status for finding in found.values()] == [OK] * 3
        assert found["nnUNet_raw"].text.startswith(f"{tmp_path / 'nnUNet_raw'}, ")
        assert not any(any(tmp_path.joinpath(variable).iterdir()) for variable in FOLDERS)

    @pytest.mark.parametrize("value", [None, ""])
    def test_unset(self, monkeypatch, value):
        if value is None:
            monkeypatch.delenv("nnUNet_results")
        else:
            monkeypatch.setenv("nnUNet_results", value)
        found = self.check()["nnUNet_results"]
        assert (found.status, found.text) == (WRONG, "not set")
        assert found.todo.endswith("export nnUNet_results=/path/to/a/folder")

    @pytest.mark.parametrize("make", [lambda path: None, lambda path: path.touch()], ids=["missing", "file"])
    def test_no_folder(self, monkeypatch, tmp_path, make):
        make(tmp_path / "typo")
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "typo"))
        found = self.check()["nnUNet_preprocessed"]
        assert found.status == WRONG
        assert str(tmp_path / "typo") in found.text
        assert str(tmp_path / "typo") in found.todo

    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX users")
    def test_not_this_users(self, monkeypatch):
        with tempfile.TemporaryDirectory() as parent:
            for name in ("closed", "full"):
                Path(parent, name).mkdir()
            Path(parent).chmod(0o755)
            Path(parent, "closed").chmod(0)
            Path(parent, "full").chmod(0o555)
            for variable, name in zip(FOLDERS, ("full", "full", "closed/inside"), strict=True):
                monkeypatch.setenv(variable, f"{parent}/{name}")
            with unprivileged():
                found = self.check()
        assert [finding.text.removeprefix(parent) for finding in found.values()] == [
            "/full takes no files: Permission denied; only converting data sets needs that",
            "/full takes no files: Permission denied",
            "/closed/inside is out of reach: Permission denied",
        ]
        assert [finding.status for finding in found.values()] == [NOTE, WRONG, WRONG]


# What a driver or a build of torch can do to a convolution, in every process that starts with this.
SITE = """
import torch
def forward(self, x):
    {0}
torch.nn.Conv3d.forward = forward
"""


class TestDevices:
    @pytest.mark.nightly
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ("return self._conv_forward(x, self.weight, self.bias) * float('nan')", "the output of a small network"),
            ("raise RuntimeError('no kernel image is available')", "RuntimeError: no kernel image is available"),
        ],
        ids=["nan", "fails"],
    )
    def test_a_step_that_goes_wrong(self, body, text, tmp_path):
        write(tmp_path, sitecustomize=SITE.format(body))
        found = check("check_step('cpu')", tmp_path)["cpu"]
        assert found.status == WRONG
        assert text in found.text
        assert "cpu" in found.todo

    @pytest.mark.nightly
    @pytest.mark.skipif(sys.platform != "linux", reason="torch compiles with the compiler that CXX names on Linux")
    def test_a_compiler_that_is_missing(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CXX", str(tmp_path / "no_compiler"))
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        found = diagnosis.check_step("cpu", compiled=True)
        assert (found.subject, found.status) == ("torch.compile on cpu", WRONG)
        assert found.todo == "install what is missing, or switch compiling off: export nnUNet_compile=f"

    @pytest.mark.parametrize("compile_variable", [None, "f"])
    def test_each_device_is_tried_and_compiled_as_nnunet_does(self, compile_variable, monkeypatch):
        if compile_variable:
            monkeypatch.setenv("nnUNet_compile", compile_variable)
        else:
            monkeypatch.delenv("nnUNet_compile", raising=False)
        says = {"cuda_build": "12.4", "devices": ["cuda:0", "mps"], "names": ["H100"], "warnings": []}
        monkeypatch.setattr(diagnosis, "run_child", lambda code: ([says], ""))
        monkeypatch.setattr(diagnosis, "check_step", lambda device, compiled=False: (device, compiled))
        cuda, *steps = diagnosis.check_devices()
        assert (cuda.status, cuda.text) == (OK, "torch's CUDA build 12.4: H100")
        assert steps == [
            ("cpu", False),
            ("cuda:0", False),
            *([] if compile_variable else [("cuda:0", True)]),
            ("mps", False),
        ]

    @pytest.mark.skipif(os.name == "nt", reason="needs a shell script")
    def test_gpus_that_torch_cannot_use(self, tmp_path, monkeypatch):
        driver = tmp_path / "nvidia-smi"
        driver.write_text("#!/bin/sh\necho 'H100, 470.1'\n")
        driver.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        says = {"cuda_build": None, "devices": [], "names": [], "warnings": []}
        found = diagnosis._check_cuda(says)
        assert (found.status, found.text) == (WRONG, "a build of torch without CUDA cannot use the GPUs (H100, 470.1)")
        found = diagnosis._check_cuda(says | {"cuda_build": "13.0", "warnings": ["The driver is too old"]})
        assert found.text == "torch's CUDA build 13.0 cannot use the GPUs (H100, 470.1): The driver is too old"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert diagnosis._check_cuda(says) == Finding("CUDA", NOTE, "CUDA_VISIBLE_DEVICES= hides the GPUs: H100, 470.1")
