import contextlib
import gc
import importlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import psutil
import pytest

from pipeline import admission, cluster, devices, patience, provenance, tasks
from pipeline.devices import WorkerSpec
from pipeline.errors import ClusterError, InputError
from pipeline.tasks import Cluster
from tests.dask_processes import LOOPBACK, DaskProcesses, frozen, wait_until

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
        for spec in devices.plan_workers([], 2)
    ]
    # Dask would look for a worker as soon as it was lost, and not wait for another.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0s"}),
        cluster.local_cluster(specs) as running,
    ):
        yield running


def test_local_cluster__a_gpu_has_its_share_of_the_memory():
    whole = distributed.system.MEMORY_LIMIT
    for n_gpus in (1, 2):
        specs = devices.plan_workers([str(i) for i in range(n_gpus)], 64)
        with cluster.local_cluster(specs) as running:
            assert running.memory_limit() == whole // n_gpus


def _devices_by_name(running: Cluster) -> dict[str, int]:
    workers = running.client.scheduler_info()["workers"]
    return {
        workers[address]["name"]: running.result(
            running.submit(_device_count, worker=address)
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
        # One may come between the two questions.
        with contextlib.suppress(OSError, KeyError):
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
    assert pair.result(pair.submit(_environment, "JAX_ENABLE_X64")) == "1"
    assert pair.result(pair.submit(_environment, "OMP_NUM_THREADS")) == "1"
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


def _number(value: int) -> list[int]:
    time.sleep(0.1)
    return [value]


def test_add__adds_neighbours_before_it_goes_on(pair):
    """In the order of submission, so that few sums wait at a time."""
    where = pair.workers[0]

    def note(left: list[int], right: list[int]) -> list[int]:
        distributed.get_worker().log_event("order", (left[0], right[0]))
        return left + right

    parts = {
        range(value, value + 1): pair.submit(_number, value, worker=where)
        for value in range(8)
    }
    total = pair.add(note, parts)
    assert pair.result(total) == list(range(8))
    events = [event for _, event in pair.client.get_events("order")]
    assert sorted(events) == [(0, 1), (0, 2), (0, 4), (2, 3), (4, 5), (4, 6), (6, 7)]
    assert events.index((0, 1)) < events.index((6, 7)) < events.index((0, 4))


def test_submit__prefers_the_worker_that_is_named(pair):
    pids = {a: pid for a, pid in pair.client.run(os.getpid).items()}
    for address in pair.workers:
        assert pair.result(pair.submit(os.getpid, worker=address)) == pids[address]


def test_submit__another_takes_over_for_a_worker_that_is_gone(pair):
    gone = f"tcp://{LOOPBACK}:1"
    assert pair.result(pair.submit(_square, 7, worker=gone)) == 49


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
        r"worker cpu-0 has other versions than this process: "
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
    with cluster.local_cluster(devices.plan_workers([], 1, 1)) as running:
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
    message = "worker 0 imported jax before it was pinned"
    with _plain_cluster(1) as plain:
        with distributed.Client(plain) as client:
            client.run(_device_count)
        with (
            pytest.raises(InputError, match=message),
            cluster.existing_cluster(plain.scheduler_address),
        ):
            pass


@pytest.mark.parametrize("n_workers", [0, 1])
def test_existing_cluster__refuses_one_with_too_few_workers(monkeypatch, n_workers):
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.5)
    message = (
        rf"tcp://127\.0\.0\.1:\d+ has {n_workers} of {n_workers + 1} workers after"
    )
    with (
        _plain_cluster(n_workers) as plain,
        pytest.raises(ClusterError, match=message),
        cluster.existing_cluster(plain.scheduler_address, n_workers + 1),
    ):
        pass


def test_existing_cluster__waits_for_workers(tmp_path):
    with DaskProcesses(tmp_path) as processes:
        wait_until(processes.file.exists)
        address = cluster.read_scheduler_file(processes.file)
        for name in ("first", "second"):
            processes.worker(name)
        with cluster.existing_cluster(address, 2) as running:
            assert len(running.workers) == 2


def test_existing_cluster__refuses_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", "500ms")
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        port = unused.getsockname()[1]
    message = rf"no Dask scheduler answers at tcp://127\.0\.0\.1:{port}: .*; check --sc"
    with (
        pytest.raises(ClusterError, match=message),
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
    connected = dask.config.get("scheduler", None)
    with (
        pytest.raises(InputError, match="no Dask scheduler answers at nonsense"),
        cluster.existing_cluster("nonsense"),
    ):
        pass
    gc.collect()
    assert dask.config.get("scheduler", None) == connected


def test_existing_cluster__refuses_workers_that_lack_the_package(pair, monkeypatch):
    monkeypatch.setattr(admission, "_PACKAGE", "streamixture-elsewhere")
    message = r"worker tcp://\S+ lacks streamixture-elsewhere \(.*\); install the same"
    address = pair.client.scheduler.address
    with pytest.raises(InputError, match=message), cluster.existing_cluster(address):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"scheduler.json: No such file or directory; name the file of a sched"),
        ("{", r"scheduler.json has no scheduler's address; name the file that `dask s"),
        ("[]", r"scheduler.json has no scheduler's address"),
        ("{}", r"scheduler.json has no scheduler's address"),
    ],
)
def test_read_scheduler_file__refuses(tmp_path, content, message):
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        cluster.read_scheduler_file(path)


def _raise_timeout(_: object) -> None:
    raise TimeoutError("the task's own")


def test_result__of_a_task_that_timed_out_itself(pair):
    with pytest.raises(TimeoutError, match="the task's own"):
        pair.result(pair.submit(_raise_timeout, 0))


def test_result__of_slow_tasks_is_waited_for(pair, monkeypatch):
    monkeypatch.setattr(patience, "CHECK_SECONDS", 0.2)
    hasty = Cluster(pair.client, patience_seconds=1.5)
    assert hasty.result(hasty.submit(time.sleep, 3)) is None
    assert list(hasty.run_all(time.sleep, [3, 3])) == [None, None]


def test_get__computes_dask_collections_with_the_same_patience(pair, monkeypatch):
    asked = []
    usual = Cluster.get

    def note(self: Cluster, graph: Any, keys: Any, **options: Any) -> Any:
        asked.append(keys)
        return usual(self, graph, keys, **options)

    monkeypatch.setattr(Cluster, "get", note)
    with cluster.existing_cluster(pair.client.scheduler.address):
        lazy = [dask.delayed(_square)(value) for value in range(3)]
        assert dask.compute(*lazy) == (0, 1, 4)
    assert len(asked) == 1


def _die(_: object) -> None:
    os._exit(1)


def test_run_all__a_task_that_kills_every_worker_ends(monkeypatch):
    """Nannies give up where workers die as they start."""
    monkeypatch.setattr(patience, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "LOCAL_PATIENCE_SECONDS", 6.0)
    monkeypatch.setattr(cluster, "CLOSE_TIMEOUT_SECONDS", 3)
    message = r"no worker has been at work for 6 s|4 workers died .* at task _die, perh"
    with (
        pytest.raises(ClusterError, match=message),
        cluster.local_cluster(devices.plan_workers([], 2)) as running,
    ):
        list(running.run_all(_die, [0]))


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """A cluster of processes that others started, with one worker."""
    with DaskProcesses(tmp_path_factory.mktemp("remote")) as processes:
        processes.worker("first")
        wait_until(processes.is_announced)
        yield processes


@contextlib.contextmanager
def _connected(processes: DaskProcesses) -> Iterator[Cluster]:
    address = cluster.read_scheduler_file(processes.file)
    wait_until(lambda: _has_workers(address))
    with cluster.existing_cluster(address) as running:
        yield running


def _has_workers(address: str) -> bool:
    with distributed.Client(address, set_as_default=False) as client:
        return bool(client.scheduler_info()["workers"])


def test_existing_cluster__pins_workers_and_those_that_join(remote):
    with _connected(remote) as running:
        late = remote.worker("late")
        wait_until(lambda: len(running.workers) == 2)
        for address in running.workers:
            flags = running.result(
                running.submit(_environment, "XLA_FLAGS", worker=address)
            )
            assert flags == devices.SINGLE_THREADED_XLA
            assert running.result(running.submit(_device_count, worker=address)) == 1
        names = [report.name for report in running.reports()]
        assert names == ["first", "late"]
        late.kill()
        late.wait()


def test_existing_cluster__workers_that_join_and_will_not_do_leave_again(remote):
    with _connected(remote) as running:
        threaded = remote.worker("threaded", "--nthreads", "2")
        wait_until(lambda: threaded.poll() is not None)
        assert len(running.workers) == 1
        assert sorted(running.run_all(_square, range(8))) == [
            value * value for value in range(8)
        ]


def test_ask__a_frozen_worker_keeps_nobody_waiting(remote, monkeypatch):
    with _connected(remote) as running:
        second = remote.worker("second")
        wait_until(lambda: len(running.workers) == 2)
        monkeypatch.setattr(tasks, "ANSWER_TIMEOUT_SECONDS", 2.0)
        with frozen(second.pid):
            first, _ = running.workers
            assert list(running.usage()) == [first]
        second.kill()
        second.wait()


def test_result__waits_for_other_workers_and_then_ends(remote, monkeypatch):
    monkeypatch.setattr(patience, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 3.0)
    with _connected(remote) as running:
        victim = remote.worker("victim")
        wait_until(lambda: len(running.workers) == 2)
        first, last = running.workers
        running.client.retire_workers([first], close_workers=True)
        task = running.submit(time.sleep, 20, worker=last)
        wait_until(lambda: running.client.processing()[last])
        victim.kill()
        victim.wait()
        message = r"no worker has been at work for 3 s \(0 connected\); start workers"
        with pytest.raises(ClusterError, match=message):
            running.result(task)
        remote.worker("rescue")
        wait_until(lambda: running.workers)
        assert list(running.run_all(_square, [3])) == [9]


def test_result__of_tasks_whose_only_worker_was_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "CHECK_SECONDS", 0.5)
    with DaskProcesses(tmp_path) as processes:
        first = processes.worker("first")
        wait_until(processes.is_announced)
        with _connected(processes) as running:
            (address,) = running.workers
            futures = [running.submit(time.sleep, 0.5, worker=address) for _ in "abc"]
            first.kill()
            wait_until(lambda: not running.workers)
            processes.worker("second")
            wait_until(lambda: running.workers)
            assert [result for _, result in running.completed(futures)] == [None] * 3


def _kill_during_a_task(running: Cluster, processes: DaskProcesses) -> None:
    task = running.submit(time.sleep, 30)
    wait_until(lambda: any(running.client.processing().values()))
    processes.scheduler.kill()
    running.result(task)


def test_existing_cluster__a_scheduler_that_dies_is_one_line(tmp_path):
    message = "the connection to the scheduler was lost; start it again and go on"
    with DaskProcesses(tmp_path) as processes:
        processes.worker("only")
        wait_until(processes.is_announced)
        with pytest.raises(ClusterError, match=message), _connected(processes) as lost:
            _kill_during_a_task(lost, processes)


def _certificate(folder: Path) -> tuple[str, str]:
    """A self-signed certificate and its key, as files."""
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=streamixture-test", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_existing_cluster__by_tls_as_dask_is_configured(tmp_path):
    certificate, key = _certificate(tmp_path)
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    variables = {f"{prefix}CA_FILE": certificate}
    for role in ("SCHEDULER", "WORKER"):
        variables |= {f"{prefix}{role}__CERT": certificate, f"{prefix}{role}__KEY": key}
    own = {
        "distributed.comm.tls.ca-file": certificate,
        "distributed.comm.tls.client.cert": certificate,
        "distributed.comm.tls.client.key": key,
    }
    with DaskProcesses(tmp_path, "tls", **variables) as processes:
        processes.worker("secret")
        wait_until(processes.is_announced)
        address = cluster.read_scheduler_file(processes.file)
        assert address.startswith("tls://")
        with dask.config.set(own), _connected(processes) as running:
            assert list(running.run_all(_square, [3])) == [9]
        message = rf"no Dask scheduler answers at {address}: .*; check --scheduler"
        with (
            pytest.raises(InputError, match=message),
            cluster.existing_cluster(address),
        ):
            pass


def test_current_cluster__is_the_clients_or_refused(tmp_path: Path):
    options: dict[str, Any] = {"n_workers": 1, "dashboard_address": None}
    scratch = {"local_directory": str(tmp_path), "host": LOOPBACK}
    for n_threads in (1, 2):
        with (
            distributed.LocalCluster(
                threads_per_worker=n_threads, **options, **scratch
            ) as started,
            distributed.Client(started) as client,
        ):
            if n_threads == 2:
                with (
                    pytest.raises(InputError, match="has 2 threads"),
                    cluster.current_cluster(),
                ):
                    pass
                continue
            with cluster.current_cluster() as running:
                assert running.client is client
                assert running.result(running.submit(_square, 3)) == 9
            # Of the caller, and still there.
            assert client.submit(_square, 4).result() == 16
