"""What a worker process is, and whether it will do: device, memory, versions.

Runs inside the workers, and on what they report. Imports neither dask nor jax, so that
it may be loaded before a worker is pinned to its device.
"""

import atexit
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import devices, provenance
from pipeline.devices import Device
from pipeline.errors import InputError

# Objects made before Python looks for garbage. Imports make hundreds of thousands that
# stay, and going over them every 700 is a sixth of the time that they take.
_OBJECTS_BEFORE_COLLECTION = 50_000
# Processes seen before they imported jax: this one, if it is such a worker.
_pinned_processes: set[int] = set()


@dataclass(frozen=True)
class WorkerReport:
    """What a worker says of itself.

    Attributes
    ----------
    name
        Name on the cluster, often its address.
    host
        Host of its address.
    device
        What it computes on.
    cuda_visible_devices
        GPUs that its environment gives it, by the names that whoever started it, such
        as Slurm, has for them; None for none. Those of a worker without a CUDA build
        of jax are idle.
    memory_limit_bytes
        Beyond which it is restarted; None without a limit.
    n_threads
        Tasks that it would run at a time.
    versions
        Of Python and of the packages that results depend on.
    is_pinned
        False if jax was imported before anyone could set its device.
    """

    name: str
    host: str
    device: Device
    cuda_visible_devices: str | None
    memory_limit_bytes: int | None
    n_threads: int
    versions: Mapping[str, str]
    is_pinned: bool

    def as_json(self) -> dict[str, Any]:
        """What run.json says of the worker: no name, no address."""
        return {
            "device": self.device.kind,
            "device_memory_bytes": self.device.memory_bytes,
            "cuda_visible_devices": self.cuda_visible_devices,
            "memory_limit_bytes": self.memory_limit_bytes,
        }


def describe_worker(dask_worker: Any) -> WorkerReport:
    """Report on this process; the argument is named as dask fills it in."""
    limit = dask_worker.memory_manager.memory_limit
    return WorkerReport(
        name=str(dask_worker.name),
        host=dask_worker.address.rpartition("://")[2].rpartition(":")[0],
        device=devices.own_device(),
        cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES") or None,
        memory_limit_bytes=None if limit is None else int(limit),
        n_threads=dask_worker.state.nthreads,
        versions=provenance.package_versions(),
        is_pinned="jax" not in sys.modules or os.getpid() in _pinned_processes,
    )


def check_worker(report: WorkerReport, expected: Mapping[str, str]) -> None:
    """Refuse a worker on which the result could differ, or tasks could collide.

    Parameters
    ----------
    report
        What the worker said.
    expected
        Versions of the process that submits the tasks.

    Raises
    ------
    InputError
        If the versions differ, it runs several tasks at a time, or jax was loaded
        before its device was set.
    """
    differing = {
        name: version
        for name, version in report.versions.items()
        if version != expected.get(name)
    }
    if differing:
        raise InputError(
            f"worker {report.name} has other versions than this process: {differing}; "
            "install the same environment everywhere"
        )
    if report.n_threads != 1:
        raise InputError(
            f"worker {report.name} has {report.n_threads} threads, and its device "
            "takes one task at a time; start workers with --nthreads 1, as many as "
            "there are devices"
        )
    if not report.is_pinned:
        raise InputError(
            f"worker {report.name} imported jax before it was pinned to a device; "
            "keep jax out of the worker's start-up, or restart the worker"
        )


def check_devices(reports: Sequence[WorkerReport]) -> None:
    """Refuse workers that share a GPU.

    Raises
    ------
    InputError
        If two workers on one host compute on the same GPU; names both.
    """
    owners: dict[tuple[str, str], str] = {}
    for report in reports:
        if report.device.identity is None:
            continue
        key = (report.host, report.device.identity)
        owner = owners.setdefault(key, report.name)
        if owner != report.name:
            raise InputError(
                f"workers {owner} and {report.name} are both on GPU "
                f"{report.device.identity} of one host; start each with a "
                "CUDA_VISIBLE_DEVICES of its own"
            )


def collect_seldom() -> None:
    """Have this process look for garbage less often, before it imports the rest.

    And not at all as it ends, which would take it a second.
    """
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    atexit.register(gc.freeze)


def pin(report: WorkerReport) -> None:
    """Set what jax reads when it is imported, in a process that has not yet done so.

    A worker that was started by `devices.plan_workers` has all of it already.
    """
    collect_seldom()
    _pinned_processes.add(os.getpid())
    is_cpu = report.device.identity is None
    wanted = devices.worker_environment(None if is_cpu else report.device.identity)
    flags = wanted.pop("XLA_FLAGS")
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    # Whoever started the worker may have set other flags; of two that contradict
    # each other, the last counts.
    chosen = os.environ.get("XLA_FLAGS", "")
    if not chosen.endswith(flags):
        os.environ["XLA_FLAGS"] = f"{chosen} {flags}".strip()
