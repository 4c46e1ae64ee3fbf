"""A Slurm of one node on this machine's loopback, for tests: Debian's slurm-wlm and munge, started by whoever tests."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "scontrol", "scancel")
# Requeued jobs wait until the credentials of their first run have expired, two minutes unless told; the scheduler looks
# every second.
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class NotInstalled(Exception):
    """There is no Slurm here; says what is missing."""


@contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """Runs a Slurm and yields the variables that its commands need.

    Raises:
        NotInstalled: if it is not there.
        RuntimeError: if it does not start.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        raise NotInstalled(f"Slurm is not installed: {', '.join(absent)} not found; on Debian: slurm-wlm and munge")
    # Not pytest's folder: the path of a socket has at most 108 characters.
    root = Path(tempfile.mkdtemp(prefix="slurm_"))
    root.chmod(0o755)
    daemons: list[subprocess.Popen[bytes]] = []
    environment = {"SLURM_CONF": str(root / "slurm.conf"), "PATH": os.pathsep.join([str(root / "bin"), path])}
    try:
        for name in ("state", "spool", "bin"):
            (root / name).mkdir()
        # Snakemake starts srun without the variables of Slurm, also without the one that says where this one is.
        wrapper = root / "bin" / "srun"
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={root}/slurm.conf exec {shutil.which("srun", path=path)} "$@"\n')
        wrapper.chmod(0o755)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, user=getpass.getuser(), root=root, ports=_free_ports(2))
        (root / "slurm.conf").write_text(text)
        (root / "munge.key").write_bytes(os.urandom(1024))
        (root / "munge.key").chmod(0o400)
        munge = ["key-file=munge.key", "socket=munge.socket", "pid-file=munged.pid", "seed-file=munge.seed"]
        commands = (
            # --force: the folder is one that others may read.
            ["munged", "--foreground", "--force", *(f"--{o.replace('=', f'={root}/')}" for o in munge)],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-c", "-N", host],
        )
        for command in commands:
            with (root / f"{command[0]}.out").open("wb") as out:
                daemons.append(
                    subprocess.Popen(
                        [shutil.which(command[0], path=path) or command[0], *command[1:]],
                        env={**os.environ, **environment}, stdout=out, stderr=subprocess.STDOUT,
                    )
                )  # fmt: skip
            if command[0] == "munged":
                _wait_for(lambda: (root / "munge.socket").exists(), daemons, root)
        _wait_for(lambda: "idle" in _states(environment), daemons, root)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(20)
        shutil.rmtree(root)


def _states(environment: dict[str, str]) -> str:
    found = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], env={**os.environ, **environment}, capture_output=True, text=True
    )
    return found.stdout


def _wait_for(condition, daemons, root: Path, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        dead = [daemon for daemon in daemons if daemon.poll() is not None]
        if dead or time.monotonic() > end:
            said = {file.name: file.read_text().splitlines()[-3:] for file in root.glob("*.out")}
            raise RuntimeError(f"Slurm does not start here: {said}")
        time.sleep(0.1)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports
