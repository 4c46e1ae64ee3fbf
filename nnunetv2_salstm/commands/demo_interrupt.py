"""Ctrl-C during nnU-Net's work."""

import multiprocessing
import multiprocessing.pool
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable(patience: float = 3.0) -> Iterator[None]:
    """Makes Ctrl-C end the block, and ends the worker processes that are left when the block ends.

    One Ctrl-C may not be enough: Python drops a KeyboardInterrupt that hits a callback and goes on, and a pool whose
    workers it has ended may wait for them forever. What has not ended after `patience` seconds is interrupted again.
    A pool that is being made is made first: one half made is nobody's to end and keeps replacing its workers.
    """
    interrupted, ended, deferred = threading.Event(), threading.Event(), False
    owner, thread = os.getpid(), threading.get_ident()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal deferred
        # Forked workers have this handler too; their owner ends them.
        if os.getpid() != owner:
            return
        deferred = _makes_a_pool(frame)
        interrupted.set()
        if not deferred:
            raise KeyboardInterrupt

    def insist() -> None:
        interrupted.wait()
        while not ended.wait(0.1 if deferred else patience):
            # A real signal, as it also wakes a thread that waits.
            signal.pthread_kill(thread, signal.SIGINT)

    handles_signals = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt) if handles_signals else None
    threading.Thread(target=insist, daemon=True).start()
    try:
        yield
    except Exception as error:
        # nnU-Net may notice first that the workers, which the terminal interrupts too, have gone.
        if interrupted.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
            process.join()
        ended.set()
        # Lets the thread end.
        interrupted.set()
        if handles_signals:
            signal.signal(signal.SIGINT, before)


def _makes_a_pool(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is multiprocessing.pool.Pool.__init__.__code__:
            return True
        frame = frame.f_back
    return False
