"""A real Slurm of one node for tests: munge, controller and node daemon on loopback, in a folder, without systemd.

Two stand-in devices take the place of GPUs, so that ``--gres`` can be tried. Needs root and Debian's packages
slurmctld, slurmd, slurm-client and munge.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "scancel", "squeue", "sinfo", "sbatch")
CPUS = 4  # more than the machine may have: what is tested is who waits for whom, not speed
START_S = 30.0

CONFIGURATION = """\
ClusterName=t2p
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=5
InactiveLimit=30
MinJobAge=10
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 Gres=gpu:2
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """What a Slurm of one's own needs and this machine has not; empty if nothing."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    if absent:
        return f"no {', '.join(absent)} here: install slurmctld, slurmd, slurm-client and munge"
    return "" if os.geteuid() == 0 else "a Slurm of one's own needs root"


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start Slurm in a folder and stop it afterwards, with all of its jobs.

    Returns:
        Environment variables by which srun, squeue and scancel find it.

    Raises:
        RuntimeError: it did not come up; the message holds the ends of its logs.
    """
    folder.mkdir(parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    controller, daemon = _free_ports(2)
    settings = {"host": host, "folder": folder, "controller": controller, "daemon": daemon, "cpus": CPUS}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**settings))
    # Any two device files will do: nobody opens them, each job is only told which are its own.
    (folder / "gres.conf").write_text("Name=gpu File=/dev/zero\nName=gpu File=/dev/null\n")
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    own = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *own],
        ["slurmctld", "-D", "-c", "-f", str(configuration)],
        ["slurmd", "-D", "-f", str(configuration), "-N", host],
    ]
    started: list[subprocess.Popen] = []
    try:
        with (folder / "daemons.log").open("w") as log:
            for command in daemons:
                started.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )
                if command[0] == "munged":
                    _until(lambda: (folder / "munge.socket").exists(), folder)
        asked = ["sinfo", "-h", "-o", "%t"]
        _until(lambda: _output(asked, environment).strip() == "idle", folder)
        yield environment
    finally:
        if len(started) == len(daemons):
            subprocess.run(["scancel", "--user", "root"], env=environment, capture_output=True, timeout=20)
            with contextlib.suppress(RuntimeError):
                _until(lambda: not _output(["squeue", "-h"], environment).strip(), folder)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _output(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses; held together while they are sought, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for entry in sockets:
            entry.bind(("127.0.0.1", 0))
        return [entry.getsockname()[1] for entry in sockets]


def _until(true, folder: Path) -> None:
    end = time.monotonic() + START_S
    while not true():
        if time.monotonic() > end:
            logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"Slurm did not do what it should within {START_S:.0f} s:\n{logs}")
        time.sleep(0.1)
