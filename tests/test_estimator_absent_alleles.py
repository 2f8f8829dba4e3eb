"""Scores at alleles that a fit has as absent: by hand, and against their reason."""

import numpy as np

from estimator.absent_alleles import (
    MOST,
    find_absent,
    score_of_absent,
    score_of_carried,
)
from estimator.config import MIN_FREQUENCY as ZERO

ONE = np.float32(1 - ZERO)
# Alleles of the two populations: 2 x 100 and 2 x 50.
NOISE = np.diag([1 / 100, 1 / 50])


def by_hand(
    frequencies: np.ndarray, alleles: np.ndarray, q: np.ndarray, n_called: float
) -> np.ndarray:
    """The score of one person, variant by variant."""
    total = np.zeros(len(q))
    for p in (*frequencies.T, *(1 - frequencies.T)):
        lacking = p <= ZERO * 1.01
        if any(lacking & (q > alleles * (q @ p))):
            total -= 2 * n_called / frequencies.shape[1] * p
    return total


def test_score_of_absent__is_the_sum_over_variants():
    rng = np.random.default_rng(1)
    frequencies = rng.uniform(0.05, 0.95, (2, 60)).astype(np.float32)
    frequencies[0, :10] = ZERO
    frequencies[1, 8:15] = ZERO
    frequencies[1, 20:30] = ONE
    q = np.array([[1, 0], [0, 1], [0.999, 0.001], [0.5, 0.5], [0.01, 0.99]], np.float32)
    called = np.array([60, 60, 30, 60, 0])
    found = score_of_absent(find_absent(frequencies), NOISE, q, called)
    alleles = np.array([200, 100])
    expected = [
        by_hand(frequencies, alleles, *each) for each in zip(q, called, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (found <= 0).all()
    # Somebody of both populations might have an allele from the other.
    np.testing.assert_allclose(found[3], 0, atol=1e-3)
    assert found[0, 1] < found[2, 1] < 0


def test_score_of_absent__is_nothing_where_no_population_lacks_an_allele():
    rng = np.random.default_rng(2)
    frequencies = rng.uniform(0.05, 0.95, (2, 60)).astype(np.float32)
    q = np.eye(2, dtype=np.float32)
    found = score_of_absent(find_absent(frequencies), NOISE, q, np.full(2, 60))
    assert not found.any()


def test_find_absent__takes_every_so_many_of_many_variants():
    rng = np.random.default_rng(3)
    frequencies = rng.uniform(0.05, 0.95, (2, 20 * MOST)).astype(np.float32)
    frequencies[0, ::2] = ZERO
    frequencies[1, 1::4] = ONE
    absent = find_absent(frequencies)
    assert MOST / 2 < absent.frequencies.shape[1] <= MOST + 1
    q = np.eye(2, dtype=np.float32)
    called = np.full(2, frequencies.shape[1])
    found = score_of_absent(absent, NOISE, q, called)
    whole = [
        -2 * np.sum(frequencies[1, ::2]),
        -2 * np.sum(1 - frequencies[0, 1::4]),
    ]
    np.testing.assert_allclose([found[0, 1], found[1, 0]], whole, rtol=0.1)


def test_score_of_absent__is_what_scores_at_fitted_frequencies_are_short_of():
    # People of two populations, and the second's frequency fitted from themselves: at
    # the true ancestry their mean score is zero where they have the allele, and that of
    # the variants where they have not is what they are short of.
    rng = np.random.default_rng(4)
    n, m = 40, 20_000
    rare, common = rng.uniform(0, 0.03, m), rng.uniform(0.2, 0.8, m)
    genotypes = rng.binomial(2, rare, (n, m))
    fitted = np.clip(genotypes.mean(axis=0) / 2, ZERO, ONE)
    towards = genotypes / fitted * common - (2 - genotypes) / (1 - fitted) * common
    own = genotypes - (2 - genotypes) / (1 - fitted) * fitted
    score = (towards - own).sum(axis=1).mean()
    frequencies = np.stack([common, fitted]).astype(np.float32)
    people = np.zeros((n, 2), np.float32)
    people[:, 1] = 1
    noise = np.diag([1 / 100, 1 / n])
    short = score_of_absent(find_absent(frequencies), noise, people, np.full(n, m))
    np.testing.assert_allclose(short[0, 0] - short[0, 1], score, rtol=0.1)


def test_score_of_carried__is_what_newcomers_scores_have_more():
    # The second population's frequencies are fitted from its own people. Newcomers have
    # some alleles that none of those had, which look as if from the first.
    rng = np.random.default_rng(5)
    n, m, n_new = 40, 20_000, 200
    rare, common = rng.uniform(0, 0.1, m), rng.uniform(0.2, 0.8, m)
    fitted = np.clip(rng.binomial(2 * n, rare) / (2 * n), ZERO, ONE)
    q = np.array([0.3, 0.7])
    genotypes = rng.binomial(2, q @ [common, rare], (n_new, m))
    f = q @ [common, fitted]
    slope = genotypes / f - (2 - genotypes) / (1 - f)
    lacking = fitted <= ZERO
    score = (slope * (common - fitted))[:, lacking].sum(axis=1).mean()
    absent = find_absent(np.stack([common, fitted]).astype(np.float32))
    people = np.tile(q, (n_new, 1)).astype(np.float32)
    noise = np.diag([1 / 100, 1 / n])
    found = score_of_carried(absent, noise, people, np.full(n_new, m))[0]
    assert score > 0
    assert 0.4 < (found[0] - found[1]) / score < 1.2


def test_score_of_carried__is_least_where_people_are_many():
    frequencies = np.array([[0.3, 0.6], [ZERO, 0.4]], np.float32)
    absent, q = find_absent(frequencies), np.array([[0.5, 0.5]], np.float32)
    few, many = (
        score_of_carried(absent, np.diag([1 / n, 1 / n]), q, np.array([2]))
        for n in (100, 10_000)
    )
    assert 0 < many[0, 0] < few[0, 0] / 5
    assert not score_of_carried(absent, NOISE, q, np.array([0])).any()


def test_scores__are_finite_where_a_population_has_no_people():
    frequencies = np.array([[0.3, 0.6], [ZERO, 0.4], [ZERO, ZERO]], np.float32)
    q = np.array([[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]], np.float32)
    noise = np.diag([1 / 100, 1 / 50, 0])
    for score in (score_of_absent, score_of_carried):
        assert np.isfinite(score(find_absent(frequencies), noise, q, [2, 2, 2])).all()


def test_scores__are_the_same_bits_whoever_they_are_asked_for_with():
    rng = np.random.default_rng(7)
    frequencies = rng.uniform(0.05, 0.95, (5, 700)).astype(np.float32)
    frequencies[rng.random(frequencies.shape) < 0.1] = ZERO
    q = rng.dirichlet(np.full(5, 0.05), 331).astype(np.float32)
    absent, noise = find_absent(frequencies), np.eye(5) / 60
    for score in (score_of_absent, score_of_carried):
        whole = score(absent, noise, q, np.full(331, 700))
        for start, stop in ((0, 1), (1, 20), (20, 150), (150, 331)):
            part = score(absent, noise, q[start:stop], np.full(stop - start, 700))
            np.testing.assert_array_equal(part, whole[start:stop])
