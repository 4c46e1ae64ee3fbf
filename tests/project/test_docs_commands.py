"""Every command line in the README and in docs/: its parser takes it, and a test runs its like or it says why not.

Commands stand in fenced blocks of a shell and in indented blocks; any other code is fenced with its language. A line
passes if the command's own parser takes it and one file of the tests has all its options. What no test can run stands
below a comment such as <!-- needs: GPU -->. The page for beginners is run as it stands.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
from command_lines import parse_only
from conftest import write_dataset
from nnunet_host import Host
from places import ROOT, TESTS

from nnunetv2_salstm.host.trainer_names import TrainerName

# A warning of nnU-Net's own imports.

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FIRST_MODEL = ROOT / "docs" / "getting-started" / "first-model.md"

SHELLS = {"bash", "sh", "shell", "console"}
VARIABLES = {"nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"}
NEEDS = re.compile(r"<!-- needs: (GPU|data|hours) -->")


class Line(NamedTuple):
    """A line of a block: its number, its text, and what it says it needs."""

    number: int
    text: str
    needs: str | None


def shell_lines(page: str) -> Iterator[Line]:
    """Yields the lines of a page's shell blocks, those that go on after a backslash as one."""
    language, needs, indented, before, held = None, None, False, "", ""
    for number, line in enumerate(page.splitlines(), start=1):
        fence = re.match(r"```(\w*)", line)
        if fence and language is None:
            language = fence[1]
            assert language, f"line {number}: a fenced block must name its language"
        elif fence:
            language, needs = None, None
        elif language is None:
            indented = line.startswith("    ") and (indented or not before.strip())
            comment = NEEDS.fullmatch(line)
            assert comment or "<!-- needs" not in line, f"line {number}: must be {NEEDS.pattern}, got {line}"
            if comment:
                needs = comment[1]
            elif line.strip() and not indented:
                needs = None
        if not fence and (language in SHELLS or (language is None and indented)):
            held += line.strip().removesuffix("\\")
            if not line.endswith("\\"):
                if held:
                    yield Line(number, held, needs)
                held = ""
        before = line


def commands(line: str) -> list[list[str]]:
    """Splits a line of a shell into commands, and those into words."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quotation mark that is not closed: no line of a shell
        return [[line]]
    found: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def words_of_tests() -> dict[str, set[str]]:
    """Returns the words of all strings in each other file of the tests, docstrings left out."""
    found = {}
    for file in {*TESTS.rglob("*.py")} - {Path(__file__)}:
        nodes = [*ast.walk(ast.parse(file.read_text()))]
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        strings = (node.value for node in nodes if isinstance(node, ast.Constant) and node not in docstrings)
        found[file.name] = {word for string in strings if isinstance(string, str) for word in string.split()}
    return found


TESTED = words_of_tests()


def is_tested(*words: str) -> bool:
    """Whether one file of the tests has all of these words."""
    return any(found.issuperset(words) for found in TESTED.values())


def problem(words: list[str], needs: str | None, monkeypatch) -> str:
    """Returns what is wrong with a command, or nothing."""
    program, *arguments = words
    if program in ("mkdir", "cd", "pytest"):
        return ""
    if program == "export":
        unknown = [word for word in arguments if word.partition("=")[0] not in VARIABLES]
        return f"exports {', '.join(unknown)}" if unknown else ""
    if program == "pip":
        return problem_of_pip(arguments)
    if program.startswith("nnUNetv2_"):
        if not entry_points(group="console_scripts", name=program):
            return "is no command"
        complaint = parse_only(words, monkeypatch)
        if complaint:
            return complaint
        for word in arguments:
            if word.startswith("nnUNetTrainer") and word != "nnUNetTrainer":
                TrainerName.parse(word)
        command = arguments[0] if program == "nnUNetv2_salstm" else program
        required = [command, *(word for word in arguments if word.startswith("-"))]
    else:
        script = arguments[0] if program == "python" else program
        if not (ROOT / script).is_file():
            return f"{script} is not there; what is no command is fenced with its language"
        # The examples are imported.
        required = [Path(script).stem if script.startswith("examples/") else Path(script).name]
    if needs or (is_tested(*required) and "cuda" not in arguments):
        return ""
    return f"no test has {' '.join(required)}; write one, or {NEEDS.pattern} before the block"


def problem_of_pip(arguments: list[str]) -> str:
    if arguments[0] != "install":
        return "" if arguments[0] == "uninstall" else f"pip {arguments[0]}"
    project = re.search(
        r"^\[project.optional-dependencies\]\n(.*?)^\[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    extras = set(re.findall(r"^(\w+) =", project[1], re.MULTILINE))
    for word in arguments[1:]:
        package = re.fullmatch(r"(\.|nnunetv2-salstm)(\[(.*)\])?", word)
        if not package:
            return f"installs {word}"
        missing = set((package[3] or "").split(",")) - extras - {""}
        if missing:
            return f"pyproject.toml has no extra {', '.join(missing)}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands(page, monkeypatch):
    found = [
        f"{page.name}:{line.number}: {' '.join(words)}: {wrong}"
        for line in shell_lines(page.read_text())
        for words in commands(line.text)
        if (wrong := problem(words, line.needs, monkeypatch))
    ]
    assert found == []


def test_there_are_commands_on_the_pages():
    number = {page.name: len(list(shell_lines(page.read_text()))) for page in PAGES}
    assert number["README.md"] >= 5
    assert number["first-model.md"] >= 10
    assert number["datasets.md"] >= 15


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nnUNetv2_salstm demo --fast", "unrecognized arguments: --fast"),
        ("nnUNetv2_salstm convert acdc", "required: -i"),
        ("nnUNetv2_salstm reticulate", "invalid choice: 'reticulate'"),
        ("nnUNetv2_train 4 3d_fullres 0 -trainer X", "unrecognized arguments|expected one argument"),
        ("nnUNetv2_train 4 3d_fullres 0 -num_gpus 2", "no test has nnUNetv2_train -num_gpus"),
        ("nnUNetv2_train 4 3d_fullres 0 -device cuda", "no test has nnUNetv2_train -device"),
        ("nnUNetv2_trian 4", "is no command"),
        ("export nnUNet_row=FOLDER", "exports nnUNet_row=FOLDER"),
        ('pip install ".[everything]"', "has no extra everything"),
        ("pip install onnx", "installs onnx"),
        ("python examples/no_such.py", "is not there"),
        ("benchmarks/scaling.py", "no test has scaling.py"),
        ("DIR/nnunet.log   nnU-Net's output", "what is no command is fenced with its language"),
        ("true && pip download .", "true is not there.*pip download"),
    ],
)
def test_wrong_commands_are_found(line, message, monkeypatch):
    found = " ".join(problem(words, None, monkeypatch) for words in commands(line))
    assert re.search(message, found), found


def test_wrong_trainers_are_found(monkeypatch):
    with pytest.raises(ValueError, match="nnUNetTrainerSALSTM_C"):
        problem("nnUNetv2_train 4 2d 0 -tr nnUNetTrainerSALSTM_C".split(), None, monkeypatch)


def test_a_marked_block_needs_no_test_but_must_be_right(monkeypatch):
    command = "nnUNetv2_train 4 2d 0 -num_gpus 2"
    marked, unmarked = shell_lines(f"<!-- needs: GPU -->\n```bash\n{command}\n```\n\n    {command}\n")
    assert (marked.number, marked.needs, unmarked.needs) == (3, "GPU", None)
    (words,) = commands(marked.text)
    assert problem(words, marked.needs, monkeypatch) == ""
    assert "no test has" in problem(words, unmarked.needs, monkeypatch)
    assert "unrecognized arguments" in problem([*words, "--fast"], marked.needs, monkeypatch)


@pytest.mark.parametrize(
    ("page", "message"),
    [("```\nls\n```\n", "line 1: a fenced block must name"), ("<!-- needs: luck -->\n", "line 1: must be")],
)
def test_blocks_without_language_and_unknown_marks_are_found(page, message):
    with pytest.raises(AssertionError, match=message):
        list(shell_lines(page))


def test_lines_go_on_after_a_backslash_and_lists_are_no_blocks():
    block = "    nnUNetv2_salstm demo \\\n        --quick  # short\n    pytest\n"
    page = f"- a list\n    goes on\n\n{block}\na text\n    goes on\n"
    assert [(line.number, commands(line.text)) for line in shell_lines(page)] == [
        (5, [["nnUNetv2_salstm", "demo", "--quick"]]),
        (6, [["pytest"]]),
    ]


@pytest.mark.nightly
def test_the_first_model_as_the_page_says(tmp_path):
    host = Host(tmp_path / "host")
    write_dataset(host.root / "raw" / "Dataset501_Mine")
    few = {  # processes, as for all commands of the tests
        "nnUNetv2_plan_and_preprocess": "-npfp 1 -np 1",
        "nnUNetv2_train": "",
        "nnUNetv2_predict": "-npp 1 -nps 1",
    }
    lines = [
        f"{line.text} {few[line.text.split()[0]]}".replace("$nnUNet_raw", str(host.root / "raw"))
        for line in shell_lines(FIRST_MODEL.read_text())
        if line.needs is None and line.text.split()[0] in few
    ]
    assert [line.split()[0] for line in lines] == list(few)
    host.run(*lines, workers=1)
    (model,) = (host.results / "Dataset501_Mine").iterdir()
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    (image,) = (host.root / "raw" / "Dataset501_Mine" / "imagesTs").iterdir()
    predicted = sitk.ReadImage(str(host.root / "rehearsal" / image.name.replace("_0000", "")))
    assert predicted.GetSize() == sitk.ReadImage(str(image)).GetSize()
    assert set(np.unique(sitk.GetArrayFromImage(predicted))) <= {0, 1, 2}
