import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import sgkit

from estimator.packing import CALLS, DOSAGES, GENOTYPES
from pipeline import decode, lineage, linkage, pruning, qc, variant_list
from pipeline.cohort import Cohort, open_cohort
from pipeline.config import QCConfig, RunConfig
from pipeline.errors import InputError
from tests.helpers import (
    forbid_dask,
    linked_genotypes,
    random_genotypes,
    text,
    write_cohort,
    write_dosages,
)

OPEN = QCConfig(min_variant_call_rate=0, min_sample_call_rate=0, min_maf=0, max_ld_r2=1)
STEPS = [
    "biallelic",
    "autosomal",
    "called",
    "variant_call_rate",
    "sample_call_rate",
    "relatives",
    "minor_allele_frequency",
    "hardy_weinberg",
    "linkage_disequilibrium",
]


def _config(**changes: Any) -> QCConfig:
    return dataclasses.replace(OPEN, **changes)


def _cohort(path: Path, genotypes: np.ndarray, **changes: Any) -> Cohort:
    return open_cohort(write_cohort(path / "cohort.vcz", genotypes, **changes))


def _named(result: qc.QCResult, *names: str) -> list[qc.QCStep]:
    return [step for step in result.steps if step.name in names]


def _dosage(genotypes: np.ndarray) -> np.ndarray:
    """Alternate allele counts, NaN where either allele is missing."""
    dosage = genotypes.sum(axis=2).astype(float)
    dosage[(genotypes < 0).any(axis=2)] = np.nan
    return dosage


def test_quality_control__open_thresholds_keep_everything(tmp_path):
    genotypes = random_genotypes(30, 40)
    result = qc.quality_control(_cohort(tmp_path, genotypes), OPEN)
    assert result.variant_mask.all()
    assert result.sample_mask.all()
    assert [step.name for step in result.steps] == STEPS
    assert [step.axis for step in result.steps] == ["variants"] * 4 + [
        "samples"
    ] * 2 + ["variants"] * 3
    assert {step.removed for step in result.steps} == {0}
    dosage = _dosage(genotypes)
    np.testing.assert_allclose(
        result.alternate_frequency, np.nanmean(dosage, axis=1) / 2
    )
    np.testing.assert_array_equal(
        result.sample_call_rate, 1 - np.isnan(dosage).mean(axis=0)
    )


def test_quality_control__agrees_with_sgkit_statistics(tmp_path):
    cohort = _cohort(tmp_path, random_genotypes(60, 31, missing=0.2))
    result = qc.quality_control(cohort, OPEN)
    variants = sgkit.variant_stats(cohort.dataset, merge=False)
    people = sgkit.sample_stats(cohort.dataset, merge=False)
    np.testing.assert_allclose(
        result.alternate_frequency, variants["variant_allele_frequency"][:, 1]
    )
    np.testing.assert_allclose(result.sample_call_rate, people["sample_call_rate"])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_quality_control__half_and_haploid_calls_have_one_allele(tmp_path, dtype):
    calls = [[0, 0], [0, 1], [1, 0], [1, 1], [-1, -1], [-1, 1], [0, -1], [1, -2]]
    genotypes = np.array([calls], dtype=dtype)
    result = qc.quality_control(_cohort(tmp_path, genotypes), OPEN)
    assert result.alternate_frequency.tolist() == [6 / 11]
    assert result.sample_call_rate.tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    assert result.encoding is CALLS


def test_quality_control__encoding_is_that_of_the_variants_kept(tmp_path):
    genotypes = random_genotypes(12, 20, missing=0)
    genotypes[:3] = 0  # rare alleles only at those with half calls
    genotypes[:3, 4, 1] = -1
    cohort = _cohort(tmp_path, genotypes)
    assert qc.quality_control(cohort, OPEN).encoding is CALLS
    result = qc.quality_control(cohort, _config(min_maf=0.01))
    assert not result.variant_mask[:3].any()
    assert result.encoding is GENOTYPES


def test_quality_control__hardy_weinberg_is_of_diploid_calls(tmp_path):
    genotypes = random_genotypes(6, 200, missing=0)
    genotypes[:, :, 0] = np.arange(200) % 2
    genotypes[:, :, 1] = np.random.default_rng(0).permutation(200) % 2
    genotypes[4, :, 1] = -2  # a single allele has no genotype to test
    result = qc.quality_control(_cohort(tmp_path, genotypes), _config(min_hwe_p=1e-6))
    assert result.variant_mask.all()
    assert result.alternate_frequency[4] == 0.5


CONTIGS = text(["1", "chr2", "X", "chrY", "MT"])


def _on_contigs(path, genotypes, ids=CONTIGS):
    contig = np.repeat(np.arange(5), 4)
    position = np.tile(1000 * np.arange(1, 5), 5)
    return _cohort(
        path,
        genotypes,
        contig_id=ids,
        variant_contig=contig,
        variant_position=position,
    )


def test_quality_control__keeps_autosomes_and_x_on_demand(tmp_path):
    cohort = _on_contigs(tmp_path, random_genotypes(20, 30))
    everything = qc.quality_control(cohort, QCConfig(enabled=False))
    assert everything.variant_mask.all()
    for include_x, kept in ((False, 8), (True, 12)):
        result = qc.quality_control(cohort, _config(include_x=include_x))
        assert np.flatnonzero(result.variant_mask).tolist() == list(range(kept))
        step = qc.QCStep("autosomal", "variants", None, 20 - kept, kept)
        assert result.steps[1] == step


def test_quality_control__refuses_a_cohort_of_x_alone(tmp_path):
    ids = text(["X", "chrX", "XY", "chrY", "MT"])
    cohort = _on_contigs(tmp_path, random_genotypes(20, 30), ids)
    with pytest.raises(InputError, match=r"filter autosomal; set .* qc\.include_x"):
        qc.quality_control(cohort, OPEN)


def test_quality_control__says_which_chromosomes_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    ids = text(["21", "22", "23", "24", "26"])
    cohort = _on_contigs(tmp_path, random_genotypes(20, 30), ids)
    for autosomes, kept, message in (
        (
            0,
            8,
            "12 of 20 variants are left out, .*: 23 \\(4\\), 24 \\(4\\), 26 \\(4\\); ",
        ),
        (0, 8, "taken for man's X, Y, XY and MT: set qc.autosomes for another species"),
        (25, 16, "4 of 20 variants are left out, on .*: 26 \\(4\\)$"),
        (26, 20, None),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            result = qc.quality_control(cohort, _config(autosomes=autosomes))
        assert result.steps[1].remaining == kept
        assert bool(caplog.messages) == bool(message)
        if message:
            assert re.search(message, caplog.messages[0])


def test_quality_control__of_dosages(tmp_path):
    rng = np.random.default_rng(0)
    dosages = rng.uniform(0, 2, (30, 40)).astype(np.float32)
    dosages[rng.random((30, 40)) < 0.1] = np.nan
    cohort = open_cohort(write_dosages(tmp_path / "cohort.vcz", dosages))
    result = qc.quality_control(cohort, OPEN)
    expected = np.nanmean(dosages.astype(float), axis=1) / 2
    np.testing.assert_allclose(result.alternate_frequency, expected, atol=2**-15)
    np.testing.assert_allclose(
        result.sample_call_rate, 1 - np.isnan(dosages).mean(axis=0)
    )
    assert result.encoding is DOSAGES


def test_quality_control__whole_dosages_are_genotypes(tmp_path):
    genotypes = linked_genotypes(30, 40)
    dosages = _dosage(genotypes).astype(np.float32)
    config = _config(max_ld_r2=0.2, min_hwe_p=1e-3, ld_window_bp=5000)
    straight = qc.quality_control(_cohort(tmp_path / "a", genotypes), config)
    result = qc.quality_control(
        open_cohort(write_dosages(tmp_path / "b" / "cohort.vcz", dosages)), config
    )
    assert result.steps == straight.steps
    np.testing.assert_array_equal(result.variant_mask, straight.variant_mask)
    np.testing.assert_array_equal(
        result.alternate_frequency, straight.alternate_frequency
    )
    assert result.encoding is straight.encoding is GENOTYPES


def test_quality_control__removes_multiallelic_and_uncalled(tmp_path):
    genotypes = random_genotypes(10, 8, missing=0)
    genotypes[3] = -1
    genotypes[5, 0] = 2
    alleles = [["A", "C", ""]] * 10
    alleles[5] = ["A", "C", "G"]
    cohort = _cohort(tmp_path, genotypes, variant_allele=text(alleles))
    for config in (OPEN, QCConfig(enabled=False)):
        result = qc.quality_control(cohort, config)
        assert np.flatnonzero(~result.variant_mask).tolist() == [3, 5]
        assert _named(result, "biallelic", "called") == [
            qc.QCStep("biallelic", "variants", None, 1, 9),
            qc.QCStep("called", "variants", None, 1, 8),
        ]
        assert np.isnan(result.alternate_frequency).nonzero()[0].tolist() == [3, 5]
        assert result.sample_mask.all()
    assert len(result.steps) == 2


def test_quality_control__disabled_keeps_a_person_without_calls(tmp_path):
    genotypes = random_genotypes(10, 8, missing=0)
    genotypes[:, 2] = -1
    result = qc.quality_control(_cohort(tmp_path, genotypes), QCConfig(enabled=False))
    assert result.sample_mask.all()
    assert result.sample_call_rate.tolist() == [1, 1, 0, 1, 1, 1, 1, 1]


def test_quality_control__call_rates_are_successive(tmp_path):
    genotypes = random_genotypes(20, 20, missing=0)
    genotypes[:10, :11] = -1  # ten variants that under half of the people are called at
    genotypes[10:15, 3] = -1  # half of what is then left of person 3
    cohort = _cohort(tmp_path, genotypes)
    config = _config(min_variant_call_rate=0.95, min_sample_call_rate=0.6)
    result = qc.quality_control(cohort, config)
    assert np.flatnonzero(result.variant_mask).tolist() == list(range(10, 20))
    assert np.flatnonzero(~result.sample_mask).tolist() == [3]
    assert result.sample_call_rate[3] == 0.5
    assert (np.delete(result.sample_call_rate, 3) == 1).all()
    assert result.steps[3:5] == (
        qc.QCStep("variant_call_rate", "variants", 0.95, 10, 10),
        qc.QCStep("sample_call_rate", "samples", 0.6, 1, 19),
    )


def test_quality_control__frequency_is_of_the_people_kept(tmp_path):
    genotypes = np.zeros((12, 20, 2), dtype=np.int8)
    genotypes[:, 0] = -1
    genotypes[:2, 0] = 1  # the only carrier of two alternate alleles has few calls
    genotypes[2:, 1:3] = 1
    config = _config(min_sample_call_rate=0.5, min_maf=0.05)
    result = qc.quality_control(_cohort(tmp_path, genotypes), config)
    assert np.flatnonzero(~result.sample_mask).tolist() == [0]
    assert np.flatnonzero(~result.variant_mask).tolist() == [0, 1]
    np.testing.assert_allclose(result.alternate_frequency, [0] * 2 + [2 / 19] * 10)


def test_quality_control__frequency_threshold_is_inclusive_on_both_sides(tmp_path):
    genotypes = np.zeros((3, 10, 2), dtype=np.int8)
    genotypes[0, 0, 0] = 1
    genotypes[1] = 1
    genotypes[1, 0, 0] = 0
    result = qc.quality_control(_cohort(tmp_path, genotypes), _config(min_maf=0.05))
    assert result.variant_mask.tolist() == [True, True, False]


def test_quality_control__hardy_weinberg(tmp_path):
    genotypes = random_genotypes(6, 200, missing=0)
    genotypes[:, :, 0] = np.arange(200) % 2  # half the alleles at every variant,
    genotypes[:, :, 1] = np.random.default_rng(0).permutation(200) % 2
    genotypes[4, :, 1] = genotypes[4, :, 0]  # in homozygotes only at this one
    cohort = _cohort(tmp_path, genotypes)
    result = qc.quality_control(cohort, _config(min_hwe_p=1e-6))
    assert np.flatnonzero(~result.variant_mask).tolist() == [4]
    assert result.steps[7] == qc.QCStep("hardy_weinberg", "variants", 1e-6, 1, 5)
    assert qc.quality_control(cohort, OPEN).steps[7].threshold is None


def _pruned(
    cohort: Cohort, genotypes: np.ndarray, frequency: np.ndarray, config: QCConfig
) -> np.ndarray:
    """Choice that `pruning.prune` makes when it is given numpy's dosages."""
    dosage = np.nan_to_num(_dosage(genotypes), nan=-1).astype(np.int8)
    contigs = cohort.dataset["variant_contig"].values.astype(np.int64)
    ends = linkage.window_ends(contigs, cohort.positions, config.ld_window_bp)
    minor = np.minimum(frequency, 1 - frequency).round(12)
    return pruning.prune(da.from_array(dosage), ends, minor, config.max_ld_r2)


def test_quality_control__prunes_within_contigs_in_any_order(tmp_path):
    genotypes = linked_genotypes(60, 50)
    genotypes[[7, 31]] = [[[0, 0]], [[0, 1]]]  # no variance: never linked
    cohort = _cohort(
        tmp_path,
        genotypes,
        contig_id=text(["1", "2", "3", "4"]),
        variant_contig=np.repeat([2, 0, 1], 20),  # not in the order of contig_id
        variant_position=np.tile(1000 * np.arange(1, 21), 3),
    )
    config = _config(max_ld_r2=0.1, ld_window_bp=10**9)
    result = qc.quality_control(cohort, config)
    expected = _pruned(cohort, genotypes, result.alternate_frequency, config)
    np.testing.assert_array_equal(result.variant_mask, expected)
    assert 0 < expected.sum() < 60
    step = qc.QCStep(
        "linkage_disequilibrium", "variants", 0.1, 60 - expected.sum(), expected.sum()
    )
    assert result.steps[-1] == step


def test_quality_control__links_of_evenly_spaced_people(tmp_path):
    genotypes = linked_genotypes(40, 60)
    cohort = _cohort(tmp_path, genotypes)
    config = _config(max_ld_r2=0.2, ld_window_bp=5000, ld_max_samples=20)
    result = qc.quality_control(cohort, config)
    frequency = result.alternate_frequency
    expected = _pruned(cohort, genotypes[:, ::3], frequency, config)
    np.testing.assert_array_equal(result.variant_mask, expected)
    everyone = _pruned(cohort, genotypes, frequency, config)
    assert (everyone != expected).any()


def test_quality_control__does_not_depend_on_chunks(tmp_path):
    genotypes = linked_genotypes(90, 70)
    rng = np.random.default_rng(5)
    genotypes[rng.random(90) < 0.2] = -1
    genotypes[rng.integers(0, 90, 500), rng.integers(0, 9, 500)] = -1
    config = QCConfig(min_variant_call_rate=0.9, max_ld_r2=0.2, ld_window_bp=7000)
    results = [
        qc.quality_control(
            _cohort(tmp_path / str(number), genotypes, chunks=chunks), config
        )
        for number, chunks in enumerate([(90, 70), (7, 5), (33, 70), (90, 1)])
    ]
    assert 0 < results[0].variant_mask.sum() < 90
    assert 0 < results[0].sample_mask.sum() < 70
    for result in results[1:]:
        assert result.steps == results[0].steps
        for name in (
            "variant_mask",
            "sample_mask",
            "alternate_frequency",
            "sample_call_rate",
        ):
            np.testing.assert_array_equal(
                getattr(result, name), getattr(results[0], name)
            )


def test_quality_control__reads_each_chunk_once_without_removals(tmp_path, monkeypatch):
    cohort = _cohort(tmp_path, random_genotypes(30, 40))
    read_calls, reads = decode.read_calls, []

    def record(
        url: str, variants: slice, people: slice, out: np.ndarray | None
    ) -> np.ndarray:
        reads.append((variants.start, people.start))
        return read_calls(url, variants, people, out)

    monkeypatch.setattr(decode, "read_calls", record)
    qc.quality_control(cohort, OPEN)
    assert len(reads) == len(set(reads)) == 5 * 8


def test_quality_control__computes_with_the_current_scheduler(tmp_path):
    cohort = _cohort(tmp_path, random_genotypes(30, 40))
    with (
        dask.config.set(scheduler=forbid_dask),
        pytest.raises(AssertionError, match="asked to compute"),
    ):
        qc.quality_control(cohort, OPEN)


def test_quality_control__refuses_a_third_allele_at_a_biallelic_variant(tmp_path):
    genotypes = random_genotypes(10, 8)
    genotypes[6, 2] = 2, 0
    with pytest.raises(InputError, match="an allele above 1 at variant 6, sample 2"):
        qc.quality_control(_cohort(tmp_path, genotypes), OPEN)


@pytest.mark.parametrize(
    ("contigs", "positions"),
    [([0, 0, 0, 0], [1, 5, 4, 3]), ([0, 0, 1, 0], [1, 2, 3, 4])],
)
def test_quality_control__refuses_unsorted_variants(tmp_path, contigs, positions):
    cohort = _cohort(
        tmp_path,
        random_genotypes(4, 8),
        contig_id=text(["1", "2"]),
        variant_contig=np.array(contigs),
        variant_position=np.array(positions),
    )
    index = 2 if contigs[2] == 0 else 3
    with pytest.raises(InputError, match=f"variant {index} is out of order; put them"):
        qc.quality_control(cohort, _config(max_ld_r2=0.5))
    assert qc.quality_control(cohort, OPEN).variant_mask.all()


@pytest.mark.parametrize(
    ("missing", "changes", "message"),
    [
        (1.0, {}, "no variants are left after the filter called; check how"),
        (
            0.5,
            {"min_variant_call_rate": 0.99},
            r"variant_call_rate \(threshold 0.99\); lower qc.min_variant_call_rate",
        ),
        (
            0.5,
            {"min_sample_call_rate": 0.99},
            r"no people .* sample_call_rate \(threshold 0.99\); lower qc.min_sample_c",
        ),
        (0.0, {"min_maf": 0.5}, r"minor_allele_frequency .*0.5\); lower qc.min_maf"),
        (0.0, {"min_hwe_p": 1.0}, r"hardy_weinberg .*1.0\); lower qc.min_hwe_p"),
    ],
)
def test_quality_control__refuses_when_nothing_is_left(
    tmp_path, missing, changes, message
):
    genotypes = random_genotypes(5, 40, missing=missing)
    if "min_hwe_p" in changes:
        genotypes[:] = np.arange(40)[:, np.newaxis] % 2
    with pytest.raises(InputError, match=message):
        qc.quality_control(_cohort(tmp_path, genotypes), _config(**changes))


def test_quality_control__refuses_a_cohort_without_biallelic_variants(tmp_path):
    cohort = _cohort(
        tmp_path, random_genotypes(3, 5), variant_allele=text([["A", "C", "G"]] * 3)
    )
    with pytest.raises(InputError, match="no variants are left after .* biallelic"):
        qc.quality_control(cohort, OPEN)


def _family_cohort(path: Path) -> tuple[Cohort, list[int]]:
    """Strangers, two parents, their three children; and who the children are."""
    rng = np.random.default_rng(2)
    n_variants, n_strangers = 6_000, 30
    frequency = rng.uniform(0.2, 0.8, n_variants)
    drawn = rng.random((n_strangers + 2, n_variants, 2)) < frequency[:, None]
    people = list(drawn.astype(np.int8))
    for _ in range(3):
        passed = [
            np.where(rng.random(n_variants) < 0.5, parent[:, 0], parent[:, 1])
            for parent in people[n_strangers : n_strangers + 2]
        ]
        people.append(np.stack(passed, axis=1))
    genotypes = np.stack(people, axis=1)
    return _cohort(path, genotypes, chunks=(2_000, 20)), [32, 33, 34]


def test_quality_control__relatives_are_projected(tmp_path):
    cohort, children = _family_cohort(tmp_path)
    result = qc.quality_control(cohort, _config(relatives="project"))
    # Parents have three relatives each and children four: both parents stay.
    assert np.flatnonzero(~result.sample_mask).tolist() == children
    assert result.relatives is not None
    assert result.relatives.n_first_degree == 3 * 2 + 3
    assert result.relatives.n_second_degree == 0
    (step,) = _named(result, "relatives")
    assert (step.removed, step.remaining) == (3, 32)
    calls = cohort.dataset["call_genotype"].values[:, :32]
    np.testing.assert_allclose(result.alternate_frequency, calls.mean(axis=(1, 2)))


@pytest.mark.parametrize("relatives", ["auto", "report"])
def test_quality_control__relatives_in_a_small_cohort_are_reported(tmp_path, relatives):
    cohort, _ = _family_cohort(tmp_path)
    result = qc.quality_control(cohort, _config(relatives=relatives))
    assert result.sample_mask.all()
    assert result.relatives is not None
    assert result.relatives.n_first_degree == 9
    (step,) = _named(result, "relatives")
    assert (step.threshold, step.removed) == (None, 0)


def test_quality_control__one_of_each_set_of_copies_stays(tmp_path):
    rng = np.random.default_rng(5)
    frequency = rng.uniform(0.1, 0.9, (5_000, 1))
    lines = rng.binomial(1, frequency, (5_000, 40)).astype(np.int8)
    lines[:, 1:6] = lines[:, :1]
    cohort = _cohort(tmp_path, np.repeat(lines[:, :, None], 2, axis=2))
    result = qc.quality_control(cohort, _config(relatives="project"))
    assert result.relatives is not None
    assert result.relatives.n_duplicates == 15
    assert result.relatives.n_inbred == 40
    assert result.sample_mask.sum() == 35
    assert result.sample_mask[:6].sum() == 1


def test_quality_control__relatives_leave_a_large_cohort(tmp_path, monkeypatch):
    monkeypatch.setattr(qc, "AUTO_RELATIVES", 35)
    cohort, children = _family_cohort(tmp_path)
    result = qc.quality_control(cohort, OPEN)
    assert np.flatnonzero(~result.sample_mask).tolist() == children


def test_quality_control__relatives_can_be_ignored(tmp_path):
    cohort, _ = _family_cohort(tmp_path)
    assert qc.quality_control(cohort, _config(relatives="ignore")).relatives is None


def test_quality_control__excluded_regions_and_listed_variants(tmp_path):
    cohort = _cohort(tmp_path, random_genotypes(30, 20, missing=0))
    contig, positions = cohort.contigs[0], cohort.positions
    bed, listed = tmp_path / "regions.bed", tmp_path / "list.txt"
    bed.write_text(f"chr{contig}\t{positions[3] - 1}\t{positions[5]}\n")
    kept = np.flatnonzero(np.arange(30) % 2 == 1)
    listed.write_text("".join(f"{cohort.variant_ids[i]}\n" for i in kept))
    config = _config(exclude_regions=str(bed), variants=str(listed))
    result = qc.quality_control(cohort, config)
    expected = [i for i in kept if not (cohort.contigs[i] == contig and 3 <= i <= 5)]
    assert np.flatnonzero(result.variant_mask).tolist() == expected
    names = [step.name for step in result.steps[2:4]]
    assert names == ["listed", "excluded_regions"]


def test_quality_control__list_of_an_export(tmp_path):
    cohort = _cohort(tmp_path, random_genotypes(30, 20, missing=0))
    alleles = cohort.alleles
    rows = [
        (cohort.contigs[i], cohort.positions[i], "any", *(a[i] for a in alleles))
        for i in (2, 7)
    ]
    table = [variant_list.COLUMNS, *rows]
    listed = tmp_path / "export.variants"
    listed.write_text("".join("\t".join(map(str, row)) + "\n" for row in table))
    result = qc.quality_control(cohort, _config(variants=str(listed)))
    assert np.flatnonzero(result.variant_mask).tolist() == [2, 7]


def test_quality_control__list_that_no_file_can_be(tmp_path):
    cohort = _cohort(tmp_path, random_genotypes(30, 20, missing=0))
    config = _config(variants="a\0b")
    assert lineage.provenance_inputs("", RunConfig(qc=config))["files"] == {
        "a\0b": None
    }
    with pytest.raises(InputError, match=r"qc\.variants: .* cannot be read"):
        qc.quality_control(cohort, config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unknown\n", r"qc\.variants: .* lists no variant of"),
        ("contig\tposition\tid\treference\talternate\n1\tx\t.\tA\tC\n", "line 2"),
        (None, r"qc\.variants: .* cannot be read"),
    ],
)
def test_quality_control__list_that_will_not_do(tmp_path, text, message):
    cohort = _cohort(tmp_path, random_genotypes(30, 20, missing=0))
    listed = tmp_path / "list.txt"
    if text is not None:
        listed.write_text(text)
    with pytest.raises(InputError, match=message):
        qc.quality_control(cohort, _config(variants=str(listed)))
