"""Scoring many cases: reading, checking geometry, several processes, and a cache of what was scored before."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_salstm.evaluation.metrics import Labels, Scores, score
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole

# What is cached is another when the rules of scoring change.
RULES = 2


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
            ValueError: if prediction and reference differ in geometry, or the prediction has a foreign label.
            Exception: whatever the reader raises on a file that it cannot read.
        """
        from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

        reader = recursive_find_reader_writer_by_name(self.reader)()
        reference, theirs = reader.read_seg(str(case.reference))
        prediction, ours = reader.read_seg(str(case.prediction))
        _require_same_geometry(ours, theirs)
        spacing = tuple(float(edge) for edge in theirs["spacing"])
        return score(
            prediction[0].astype(int), reference[0].astype(int), spacing, self.labels, self.tolerances, self.surface
        )


@dataclass(frozen=True)
class Failure:
    """Why a case could not be scored."""

    case: Case
    reason: str

    def __str__(self) -> str:
        return f"{self.case.prediction}: {self.reason}"


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
    # Readers raise whatever their libraries do: any of it means that this case cannot be scored, and is reported so.
    try:
        return scoring.read_and_score(case)
    except Exception as error:
        return " ".join(str(error).split())[:300] or type(error).__name__


def _require_same_geometry(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str = "") -> None:
    """Compares what a reader says about two images, e.g. spacing, origin, direction or affine.

    Raises:
        ValueError: naming the first that differs.
    """
    for key, value in theirs.items():
        other = ours.get(key)
        if isinstance(value, Mapping):
            _require_same_geometry(other or {}, value, f"{key}.")
            continue
        try:
            numbers = np.asarray(value, float), np.asarray(other, float)
        except (TypeError, ValueError):
            continue  # not a matter of geometry
        if numbers[0].shape != numbers[1].shape or not np.allclose(*numbers, rtol=1e-4, atol=1e-3):
            raise ValueError(f"{name}{key} of the prediction is {other}, of its reference {value}")


class _Cache:
    """Scores of earlier runs: one file for each way of scoring and folder of predictions."""

    def __init__(self, folder: Path, scoring: Scoring):
        self.folder = folder
        self.way = json.dumps([RULES, asdict(scoring)], sort_keys=True)
        self.files: dict[Path, dict[str, Any]] = {}
        self.changed: set[Path] = set()

    def get(self, case: Case) -> dict[str, Scores] | None:
        """Returns the scores of a case, None if it was not scored or a file has changed."""
        entry = self._entries(case).get(case.name)
        if entry is None or entry["files"] != _fingerprint(case):
            return None
        return {label: Scores(**values) for label, values in entry["scores"].items()}

    def put(self, case: Case, scores: Mapping[str, Scores]) -> None:
        """Remembers the scores of a case."""
        self._entries(case)[case.name] = {
            "files": _fingerprint(case),
            "scores": {label: asdict(values) for label, values in scores.items()},
        }
        self.changed.add(self._file(case))

    def save(self) -> None:
        """Writes what is new; says so where the folder cannot be written."""
        try:
            for file in sorted(self.changed):
                with written_whole(file) as unfinished:
                    unfinished.write_text(json.dumps(self.files[file]))
        except OSError as error:
            print(f"The scores could not be kept for the next time: {error}")
        self.changed.clear()

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


def _fingerprint(case: Case) -> list[list[Any]]:
    found: list[list[Any]] = []
    for file in (case.reference, case.prediction):
        try:
            status = file.stat()
        except OSError:
            found.append([file.name])
        else:
            found.append([file.name, status.st_size, status.st_mtime_ns])
    return found


def default_cache() -> Path:
    """Returns our folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnunetv2_salstm" / "compare"
