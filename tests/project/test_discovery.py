"""nnU-Net finds the trainers after nothing but an installation, in real environments."""

import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import ROOT, VARIABLE, Environment, clean_variables, copy_of_checkout, installed, make_environment

LOOK_UP = ROOT / "tests" / "look_up_trainers.py"
PRINT = f"import os; print(os.environ.get('{VARIABLE}'))"
PRINT_AFTER_IMPORT = f"import os; os.environ.pop('{VARIABLE}', 0); import nnunetv2_salstm; {PRINT}"
PRINT_IN_CHILD = f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {PRINT!r}], text=True))"
SOUND = {"same_again": True, "same_unpickled": True, "said": []}
FULL_NAME = "nnUNetTrainerSALSTM_A_skips_2epochs_20its_seed1"


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session", params=["wheel", "editable"])
def either(request, base) -> Environment:
    return installed(base, request.param)


@pytest.fixture(scope="session")
def wheel(base) -> Environment:
    return installed(base, "wheel")


@pytest.fixture(scope="session")
def bare(base) -> Environment:
    return make_environment(base, "bare")


def trainers_of(environment: Environment, base: Path) -> str:
    installed_folder = environment.site_packages / "nnunetv2_salstm" / "_trainers"
    return str(installed_folder if installed_folder.exists() else copy_of_checkout(base) / "trainers")


def look_up(environment: Environment, *arguments: str, **variables: str) -> dict:
    result = environment.run(LOOK_UP, *arguments, **variables)
    assert result.stdout, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@contextlib.contextmanager
def replaced(path: Path, text: str | None) -> Iterator[None]:
    """Replaces a file or folder by another text, or by nothing, for a while."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        if text is not None:
            path.write_text(text, encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


def test_installation_sets_the_variable(either, base):
    assert either.output(PRINT) == trainers_of(either, base)


@pytest.mark.parametrize("given", ["", os.pathsep, " "], ids=["empty", "only a separator", "blank"])
def test_empty_variable(wheel, base, given):
    assert wheel.output(PRINT, **{VARIABLE: given}) == trainers_of(wheel, base)


def test_users_entries_stay_first(wheel, base):
    users = os.pathsep.join(["/users/second", "/users/first"])
    assert wheel.output(PRINT, **{VARIABLE: users}) == os.pathsep.join([users, trainers_of(wheel, base)])


def test_child_process_does_not_append_again(wheel, base):
    expected = os.pathsep.join(["/users", trainers_of(wheel, base)])
    assert wheel.output(PRINT_IN_CHILD, **{VARIABLE: "/users"}) == expected


def test_off_switch(wheel):
    off = {"NNUNETV2_SALSTM_NO_AUTOLOAD": "1"}
    assert wheel.output(PRINT, **off) == "None"
    assert wheel.output(PRINT_AFTER_IMPORT, **off) == "None"
    assert wheel.output(PRINT, **off, **{VARIABLE: "/users"}) == "/users"


def test_import_registers_too(either, base):
    assert either.output(PRINT_AFTER_IMPORT) == trainers_of(either, base)


def test_path_that_the_variable_cannot_hold(bare, tmp_path):
    """A separator in our path would make nnU-Net search two folders that are not ours."""
    folder = tmp_path / f"a{os.pathsep}b"
    (folder / "trainers").mkdir(parents=True)
    for file in ("nnunetv2_salstm_autoload.py", "trainers/nnunetv2_salstm_trainers.py"):
        (folder / file).write_bytes((ROOT / file).read_bytes())
    code = f"import sys; sys.path[0] = {str(folder)!r}; import nnunetv2_salstm_autoload as a; a.register(); {PRINT}"
    assert bare.output(code, **{VARIABLE: "/users"}) == "/users"


def test_command_names_the_folder(either, base):
    command = either.python.with_name("nnUNetv2_salstm.exe" if os.name == "nt" else "nnUNetv2_salstm")
    result = subprocess.run([command, "trainers", "--path"], env=clean_variables(), capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [trainers_of(either, base)]


# nnU-Net takes ten seconds to import all of its own trainers first. By default the end-to-end test finds one.
@pytest.mark.nightly
@pytest.mark.parametrize("how", [[], ["--spawn"]], ids=["", "in a spawned worker"])
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_nnunet_finds_trainers(base, kind, how):
    right = [FULL_NAME, "nnUNetTrainerBDCLSTM"]
    wrong = [f"nnUNetTrainerSALSTM_A{suffix}" for suffix in ("_0epochs", "_its", "_seed", "_20its_2epochs")]
    wrong += ["nnUNetTrainerSALSTM", "nnUNetTrainerSALSTMOff_skips", "nnUNetTrainerBDCLSTM_seed"]
    found = look_up(installed(base, kind), *how, *right, *wrong)
    for name in right:
        assert found[name] == {"class": f"nnunetv2_salstm.trainers.{name}", **SOUND}
    for name in wrong:
        assert found[name]["error"].startswith(f"Could not find requested nnunet trainer {name} in")
        (said,) = found[name]["said"]
        assert "must be one of nnUNetTrainerSALSTM_A, " in said
        assert said.endswith(repr(name))


@pytest.mark.nightly
def test_environment_without_the_package_is_not_harmed(wheel, bare, base, tmp_path):
    """It may have inherited the variable from a parent process, and may see a folder of our name, such as a clone."""
    code = (
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\nclass Theirs(nnUNetTrainer): pass\n"
    )
    (tmp_path / "their_trainers.py").write_text(code, encoding="utf-8")
    (tmp_path / "nnunetv2_salstm" / "nnunetv2_salstm").mkdir(parents=True)
    inherited = os.pathsep.join([trainers_of(wheel, base), str(tmp_path)])
    found = look_up(bare, "Theirs", FULL_NAME, **{VARIABLE: inherited, "PYTHONPATH": str(tmp_path)})
    assert found["Theirs"]["class"] == "their_trainers.Theirs"
    assert found[FULL_NAME]["error"].startswith(f"Could not find requested nnunet trainer {FULL_NAME} in")
    assert found[FULL_NAME]["said"] == []


def test_foreign_names_import_nothing(wheel, base):
    """nnU-Net asks our module for every trainer that it has not found yet."""
    code = (
        f"import sys; sys.path.insert(0, {trainers_of(wheel, base)!r}); import nnunetv2_salstm_trainers as ours; "
        "print(hasattr(ours, 'nnUNetTrainerTheirs'), {'torch', 'nnunetv2_salstm'} & set(sys.modules))"
    )
    assert wheel.output(code) == "False set()"


def test_start_imports_nothing_else(either):
    print_modules = "import sys; print(*sys.modules)"
    with_hook = set(either.output(print_modules).split())
    with without_hook(either):
        without = set(either.output(print_modules).split())
    assert with_hook - without == {"nnunetv2_salstm_autoload"}


def without_hook(environment: Environment) -> contextlib.AbstractContextManager[None]:
    return replaced(environment.hook, None)


def start_time(environment: Environment) -> float:
    begin = time.perf_counter()
    environment.output("pass")
    return time.perf_counter() - begin


def added_start_time(environment: Environment) -> float:
    """Returns the difference of the medians of 20 interpreter starts with and without the hook, in turns."""
    with_hook, without = [], []
    for _ in range(20):
        with_hook.append(start_time(environment))
        with without_hook(environment):
            without.append(start_time(environment))
    return statistics.median(with_hook) - statistics.median(without)


def test_start_takes_no_time(either):
    # Another go if the machine was busy.
    assert any(added_start_time(either) < 0.005 for _ in range(2))


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("nnunetv2_salstm_autoload.py", "def"),
        ("nnunetv2_salstm_autoload.py", "raise RuntimeError"),
        ("nnunetv2_salstm_autoload.py", ""),
        ("nnunetv2_salstm_autoload.py", None),
        ("nnunetv2_salstm/__init__.py", "raise RuntimeError"),
        ("nnunetv2_salstm/_trainers", None),
        ("nnunetv2_salstm", None),
    ],
    ids=["syntax error", "raises", "empty", "missing", "package raises", "no trainers", "no package"],
)
def test_start_is_silent_when_broken(wheel, broken, text):
    with replaced(wheel.site_packages / broken, text):
        result = wheel.run("-c", "pass")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
