import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import dask
import fsspec
import numcodecs
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.cohort import Cohort, open_cohort
from pipeline.errors import InputError
from pipeline.store import check_genotypes
from tests.helpers import (
    forbid_dask,
    random_genotypes,
    text,
    write_cohort,
    write_dosages,
)


def _write(path: Path, **changes: Any) -> str:
    return write_cohort(path / "cohort.vcz", random_genotypes(20, 12), **changes)


def test_open_cohort__reads_every_key(tmp_path):
    genotypes = random_genotypes(20, 12)
    url = write_cohort(
        tmp_path / "cohort.vcz",
        genotypes,
        contig_id=text(["chr1", "chr2"]),
        variant_contig=np.repeat([0, 1], 10),
        variant_allele=text([["A", "C"]] * 19 + [["ACGT", ""]]),
    )
    cohort = open_cohort(url)
    assert (cohort.n_variants, cohort.n_samples) == (20, 12)
    assert (cohort.variant_chunk, cohort.sample_chunk) == (7, 5)
    assert cohort.sample_ids.tolist() == [f"s{i}" for i in range(12)]
    assert cohort.contigs.tolist() == ["chr1"] * 10 + ["chr2"] * 10
    assert cohort.positions.tolist() == list(range(1000, 21000, 1000))
    assert cohort.positions.dtype == np.int64
    assert cohort.alleles.reference.tolist() == ["A"] * 19 + ["ACGT"]
    assert cohort.alleles.alternate.tolist() == ["C"] * 19 + [""]
    assert cohort.variant_ids.tolist() == [f"rs{i}" for i in range(20)]
    assert {cohort.sample_ids.dtype.kind, cohort.variant_ids.dtype.kind} == {"U"}
    np.testing.assert_array_equal(cohort.dataset["call_genotype"], genotypes)


@pytest.mark.parametrize("consolidated", [True, False])
def test_open_cohort__computes_nothing_with_dask(tmp_path, consolidated):
    url = _write(tmp_path, consolidated=consolidated)
    with dask.config.set(scheduler=forbid_dask):
        cohort = open_cohort(Path(url))
        assert cohort.sample_ids.size == 12
        assert cohort.biallelic_mask.all()
        assert len(cohort.fingerprint()) == 64
        with pytest.raises(AssertionError, match="asked to compute"):
            cohort.dataset["call_genotype"].values  # noqa: B018


def test_open_cohort__keeps_calls_equal_to_the_fill_value(tmp_path):
    genotypes = random_genotypes(20, 12)
    url = write_cohort(tmp_path / "cohort.vcz", genotypes, fill_value=0)
    calls = open_cohort(url).dataset["call_genotype"]
    assert calls.dtype == np.int8
    np.testing.assert_array_equal(calls, genotypes)


@pytest.mark.parametrize("dtype", ["S", "U"])
@pytest.mark.parametrize("compressor", [numcodecs.Blosc("lz4"), numcodecs.GZip(1)])
def test_open_cohort__accepts_fixed_width_text(tmp_path, dtype, compressor):
    url = _write(
        tmp_path,
        compressor=compressor,
        sample_id=np.array([f"né{i}" for i in range(12)])
        if dtype == "U"
        else np.array([f"né{i}".encode() for i in range(12)]),
        contig_id=np.array(["1"], dtype=dtype),
        variant_allele=np.array([["A", "C"]] * 19 + [["G", ""]], dtype=dtype),
        variant_id=None,
    )
    cohort = open_cohort(url)
    assert cohort.sample_ids.tolist() == [f"né{i}" for i in range(12)]
    assert set(cohort.contigs) == {"1"}
    assert cohort.alleles.alternate[-2:].tolist() == ["C", ""]
    assert cohort.biallelic_mask.all()
    assert set(cohort.variant_ids) == {"."}


def test_open_cohort__accepts_contigs_attribute(tmp_path):
    url = _write(tmp_path, contig_id=None, attributes={"contigs": ["chrX"]})
    assert set(open_cohort(url).contigs) == {"chrX"}


def test_open_cohort__allows_duplicated_variants(tmp_path):
    url = _write(tmp_path, variant_position=np.ones(20, dtype=np.int32))
    assert set(open_cohort(url).positions) == {1}


def test_contigs__refuses_an_unnamed_contig(tmp_path):
    contig = np.zeros(20, dtype=np.int8)
    contig[[4, 6]] = -1, 3
    cohort = open_cohort(_write(tmp_path, variant_contig=contig))
    with pytest.raises(InputError, match=r"variant_contig\[4\] is -1.*names 1 contigs"):
        cohort.contigs  # noqa: B018


def test_biallelic_mask__counts_observed_alternate_alleles(tmp_path):
    alleles = [
        ["A", "C", ""],
        ["A", "C", "G"],
        ["A", "", ""],
        ["A", "0", ""],
        ["A", ".", ""],
        ["A", "C", "."],
        ["A", "", "G"],
    ]
    url = write_cohort(
        tmp_path / "cohort.vcz", random_genotypes(7, 3), variant_allele=text(alleles)
    )
    mask = open_cohort(url).biallelic_mask.tolist()
    assert mask == [True, False, True, True, True, True, False]


def test_alleles__of_a_store_with_references_only(tmp_path):
    cohort = open_cohort(_write(tmp_path, variant_allele=text([["A"]] * 20)))
    assert set(cohort.alleles.alternate) == {""}
    assert cohort.biallelic_mask.all()


def test_open_cohort__refuses_an_empty_sample_id(tmp_path):
    url = _write(tmp_path, sample_id=text([*"abcd", "", *"fghijkl"]))
    with pytest.raises(InputError, match="sample_id at 4 is empty; give everybody"):
        open_cohort(url)


def test_open_cohort__refuses_duplicate_sample_ids(tmp_path):
    ids = [f"s{i}" for i in range(12)]
    ids[9] = ids[7] = "s3"
    url = _write(tmp_path, sample_id=text(ids))
    with pytest.raises(InputError, match="sample_id 's3' is at both 3 and 7; rename"):
        open_cohort(url)


def test_open_cohort__refuses_what_xarray_cannot_open(tmp_path):
    url = _write(tmp_path, consolidated=False)
    extra = zarr.open(url).create_dataset("call_DP", shape=(3, 3))
    extra.attrs["_ARRAY_DIMENSIONS"] = ["variants", "samples"]
    with pytest.raises(InputError, match=r"cannot be opened \(conflicting sizes"):
        open_cohort(url)


@pytest.fixture
def remote_genotypes():
    genotypes = random_genotypes(20, 12)
    mapper = fsspec.get_mapper("memory://bucket/cohort.vcz")
    write_cohort(mapper, genotypes)
    yield genotypes
    mapper.fs.rm("/bucket", recursive=True)


def test_open_cohort__reads_a_remote_store(remote_genotypes):
    cohort = open_cohort("memory://bucket/cohort.vcz")
    np.testing.assert_array_equal(cohort.dataset["call_genotype"], remote_genotypes)
    assert len(cohort.fingerprint()) == 64


@pytest.mark.usefixtures("remote_genotypes")
def test_open_cohort__does_not_read_a_refused_chunk_as_reference(monkeypatch):
    cohort = open_cohort("memory://bucket/cohort.vcz")
    answer = MemoryFileSystem.cat_file

    def refuse_genotypes(self, path, *args, **kwargs):
        if "call_genotype/0" in path:
            raise PermissionError("403")
        return answer(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse_genotypes)
    message = r"chunk 0\.\d\.0 of array call_genotype cannot be read \(403\); check"
    with pytest.raises(InputError, match=message):
        cohort.dataset["call_genotype"].values  # noqa: B018


def _fingerprint(path: Path, **changes: Any) -> str:
    return open_cohort(_write(path, **changes)).fingerprint()


def test_fingerprint__names_a_chunk_that_may_not_be_read(tmp_path, monkeypatch):
    cohort = open_cohort(_write(tmp_path))

    answer = zarr.DirectoryStore._fromfile

    def refuse_genotypes(path: str) -> bytes:
        if "call_genotype/0" in path:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return answer(path)

    refusing = staticmethod(refuse_genotypes)
    monkeypatch.setattr(zarr.DirectoryStore, "_fromfile", refusing)
    message = r"chunk \d\.\d\.0 of array call_genotype cannot be read \(Permission d"
    with pytest.raises(InputError, match=message):
        cohort.fingerprint()


def test_fingerprint__does_not_depend_on_path_time_or_other_arrays(tmp_path):
    cohort = open_cohort(_write(tmp_path))
    before = cohort.fingerprint()
    copy = tmp_path / "elsewhere" / "copy.vcz"
    shutil.copytree(cohort.url, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    zarr.open(str(copy)).create_dataset("sample_ancestry_proportion", data=np.ones(12))
    (copy / "call_genotype" / "0.0.0.tmp.partial").write_bytes(b"left behind")
    assert open_cohort(copy).fingerprint() == before


def _changed_call(cohort: Cohort) -> None:
    calls = zarr.open(cohort.url)["call_genotype"]
    calls[19, 11] = 1 - np.clip(calls[19, 11], 0, 1)


def _changed_position(cohort: Cohort) -> None:
    zarr.open(cohort.url)["variant_position"][3] = 3999


def _changed_allele(cohort: Cohort) -> None:
    zarr.open(cohort.url)["variant_allele"][3, 1] = "T"


def _changed_sample_id(cohort: Cohort) -> None:
    zarr.open(cohort.url)["sample_id"][3] = "renamed"


def _changed_fill_value(cohort: Cohort) -> None:
    path = Path(cohort.url) / ".zmetadata"
    metadata = json.loads(path.read_text())
    metadata["metadata"]["call_genotype/.zarray"]["fill_value"] = 1
    path.write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    "change",
    [
        _changed_call,
        _changed_position,
        _changed_allele,
        _changed_sample_id,
        _changed_fill_value,
    ],
)
def test_fingerprint__depends_on_content(tmp_path, change):
    cohort = open_cohort(_write(tmp_path))
    before = cohort.fingerprint()
    change(cohort)
    assert open_cohort(cohort.url).fingerprint() != before


def test_fingerprint__depends_on_chunks(tmp_path):
    assert _fingerprint(tmp_path) != _fingerprint(tmp_path, chunks=(20, 12))


@pytest.mark.parametrize(
    ("lengths", "attributes", "build"),
    [
        ([249250621, 1], {}, "GRCh37"),
        ([248956422, 242193529], {"vcf_meta_information": []}, "GRCh38"),
        (None, {"vcf_meta_information": [["reference", "hg18.fa"]]}, "NCBI36"),
        (None, {"vcf_header": "##contig=<ID=1,length=249250621>\n"}, "GRCh37"),
        (None, {}, "unknown"),
    ],
)
def test_genome_build(tmp_path, lengths, attributes, build):
    url = _write(
        tmp_path,
        attributes=attributes,
        contig_id=text(["chr1", "chr2"]),
        contig_length=None if lengths is None else np.array(lengths, np.int64),
        dims={"contig_length": ["contigs"]},
    )
    with dask.config.set(scheduler=forbid_dask):
        assert open_cohort(url).genome_build == build


def test_fingerprint__covers_dosages_where_they_are_the_calls(tmp_path):
    dosages = np.random.default_rng(0).uniform(0, 2, (20, 12)).astype(np.float32)
    url = write_dosages(tmp_path / "cohort.vcz", dosages)
    cohort = open_cohort(url)
    assert cohort.has_dosages
    assert (cohort.variant_chunk, cohort.sample_chunk) == (7, 5)
    before = cohort.fingerprint()
    zarr.open(url)["call_dosage"][19, 11] = 0.125
    assert open_cohort(url).fingerprint() != before


def test_fingerprint__takes_no_notice_of_dosages_beside_genotypes(tmp_path):
    before = _fingerprint(tmp_path / "without")
    dosages: dict[str, Any] = {"call_dosage": np.ones((20, 12), np.float32)}
    assert _fingerprint(tmp_path / "with", **dosages) == before


@pytest.mark.parametrize(
    "name", ["sample_id", "contig_id", "variant_allele", "variant_position"]
)
def test_open_cohort__absent_chunks_never_are_what_the_memory_held(
    tmp_path: Path, name: str
):
    path = write_cohort(tmp_path / "c.vcz", random_genotypes(9, 4))
    chunk = next(p for p in sorted(Path(path, name).iterdir()) if p.name[0].isdigit())
    chunk.unlink()
    with pytest.raises(InputError, match=f"{chunk.name} of array {name} is absent"):
        open_cohort(path).fingerprint()


def test_check_genotypes__what_a_killed_writer_left_is_no_chunk(tmp_path: Path):
    path = write_cohort(tmp_path / "c.vcz", random_genotypes(9, 4))
    chunk = Path(path, "call_genotype", "1.0.0")
    chunk.rename(chunk.with_name(f"{chunk.name}.0123abcd.partial"))
    with pytest.raises(
        InputError, match=r"chunk 1\.0\.0 of array call_genotype is abs"
    ):
        check_genotypes(path)
