import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import sgkit
import xarray as xr

from pipeline import vcf_zarr
from pipeline.errors import InputError
from tests.helpers import random_genotypes

CALLS = random_genotypes(7, 5)


def variables() -> xr.Dataset:
    contig = np.array([0, 0, 0, 1, 1, 1, 1], np.int32)
    position = np.array([5, 6, 9, 1, 2, 3, 4], np.int32)
    alleles = np.array([["A", "C"]] * 6 + [["G", "TTT"]])
    people = [f"person{number}" for number in range(5)]
    return vcf_zarr.cohort_variables(["1", "X"], contig, position, alleles, people)


def genotypes(rows: slice, columns: slice) -> vcf_zarr.Genotypes:
    return CALLS[rows, columns]


def write(path: Path, **chunks: Any) -> xr.Dataset:
    vcf_zarr.write_vcf_zarr(path, variables(), genotypes, **chunks)
    return sgkit.load_dataset(path, mask_and_scale=False)


def test_write_vcf_zarr__is_read_back_by_sgkit(tmp_path):
    dataset = write(tmp_path / "x.vcz")
    assert dataset.attrs["vcf_zarr_version"] == "0.2"
    assert dataset.call_genotype.dtype == np.int8
    np.testing.assert_array_equal(dataset.call_genotype, CALLS)
    assert dataset.contig_id.values.tolist() == ["1", "X"]
    assert dataset.variant_contig.values.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert dataset.variant_position.values.tolist() == [5, 6, 9, 1, 2, 3, 4]
    assert dataset.variant_allele.values[-1].tolist() == ["G", "TTT"]
    assert dataset.variant_id.values[[0, -1]].tolist() == ["1:5:A:C", "X:4:G:TTT"]
    assert dataset.sample_id.values[[0, -1]].tolist() == ["person0", "person4"]


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (7, 5), (100, 100)])
def test_write_vcf_zarr__any_chunks_hold_the_same(tmp_path, sizes):
    asked: list[tuple[int, int]] = []

    def watched(rows: slice, columns: slice) -> vcf_zarr.Genotypes:
        asked.append((rows.stop - rows.start, columns.stop - columns.start))
        return CALLS[rows, columns]

    chunks: dict[str, Any] = {"chunk_variants": sizes[0], "chunk_samples": sizes[1]}
    vcf_zarr.write_vcf_zarr(tmp_path / "x.vcz", variables(), watched, **chunks)
    dataset = sgkit.load_dataset(tmp_path / "x.vcz", mask_and_scale=False)
    np.testing.assert_array_equal(dataset.call_genotype, CALLS)
    expected = (min(sizes[0], 7), min(sizes[1], 5))
    assert dataset.call_genotype.data.chunksize == (*expected, 2)
    assert max(asked) == expected


def test_write_vcf_zarr__has_no_fill_value_and_consolidated_metadata(tmp_path):
    write(tmp_path / "x.vcz")
    metadata = json.loads((tmp_path / "x.vcz" / ".zmetadata").read_text())["metadata"]
    for name in ("call_genotype", "variant_position", "variant_contig"):
        assert metadata[f"{name}/.zarray"]["fill_value"] is None
        assert metadata[f"{name}/.zarray"]["zarr_format"] == 2
    # A reader that does mask and scale must find reference alleles all the same.
    masked = xr.open_zarr(tmp_path / "x.vcz").call_genotype
    np.testing.assert_array_equal(masked, CALLS)


def test_write_vcf_zarr__same_genotypes_same_bytes(tmp_path, monkeypatch):
    calls = random_genotypes(4000, 500)
    contig = np.zeros(4000, np.int32)
    position = np.arange(1, 4001, dtype=np.int32)
    alleles = np.array([["A", "C"]] * 4000)
    people = [f"person{number}" for number in range(500)]
    wide = vcf_zarr.cohort_variables(["1"], contig, position, alleles, people)
    stored = set()
    for number, use_threads in enumerate([False, True, True, None]):
        # bio2zarr switches the threads off when it is imported.
        monkeypatch.setattr(numcodecs.blosc, "use_threads", use_threads)
        path = tmp_path / str(number)
        vcf_zarr.write_vcf_zarr(path, wide, lambda rows, columns: calls[rows, columns])
        assert numcodecs.blosc.use_threads is use_threads
        stored.add((path / "call_genotype" / "0.0.0").read_bytes())
    assert len(stored) == 1


def test_write_vcf_zarr__refuses_an_existing_path(tmp_path):
    write(tmp_path / "x.vcz")
    with pytest.raises(ValueError, match="contains a group"):
        write(tmp_path / "x.vcz")


def test_new_store__makes_parents_and_honours_the_umask(tmp_path):
    with vcf_zarr.new_store(tmp_path / "a" / "b") as path:
        path.mkdir()
        (path.parent / "scratch").touch()
    beside = tmp_path / "plain"
    beside.mkdir()
    assert (tmp_path / "a" / "b").stat().st_mode == beside.stat().st_mode
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["b"]


def test_new_store__refuses_and_replaces_an_existing_store(tmp_path):
    path = tmp_path / "x.vcz"
    write(path)
    refusal = pytest.raises(InputError, match="x.vcz already exists; pass --overwrite")
    with refusal, vcf_zarr.new_store(path):
        raise AssertionError("the block ran")
    with vcf_zarr.new_store(path, overwrite=True) as store:
        write(store).close()
        (store / "new").touch()
    assert (path / "new").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.vcz"]


def test_new_store__never_replaces_what_is_not_a_store(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("irreplaceable")
    refusal = pytest.raises(InputError, match="home is not a Zarr store, so")
    with refusal, vcf_zarr.new_store(tmp_path / "home", overwrite=True):
        raise AssertionError("the block ran")
    assert (tmp_path / "home" / "thesis.txt").exists()


def test_new_store__a_failure_keeps_what_was_there(tmp_path):
    path = tmp_path / "x.vcz"
    write(path)

    def fail() -> None:
        with vcf_zarr.new_store(path, overwrite=True) as store:
            write(store)
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        fail()
    np.testing.assert_array_equal(
        sgkit.load_dataset(path, mask_and_scale=False).call_genotype, CALLS
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.vcz"]
