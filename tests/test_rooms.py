"""The rules of import between the rooms of the package (docs/design.md): one way, and no cycle, not even a lazy one."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nnunetv2_salstm

ROOT = Path(nnunetv2_salstm.__file__).parent
# A room imports those on lines below its own. Rooms on one line import each other only where ALLOWED says so.
LINES = [
    {"cli"},
    {"commands"},
    {"converters", "study", "evaluation", "reporting"},
    {"trainers"},
    {"host"},
    {"plans", "networks", "config"},
    {"nn"},
]
# Violations of today, as (module, imported module), on their way out. Nothing may be added.
ALLOWED: set[tuple[str, str]] = set()


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") or "__init__"


MODULES = {name_of(file): ast.parse(file.read_text()) for file in sorted(ROOT.rglob("*.py"))}
TYPES_ONLY = "TYPE_CHECKING"


def imports_of(tree: ast.AST) -> set[str]:
    """Returns the modules of the package that a module imports, in functions too, but not for annotations alone."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == TYPES_ONLY:
            continue
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            found |= imports_of(node)
            continue
        inside = {name.removeprefix("nnunetv2_salstm.") for name in names if name.startswith("nnunetv2_salstm.")}
        found |= {max((m for m in MODULES if f"{name}.".startswith(f"{m}.")), key=len, default="") for name in inside}
    return found - {""}


IMPORTS = {module: imports_of(tree) - {module} for module, tree in MODULES.items()}


def line_of(module: str) -> int:
    (line,) = (number for number, rooms in enumerate(LINES) if module.partition(".")[0] in rooms)
    return line


def may_import(module: str, other: str) -> bool:
    return module.partition(".")[0] == other.partition(".")[0] or line_of(module) < line_of(other)


def test_every_module_is_in_a_room():
    for module in MODULES.keys() - {"__init__"}:
        line_of(module)


def test_imports_run_one_way():
    edges = {(module, other) for module, others in IMPORTS.items() if module != "__init__" for other in others}
    assert {edge for edge in edges if not may_import(*edge)} == ALLOWED


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
    assert may_import("commands.plan", "nn.block")
