import dataclasses
import importlib
import os
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import devices, provenance, workers
from pipeline.devices import Device
from pipeline.errors import InputError
from pipeline.workers import WorkerReport

VERSIONS = {"python": "3.11.7", "numpy": "2.1.3"}


def report(**changes: Any) -> WorkerReport:
    usual = WorkerReport(
        name="w0",
        host="10.0.0.1",
        device=Device("cpu"),
        cuda_visible_devices=None,
        memory_limit_bytes=2**30,
        n_threads=1,
        versions=VERSIONS,
        is_pinned=True,
    )
    return dataclasses.replace(usual, **changes)


def on_gpu(name: str, uuid: str, host: str = "10.0.0.1") -> WorkerReport:
    return report(name=name, host=host, device=Device("NVIDIA H100", uuid, 2**36))


def test_check_worker__accepts_a_usual_one():
    workers.check_worker(report(), VERSIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"versions": {**VERSIONS, "numpy": "2.0.0"}},
            r"worker w0 has other versions than this process: \{'numpy': '2.0.0'\}; in",
        ),
        ({"n_threads": 4}, r"worker w0 has 4 threads, .*; start workers with --nthrea"),
        ({"is_pinned": False}, r"worker w0 imported jax before it was pinned to a dev"),
    ],
)
def test_check_worker__refuses(changes, message):
    with pytest.raises(InputError, match=message):
        workers.check_worker(report(**changes), VERSIONS)


def test_check_devices__refuses_two_workers_on_one_gpu():
    message = r"workers w0 and w2 are both on GPU GPU-a of one host; start each with a"
    shared = [on_gpu("w0", "GPU-a"), on_gpu("w1", "GPU-b"), on_gpu("w2", "GPU-a")]
    with pytest.raises(InputError, match=message):
        workers.check_devices(shared)


def test_check_devices__accepts_cores_and_gpus_of_other_hosts():
    elsewhere = on_gpu("w3", "0", host="10.0.0.2")
    workers.check_devices([report(), report(name="w1"), on_gpu("w2", "0"), elsewhere])


def test_as_json__has_neither_name_nor_address():
    assert on_gpu("tcp://10.0.0.1:33", "GPU-a").as_json() == {
        "device": "NVIDIA H100",
        "device_memory_bytes": 2**36,
        "cuda_visible_devices": None,
        "memory_limit_bytes": 2**30,
    }


def _process(limit: float | None) -> Any:
    """What dask gives a function that runs in a worker."""
    return SimpleNamespace(
        name=7,
        address="tls://10.0.0.1:4321",
        memory_manager=SimpleNamespace(memory_limit=limit),
        state=SimpleNamespace(nthreads=3),
    )


@pytest.mark.parametrize("limit", [None, 2**30])
def test_describe_worker__says_what_this_process_is(limit):
    found = workers.describe_worker(_process(limit))
    assert (found.name, found.host, found.n_threads) == ("7", "10.0.0.1", 3)
    assert found.memory_limit_bytes == limit
    assert found.versions == provenance.package_versions()


def test_describe_worker__is_pinned_if_it_was_before_jax_was_loaded(monkeypatch):
    assert importlib.import_module("jax")
    monkeypatch.setattr(workers, "_pinned_processes", set())
    assert not workers.describe_worker(_process(None)).is_pinned
    workers._pinned_processes.add(os.getpid())
    assert workers.describe_worker(_process(None)).is_pinned


@pytest.mark.parametrize(
    ("device", "chosen", "expected"),
    [
        (Device("cpu"), "", devices.SINGLE_THREADED_XLA),
        (Device("cpu"), "--xla_a=1", f"--xla_a=1 {devices.SINGLE_THREADED_XLA}"),
        (
            Device("cpu"),
            devices.SINGLE_THREADED_XLA,
            devices.SINGLE_THREADED_XLA,
        ),
        (Device("H100", "GPU-a"), "", devices.DETERMINISTIC_XLA),
    ],
)
def test_pin__makes_sums_repeatable_whatever_else_was_chosen(
    monkeypatch, device, chosen, expected
):
    monkeypatch.setattr(workers, "_pinned_processes", set())
    monkeypatch.setattr(os, "environ", {"XLA_FLAGS": chosen, "HOME": "/home/a"})
    workers.pin(report(device=device))
    assert os.environ["XLA_FLAGS"] == expected
    assert os.environ["JAX_ENABLE_X64"] == "1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == (device.identity or "")


def test_pin__leaves_the_device_that_was_chosen(monkeypatch):
    monkeypatch.setattr(workers, "_pinned_processes", set())
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": "3", "HOME": "/"})
    workers.pin(report(device=Device("H100", "GPU-a")))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
