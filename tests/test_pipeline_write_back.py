"""Ancestry in the cohort's own store: nothing else touched, whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sgkit
import xarray as xr
import zarr

from pipeline import schema, write_back
from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.write_back import ANCESTRY, WriteBack
from tests import helpers
from tests.dask_processes import ROOT
from tests.test_pipeline_cli import assert_refused, call

GENOTYPES = helpers.random_genotypes(40, 12)


def ancestry(path: Path, k: int = 3, *, named: bool = True, stamp: str = "one") -> Path:
    """An ancestry store of the helpers' people."""
    rng = np.random.default_rng(len(stamp))
    store = Store.create(path, "ancestry")
    q = rng.dirichlet(np.ones(k), GENOTYPES.shape[1]).astype(np.float32)
    store.write(ANCESTRY, schema.ANCESTRY[ANCESTRY], q)
    ids = np.array([f"s{i}" for i in range(len(q))])
    store.write("sample_id", schema.PREPARED["sample_id"], ids)
    if named:
        names = np.array([f"population {i}" for i in range(k)])
        store.write("population_id", schema.POPULATION_ID, names)
    store.set_attrs(stamp=stamp)
    store.finish()
    return path


def cohort(path: Path, **changes: Any) -> Path:
    helpers.write_cohort(str(path), GENOTYPES, **changes)
    return path


def files(path: Path) -> dict[str, bytes]:
    found = (item for item in path.rglob("*") if item.is_file())
    return {str(item.relative_to(path)): item.read_bytes() for item in found}


def others(path: Path) -> dict[str, bytes]:
    """Every file that is not of what is written."""
    mine = (ANCESTRY, "population_id", ".zmetadata")
    return {k: v for k, v in files(path).items() if k.partition("/")[0] not in mine}


@pytest.mark.parametrize("consolidated", [True, False])
def test_write__touches_nothing_else(tmp_path: Path, consolidated: bool):
    path = cohort(tmp_path / "cohort.vcz", consolidated=consolidated)
    before = files(path)
    found = ancestry(tmp_path / "a.zarr")
    WriteBack().write(str(path), found)
    q = Store.open(found, "ancestry").read(ANCESTRY)
    before.pop(".zmetadata", None)
    assert others(path) == before
    ds = sgkit.load_dataset(str(path), consolidated=consolidated)
    np.testing.assert_array_equal(ds[ANCESTRY].values, q)
    assert ds[ANCESTRY].dims == ("samples", "populations")
    assert ds[ANCESTRY].chunks == ((5, 5, 2), (3,))
    assert ds["population_id"].values.tolist()[0] == "population 0"
    if consolidated:
        written = (path / ".zmetadata").read_bytes()
        zarr.consolidate_metadata(str(path))
        assert (path / ".zmetadata").read_bytes() == written
    helpers.open_cohort(str(path))


def test_write__replaces_with_overwrite_alone(tmp_path: Path):
    path = cohort(tmp_path / "cohort.vcz")
    WriteBack().write(str(path), ancestry(tmp_path / "a.zarr"))
    first = files(path)
    # Its stamp tells a run that resumes that they are its own.
    WriteBack(resume=True).write(str(path), tmp_path / "a.zarr")
    assert files(path) == first
    other = ancestry(tmp_path / "b.zarr", k=2, named=False, stamp="other")
    for back in (WriteBack(), WriteBack(resume=True)):
        with pytest.raises(InputError, match="already; pass --overwrite to replace it"):
            back.write(str(path), other)
    assert files(path) == first
    WriteBack(overwrite=True).write(str(path), other)
    assert others(path) == {k: v for k, v in first.items() if k in others(path)}
    assert not (path / "population_id").exists()
    ds = xr.open_zarr(path)
    assert ds.sizes["populations"] == 2
    assert "population_id" not in ds


def test_check__populations_of_others(tmp_path: Path):
    path = cohort(tmp_path / "cohort.vcz")
    group = zarr.open_group(str(path))
    group.array("variant_share", np.zeros((40, 4))).attrs["_ARRAY_DIMENSIONS"] = [
        "variants",
        "populations",
    ]
    with pytest.raises(InputError, match="has 4 populations in variant_share, and 3"):
        WriteBack().check(str(path), "x", 3, named=False)
    WriteBack().check(str(path), "x", 4, named=False)
    group.array("population_id", np.zeros(4)).attrs["_ARRAY_DIMENSIONS"] = [
        "populations"
    ]
    with pytest.raises(InputError, match="a population_id that is not of streamixture"):
        WriteBack(overwrite=True).check(str(path), "x", 4, named=True)
    WriteBack().write(str(path), ancestry(tmp_path / "a.zarr", 4, named=False))
    assert group["population_id"].shape == (4,)


def test_write__refuses_other_people(tmp_path: Path):
    ids = helpers.text([f"t{i}" for i in range(12)])
    path = cohort(tmp_path / "cohort.vcz", sample_id=ids)
    before = files(path)
    with pytest.raises(InputError, match="no longer has the people"):
        WriteBack().write(str(path), ancestry(tmp_path / "a.zarr"))
    assert files(path) == before


# Writes to a copy of the store for each of the calls that change it, and is killed
# there: each copy by a child, so that imports are paid for once.
KILLER = """
import os, pathlib, shutil, signal, sys
from pipeline import write_back
left = 0
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
pathlib.Path.rename = counted(pathlib.Path.rename)
os.replace = counted(os.replace)
write_back.delete_tree = counted(write_back.delete_tree)
path, found = map(pathlib.Path, sys.argv[1:])
for step in range(100):
    copy = path.with_name(f"killed-{step:02}.vcz")
    shutil.copytree(path, copy)
    left = step
    child = os.fork()
    if not child:
        write_back.WriteBack(overwrite=True).write(str(copy), found)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""


@pytest.mark.parametrize("consolidated", [True, False])
def test_write__killed_at_any_step(tmp_path: Path, consolidated: bool):
    path = cohort(tmp_path / "cohort.vcz", consolidated=consolidated)
    WriteBack().write(str(path), ancestry(tmp_path / "a.zarr"))
    untouched = others(path)
    old = helpers.read_array(path, ANCESTRY)
    other = ancestry(tmp_path / "b.zarr", k=2, stamp="other")
    new = Store.open(other, "ancestry").read(ANCESTRY)
    command = [sys.executable, "-c", KILLER, str(path), str(other)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": ROOT})
    *killed, finished = sorted(tmp_path.glob("killed-*.vcz"))
    assert len(killed) >= 6
    seen = set()
    for copy in killed:
        left = {k: v for k, v in others(copy).items() if not k.startswith(".stream")}
        left.pop(".zmetadata.partial", None)
        assert left == untouched
        for reader in {False, consolidated}:
            ds = sgkit.load_dataset(str(copy), consolidated=reader)
            np.testing.assert_array_equal(ds["call_genotype"].values, GENOTYPES)
            if ANCESTRY not in ds:
                seen.add("none")
                continue
            values = ds[ANCESTRY].values
            is_new = values.shape == new.shape
            seen.add("new" if is_new else "old")
            np.testing.assert_array_equal(values, new if is_new else old)
        WriteBack(overwrite=True).write(str(copy), other)
        assert files(copy).keys() - {".zmetadata.partial"} == files(finished).keys()
    assert seen == {"none", "old", "new"}
    assert others(finished) == untouched
    np.testing.assert_array_equal(helpers.read_array(finished, ANCESTRY), new)


def test_run__decides_before_any_work(tmp_path: Path):
    path, output = cohort(tmp_path / "cohort.vcz"), tmp_path / "out"
    options = ("--output", output, "-k", "3", "--write-to-cohort")
    result = call("run", "none.bed", *options)
    assert_refused(result, "is no store, so no ancestry can be written to it")
    WriteBack().write(str(path), ancestry(tmp_path / "a.zarr"))
    result = call("run", path, *options)
    assert_refused(result, f"has {ANCESTRY} already; pass --overwrite")
    assert not output.exists()


def test_run__read_only_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, output = cohort(tmp_path / "cohort.vcz"), tmp_path / "out"

    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(write_back.tempfile, "TemporaryDirectory", refuse)
    result = call("run", path, "--output", output, "-k", "2", "--write-to-cohort")
    assert_refused(result, "may not be written to (Permission denied); ask its owner")
    assert not output.exists()


def test_view__vcztools_still_reads_the_store(tmp_path: Path):
    # vcztools reads stores in which all arrays have the same chunks of variants.
    path = cohort(tmp_path / "cohort.vcz", chunks=(40, 5))
    command = [str(Path(sys.executable).parent / "vcztools"), "view", str(path)]
    before = subprocess.run(command, capture_output=True, check=True).stdout
    WriteBack().write(str(path), ancestry(tmp_path / "a.zarr"))
    (path / ".streamixture" / "built").mkdir(parents=True)
    after = subprocess.run(command, capture_output=True, check=True).stdout
    assert _records(after) == _records(before)
    assert len(_records(after)) == 41


def _records(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if not line.startswith(b"##")]
