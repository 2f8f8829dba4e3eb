import importlib

import numpy as np
import pytest

from pipeline import genealogy
from pipeline.errors import InputError
from tests.helpers import hudson_fst


@pytest.fixture(scope="module")
def cohort():
    pytest.importorskip("msprime")
    return genealogy.simulate_genealogy(50, 400, 2, fst=0.1, seed=3)


def test_simulate_genealogy__truth_is_what_the_alleles_were_copied_from(cohort):
    np.testing.assert_allclose(cohort.ancestry.sum(axis=1), 1)
    assert (np.diff(cohort.position) > 0).all()
    assert cohort.frequencies.shape == (2, 400)
    assert hudson_fst(*cohort.frequencies) == pytest.approx(0.1, abs=0.04)
    # Least squares given P finds each person's share: truth and genotypes belong
    # together, which fails if populations or people are permuted.
    dosage = cohort.genotypes.sum(axis=2) / 2
    first, second = cohort.frequencies
    contrast = first - second
    estimate = contrast @ (dosage - second[:, None]) / (contrast @ contrast)
    assert np.corrcoef(estimate, cohort.ancestry[:, 0])[0, 1] > 0.9


def test_simulate_genealogy__neighbours_are_linked(cohort):
    haplotypes = cohort.genotypes.reshape(400, -1)
    common = haplotypes[np.abs(haplotypes.mean(axis=1) - 0.5) < 0.3]
    r2 = np.corrcoef(common) ** 2
    assert np.diag(r2, 1).mean() > 2 * np.diag(r2, len(r2) // 2).mean()


def test_simulate_genealogy__names_the_missing_package(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install '\.\[test\]'"):
        genealogy.simulate_genealogy(2, 10, 2, seed=1)


def test_simulate_genealogy__too_few_variants(monkeypatch):
    pytest.importorskip("msprime")
    monkeypatch.setattr(genealogy, "MUTATION_RATE", 1e-12)
    with pytest.raises(InputError, match=r"variants, not the 20 asked for"):
        genealogy.simulate_genealogy(2, 20, 2, seed=1)


def test_simulate_genealogy__refuses_parameters_out_of_range():
    with pytest.raises(InputError, match="generations is 0; it must be at least 1"):
        genealogy.simulate_genealogy(2, 20, 2, generations=0, seed=1)
