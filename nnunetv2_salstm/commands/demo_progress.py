"""What the demo shows while it runs."""

import os
import sys
import threading
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO


class Progress:
    """Prints stages and lines to the console, and sends everything else, child processes' output too, to a log file.

    A context manager. While nothing is printed for a while, it says that the stage goes on.

    Args:
        log: file to append to.
        stages: how many stages there will be.
        silence: seconds without a line before a sign of life.

    Raises:
        OSError: on entering, if the log cannot be written.
    """

    def __init__(self, log: Path, stages: int, silence: float = 15.0):
        self.log = log
        self.stages = stages
        self.silence = silence
        self._stage = 0
        self._console: TextIO = sys.stdout
        self._stack = ExitStack()
        self._ended = threading.Event()
        self._stage_start = self._last_line = time.monotonic()

    def stage(self, title: str) -> None:
        """Announces the next stage."""
        self._stage += 1
        self._stage_start = time.monotonic()
        self._print(f"[{self._stage}/{self.stages}] {title}")

    def line(self, text: str) -> None:
        """Prints a line of the stage."""
        self._print(f"      {text}")

    def __enter__(self) -> "Progress":
        with ExitStack() as stack:
            log = stack.enter_context(self.log.open("a", buffering=1))
            sys.stdout.flush()
            sys.stderr.flush()
            self._console = sys.stdout
            # Child processes write to the descriptors, so these are exchanged too, and the console is a copy.
            for descriptor in (1, 2):
                saved = os.dup(descriptor)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, descriptor)
                if descriptor == 1 and _descriptor(sys.stdout) == 1:
                    self._console = stack.enter_context(os.fdopen(os.dup(saved), "w", buffering=1))
                os.dup2(log.fileno(), descriptor)
            stack.enter_context(redirect_stdout(log))
            stack.enter_context(redirect_stderr(log))
            signs_of_life = threading.Thread(target=self._show_life, daemon=True)
            signs_of_life.start()
            stack.callback(signs_of_life.join)
            stack.callback(self._ended.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.write(f"{text}\n")
        self._console.flush()

    def _show_life(self) -> None:
        while not self._ended.wait(1.0):
            now = time.monotonic()
            if now - self._last_line > self.silence:
                self._print(f"      ... still at it, {now - self._stage_start:.0f} s")


def _descriptor(stream: TextIO) -> int | None:
    """Returns the file descriptor of a stream, None for one that has none, such as a notebook's."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
