from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import sgkit

from pipeline import calls
from pipeline.cohort import Cohort, open_cohort
from pipeline.errors import InputError
from tests.helpers import forbid_dask, random_genotypes, write_cohort


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
    np.testing.assert_array_equal(rest.genotypes, expected.genotypes)
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
    counts = calls.CallCounts(genotypes, np.full(20, 3))
    # Exactly, because a threshold on it is inclusive.
    assert counts.minor_frequency.tolist() == [1 / 40, 1 / 40, 1 / 2]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_calls__half_and_haploid_ones_are_missing(tmp_path, dtype):
    row = [[0, 0], [0, 1], [1, 0], [1, 1], [-1, -1], [-1, 1], [0, -1], [1, -2]]
    cohort = _cohort(tmp_path, np.array([row], dtype=dtype))
    counts = calls.count_calls(cohort, *_everything(cohort))
    assert counts.genotypes.tolist() == [[1, 2, 1]]
    assert counts.sample_called.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    dosage = calls.dosage(cohort, *_everything(cohort)).compute()
    assert dosage.tolist() == [[0, 1, 1, 2, -1, -1, -1, -1]]


def test_count_calls__refuses_a_third_allele(tmp_path):
    genotypes = random_genotypes(10, 8)
    genotypes[6, 2] = 2, 0
    cohort = _cohort(tmp_path, genotypes)
    variants, samples = _everything(cohort)
    variants[1] = False
    with pytest.raises(InputError, match="an allele above 1 at variant 6, for which"):
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
