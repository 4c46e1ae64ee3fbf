"""Parsing command lines without running the commands."""

import argparse
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import entry_points
from io import StringIO


class Parsed(Exception):
    """Ends a command that has parsed its arguments."""


def parse_only(words: list[str], monkeypatch) -> str:
    """Runs an installed command until it has parsed its arguments; returns its complaint, or nothing."""
    (script,) = entry_points(group="console_scripts", name=words[0])
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None, namespace=None):
        parse(parser, args, namespace)
        raise Parsed

    printed = StringIO()
    with monkeypatch.context() as patch, redirect_stderr(printed), redirect_stdout(printed):
        patch.setattr(sys, "argv", words)
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        try:
            script.load()()
        except Parsed:
            return ""
        except SystemExit:
            pass
    return printed.getvalue().strip().splitlines()[-1]
