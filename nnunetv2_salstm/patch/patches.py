"""The patches that come with this package."""

import re
from dataclasses import dataclass
from pathlib import Path

import nnunetv2_salstm
from nnunetv2_salstm.host.errors import SalstmError
from nnunetv2_salstm.patch.unified_diff import FileChange, parse

_FIRST_LINE = re.compile(r"nnU-Net (\d+\.\d+\.\d+): (.+)")


@dataclass(frozen=True)
class Patch:
    """A file of the folder `patches`.

    Attributes:
        name: e.g. "0001-acdc-converter-path".
        version: of nnU-Net, the only one that it is made for.
        purpose: what it mends.
        changes: to nnU-Net's files.
    """

    name: str
    version: str
    purpose: str
    changes: tuple[FileChange, ...]

    @classmethod
    def read(cls, file: Path) -> "Patch":
        """Reads a patch.

        Raises:
            ValueError: if its first line does not say version and purpose, or the rest is no diff.
        """
        content = file.read_bytes()
        first_line = content.partition(b"\n")[0].decode()
        match = _FIRST_LINE.fullmatch(first_line)
        if match is None:
            raise ValueError(f"the first line of {file} must be like 'nnU-Net 2.8.1: purpose', got {first_line!r}")
        return cls(file.stem, match[1], match[2], parse(content))

    @property
    def number(self) -> str:
        """What its name starts with, e.g. "0001"."""
        return self.name[:4]


def patches_folder() -> Path:
    """Returns the folder with the patches: inside the installed package, or the checkout's own.

    Raises:
        SalstmError: if the installation lacks it.
    """
    package = Path(nnunetv2_salstm.__file__).parent
    for folder in (package / "_patches", package.parent / "patches"):
        if any(folder.glob("*.patch")):
            return folder
    raise SalstmError("the installation has no patches; run: pip install --force-reinstall nnunetv2-salstm")


def patches_for(version: str) -> list[Patch]:
    """Returns the patches for a version of nnU-Net, in their order.

    Raises:
        SalstmError: if the installation lacks the folder with all patches.
    """
    patches = [Patch.read(file) for file in sorted(patches_folder().glob("*.patch"))]
    return [patch for patch in patches if patch.version == version]
