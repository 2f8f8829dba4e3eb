from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline import cohort_metadata
from pipeline.errors import InputError
from pipeline.location import locate
from tests.helpers import random_genotypes, text, write_cohort

CALLS = random_genotypes(20, 12)


def _write(path: Path, **changes: Any) -> str:
    return write_cohort(path / "cohort.vcz", random_genotypes(20, 12), **changes)


def _check(url: str | Path) -> None:
    metadata = cohort_metadata.read_metadata(locate(str(url)))
    cohort_metadata.check_arrays(str(url), metadata)


@pytest.mark.parametrize("consolidated", [True, False])
def test_read_metadata__is_the_same_however_it_is_stored(tmp_path, consolidated):
    url = _write(tmp_path, consolidated=consolidated, attributes={"source": "here"})
    assert cohort_metadata.is_consolidated(Path(url)) is consolidated
    metadata = cohort_metadata.read_metadata(Path(url))
    assert metadata[".zattrs"] == {"source": "here"}
    assert metadata["call_genotype/.zarray"]["shape"] == [20, 12, 2]
    assert metadata["sample_id/.zattrs"] == {"_ARRAY_DIMENSIONS": ["samples"]}
    cohort_metadata.check_arrays(url, metadata)


def test_read_metadata__refuses_a_missing_store(tmp_path):
    with pytest.raises(InputError, match="nowhere.vcz: no such store; check the path"):
        _check(tmp_path / "nowhere.vcz")


def test_read_metadata__refuses_a_file(tmp_path):
    path = tmp_path / "cohort.vcf.gz"
    path.touch()
    with pytest.raises(InputError, match="is a file, not a VCF Zarr.*import"):
        _check(path)


def test_read_metadata__refuses_a_directory_that_is_not_zarr(tmp_path):
    with pytest.raises(InputError, match="is not a Zarr group"):
        _check(tmp_path)


def test_read_metadata__refuses_a_zarr_array(tmp_path):
    zarr.save_array(str(tmp_path / "array"), np.zeros(3))
    with pytest.raises(InputError, match="is a single Zarr array"):
        _check(tmp_path / "array")


def test_read_metadata__refuses_zarr_v3(tmp_path):
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(InputError, match="zarr format 3.*without --zarr-format 3"):
        _check(tmp_path)


@pytest.mark.parametrize("consolidated", [True, False])
def test_check_arrays__refuses_what_is_not_vcf_zarr(tmp_path, consolidated):
    url = _write(
        tmp_path, consolidated=consolidated, sample_id=None, variant_contig=None
    )
    with pytest.raises(InputError, match="it lacks sample_id, variant_contig; conv"):
        _check(url)


def test_check_arrays__refuses_wrong_dimensions(tmp_path):
    url = _write(tmp_path, dims={"call_genotype": ["samples", "variants", "ploidy"]})
    with pytest.raises(
        InputError,
        match=r"call_genotype has dimensions \(samples, variants, ploidy\), not \(var",
    ):
        _check(url)


def test_check_arrays__refuses_arrays_of_different_lengths(tmp_path):
    url = _write(tmp_path, sample_id=text([f"s{i}" for i in range(11)]))
    with pytest.raises(InputError, match="sample_id has 11 samples, other arrays 12"):
        _check(url)


@pytest.mark.parametrize("dtype", ["f4", "u1", "?"])
def test_check_arrays__refuses_genotypes_that_are_not_signed_integers(tmp_path, dtype):
    genotypes = random_genotypes(20, 12, missing=0).astype(dtype)
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    with pytest.raises(InputError, match="call_genotype has dtype .*signed integers"):
        _check(url)


def test_check_arrays__refuses_text_positions(tmp_path):
    url = _write(tmp_path, variant_position=np.array(["1"] * 20))
    with pytest.raises(InputError, match="variant_position has dtype <U1.*integers"):
        _check(url)


@pytest.mark.parametrize("ploidy", [3, 4])
def test_check_arrays__refuses_higher_ploidy(tmp_path, ploidy):
    genotypes = np.zeros((20, 12, ploidy), dtype=np.int8)
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    with pytest.raises(
        InputError, match=f"ploidy {ploidy}, and at most 2 is supported"
    ):
        _check(url)


def test_check_arrays__takes_haploid_and_mixed_ploidy(tmp_path):
    genotypes = np.zeros((20, 12, 1), dtype=np.int8)
    _check(write_cohort(tmp_path / "haploid.vcz", genotypes))
    url = _write(tmp_path, consolidated=False)
    zarr.open(url)["call_genotype"].attrs["mixed_ploidy"] = True
    _check(url)


def _dosages(path, values=None, **changes):
    values = np.zeros((20, 12), np.float32) if values is None else values
    genotypes = random_genotypes(20, 12)
    options = {"call_genotype": None, "call_dosage": values, **changes}
    return write_cohort(path / "cohort.vcz", genotypes, **options)


@pytest.mark.parametrize("consolidated", [True, False])
def test_check_arrays__takes_dosages_in_place_of_genotypes(tmp_path, consolidated):
    _check(_dosages(tmp_path, consolidated=consolidated))


def test_check_arrays__takes_no_notice_of_dosages_beside_genotypes(tmp_path):
    _check(_dosages(tmp_path, np.zeros((3, 3), np.uint8), call_genotype=CALLS))


@pytest.mark.parametrize("dtype", ["u1", "i2"])
def test_check_arrays__refuses_dosages_that_are_no_fractions(tmp_path, dtype):
    url = _dosages(tmp_path, np.zeros((20, 12), dtype))
    with pytest.raises(InputError, match=r"call_dosage has dtype .*floating-point"):
        _check(url)


def test_check_arrays__refuses_dosages_of_each_allele(tmp_path):
    dims = {"call_dosage": ["variants", "samples", "alleles"]}
    url = _dosages(tmp_path, np.zeros((20, 12, 2), "f4"), dims=dims)
    message = r"call_dosage has dimensions \(variants, samples, alleles\), not \(v"
    with pytest.raises(InputError, match=message):
        _check(url)


def test_check_arrays__refuses_a_store_without_any_calls(tmp_path):
    with pytest.raises(InputError, match="it lacks call_genotype; convert"):
        _check(_dosages(tmp_path, call_dosage=None))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((0, 12, 2), "has no variants"), ((20, 0, 2), "has no samples")],
)
def test_check_arrays__refuses_an_empty_cohort(tmp_path, shape, message):
    url = write_cohort(tmp_path / "cohort.vcz", np.zeros(shape, dtype=np.int8))
    with pytest.raises(InputError, match=message):
        _check(url)


def test_read_metadata__refuses_damaged_metadata(tmp_path):
    url = _write(tmp_path)
    (Path(url) / ".zmetadata").write_text("{")
    with pytest.raises(InputError, match=r"\.zmetadata: is not JSON"):
        _check(url)


def test_read_metadata__error_is_one_line(tmp_path):
    with pytest.raises(InputError) as caught:
        _check(tmp_path)
    assert "\n" not in str(caught.value)


def test_read_metadata__says_that_a_store_cannot_be_read(tmp_path, monkeypatch):
    path = Path(_write(tmp_path))

    def refuse(path: Path) -> bytes:
        raise PermissionError("403")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(403\); check permissions"):
        cohort_metadata.read_metadata(path)
