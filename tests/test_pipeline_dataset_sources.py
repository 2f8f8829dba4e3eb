"""Datasets of stores that lack chunks and fill values, as bio2zarr 0.2 writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import fsspec
import numpy as np
import pytest
import sgkit
import xarray as xr
import zarr

from pipeline import datasets
from pipeline.errors import InputError
from tests import helpers

NAMES = {
    name: name
    for name in (
        *("call_genotype", "call_dosage", "sample_id", "contig_id"),
        *("variant_contig", "variant_position", "variant_allele"),
    )
}
OPENERS: dict[str, Callable[[str], xr.Dataset]] = {
    "sgkit": sgkit.load_dataset,
    "zarr": xr.open_zarr,
    "engine": lambda path: xr.open_dataset(path, engine="zarr", chunks={}),
    "lazily indexed": lambda path: xr.open_zarr(path, chunks=None),
    "lazily indexed, cached": lambda path: xr.open_dataset(path, engine="zarr"),
    "inline": lambda path: xr.open_dataset(
        path, engine="zarr", chunks={}, inline_array=True
    ),
    "store": lambda path: xr.open_zarr(zarr.DirectoryStore(path)),
}
CHANGES: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "as it is": lambda ds: ds,
    "subset": lambda ds: ds.isel(samples=slice(1, 5), variants=slice(2, 12)),
    "chunks": lambda ds: ds.chunk(variants=5, samples=2),
    "merged": lambda ds: xr.merge([ds, {"x": ("samples", np.zeros(6))}]),
    "shuffled": lambda ds: ds.isel(variants=[3, 1, 11, 5, 8]),
}


@pytest.fixture(autouse=True)
def _junk(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory holds what nobody wrote, as it may at any time."""

    def full(like: Any, *args: Any, **options: Any) -> Any:
        made = empty_like(like, *args, **options)
        if made.dtype.kind in "iuf":
            made.fill(77)
        return made

    empty_like = np.empty_like
    monkeypatch.setattr(np, "empty_like", full)


def write(
    path: Path, *, consolidated: bool = True, lost: tuple[str, ...] = ()
) -> tuple[str, np.ndarray]:
    """A store of two contigs as bio2zarr 0.2 writes it, and the numbers of these.

    Chunks of three variants: two on the first contig, one on both, one on the second.
    """
    genotypes = helpers.random_genotypes(12, 6, missing=0)
    contigs = np.array([0] * 8 + [1] * 4, np.int8)
    named = helpers.text(["1", "2"])
    helpers.write_cohort(
        path, genotypes, chunks=(3, 3), variant_contig=contigs, contig_id=named
    )
    group = zarr.open_group(str(path))
    attributes = group["variant_contig"].attrs.asdict()
    group.create_dataset(
        "variant_contig", data=contigs, chunks=3, fill_value=None, overwrite=True
    ).attrs.update(attributes)
    index = [[0, 0, 1, 3, 3, 3], [1, 0, 4, 6, 6, 3], [2, 0, 7, 8, 8, 2]]
    index += [[2, 1, 1, 1, 1, 1], [3, 1, 2, 4, 4, 3]]
    stored = group.create_dataset("region_index", data=np.array(index, np.int32))
    stored.attrs["_ARRAY_DIMENSIONS"] = ["region_index_values", "region_index_fields"]
    for key in ("variant_contig/0", "variant_contig/1", *lost):
        (path / key).unlink()
    (path / ".zmetadata").unlink()
    if consolidated:
        zarr.consolidate_metadata(str(path))
    return str(path), contigs


@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated")
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("opener", OPENERS)
def test_select_cohort__reads_the_contigs_that_were_left_out(
    tmp_path: Path, opener: str, consolidated: bool
):
    path, contigs = write(tmp_path / "c.vcz", consolidated=consolidated)
    ds = OPENERS[opener](path)
    rows = ds.assign(row=("variants", np.arange(12)))
    for change in CHANGES.values():
        changed = change(rows)
        found = datasets.select_cohort(changed, NAMES)["variant_contig"].values
        np.testing.assert_array_equal(found, contigs[changed["row"].values])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("opener", OPENERS)
def test_select_cohort__refuses_absent_genotypes(
    tmp_path: Path, opener: str, change: str
):
    path, _ = write(tmp_path / "c.vcz", lost=("call_genotype/1.1.0",))
    ds = CHANGES[change](OPENERS[opener](path))
    with pytest.raises(
        InputError, match=r"c\.vcz: chunk 1\.1\.0 of array call_genotype"
    ):
        datasets.select_cohort(ds, NAMES)


def test_select_cohort__says_what_to_do_about_absent_genotypes(tmp_path: Path):
    path, _ = write(tmp_path / "c.vcz", lost=("call_genotype/1.1.0",))
    with pytest.raises(InputError, match="`streamixture import` or with larger chunks"):
        datasets.select_cohort(sgkit.load_dataset(path), NAMES)


@pytest.mark.parametrize("key", ["variant_position/0", "sample_id/0", "contig_id/0"])
def test_select_cohort__refuses_other_absent_chunks(tmp_path: Path, key: str):
    path, _ = write(tmp_path / "c.vcz", lost=(key,))
    with pytest.raises(InputError, match="chunk 0 of array .* is absent"):
        datasets.select_cohort(sgkit.load_dataset(path), NAMES)


@pytest.mark.parametrize("load", [xr.Dataset.load, xr.Dataset.persist])
def test_select_cohort__refuses_what_was_loaded_from_such_a_store(
    tmp_path: Path, load: Callable[[xr.Dataset], xr.Dataset]
):
    path, contigs = write(tmp_path / "c.vcz")
    ds = load(sgkit.load_dataset(path))
    with pytest.raises(
        InputError, match=r"variant_contig was read into memory from .*"
    ):
        datasets.select_cohort(ds, NAMES)
    # Values that the user gives are not those of the store.
    given = ds.assign(variant_contig=("variants", contigs))
    datasets.select_cohort(given, NAMES)


def test_select_cohort__finds_arrays_in_graphs_made_by_hand(tmp_path: Path):
    path, contigs = write(tmp_path / "c.vcz", lost=("call_genotype/0.0.0",))
    ds = sgkit.load_dataset(path)
    calls = zarr.open_array(path, mode="r", path="call_genotype")
    for inline in (True, False):
        by_hand = da.from_array(calls, inline_array=inline).rechunk((4, 2, 2))
        made = ds.assign(call_genotype=(ds["call_genotype"].dims, by_hand + 0))
        with pytest.raises(InputError, match=r"chunk 0\.0\.0 of array call_genotype"):
            datasets.select_cohort(made, NAMES)


def test_select_cohort__finds_stores_behind_fsspec(tmp_path: Path):
    path, contigs = write(tmp_path / "c.vcz")
    memory = fsspec.filesystem("memory")
    memory.put(path, "/of-a-test/c.vcz", recursive=True)
    url = "memory://of-a-test/c.vcz"
    try:
        mapper = fsspec.get_mapper(url)
        for ds in (sgkit.load_dataset(url), xr.open_zarr(mapper)):
            found = datasets.select_cohort(ds, NAMES)["variant_contig"].values
            np.testing.assert_array_equal(found, contigs)
        del mapper["call_genotype/1.1.0"]
        for ds in (sgkit.load_dataset(url), xr.open_zarr(mapper)):
            with pytest.raises(InputError, match=r"c\.vcz: chunk 1\.1\.0 of array"):
                datasets.select_cohort(ds, NAMES)
    finally:
        memory.rm("/of-a-test", recursive=True)


def test_select_cohort__whole_stores_stay_lazy(tmp_path: Path):
    genotypes = helpers.random_genotypes(12, 6)
    path = helpers.write_cohort(tmp_path / "c.vcz", genotypes)
    with xr.set_options(keep_attrs=True):
        found = datasets.select_cohort(sgkit.load_dataset(path), NAMES)
    assert all(variable.chunks for variable in found.variables.values())
