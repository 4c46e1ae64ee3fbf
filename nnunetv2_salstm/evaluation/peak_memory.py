"""How much memory a piece of work needed at most."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


@dataclass
class Growth:
    """Bytes by which memory grew at most; None where the system does not tell."""

    bytes: int | None = None


@contextmanager
def measured_growth(device: str) -> Iterator[Growth]:
    """Yields what will hold, after the block, by how much memory grew in it at most.

    On CUDA that is what tensors occupied (max_memory_allocated). On the CPU it is the resident memory of the whole
    process, whose peak counts from the start of the process: measure once, in a fresh one. Elsewhere it is not known.
    """
    growth = Growth()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield growth
        growth.bytes = torch.cuda.max_memory_allocated() - before
        return
    if device != "cpu":
        yield growth
        return
    resident, _ = _resident()
    yield growth
    _, peak = _resident()
    if resident is not None and peak is not None:
        growth.bytes = peak - resident


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
