"""Which predictions are compared: files of all runs, paired with their references, and tables about the cases."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from nnunetv2_salstm.evaluation.runs import Run
from nnunetv2_salstm.evaluation.scoring import Case
from nnunetv2_salstm.host.datasets import case_files
from nnunetv2_salstm.host.errors import SalstmError, listed
from nnunetv2_salstm.host.files import read_table


def find_predictions(
    runs: Sequence[Run], references: Path, ending: str, common_only: bool
) -> tuple[list[Case], list[str]]:
    """Returns every prediction, and a sentence for each run that lacks cases which others have, and on references.

    Raises:
        SalstmError: naming the cases that some run lacks (unless only common ones are wanted), or have no reference.
    """
    reference_of = case_files(references, ending)
    found: dict[str, dict[str, Case]] = {}
    for run in runs:
        cases: dict[str, Case] = {}
        for fold, folder in run.predictions.items():
            for name, file in case_files(folder, ending).items():
                if name in cases:
                    raise SalstmError(
                        f"{run.name} has {name} in the folds {cases[name].fold} and {fold}; name folds that do not "
                        "overlap with -f"
                    )
                cases[name] = Case(name, reference_of.get(name, references / file.name), file, run.name, fold)
        if not cases:
            folders = run.predictions.values()
            others = {f"*{''.join(file.suffixes[-2:])}" for folder in folders for file in folder.glob("[!.]*.*")}
            raise SalstmError(
                f"{run.name} has no predictions (*{ending}, file_ending of dataset.json) in {listed(folders)}, which "
                f"have {listed(sorted(others)) or 'nothing'}"
            )
        found[run.name] = cases
    names = sorted({name for cases in found.values() for name in cases})
    missing = {run: [name for name in names if name not in cases] for run, cases in found.items()}
    common = [name for name in names if all(name in cases for cases in found.values())]
    if not common:
        raise SalstmError(
            "the runs have no case in common: "
            + "; ".join(f"{run} has for example {next(iter(cases))}" for run, cases in found.items())
        )
    lacking = [f"{run} lacks {listed(cases)}" for run, cases in missing.items() if cases]
    if lacking and not common_only:
        raise SalstmError(f"{'; '.join(lacking)}. To compare on the {len(common)} common cases, add --common-only")
    unknown = [name for name in common if name not in reference_of]
    if unknown:
        raise SalstmError(
            f"{references} has no reference for {listed(unknown)}; are these the predictions of another data set?"
        )
    folds = [{name: cases[name].fold for name in common} for cases in found.values()]
    if any(fold != folds[0] for fold in folds):
        lacking.append("The splits differ: cases are in other folds")
    # A fold is validated on its cases only, a folder of predictions is taken for all of a set.
    silent = [name for name in reference_of if name not in names]
    if silent and not any(run.folds for run in runs):
        lacking.insert(
            0, f"{len(silent)} of {len(reference_of)} references have no prediction and are left out: {listed(silent)}"
        )
    return [cases[name] for cases in found.values() for name in common], [f"{sentence}." for sentence in lacking]


def require_equal_splits(methods: Mapping[str, Sequence[Run]], cases: Iterable[Case]) -> None:
    """Checks that trainings of a method that differ in the seed validated the same cases, by which they are paired.

    Raises:
        SalstmError: naming two trainings and a case.
    """
    folds: dict[str, dict[str, int | str | None]] = {}
    for case in cases:
        folds.setdefault(case.run, {})[case.name] = case.fold
    for runs in methods.values():
        first, *others = (run.name for run in runs)
        for other in others:
            for name, fold in folds[first].items():
                if folds[other][name] != fold:
                    raise SalstmError(
                        f"{first} and {other} are one method, but were trained on other splits: {name} is in the folds "
                        f"{fold} and {folds[other][name]}; leave one of them out"
                    )


def read_case_table(file: Path, option: str, column: str | None, cases: Collection[str] = ()) -> dict[str, str]:
    """Returns a column of a CSV file by its column case.

    Args:
        file: with the column case.
        option: of the command line, for errors.
        column: which; None for the only one beside case.
        cases: that the file must name.

    Raises:
        SalstmError: if it cannot be read, lacks a column or a case, or has a case twice.
    """
    try:
        columns, rows = read_table(file)
    except (OSError, ValueError) as error:
        raise SalstmError(f"{option} {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    others = [name for name in columns if name != "case"]
    if column is None and len(others) != 1:
        raise SalstmError(f"{option} {file} has the columns {listed(columns)}; name the one that is meant after it")
    wanted = column or others[0]
    absent = [name for name in ("case", wanted) if name not in columns]
    if absent:
        raise SalstmError(f"{option} {file} must have the columns case and {wanted}, it lacks {listed(absent)}")
    counts = Counter(row["case"] for row in rows)
    if twice := [case for case, count in counts.items() if count > 1]:
        raise SalstmError(f"{option} {file} must name every case once, got twice: {listed(twice)}")
    found = {row["case"]: row[wanted] for row in rows}
    lacking = sorted(set(cases) - found.keys())
    if lacking:
        example = f"; it names for example {next(iter(found))}" if found else ""
        raise SalstmError(f"{option} {file} must name the {wanted} of every case, it lacks {listed(lacking)}{example}")
    empty = [case for case in (cases or found) if not found[case]]
    if empty:
        raise SalstmError(f"{option} {file} has no {wanted} for {listed(empty)}")
    return found


def read_published(file: Path, cases: Collection[str]) -> tuple[dict[str, float], str]:
    """Returns somebody else's Dice by case, and a sentence on the cases that are not there, "" if all are.

    Raises:
        SalstmError: if the file cannot be read, has no Dice between 0 and 1, or none of the cases.
    """
    texts = read_case_table(file, "--published", "dice")
    found: dict[str, float] = {}
    for case, text in texts.items():
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise SalstmError(f"--published {file}: dice must be a number from 0 to 1, got {text!r} for {case}")
        found[case] = value
    shared = [case for case in cases if case in found]
    if not shared:
        raise SalstmError(
            f"--published {file} names none of the cases, it has for example {next(iter(found), 'none')}, "
            f"these results {next(iter(cases))}"
        )
    lacking = [case for case in cases if case not in found]
    sentence = f"{file.name} lacks {listed(lacking)}: {len(shared)} of {len(list(cases))} cases are beside it."
    return {case: found[case] for case in shared}, sentence if lacking else ""
