"""Unified diffs as `git diff --full-index` writes them, for files that exist before and after."""

import re
from dataclasses import dataclass
from hashlib import sha1

_INDEX = re.compile(rb"index ([0-9a-f]{40})\.\.([0-9a-f]{40})( \d+)?")
_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*")


class HunkMismatch(Exception):
    """The lines that a hunk would replace are not in their place; the message names the hunk."""


@dataclass(frozen=True)
class Hunk:
    """Consecutive lines, with context, and what becomes of them.

    Attributes:
        old_start: number of the first line in the file before, from 1.
        new_start: the same after.
        old: the lines before, without their line feeds.
        new: the lines after.
    """

    old_start: int
    new_start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]


@dataclass(frozen=True)
class FileChange:
    """What a diff does to one file.

    Attributes:
        path: of the file, relative, with slashes.
        before: git's name of the whole contents before, see `blob_name`.
        after: the same after.
        hunks: in the order of their lines.
    """

    path: str
    before: str
    after: str
    hunks: tuple[Hunk, ...]

    def reversed(self) -> "FileChange":
        """Returns the change that undoes this one."""
        hunks = tuple(Hunk(hunk.new_start, hunk.old_start, hunk.new, hunk.old) for hunk in self.hunks)
        return FileChange(self.path, self.after, self.before, hunks)

    def apply(self, content: bytes) -> bytes:
        """Returns the changed contents; every hunk must match exactly, in its place.

        Raises:
            HunkMismatch: if one does not.
        """
        # Only line feeds end a line: carriage returns are part of it, and have to match too.
        lines = content.split(b"\n")
        changed: list[bytes] = []
        done = 0
        for number, hunk in enumerate(self.hunks, start=1):
            start, end = hunk.old_start - 1, hunk.old_start - 1 + len(hunk.old)
            if tuple(lines[start:end]) != hunk.old:
                raise HunkMismatch(f"hunk {number} (line {hunk.old_start}) does not match")
            changed += [*lines[done:start], *hunk.new]
            done = end
        return b"\n".join([*changed, *lines[done:]])


def blob_name(content: bytes) -> str:
    """Returns git's name of a file's contents, SHA-1 of the length and the contents."""
    return sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def parse(diff: bytes) -> tuple[FileChange, ...]:
    """Reads a diff; text before the first file is skipped.

    Raises:
        ValueError: for what `git diff --full-index` does not write for files that exist before and after.
    """
    lines = diff.split(b"\n")
    starts = [number for number, line in enumerate(lines) if line.startswith(b"diff --git ")]
    if not starts:
        raise ValueError("diff must have a line that starts with 'diff --git', got none")
    return tuple(_parse_file(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True))


def _parse_file(lines: list[bytes]) -> FileChange:
    index = _INDEX.fullmatch(lines[1])
    if index is None or not lines[2].startswith(b"--- a/") or not lines[3].startswith(b"+++ b/"):
        raise ValueError(f"diff must have a full index and both names after each {lines[0]!r}, got {lines[1:4]}")
    hunks = []
    position = 4
    while position < len(lines) and (head := _HUNK.fullmatch(lines[position])):
        old_start, old_count, new_start, new_count = (int(number or 1) for number in head.groups())
        old: list[bytes] = []
        new: list[bytes] = []
        while len(old) < old_count or len(new) < new_count:
            position += 1
            mark, line = lines[position][:1], lines[position][1:]
            if mark not in (b" ", b"-", b"+"):
                raise ValueError(f"lines of a hunk must start with a space, - or +, got {lines[position]!r}")
            if mark != b"+":
                old.append(line)
            if mark != b"-":
                new.append(line)
        hunks.append(Hunk(old_start, new_start, tuple(old), tuple(new)))
        position += 1
    if not hunks or any(lines[position:]):
        raise ValueError(f"diff must have hunks and nothing else after {lines[3]!r}, got {lines[position:]}")
    return FileChange(lines[3][6:].decode(), index[1].decode(), index[2].decode(), tuple(hunks))
