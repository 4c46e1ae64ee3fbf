"""`nnUNetv2_salstm doctor`: each problem is made, and the report names it and what to do."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import namedtuple
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from environments import Environment, clean_variables, installed
from releases import release
from users import unprivileged

import nnunetv2_salstm
from nnunetv2_salstm import cli
from nnunetv2_salstm.doctor import child, compiling, devices, folders, machine, session, trainers, versions
from nnunetv2_salstm.doctor.child import Answer, run_program
from nnunetv2_salstm.doctor.finding import Finding, Status, not_applicable, note, ok, wrong
from nnunetv2_salstm.doctor.machine import Machine
from nnunetv2_salstm.doctor.trainers import OFF_SWITCH, TRAINERS, VARIABLE, ExternalTrainers
from nnunetv2_salstm_autoload import trainers_folder

PACKAGE = Path(nnunetv2_salstm.__file__).parents[1]
PROGRAMS = Path(child.__file__).parent / "programs"
HIDDEN = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
class nnUNetTrainerSALSTM_A(nnUNetTrainer): pass
"""


def statuses(findings) -> list[str]:
    return [finding.status.value for finding in findings]


def facts(**values) -> Machine:
    """A machine on which torch says something else."""
    made = Machine()
    torch_says = {"cuda_build": "12.4", "cuda_devices": [], "cuda_warnings": [], "mps": False} | values
    made.imports = {package: {"file": "there"} for package in machine.PACKAGES} | {"torch": torch_says}
    made.nvidia_gpus = []
    return made


class TestReport:
    @pytest.fixture
    def doctor(self, monkeypatch, capsys):
        def run(*checks, json_form=False):
            monkeypatch.setattr(session, "all_checks", lambda: list(checks))
            status = cli.main(["doctor", *(["--json"] if json_form else [])])
            return status, *capsys.readouterr()

        return run

    def test_all_good(self, doctor):
        status, out, err = doctor(lambda machine: [ok("a", "fine"), note("b", "odd"), not_applicable("c", "none")])
        assert (status, err) == (0, "")
        assert out.splitlines() == ["ok     a: fine", "note   b: odd", "n/a    c: none", "", "all good"]

    def test_what_to_do_is_said_once(self, doctor):
        findings = [wrong("a", "bad", "do this"), wrong("b", "bad too", "do that"), wrong("c", "as a", "do this")]
        status, out, err = doctor(lambda machine: findings)
        assert (status, err) == (1, "nnUNetv2_salstm doctor: 2 things need doing, as listed\n")
        assert out.splitlines()[:1] == ["wrong  a: bad"]
        assert out.splitlines()[3:] == ["", "1. do this", "2. do that"]

    def test_a_check_that_fails_itself(self, doctor):
        def check_luck(machine):
            yield ok("first half", "fine")
            raise ZeroDivisionError("no luck")

        status, out, _ = doctor(check_luck, lambda machine: [ok("next", "fine")])
        assert status == 1
        assert "ok     first half: fine\nwrong  check_luck: the check itself failed, with ZeroDivisionError" in out
        assert "ok     next: fine" in out
        assert out.endswith("1. report that check_luck failed with ZeroDivisionError: no luck\n")

    def test_json_has_the_same_and_nothing_else_is_printed(self, doctor):
        status, out, _ = doctor(lambda machine: [ok("a", "fine"), wrong("b", "bad", "mend")], json_form=True)
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


class TestChild:
    """Programs that end badly."""

    @pytest.fixture
    def program(self, tmp_path, monkeypatch):
        def write(code):
            (tmp_path / "programs").mkdir()
            (tmp_path / "programs" / "made.py").write_text(
                "import os, sys, time\nfile = open(sys.argv[1], 'a')\nprint('{\"a\": 1}', file=file, flush=True)\n"
                + code
            )
            monkeypatch.setattr(child, "__file__", str(tmp_path / "child.py"))
            return run_program("made", "argument")

        return write

    def test_answer(self, program):
        answer = program("print('{\"b\": \"%s\"}' % sys.argv[2], file=file); print('chatter')")
        assert answer == Answer([{"a": 1}, {"b": "argument"}], "")

    @pytest.mark.parametrize(
        ("code", "failure"),
        [
            ("raise ValueError('why')", "the process ended with status 1: ValueError: why"),
            ("os._exit(7)", "the process ended with status 7"),
            ("os.kill(os.getpid(), 11)", "the process was ended by SIGSEGV"),
        ],
        ids=["exception", "exit", "crash"],
    )
    def test_what_was_said_before_the_end_is_kept(self, program, code, failure):
        assert program(code) == Answer([{"a": 1}], failure)

    def test_no_answer(self, program, monkeypatch):
        monkeypatch.setattr(child, "SECONDS", 1)
        assert program("time.sleep(60)") == Answer([{"a": 1}], "no answer within 1 s")


class TestFolders:
    @pytest.fixture(autouse=True)
    def _set(self, monkeypatch, tmp_path):
        for variable in folders.VARIABLES:
            (tmp_path / variable).mkdir()
            monkeypatch.setenv(variable, str(tmp_path / variable))

    def check(self) -> dict[str, Finding]:
        return {finding.subject: finding for finding in folders.check_folders(Machine())}

    def test_good(self, tmp_path, monkeypatch):
        Usage = namedtuple("Usage", "free")
        monkeypatch.setattr(folders.shutil, "disk_usage", lambda folder: Usage(21e9))
        found = self.check()
        assert list(found) == list(folders.VARIABLES)
        assert statuses(found.values()) == ["ok"] * 3
        assert found["nnUNet_raw"].text == f"{tmp_path / 'nnUNet_raw'}, 21 GB free"
        assert not any(any(tmp_path.joinpath(variable).iterdir()) for variable in folders.VARIABLES)
        monkeypatch.setattr(folders.shutil, "disk_usage", lambda folder: Usage(19e9))
        assert statuses(self.check().values()) == ["note"] * 3

    @pytest.mark.parametrize("value", [None, ""])
    def test_unset(self, monkeypatch, value):
        if value is None:
            monkeypatch.delenv("nnUNet_results")
        else:
            monkeypatch.setenv("nnUNet_results", value)
        found = self.check()["nnUNet_results"]
        assert (found.status, found.text) == (Status.WRONG, "not set")
        assert found.todo.endswith("export nnUNet_results=/path/to/a/folder")

    @pytest.mark.parametrize("make", [lambda path: None, lambda path: path.touch()], ids=["missing", "file"])
    def test_no_folder(self, monkeypatch, tmp_path, make):
        make(tmp_path / "typo")
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "typo"))
        found = self.check()["nnUNet_preprocessed"]
        assert found.status is Status.WRONG
        assert str(tmp_path / "typo") in found.text
        assert str(tmp_path / "typo") in found.todo

    @pytest.mark.skipif(sys.platform != "linux", reason="a folder that even root cannot write to")
    @pytest.mark.parametrize(
        ("variable", "status"),
        [("nnUNet_raw", Status.NOTE), ("nnUNet_preprocessed", Status.WRONG), ("nnUNet_results", Status.WRONG)],
    )
    def test_not_writable(self, monkeypatch, variable, status):
        monkeypatch.setenv(variable, "/proc/self")
        found = self.check()[variable]
        assert found.status is status
        assert found.text.startswith("/proc/self takes no files: ")
        assert ("/proc/self" in found.todo) == (status is Status.WRONG)

    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX users")
    def test_not_this_users(self, monkeypatch):
        with tempfile.TemporaryDirectory() as parent:
            for name in ("closed", "full"):
                Path(parent, name).mkdir()
            Path(parent).chmod(0o755)
            Path(parent, "closed").chmod(0)
            Path(parent, "full").chmod(0o555)
            for variable, name in zip(folders.VARIABLES, ("full", "full", "closed/inside"), strict=True):
                monkeypatch.setenv(variable, f"{parent}/{name}")
            with unprivileged():
                found = self.check()
        assert [finding.text.removeprefix(parent) for finding in found.values()] == [
            "/full takes no files: Permission denied; only converting data sets needs that",
            "/full takes no files: Permission denied",
            "/closed/inside is out of reach: Permission denied",
        ]
        assert statuses(found.values()) == ["note", "wrong", "wrong"]


class TestVersions:
    @pytest.fixture
    def versions_are(self, monkeypatch):
        def set_versions(requirements=(), **numbers):
            there = {"nnunetv2-salstm": "0.1.0", "nnunetv2": "2.8.1", "torch": "2.8.0", "torchvision": "0.23.0"}
            there |= {"dynamic-network-architectures": "0.4.4", "batchgeneratorsv2": "0.3.6"}
            there |= {name.replace("_", "-"): number for name, number in numbers.items()}

            def version(name):
                if there.get(name) is None:
                    raise PackageNotFoundError(name)
                return there[name]

            demanded = {"nnunetv2-salstm": ["nnunetv2<3,>=2.6"], "nnunetv2": ["torch!=2.9.*,>=2.1.2", *requirements]}
            monkeypatch.setattr(versions, "version", version)
            monkeypatch.setattr(versions, "requires", demanded.__getitem__)

        return set_versions

    def check(self, on: Machine) -> dict[str, Finding]:
        return {finding.subject: finding for finding in versions.check_packages(on)}

    def test_good(self, versions_are):
        # Not mentioned unless it is wrong.
        versions_are(["blosc2>=3.3.2"], blosc2="4.0")
        found = self.check(facts())
        assert {name: finding.text for name, finding in found.items()} == {
            "nnunetv2-salstm": "0.1.0",
            "batchgeneratorsv2": "0.3.6",
            "dynamic-network-architectures": "0.4.4",
            "nnunetv2": "2.8.1",
            "torch": "2.8.0",
            "torchvision": "0.23.0",
        }
        assert set(statuses(found.values())) == {"ok"}

    @pytest.mark.parametrize(
        ("numbers", "text", "todo"),
        [
            (
                {"torch": "2.9.1+cu128"},
                "nnunetv2 2.8.1 needs !=2.9.*,>=2.1.2, got 2.9.1+cu128",
                '"torch!=2.9.*,>=2.1.2"',
            ),
            ({"nnunetv2": "2.5.2"}, "nnunetv2-salstm 0.1.0 needs <3,>=2.6, got 2.5.2", '"nnunetv2<3,>=2.6"'),
            ({"nnunetv2": "3.0.0"}, "nnunetv2-salstm 0.1.0 needs <3,>=2.6, got 3.0.0", '"nnunetv2<3,>=2.6"'),
            ({"torch": None}, "not installed, needed by nnunetv2", '"torch!=2.9.*,>=2.1.2"'),
            ({"blosc2": "2.0"}, "nnunetv2 2.8.1 needs >=3.3.2, got 2.0", '"blosc2>=3.3.2"'),
        ],
        ids=["torch 2.9", "old nnU-Net", "new nnU-Net", "no torch", "what only nnU-Net needs"],
    )
    def test_versions_that_do_not_fit(self, versions_are, numbers, text, todo):
        versions_are(["blosc2>=3.3.2", 'pytest; extra == "dev"'], **({"blosc2": "4.0"} | numbers))
        (found,) = [finding for finding in self.check(facts()).values() if finding.status is Status.WRONG]
        assert found.subject == next(iter(numbers))
        assert found.text.startswith(text)
        assert found.todo == f"run: pip install {todo}"

    def test_nnunet_that_does_not_look_for_trainers_of_others(self, versions_are):
        versions_are(nnunetv2="2.7.0")
        found = self.check(facts())["nnunetv2"]
        assert found.status is Status.NOTE
        assert found.text.endswith("the plans route works; nnUNetv2_salstm patch teaches it")
        versions_are(nnunetv2="2.6.2")
        assert self.check(facts())["nnunetv2"].text.endswith("2.8 does; the plans route works")

    def test_torchvision_that_does_not_match(self, versions_are):
        versions_are()
        broken = facts()
        broken.imports["torchvision"] = {"error": "RuntimeError: operator torchvision::nms does not exist"}
        found = self.check(broken)["torchvision"]
        assert found.status is Status.WRONG
        assert found.text == (
            "0.23.0 cannot be imported with torch 2.8.0: RuntimeError: operator torchvision::nms does not exist"
        )
        assert "pip install --upgrade torch torchvision" in found.todo

    def test_package_that_cannot_be_imported(self, versions_are):
        versions_are()
        broken = facts()
        broken.imports["batchgeneratorsv2"] = {"error": "ImportError: half of it is missing"}
        found = self.check(broken)["batchgeneratorsv2"]
        assert found.status is Status.WRONG
        assert "ImportError: half of it is missing" in found.text

    def test_old_python(self, monkeypatch):
        (found,) = versions.check_python(Machine())
        assert (found.status, found.text) == (Status.OK, f"{sys.version.split()[0]}, {sys.executable}")
        monkeypatch.setattr(versions, "OLDEST_PYTHON", (4, 0))
        (found,) = versions.check_python(Machine())
        assert found.status is Status.WRONG
        assert "must be 4.0 or newer" in found.text

    @pytest.mark.parametrize(
        ("says", "gpus", "hidden", "status", "text"),
        [
            (
                {"cuda_devices": ["H100"]},
                ["H100, 550.54"],
                None,
                Status.OK,
                "CUDA build 12.4, GPUs and drivers: H100, 550.54",
            ),
            ({}, [], None, Status.NOT_APPLICABLE, "no NVIDIA GPU"),
            ({}, ["H100, 550.54"], "", Status.NOTE, "CUDA_VISIBLE_DEVICES= hides the GPUs: H100, 550.54"),
            (
                {"cuda_build": None},
                ["H100, 550.54"],
                None,
                Status.WRONG,
                "without CUDA, but there are GPUs: H100, 550.54",
            ),
            (
                {"cuda_warnings": ["driver too old"]},
                ["H100, 470"],
                None,
                Status.WRONG,
                "the GPUs (H100, 470): driver too old",
            ),
            ({"error": "OSError: libcudart"}, [], None, Status.NOT_APPLICABLE, "torch cannot be imported"),
        ],
        ids=["good", "none", "hidden", "build without CUDA", "old driver", "no torch"],
    )
    def test_cuda(self, monkeypatch, says, gpus, hidden, status, text):
        if hidden is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        else:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        on = facts(**says)
        on.nvidia_gpus = gpus
        (found,) = versions.check_cuda(on)
        assert found.status is status
        assert text in found.text


class TestImports:
    def test_a_package_that_ends_python_does_not_hide_the_next(self, monkeypatch, tmp_path):
        (tmp_path / "raising.py").write_text("raise OSError('no\\nlibrary')")
        (tmp_path / "crashing.py").write_text("import os; os._exit(7)")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(machine, "PACKAGES", ("json", "raising", "crashing", "email"))
        found = Machine().imports
        assert found["json"]["file"] == json.__file__
        assert found["raising"]["error"] == "OSError: no library"
        assert found["crashing"]["error"] == "the process ended with status 7"
        assert "file" in found["email"]


class TestCompile:
    @pytest.fixture(autouse=True)
    def _complete(self, monkeypatch, tmp_path):
        monkeypatch.delenv("nnUNet_compile", raising=False)
        monkeypatch.setenv("CC", "/usr/bin/some-cc")
        monkeypatch.setattr(compiling.sys, "platform", "linux")
        monkeypatch.setattr(compiling, "find_spec", lambda name: name)
        (tmp_path / "Python.h").touch()
        monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: str(tmp_path))

    def check(self, **says) -> list[Finding]:
        return list(compiling.check_compile(facts(**{"cuda_devices": ["H100"]} | says)))

    def test_good(self):
        assert self.check() == [ok("torch.compile", "triton and /usr/bin/some-cc")]

    @pytest.mark.parametrize("value", ["f", "0", "no"])
    def test_switched_off(self, monkeypatch, value):
        monkeypatch.setattr(compiling, "find_spec", lambda name: None)
        monkeypatch.setenv("nnUNet_compile", value)
        assert self.check() == [ok("torch.compile", f"switched off by nnUNet_compile={value}")]

    def test_no_gpu(self):
        assert statuses(self.check(cuda_devices=[])) == ["n/a"]

    def test_what_is_missing(self, monkeypatch, tmp_path):
        monkeypatch.setattr(compiling, "find_spec", lambda name: None)
        monkeypatch.delenv("CC")
        monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
        (tmp_path / "Python.h").unlink()
        found = self.check()
        assert statuses(found) == ["wrong"] * 3
        for finding, what in zip(found, ["triton", "a C compiler", "Python.h"], strict=True):
            assert f"{what}, which is not there" in finding.text
            assert finding.todo.endswith(", or switch it off: export nnUNet_compile=f")


class TestDevices:
    def test_which(self, monkeypatch):
        asked = []

        def answer(name, device):
            asked.append(device)
            if device == "cuda:1":
                return Answer([], "the process ended with status 1: RuntimeError: no kernel image")
            bad = "the output" if device == "mps" else None
            return Answer([{"steps": 3, "seconds": 2.0, "not_finite": bad}], "")

        monkeypatch.setattr(devices, "run_program", answer)
        found = list(devices.check_devices(facts(cuda_devices=["H100", "K80"], mps=True)))
        assert asked == ["cpu", "cuda:0", "cuda:1", "mps"]
        assert statuses(found) == ["ok", "ok", "wrong", "wrong"]
        assert found[0].text == "3 steps of a small network in 2.0 s, all finite"
        assert "half precision" in found[1].text
        assert "no kernel image" in found[2].text
        assert found[3].text.startswith("the output of a small network is not finite")
        assert statuses(devices.check_devices(facts(error="none"))) == ["n/a"]

    def test_the_step_sees_what_is_not_finite(self):
        program = load(PROGRAMS / "train_on_device.py")

        class Network(torch.nn.Module):
            def __init__(self, power):
                super().__init__()
                self.power = power
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def forward(self, x):
                return [self.weight**self.power]

        assert program.find_not_finite(Network(2.0), torch.ones(1)) is None
        assert program.find_not_finite(Network(-1.0), torch.ones(1)) == "the output"
        assert program.find_not_finite(Network(0.25), torch.ones(1)) == "the gradient of weight"

    def test_every_block_gets_a_gradient(self):
        """Otherwise finite gradients would prove nothing."""
        program = load(PROGRAMS / "train_on_device.py")
        network = program.make_network()
        assert program.find_not_finite(network, torch.randn(1, 1, 8, 32, 32)) is None
        assert network.salstm
        for name, parameter in network.salstm.named_parameters():
            assert parameter.grad.abs().sum() > 0, name


def load(file: Path):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestCopies:
    """What lies in the way of the installed packages; the real ones are out of sight."""

    @pytest.fixture(autouse=True)
    def _alone(self, tmp_path_factory):
        """Links our package into a folder where nothing else is."""
        self.ours = tmp_path_factory.mktemp("ours")
        for name in ("nnunetv2_salstm", "nnunetv2_salstm_autoload.py"):
            (self.ours / name).symlink_to(PACKAGE / name)

    def check(self, name: str, *path: Path, cwd: Path | None = None, **variables: str) -> list[Finding]:
        code = (
            "import json; from dataclasses import asdict; from nnunetv2_salstm.doctor import copies; "
            f"print(json.dumps([asdict(f) | {{'status': f.status.value}} for f in copies.{name}(None)]))"
        )
        paths = {"PYTHONPATH": os.pathsep.join(map(str, [*path, self.ours]))}
        # -S: no site-packages.
        command = [sys.executable, "-S", "-c", code]
        variables = clean_variables() | paths | variables
        result = subprocess.run(command, cwd=cwd or PROGRAMS, env=variables, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return [Finding(**values | {"status": Status(values["status"])}) for values in json.loads(result.stdout)]

    def nnunet(self, parent: Path, version: str | None = "2.8.1", name: str = "nnunetv2", url: str = "") -> Path:
        """Makes something that looks like an installed nnU-Net."""
        folder = parent / "nnunetv2"
        (folder / "training" / "nnUNetTrainer").mkdir(parents=True)
        for file in ("__init__.py", "training/nnUNetTrainer/__init__.py", "training/nnUNetTrainer/nnUNetTrainer.py"):
            (folder / file).touch()
        if version is not None:
            metadata = parent / f"{name}-{version}.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            (metadata / "RECORD").write_text("nnunetv2/__init__.py,,\n")
            if url:
                editable = {"editable": True} if url.startswith("file:") else {}
                (metadata / "direct_url.json").write_text(json.dumps({"url": url, "dir_info": editable}))
        return folder

    def test_good(self, tmp_path):
        folder = self.nnunet(tmp_path)
        assert self.check("check_nnunet_copy", tmp_path) == [ok("nnunetv2's folder", f"nnunetv2 2.8.1 in {folder}")]

    def test_none(self):
        (found,) = self.check("check_nnunet_copy")
        assert (found.status, found.text) == (Status.WRONG, "nnunetv2 is not installed")

    def test_what_an_uninstallation_left(self, tmp_path):
        (tmp_path / "nnunetv2" / "run").mkdir(parents=True)
        (found,) = self.check("check_nnunet_copy", tmp_path)
        assert found.status is Status.WRONG
        assert found.todo == f"delete {tmp_path / 'nnunetv2'}, then: pip install nnunetv2"

    def test_a_folder_on_pythonpath(self, tmp_path):
        clone = self.nnunet(tmp_path / "clone", version=None)
        there = self.nnunet(tmp_path / "installed")
        found, hidden = self.check("check_nnunet_copy", tmp_path / "clone", tmp_path / "installed")
        assert found.status is Status.WRONG
        assert (
            f"Python imports {clone}, which is not the installed nnU-Net (2.8.1 in {tmp_path}/installed" in found.text
        )
        assert found.todo == f"take {tmp_path / 'clone'} out of PYTHONPATH"
        assert (hidden.status, hidden.text) == (Status.NOTE, f"{there} is there too, hidden by {clone}")

    def test_a_folder_in_the_working_directory(self, tmp_path):
        clone = self.nnunet(tmp_path / "clone", version=None)
        self.nnunet(tmp_path / "installed")
        # python -c looks there first.
        found, *_ = self.check("check_nnunet_copy", tmp_path / "installed", cwd=tmp_path / "clone")
        assert found.status is Status.WRONG
        assert found.todo == f"work in another folder than {clone.parent}, or rename {clone}"

    @pytest.mark.parametrize(
        ("trainer", "nets", "name"),
        [
            ("nnUNetTrainerUMambaBot", True, "nnunetv2"),
            ("nnUNetTrainerUxLSTMEnc", False, "nnunetv2"),
            (None, True, "nnunetv2"),
            (None, False, "umamba"),
        ],
        ids=["U-Mamba", "trainers alone", "networks alone", "other name"],
    )
    def test_a_fork(self, tmp_path, trainer, nets, name):
        folder = self.nnunet(tmp_path, "2.1.1", name, url="https://github.com/someone/fork")
        if nets:
            (folder / "nets").mkdir()
        if trainer:
            (folder / "training" / "nnUNetTrainer" / f"{trainer}.py").touch()
        if name != "nnunetv2":
            (tmp_path / f"{name}-2.1.1.dist-info" / "top_level.txt").write_text("nnunetv2\n")
        (found,) = self.check("check_nnunet_copy", tmp_path)
        assert found.status is Status.WRONG
        start = f"a fork under nnU-Net's name: {name} 2.1.1 in {folder}, installed from https://github.com/someone/fork"
        assert found.text.startswith(start)
        assert (trainer or "") in found.text
        assert "pip install nnunetv2 nnunetv2-salstm" in found.todo

    def test_an_editable_installation(self, tmp_path):
        """A clone of nnU-Net is fine, one of a fork is not."""
        source = tmp_path / "odd näme"
        folder = self.nnunet(source, version=None)
        self.nnunet(tmp_path / "site", url=source.as_uri())
        for file in sorted((tmp_path / "site" / "nnunetv2").rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (tmp_path / "site" / "nnunetv2").rmdir()
        (found,) = self.check("check_nnunet_copy", source, tmp_path / "site")
        assert (found.status, found.text) == (
            Status.OK,
            f"nnunetv2 2.8.1 in {folder}, installed from {source.as_uri()}",
        )
        (folder / "training" / "nnUNetTrainer" / "nnUNetTrainerUMambaEnc.py").touch()
        (found,) = self.check("check_nnunet_copy", source, tmp_path / "site")
        assert found.status is Status.WRONG

    def test_trainers_of_the_user(self, tmp_path):
        folder = self.nnunet(tmp_path)
        (folder / "training" / "nnUNetTrainer" / "nnUNetTrainerMine.py").touch()
        (found,) = self.check("check_nnunet_copy", tmp_path)
        assert found.status is Status.NOTE
        assert found.text.endswith("with trainers that nnU-Net is not published with: nnUNetTrainerMine")

    def test_the_published_nnunet_is_no_fork(self, tmp_path_factory):
        wanted = importlib.metadata.version("nnunetv2")
        parent = release(tmp_path_factory.getbasetemp() / "releases", wanted)
        (found,) = self.check("check_nnunet_copy", parent)
        assert found.status is Status.OK

    def test_one_package_of_ours(self):
        assert self.check("check_own_copy") == [ok("nnunetv2_salstm's folder", str(self.ours / "nnunetv2_salstm"))]

    def test_an_old_package_of_ours(self, tmp_path):
        old = tmp_path / "nnunetv2_salstm"
        old.mkdir()
        (old / "__init__.py").touch()
        (found,) = self.check("check_own_copy", self.ours, tmp_path)
        assert found.status is Status.WRONG
        assert found.text == f"Python imports {self.ours / 'nnunetv2_salstm'}, but there are also {old}"
        assert f"take the folder of {old} out of PYTHONPATH" in found.todo

    def test_an_old_start_up_hook(self, tmp_path):
        hook = tmp_path / "nnunetv2_salstm_autoload.py"
        hook.write_text("def register(): pass\ndef trainers_folder(): pass\n")
        (found,) = self.check("check_own_copy", tmp_path)
        assert found.status is Status.WRONG
        assert found.todo == f"delete {hook}, then: pip install --force-reinstall nnunetv2-salstm"

    @pytest.mark.skipif(os.name == "nt", reason="programs there have no first line")
    @pytest.mark.parametrize(
        ("first_line", "status"),
        [
            ("#!/other/environment/bin/python", Status.WRONG),
            (f"#!{sys.executable}", Status.OK),
            (f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\"", Status.OK),
            (None, Status.NOTE),
        ],
        ids=["of another environment", "ours elsewhere", "long path", "none"],
    )
    def test_the_command_of_the_shell(self, tmp_path, first_line, status):
        command = tmp_path / "nnUNetv2_train"
        if first_line:
            command.write_text(f"{first_line}\n")
            command.chmod(0o755)
        (found,) = self.check("check_commands", PATH=str(tmp_path))
        assert found.status is status
        assert first_line is None or str(command) in found.text


class TestTrainers:
    @pytest.fixture
    def external(self, tmp_path):
        """What nnU-Net's commands see if the variable holds these folders."""

        def make(*entries: Path, **variables: str) -> ExternalTrainers:
            value = {VARIABLE: os.pathsep.join(map(str, entries))}
            present = {name: value for name, value in os.environ.items() if name != OFF_SWITCH}
            return ExternalTrainers(present | value | variables)

        return make

    @pytest.fixture
    def module(self, tmp_path):
        def write(code: str, name: str = "mine.py") -> Path:
            file = tmp_path / "own" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)
            return file

        return write

    def test_the_variable_of_a_new_process(self, external, tmp_path):
        (found,) = external().check_external_folders(Machine())
        assert (found.status, found.text) == (Status.OK, f"{trainers_folder()} (ours is number 1 of 1)")
        found, missing = external(tmp_path / "typo").check_external_folders(Machine())
        assert found.text.endswith("(ours is number 2 of 2)")
        assert missing == note(VARIABLE, f"{tmp_path / 'typo'} does not exist, and nnU-Net passes it over")

    def test_switched_off(self, external, tmp_path):
        (found,) = external(tmp_path, **{OFF_SWITCH: "1"}).check_external_folders(Machine())
        assert found.status is Status.WRONG
        assert "the folder of our trainers is missing, as NNUNETV2_SALSTM_NO_AUTOLOAD=1" in found.text
        assert found.todo.startswith("unset NNUNETV2_SALSTM_NO_AUTOLOAD, or: export nnUNet_extTrainer=")
        (found,) = external(Path(trainers_folder()), **{OFF_SWITCH: "1"}).check_external_folders(Machine())
        assert found.status is Status.OK
        assert "although NNUNETV2_SALSTM_NO_AUTOLOAD=1" in found.text

    def test_without_the_start_up_hook(self, external):
        # -S: start-up files are not read.
        made = external()
        made.seen = Answer([{"variable": ""}], "")
        (found,) = made.check_external_folders(Machine())
        assert found.status is Status.WRONG
        assert "as Python's start-up does not add it here" in found.text

    def test_the_variable_before_this_package_added_to_it(self, tmp_path, monkeypatch):
        monkeypatch.setenv(VARIABLE, os.pathsep.join(["/users", str(trainers_folder())]))
        file = tmp_path / "environ"
        assert trainers.variables_at_start(file)[VARIABLE] == "/users"
        file.write_bytes(b"A=1\0nnUNet_extTrainer=/from/the/shell\0")
        assert trainers.variables_at_start(file)[VARIABLE] == "/from/the/shell"
        file.write_bytes(b"A=1\0")
        assert trainers.variables_at_start(file)[VARIABLE] == ""

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("import nothing_there", "ModuleNotFoundError: No module named 'nothing_there'"),
            ("def", "SyntaxError: "),
            ("from . import sibling", "ImportError: attempted relative import with no known parent package"),
            ("raise SystemExit(1)", "SystemExit: 1"),
        ],
        ids=["missing package", "syntax", "relative import", "exit"],
    )
    def test_a_module_that_hides_ours(self, external, module, code, error):
        file = module(code)
        module("print('loud'); x = 1", "fine.py")
        (found,) = external(file.parent).check_external_modules(Machine())
        assert found.status is Status.WRONG
        assert found.text.startswith(f"{file} cannot be imported: {error}")
        assert found.todo == f"mend {file}, or take its folder out of nnUNet_extTrainer"
        (found,) = external(Path(trainers_folder()), file.parent).check_external_modules(Machine())
        assert found.status is Status.NOTE

    def test_a_module_in_a_package(self, external, module):
        module("", "package/__init__.py")
        module("from package.part import nothing_there", "package/mine.py")
        file = module("import nothing_there", "package/part.py")
        found = list(external(file.parents[1]).check_external_modules(Machine()))
        assert [finding.text.split()[0] for finding in found] == [str(file.with_name("mine.py")), str(file)]

    def test_modules_of_the_same_name(self, external, module):
        file = module("x = 1")
        other = module("import nothing_there", "other/mine.py")
        found = list(external(file.parent, other.parent).check_external_modules(Machine()))
        # The second is also part of the first, as a folder without __init__.py it is none.
        assert statuses(found) == ["ok", "wrong"]
        assert str(other) in found[1].text

    def test_a_module_that_ends_python(self, external, module):
        file = module("import os; os._exit(3)")
        (found,) = external(file.parent).check_external_modules(Machine())
        assert found.status is Status.WRONG
        assert "the process ended with status 3" in found.text

    def test_no_own_folders(self, external):
        assert statuses(external().check_external_modules(Machine())) == ["n/a"]

    def look_up(self, monkeypatch, made, *events, failure="") -> list[Finding]:
        def answer(name, *arguments, **keywords):
            return Answer(list(events), failure) if name == "look_up_trainers" else run_program(name, **keywords)

        monkeypatch.setattr(trainers, "run_program", answer)
        return list(made.check_trainers(Machine()))

    def test_found(self, monkeypatch, external):
        ours = str(PACKAGE / "nnunetv2_salstm" / "trainers.py")
        found = self.look_up(monkeypatch, external(), {"trainer": "A", "file": ours}, {"trainer": "B", "file": ours})
        assert found == [ok("trainers", f"nnU-Net finds A, B in {ours}")]

    def test_hidden_by_another_file(self, monkeypatch, external):
        ours = str(PACKAGE / "nnunetv2_salstm" / "trainers.py")
        events = {"trainer": "A", "file": ours}, {"trainer": "B", "file": "/users/mine.py"}
        found = self.look_up(monkeypatch, external(), *events)
        assert statuses(found) == ["ok", "wrong"]
        assert found[1].text == "B comes from /users/mine.py, which hides ours"

    def test_not_found_has_the_cause_that_was_found_before(self, monkeypatch, external, module):
        events = [{"trainer": name, "error": "RuntimeError: Could not find"} for name in "AB"]
        (found,) = self.look_up(monkeypatch, external(**{OFF_SWITCH: "1"}), *events)
        assert found.text == "nnU-Net does not find A, B: RuntimeError: Could not find"
        assert found.todo.startswith("unset NNUNETV2_SALSTM_NO_AUTOLOAD")
        file = module("import nothing_there")
        (found,) = self.look_up(monkeypatch, external(file.parent), *events)
        assert found.todo.startswith(f"mend {file}")
        (found,) = self.look_up(monkeypatch, external(), *events)
        assert found.todo == "run: pip install --force-reinstall --no-deps nnunetv2 nnunetv2-salstm"

    def test_nnunet_is_broken_or_too_old(self, monkeypatch, external):
        (found,) = self.look_up(monkeypatch, external(), failure="the process ended with status 1: ImportError: x")
        assert "ImportError: x" in found.text
        monkeypatch.setattr(trainers, "version", lambda name: "2.7.0")
        (found,) = self.look_up(monkeypatch, external(), {"too_old": True})
        assert found.status is Status.WRONG
        assert "nnUNetv2_salstm patch --apply" in found.todo
        assert "plans route" in found.todo
        monkeypatch.setattr(trainers, "version", lambda name: "2.6.2")
        (found,) = self.look_up(monkeypatch, external(), {"too_old": True})
        assert "patch" not in found.todo

    @pytest.mark.slow
    def test_nnunets_own_search(self, external, module):
        file = module(HIDDEN)
        found = list(external(file.parent).check_trainers(Machine()))
        assert statuses(found) == ["ok", "wrong"]
        assert found[0].text.count("nnUNetTrainer") == len(TRAINERS) - 1
        assert found[1].text == f"nnUNetTrainerSALSTM_A comes from {file}, which hides ours"

    @pytest.mark.slow
    def test_nnunets_own_search_is_stopped_by_a_module(self, external, module):
        file = module("import nothing_there")
        (found,) = external(file.parent).check_trainers(Machine())
        assert found.text.endswith("nnUNetTrainerSALSTMOff: ModuleNotFoundError: No module named 'nothing_there'")
        assert found.todo.startswith(f"mend {file}")


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp()


def run_doctor(environment: Environment, base: Path, *arguments: str, **variables: str):
    (base / "data").mkdir(exist_ok=True)
    data = dict.fromkeys(folders.VARIABLES, str(base / "data"))
    command = environment.python.with_name("nnUNetv2_salstm")
    # The environment shares packages with the running one, not its commands.
    path = {"PATH": str(environment.python.parent)}
    return environment.run(command, "doctor", *arguments, **path | data | variables)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the command is no script there")
def test_a_healthy_installation(base):
    result = run_doctor(installed(base, "wheel"), base)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert result.stdout.endswith("\nall good\n")
    for name in TRAINERS:
        assert name in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the command is no script there")
def test_everything_wrong_at_once(base, tmp_path):
    (tmp_path / "nnunetv2").mkdir()
    (tmp_path / "nnunetv2" / "__init__.py").write_text("raise RuntimeError('an old fork')")
    variables = {"PYTHONPATH": str(tmp_path), "nnUNet_raw": "", OFF_SWITCH: "1", "nnUNet_results": "/nowhere"}
    result = run_doctor(installed(base, "wheel"), base, "--json", **variables)
    assert result.returncode == 1
    todo = "\n".join(json.loads(result.stdout)["todo"])
    for what in (f"take {tmp_path} out of PYTHONPATH", f"unset {OFF_SWITCH}", "export nnUNet_raw=", "/nowhere"):
        assert what in todo
    assert "RuntimeError: an old fork" in result.stdout


def test_nothing_is_imported_before_the_checks():
    code = (
        "import sys; from nnunetv2_salstm.doctor import session; session.all_checks(); "
        "print({'torch', 'nnunetv2', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
