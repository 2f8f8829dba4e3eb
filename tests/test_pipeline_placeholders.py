"""Alleles that stand for none: <NON_REF>, <*> and *, which nobody need carry."""

import logging
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pgenlib
import pytest

from pipeline import ingest
from pipeline.alleles import normalise
from pipeline.calls import count_calls, dosage
from pipeline.cohort import open_cohort
from pipeline.config import QCConfig
from pipeline.decode import decode_rows
from pipeline.distinct import check_distinct
from pipeline.errors import InputError
from pipeline.filling import columns_of
from pipeline.plan import Rows
from pipeline.prepare import prepare
from pipeline.prepared import open_prepared
from pipeline.qc import biallelic_variants, quality_control
from tests import helpers, source_files

OFF = QCConfig(enabled=False)
ON = QCConfig(max_ld_r2=1)
# Alleles of a variant, its real ones, and the number of the alternate.
LISTED: list[tuple[list[str], list[str], int]] = [
    (["G", "A", "<NON_REF>"], ["G", "A"], 1),
    (["G", "A", "<*>"], ["G", "A"], 1),
    (["G", "A", "*"], ["G", "A"], 1),
    (["G", "*", "A"], ["G", "A"], 2),
    (["G", "*", "A", "<NON_REF>"], ["G", "A"], 2),
    (["G", "A", "", ""], ["G", "A"], 1),
    (["G", "<NON_REF>"], ["G", ""], 0),
]


def gvcf(folder: Path, name: str = "c.vcz", **changes: Any) -> tuple[str, np.ndarray]:
    """A store with a variant of each kind listed, ten times, and counts of the A."""
    n = 10 * len(LISTED)
    genotypes = helpers.random_genotypes(n, 24, seed=3)
    plain = genotypes.copy()
    alleles = np.full((n, 4), "", object)
    for row in range(n):
        listed, _, alternate = LISTED[row % len(LISTED)]
        alleles[row, : len(listed)] = listed
        if alternate == 0:
            genotypes[row] = np.minimum(genotypes[row], 0)
        else:
            genotypes[row] = np.where(genotypes[row] == 1, alternate, genotypes[row])
    for (row, person), value in changes.pop("carried", {}).items():
        genotypes[row, person, 0] = value
    plain[genotypes <= 0] = genotypes[genotypes <= 0]
    path = helpers.write_cohort(
        folder / name, genotypes, variant_allele=alleles, **changes
    )
    counts = np.where((plain < 0).any(axis=2), -1, plain.sum(axis=2))
    return path, counts


def keys() -> list[list[str]]:
    return [real for _, real, _ in LISTED] * 10


def unpacked(packed: np.ndarray, n_variants: int) -> np.ndarray:
    """Counts of a packed store, variants by people; missing -1."""
    codes = packed[:, :, None] >> np.arange(0, 8, 2) & 3
    codes = codes.reshape(len(packed), -1)[:, :n_variants].T.astype(int)
    return np.where(codes == 3, -1, codes)


def test_cohort__names_the_two_alleles_that_are_real(tmp_path: Path):
    path, _ = gvcf(tmp_path)
    cohort = open_cohort(path)
    assert cohort.biallelic_mask.all()
    assert np.stack(cohort.alleles, axis=1).tolist() == keys()
    slots = cohort.alternate_slots
    assert slots is not None
    assert slots[:7].tolist() == [1, 1, 1, 2, 2, -1, 0]
    assert normalise("<NON_REF>") == normalise("*") == normalise("<*>") == ""


@pytest.mark.parametrize(
    "alleles", [["G", "A", "T", "<NON_REF>"], ["G", "*", "A", "T"], ["G", "A", "T"]]
)
def test_cohort__two_alternates_are_still_multiallelic(
    tmp_path: Path, alleles: list[str]
):
    listed = helpers.text([alleles] * 3)
    genotypes = helpers.random_genotypes(3, 4)
    cohort = helpers.small_cohort(tmp_path, genotypes, variant_allele=listed)
    assert not cohort.biallelic_mask.any()


def test_calls__are_of_the_two_alleles_that_are_real(tmp_path: Path):
    path, counts = gvcf(tmp_path)
    cohort = open_cohort(path)
    everything, everybody = np.ones(len(counts), bool), np.ones(24, bool)
    found = count_calls(cohort, everything, everybody).genotypes
    expected = [[np.sum(row == each) for each in range(3)] for row in counts]
    np.testing.assert_array_equal(found, expected)
    lazily = dask.compute(dosage(cohort, everything, everybody))[0]
    np.testing.assert_array_equal(lazily, counts)
    index = np.arange(len(counts))
    packed = decode_rows(path, Rows(0, 24), columns_of(cohort, index))
    np.testing.assert_array_equal(unpacked(packed, len(counts)), counts)


@pytest.mark.parametrize("config", [OFF, ON])
def test_prepare__takes_them_as_any_biallelic_variant(tmp_path: Path, config: QCConfig):
    path, counts = gvcf(tmp_path)
    target = tmp_path / "prepared.zarr"
    cluster = helpers.SerialCluster()
    prepare(open_cohort(path), target, config, cluster, {"stamp": "x"})
    store = open_prepared(target)
    index = helpers.read_array(target, "variant_index")
    assert len(index) >= (20 if config.enabled else 70)
    listed = helpers.read_array(target, "variant_allele").tolist()
    assert listed == [keys()[row] for row in index]
    packed = helpers.read_array(target, "call_genotype_packed")
    np.testing.assert_array_equal(unpacked(packed, len(index)), counts[index])
    assert store.n_variants == len(index)


@pytest.mark.parametrize("chunks", [(7, 5), (100, 100)])
def test_quality_control__leaves_out_what_somebody_carries(
    tmp_path: Path, chunks: tuple[int, int], caplog: pytest.LogCaptureFixture
):
    carried = {(0, 3): 2, (10, 23): 1, (13, 0): 1, (25, 7): 3}
    path, _ = gvcf(tmp_path, carried=carried, chunks=chunks)
    cohort = open_cohort(path)
    with caplog.at_level(logging.INFO):
        kept = biallelic_variants(cohort)
    assert np.flatnonzero(~kept).tolist() == [0, 10, 13, 25]
    assert "60 variants list <NON_REF>, <*> or *; 4 of them" in caplog.text
    result = quality_control(cohort, ON)
    assert result.steps[0].removed == 4


def test_check_distinct__compares_the_alleles_that_are_real(tmp_path: Path):
    alleles = helpers.text([["G", "A", "<NON_REF>"], ["G", "A", ""]])
    cohort = helpers.small_cohort(
        tmp_path,
        helpers.random_genotypes(2, 4),
        variant_allele=alleles,
        variant_position=np.array([5, 5], np.int32),
    )
    with pytest.raises(InputError, match="variants 0 and 1 are both 1:5:G:A"):
        check_distinct(cohort)


@pytest.mark.parametrize("config", [OFF, QCConfig(min_maf=0, max_ld_r2=1), ON])
def test_prepare__refuses_monomorphic_variants(tmp_path: Path, config: QCConfig):
    genotypes = np.zeros((12, 8, 2), np.int8)
    genotypes[:6] = 1
    cohort = helpers.small_cohort(tmp_path, genotypes)
    with pytest.raises(
        InputError, match="same allele at all of the 12 variants .* diff"
    ):
        prepare(cohort, tmp_path / "p", config, helpers.SerialCluster(), {})


def test_prepare__names_what_removed_the_others(tmp_path: Path):
    genotypes = np.zeros((12, 8, 2), np.int8)
    alleles = np.array([["A", "C", ""]] * 12, object)
    alleles[:9, 2] = "T"
    cohort = helpers.small_cohort(tmp_path, genotypes, variant_allele=alleles)
    message = (
        "all of the 3 variants that are left, .*; biallelic removed 9 others; split"
    )
    with pytest.raises(InputError, match=message):
        quality_control(cohort, ON)


def test_quality_control__names_the_filter_that_removed_most(tmp_path: Path):
    genotypes = helpers.random_genotypes(12, 8, missing=0)
    genotypes[:9, ::2] = -1
    excluded = tmp_path / "regions.bed"
    excluded.write_text("1\t9500\t20000\n")
    cohort = helpers.small_cohort(tmp_path, genotypes)
    config = QCConfig(exclude_regions=str(excluded), max_ld_r2=1)
    message = (
        r"no variants are left after the filter variant_call_rate \(threshold 0\.95\); "
        r"lower qc\.min_variant_call_rate"
    )
    with pytest.raises(InputError, match=message):
        quality_control(cohort, config)
    excluded.write_text("1\t1500\t20000\n")
    message = r"; excluded_regions removed most \(11 of 12\); set qc\.exclude_regions"
    with pytest.raises(InputError, match=message):
        quality_control(cohort, config)


def test_vcf__of_gvcf_is_as_that_of_its_variants(tmp_path: Path):
    calls = source_files.admixed_calls(60, 20)
    header = source_files.vcf_header(calls.people, ["1", "2"])
    records = source_files.vcf_records(calls).replace("\tA\tG\t", "\tA\tG,<NON_REF>\t")
    header = header.replace(
        "##FORMAT", '##ALT=<ID=NON_REF,Description="x">\n##FORMAT', 1
    )
    source = source_files.write_vcf(tmp_path / "g.vcf.gz", header, records)
    plain = source_files.write_vcf_calls(tmp_path / "p.vcf.gz", calls)
    packed = []
    for path in (source, plain):
        store = tmp_path / f"{path.name}.vcz"
        ingest.ingest(path, store, n_workers=0)
        target = tmp_path / f"{path.name}.zarr"
        prepare(open_cohort(store), target, OFF, helpers.SerialCluster(), {})
        packed.append(helpers.read_array(target, "call_genotype_packed"))
        assert (
            helpers.read_array(target, "variant_allele").tolist() == [["A", "G"]] * 60
        )
    np.testing.assert_array_equal(packed[0], packed[1])


def test_pgen__of_gvcf_is_as_that_of_its_variants(tmp_path: Path):
    calls = source_files.admixed_calls(60, 20)
    alternates = ["G,<NON_REF>", "*,G", "G", "G,T"] * 15
    pgen = tmp_path / "g.pgen"
    writer = pgenlib.PgenWriter(
        bytes(pgen), 20, variant_ct=60, nonref_flags=False, allele_ct_limit=3
    )
    for row, text in zip(calls.counts, alternates, strict=True):
        number = 1 + text.split(",").index("G")
        alleles = np.stack([row == 2, row > 0], axis=1).astype(np.int32) * number
        alleles[row < 0] = -9
        writer.append_alleles(alleles.ravel(), allele_ct=2 + text.count(","))
    writer.close()
    source_files.write_pgen(tmp_path / "t.pgen", calls, alternates)
    for suffix in (".pvar", ".psam"):
        (tmp_path / f"t{suffix}").rename(tmp_path / f"g{suffix}")
    ingest.ingest(pgen, tmp_path / "g.vcz", n_workers=0)
    target = tmp_path / "p.zarr"
    cohort = open_cohort(tmp_path / "g.vcz")
    prepare(cohort, target, OFF, helpers.SerialCluster(), {})
    assert helpers.read_array(target, "variant_allele").tolist() == [["A", "G"]] * 45
    packed = helpers.read_array(target, "call_genotype_packed")
    kept = np.arange(60) % 4 < 3
    np.testing.assert_array_equal(unpacked(packed, 45), calls.counts[kept])
