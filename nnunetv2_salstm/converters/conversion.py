"""Converting the cases of a collection, in several processes, so that it can be gone on with after any interruption."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from nnunetv2_salstm.converters import acdc, cvc_clinicdb, isic2018, synapse
from nnunetv2_salstm.converters.case import Case, Collection
from nnunetv2_salstm.converters.dataset import MADE_BY, Target, files_of
from nnunetv2_salstm.converters.splits import split
from nnunetv2_salstm.converters.summary import Facts, Summary, summarise
from nnunetv2_salstm.host.errors import BadFile, SalstmError
from nnunetv2_salstm.host.processes import default_processes, in_processes

# What finds the cases in the official folder of each data set.
FINDERS: dict[str, Callable[..., Collection]] = {
    "acdc": acdc.find,
    "isic2018": isic2018.find,
    "cvc-clinicdb": cvc_clinicdb.find,
    "synapse": synapse.find,
}


def convert(
    collection: Collection,
    source: Path,
    target: Target,
    overwrite: bool = False,
    dry_run: bool = False,
    skip_bad: bool = False,
    processes: int | None = None,
) -> Summary:
    """Checks all cases of a collection, writes them as nnU-Net's raw dataset, and returns a summary.

    Args:
        collection: what was found.
        source: the folder that it was found in.
        target: where to write.
        overwrite: replace what an earlier conversion wrote.
        dry_run: write nothing.
        skip_bad: leave bad cases out.
        processes: that convert; None for one a core, at most 8.

    Raises:
        SalstmError: for bad cases, a dataset that is already there, or a full disk.
    """
    settings = {
        "converted_by": f"{MADE_BY} {version('nnunetv2-salstm')}",
        "source": str(source.resolve()),
        **collection.options,
    }
    target.require_free(source, settings, overwrite)
    if collection.problems and not (skip_bad or dry_run):
        raise _refused(collection.problems)
    if not _training(collection.cases):
        raise _nothing_left(source, collection.problems)
    if not (skip_bad or collection.problems):
        # Before the long work; with cases to leave out it is not known yet which there will be.
        target.require_splits(split(_training(collection.cases)), overwrite)

    with _explained():
        if not dry_run:
            target.claim(settings)
        work = _Work(None if dry_run else target, collection.file_ending, len(collection.labels))
        go_on = skip_bad or dry_run
        facts, problems = _convert(collection, work, go_on, processes or default_processes())
        cases = [case for case in collection.cases if case.name in facts]
        if problems and not skip_bad:
            raise _refused(problems)
        if not _training(cases):
            raise _nothing_left(source, problems)
        splits = split(_training(cases))
        target.require_splits(splits, overwrite)
        if not dry_run:
            files = {file for case in cases for file in facts[case.name].files}
            target.finish(collection, files, len(_training(cases)), splits)
    return summarise(collection, facts, problems, splits)


@dataclass(frozen=True)
class _Work:
    """What is done with each case: it is read and checked and, unless there is no target, written."""

    target: Target | None
    ending: str
    labels: int

    def __call__(self, case: Case) -> Facts | str:
        """Returns the case's facts, or why it is bad."""
        try:
            content = case.read()
        except BadFile as error:
            return str(error)
        files = files_of(case, content, self.ending)
        if self.target is not None:
            self.target.write_case(files, content.geometry)
        return Facts.of(content, self.labels, files)


def _convert(collection: Collection, work: _Work, go_on: bool, processes: int) -> tuple[dict[str, Facts], list[str]]:
    """Returns the facts of the converted cases, by name, and all problems; stops at the first unless it is to go on."""
    from tqdm import tqdm

    facts: dict[str, Facts] = {}
    bad: dict[str, str] = {}
    results = in_processes(work, collection.cases, processes)
    verb = "checking" if work.target is None else "converting"
    try:
        with tqdm(total=len(collection.cases), unit="case", desc=verb) as bar:
            for case, result in results:
                bar.update()
                if isinstance(result, Facts):
                    facts[case.name] = result
                    continue
                bad[case.name] = result
                if not go_on:
                    break
    finally:
        results.close()
    return facts, [*collection.problems, *(bad[name] for name in sorted(bad))]


def _training(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if not case.test]


def _refused(problems: Sequence[str]) -> SalstmError:
    ways_out = "mend it, or leave such cases out with --skip-bad"
    if len(problems) == 1:
        return SalstmError(f"{problems[0]}; {ways_out}")
    lines = "".join(f"\n  {problem}" for problem in problems)
    return SalstmError(f"{len(problems)} problems; {ways_out}:{lines}")


def _nothing_left(folder: Path, problems: Sequence[str]) -> SalstmError:
    reasons = "".join(f"\n  {problem}" for problem in problems) or " nothing in it was recognised"
    return SalstmError(f"-i {folder} has no training case that can be converted:{reasons}")


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what writing fails with into a SalstmError; what fails in reading is a BadFile before it gets here."""
    try:
        yield
    except OSError as error:
        raise SalstmError(
            f"cannot write: {error}; free some room, or mend the permissions, and run the same command again. "
            "Finished cases are kept."
        ) from error
