"""Runs a conversion from the command line's arguments: finds the cases, converts them, writes the summary."""

import argparse
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from nnunetv2_salstm.commands.convert import DATASET_IDS
from nnunetv2_salstm.converters import acdc, cvc_clinicdb, isic2018, synapse
from nnunetv2_salstm.converters.case import Case, Collection
from nnunetv2_salstm.converters.dataset import MADE_BY, Target, files_of
from nnunetv2_salstm.converters.splits import split
from nnunetv2_salstm.converters.summary import Facts, summarise
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.images import BadFile

FINDERS = {"acdc": acdc.find, "isic2018": isic2018.find, "cvc-clinicdb": cvc_clinicdb.find, "synapse": synapse.find}
DEFAULT_PROCESSES = 8


def run_convert(arguments: argparse.Namespace) -> None:
    """Converts, and prints a summary.

    Raises:
        SalstmError: for a folder that is not the data set, bad cases, a dataset that is already there, or a full disk.
    """
    if not arguments.folder.is_dir():
        raise SalstmError(f"-i {arguments.folder} must be the data set's folder, and there is no such folder")
    collection = FINDERS[arguments.data](arguments)
    number = arguments.dataset_id or DATASET_IDS[arguments.data][collection.neighbours]
    target = Target.of(number, collection.name + "_25d" * collection.neighbours)
    settings = {
        "converted_by": f"{MADE_BY} {version('nnunetv2-salstm')}",
        "source": str(arguments.folder.resolve()),
        "data": arguments.data,
        **collection.options,
    }
    target.require_free(arguments.folder, settings, arguments.overwrite)
    if collection.problems and not (arguments.skip_bad or arguments.dry_run):
        raise _refused(collection.problems)
    if not _training(collection.cases):
        raise _nothing_left(arguments.folder, collection.problems)
    if not (arguments.skip_bad or collection.problems):
        # Before the long work; with cases to leave out it is not known yet which there will be.
        target.require_splits(split(_training(collection.cases)), arguments.overwrite)

    with _explained():
        if not arguments.dry_run:
            target.claim(settings)
        work = _Work(None if arguments.dry_run else target, collection.file_ending, len(collection.labels))
        facts, problems = _convert(collection, work, arguments)
        cases = [case for case in collection.cases if case.name in facts]
        if problems and not arguments.skip_bad:
            raise _refused(problems)
        if not _training(cases):
            raise _nothing_left(arguments.folder, problems)
        splits = split(_training(cases))
        target.require_splits(splits, arguments.overwrite)
        if not arguments.dry_run:
            files = {file for case in cases for file in facts[case.name].files}
            target.finish(collection, files, len(_training(cases)), splits)
    print(f"{target.folder.name}\n{summarise(collection, facts, problems, splits)}")
    if arguments.dry_run:
        print("Dry run: nothing was written.")
    else:
        print(f"Written: {target.folder}\nNext: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity")


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


def _convert(collection: Collection, work: _Work, arguments: argparse.Namespace) -> tuple[dict[str, Facts], list[str]]:
    """Returns the facts of the converted cases, by name, and all problems; stops at the first unless told otherwise."""
    from tqdm import tqdm

    facts: dict[str, Facts] = {}
    bad: dict[str, str] = {}
    processes = arguments.processes or min(DEFAULT_PROCESSES, os.cpu_count() or 1)
    results = _results(collection.cases, work, processes)
    verb = "checking" if arguments.dry_run else "converting"
    try:
        with tqdm(total=len(collection.cases), unit="case", desc=verb) as bar:
            for case, result in results:
                bar.update()
                if isinstance(result, Facts):
                    facts[case.name] = result
                    continue
                bad[case.name] = result
                if not (arguments.skip_bad or arguments.dry_run):
                    break
    except BrokenProcessPool:
        raise SalstmError(
            f"a process that converted cases was killed, most likely for lack of memory; try fewer than {processes} "
            "with -np. Finished cases are kept."
        ) from None
    finally:
        results.close()
    return facts, [*collection.problems, *(bad[name] for name in sorted(bad))]


def _results(cases: Sequence[Case], work: _Work, processes: int) -> Generator[tuple[Case, Facts | str], None, None]:
    """Yields each case with what became of it, in the order in which they end; what is being written is finished."""
    if processes == 1 or len(cases) < 2:
        for case in cases:
            yield case, work(case)
        return
    # Not forked, as SimpleITK has threads.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(cases)), mp_context=spawn, initializer=_end_with_parent) as pool:
        # Ctrl-C reaches all processes of a terminal; ours are ended by this one. They inherit what is ignored.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            futures = {pool.submit(work, case): case for case in cases}
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Ends this worker when the process that started it is killed; it would wait for work forever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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
