"""Whether nnU-Net's commands find our trainers, and what keeps them from it."""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nnunetv2_salstm
from nnunetv2_salstm.doctor.child import Answer, run_program
from nnunetv2_salstm.doctor.finding import Finding, not_applicable, note, ok, wrong
from nnunetv2_salstm.doctor.machine import Machine
from nnunetv2_salstm.patch.patches import patches_for
from nnunetv2_salstm_autoload import trainers_folder

VARIABLE = "nnUNet_extTrainer"
OFF_SWITCH = "NNUNETV2_SALSTM_NO_AUTOLOAD"
TRAINERS = (
    "nnUNetTrainerSALSTM_A",
    "nnUNetTrainerSALSTM_B",
    "nnUNetTrainerSALSTM_A_25d",
    "nnUNetTrainerBDCLSTM",
    "nnUNetTrainerSALSTMConvControl",
    "nnUNetTrainerSALSTMOff",
)
_EXPORT = f'export {VARIABLE}="$(nnUNetv2_salstm trainers --path)"'


def variables_at_start(file: Path = Path("/proc/self/environ")) -> dict[str, str]:
    """Returns the variables that this process was started with: importing this package adds to nnUNet_extTrainer.

    Args:
        file: where Linux keeps them. Elsewhere the present ones are taken, without our folder in nnUNet_extTrainer.
    """
    present = dict(os.environ)
    if file.is_file():
        pairs = (os.fsdecode(pair).partition("=") for pair in file.read_bytes().split(b"\0") if pair)
        value = {name: value for name, _, value in pairs}.get(VARIABLE, "")
    else:
        entries = present.get(VARIABLE, "").split(os.pathsep)
        value = os.pathsep.join(entry for entry in entries if entry != trainers_folder())
    return present | {VARIABLE: value}


class ExternalTrainers:
    """What nnU-Net's commands see in nnUNet_extTrainer, and what they find there.

    Args:
        variables: of the environment that they are started in.
    """

    def __init__(self, variables: Mapping[str, str]):
        self.variables = variables

    @cached_property
    def seen(self) -> Answer:
        """The variable, after Python's start-up has added to it, and its entries, as far as the imports came."""
        return run_program("import_external_trainers", environment=self.variables)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The folders in their order: "entry", "exists", "ours" and "failures"."""
        return [event for event in self.seen.events if "entry" in event]

    def check_external_folders(self, machine: Machine) -> Iterator[Finding]:
        """Our folder must be among the entries."""
        value = self.seen.events[0]["variable"] if self.seen.events else ""
        folders = [entry for entry in value.split(os.pathsep) if entry.strip()]
        ours = trainers_folder()
        if ours in folders:
            off = f", although {OFF_SWITCH}=1" if self.variables.get(OFF_SWITCH) == "1" else ""
            yield ok(VARIABLE, f"{value} (ours is number {folders.index(ours) + 1} of {len(folders)}{off})")
        else:
            yield wrong(
                VARIABLE, f"{value or 'empty'}: the folder of our trainers is missing, {self._why()}", self._todo()
            )
        for entry in self.entries:
            if not entry["exists"]:
                yield note(VARIABLE, f"{entry['entry']} does not exist, and nnU-Net passes it over")

    def check_external_modules(self, machine: Machine) -> Iterator[Finding]:
        """Every module in the user's own folders must be importable: nnU-Net imports all until it finds a trainer."""
        subject = "your own trainers"
        own = [entry for entry in self.entries if not entry["ours"] and entry["exists"]]
        if self.seen.failure:
            text = f"importing the modules in {VARIABLE} fails: {self.seen.failure}"
            yield wrong(subject, text, f"find the module that ends Python, in the folders of {VARIABLE}")
        elif not own:
            yield not_applicable(subject, f"{VARIABLE} has no folders but ours")
        before_ours = True
        for entry in self.entries:
            before_ours = before_ours and not entry["ours"]
            for failure in entry["failures"]:
                text = f"{failure['file']} cannot be imported: {failure['error']}"
                if before_ours:
                    yield wrong(subject, f"{text}; nnU-Net stops there and never comes to ours", _mend(failure))
                else:
                    yield note(subject, f"{text}; it comes after ours and does not hide them")
            if entry in own and not entry["failures"]:
                yield ok(subject, entry["entry"])

    def check_trainers(self, machine: Machine) -> Iterator[Finding]:
        """nnU-Net's own search must find our trainers, in our file."""
        subject = "trainers"
        answer = run_program("look_up_trainers", *TRAINERS, environment=self.variables)
        if any("too_old" in event for event in answer.events):
            installed = version("nnunetv2")
            text = f"nnU-Net {installed} cannot find trainers of other packages, only networks that plans name"
            patch = " or: nnUNetv2_salstm patch --apply;" if patches_for(installed) else ""
            todo = f"run: pip install --upgrade nnunetv2;{patch} or take the plans route (docs/reference.md)"
            yield wrong(subject, text, todo)
            return
        if answer.failure:
            todo = "mend what keeps nnunetv2 from being imported"
            yield wrong(subject, f"nnU-Net's search fails: {answer.failure}", todo)
        our_file = Path(nnunetv2_salstm.__file__).parent / "trainers.py"
        found = [event["trainer"] for event in answer.events if _is_file(event.get("file"), our_file)]
        if found:
            yield ok(subject, f"nnU-Net finds {', '.join(found)} in {our_file}")
        missing = [event for event in answer.events if "error" in event]
        if missing:
            text = f"nnU-Net does not find {', '.join(event['trainer'] for event in missing)}: {missing[0]['error']}"
            yield wrong(subject, text, self._todo_for_missing(machine))
        for event in answer.events:
            if "file" in event and event["trainer"] not in found:
                todo = f"rename the class in {event['file']}, or take its folder out of {VARIABLE}"
                yield wrong(subject, f"{event['trainer']} comes from {event['file']}, which hides ours", todo)

    def _todo_for_missing(self, machine: Machine) -> str:
        """Returns the first cause that the other checks have found, as they word it."""
        for finding in (*self.check_external_folders(machine), *self.check_external_modules(machine)):
            if finding.todo:
                return finding.todo
        return "run: pip install --force-reinstall --no-deps nnunetv2 nnunetv2-salstm"

    def _why(self) -> str:
        if trainers_folder() is None:
            return "and the installation lacks it"
        if self.variables.get(OFF_SWITCH) == "1":
            return f"as {OFF_SWITCH}=1 keeps Python's start-up from adding it"
        return "as Python's start-up does not add it here"

    def _todo(self) -> str:
        if trainers_folder() is None:
            return "run: pip install --force-reinstall nnunetv2-salstm"
        if self.variables.get(OFF_SWITCH) == "1":
            return f"unset {OFF_SWITCH}, or: {_EXPORT}"
        return f"run: pip install --force-reinstall --no-deps nnunetv2-salstm; or: {_EXPORT}"


def _mend(failure: Mapping[str, str]) -> str:
    return f"mend {failure['file']}, or take its folder out of {VARIABLE}"


def _is_file(name: str | None, file: Path) -> bool:
    return name is not None and Path(name).resolve() == file.resolve()
