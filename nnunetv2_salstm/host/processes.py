"""One piece of work for each of many items, in several processes that end with the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from nnunetv2_salstm.host.errors import SalstmError

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_processes() -> int:
    """Returns how many processes work unless the user says so: one a core, at most 8."""
    return min(8, os.cpu_count() or 1)


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, start: Callable[[], None] | None = None
) -> Generator[tuple[Item, Result], None, None]:
    """Yields each item with what became of it, in the order in which they end.

    After Ctrl-C, or when it is closed, what is being worked on is finished and the rest is left.

    Args:
        work: can be pickled.
        items: to work on.
        processes: at most; a single one, or item, is worked on here.
        start: is called in every other process first.

    Raises:
        SalstmError: if a process was killed.
    """
    if processes == 1 or len(items) < 2:
        for item in items:
            yield item, work(item)
        return
    # Not forked, as SimpleITK and torch have threads.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(items)), spawn, _start, (start,)) as pool:
        # Ctrl-C reaches all processes of a terminal; ours are ended by this one. They inherit what is ignored.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            futures = {pool.submit(work, item): item for item in items}
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise SalstmError(
                f"a process was killed, most likely for lack of memory; try fewer than {processes} with -np. Finished "
                "cases are kept."
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start(start: Callable[[], None] | None) -> None:
    def end_with_parent() -> None:
        """When the process that started this one is killed, it would wait for work forever."""
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if start is not None:
        start()
