"""What the fit's own error adds to standard errors: exact parts, and whole fits."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from estimator import likelihood, tiling
from estimator.absent_alleles import Absent, find_absent, score_of_absent
from estimator.basis import Models, change_of_ancestry, step_in_basis
from estimator.bounded import covering_variance
from estimator.config import MIN_FREQUENCY
from estimator.metrics import match_components
from estimator.population_error import (
    MAX_NOISE,
    population_error,
)
from estimator.uncertainty import PopulationError, standard_errors
from tests import oracle
from tests.test_estimator_relaxation import TILE, fit, padded_shard

N_CALLED = 1000.0


def models_of(position: np.ndarray, hessian: np.ndarray) -> Models:
    """Models of one Hessian each, without a slope."""
    rows, columns = np.triu_indices(len(position))
    n = position.shape[1]
    pairs = np.tile(hessian[rows, columns][:, None], (1, n))
    return Models(
        position.astype(np.float32),
        np.zeros(position.shape, np.float32),
        pairs.astype(np.float32),
        np.zeros(n, bool),
    )


def even_people(k: int, sharpness: float = 1.0) -> Models:
    """People at every corner and inside, whose scores are as their Hessians say."""
    rng = np.random.default_rng(3)
    people = np.concatenate([np.eye(k)] * 20 + [rng.dirichlet(np.ones(k), 60)])
    hessian = sharpness * N_CALLED * (np.eye(k) + 0.1)
    score = np.linalg.cholesky(hessian) @ rng.standard_normal(people.T.shape)
    return models_of(people.T, hessian)._replace(gradient=score.astype(np.float32))


def none_absent(k: int) -> Absent:
    return find_absent(np.full((k, 10), 0.5, np.float32))


def estimate(people: Models, absent: Absent | None = None) -> PopulationError:
    k = len(people.position)
    return population_error(
        people,
        absent or none_absent(k),
        information=100.0 * np.eye(k),
        n_called=N_CALLED,
    )


def error_of(k: int, sharpness: float = 1.0) -> PopulationError:
    return estimate(even_people(k, sharpness))


def test_population_error__of_one_population_is_none():
    found = error_of(1)
    assert not found.noise.any()
    assert not found.basis.any()


def test_population_error__noise_is_that_of_the_frequencies():
    # Every called genotype adds the covariance of P, the inverse of sum QQ'.
    np.testing.assert_allclose(error_of(3).noise, np.eye(3) / 100, rtol=1e-5)


def test_population_error__noise_is_never_taken_for_all_the_differences():
    # People tell 1e-3 of a genotype, and P has ten times as much noise.
    found = error_of(3, sharpness=1e-3)
    np.testing.assert_allclose(found.noise, MAX_NOISE * 1e-3 * np.eye(3), rtol=1e-3)


def chance(error: PopulationError) -> np.ndarray:
    """Variance of each population's own entry."""
    return np.einsum("kkk->k", error.basis) - np.diagonal(error.bias) ** 2


def test_population_error__mean_squares_are_symmetric_and_fall_with_data():
    coarse, fine = error_of(3, sharpness=1.0), error_of(3, sharpness=100.0)
    for found in (coarse, fine):
        np.testing.assert_allclose(found.basis, found.basis.transpose(0, 2, 1))
        assert (np.linalg.eigvalsh(found.basis) > -1e-9).all()
        np.testing.assert_allclose(found.bias.sum(axis=1), 0, atol=1e-6)
    # A hundred times the observations of people.
    assert (chance(coarse) / chance(fine) > 20).all()


def test_population_error__same_people_same_bytes():
    for one, other in zip(error_of(3), error_of(3), strict=True):
        assert one.tobytes() == other.tobytes()


def test_population_error__people_pulled_inside_are_put_back():
    # Those at corners want to be further out by a step of .05, which bounds do not let
    # them: the fit has the populations too close together.
    people = even_people(2, sharpness=10.0)
    corner = np.asarray(people.position).max(axis=0) == 1
    within = np.array([[1, -1], [-1, 1]]) / 2
    step = 0.05 * within @ np.asarray(people.position) * corner
    noise = np.eye(2) / 100
    slope = (10 * (np.eye(2) + 0.1) - noise) @ step * N_CALLED
    # True populations are these; ancestry of those that are fitted there is less.
    slope = people.gradient + slope.astype(np.float32)
    found, before = estimate(people._replace(gradient=slope)), estimate(people)
    assert (np.diagonal(found.bias - before.bias) < -0.02).all()


def test_population_error__absent_alleles_are_no_reason_to_put_people_outside():
    # Everybody at the first corner has a score that comes of alleles absent from it.
    people = even_people(2, sharpness=10.0)
    frequencies = np.full((2, 200), 0.5, np.float32)
    frequencies[0, :50] = MIN_FREQUENCY
    absent = find_absent(frequencies)
    q = np.asarray(people.position)
    called = np.full(q.shape[1], N_CALLED)
    score = score_of_absent(absent, np.eye(2) / 100, q.T, called)
    assert (score[q[0] == 1, 1] < 0).all()
    short = people._replace(gradient=people.gradient + score.T)
    one, other = estimate(short, absent), estimate(people)
    np.testing.assert_allclose(one.bias, other.bias, atol=1e-5)
    assert np.abs(estimate(short).bias - other.bias).max() > 0.001


def test_population_error__people_without_genotypes_tell_nothing():
    people = even_people(3)
    blank = people._replace(
        position=np.pad(people.position, ((0, 0), (0, 20)), constant_values=1 / 3),
        gradient=np.pad(people.gradient, ((0, 0), (0, 20))),
        hessian=np.pad(people.hessian, ((0, 0), (0, 20))),
        held=np.pad(people.held, (0, 20)),
    )
    # They take nothing from the mean Hessian that limits the noise, either.
    one, other = estimate(blank), estimate(people)
    np.testing.assert_allclose(one.bias, other.bias, atol=0.01)
    assert np.isfinite(one.basis).all()


def test_population_error__held_people_fix_the_basis():
    people = even_people(3)
    free = error_of(3)
    pure = np.asarray(people.position).max(axis=0) == 1
    held = estimate(people._replace(held=pure))
    assert (chance(held) < chance(free)).all()
    assert np.abs(held.bias).max() < 0.02


def test_standard_errors__add_the_error_of_the_populations():
    rng = np.random.default_rng(5)
    k, n = 3, 6
    ancestry = rng.dirichlet(np.ones(k), n).astype(np.float32)
    roots = rng.normal(size=(n, k, 8))
    hessian = 50 * np.einsum("nak,nbk->nab", roots, roots)
    rows, columns = np.triu_indices(k)
    noise = np.diag([0.02, 0.01, 0.03])
    squares = rng.normal(size=(k, k, k))
    squares = 1e-3 * np.einsum("kab,kcb->kac", squares, squares)
    n_called = np.arange(100, 100 + n)
    within = np.array([[1, 0], [0, 1], [-1, -1]])
    expected = np.zeros((n, k))
    for person, q in enumerate(ancestry):
        found = within.T @ hessian[person] @ within
        true = found - within.T @ noise @ within * n_called[person]
        assert (np.linalg.eigvalsh(true) > 0).all()
        inverse = within @ np.linalg.inv(true)
        given = np.diag(inverse @ found @ inverse.T)
        expected[person] = np.sqrt(given + np.einsum("a,kab,b->k", q, squares, q))
    error = PopulationError(
        noise.astype(np.float32),
        squares.astype(np.float32),
        np.zeros((k, k), np.float32),
    )
    found = standard_errors(
        jnp.asarray(ancestry),
        jnp.asarray(hessian[:, rows, columns].astype(np.float32)),
        jnp.zeros((n, k), jnp.float32),
        error=error,
        n_called=jnp.asarray(n_called.astype(np.float32)),
    )
    np.testing.assert_allclose(found, expected.clip(0, 0.5), rtol=1e-3)


def test_standard_errors__noise_of_p_draws_newcomers_to_the_middle():
    k = 3
    ancestry = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], np.float32)
    hessian = np.array([[5.0, 1, 0], [1, 4, 1], [0, 1, 6]]) * 1e3
    noise, n_called = np.diag([0.5, 0.2, 0.3]), 1000.0
    nothing = np.zeros((k, k, k), np.float32), np.zeros((k, k), np.float32)
    error = PopulationError(noise.astype(np.float32), *nothing)

    def errors(in_fit: list[bool]) -> np.ndarray:
        pairs = np.tile(hessian[np.triu_indices(k)], (2, 1)).astype(np.float32)
        found = standard_errors(
            jnp.asarray(ancestry),
            jnp.asarray(pairs),
            jnp.zeros((2, k), jnp.float32),
            error=error,
            n_called=jnp.full(2, n_called, jnp.float32),
            in_fit=jnp.asarray(in_fit),
        )
        return np.asarray(found)

    within = np.array([[1, 0], [0, 1], [-1, -1]])
    true = within.T @ (hessian - n_called * noise) @ within
    inverse = within @ np.linalg.inv(true)
    variance = np.diag(inverse @ within.T @ hessian @ within @ inverse.T)
    variance = np.stack([variance, variance])
    # Scores of the truth are S q less than zero, but for those whose noise P has.
    shift = (inverse @ within.T @ (n_called * noise) @ ancestry.T).T
    moments = (jnp.asarray(each.astype(np.float32)) for each in (variance, shift))
    covered = np.sqrt(covering_variance(*moments))
    np.testing.assert_allclose(errors([True, True]), np.sqrt(variance), rtol=1e-3)
    np.testing.assert_allclose(errors([False, False]), covered, rtol=1e-3)
    np.testing.assert_array_equal(
        errors([True, False]),
        [errors([True, True])[0], errors([False, False])[1]],
    )


def errors_with_bias(
    ancestry: list[list[float]], bias: list[list[float]], variance: float
) -> np.ndarray:
    """Standard errors of people whom the data tell everything but for the basis."""
    q, shift = np.array(ancestry, np.float32), np.array(bias, np.float32)
    n, k = q.shape
    chance = np.einsum("k,ac->kac", np.full(k, variance), np.ones((k, k)))
    squares = chance + np.einsum("ak,ck->kac", shift, shift)
    sharp = np.tile(1e12 * (np.eye(k) + 1.0)[np.triu_indices(k)], (n, 1))
    error = PopulationError(
        np.zeros((k, k), np.float32), squares.astype(np.float32), shift
    )
    return np.asarray(
        standard_errors(
            jnp.asarray(q),
            jnp.asarray(sharp.astype(np.float32)),
            jnp.zeros((n, k), jnp.float32),
            error=error,
            n_called=jnp.ones(n, jnp.float32),
        )
    )


def test_standard_errors__cover_a_bias_as_often_as_they_claim():
    # A person of Q = (.5, .5) is (.55, .45) in truth, found with an error of .05.
    (found, _), *_ = errors_with_bias([[0.5, 0.5]], [[0.2, -0.2], [-0.1, 0.1]], 0.05**2)
    z = (1.96 * found - 0.05) / 0.05, (1.96 * found + 0.05) / 0.05
    assert abs(scipy.stats.norm.cdf(z).sum() - 1 - 0.95) < 1e-4


def test_standard_errors__a_bias_takes_no_proportion_beyond_its_bounds():
    bias = [[0.2, -0.2], [-0.1, 0.1]]
    vertex, near, inside = errors_with_bias(
        [[1.0, 0.0], [0.99, 0.01], [0.7, 0.3]], bias, 1e-12
    )
    np.testing.assert_allclose(vertex, 0, atol=1e-4)
    # Errors of a bias alone are shorter than it, as they go one way.
    np.testing.assert_allclose(near, 0.01 / 1.96, rtol=0.02)
    np.testing.assert_allclose(inside, 0.11 / 1.96, rtol=1e-3)


def test_standard_errors__cover_a_bias_that_has_no_chance_beside_it():
    (vertex,) = errors_with_bias([[1.0, 0.0]], [[-0.2, 0.2], [0.1, -0.1]], 0.0)
    np.testing.assert_allclose(vertex[0], 0.2 / 1.96, rtol=1e-3)
    assert np.isfinite(vertex).all()


def test_standard_errors__of_people_inside_count_absent_alleles():
    ancestry = np.array([[0.9, 0.1], [1.0, 0.0]], np.float32)
    hessian = np.tile([2e3, 0, 2e3], (2, 1)).astype(np.float32)
    nothing = (np.zeros((2,) * n, np.float32) for n in (2, 3, 2))
    absent = np.array([[0, -100], [0, -100]], np.float32)

    def errors(**kwargs: np.ndarray) -> np.ndarray:
        found = standard_errors(
            jnp.asarray(ancestry),
            jnp.asarray(hessian),
            jnp.zeros((2, 2), jnp.float32),
            error=error,
            n_called=jnp.ones(2, jnp.float32),
            **{name: jnp.asarray(value) for name, value in kwargs.items()},
        )
        return np.asarray(found)

    error = PopulationError(*nothing)
    # Of (1, -1) / 2 times the score, by an information of 1e3 for that step.
    shift, variance = 100 / 4e3, 1 / 4e3
    covered = covering_variance(jnp.float32(variance), jnp.float32(shift))
    found = errors(absent=absent)
    np.testing.assert_allclose(found[0], np.sqrt(covered), rtol=1e-3)
    np.testing.assert_array_equal(found[1], errors()[1])
    # With no noise of P, newcomers' are as long for as much the other way.
    newcomers = errors(absent=-absent, in_fit=np.zeros(2, bool))
    np.testing.assert_allclose(newcomers[0], found[0], rtol=1e-3)


@dataclass(frozen=True)
class Coverage:
    """Shares of true Q that intervals hold: without, and with, the error of the fit."""

    given: float
    whole: float


def people_models(genotypes: np.ndarray, q: np.ndarray, p: np.ndarray) -> Models:
    """Models of people at Q."""
    packed = padded_shard(genotypes)
    padded = jnp.asarray(tiling.pad_ancestry(q, len(packed)))
    tiles = tiling.tile_variants(jnp.asarray(p), TILE.width)
    found = likelihood.ancestry_statistics(packed, padded, tiles, tile=TILE)
    gradient, hessian = (np.asarray(s)[: len(q)] for s in found[:2])
    return Models(q.T, gradient.T, hessian.T, np.zeros(len(q), bool))


def error_of_fit(
    genotypes: np.ndarray, q: np.ndarray, p: np.ndarray
) -> PopulationError:
    """Error of the populations, from everybody."""
    n_variants = genotypes.shape[1]
    called = (genotypes >= 0).sum(axis=1)
    return population_error(
        people_models(genotypes, q, p),
        find_absent(p),
        information=(q * (called / n_variants)[:, None]).T @ q.astype(float),
        n_called=float(called.mean()),
    )


def held(
    genotypes: np.ndarray,
    people: Models,
    true: np.ndarray,
    error: PopulationError | None,
    in_fit: bool = True,
) -> float:
    """Share of true Q, between .02 and .98, that intervals hold."""
    q = np.asarray(people.position).T
    called = (genotypes >= 0).sum(axis=1)
    errors = standard_errors(
        jnp.asarray(q),
        jnp.asarray(np.asarray(people.hessian).T),
        jnp.asarray(np.asarray(people.gradient).T),
        error=error,
        n_called=jnp.asarray(called.astype(np.float32)),
        in_fit=jnp.full(len(q), in_fit),
    )
    order = match_components(q, true.astype(np.float32))
    within = np.abs(q[:, order] - true) < 1.96 * np.asarray(errors)[:, order]
    return float(within[(true > 0.02) & (true < 0.98)].mean())


def coverage(n_people: int, n_variants: int, k: int, **of_truth: float) -> Coverage:
    """How many true Q the 95 % intervals of a fit hold, without and with its error."""
    truth = oracle.simulate(n_people, n_variants, k, **of_truth)
    q, p = fit(truth.genotypes, k).best.point
    people = people_models(truth.genotypes, q, p)
    error = error_of_fit(truth.genotypes, q, p)
    given, whole = (
        held(truth.genotypes, people, truth.ancestry, each) for each in (None, error)
    )
    return Coverage(given, whole)


def test_projection__intervals_cover_the_truth_of_newcomers():
    truth = oracle.simulate(1000, 4000, 3, seed=11, fst=0.05, concentration=0.5)
    fitted, genotypes = np.split(truth.genotypes, 2)
    q, p = fit(fitted, 3).best.point
    error = error_of_fit(fitted, q, p)
    unmoved = change_of_ancestry(np.eye(3))
    found = np.full((len(genotypes), 3), 1 / 3, np.float32)
    for _ in range(12):
        people = people_models(genotypes, found, p)
        found = np.asarray(step_in_basis(people, unmoved, simplex=True)).T
    people = people_models(genotypes, found, p)
    true = truth.ancestry[len(fitted) :]
    # As if they had been in the fit, whose P knows their own noise.
    assert held(genotypes, people, true, error) < 0.9
    assert 0.92 < held(genotypes, people, true, error, in_fit=False) < 0.98


def test_fit__intervals_cover_the_truth():
    # Those of a fit that takes P as known hold fewer truths than they claim.
    found = coverage(500, 4000, 3, seed=11, fst=0.1, concentration=0.5)
    assert found.given < 0.92
    assert 0.93 < found.whole < 0.97


@pytest.mark.soak
@pytest.mark.parametrize(("k", "seed"), [(3, 5), (5, 11)])
def test_fit__intervals_cover_the_truth_where_structure_is_thin(k, seed):
    found = coverage(1000, 10_000, k, seed=seed, fst=0.05, concentration=0.25)
    # The bias is most of the error here.
    assert found.given < 0.75
    assert 0.93 < found.whole < 0.97
