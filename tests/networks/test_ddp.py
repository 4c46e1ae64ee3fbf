"""Several processes: every parameter is used in every step, and gradients are those of one process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from ddp_worker import NETWORKS
from places import TESTS

WORKER = TESTS / "ddp_worker.py"


def run_two_processes(tmp_path, *arguments):
    """Returns what two processes of `ddp_worker.py` find."""
    assert torch.distributed.is_available()
    result = tmp_path / "result.json"
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), "2", tmp_path / "rendezvous", result, *arguments],
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=480)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return json.loads(result.read_text())


@pytest.mark.nightly
def test_two_processes_train_as_one(tmp_path):
    found = run_two_processes(tmp_path)
    assert list(found) == list(NETWORKS)
    wrong = {name: value for name, value in found.items() if isinstance(value, str) or value > 1e-9}
    assert wrong == {}


@pytest.mark.nightly
def test_compiled_with_small_buckets_under_autocast(tmp_path):
    (difference,) = run_two_processes(tmp_path, "compiled").values()
    assert difference < 0.02
