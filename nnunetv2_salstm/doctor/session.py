"""Making all checks, whatever becomes of one of them, and printing what they found."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict

from nnunetv2_salstm.doctor.compiling import check_compile
from nnunetv2_salstm.doctor.copies import check_commands, check_nnunet_copy, check_own_copy
from nnunetv2_salstm.doctor.devices import check_devices
from nnunetv2_salstm.doctor.finding import Finding, wrong
from nnunetv2_salstm.doctor.folders import check_folders
from nnunetv2_salstm.doctor.machine import Machine
from nnunetv2_salstm.doctor.trainers import ExternalTrainers, variables_at_start
from nnunetv2_salstm.doctor.versions import check_cuda, check_packages, check_python
from nnunetv2_salstm.host.errors import SalstmError

FORMAT = 1
Check = Callable[[Machine], Iterable[Finding]]


def run_doctor(arguments: argparse.Namespace) -> None:
    """Makes all checks and prints what they found.

    Raises:
        SalstmError: if something needs doing.
    """
    findings = []
    for finding in find_all(all_checks()):
        findings.append(finding)
        if not arguments.json:
            # At once, as some checks take long.
            print(f"{finding.status.value:5}  {finding.subject}: {finding.text}", flush=True)
    todo = todo_list(findings)
    if arguments.json:
        values = [asdict(finding) | {"status": finding.status.value} for finding in findings]
        print(json.dumps({"format": FORMAT, "all_good": not todo, "todo": todo, "findings": values}, indent=2))
    else:
        print()
        print("\n".join(f"{number}. {what}" for number, what in enumerate(todo, start=1)) or "all good")
    if todo:
        raise SalstmError(f"{len(todo)} {'thing needs' if len(todo) == 1 else 'things need'} doing, as listed")


def all_checks() -> list[Check]:
    """Returns the checks in the order of the report."""
    external = ExternalTrainers(variables_at_start())
    return [
        check_python,
        check_packages,
        check_cuda,
        check_nnunet_copy,
        check_own_copy,
        check_commands,
        external.check_external_folders,
        external.check_external_modules,
        external.check_trainers,
        check_folders,
        check_compile,
        check_devices,
    ]


def find_all(checks: Sequence[Check]) -> Iterator[Finding]:
    """Makes the checks; one that fails itself is a finding, and the others go on."""
    machine = Machine()
    for check in checks:
        try:
            yield from check(machine)
        except Exception as error:
            text = f"the check itself failed, with {type(error).__name__}: {error}"
            yield wrong(
                check.__name__, text, f"report that {check.__name__} failed with {type(error).__name__}: {error}"
            )


def todo_list(findings: Iterable[Finding]) -> list[str]:
    """Returns what is to be done, each thing once."""
    return list(dict.fromkeys(finding.todo for finding in findings if finding.todo))
