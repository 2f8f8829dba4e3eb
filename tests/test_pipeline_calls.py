from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import sgkit

from estimator.packing import CALLS, DOSAGES, GENOTYPES
from pipeline import calls
from pipeline.cohort import Cohort, open_cohort
from pipeline.errors import InputError
from tests.helpers import (
    forbid_dask,
    random_genotypes,
    write_cohort,
    write_dosages,
)


def _cohort(path: Path, genotypes: np.ndarray, **changes: Any) -> Cohort:
    return open_cohort(write_cohort(path / "cohort.vcz", genotypes, **changes))


def _everything(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    variants = np.ones(cohort.n_variants, dtype=np.bool_)
    return variants, np.ones(cohort.n_samples, dtype=np.bool_)


def _expected_dosage(genotypes: np.ndarray) -> np.ndarray:
    missing = (genotypes < 0).any(axis=2)
    return np.where(missing, -1, genotypes.sum(axis=2))


def test_count_calls__agrees_with_sgkit(tmp_path):
    cohort = _cohort(tmp_path, random_genotypes(300, 31, missing=0.2), chunks=(150, 7))
    counts = calls.count_calls(cohort, *_everything(cohort))
    variants = sgkit.variant_stats(cohort.dataset, merge=False)
    people = sgkit.sample_stats(cohort.dataset, merge=False)
    for column, name in enumerate(["hom_ref", "het", "hom_alt"]):
        np.testing.assert_array_equal(
            counts.genotypes[:, column], variants[f"variant_n_{name}"]
        )
    np.testing.assert_array_equal(counts.n_called, variants["variant_n_called"])
    np.testing.assert_array_equal(counts.sample_called, people["sample_n_called"])
    np.testing.assert_allclose(
        counts.alternate_frequency, variants["variant_allele_frequency"][:, 1]
    )


def test_count_calls__of_some_variants_and_people(tmp_path):
    genotypes = random_genotypes(30, 40)
    cohort = _cohort(tmp_path, genotypes)
    variants, samples = np.arange(30) % 3 == 1, np.arange(40) % 4 > 1
    counts = calls.count_calls(cohort, variants, samples)
    dosage = _expected_dosage(genotypes)[np.ix_(variants, samples)]
    for value in range(3):
        expected = (dosage == value).sum(axis=1)
        np.testing.assert_array_equal(counts.genotypes[variants, value], expected)
    assert not counts.genotypes[~variants].any()
    np.testing.assert_array_equal(
        counts.sample_called[samples], (dosage >= 0).sum(axis=0)
    )
    assert not counts.sample_called[~samples].any()


def test_count_calls__of_complements_add_up(tmp_path):
    cohort = _cohort(tmp_path, random_genotypes(30, 40))
    variants, samples = _everything(cohort)
    some = np.arange(40) < 13
    rest = calls.count_calls(cohort, variants, samples) - calls.count_calls(
        cohort, variants, some
    )
    expected = calls.count_calls(cohort, variants, ~some)
    np.testing.assert_array_equal(rest.table, expected.table)
    np.testing.assert_array_equal(rest.sample_called, expected.sample_called)


def test_count_calls__of_nothing_reads_nothing(tmp_path):
    cohort = _cohort(tmp_path, random_genotypes(5, 4))
    variants, samples = _everything(cohort)
    with dask.config.set(scheduler=forbid_dask):
        for counts in (
            calls.count_calls(cohort, ~variants, samples),
            calls.count_calls(cohort, variants, ~samples),
        ):
            assert not counts.n_called.any()
            assert np.isnan(counts.alternate_frequency).all()
            assert np.isnan(counts.minor_frequency).all()


def test_minor_frequency__is_that_of_the_rarer_allele():
    genotypes = np.array([[19, 1, 0], [0, 1, 19], [5, 10, 5]])
    table = np.pad(genotypes, ((0, 0), (0, calls.N_COLUMNS - 3)))
    counts = calls.CallCounts(table, np.full(20, 3))
    # Exactly, because a threshold on it is inclusive.
    assert counts.minor_frequency.tolist() == [1 / 40, 1 / 40, 1 / 2]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_calls__half_and_haploid_ones_have_one_allele(tmp_path, dtype):
    row = [[0, 0], [0, 1], [1, 0], [1, 1], [-1, -1], [-1, 1], [0, -1], [1, -2]]
    cohort = _cohort(tmp_path, np.array([row], dtype=dtype))
    counts = calls.count_calls(cohort, *_everything(cohort))
    assert counts.genotypes.tolist() == [[1, 2, 1]]
    assert counts.n_called.tolist() == [7]
    assert counts.alternate_frequency.tolist() == [6 / 11]
    assert counts.minor_frequency.tolist() == [5 / 11]
    assert counts.sample_called.tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    assert counts.encoding(np.array([True])) is CALLS
    dosage = calls.dosage(cohort, *_everything(cohort)).compute()
    assert dosage.tolist() == [[0, 1, 1, 2, -1, 2, 0, 2]]


def test_calls__of_a_haploid_store(tmp_path):
    genotypes = np.array([[[0], [1], [-1], [1]], [[0], [0], [0], [-1]]], np.int8)
    cohort = _cohort(tmp_path, genotypes)
    counts = calls.count_calls(cohort, *_everything(cohort))
    assert counts.n_called.tolist() == [3, 3]
    assert not counts.genotypes.any()
    np.testing.assert_array_equal(counts.alternate_frequency, [2 / 3, 0])
    assert counts.sample_called.tolist() == [2, 2, 1, 1]
    dosage = calls.dosage(cohort, *_everything(cohort)).compute()
    assert dosage.tolist() == [[0, 2, -1, 2], [0, 0, 0, -1]]


def _dosage_cohort(path: Path, dosages: np.ndarray, **changes: Any) -> Cohort:
    return open_cohort(write_dosages(path / "cohort.vcz", dosages, **changes))


@pytest.mark.parametrize("chunks", [(7, 5), (300, 31)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_count_calls__of_dosages(tmp_path, chunks, dtype):
    rng = np.random.default_rng(0)
    dosages = rng.uniform(0, 2, (300, 31)).astype(dtype)
    dosages[:100] = np.rint(dosages[:100])
    dosages[rng.random((300, 31)) < 0.1] = np.nan
    cohort = _dosage_cohort(tmp_path, dosages, chunks=chunks)
    counts = calls.count_calls(cohort, *_everything(cohort))
    units = np.rint(dosages * 2**14)
    called = ~np.isnan(dosages)
    np.testing.assert_array_equal(counts.n_called, called.sum(axis=1))
    np.testing.assert_array_equal(counts.sample_called, called.sum(axis=0))
    expected = np.nansum(units, axis=1) / (2**15 * called.sum(axis=1))
    np.testing.assert_array_equal(counts.alternate_frequency, expected)
    first = np.arange(300) < 100
    assert counts.encoding(first) is GENOTYPES
    assert counts.encoding(~first) is DOSAGES


@pytest.mark.parametrize("value", [-0.5, 2.5, np.inf, -np.inf, 1e30])
def test_count_calls__refuses_impossible_dosages(tmp_path, value):
    dosages = np.random.default_rng(0).uniform(0, 2, (20, 12)).astype(np.float32)
    dosages[9, 7] = value
    cohort = _dosage_cohort(tmp_path, dosages)
    variants, samples = _everything(cohort)
    samples[3] = False
    message = r"cohort\.vcz: call_dosage is .* at variant 9, sample 7; it must be in"
    with pytest.raises(InputError, match=message):
        calls.count_calls(cohort, variants, samples)
    variants[9] = False
    calls.count_calls(cohort, variants, samples)


def test_count_calls__refuses_a_third_allele(tmp_path):
    genotypes = random_genotypes(10, 8)
    genotypes[6, 2] = 2, 0
    cohort = _cohort(tmp_path, genotypes)
    variants, samples = _everything(cohort)
    variants[1] = False
    with pytest.raises(InputError, match="an allele above 1 at variant 6, sample 2, f"):
        calls.count_calls(cohort, variants, samples)


def test_dosage__is_lazy_and_selects(tmp_path):
    genotypes = random_genotypes(30, 40)
    cohort = _cohort(tmp_path, genotypes)
    variants, samples = np.arange(30) % 3 == 1, np.arange(40) % 4 > 1
    with dask.config.set(scheduler=forbid_dask):
        dosage = calls.dosage(cohort, variants, samples)
    assert dosage.dtype == np.int8
    np.testing.assert_array_equal(
        dosage, _expected_dosage(genotypes)[np.ix_(variants, samples)]
    )
