"""Q for given P: one optimum, reached from anywhere and never left downwards."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from estimator import packing, projection, tiling
from estimator.config import MIN_FREQUENCY
from estimator.likelihood import ancestry_statistics, hessian_share
from estimator.relaxation import newton_ancestry
from tests import oracle

TILE = tiling.TileShape(people=32, width=64)
N_PEOPLE = 40
MISSING_PERSON = 5


@functools.cache
def cohort():
    data = oracle.simulate(N_PEOPLE, 500, 3, seed=9, missing_rate=0.05)
    data.genotypes[MISSING_PERSON] = -1
    return oracle.Cohort(
        data.genotypes, data.ancestry, data.frequencies.astype(np.float32)
    )


def starts():
    rng = np.random.default_rng(2)
    corners = np.eye(3)[rng.integers(0, 3, N_PEOPLE)]
    return {
        "uniform": np.full((N_PEOPLE, 3), 1 / 3),
        "random": rng.dirichlet([1, 1, 1], N_PEOPLE),
        "corner": corners,
        "nearly a corner": 0.999 * corners + 0.001 / 3,
    }


# Falls of the likelihood that are taken for rounding, over the padded variants.
ROUNDING = 768 * projection._ROUNDING


def project(initial, refine):
    data = cohort()
    packed = tiling.pad_shard(packing.pack_genotypes(data.genotypes), TILE)
    result = projection.project_ancestry(
        jnp.asarray(packed),
        jnp.asarray(tiling.pad_ancestry(initial, len(packed))),
        tiling.tile_variants(jnp.asarray(data.frequencies), TILE.width),
        refine=refine,
        tile=TILE,
    )
    return projection.Projection(*(array[:N_PEOPLE] for array in result))


@functools.cache
def optimum():
    """Return each person's most likely row of Q, by SLSQP in float64."""
    rows = np.full((N_PEOPLE, 3), 1 / 3)
    frequencies = cohort().frequencies.astype(np.float64)
    for person in range(N_PEOPLE):
        genotypes = cohort().genotypes[[person]]
        rows[person] = scipy.optimize.minimize(
            lambda q, g=genotypes: (
                -oracle.log_likelihood(g, q[None], frequencies) / 500
            ),
            rows[person],
            jac=lambda q, g=genotypes: (
                -oracle.ancestry_gradient(g, q[None], frequencies)[0] / 500
            ),
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        ).x
    return rows


@pytest.mark.parametrize("start", starts())
def test_project__reaches_the_optimum_from_any_start(start):
    found = project(starts()[start], refine=30)
    informative = np.arange(N_PEOPLE) != MISSING_PERSON
    error = np.abs(np.asarray(found.ancestry) - optimum())[informative]
    assert error.max() < 2e-4
    exact = oracle.person_log_likelihood(
        cohort().genotypes, np.asarray(found.ancestry), cohort().frequencies
    )
    best = oracle.person_log_likelihood(
        cohort().genotypes, optimum(), cohort().frequencies
    )
    np.testing.assert_allclose(found.log_likelihood, exact, rtol=1e-6)
    assert (best - exact).max() < 2 * ROUNDING
    assert (found.ancestry == 0).any()


@pytest.mark.parametrize("start", starts())
def test_project__never_falls(start):
    values = [project(starts()[start], refine=n).log_likelihood for n in range(6)]
    assert (np.diff(values, axis=0) >= -2 * ROUNDING).all()
    assert (values[-1] > values[0]).any()


def test_project__no_refinement_returns_the_start_and_its_likelihood():
    start = starts()["random"].astype(np.float32)
    found = project(start, refine=0)
    np.testing.assert_array_equal(found.ancestry, start)
    expected = oracle.person_log_likelihood(
        cohort().genotypes, start, cohort().frequencies
    )
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-6)


def test_project__a_person_without_calls_keeps_the_start():
    start = starts()["random"].astype(np.float32)
    found = project(start, refine=10)
    np.testing.assert_allclose(
        found.ancestry[MISSING_PERSON], start[MISSING_PERSON], atol=1e-6
    )
    assert found.log_likelihood[MISSING_PERSON] == 0


@pytest.mark.parametrize("start", [None, 0, 2, "near"])
@pytest.mark.parametrize("n_variants", [30_000, 70_000])
def test_project__reaches_the_optimum_with_kept_hessians(n_variants, start):
    assert hessian_share(n_variants) < 4
    n_people, tile = 32, tiling.TileShape(people=32, width=128)
    data = oracle.simulate(n_people, n_variants, 3, seed=4, missing_rate=0.05)
    packed = jnp.asarray(tiling.pad_shard(packing.pack_genotypes(data.genotypes), tile))
    p = tiling.tile_variants(data.frequencies.astype(np.float32), tile.width)
    if start == "near":
        # As far from the truth as an encoder's answers.
        noise = np.random.default_rng(1).normal(0, 0.01, data.ancestry.shape)
        rows = np.clip(data.ancestry + noise, 0, None)
        rows /= rows.sum(axis=1, keepdims=True)
    else:
        rows = np.tile(
            np.full(3, 1 / 3) if start is None else np.eye(3)[start], (n_people, 1)
        )
    initial = jnp.asarray(rows.astype(np.float32))
    found = projection.project_ancestry(packed, initial, p, refine=20, tile=tile)
    best = initial
    for _ in range(15):
        exact = ancestry_statistics(packed, best, p, tile=tile)
        best = newton_ancestry(best, exact.gradient, exact.hessian)
    short = np.asarray(exact.log_likelihood - found.log_likelihood)
    # From starts as far off as these, what is left is not always told in advance.
    assert short.max() < projection.TOLERANCE * (0.5 if start == "near" else 2)
    assert np.median(short) < 1e-3
    assert np.abs(np.asarray(found.ancestry - best)).max() < 1e-3


def test_project__a_few_steps_are_enough():
    few = project(starts()["uniform"], refine=5)
    many = project(starts()["uniform"], refine=30)
    assert np.abs(few.ancestry - many.ancestry).max() < 5e-4


def test_project__near_a_vertex_where_frequencies_are_at_their_bounds():
    # Alternate alleles that the first population all but lacks bend the likelihood
    # over changes of Q far smaller than its usual standard error.
    rng = np.random.default_rng(3)
    frequencies = rng.uniform(0.2, 0.8, (2, 2000)).astype(np.float32)
    frequencies[0, :400] = MIN_FREQUENCY
    frequencies[1, :400] = 0.5
    ancestry = np.array([[0.999, 0.001]] * 24 + [[1.0, 0.0]] * 8)
    genotypes = rng.binomial(2, ancestry @ frequencies).astype(np.int8)
    packed = tiling.pad_shard(packing.pack_genotypes(genotypes), TILE)
    found = projection.project_ancestry(
        jnp.asarray(packed),
        jnp.full((32, 2), 0.5, jnp.float32).at[:, 0].set(0.997).at[:, 1].set(0.003),
        tiling.tile_variants(jnp.asarray(frequencies), TILE.width),
        refine=8,
        tile=TILE,
    )
    grid = np.concatenate([[0.0], np.geomspace(1e-7, 0.05, 4001)])
    values = np.stack(
        [
            oracle.person_log_likelihood(
                genotypes, np.tile([1 - small, small], (32, 1)), frequencies
            )
            for small in grid
        ]
    )
    exact = oracle.person_log_likelihood(
        genotypes, np.asarray(found.ancestry), frequencies
    )
    assert (values.max(axis=0) - exact).max() < 0.01
    np.testing.assert_allclose(found.log_likelihood, exact, atol=0.01)


def test_project__a_person_with_one_call_goes_to_the_likeliest_population():
    frequencies = np.array([[0.2], [0.9], [0.5]], np.float32)
    packed = tiling.pad_shard(packing.pack_genotypes(np.array([[2]], np.int8)), TILE)
    found = projection.project_ancestry(
        jnp.asarray(packed),
        jnp.full((32, 3), 1 / 3, jnp.float32),
        tiling.tile_variants(jnp.asarray(frequencies), TILE.width),
        refine=10,
        tile=TILE,
    )
    np.testing.assert_allclose(found.ancestry[0], [0, 1, 0], atol=1e-6)
