"""Truths drawn behind a fit: as far from it as they are, and as often at a bound."""

import numpy as np
import pytest

from estimator.config import MIN_FREQUENCY
from estimator.drawn_truth import NEAR, draw_ancestry, draw_frequencies

N_PEOPLE, N_VARIANTS = 6_000, 12_000
ERROR = 0.01


def two_populations(first: np.ndarray) -> np.ndarray:
    return np.array([first, 1 - first])


def drawn_people(
    first: np.ndarray, seed: int = 1, moved: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """People as fitted, and as they are drawn when the fit is off by a step."""
    rng = np.random.default_rng(seed)
    errors = np.full((2, len(first)), ERROR)
    found = (first + ERROR * rng.standard_normal(len(first)) - moved).clip(0, 1)
    q = two_populations(found)
    undone = two_populations(found + moved)
    return found, draw_ancestry(undone, q == 0, errors, rng)[0]


def shares_below(values: np.ndarray) -> np.ndarray:
    ends = ERROR * np.array([0.2, 1.0, 2.0, 4.0])
    return (values[:, None] < ends).mean(axis=0)


@pytest.mark.parametrize("moved", [-0.01, 0.0, 0.01])
def test_draw_ancestry__is_spread_as_the_truth_is(moved):
    rng = np.random.default_rng(2)
    true = rng.uniform(0, 0.5, N_PEOPLE)
    # A third have none.
    true[::3] = 0
    _, drawn = drawn_people(true, moved=moved)
    np.testing.assert_allclose(shares_below(drawn), shares_below(true), atol=0.05)
    assert abs((drawn == 0).mean() - 1 / 3) < 0.05


def test_draw_ancestry__takes_nobody_for_unmixed_where_nobody_is():
    true = np.random.default_rng(3).uniform(0, 0.5, N_PEOPLE)
    found, drawn = drawn_people(true)
    assert (found == 0).mean() > 0.006
    assert (drawn == 0).mean() < 0.005
    np.testing.assert_allclose(shares_below(drawn), shares_below(true), atol=0.01)


def test_draw_ancestry__leaves_what_is_far_from_a_bound():
    q = two_populations(np.linspace(NEAR * ERROR + 1e-6, 0.5, 50))
    drawn = draw_ancestry(q, q == 0, np.full(q.shape, ERROR), np.random.default_rng(1))
    np.testing.assert_allclose(drawn, q)


def test_draw_ancestry__columns_sum_to_one_whatever_the_errors():
    rng = np.random.default_rng(4)
    q = rng.dirichlet(np.full(5, 0.2), 200).T
    errors = np.geomspace(1e-6, 0.5, 200) * np.ones((5, 1))
    drawn = draw_ancestry(q - 0.01, q < 0.01, errors, rng)
    np.testing.assert_allclose(drawn.sum(axis=0), 1)
    assert (drawn >= 0).all()


def fitted_frequencies(
    true: np.ndarray, q: np.ndarray, seed: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies counted in people of one population each, and where none was met."""
    rng = np.random.default_rng(seed)
    alleles = np.round(2 * q.sum(axis=1)).astype(int)[:, None]
    seen = rng.binomial(alleles, true) / alleles
    kept = seen.clip(MIN_FREQUENCY, 1 - MIN_FREQUENCY)
    return kept, (seen == 0) | (seen == 1)


@pytest.mark.parametrize("f_st", [0.05, 0.2])
def test_draw_frequencies__are_spread_as_the_truth_is(f_st):
    rng = np.random.default_rng(6)
    mean = rng.uniform(0.02, 0.98, N_VARIANTS)
    spread = (1 - f_st) / f_st
    true = rng.beta(mean * spread, (1 - mean) * spread, (3, N_VARIANTS))
    q = np.repeat(np.eye(3), 60, axis=1)
    p, at_bound = fitted_frequencies(true, q)
    drawn = draw_frequencies(p, at_bound, q, 2 * q.shape[1], rng)
    assert ((drawn > 0) & (drawn < 1)).all()
    rare, rare_drawn = (np.minimum(x, 1 - x)[at_bound] for x in (true, drawn))
    # Of alleles that nobody had, as many are there, and as many hardly are.
    np.testing.assert_allclose(rare_drawn.mean(), rare.mean(), rtol=0.15)
    for end in (0.003, 0.01, 0.03):
        assert abs((rare_drawn < end).mean() - (rare < end).mean()) < 0.12
    # Both alleles are treated alike.
    low, high = rare_drawn[(p < 0.5)[at_bound]], rare_drawn[(p > 0.5)[at_bound]]
    error = rare_drawn.std() * np.sqrt(1 / len(low) + 1 / len(high))
    assert abs(low.mean() - high.mean()) < 3 * error


def test_draw_frequencies__leaves_what_is_far_from_a_bound():
    q = np.repeat(np.eye(2), 500, axis=1)
    p = np.random.default_rng(7).uniform(0.2, 0.8, (2, 100))
    drawn = draw_frequencies(
        p, np.zeros(p.shape, bool), q, 2_000, np.random.default_rng(1)
    )
    np.testing.assert_array_equal(drawn, p)


@pytest.mark.parametrize("beyond", [-0.2, 0.0, 0.2])
def test_draw_frequencies__of_a_population_without_people(beyond):
    q = np.zeros((3, 40))
    q[0, :20], q[1, 20:] = 1, 1
    rng = np.random.default_rng(8)
    p = rng.uniform(MIN_FREQUENCY, 0.3, (3, 50))
    drawn = draw_frequencies(p + beyond, p < 0.02, q, 80, rng)
    assert ((drawn > 0) & (drawn < 1)).all()


def test_draw_truth__same_seed_same_bytes():
    q = np.random.default_rng(9).dirichlet(np.full(3, 0.3), 300).T
    p = np.random.default_rng(9).beta(0.3, 2, (3, 200)).clip(1e-5, 1 - 1e-5)
    twice = [
        (
            draw_ancestry(q, q < 0.01, np.full(q.shape, 0.02), rng).tobytes(),
            draw_frequencies(p, p < 1e-4, q, 600, rng).tobytes(),
        )
        for rng in (np.random.default_rng(1), np.random.default_rng(1))
    ]
    assert twice[0] == twice[1]
