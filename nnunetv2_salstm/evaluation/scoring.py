"""Scoring many cases: reading what is checked, several processes, and a cache of what was scored before."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nnunetv2_salstm.evaluation.metrics import Labels, Scores, score
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import atomic_write, fingerprint
from nnunetv2_salstm.host.images import BadFile, in_place, read_label_map, require_labels

# What is cached is another when the rules of scoring change.
RULES = 3


@dataclass(frozen=True)
class Case:
    """A prediction and its reference, both files; the name is nnU-Net's case identifier."""

    name: str
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    Attributes:
        labels: what is scored.
        tolerances: of the surface Dice by label, in mm.
        reader: name of the nnU-Net class that reads the files.
        surface: whether surface metrics are wanted.
    """

    labels: Labels
    tolerances: dict[str, float]
    reader: str
    surface: bool = True

    def read_and_score(self, case: Case) -> dict[str, Scores]:
        """Returns the scores of a case.

        Raises:
            BadFile: if a file cannot be read, has a value that is no label, or they are not at the same place.
        """
        reference, prediction = (read_label_map(file, self.reader) for file in (case.reference, case.prediction))
        for volume, file in ((reference, case.reference), (prediction, case.prediction)):
            require_labels(volume.values, self.labels.known(), file)
        values = in_place(prediction, reference, case.prediction, ("prediction", "reference"))
        spacing = reference.geometry.spacing[::-1]
        return score(values, reference.values, spacing, self.labels, self.tolerances, self.surface)


@dataclass(frozen=True)
class Failure:
    """Why a case could not be scored; names the file."""

    case: Case
    reason: str

    def __str__(self) -> str:
        return self.reason


def score_cases(
    cases: Sequence[Case], scoring: Scoring, processes: int, cache: Path
) -> tuple[dict[Case, dict[str, Scores]], list[Failure]]:
    """Returns the scores of all cases that can be scored, and the failures.

    Cases whose files have not changed since they were scored are taken from the folder `cache`. What is finished when
    the user interrupts is kept there.
    """
    from tqdm import tqdm

    store = _Cache(cache, scoring)
    scores = {case: found for case in cases if (found := store.get(case)) is not None}
    failures = []
    waiting = [case for case in cases if case not in scores]
    known = f", {len(scores)} known" if scores else ""
    with tqdm(total=len(waiting), unit="case", desc=f"scoring{known}", disable=not waiting) as bar:
        try:
            for case, result in _results(waiting, scoring, processes):
                if isinstance(result, str):
                    failures.append(Failure(case, result))
                else:
                    scores[case] = result
                    store.put(case, result)
                bar.update()
        finally:
            store.save()
    order = {case: place for place, case in enumerate(cases)}
    return {case: scores[case] for case in cases if case in scores}, sorted(failures, key=lambda f: order[f.case])


def _results(cases: Sequence[Case], scoring: Scoring, processes: int) -> Iterable[tuple[Case, dict[str, Scores] | str]]:
    """Yields each case with its scores, or with the reason why there are none, in the order in which they end."""
    if processes == 1 or len(cases) < 2:
        for case in cases:
            yield case, _attempt(case, scoring)
        return
    # Not forked: torch's threads do not survive that.
    with ProcessPoolExecutor(
        min(processes, len(cases)), mp_context=get_context("spawn"), initializer=_use_one_thread
    ) as pool:
        try:
            futures = {pool.submit(_attempt, case, scoring): case for case in cases}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise SalstmError(
                f"a process that scored cases was killed, most likely for lack of memory; try fewer than "
                f"{processes} with --processes. What was scored is kept."
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _attempt(case: Case, scoring: Scoring) -> dict[str, Scores] | str:
    try:
        return scoring.read_and_score(case)
    except BadFile as error:
        return str(error)


class _Cache:
    """Scores of earlier runs: one file for each way of scoring and folder of predictions."""

    def __init__(self, folder: Path, scoring: Scoring):
        self.folder = folder
        self.way = json.dumps([RULES, asdict(scoring)], sort_keys=True)
        self.files: dict[Path, dict[str, Any]] = {}
        self.changed: set[Path] = set()
        self.fingerprints: dict[Path, str] = {}

    def get(self, case: Case) -> dict[str, Scores] | None:
        """Returns the scores of a case, None if it was not scored or a file has changed."""
        entry = self._entries(case).get(case.name)
        if entry is None or entry["files"] != self._fingerprints(case):
            return None
        return {label: Scores(**values) for label, values in entry["scores"].items()}

    def put(self, case: Case, scores: Mapping[str, Scores]) -> None:
        """Remembers the scores of a case."""
        self._entries(case)[case.name] = {
            "files": self._fingerprints(case),
            "scores": {label: asdict(values) for label, values in scores.items()},
        }
        self.changed.add(self._file(case))

    def save(self) -> None:
        """Writes what is new; says so where the folder cannot be written."""
        try:
            for file in sorted(self.changed):
                with atomic_write(file) as unfinished:
                    unfinished.write_text(json.dumps(self.files[file]))
        except OSError as error:
            print(f"The scores could not be kept for the next time: {error}")
        self.changed.clear()

    def _fingerprints(self, case: Case) -> list[str | None]:
        for file in {case.reference, case.prediction} - self.fingerprints.keys():
            # One that cannot be read is not scored either, and its reason is said then.
            with suppress(OSError):
                self.fingerprints[file] = fingerprint(file)
        return [self.fingerprints.get(file) for file in (case.reference, case.prediction)]

    def _file(self, case: Case) -> Path:
        folders = [str(case.reference.parent.resolve()), str(case.prediction.parent.resolve())]
        return self.folder / f"{hashlib.sha256(json.dumps([self.way, *folders]).encode()).hexdigest()[:32]}.json"

    def _entries(self, case: Case) -> dict[str, Any]:
        file = self._file(case)
        if file not in self.files:
            try:
                self.files[file] = json.loads(file.read_text())
            except (OSError, ValueError):
                self.files[file] = {}  # none yet, or unreadable: scored anew and written anew
        return self.files[file]


def default_cache() -> Path:
    """Returns our folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnunetv2_salstm" / "compare"
