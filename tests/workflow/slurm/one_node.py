"""A Slurm of one node, this machine, by Debian's packages: munged, slurmctld and slurmd, with everything of theirs in
one folder. It needs root.

    python tests/slurm/one_node.py FOLDER      starts one, and stops it when its standard input ends
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol")
PACKAGES = "slurm-wlm munge"
CONF_OF_MACHINE, CONF_OF_NODE = Path("/etc/slurm/slurm.conf"), Path("/run/slurm/conf")
PARTITION = "export"
START_S = 30
# Without cgroups, which a container has not: jobs that take more memory than they asked for are found by polling.
CONF = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MinJobAge=300
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory_mb} State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""


def why_not() -> str | None:
    """Why this machine cannot have one; None where it can."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
    if missing:
        return f"no {missing[0]}: apt-get install {PACKAGES}"
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        return "no snakemake-executor-plugin-slurm: `make setup` installs it"
    if CONF_OF_MACHINE.exists() or CONF_OF_NODE.is_dir():
        return "this machine is a part of a Slurm already"
    return "not root, whom Slurm's daemons need to be" if os.geteuid() else None


@contextlib.contextmanager
def one_node(folder: Path, cores: int, memory_mb: int) -> Iterator[dict[str, str]]:
    """Run one in a folder. Yields the environment in which its commands find it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munge's rule
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    host = socket.gethostname().partition(".")[0]
    facts = {"folder": folder, "host": host, "cores": cores, "memory_mb": memory_mb, "partition": PARTITION}
    ports = _free_ports(2)
    (folder / "slurm.conf").write_text(CONF.format(ports=ports, **facts))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    munge = ("--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}")
    munge += (f"--log-file={folder}/munge.log", f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed")
    with contextlib.ExitStack() as daemons:
        daemons.enter_context(_daemon(["munged", *munge], environment, folder))
        _wait("munged", lambda: (folder / "munge.socket").exists())
        daemons.enter_context(_daemon(["slurmctld", "-D"], environment, folder))
        daemons.enter_context(_daemon(["slurmd", "-D", "-N", host], environment, folder))
        daemons.enter_context(_found_by_jobs(folder))
        _wait("slurmd", lambda: "idle" in _said(["sinfo", "--noheader", "--format=%t"], environment))
        yield environment


@contextlib.contextmanager
def _found_by_jobs(folder: Path) -> Iterator[None]:
    """Put the configuration where Slurm's commands look for it, as Snakemake takes Slurm's variables from jobs."""
    CONF_OF_NODE.parent.mkdir(exist_ok=True)
    CONF_OF_NODE.unlink(missing_ok=True)  # of a run that was killed
    CONF_OF_NODE.symlink_to(folder)
    try:
        yield
    finally:
        CONF_OF_NODE.unlink()


@contextlib.contextmanager
def _daemon(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with open(folder / f"{command[0]}.out", "w") as out:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(what: str, ready) -> None:
    end = time.monotonic() + START_S
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} does not answer after {START_S} s; its log says why")
        time.sleep(0.2)


def _said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        free = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in free]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"


if __name__ == "__main__":
    if reason := why_not():
        sys.exit(f"error: {reason}")
    with one_node(Path(sys.argv[1]).resolve(), os.cpu_count(), 20_000) as variables:
        print(f"export SLURM_CONF={variables['SLURM_CONF']}", flush=True)
        sys.stdin.read()
