"""look for what keeps this installation from working, and say what to do

Versions, which nnU-Net is imported, whether it finds our trainers, its folders, and a training step of a small network
on each device, compiled where nnU-Net compiles. Changes nothing.
"""

import argparse
import json
from dataclasses import asdict

from nnunetv2_salstm.host.errors import SalstmError

FORMAT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the choice of the form."""
    parser.add_argument("--json", action="store_true", help="print the same for programs")


def run(arguments: argparse.Namespace) -> None:
    """Makes all checks and prints what they found.

    Raises:
        SalstmError: if something needs doing.
    """
    from nnunetv2_salstm.host.diagnosis import diagnose

    findings = []
    for finding in diagnose():
        findings.append(finding)
        if not arguments.json:
            # At once, as some checks take long.
            print(f"{finding.status:5}  {finding.subject}: {finding.text}", flush=True)
    todo = list(dict.fromkeys(finding.todo for finding in findings if finding.todo))
    if arguments.json:
        values = [asdict(finding) for finding in findings]
        print(json.dumps({"format": FORMAT, "all_good": not todo, "todo": todo, "findings": values}, indent=2))
    else:
        print()
        print("\n".join(f"{number}. {what}" for number, what in enumerate(todo, start=1)) or "all good")
    if todo:
        raise SalstmError(f"{len(todo)} {'thing needs' if len(todo) == 1 else 'things need'} doing, as listed")
