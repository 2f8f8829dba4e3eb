import contextlib
import gc
import glob
import importlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import dask
import distributed
import psutil
import pytest

from pipeline import cluster, provenance
from pipeline.cluster import Cluster, PinnedWorker, WorkerSpec, plan_workers
from pipeline.errors import InputError

LOOPBACK = "127.0.0.1"
# What distinguishes each worker's environment: jax reads it once, at its start.
DEVICES = {"cpu-0": 2, "cpu-1": 3}


def _device_count(_: object = None) -> int:
    return len(importlib.import_module("jax").devices())


def _environment(name: str) -> str | None:
    return os.environ.get(name)


def _square(value: int) -> int:
    return value * value


def _refuse(value: int) -> int:
    raise InputError(f"{value} is bad; take another")


def test_plan_workers__one_for_each_gpu():
    specs = plan_workers(["0", "GPU-8c1f"], 64)
    assert [spec.name for spec in specs] == ["gpu-0", "gpu-GPU-8c1f"]
    devices = [spec.environment["CUDA_VISIBLE_DEVICES"] for spec in specs]
    assert devices == ["0", "GPU-8c1f"]
    for spec in specs:
        assert spec.environment["JAX_PLATFORMS"] == "cuda,cpu"
        assert "--xla_gpu_deterministic_ops=true" in spec.environment["XLA_FLAGS"]


def test_plan_workers__fewer_than_gpus_take_the_first():
    assert [spec.name for spec in plan_workers(["3", "5"], 8, 1)] == ["gpu-3"]


def test_plan_workers__refuses_more_than_gpus():
    message = r"3 workers need a GPU each, this machine has 2; set --workers to 2 or"
    with pytest.raises(InputError, match=message):
        plan_workers(["0", "1"], 8, 3)


@pytest.mark.parametrize(
    ("n_cores", "n_workers", "expected"), [(4, None, 4), (4, 2, 2), (1, 3, 3)]
)
def test_plan_workers__without_gpus_one_for_each_core(n_cores, n_workers, expected):
    specs = plan_workers([], n_cores, n_workers)
    assert [spec.name for spec in specs] == [f"cpu-{i}" for i in range(expected)]
    for spec in specs:
        environment = spec.environment
        assert environment["JAX_PLATFORMS"] == "cpu"
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert environment["XLA_FLAGS"] == cluster.SINGLE_THREADED_XLA
        assert environment["JAX_ENABLE_X64"] == environment["OMP_NUM_THREADS"] == "1"


def test_plan_workers__share_no_environment():
    first, second = plan_workers([], 2)
    first.environment["XLA_FLAGS"] = "changed"
    assert second.environment["XLA_FLAGS"] == cluster.SINGLE_THREADED_XLA


def test_compilation_cache__follows_the_environment(monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    kind = provenance.processor_digest()
    assert cluster.compilation_cache() == f"/home/a/.cache/streamixture/jax-{kind}"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cluster.compilation_cache() == f"/cache/streamixture/jax-{kind}"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/jax")
    assert cluster.compilation_cache() == "/jax"


@pytest.mark.parametrize(
    ("installed", "visible", "expected"),
    [
        (False, "0,1", []),
        (True, "0, GPU-8c1f,", ["0", "GPU-8c1f"]),
        (True, "", []),
        (True, None, ["0", "2", "10"]),
    ],
)
def test_visible_gpus__are_those_that_jax_could_use(
    monkeypatch, installed, visible, expected
):
    files = ["nvidia10", "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia2"]
    monkeypatch.setattr(glob, "glob", lambda _: [f"/dev/{name}" for name in files])
    monkeypatch.setattr(cluster, "_is_installed", lambda _: installed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cluster.visible_gpus() == expected


def test_pinned_worker__refuses_a_process_where_jax_is_loaded(monkeypatch):
    assert importlib.import_module("jax")
    monkeypatch.setattr(cluster, "_pinned_processes", set())
    message = r"worker cpu-7 imported jax before it was pinned to a device; keep jax"
    with pytest.raises(RuntimeError, match=message):
        PinnedWorker().setup(SimpleNamespace(name="cpu-7"))


def _cluster_of(names: list[str]) -> Cluster:
    """A cluster of which only the workers' names are known; addresses run backwards."""
    workers = {f"tcp://{99 - i}": {"name": name} for i, name in enumerate(names)}
    return Cluster(SimpleNamespace(scheduler_info=lambda: {"workers": workers}))


def test_workers__are_in_order_of_name():
    assert _cluster_of(["cpu-1", "cpu-0"]).workers == ["tcp://98", "tcp://99"]


def test_spread__names_nobody_while_all_workers_are_being_replaced():
    assert _cluster_of([]).spread(2) == [None, None]


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("n_tasks", [1, 2, 5, 8, 17])
def test_spread__keeps_neighbours_together_and_is_even(n_workers, n_tasks):
    few = _cluster_of([f"cpu-{i}" for i in range(n_workers)])
    order: list[str | None] = [*few.workers]
    places = [order.index(address) for address in few.spread(n_tasks)]
    assert len(places) == n_tasks
    assert places == sorted(places)
    counts = [places.count(place) for place in range(n_workers)]
    assert max(counts) - min(counts) <= 1


def test_spread__of_no_tasks_is_empty():
    assert _cluster_of(["cpu-0"]).spread(0) == []


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """A local cluster of two workers, told apart by their numbers of devices."""
    specs = [
        WorkerSpec(
            spec.name,
            {
                **spec.environment,
                "XLA_FLAGS": "--xla_force_host_platform_device_count="
                f"{DEVICES[spec.name]}",
            },
        )
        for spec in plan_workers([], 2)
    ]
    with cluster.local_cluster(specs) as running:
        yield running


def _devices_by_name(running: Cluster) -> dict[str, int]:
    workers = running.client.scheduler_info()["workers"]
    return {
        workers[address]["name"]: running.submit(_device_count, worker=address).result(
            timeout=60
        )
        for address in running.workers
    }


def _pids_by_name(running: Cluster) -> dict[str, int]:
    workers = running.client.scheduler_info()["workers"]
    return {workers[a]["name"]: pid for a, pid in running.client.run(os.getpid).items()}


def _wait_for_others(running: Cluster, pids: dict[str, int]) -> dict[str, int]:
    """Processes of the workers, once none in ``pids`` is left."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            found = _pids_by_name(running)
            if set(found) == set(DEVICES) and not set(found.values()) & set(
                pids.values()
            ):
                return found
        time.sleep(0.1)
    raise AssertionError("the workers did not come back")


def test_local_cluster__each_worker_has_its_own_devices(pair):
    assert _devices_by_name(pair) == DEVICES


def test_local_cluster__listens_on_loopback_only(pair):
    this = psutil.Process()
    processes = [this, *this.children(recursive=True)]
    addresses = [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    # The scheduler, two nannies and two workers at the least.
    assert len(addresses) >= 5
    assert set(addresses) == {LOOPBACK}


def test_local_cluster__workers_compute_in_float64_with_one_thread(pair):
    assert pair.submit(_environment, "JAX_ENABLE_X64").result() == "1"
    assert pair.submit(_environment, "OMP_NUM_THREADS").result() == "1"
    threads = {w["nthreads"] for w in pair.client.scheduler_info()["workers"].values()}
    assert threads == {1}


def test_run_all__yields_every_result(pair):
    assert sorted(pair.run_all(_square, range(20))) == [i * i for i in range(20)]
    assert list(pair.run_all(_square, [])) == []


def test_run_all__raises_what_a_task_raised(pair):
    with pytest.raises(InputError, match="3 is bad; take another"):
        list(pair.run_all(_refuse, [3]))


def test_completed__pairs_results_with_their_futures(pair):
    futures = {pair.submit(_square, value): value for value in range(5)}
    found = {futures[future]: result for future, result in pair.completed(futures)}
    assert found == {value: value * value for value in range(5)}


def test_submit__prefers_the_worker_that_is_named(pair):
    pids = {a: pid for a, pid in pair.client.run(os.getpid).items()}
    for address in pair.workers:
        assert pair.submit(os.getpid, worker=address).result() == pids[address]


def test_submit__another_takes_over_for_a_worker_that_is_gone(pair):
    gone = f"tcp://{LOOPBACK}:1"
    assert pair.submit(_square, 7, worker=gone).result(timeout=30) == 49


def test_usage__is_of_each_worker(pair):
    usage = pair.usage()
    assert sorted(usage) == sorted(pair.workers)
    assert all(isinstance(u, provenance.ProcessUsage) for u in usage.values())
    assert all(u.peak_rss_bytes > 10 * 2**20 for u in usage.values())


def test_existing_cluster__a_later_run_may_use_the_same_workers(pair):
    assert _devices_by_name(pair) == DEVICES
    with cluster.existing_cluster(pair.client.scheduler.address) as again:
        assert again.workers == pair.workers
        assert sorted(again.run_all(_square, [1, 2])) == [1, 4]


def test_existing_cluster__refuses_workers_with_other_versions(pair, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", provenance.PACKAGES[:-1])
    address = pair.client.scheduler.address
    message = (
        r"worker tcp://127\.0\.0\.1:\d+ has other versions than this process: "
        r"\{'numpy': '2\..*'\}; install the same environment everywhere"
    )
    with (
        pytest.raises(InputError, match=message),
        cluster.existing_cluster(address),
    ):
        pass


def test_local_cluster__pins_again_after_a_restart(pair):
    pids = _pids_by_name(pair)
    pair.client.restart()
    _wait_for_others(pair, pids)
    assert _devices_by_name(pair) == DEVICES


def test_local_cluster__pins_again_after_workers_were_killed(pair):
    assert _devices_by_name(pair) == DEVICES
    pids = _pids_by_name(pair)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    _wait_for_others(pair, pids)
    assert _devices_by_name(pair) == DEVICES


def test_local_cluster__leaves_no_process_behind():
    before = set(psutil.Process().children(recursive=True))
    with cluster.local_cluster(plan_workers([], 1, 1)) as running:
        (pid,) = running.client.run(os.getpid).values()
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    left = set(psutil.Process().children(recursive=True)) - before
    # Python's own tracker of shared memory lives as long as this process.
    assert [p for p in left if "resource_tracker" not in " ".join(p.cmdline())] == []


@contextlib.contextmanager
def _plain_cluster(n_workers: int) -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        host=LOOPBACK,
        dashboard_address=f"{LOOPBACK}:0",
        worker_dashboard_address=f"{LOOPBACK}:0",
    ) as plain:
        yield plain


def test_existing_cluster__refuses_a_worker_where_jax_is_loaded():
    message = r"tcp://127\.0\.0\.1:\d+: worker 0 imported jax before it was pinned"
    with _plain_cluster(1) as plain:
        with distributed.Client(plain) as client:
            client.run(_device_count)
        with (
            pytest.raises(InputError, match=message),
            cluster.existing_cluster(plain.scheduler_address),
        ):
            pass


def test_existing_cluster__refuses_one_without_workers():
    message = r"the scheduler at tcp://127\.0\.0\.1:\d+ has no workers; start some"
    with (
        _plain_cluster(0) as plain,
        pytest.raises(InputError, match=message),
        cluster.existing_cluster(plain.scheduler_address),
    ):
        pass


def test_existing_cluster__refuses_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", "500ms")
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        port = unused.getsockname()[1]
    message = rf"no Dask scheduler answers at tcp://127\.0\.0\.1:{port}: .*; check --sc"
    with (
        pytest.raises(InputError, match=message),
        cluster.existing_cluster(f"tcp://{LOOPBACK}:{port}"),
    ):
        pass


@pytest.mark.parametrize("address", ["nonsense", "pigeon://a:1", "tcp://a"])
def test_existing_cluster__refuses_what_is_no_address(monkeypatch, address):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", "500ms")
    message = rf"no Dask scheduler answers at {address}: .*; check --scheduler"
    with pytest.raises(InputError, match=message), cluster.existing_cluster(address):
        pass


@pytest.mark.usefixtures("pair")
def test_existing_cluster__a_mistyped_address_leaves_dask_as_it_was():
    connected = dask.config.get("scheduler")
    with (
        pytest.raises(InputError, match="no Dask scheduler answers at nonsense"),
        cluster.existing_cluster("nonsense"),
    ):
        pass
    gc.collect()
    assert dask.config.get("scheduler") == connected
    assert distributed.default_client().status == "running"
