"""A Slurm of one node on loopback, with GPUs that are only pretended.

Needs root, and Debian's packages slurm-wlm and munge. Everything it starts runs in the
foreground of this process and keeps its files in one folder, so that a Slurm that the
machine may have of its own is left alone, and nothing is left behind.
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
# What a generic resource needs is a character device, and these are everywhere.
_PRETENDED_GPUS = ("/dev/null", "/dev/zero")

_CONFIGURATION = """\
ClusterName=streamixture
SlurmctldHost={host}({loopback})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=5
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr={loopback} CPUs=8 RealMemory=64000 Gres=gpu:{n_gpus}
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class SlurmNode:
    """Slurm's controller and daemon, and the munge that they trust each other by.

    Parameters
    ----------
    folder
        For their files; its path must be short, because a socket lies in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._configure()
        munge = self.folder / "munge"
        try:
            self._start(
                *("munged", "--foreground", f"--key-file={munge}/key"),
                *(f"--socket={munge}/socket", f"--pid-file={munge}/pid"),
                *(f"--seed-file={munge}/seed", f"--log-file={munge}/log", "--force"),
            )
            self._wait_for(lambda: (munge / "socket").exists())
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D", "-N", _host())
            self._wait_for(lambda: self._ask("sinfo", "-h", "-o", "%t") == "idle")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for job in self.jobs():
            self._ask("scancel", job)
        self._wait_for(lambda: not self.jobs())
        self._stop()

    def _configure(self) -> None:
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        text = _CONFIGURATION.format(
            folder=self.folder,
            host=_host(),
            loopback=LOOPBACK,
            controller_port=_free_port(),
            node_port=_free_port(),
            n_gpus=len(_PRETENDED_GPUS),
        )
        (self.folder / "slurm.conf").write_text(text)
        gpus = "".join(f"Name=gpu File={path}\n" for path in _PRETENDED_GPUS)
        (self.folder / "gres.conf").write_text(gpus)

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
            )

    def _stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _wait_for(self, condition: object, seconds: float = 60) -> None:
        assert callable(condition)
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self._logs()
            time.sleep(0.1)

    def _logs(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.glob("*.log"))

    def _ask(self, *command: str) -> str:
        return subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        ).stdout.strip()

    def command(self, *command: str, folder: Path | None = None, **more: str) -> str:
        """Run one of Slurm's commands, which must succeed; give what it prints.

        Parameters
        ----------
        command
            The command and its arguments.
        folder
            Where to run it.
        more
            Variables for it, and for the job that it submits.
        """
        done = subprocess.run(
            command,
            cwd=folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def jobs(self) -> list[str]:
        """Numbers of the jobs that have not ended."""
        return self._ask("squeue", "-h", "-o", "%A").split()

    def state(self, job: str) -> str:
        """State of a job, such as COMPLETED."""
        return self._shown(job).get("JobState", "")

    def exit_status(self, job: str) -> int:
        """With which status a job's script ended."""
        return int(self._shown(job)["ExitCode"].partition(":")[0])

    def n_restarts(self, job: str) -> int:
        """How often a job was put back into the queue."""
        return int(self._shown(job)["Restarts"])

    def _shown(self, job: str) -> dict[str, str]:
        words = self._ask("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_port() -> int:
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        return int(unused.getsockname()[1])
