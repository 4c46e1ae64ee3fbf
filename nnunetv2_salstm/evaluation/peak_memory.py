"""How much memory a piece of work needed at most."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_STATUS = Path("/proc/self/status")


def measure_growth(device: str, work: Callable[[], Result]) -> tuple[Result, int | None]:
    """Does the work and returns its result and the bytes by which memory grew at most; None where that is not known.

    On CUDA that is what tensors occupied (max_memory_allocated). On the CPU it is the resident memory of the whole
    process, whose peak counts from the start of the process: measure once, in a fresh one. Elsewhere it is not known.
    """
    if device == "cuda":
        import torch

        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return work(), torch.cuda.max_memory_allocated() - before
    resident, _ = _resident()
    result = work()
    _, peak = _resident()
    return result, peak - resident if device == "cpu" and resident is not None and peak is not None else None


def _resident() -> tuple[int | None, int | None]:
    """Returns the bytes of this process in memory now and at their peak."""
    if _STATUS.is_file():
        # Not getrusage: its peak starts with that of the process that started this one.
        kilobytes = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if line.startswith("Vm"))
        now, peak = (int(kilobytes[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, peak
    try:
        import resource
    except ImportError:  # Windows
        return None, None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak
