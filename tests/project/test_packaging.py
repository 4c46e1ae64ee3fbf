"""What is in the distributions, what an installation adds to an environment, and what removing it leaves."""

import ast
import importlib.metadata
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from environments import ROOT, VARIABLE, build_distributions, copy_of_checkout, install, make_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nnunetv2_salstm


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp()


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def source_files(folder: str) -> list[Path]:
    """Returns the files in a folder of the checkout, relative to it."""
    files = (file for file in (ROOT / folder).rglob("*") if file.is_file() and file.parent.name != "__pycache__")
    return [file.relative_to(ROOT / folder) for file in files]


def test_tests_see_the_installed_package():
    """In a checkout, `python -m pytest` imports the folder that lies there, and faults of the packaging do not show."""
    package = Path(nnunetv2_salstm.__file__).resolve().parent
    files = importlib.metadata.distribution("nnunetv2-salstm").files or []
    if "_nnunetv2_salstm.pth" in map(str, files):
        assert package == ROOT / "nnunetv2_salstm", "another checkout is installed"
        return
    assert package / "__init__.py" in {Path(file.locate()).resolve() for file in files}, (
        "type pytest, not python -m pytest"
    )
    for file in source_files("nnunetv2_salstm"):
        same = (package / file).read_bytes() == (ROOT / "nnunetv2_salstm" / file).read_bytes()
        assert same, f"{file} differs from the installed one; install the checkout again"


def test_wheel_holds_the_package_and_nothing_else(base):
    wheel = contents(build_distributions(base)[1])
    expected = {
        "LICENSE": f"nnunetv2_salstm-{nnunetv2_salstm.__version__}.dist-info/licenses/LICENSE",
        "nnunetv2_salstm_autoload.pth": "nnunetv2_salstm_autoload.pth",
        "nnunetv2_salstm_autoload.py": "nnunetv2_salstm_autoload.py",
    }
    for folder, place in (
        ("nnunetv2_salstm", "nnunetv2_salstm"),
        ("trainers", "nnunetv2_salstm/_trainers"),
        ("patches", "nnunetv2_salstm/_patches"),
    ):
        files = source_files(folder)
        assert files
        expected |= {f"{folder}/{file.as_posix()}": f"{place}/{file.as_posix()}" for file in files}
    for source, place in expected.items():
        assert wheel[place] == (ROOT / source).read_bytes()
    assert {name for name in wheel if ".dist-info/" not in name} <= set(expected.values())


def test_start_up_hook_is_one_ascii_line():
    """A .pth file is read line by line, before Python 3.13 in the locale's encoding."""
    (line,) = (ROOT / "nnunetv2_salstm_autoload.pth").read_bytes().decode("ascii").splitlines()
    assert line.startswith("import ")


def test_source_distribution_is_complete(base):
    """It makes the wheel that the checkout makes, and has the tests."""
    sdist, wheel = build_distributions(base)
    direct = base / "direct"
    building = make_environment(base, "building")
    building.pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", direct, copy_of_checkout(base))
    assert contents(direct / wheel.name) == contents(wheel)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/project/test_packaging.py", "README.md", "LICENSE", "hatch_build.py"} <= names


@pytest.mark.parametrize("kind", ["wheel", pytest.param("editable", marks=pytest.mark.nightly)])
def test_uninstalling_leaves_nothing(base, kind):
    environment = make_environment(base, f"uninstalled {kind}")
    before = environment.files()
    install(environment, kind, base)
    # Leaves byte code.
    environment.output("import nnunetv2_salstm.config")
    added = environment.files() - before
    if kind == "editable":
        # No copies, which would be stale after the next change of the checkout.
        added_here = {path.name for path in added if path.parent == environment.site_packages}
        metadata = f"nnunetv2_salstm-{nnunetv2_salstm.__version__}.dist-info"
        assert added_here == {metadata, "_nnunetv2_salstm.pth", "nnunetv2_salstm_autoload.pth"}
    environment.pip("uninstall", "--yes", "nnunetv2-salstm")
    assert environment.files() == before
    assert environment.output(f"import os; print(os.environ.get('{VARIABLE}'))") == "None"


# Where the name to import is not the name to install.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def test_what_is_imported_is_declared_and_nothing_else():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}

    imported = set()
    for file in (ROOT / "nnunetv2_salstm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    ours = {"nnunetv2_salstm", "nnunetv2_salstm_autoload"}
    needed = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in imported - ours - sys.stdlib_module_names}
    extras = project["optional-dependencies"]
    assert names(project["dependencies"]) <= needed
    assert needed <= names(project["dependencies"]) | names(extras["compare"]) | names(extras["convert"])
