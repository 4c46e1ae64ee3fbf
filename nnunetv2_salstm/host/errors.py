"""The errors that users see in one line: what they can put right, and files that break a rule."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class SalstmError(Exception):
    """Something the user can put right; the message says what is wrong and what to do next."""


class BadFile(Exception):
    """A file that breaks a rule; the message names the file and the rule."""


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns whatever a library fails with on a file into a BadFile that names it."""
    try:
        yield
    except (BadFile, MemoryError):
        raise
    except Exception as error:
        # Errors of SimpleITK have several lines, the last of which says what is wrong.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise BadFile(f"{file}: cannot be read, is it complete? ({reason[:200]})") from None


def listed(items: Iterable[Any], most: int = 5) -> str:
    """Returns the first items and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
