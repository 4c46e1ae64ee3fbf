"""Commands as processes that end with all that they start."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunetv2_salstm.host import commands
from nnunetv2_salstm.host.commands import on_device, patient_threads, run_nnunet
from nnunetv2_salstm.host.errors import SalstmError

# A command with a worker; what is deaf does not hear of an interrupt, nor of a polite request.
PARENT = """
import os, signal, subprocess, sys, time
deaf = sys.argv[-1] == "deaf"
if deaf:
    signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), worker.pid, flush=True)
worker.wait()
"""


@pytest.fixture
def run(monkeypatch):
    """Runs Python code in place of a command of nnU-Net that is called "it"."""

    def run_code(code, log, *words, **options):
        monkeypatch.setattr(commands, "_CALL", code)
        run_nnunet("it", *words, log=log, **options)

    return run_code


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def interrupt_when_started(log, number):
    """Sends a signal to this process as soon as the log names the command's processes."""

    def wait():
        while not log.exists() or not log.read_text().endswith("\n"):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


def test_output_goes_to_the_log_and_the_wait_is_not_idle(run, tmp_path):
    log, looks = tmp_path / "log", []
    log.write_text("before\n")
    code = "import os, sys, time; print(os.environ['OURS']); print('error', file=sys.stderr); time.sleep(0.5)"
    run(code, log, environment={"OURS": "here"}, while_waiting=lambda: looks.append(log.read_text()))
    assert sorted(log.read_text().splitlines()) == ["before", "error", "here"]
    assert len(looks) > 2
    assert looks[-1] == log.read_text()
    assert "OURS" not in os.environ


def test_a_failure_is_one_line_with_the_last_words(run, tmp_path, monkeypatch):
    code = "import sys; print('Traceback'); print('OSError: no room\\n'); sys.exit(3)"
    with pytest.raises(SalstmError, match=r"^it failed with status 3: OSError: no room; its output is in .*log$"):
        run(code, tmp_path / "log")
    monkeypatch.setattr(commands.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(SalstmError, match="the disk is full, free some room; its output"):
        run(code, tmp_path / "log")


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
@pytest.mark.parametrize("hearing", ["polite", "deaf"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_no_process_outlives_an_interrupt(number, hearing, run, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "PATIENCE", 0.5)
    log, before = tmp_path / "log", signal.getsignal(signal.SIGTERM)
    # Whoever started the tests in the background had them ignore it.
    of_the_tests = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt_when_started(log, number)
        with pytest.raises(KeyboardInterrupt):
            run(PARENT, log, hearing)
    finally:
        signal.signal(signal.SIGINT, of_the_tests)
    assert not [pid for pid in log.read_text().split() if pid.isdecimal() and is_alive(pid)]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
def test_no_worker_outlives_a_command_that_failed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "PATIENCE", 0.5)
    log = tmp_path / "log"
    with pytest.raises(SalstmError, match="failed with status 1"):
        run(PARENT.replace("worker.wait()", "sys.exit(1)"), log, "polite")
    assert not [pid for pid in log.read_text().split() if is_alive(pid)]


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cpu", None, ("cpu", {})),
        ("cuda", "3,1", ("cuda", {})),
        ("cuda:2", None, ("cuda", {"CUDA_VISIBLE_DEVICES": "2"})),
        ("cuda:1", "3,1", ("cuda", {"CUDA_VISIBLE_DEVICES": "1"})),
        ("cuda:0", "GPU-7", ("cuda", {"CUDA_VISIBLE_DEVICES": "GPU-7"})),
    ],
)
def test_nnunet_sees_the_gpu_that_was_named(device, visible, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert on_device(device) == expected


@pytest.mark.parametrize(
    ("device", "given", "expected"), [("cpu", None, "PASSIVE"), ("cpu", "ACTIVE", "ACTIVE"), ("cuda", None, None)]
)
def test_threads_of_a_cpu_do_not_spin_unless_they_are_told_to(device, given, expected, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert patient_threads(device).get("OMP_WAIT_POLICY") == expected


@pytest.mark.nightly
def test_commands_of_nnunet_are_found_by_name(tmp_path):
    log = tmp_path / "log"
    run_nnunet("nnUNetv2_evaluate_simple", "--help", log=log)
    assert "usage: nnUNetv2_evaluate_simple" in log.read_text()
