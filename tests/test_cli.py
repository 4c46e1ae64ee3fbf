import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from nnunetv2_salstm import cli
from nnunetv2_salstm.commands import trainers_path
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm_autoload import trainers_folder


def test_every_command_has_help_and_both_functions():
    for name, command in cli.COMMANDS.items():
        assert command.__doc__.strip(), name
        assert callable(command.add_arguments), name
        assert callable(command.run), name


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["bench", "--help"],
        ["convert", "acdc", "--help"],
        ["demo", "--help"],
        ["doctor", "--help"],
        ["inspect", "--help"],
        ["matrix", "--help"],
        ["patch", "--help"],
        ["trainers-path", "--help"],
    ],
    ids=" ".join,
)
def test_help_imports_neither_torch_nor_nnunet(argv):
    heavy = "torch", "nnunetv2", "numpy", "matplotlib", "SimpleITK"
    code = (
        f"import sys; from nnunetv2_salstm.cli import main; status = main({argv!r}); "
        f"sys.exit(status or ', '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "usage: nnUNetv2_salstm" in result.stdout


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nnUNetv2_salstm {version('nnunetv2-salstm')}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["dem"], "invalid choice: 'dem'"),
        (["demo", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["demo", "--out"], "--out: expected one argument"),
        (["demo", "--slow"], "unrecognized arguments: --slow"),
        (["demo", "folder"], "unrecognized arguments: folder"),
        (["trainers-path", "--quick"], "unrecognized arguments: --quick"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2_and_says_why(argv, message, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_trainers_path_is_the_folder_that_nnunet_needs(capsys):
    assert cli.main(["trainers-path"]) == 0
    assert capsys.readouterr().out == f"{trainers_folder()}\n"
    assert (Path(trainers_folder()) / "nnunetv2_salstm_trainers.py").is_file()


def test_trainers_path_without_the_folder_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(trainers_path, "trainers_folder", lambda: None)
    assert cli.main(["trainers-path"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("nnUNetv2_salstm trainers-path: the installation has no trainers folder; run: pip")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "status", "printed"),
    [
        (SalstmError("no room; free some"), 1, "nnUNetv2_salstm demo: no room; free some\n"),
        (KeyboardInterrupt(), 130, "nnUNetv2_salstm demo: interrupted\n"),
    ],
    ids=["SalstmError", "Ctrl-C"],
)
def test_what_a_command_raises_becomes_one_line_and_a_status(raised, status, printed, monkeypatch, capsys):
    monkeypatch.setattr(cli.COMMANDS["demo"], "run", _raise(raised))
    assert cli.main(["demo"]) == status
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("raised", [ValueError("a defect"), OSError("a defect")], ids=["ValueError", "OSError"])
def test_other_exceptions_keep_their_traceback(raised, monkeypatch):
    monkeypatch.setattr(cli.COMMANDS["demo"], "run", _raise(raised))
    with pytest.raises(type(raised), match="a defect"):
        cli.main(["demo"])


def _raise(exception):
    def run(arguments):
        raise exception

    return run
