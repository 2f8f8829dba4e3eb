"""Which allele frequencies count: told by their correlation, never by chance."""

import numpy as np
import pytest

from pipeline import allele_direction, counted_allele
from pipeline.counted_allele import ALTERNATE, REFERENCE


def counts(
    frequency: np.ndarray, n_people: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    total = np.full(len(frequency), 2.0 * n_people)
    return rng.binomial(2 * n_people, frequency).astype(np.float64), total


def test_parse__takes_numbers_and_names():
    found = [counted_allele.parse(choice) for choice in counted_allele.CHOICES]
    assert found == [ALTERNATE, REFERENCE, ALTERNATE, REFERENCE]
    assert counted_allele.other(ALTERNATE) == REFERENCE


@pytest.mark.parametrize("n_people", [1, 3, 500])
@pytest.mark.parametrize("n_variants", [120, 400, 20_000])
def test_correlate__refuses_only_the_other_allele(n_people, n_variants):
    """Of minor alleles, so that a person's genotypes say as little as they may."""
    for seed in range(20):
        rng = np.random.default_rng([n_people, n_variants, seed])
        p = rng.uniform(0.05, 0.5, (3, n_variants))
        alternate, total = counts(rng.dirichlet(np.ones(3)) @ p, n_people, seed)
        assert not allele_direction.correlate(alternate, total, p).runs_against
        if n_people * n_variants > 1_000:
            turned = allele_direction.correlate(total - alternate, total, p)
            assert turned.runs_against, turned


def test_correlate__strangers_and_noise_are_not_refused():
    rng = np.random.default_rng(1)
    for seed in range(200):
        p, theirs = rng.uniform(0.05, 0.95, (2, 2, 150))
        alternate, total = counts(theirs[0], 1, seed)
        assert not allele_direction.correlate(alternate, total, p).runs_against


def test_correlate__populations_that_are_each_other_turned_round_tell_nothing():
    """Markers chosen to tell two populations apart: either may be the right one."""
    first = np.tile([0.05, 0.95], 100)
    p = np.stack([first, 1 - first])
    alternate, total = counts(1 - first, 50, 0)
    assert not allele_direction.correlate(alternate, total, p).runs_against


def test_correlate__nothing_called_or_nothing_varies():
    p = np.full((2, 200), 0.3)
    none = np.zeros(200)
    assert allele_direction.correlate(none, none, p) == (0, 0, 0)
    found = allele_direction.correlate(none, np.full(200, 2.0), p)
    assert (found.runs_against, found.n_variants) == (False, 200)
