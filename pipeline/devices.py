"""Which devices this machine has, and the environment that pins a worker to one.

Pure planning: starts nothing and imports neither dask nor jax. A worker's device is
chosen by its environment, which jax reads once, when it is first imported.
"""

import contextlib
import glob
import importlib.metadata
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import provenance
from pipeline.errors import InputError

# One worker process a core: sums in one order, and tiles that stay in its cache.
SINGLE_THREADED_XLA = (
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
# XLA would still hand each kernel to a second thread and wait for it, at a quarter of
# the CPU time: its pool has as many threads as NPROC says, and jax may call it itself.
_SAME_THREAD = {"NPROC": "1", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0"}
DETERMINISTIC_XLA = "--xla_gpu_deterministic_ops=true"
_SINGLE_THREADED = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_GPU_QUERY_SECONDS = 20
# Resident memory of a worker that has loaded its libraries, before any work.
WORKER_BYTES = 190 * 2**20
# One heap, and blocks of a MiB or more apart from it, so that both can be given back:
# the C library's own threshold rises to 32 MiB as blocks are freed.
_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "8388608",
    "MALLOC_TRIM_THRESHOLD_": "33554432",
}


@dataclass(frozen=True)
class WorkerSpec:
    """One worker process and the device that is its own.

    Attributes
    ----------
    name
        Name on the cluster.
    environment
        Variables set before the process imports jax.
    """

    name: str
    environment: dict[str, str]

    @property
    def has_gpu(self) -> bool:
        """Whether its device is a GPU."""
        return bool(self.environment["CUDA_VISIBLE_DEVICES"])


def plan_workers(
    gpu_ids: Sequence[str], n_cores: int, n_workers: int | None = None
) -> list[WorkerSpec]:
    """One worker for each GPU, or without GPUs one for each core.

    Parameters
    ----------
    gpu_ids
        What CUDA_VISIBLE_DEVICES calls each GPU (an index or a UUID).
    n_cores
        Processor cores that may be used.
    n_workers
        Number of workers, by default as many as there are devices. More workers
        than cores share them; more than GPUs is refused.

    Raises
    ------
    InputError
        If more workers than GPUs are asked for.

    >>> [spec.name for spec in plan_workers([], 2)]
    ['cpu-0', 'cpu-1']
    >>> plan_workers(["0", "1"], 8)[1].environment["CUDA_VISIBLE_DEVICES"]
    '1'
    """
    if not gpu_ids:
        count = n_workers or n_cores
        return [WorkerSpec(f"cpu-{i}", worker_environment(None)) for i in range(count)]
    count = n_workers or len(gpu_ids)
    if count > len(gpu_ids):
        raise InputError(
            f"{count} workers need a GPU each, this machine has {len(gpu_ids)}; "
            f"set --workers to {len(gpu_ids)} or less"
        )
    return [
        WorkerSpec(f"gpu-{name}", worker_environment(name)) for name in gpu_ids[:count]
    ]


def startup_environment() -> dict[str, str]:
    """What a worker must find when its process starts.

    The C library and numpy read it before `workers.pin`, which sets the rest of
    `worker_environment`, could. Whoever starts workers elsewhere has to set it.
    """
    return {**dict.fromkeys(_SINGLE_THREADED, "1"), **_ALLOCATOR}


def worker_environment(gpu_id: str | None) -> dict[str, str]:
    """What jax must find in the environment of a worker on a GPU, or on a core."""
    common = {
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": compilation_cache(),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        **startup_environment(),
    }
    if gpu_id is None:
        return {
            **common,
            **_SAME_THREAD,
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "XLA_FLAGS": SINGLE_THREADED_XLA,
        }
    return {
        **common,
        "JAX_PLATFORMS": "cuda,cpu",
        "CUDA_VISIBLE_DEVICES": gpu_id,
        "XLA_FLAGS": DETERMINISTIC_XLA,
    }


def compilation_cache() -> str:
    """Directory where jax keeps compiled kernels between runs.

    One for each kind of processor: home directories are shared by machines that do
    not all have the instructions that a kernel was compiled to.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is not None:
        return chosen
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return f"{cache}/streamixture/jax-{provenance.processor_digest()}"


def visible_gpus() -> list[str]:
    """Ids of the GPUs that jax in this process could use, in order."""
    plugins = ("jax-cuda12-plugin", "jax-cuda13-plugin")
    if not any(_is_installed(plugin) for plugin in plugins):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    found = (re.fullmatch(r"/dev/nvidia(\d+)", p) for p in glob.glob("/dev/nvidia*"))
    return sorted((match[1] for match in found if match), key=int)


def _is_installed(distribution: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(distribution)
        return True
    return False


@dataclass(frozen=True)
class Device:
    """What a process computes on.

    Attributes
    ----------
    kind
        "cpu", or the model of the GPU.
    identity
        What tells a GPU from the others of its host; None for a core.
    memory_bytes
        Memory of a GPU; None for a core, or where the driver does not tell.
    """

    kind: str
    identity: str | None = None
    memory_bytes: int | None = None


def own_device() -> Device:
    """The device of this process: the first GPU that it sees, or a core."""
    gpus = visible_gpus()
    if not gpus or os.environ.get("JAX_PLATFORMS") == "cpu":
        return Device("cpu")
    return describe_gpu(gpus[0], _query_gpus())


def describe_gpu(gpu_id: str, listing: str) -> Device:
    """Find a GPU in the driver's list.

    Parameters
    ----------
    gpu_id
        Its index or the beginning of its UUID.
    listing
        A line for each GPU: index, UUID, MiB, model. Where each job is given GPUs of
        its own, several have index 0, and only the UUID tells them apart.

    >>> describe_gpu("1", "0, GPU-8c1f, 81559, NVIDIA H100")
    Device(kind='gpu', identity='1', memory_bytes=None)
    """
    for line in listing.splitlines():
        index, uuid, mebibytes, kind = (part.strip() for part in line.split(",", 3))
        if gpu_id == index or (not gpu_id.isdigit() and uuid.startswith(gpu_id)):
            size = int(mebibytes) * 2**20 if mebibytes.isdigit() else None
            return Device(kind, uuid, size)
    return Device("gpu", gpu_id)


def _query_gpus() -> str:
    fields = "--query-gpu=index,uuid,memory.total,name"
    command = ["nvidia-smi", fields, "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=_GPU_QUERY_SECONDS,
        ).stdout
    return ""
