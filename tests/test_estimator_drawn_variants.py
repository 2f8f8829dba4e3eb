"""Variants drawn anew: models of genotypes where their likelihood is highest."""

import numpy as np

from estimator.basis import Models
from estimator.config import MIN_FREQUENCY
from estimator.drawn_variants import MAX_PEOPLE, draw_variants

N_VARIANTS = 400


def drawn(q: np.ndarray, p: np.ndarray, alleles: float) -> Models:
    rng = np.random.default_rng(4)
    found = draw_variants(q.astype(np.float32), p.astype(np.float32), alleles, rng)
    return Models(*map(np.asarray, found))


def inside(models: Models) -> np.ndarray:
    p = np.asarray(models.position)
    return (p > MIN_FREQUENCY) & (p < 1 - MIN_FREQUENCY)


def mixed_people(n: int) -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.full(3, 0.4), n).T


def test_draw_variants__are_where_the_likelihood_is_highest():
    p = np.random.default_rng(2).beta(0.5, 2, (3, N_VARIANTS)).clip(1e-3, 1 - 1e-3)
    found = drawn(mixed_people(100), p, 200)
    free, gradient = inside(found), np.asarray(found.gradient)
    assert 0.02 < 1 - free.mean() < 0.5
    # A step that is left is small beside a standard error.
    curvature = np.asarray(found.hessian)[[0, 3, 5]]
    assert (np.abs(gradient) / np.sqrt(curvature))[free].max() < 0.2
    low = np.asarray(found.position) <= MIN_FREQUENCY
    assert gradient[low].mean() < -1
    assert gradient[~low & ~free].mean() > 1


def test_draw_variants__has_the_moments_of_the_genotypes():
    q, n = np.repeat(np.eye(2), 40, axis=1), 2 * 40
    p = np.full((2, N_VARIANTS), 0.3)
    found = drawn(q, p, 2 * n)
    position = np.asarray(found.position)
    np.testing.assert_allclose(position.mean(), 0.3, atol=0.01)
    np.testing.assert_allclose(position.var(), 0.3 * 0.7 / n, rtol=0.15)
    expected = n / (position * (1 - position))
    np.testing.assert_allclose(np.asarray(found.hessian)[[0, 2]], expected, rtol=1e-3)


def test_draw_variants__some_people_stand_for_all():
    q, p = mixed_people(MAX_PEOPLE), np.full((3, N_VARIANTS), 0.3)
    few, many = (drawn(np.repeat(q, n, axis=1), p, 9_000) for n in (1, 3))
    one, other = (np.asarray(models.hessian).mean(axis=1) for models in (few, many))
    np.testing.assert_allclose(one, other, rtol=0.01)


def test_draw_variants__of_a_population_without_people():
    q = np.concatenate([np.repeat(np.eye(2), 20, axis=1), np.zeros((1, 40))])
    found = drawn(q, np.full((3, N_VARIANTS), 0.2), 80)
    for values in found:
        assert np.isfinite(values).all()
    np.testing.assert_allclose(np.asarray(found.position)[2], 0.2)


def test_draw_variants__same_seed_same_bytes():
    q, p = mixed_people(50), np.full((3, N_VARIANTS), 0.3)
    for one, other in zip(drawn(q, p, 100), drawn(q, p, 100), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
