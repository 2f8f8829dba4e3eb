"""Dask workers pinned one to a device: a local cluster, or one that exists.

A worker's device is chosen by its environment, which jax reads once, when it is first
imported. So nothing that a worker process imports at start-up may import jax, and a
worker where it is loaded already is refused. The only module that starts or connects
to a cluster.
"""

import contextlib
import glob
import importlib.metadata
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import dask
import distributed
from distributed import Client, Future, Nanny, Scheduler, SpecCluster, WorkerPlugin

from pipeline import provenance
from pipeline.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

LOOPBACK = "127.0.0.1"
# Every Dask process serves its health over HTTP, by default to the whole network.
_HTTP = f"{LOOPBACK}:0"
START_TIMEOUT_SECONDS = 120
CONNECT_TIMEOUT = "30s"
# A worker not heard of for so long is given up, and its work done elsewhere.
SILENCE_TIMEOUT = "60s"
# One worker process a core: sums in one order, and tiles that stay in its cache.
SINGLE_THREADED_XLA = (
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
_SINGLE_THREADED = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


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
    common = {
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": compilation_cache(),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        **dict.fromkeys(_SINGLE_THREADED, "1"),
    }
    if not gpu_ids:
        cpu = {
            **common,
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "XLA_FLAGS": SINGLE_THREADED_XLA,
        }
        return [WorkerSpec(f"cpu-{i}", dict(cpu)) for i in range(n_workers or n_cores)]
    count = n_workers or len(gpu_ids)
    if count > len(gpu_ids):
        raise InputError(
            f"{count} workers need a GPU each, this machine has {len(gpu_ids)}; "
            f"set --workers to {len(gpu_ids)} or less"
        )
    gpu = {
        **common,
        "JAX_PLATFORMS": "cuda,cpu",
        "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
    }
    return [
        WorkerSpec(f"gpu-{name}", {**gpu, "CUDA_VISIBLE_DEVICES": name})
        for name in gpu_ids[:count]
    ]


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
    """Ids of the GPUs that jax on this machine could use, in order."""
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


# Processes seen before they imported jax: this one, if it is such a worker.
_pinned_processes: set[int] = set()


class PinnedWorker(WorkerPlugin):
    """Refuses a worker process in which jax was loaded before its device was set."""

    name = "streamixture-pinned-worker"

    def setup(self, worker: distributed.Worker) -> None:
        """Check the process; called when a worker starts, and again after a restart.

        Also called by a later run on the same cluster, when the tasks of an earlier
        one have loaded jax.
        """
        if "jax" in sys.modules and os.getpid() not in _pinned_processes:
            raise RuntimeError(
                f"worker {worker.name} imported jax before it was pinned to a device; "
                "keep jax out of the worker's start-up"
            )
        _pinned_processes.add(os.getpid())
        # jax reads these when it is imported; a worker of our own has them already.
        os.environ.setdefault("JAX_ENABLE_X64", "1")
        os.environ.setdefault("XLA_FLAGS", SINGLE_THREADED_XLA)
        # The driver reports what a task raised; once is enough.
        logging.getLogger("distributed.worker").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Cluster:
    """A client with the few ways in which the stages use it."""

    client: Client

    @property
    def workers(self) -> list[str]:
        """Addresses of the workers, in order of name."""
        workers = self.client.scheduler_info()["workers"]
        return sorted(workers, key=lambda address: str(workers[address]["name"]))

    def submit(
        self, function: Callable[..., Any], *args: Any, worker: str | None = None
    ) -> Future:
        """Run a function on some worker, on a usual one if it is named.

        The name is a preference, which keeps a shard with the worker that has it in
        memory; another worker takes over if that one is gone or busy.
        """
        options: dict[str, Any] = {"pure": False}
        if worker is not None:
            options |= {"workers": [worker], "allow_other_workers": True}
        return self.client.submit(function, *args, **options)

    def add(self, function: Callable[[T, T], T], parts: list[Future]) -> Future:
        """Add neighbours until one sum is left: a tree that their number fixes."""
        while len(parts) > 1:
            pairs = [
                self.submit(function, *parts[i : i + 2])
                for i in range(0, len(parts) - 1, 2)
            ]
            parts = [*pairs, *parts[len(pairs) * 2 :]]
        return parts[0]

    def run_all(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """Run a function on each task, and yield the results as they come."""
        futures = [self.submit(function, task) for task in tasks]
        for _, result in self.completed(futures):
            yield result

    def completed(self, futures: Iterable[Future]) -> Iterator[tuple[Future, Any]]:
        """Yield futures with their results, in the order in which they finish."""
        return iter(distributed.as_completed(futures, with_results=True))

    def spread(self, n_tasks: int) -> list[str | None]:
        """A worker for each of several tasks: neighbouring tasks share one.

        Sums of neighbours are added first, so most of them never leave the worker.
        None, for any worker, where all are just being replaced.
        """
        workers = self.workers
        if not workers:
            return [None] * n_tasks
        return [workers[i * len(workers) // n_tasks] for i in range(n_tasks)]

    def usage(self) -> dict[str, provenance.ProcessUsage]:
        """What each worker process has used so far, by address."""
        return self.client.run(provenance.process_usage)


@contextlib.contextmanager
def local_cluster(specs: Sequence[WorkerSpec]) -> Iterator[Cluster]:
    """Start a cluster on this machine, on loopback, and stop it afterwards."""
    with tempfile.TemporaryDirectory(prefix="streamixture-") as scratch:
        yield from _run_local_cluster(specs, scratch)


def _run_local_cluster(specs: Sequence[WorkerSpec], scratch: str) -> Iterator[Cluster]:
    workers = {
        spec.name: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "env": spec.environment,
                "host": LOOPBACK,
                "dashboard_address": _HTTP,
                "local_directory": scratch,
                "silence_logs": logging.ERROR,
            },
        }
        for spec in specs
    }
    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": LOOPBACK,
            "port": 0,
            "dashboard": False,
            "dashboard_address": _HTTP,
        },
    }
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": SILENCE_TIMEOUT}),
        SpecCluster(workers=workers, scheduler=scheduler) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(len(workers), timeout=START_TIMEOUT_SECONDS)
        client.register_plugin(PinnedWorker())
        yield Cluster(client)


@contextlib.contextmanager
def existing_cluster(address: str) -> Iterator[Cluster]:
    """Connect to a scheduler that runs already.

    Raises
    ------
    InputError
        If nobody answers, there are no workers, or a worker has imported jax already
        or has other versions of the packages.
    """
    try:
        # A client of what is no address fails half made, and dask computes with it.
        distributed.comm.get_address_host_port(address)
        client = Client(address, timeout=CONNECT_TIMEOUT)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address}: {error}; check --scheduler"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise InputError(f"the scheduler at {address} has no workers; start some")
        try:
            client.register_plugin(PinnedWorker())
        except RuntimeError as error:
            raise InputError(f"{address}: {error}") from error
        expected = provenance.package_versions()
        for worker, found in client.run(provenance.package_versions).items():
            differing = {k: v for k, v in found.items() if v != expected.get(k)}
            if differing:
                raise InputError(
                    f"worker {worker} has other versions than this process: "
                    f"{differing}; install the same environment everywhere"
                )
        yield Cluster(client)
