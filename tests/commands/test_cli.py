import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from nnunetv2_salstm import cli
from nnunetv2_salstm.commands.options import Parser, add_option
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.versions import require_device


def test_every_command_has_help_and_both_functions():
    for name, command in cli.COMMANDS.items():
        assert command.__doc__.strip(), name
        assert callable(command.add_arguments), name
        assert callable(command.run), name


def test_help_and_lists_import_neither_torch_nor_nnunet():
    calls = [["--help"], ["convert", "acdc", "--help"], *([name, "--help"] for name in cli.COMMANDS), ["trainers"]]
    heavy = "torch", "nnunetv2", "numpy", "matplotlib", "SimpleITK"
    code = (
        f"import sys; from nnunetv2_salstm.cli import main; status = any([main(call) for call in {calls!r}]); "
        f"sys.exit(status or ', '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("usage: nnUNetv2_salstm") == len(calls) - 1
    assert "nnUNetTrainerSALSTM_A " in result.stdout


def test_help_keeps_the_lines_of_its_text(capsys):
    for name, command in cli.COMMANDS.items():
        assert cli.main([name, "--help"]) == 0
        assert command.__doc__.strip() in capsys.readouterr().out


@pytest.fixture
def parser():
    """A program with one command that has every shared option."""
    parser = Parser(prog="program")
    command = parser.add_subparsers(dest="command").add_parser("one")
    for flag in ("-d", "-c", "-p", "-tr", "-i", "-o", "-np", "-device", "--overwrite"):
        add_option(command, flag)
    add_option(command, "-f", many=True)
    return parser


def test_options_are_nnunets(parser):
    words = "one -d 027 -c 2d -p P -tr T -f 0 all -i in -o out -np 3 -device cuda:1 --overwrite"
    assert vars(parser.parse_args(words.split())) == {
        "command": "one",
        "dataset": "027",
        "configuration": "2d",
        "plans": "P",
        "trainer": "T",
        "folds": [0, "all"],
        "input": Path("in"),
        "output": Path("out"),
        "processes": 3,
        "device": "cuda:1",
        "overwrite": True,
    }
    defaults = parser.parse_args(["one"])
    assert (defaults.plans, defaults.device, defaults.overwrite) == ("nnUNetPlans", "cpu", False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-d27", "unrecognized arguments: -d27"),
        ("-dev cpu", "unrecognized arguments: -dev cpu"),
        ("-evice cpu", "unrecognized arguments: -evice cpu"),
        ("--over", "unrecognized arguments: --over"),
        ("-device gpu", "argument -device: must be cpu, cuda, cuda:N or mps, got gpu"),
        ("-device cuda:", "argument -device: must be cpu, cuda, cuda:N or mps, got cuda:"),
        ("-f one", "argument -f: must be a number or all, got one"),
        ("-np 0", "argument -np: must be a whole number of at least 1, got 0"),
    ],
)
def test_options_are_written_in_full_and_errors_show_the_commands_usage(parser, words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["one", *words.split()])
    error = capsys.readouterr().err
    assert error.startswith("usage: program one [-h] [-d DATASET]")
    assert error.endswith(f"program one: error: {message}\n")


def test_device_that_is_not_there(monkeypatch):
    require_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SalstmError, match="-device cuda:0 needs a GPU that torch can use, and it finds none; run with"):
        require_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_device("cuda:1")
    with pytest.raises(SalstmError, match="-device cuda:2 needs a GPU that torch can use, and it finds 2, the first"):
        require_device("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SalstmError, match="-device mps needs Apple's GPU"):
        require_device("mps")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nnUNetv2_salstm {version('nnunetv2-salstm')}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["dem"], "invalid choice: 'dem'"),
        (["demo", "-device", "tpu"], "must be cpu, cuda, cuda:N or mps, got tpu"),
        (["demo", "-o"], "-o: expected one argument"),
        (["demo", "--slow"], "unrecognized arguments: --slow"),
        (["demo", "folder"], "unrecognized arguments: folder"),
        (["trainers", "--quick"], "unrecognized arguments: --quick"),
        (["trainers", "--path", "-d", "27"], "argument -d: not allowed with argument --path"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2_and_says_why(argv, message, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


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


def test_who_reads_a_few_lines_sees_no_traceback():
    """As head does, which ends before all is printed."""
    program = "import sys; from nnunetv2_salstm.cli import main; sys.exit(main(['trainers']))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()
