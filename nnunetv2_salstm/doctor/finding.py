"""What a check finds."""

from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """How something is; the value is how it is printed. Only WRONG needs doing."""

    OK = "ok"
    NOTE = "note"
    NOT_APPLICABLE = "n/a"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        status: how it is.
        text: what was found.
        todo: what to do; not empty for WRONG, and only then.
    """

    subject: str
    status: Status
    text: str
    todo: str = ""


def ok(subject: str, text: str) -> Finding:
    """Returns a finding that is as it should be."""
    return Finding(subject, Status.OK, text)


def note(subject: str, text: str) -> Finding:
    """Returns a finding that may matter to someone, but needs nothing."""
    return Finding(subject, Status.NOTE, text)


def not_applicable(subject: str, text: str) -> Finding:
    """Returns a finding about what is of no use here."""
    return Finding(subject, Status.NOT_APPLICABLE, text)


def wrong(subject: str, text: str, todo: str) -> Finding:
    """Returns a finding that something is to be done about."""
    return Finding(subject, Status.WRONG, text, todo)
