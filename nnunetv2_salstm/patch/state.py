"""Where a patch stands in an installation, by the exact contents of the files."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from nnunetv2_salstm.patch.patches import Patch
from nnunetv2_salstm.patch.unified_diff import FileChange, HunkMismatch, blob_name


class State(Enum):
    """Where a patch stands; the value is how it is printed."""

    APPLIED = "applied"
    CAN_BE_APPLIED = "can be applied"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True)
class PatchState:
    """Where one patch stands.

    Attributes:
        patch: the patch.
        state: where it stands; CAN_BE_APPLIED also if an interruption left some of its files applied.
        reason: file and hunk that do not fit, else empty.
    """

    patch: Patch
    state: State
    reason: str = ""


def find_state(patch: Patch, root: Path) -> PatchState:
    """Compares the files below `root`, which holds the package nnunetv2, with the release's and the patched ones."""
    all_applied = True
    for change in patch.changes:
        file = root / change.path
        if not file.is_file():
            return PatchState(patch, State.DOES_NOT_FIT, f"{change.path} is missing")
        content = file.read_bytes()
        name = blob_name(content)
        if name not in (change.before, change.after):
            return PatchState(patch, State.DOES_NOT_FIT, f"{change.path}: {_difference(change, content)}")
        all_applied = all_applied and name == change.after
    return PatchState(patch, State.APPLIED if all_applied else State.CAN_BE_APPLIED)


def _difference(change: FileChange, content: bytes) -> str:
    """Says why contents are neither the release's nor the patched ones."""
    try:
        change.apply(content)
    except HunkMismatch as mismatch:
        return str(mismatch)
    return f"not the release's file, although all hunks match (git's name {blob_name(content)}, not {change.before})"
