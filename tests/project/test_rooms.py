"""The rules of import between the rooms of the package: one way only, and no cycle, not even a lazy one."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "nnunetv2_salstm"
# A room imports those on the lines below its own. Rooms on one line do not know each other, except NNUNETS.
LINES = [
    {"cli"},
    {"commands"},
    {"converters", "study", "evaluation", "reporting"},
    {"trainers"},
    {"host"},
    {"plans", "networks", "config"},
    {"nn"},
]
NNUNETS = LINES[-2]


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__") or "__init__"


MODULES = {name_of(file): ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(tree: ast.AST) -> set[str]:
    """Returns the modules of the package that a module imports, in functions too, but not for annotations alone."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            found |= imports_of(node)
            continue
        inside = {name.removeprefix("nnunetv2_salstm.") for name in names if name.startswith("nnunetv2_salstm.")}
        found |= {max((m for m in MODULES if f"{name}.".startswith(f"{m}.")), key=len, default="") for name in inside}
    return found - {""}


IMPORTS = {module: imports_of(tree) - {module} for module, tree in MODULES.items()}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def line_of(module: str) -> int:
    (line,) = (number for number, rooms in enumerate(LINES) if room_of(module) in rooms)
    return line


def may_import(module: str, other: str) -> bool:
    same = room_of(module) == room_of(other) or {room_of(module), room_of(other)} <= NNUNETS
    return same or line_of(module) < line_of(other)


def test_imports_run_one_way():
    assert {room_of(module) for module in MODULES.keys() - {"__init__"}} == set().union(*LINES)
    edges = {(module, other) for module, others in IMPORTS.items() if module != "__init__" for other in others}
    assert {edge for edge in edges if not may_import(*edge)} == set()


def test_there_is_no_cycle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' <- '.join(error.args[1])}")


def test_the_rules_see_what_they_must():
    assert imports_of(ast.parse("def f():\n    from nnunetv2_salstm.host import files")) == {"host.files"}
    assert imports_of(ast.parse("import nnunetv2_salstm.nn.block as b")) == {"nn.block"}
    assert imports_of(ast.parse("if TYPE_CHECKING:\n    import nnunetv2_salstm.nn.block")) == set()
    assert not may_import("host.files", "commands.plan")
    assert not may_import("evaluation.metrics", "reporting.demo")
    assert not may_import("converters.summary", "reporting.tables")
    assert may_import("commands.plan", "nn.block")
    assert may_import("networks", "config")
