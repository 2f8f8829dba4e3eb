"""Errors of people with few calls against quadrature and known truth."""

import jax.numpy as jnp
import numpy as np
import pytest

from estimator.few_calls import FEW_CALLS, profile_errors
from estimator.likelihood import ancestry_statistics
from estimator.tiling import TileShape
from estimator.uncertainty import MAX_STANDARD_ERROR
from tests import oracle
from tests.test_estimator_uncertainty import project

TILE = TileShape(128, 256)


def errors_with(n_calls: int, k: int, *, fst: float, concentration: float, seed: int):
    """Estimates, errors and truth of people with so many calls each; P is known."""
    n_people, n_variants = 512, 1024
    drawn = oracle.simulate(
        n_people,
        n_variants,
        k,
        seed=seed,
        missing_rate=0,
        fst=fst,
        concentration=concentration,
    )
    rng = np.random.default_rng(seed)
    order = rng.random((n_people, n_variants)).argsort(axis=1)
    genotypes = np.where(order < n_calls, drawn.genotypes, -1).astype(np.int8)
    packed, tiles, q = project(genotypes, drawn.frequencies, TILE)
    found = ancestry_statistics(packed, q, tiles, tile=TILE)
    errors = profile_errors(q, found.hessian, found.gradient)
    return np.asarray(q), np.asarray(errors), drawn.ancestry


@pytest.mark.parametrize("n_calls", [1, 5, 10, 30, 100, FEW_CALLS - 1])
@pytest.mark.parametrize(
    ("k", "fst", "concentration"),
    [(2, 0.1, 1.0), (2, 0.3, 0.5), (3, 0.1, 0.3), (5, 0.3, 0.5)],
)
def test_profile_errors__intervals_hold_the_truth_or_are_wide(
    n_calls: int, k: int, fst: float, concentration: float
):
    q, errors, truth = errors_with(
        n_calls, k, fst=fst, concentration=concentration, seed=n_calls
    )
    assert ((errors > 0) & (errors <= MAX_STANDARD_ERROR)).all()
    low = np.clip(q - 1.96 * errors, 0, 1)
    high = np.clip(q + 1.96 * errors, 0, 1)
    held = ((truth >= low - 1e-6) & (truth <= high + 1e-6)).mean()
    if n_calls >= 30:
        assert 0.93 <= held <= 0.98
    else:
        assert np.mean(high - low) > 0.5
        # Wide is what is asked for here; of one call .82 to .98 were measured.
        assert held > 0.8


def test_profile_errors__of_two_populations_equal_quadrature():
    hessian = np.array([[200.0, 120.0], [120.0, 160.0]])
    score = np.array([9.0, 4.0])
    q = np.array([[0.9, 0.1]], np.float32)
    pairs = hessian[np.triu_indices(2)][None].astype(np.float32)
    found = profile_errors(
        jnp.asarray(q), jnp.asarray(pairs), jnp.asarray(score[None], jnp.float32)
    )
    x = np.linspace(0, 1, 100_001)
    step = np.stack([x - 0.9, 0.9 - x])
    level = score @ step - 0.5 * np.einsum("an,ab,bn->n", step, hessian, step)
    density = np.exp(level)
    order = np.argsort(np.abs(step[0]), kind="stable")
    mass = np.cumsum(density[order])
    reach = np.abs(step[0])[order][np.searchsorted(mass, 0.95 * mass[-1])]
    np.testing.assert_allclose(np.asarray(found) * 1.959964, reach, rtol=0.01)


@pytest.mark.parametrize("k", [2, 3, 20])
def test_profile_errors__where_calls_tell_nothing_reach_over_all(k: int):
    vertex = jnp.eye(k, dtype=jnp.float32)[:1]
    nothing = jnp.zeros((1, k * (k + 1) // 2), jnp.float32)
    found = np.asarray(profile_errors(vertex, nothing, jnp.zeros((1, k), jnp.float32)))
    np.testing.assert_allclose(1.959964 * found, 0.95, atol=0.001)


def test_profile_errors__of_one_population():
    one = jnp.ones((2, 1), jnp.float32)
    assert np.asarray(profile_errors(one, one, one)).tolist() == [[0.0], [0.0]]
