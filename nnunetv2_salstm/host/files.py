"""Files and folders: read with clear errors, never left half-written."""

import codecs
import csv
import hashlib
import json
import math
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnunetv2_salstm.host.errors import SalstmError


def read_json(file: Path, what: str) -> dict[str, Any]:
    """Returns the object in a JSON file; `what` names it in errors.

    Raises:
        SalstmError: if the file is not there, cannot be read or holds no JSON object.
    """
    try:
        values = json.loads(read_text(file))
    except FileNotFoundError:
        raise SalstmError(f"there is no file of {what} at {file}") from None
    except OSError as error:
        raise SalstmError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise SalstmError(f"{file} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise SalstmError(f"{file} holds no {what}")
    return values


def read_text(file: Path) -> str:
    """Returns a text as editors and spreadsheets write it: UTF-8 or UTF-16, with or without its mark, else Latin-1.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no text.
    """
    content = file.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    if b"\0" in content:
        raise ValueError("it is no text, or a text in another encoding; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_table(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the columns of a CSV file and its rows; commas, semicolons or tabs divide them.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no text, or not a table: a row has more cells than there are columns, or two have one name.
    """
    lines = read_text(file).splitlines()
    first = lines[0] if lines else ""
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(lines, delimiter=delimiter, restval="", skipinitialspace=True)
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise ValueError(f"the column {twice} is there twice")
    rows = []
    try:
        for row in reader:
            # Spreadsheets leave empty cells behind; others would be lost.
            if any(row.pop(None, None) or ()):
                raise ValueError(f"line {reader.line_num} has more cells than there are columns; put it in quotes")
            rows.append({name: (row[name] or "").strip() for name in names})
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return names, rows


def fingerprint(file: Path) -> str:
    """Returns what tells the contents of a file from others', also where size and time are the same.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def require_writable(files: Iterable[Path | None]) -> None:
    """Finds out before long work that a result cannot be written after it; None is no file.

    Raises:
        SalstmError: naming the file.
    """
    seen = set()
    for file in files:
        if file is None:
            continue
        if file.absolute() in seen:
            raise SalstmError(f"{file} is named for two results; name another file for one of them")
        seen.add(file.absolute())
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SalstmError(f"{file} cannot be written: {error.strerror}; choose another place") from None
        if file.is_dir() or not os.access(file.parent, os.W_OK):
            raise SalstmError(f"{file} cannot be written; choose another place")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a path for a file or folder that becomes `path` when it is complete.

    An interrupted one is removed, with those of its parents that were not there before.
    """
    unfinished = path.with_name(f"unfinished.{path.name}")
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a killed process left behind.
    _remove(unfinished)
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        _remove(unfinished)
        for folder in made:
            with suppress(OSError):  # others may have written there
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def json_if_whole(file: Path) -> Any:
    """Returns what is in a JSON file; None if it is not there, or was left half-written.

    Raises:
        OSError: if it is there and cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def make_once(path: Path, text: str) -> None:
    """Makes a file, whole, if there is none: of several processes, also on several machines, one does.

    Raises:
        FileExistsError: if there is one.
    """
    draft = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    try:
        # Unlike opening and writing, this never shows others an empty file; it works on network file systems.
        path.hardlink_to(draft)
    finally:
        draft.unlink()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Returns a value as JSON can hold it: nan is null, infinity "inf" and "-inf", keys are text."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
