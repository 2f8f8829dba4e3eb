"""Dask workers pinned one to a device: a local cluster, or one that exists.

The only module that starts or connects to a cluster; who may work there is
`admission`'s.
"""

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed import (
    Client,
    Nanny,
    Scheduler,
    Security,
    SpecCluster,
)
from distributed.utils import LoopRunner

from pipeline import admission, children, devices, stopping
from pipeline.devices import WorkerSpec
from pipeline.errors import ClusterError, InputError
from pipeline.tasks import Cluster

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
# Every Dask process serves its health over HTTP, by default to the whole network.
_HTTP = f"{LOOPBACK}:0"
START_TIMEOUT_SECONDS = 120
CLOSE_TIMEOUT_SECONDS = 30
# For what nobody waits for: whose workers are dead, and it may wait for them all the
# same.
ABANDON_TIMEOUT_SECONDS = 0.5
_OCCUPIED_SECONDS = 60.0
_ANSWER_SECONDS = 0.2
CONNECT_TIMEOUT = "30s"
# A worker not heard of for so long is given up, and its work done elsewhere.
SILENCE_TIMEOUT = "60s"
# How long to wait for workers that replace the last: of nannies, which take seconds
# and give up where a worker dies as it starts, and of a queue of jobs.
LOCAL_PATIENCE_SECONDS = 60.0
PATIENCE_SECONDS = 600.0
# The plan keeps workers within their memory. One that fills up all the same would wait
# for memory that its own task holds, if it paused. The profiler would interrupt the
# kernels a hundred times a second.
WORKER_SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 1.0,
    "distributed.worker.profile.enabled": False,
}


class _PatientScheduler:
    """A cluster as what computes dask's collections.

    Nannies send all of dask's configuration to the workers that they start, and a
    client in it would keep a worker from being replaced: there, it is dask's own name.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __call__(self, graph: Any, keys: Any, **options: Any) -> Any:
        """Compute a graph."""
        return self._cluster.get(graph, keys, **options)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("dask.distributed",)


@contextlib.contextmanager
def local_cluster(
    specs: Sequence[WorkerSpec],
    memory_limit: int | None = None,
    *,
    dashboard: bool = False,
) -> Iterator[Cluster]:
    """Start a cluster on this machine, on loopback, and stop it afterwards.

    Parameters
    ----------
    specs
        The workers.
    memory_limit
        Bytes that each may use before it is killed. By default the share of the
        machine's memory that a core has, or that a GPU has where there are some.
    dashboard
        Serve dask's dashboard, on loopback too.

    Raises
    ------
    ClusterError
        If workers do not start, or are lost and nobody replaces them.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        stopping.scratch_folder() as scratch,
        dask.config.set(_settings(specs)),
        io_loop() as loop,
        _start(
            specs, loop, scratch, memory_limit or _share(specs), dashboard
        ) as started,
        Client(started, set_as_default=False) as client,
    ):
        try:
            client.wait_for_workers(len(specs), timeout=START_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise ClusterError(
                f"{len(specs)} workers did not start in {START_TIMEOUT_SECONDS} s; "
                "lower --workers"
            ) from error
        with _ready(Cluster(client, LOCAL_PATIENCE_SECONDS)) as cluster:
            yield cluster


def _share(specs: Sequence[WorkerSpec]) -> int | str:
    """Memory of a worker; what dask takes by itself is the share of a core."""
    if not any(spec.has_gpu for spec in specs):
        return "auto"
    return int(distributed.system.MEMORY_LIMIT) // len(specs)


def _settings(specs: Sequence[WorkerSpec]) -> dict[str, Any]:
    """Dask's settings for a local cluster."""
    return {
        "distributed.scheduler.worker-ttl": SILENCE_TIMEOUT,
        # So long after a death dask looks for the worker, and closes its nanny for
        # good if it finds none: one that takes long to start, or that has died again.
        "distributed.deploy.lost-worker-timeout": "365 days",
        # The C library reads its own before a nanny could set them.
        "distributed.nanny.pre-spawn-environ": specs[0].environment if specs else {},
        **WORKER_SETTINGS,
    }


def startup_environment() -> dict[str, str]:
    """What a worker must find that is started elsewhere, dask's settings included."""
    settings = {
        f"DASK_{key.replace('.', '__').upper()}": str(value)
        for key, value in WORKER_SETTINGS.items()
    }
    return {**devices.startup_environment(), **settings}


@contextlib.contextmanager
def io_loop() -> Iterator[Any]:
    """A loop for dask, whose processes leave the terminal's interrupt to this one."""
    runner = LoopRunner()
    with children.starting():
        runner.start()
    stopping.before_end(lambda: _occupy(runner))
    try:
        yield runner.loop
    finally:
        if not stopping.is_under_way():
            runner.stop()


def _occupy(runner: LoopRunner) -> None:
    """Keep a loop from starting workers again that end with this process."""
    taken = threading.Event()

    def stay() -> None:
        taken.set()
        time.sleep(_OCCUPIED_SECONDS)

    if runner.is_started():
        runner.loop.add_callback(stay)
        taken.wait(_ANSWER_SECONDS)


@contextlib.contextmanager
def _start(
    specs: Sequence[WorkerSpec],
    loop: Any,
    scratch: str,
    memory_limit: int | str,
    dashboard: bool,
) -> Iterator[SpecCluster]:
    made: list[Nanny] = []

    def make(*args: Any, **options: Any) -> Nanny:
        made.append(Nanny(*args, **options))
        return made[-1]

    nannies = {
        spec.name: {
            "cls": make,
            "options": {
                "nthreads": 1,
                "env": spec.environment,
                "memory_limit": memory_limit,
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
            "dashboard": dashboard,
            "dashboard_address": _HTTP,
        },
    }
    started = SpecCluster(scheduler=scheduler, loop=loop)
    seconds: float = CLOSE_TIMEOUT_SECONDS
    try:
        # What starts them is interrupted, and the cluster still known here.
        started.worker_spec.update(nannies)
        started.sync(started._correct_state)
        yield started
    except BaseException as error:
        if not isinstance(error, Exception):
            _kill_workers(made)
            seconds = ABANDON_TIMEOUT_SECONDS
        raise
    finally:
        # A nanny whose worker died as it started never ends; its process has.
        with contextlib.suppress(TimeoutError):
            if not stopping.is_under_way():
                started.close(timeout=seconds)


def _kill_workers(nannies: Sequence[Nanny]) -> None:
    """Kill the workers of nannies that shall not replace them."""
    for nanny in nannies:
        nanny.close_gracefully(reason="interrupted")
        process = nanny.process and nanny.process.process
        if process is not None and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def existing_cluster(address: str, n_workers: int = 1) -> Iterator[Cluster]:
    """Connect to a scheduler that runs already, by TLS where dask is configured so.

    Parameters
    ----------
    address
        The scheduler's.
    n_workers
        How many workers to wait for, PATIENCE_SECONDS at most.

    Raises
    ------
    InputError
        If it is no address, TLS is not set up for it, or a worker will not do.
    ClusterError
        If nobody answers, too few workers come, or all are lost and nobody replaces
        them.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        # A client of what is no address fails half made, and dask computes with it.
        distributed.comm.get_address_host_port(address)
        # Certificates that are missing are a TypeError or a RuntimeError.
        client = Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ClusterError(_unreachable(address, error)) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(_unreachable(address, error)) from error
    with client:
        _wait_for_workers(client, n_workers, PATIENCE_SECONDS)
        with _ready(Cluster(client, PATIENCE_SECONDS)) as cluster:
            yield cluster


def _wait_for_workers(client: Client, n_workers: int, seconds: float) -> None:
    """Wait until so many workers are there; each takes tasks once it is checked."""
    n_found = len(client.scheduler_info()["workers"])
    if n_found < n_workers:
        logger.info("%d workers are there; waiting for %d", n_found, n_workers)
    try:
        client.wait_for_workers(n_workers, timeout=seconds)
    except TimeoutError as error:
        where = client.scheduler.address
        n_found = len(client.scheduler_info()["workers"])
        raise ClusterError(
            f"the scheduler at {where} has {n_found} of {n_workers} workers after "
            f"{seconds:.0f} s; start more, look at the logs or the queue of those that "
            "should be there, and go on with --resume"
        ) from error


def write_certificates(folder: Path) -> Security:
    """TLS by a certificate made for the run, in a folder that only its user can read.

    Parameters
    ----------
    folder
        Where the workers find certificate and key.
    """
    made = Security.temporary()
    files = {
        "cert": (folder / "certificate.pem", made.tls_client_cert),
        "key": (folder / "key.pem", made.tls_client_key),
    }
    for path, text in files.values():
        path.touch(mode=0o600)
        path.write_text(text)
    roles = {
        f"tls_{role}_{part}": str(path)
        for role in ("scheduler", "worker", "client")
        for part, (path, _) in files.items()
    }
    certificate, _ = files["cert"]
    return Security(require_encryption=True, tls_ca_file=str(certificate), **roles)


@contextlib.contextmanager
def queued_cluster(started: Any, wait_seconds: float) -> Iterator[Cluster]:
    """Use a cluster whose workers are jobs, once the first of them has begun.

    Parameters
    ----------
    started
        The cluster, as dask's client knows it. It outlives the block.
    wait_seconds
        How long a job may be in the queue while no other works.

    Raises
    ------
    InputError
        If a worker will not do.
    ClusterError
        If no worker comes for so long, now or later.
    """
    with Client(started, set_as_default=False) as client:
        _wait_for_workers(client, 1, wait_seconds)
        with _ready(Cluster(client, wait_seconds)) as cluster:
            yield cluster


def _unreachable(address: str, error: Exception) -> str:
    return f"no Dask scheduler answers at {address}: {error}; check --scheduler"


def warn(message: str) -> None:
    """Warn whoever computes: of a task on a worker, its client too."""
    distributed.warn(message, UserWarning)


def has_client() -> bool:
    """Whether this process has a dask client, on whose workers work would be done."""
    try:
        Client.current()
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def current_cluster() -> Iterator[Cluster]:
    """The workers of this process's dask client, or else of a local cluster.

    Raises
    ------
    InputError
        If the client is asynchronous, has no workers, or a worker will not do.
    ClusterError
        If workers do not start, or are lost and nobody replaces them.
    """
    try:
        client = Client.current()
    except ValueError:
        n_cores = len(os.sched_getaffinity(0))
        specs = devices.plan_workers(devices.visible_gpus(), n_cores)
        with local_cluster(specs) as started:
            yield started
        return
    if client.asynchronous:
        raise InputError(
            "the current dask client is asynchronous; make it with asynchronous=False"
        )
    with _ready(Cluster(client, PATIENCE_SECONDS)) as cluster:
        yield cluster


def read_scheduler_file(path: Path) -> str:
    """Address in the file that a scheduler wrote with ``--scheduler-file``.

    Raises
    ------
    InputError
        If it is missing or has no address.
    """
    try:
        return str(json.loads(path.read_text())["address"])
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; name the file of a scheduler that runs"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} has no scheduler's address; name the file that `dask scheduler "
            "--scheduler-file` wrote"
        ) from error


@contextlib.contextmanager
def _ready(cluster: Cluster) -> Iterator[Cluster]:
    """Yield a cluster with all its workers pinned."""
    with admission.explained(), dask.config.set(scheduler=_PatientScheduler(cluster)):
        admission.pin_workers(cluster)
        yield cluster
