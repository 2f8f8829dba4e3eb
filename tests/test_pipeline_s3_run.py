"""Whole runs from an object store to an object store, undisturbed and disturbed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator import training
from pipeline import (
    cluster,
    devices,
    export,
    fit_stage,
    prepare_stage,
    projection,
    publication,
    run,
)
from pipeline.config import (
    FitConfig,
    QCConfig,
    RunConfig,
    TrainConfig,
    replace_values,
)
from pipeline.errors import InputError
from pipeline.location import RemotePath, files_below
from pipeline.simulate import simulate
from pipeline.store import Store
from pipeline.tasks import Cluster
from pipeline.workspace import STORES
from tests import s3_server
from tests.helpers import SerialCluster
from tests.s3_server import Proxy, remote

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CONFIG = RunConfig(
    qc=QCConfig(min_maf=0.01, max_ld_r2=0.5),
    fit=FitConfig(n_populations=2, max_rounds=6),
    train=TrainConfig(epochs=1, batch_size=64),
)
SIZES: dict[str, Any] = {"n_samples": 80, "n_variants": 300, "n_populations": 2}
CHUNKS: dict[str, Any] = {"chunk_samples": 40, "chunk_variants": 150, "seed": 3}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with s3_server.serve() as started:
        yield started


@pytest.fixture(autouse=True)
def _healthy(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.heal()


# The server first: workers inherit its address.
@pytest.fixture(scope="module")
def workers(proxy: Proxy) -> Iterator[Cluster]:
    with cluster.local_cluster(devices.plan_workers([], 2)) as started:
        yield started


@pytest.fixture(scope="module")
def cohort(proxy: Proxy) -> RemotePath:
    path = remote("cohorts/cohort.vcz")
    simulate(path, **SIZES, **CHUNKS)
    return path


@pytest.fixture(scope="module")
def undisturbed(
    workers: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Files of the same run on local directories."""
    return run_locally(tmp_path_factory.mktemp("local"), workers)


def run_locally(
    folder: Path, workers: Cluster, config: RunConfig = CONFIG
) -> dict[str, bytes]:
    simulate(folder / "cohort.vcz", **SIZES, **CHUNKS)
    source = str(folder / "cohort.vcz")
    run.run(source, folder / "out", config, contextlib.nullcontext(workers))
    return contents(folder / "out")


def contents(output: Path | RemotePath) -> dict[str, bytes]:
    """Bytes of every file of the published stores."""
    found = {}
    for name in STORES:
        store = publication.resolve(output / name)
        for key in files_below(store):
            found[f"{name}/{key}"] = (store / key).read_bytes()
    return found


def start(cohort: RemotePath, output: RemotePath, workers: Cluster, **options: Any):
    nothing = contextlib.nullcontext(workers)
    return run.run(str(cohort), output, CONFIG, nothing, **options)


@pytest.mark.soak
def test_run__same_bytes_as_on_local_files_on_workers(
    workers: Cluster, cohort: RemotePath, undisturbed: dict[str, bytes]
):
    output = remote("workers/out")
    start(cohort, output, workers)
    assert contents(output) == undisturbed


@pytest.mark.soak
@pytest.mark.parametrize("method", ["likelihood", "neural"])
def test_run__same_bytes_as_on_local_files(
    method: str, cohort: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace_values(CONFIG, "fit", method=method)
    monkeypatch.setattr(training, "DISTILLATION_STEPS", 20)
    output = remote(f"plain-{method}/out")
    serial = contextlib.nullcontext(SerialCluster())
    run.run(str(cohort), output, config, serial)
    assert contents(output) == run_locally(tmp_path, SerialCluster(), config)
    summary = json.loads((output / "run.json").read_text())
    assert sorted(item.name for item in output.iterdir()) == [
        summary["location"],
        "run.json",
    ]
    assert all(stage["bytes_read"] > 0 for stage in summary["stages"])
    # Nobody to work: there is nothing left to do.
    nobody: Any = None
    again = run.run(str(cohort), output, config, nobody, resume=True)
    assert again.summary == summary
    shares, *_ = export.export_admixture(output / "ancestry.zarr", tmp_path / "q")
    assert np.loadtxt(shares).shape == (80, 2)
    with pytest.raises(InputError, match="is remote; name files of this machine"):
        export.export_admixture(output / "ancestry.zarr", output / "q")


@pytest.mark.soak
def test_run__with_a_tenth_of_requests_refused_and_a_restart(
    proxy: Proxy, workers: Cluster, cohort: RemotePath, undisturbed: dict[str, bytes]
):
    output = remote("disturbed/out")
    proxy.fail_some("503", 0.1)
    proxy.written.clear()

    def restart() -> None:
        wait_for(lambda: begun(proxy, "rounds/search.json"))
        proxy.stop()
        time.sleep(10)
        proxy.start()

    restarter = threading.Thread(target=restart)
    restarter.start()
    start(cohort, output, workers)
    restarter.join()
    assert len(proxy.failed) > 30
    proxy.heal()
    assert contents(output) == undisturbed


COHORT = ("cohort.vcz/call_genotype/1.0.0", "chunk 1.0.0 of array call_genotype")
PREPARED = (
    "prepared.zarr/call_genotype_packed/0.0",
    "chunk 0.0 of array call_genotype_packed",
)
CANDIDATES = (
    "candidates.zarr/call_genotype_packed/0.0",
    "chunk 0.0 of array call_genotype_packed",
)
# What always fails once an object was written, and how the error names it.
OBJECTS = {
    "fingerprint": ("", *COHORT),
    "packing": ("inputs.json", *COHORT),
    "selection": ("prepared.zarr/.zgroup", *CANDIDATES),
    "fit": ("prepared.zarr/.zmetadata", *PREPARED),
    "train": ("projector.npz", *PREPARED),
    "apply": (
        "model.zarr/.zmetadata",
        "model.zarr/variant_encoder_projection/0.0",
        "chunk 0.0 of array variant_encoder_projection",
    ),
}


@pytest.fixture(scope="module")
def impatient(proxy: Proxy) -> Iterator[Cluster]:
    """Workers that repeat a request for few seconds."""
    with (
        s3_server.patience(4),
        cluster.local_cluster(devices.plan_workers([], 2)) as started,
    ):
        yield started


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["403", "500", "503", "stall", "truncate"])
@pytest.mark.parametrize("what", OBJECTS)
def test_run__publishes_nothing_where_a_chunk_always_fails(
    fault: str, what: str, proxy: Proxy, impatient: Cluster, cohort: RemotePath
):
    after, part, name = OBJECTS[what]
    output = remote(f"failing-{fault}-{what.replace(' ', '-')}/out")
    proxy.written.clear()

    def chooses(method: str, path: str) -> bool:
        return method == "GET" and part in path and (not after or begun(proxy, after))

    proxy.fail(fault, chooses)
    with pytest.raises(InputError, match=rf"{name} cannot be read \(.*; check the URL"):
        start(cohort, output, impatient)
    assert proxy.failed
    proxy.heal()
    assert not (output / "run.json").exists()
    if what != "packing":
        # Blocks of people whose chunks could be read are kept.
        assert output.exists() == (what != "fingerprint")


@pytest.mark.soak
def test_project__from_published_stores_to_a_published_store(
    workers: Cluster, cohort: RemotePath, undisturbed: dict[str, bytes]
):
    output = remote("stages")
    nothing = contextlib.nullcontext(workers)
    places = [output / f"{name}.zarr" for name in ("prepared", "model", "ancestry")]
    prepare_stage.prepare_only(str(cohort), places[0], CONFIG, nothing)
    fit_stage.fit_only(places[0], places[1], CONFIG, nothing)
    projection.project(places[1], str(cohort), places[2], CONFIG, nothing)
    real = publication.resolve(places[2])
    found = Store.open(real, "ancestry").read("sample_ancestry_proportion")
    assert found.shape == (80, 2)
    assert len(list(output.iterdir())) == 6
    with pytest.raises(InputError, match="exists already; pass --overwrite"):
        projection.project(places[1], str(cohort), places[2], CONFIG, nothing)


def begun(proxy: Proxy, part: str) -> bool:
    return any(part in path for path in proxy.written)


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# A run as its own process; see tests/test_pipeline_faults.py.
DRIVER = """
if __name__ == "__main__":
    import sys
    from pipeline import cluster, devices, lock, run
    from pipeline.location import locate
    from tests.test_pipeline_s3_run import CONFIG

    source, output, mode = sys.argv[1:]
    lock.STALE_SECONDS = 3.0
    started = cluster.local_cluster(devices.plan_workers([], 2))
    run.run(source, locate(output), CONFIG, started, resume=mode == "resume")
"""


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["fit", "train"])
def test_run__resumes_after_the_death_of_its_driver(
    stage: str,
    proxy: Proxy,
    cohort: RemotePath,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
):
    script, output = tmp_path / "driver.py", remote(f"killed-{stage}/out")
    script.write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(script), str(cohort), str(output)]
    proxy.written.clear()
    driver = subprocess.Popen(
        [*command, "start"], env=environment, start_new_session=True
    )
    sign = {"fit": "rounds/search.json", "train": "rounds/encoder/projector.npz"}
    wait_for(lambda: begun(proxy, sign[stage]))
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (output / "run.json").exists()
    time.sleep(4)
    proxy.written.clear()
    subprocess.run([*command, "resume"], env=environment, check=True)
    assert not begun(proxy, "prepared.zarr")
    assert contents(output) == undisturbed
