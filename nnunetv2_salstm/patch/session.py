"""Applying patches to the installed nnU-Net and undoing it."""

import argparse
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.host.files import written_whole
from nnunetv2_salstm.patch.patches import Patch, patches_for
from nnunetv2_salstm.patch.state import PatchState, State, find_state
from nnunetv2_salstm.patch.unified_diff import FileChange, blob_name


def run_patch(arguments: argparse.Namespace) -> None:
    """Does what the arguments of `nnUNetv2_salstm patch` ask for.

    Raises:
        SalstmError: if nnU-Net is not there, a patch does not fit its files, or they cannot be written.
    """
    root, installed = find_nnunet()
    print(f"nnU-Net {installed} in {root}")
    patches = patches_for(installed)
    if arguments.only:
        patches = _choose(patches, arguments.only, installed)
    if not patches:
        print("No patch is made for this version: nothing is needed.")
        return
    states = [find_state(patch, root) for patch in patches]
    misfits = [state for state in states if state.state is State.DOES_NOT_FIT]
    if arguments.action != "check" and not misfits:
        changes = [change for patch in patches for change in patch.changes]
        write_changes([change.reversed() for change in changes] if arguments.action == "revert" else changes, root)
        states = [find_state(patch, root) for patch in patches]
    _print_states(states)
    if misfits:
        raise SalstmError(
            f"{', '.join(misfit.patch.name for misfit in misfits)} must find the files of nnU-Net {installed} as they "
            f"were published; nothing was changed. Restore them with: pip install --force-reinstall --no-deps "
            f"nnunetv2=={installed}; or name other patches with --only"
        )


def find_nnunet() -> tuple[Path, str]:
    """Returns the folder that holds the package nnunetv2 that Python would import, and the version that is installed.

    Raises:
        SalstmError: if it is not installed.
    """
    spec = find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        raise SalstmError("nnU-Net is not installed here; run: pip install nnunetv2")
    try:
        return Path(spec.origin).parents[1], version("nnunetv2")
    except PackageNotFoundError:
        raise SalstmError(
            f"{Path(spec.origin).parent} belongs to no installed nnU-Net, so that its version is unknown; see: "
            "nnUNetv2_salstm doctor"
        ) from None


def write_changes(changes: Sequence[FileChange], root: Path) -> None:
    """Makes those of the changes that are not made yet; no file is replaced before all new ones are written.

    Args:
        changes: the files below root are as before or as after each of them.
        root: the folder that holds the package nnunetv2.

    Raises:
        SalstmError: if files cannot be written.
    """
    try:
        with ExitStack() as stack:
            for change in changes:
                file = root / change.path
                content = file.read_bytes()
                if blob_name(content) == change.after:
                    continue
                # Beside and moved, never in place: some installers link the files of all environments to one copy.
                unfinished = stack.enter_context(written_whole(file))
                changed = change.apply(content)
                if blob_name(changed) != change.after:
                    raise ValueError(f"the diff of {change.path} does not make the file that it names")
                unfinished.write_bytes(changed)
                shutil.copymode(file, unfinished)
                # Byte code that Python was told never to compare with its source would hide the change.
                for byte_code in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
                    byte_code.unlink()
    except OSError as error:
        raise SalstmError(
            f"cannot write {error.filename}: {error.strerror}; run this as the owner of that folder, or install "
            "nnU-Net in an environment of your own"
        ) from error


def _choose(patches: Sequence[Patch], names: Sequence[str], installed: str) -> list[Patch]:
    wanted = [name.removesuffix(".patch") for name in names]
    known = {patch.name for patch in patches} | {patch.number for patch in patches}
    for name in wanted:
        if name not in known:
            there = ", ".join(patch.name for patch in patches) or "none"
            raise SalstmError(f"--only must name patches for nnU-Net {installed} ({there}), got {name}")
    return [patch for patch in patches if patch.name in wanted or patch.number in wanted]


def _print_states(states: Sequence[PatchState]) -> None:
    width = max(len(state.patch.name) for state in states)
    state_width = max(len(state.value) for state in State)
    for state in states:
        print(f"{state.patch.name:{width}}  {state.state.value:{state_width}}  {state.reason or state.patch.purpose}")
