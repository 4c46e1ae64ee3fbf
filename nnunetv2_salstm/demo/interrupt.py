"""Ctrl-C during nnU-Net's work."""

import _thread
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable(patience: float = 5.0) -> Iterator[None]:
    """Makes Ctrl-C end the block, and ends the worker processes that are left when the block ends.

    Python drops a KeyboardInterrupt that hits a callback, such as those around a fork, and goes on: what has not ended
    `patience` seconds after Ctrl-C is interrupted once more.
    """
    interrupted, ended = threading.Event(), threading.Event()
    owner = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        # Forked workers have this handler too; their owner ends them.
        if os.getpid() == owner:
            interrupted.set()
            raise KeyboardInterrupt

    def insist() -> None:
        interrupted.wait()
        while not ended.wait(patience):
            _thread.interrupt_main()

    handles_signals = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt) if handles_signals else None
    threading.Thread(target=insist, daemon=True).start()
    try:
        yield
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
            process.join()
        ended.set()
        # Lets the thread end.
        interrupted.set()
        if handles_signals:
            signal.signal(signal.SIGINT, before)
