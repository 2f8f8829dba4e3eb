import glob

import pytest

from pipeline import devices, provenance
from pipeline.devices import Device
from pipeline.errors import InputError

LISTING = """\
0, GPU-8c1f, 81559, NVIDIA H100 80GB HBM3
1, GPU-77aa, [N/A], NVIDIA A2
"""


def test_plan_workers__one_for_each_gpu():
    specs = devices.plan_workers(["0", "GPU-8c1f"], 64)
    assert [spec.name for spec in specs] == ["gpu-0", "gpu-GPU-8c1f"]
    pinned = [spec.environment["CUDA_VISIBLE_DEVICES"] for spec in specs]
    assert pinned == ["0", "GPU-8c1f"]
    for spec in specs:
        assert spec.environment["JAX_PLATFORMS"] == "cuda,cpu"
        assert "--xla_gpu_deterministic_ops=true" in spec.environment["XLA_FLAGS"]


def test_plan_workers__fewer_than_gpus_take_the_first():
    assert [spec.name for spec in devices.plan_workers(["3", "5"], 8, 1)] == ["gpu-3"]


def test_plan_workers__refuses_more_than_gpus():
    message = r"3 workers need a GPU each, this machine has 2; set --workers to 2 or"
    with pytest.raises(InputError, match=message):
        devices.plan_workers(["0", "1"], 8, 3)


@pytest.mark.parametrize(
    ("n_cores", "n_workers", "expected"), [(4, None, 4), (4, 2, 2), (1, 3, 3)]
)
def test_plan_workers__without_gpus_one_for_each_core(n_cores, n_workers, expected):
    specs = devices.plan_workers([], n_cores, n_workers)
    assert [spec.name for spec in specs] == [f"cpu-{i}" for i in range(expected)]
    for spec in specs:
        environment = spec.environment
        assert environment["JAX_PLATFORMS"] == "cpu"
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert environment["XLA_FLAGS"] == devices.SINGLE_THREADED_XLA
        assert environment["JAX_ENABLE_X64"] == environment["OMP_NUM_THREADS"] == "1"


def test_plan_workers__share_no_environment():
    first, second = devices.plan_workers([], 2)
    first.environment["XLA_FLAGS"] = "changed"
    assert second.environment["XLA_FLAGS"] == devices.SINGLE_THREADED_XLA


def test_compilation_cache__follows_the_environment(monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    kind = provenance.processor_digest()
    assert devices.compilation_cache() == f"/home/a/.cache/streamixture/jax-{kind}"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert devices.compilation_cache() == f"/cache/streamixture/jax-{kind}"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/jax")
    assert devices.compilation_cache() == "/jax"


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
    monkeypatch.setattr(devices, "_is_installed", lambda _: installed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.visible_gpus() == expected


@pytest.mark.parametrize(
    ("gpu_id", "expected"),
    [
        ("0", Device("NVIDIA H100 80GB HBM3", "GPU-8c1f", 81559 * 2**20)),
        ("GPU-77", Device("NVIDIA A2", "GPU-77aa", None)),
        ("2", Device("gpu", "2", None)),
    ],
)
def test_describe_gpu__is_told_by_uuid_where_the_driver_knows_it(gpu_id, expected):
    assert devices.describe_gpu(gpu_id, LISTING) == expected


@pytest.mark.parametrize(
    ("visible", "platforms", "expected"),
    [
        (["1", "0"], None, "GPU-77aa"),
        (["1"], "cuda,cpu", "GPU-77aa"),
        (["1"], "cpu", None),
        ([], None, None),
    ],
)
def test_own_device__is_the_first_gpu_that_jax_may_use(
    monkeypatch, visible, platforms, expected
):
    monkeypatch.setattr(devices, "visible_gpus", lambda: visible)
    monkeypatch.setattr(devices, "_query_gpus", lambda: LISTING)
    monkeypatch.delenv("JAX_PLATFORMS")
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert devices.own_device().identity == expected


def test_own_device__without_the_drivers_tool_has_the_index(monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["3"])
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("JAX_PLATFORMS")
    assert devices.own_device() == Device("gpu", "3", None)
