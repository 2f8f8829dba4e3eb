"""What the jobs of Slurm are that workers run in, read from TOML; pure description."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import quantities, toml_file
from pipeline.errors import require

_WALLTIME = re.compile(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})")
_LEAST_MEMORY_BYTES = 512 * 2**20


@dataclass(frozen=True)
class SlurmConfig:
    """What the jobs are, each of one worker.

    Attributes
    ----------
    partition, account
        "" is Slurm's default.
    gpus_per_task
        1, or 0 for workers on a core each.
    cpus_per_task
        Cores of a job. The worker computes on one of them, or on the GPU.
    memory
        Of a job, such as "32GiB".
    walltime
        Time limit of a job, as Slurm writes it. Shorter jobs begin sooner; what a job
        was doing when its time is up is done again by another.
    min_workers, max_workers
        The jobs kept in the queue or running, and how many there may be of them where
        there is work for more.
    max_wait
        How long no job may have begun before the run ends, to be resumed.
    interface
        Network interface by which nodes reach each other, such as "ib0"; "" lets the
        system choose.
    encrypt
        Whether scheduler and workers talk by TLS, with certificates made for this run.
        Without it, whoever reaches the scheduler's port can run code as its user.
    shared_directory
        Folder that all nodes see, where the jobs find those certificates; "" is
        the user's cache.
    local_directory
        Scratch of the workers on their nodes; "" is theirs to choose.
    log_directory
        Where the jobs' output goes; "" leaves it to Slurm, in the current folder.
    directives
        More options of sbatch, such as "--constraint=a100".
    prologue
        Lines of shell before a worker starts, such as "module load cuda".
    """

    partition: str = ""
    account: str = ""
    gpus_per_task: int = 0
    cpus_per_task: int = 1
    memory: str = "8GiB"
    walltime: str = "04:00:00"
    min_workers: int = 1
    max_workers: int = 1
    max_wait: str = "24h"
    interface: str = ""
    encrypt: bool = True
    shared_directory: str = ""
    local_directory: str = ""
    log_directory: str = ""
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(
            self.gpus_per_task in (0, 1),
            f"slurm.gpus_per_task is {self.gpus_per_task}; a worker computes on one "
            "GPU, so give 1, and as many max_workers as there are GPUs",
        )
        require(
            1 <= self.min_workers <= self.max_workers,
            f"slurm.min_workers is {self.min_workers} and max_workers "
            f"{self.max_workers}; at least one worker, and no more than max_workers",
        )
        require(
            self.cpus_per_task >= 1,
            f"slurm.cpus_per_task is {self.cpus_per_task}; it must be positive",
        )
        require(
            _WALLTIME.fullmatch(self.walltime) is not None,
            f'slurm.walltime is "{self.walltime}"; write it as in "04:00:00" or "1-00"',
        )
        require(
            self.memory_bytes >= _LEAST_MEMORY_BYTES,
            f"slurm.memory is {self.memory}; a worker needs 512MiB at the least",
        )
        quantities.parse_duration(self.max_wait, "slurm.max_wait")

    @property
    def memory_bytes(self) -> int:
        """Memory of a job."""
        return quantities.parse_memory(self.memory, "slurm.memory")

    @property
    def wait_seconds(self) -> float:
        """How long no job may have begun."""
        return quantities.parse_duration(self.max_wait, "slurm.max_wait")


@dataclass(frozen=True)
class _File:
    """The whole of a TOML file."""

    slurm: SlurmConfig = field(default_factory=SlurmConfig)


def load_config(path: Path | None) -> SlurmConfig:
    """Read the section [slurm] of a TOML file; without one, the defaults.

    Raises
    ------
    InputError
        If the file is missing, is not TOML, or has an unknown key or a bad value.
    """
    if path is None:
        return SlurmConfig()
    return toml_file.read(_File, path, "--cluster-config").slurm
