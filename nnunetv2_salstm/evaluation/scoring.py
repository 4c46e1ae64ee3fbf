"""Scoring many cases: reading what is checked, several processes, and a cache of what was scored before."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from nnunetv2_salstm.evaluation.metrics import Labels, Scores, score
from nnunetv2_salstm.host.errors import BadFile
from nnunetv2_salstm.host.files import fingerprint, json_if_whole, write_text
from nnunetv2_salstm.host.geometry import in_place
from nnunetv2_salstm.host.label_maps import read_label_map, require_labels
from nnunetv2_salstm.host.processes import in_processes

# What is cached is another when the rules of scoring change.
RULES = 4


@dataclass(frozen=True)
class Case:
    """A prediction and its reference, both files.

    Attributes:
        name: nnU-Net's case identifier.
        reference, prediction: their files.
        run: name of the run that predicted it.
        fold: in whose validation it was predicted, None for a folder of the user's.
    """

    name: str
    reference: Path
    prediction: Path
    run: str
    fold: int | str | None = None


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    Attributes:
        labels: what is scored.
        tolerances: of the surface Dice by label, in mm; None where no surface metric is wanted.
        reader: name of the nnU-Net class that reads the files.
    """

    labels: Labels
    tolerances: dict[str, float] | None
    reader: str

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
        return score(values, reference.values, spacing, self.labels, self.tolerances)


def score_cases(
    cases: Sequence[Case], scoring: Scoring, processes: int, folder: Path
) -> tuple[dict[Case, dict[str, Scores]], dict[Case, str]]:
    """Returns the scores of all cases that can be scored, and of the others the reason, which names the file.

    What was scored before is taken from `folder`, whatever the files' names were then.
    """
    from tqdm import tqdm

    store = _Cache(folder, scoring)
    found: dict[Case, dict[str, Scores] | str] = {case: scores for case in cases if (scores := store.get(case))}
    waiting = [case for case in cases if case not in found]
    known = f", {len(found)} known" if found else ""
    with tqdm(total=len(waiting), unit="case", desc=f"scoring{known}", disable=not waiting) as bar:
        for case, result in in_processes(partial(_attempt, scoring), waiting, processes, _use_one_thread):
            found[case] = result
            if not isinstance(result, str):
                store.put(case, result)
            bar.update()
    if store.error:
        print(f"The scores could not be kept for the next time: {store.error}")
    # In the order of the cases, as several processes end in any.
    results = {case: found[case] for case in cases}
    failures = {case: result for case, result in results.items() if isinstance(result, str)}
    return {case: result for case, result in results.items() if not isinstance(result, str)}, failures


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _attempt(scoring: Scoring, case: Case) -> dict[str, Scores] | str:
    try:
        return scoring.read_and_score(case)
    except BadFile as error:
        return str(error)


class _Cache:
    """Scores by the contents of both files and the way of scoring, in a file each."""

    def __init__(self, folder: Path, scoring: Scoring):
        self.folder = folder
        self.way = json.dumps([RULES, asdict(scoring)], sort_keys=True)
        self.fingerprint = cache(fingerprint)
        self.error: OSError | None = None

    def get(self, case: Case) -> dict[str, Scores] | None:
        try:
            entry = json_if_whole(self._file(case))
        except OSError:
            return None  # scored anew
        return None if entry is None else {label: Scores(**values) for label, values in entry.items()}

    def put(self, case: Case, scores: Mapping[str, Scores]) -> None:
        try:
            write_text(self._file(case), json.dumps({label: asdict(values) for label, values in scores.items()}))
        except OSError as error:
            self.error = error

    def _file(self, case: Case) -> Path:
        files = (case.reference, case.prediction)
        # Where nnU-Net keeps the spacing of stacks of TIFFs.
        beside = (file.with_suffix(".json") for file in files)
        key = [self.way, *map(self.fingerprint, (*files, *filter(Path.is_file, beside)))]
        return self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"


def default_cache() -> Path:
    """Returns our folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnunetv2_salstm" / "compare"
