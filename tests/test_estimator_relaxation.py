"""Fits from start to optimum, and the rules of the search that drives them."""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from estimator import acceleration, likelihood, packing, spectral, tiling
from estimator.acceleration import Evaluation, Point, Search, advance, propose
from estimator.basis import (
    Models,
    change_of_ancestry,
    change_of_frequencies,
    pull,
    step_in_basis,
)
from estimator.basis_choice import choose_basis
from estimator.config import MIN_FREQUENCY
from estimator.metrics import match_components
from tests import oracle

# One tile of people for every cohort here, so that few shapes are compiled.
TILE = tiling.TileShape(people=128, width=64)


@dataclass(frozen=True)
class Fit:
    search: acceleration.Search
    evaluated: list[acceleration.Evaluation]
    accepted: list[float]

    @property
    def best(self) -> acceleration.Evaluation:
        assert self.search.best is not None
        return self.search.best

    @property
    def ancestry(self):
        return self.best.point.ancestry

    @property
    def frequencies(self):
        return self.best.point.frequencies


def evaluate(padded, point, round_number, radius=acceleration.MAX_RADIUS):
    """Map a point by one round, over a single shard, and take its likelihood."""
    n_people, n_variants = len(point.ancestry), point.frequencies.shape[1]
    k = len(point.frequencies)
    ancestry = jnp.asarray(tiling.pad_ancestry(point.ancestry, len(padded)))
    tiles = tiling.tile_variants(jnp.asarray(point.frequencies), TILE.width)
    found = likelihood.ancestry_statistics(padded, ancestry, tiles, tile=TILE)
    q, gradient, hessian = (
        np.asarray(each)[:n_people].T for each in (ancestry, *found[:2])
    )
    people = Models(q, gradient, hessian, np.zeros(n_people, bool))
    unmoved = np.eye(k)
    of_people = change_of_ancestry(unmoved)
    q = np.asarray(step_in_basis(people, of_people, simplex=True))
    statistics = likelihood.frequency_statistics(
        padded,
        jnp.asarray(tiling.pad_ancestry(q.T, len(padded))),
        tiles,
        tile=TILE,
    )
    gradient, hessian = (
        np.asarray(tiling.untile_variants(s, n_variants)) for s in statistics
    )
    free = np.zeros(n_variants, bool)
    variants = Models(point.frequencies, gradient, hessian, free)
    of_variants = change_of_frequencies(unmoved)
    p = np.asarray(step_in_basis(variants, of_variants, simplex=False))
    gradient = pull(people, q, simplex=True) + pull(variants, p, simplex=False)
    basis = choose_basis(
        people,
        variants,
        weights=(1, 1),
        gradient=np.asarray(gradient),
        radius=radius,
    )
    mapped = Point(
        np.asarray(step_in_basis(people, change_of_ancestry(basis), simplex=True)).T,
        np.asarray(
            step_in_basis(variants, change_of_frequencies(basis), simplex=False)
        ),
    )
    value = float(found.log_likelihood[:n_people].sum())
    return Evaluation(round_number, point, mapped, Point(q.T, p), value)


def starting_point(genotypes, k, seed=0):
    packed = packing.pack_genotypes(genotypes)
    pooled = oracle.pooled_frequency(genotypes)
    start = spectral.spectral_start(packed, pooled, k, seed=seed, tile=TILE)
    return Point(start.ancestry, start.frequencies)


def padded_shard(genotypes):
    packed = packing.pack_genotypes(genotypes)
    return jnp.asarray(tiling.pad_shard(packed, TILE))


def fit(genotypes, k, *, seed=0, max_rounds=200):
    """Run the whole of a fit in memory, as the pipeline does over shards."""
    padded = padded_shard(genotypes)
    search = Search(1e-9 * int((genotypes >= 0).sum()))
    point = starting_point(genotypes, k, seed)
    evaluated, accepted = [], []
    for round_number in range(max_rounds):
        evaluation = evaluate(padded, point, round_number, search.radius)
        search = advance(search, evaluation)
        evaluated.append(evaluation)
        if search.history[-1] is evaluation:
            accepted.append(evaluation.log_likelihood)
        if search.converged:
            break
        point = propose(search)
    assert search.converged
    result = Fit(search, evaluated, accepted)
    assert_valid(*result.best.point)
    return result


def assert_valid(ancestry, frequencies):
    assert ancestry.dtype == frequencies.dtype == np.float32
    assert (ancestry >= 0).all()
    np.testing.assert_allclose(ancestry.sum(axis=1), 1, atol=1e-6)
    assert (frequencies >= MIN_FREQUENCY).all()
    assert (frequencies <= 1 - MIN_FREQUENCY).all()


@functools.cache
def cohort(k):
    return oracle.simulate(120, 600, k, seed=k)


@functools.cache
def fitted(k, seed=0):
    return fit(cohort(k).genotypes, k, seed=seed)


def gap_to_optimum(genotypes, result, start):
    """Log-likelihood by which the oracle's optimum is higher, per genotype."""
    optimum = oracle.fit(genotypes, start.ancestry, start.frequencies)
    reached = oracle.log_likelihood(genotypes, result.ancestry, result.frequencies)
    return (optimum.log_likelihood - reached) / (genotypes >= 0).sum()


# Whole fits


@pytest.mark.parametrize("k", [1, 2, 3])
def test_fit__reaches_the_optimum_of_the_oracle(k):
    gap = gap_to_optimum(cohort(k).genotypes, fitted(k), cohort(k))
    assert abs(gap) < 1e-8


@pytest.mark.parametrize("k", [1, 2, 3])
def test_fit__reports_the_likelihood_of_the_point_it_returns(k):
    best = fitted(k).best
    exact = oracle.log_likelihood(cohort(k).genotypes, *best.point)
    assert abs(best.log_likelihood - exact) / cohort(k).n_observed < 2e-9


@pytest.mark.parametrize("k", [2, 3])
def test_fit__accepts_no_fall(k):
    result = fitted(k)
    highest = np.maximum.accumulate(result.accepted)
    assert (result.accepted >= highest - result.search.tolerance).all()
    assert result.best.log_likelihood == highest[-1]


def test_fit__accelerates():
    genotypes = cohort(3).genotypes
    padded, point = padded_shard(genotypes), starting_point(genotypes, 3)
    n_rounds = len(fitted(3).evaluated)
    plain = []
    for round_number in range(n_rounds):
        evaluation = evaluate(padded, point, round_number)
        plain.append(evaluation.log_likelihood)
        point = evaluation.relaxed
    # Every step of both blocks is a Newton step that must not fall, whatever follows.
    assert (np.diff(plain) > -1e-9 * cohort(3).n_observed).all()
    assert fitted(3).best.log_likelihood > plain[-1]


def test_fit__recovers_the_ancestry_that_was_simulated():
    truth = cohort(3).ancestry.astype(np.float32)
    order = match_components(fitted(3).ancestry, truth)
    error = fitted(3).ancestry[:, order] - truth
    assert np.sqrt(np.mean(error**2)) < 0.05


def test_fit__leaves_exact_zeros():
    assert (fitted(3).ancestry == 0).mean() > 0.1
    assert (fitted(3).frequencies == np.float32(MIN_FREQUENCY)).any()


def test_fit__same_seed_same_bytes():
    again = fit(cohort(2).genotypes, 2, seed=0)
    for one, other in zip(fitted(2).best.point, again.best.point, strict=True):
        assert one.tobytes() == other.tobytes()


def test_fit__another_seed_reaches_the_same_optimum():
    one, other = fitted(3, seed=0), fitted(3, seed=5)
    assert not np.array_equal(one.ancestry, other.ancestry)
    difference = one.best.log_likelihood - other.best.log_likelihood
    assert abs(difference) / cohort(3).n_observed < 1e-8


def test_fit__one_population_gives_the_pooled_frequencies():
    pooled = oracle.pooled_frequency(cohort(1).genotypes)
    expected = pooled.clip(MIN_FREQUENCY, 1 - MIN_FREQUENCY)
    np.testing.assert_allclose(fitted(1).frequencies[0], expected, atol=2e-6)
    assert (fitted(1).ancestry == 1).all()


# A hundred rounds of a whole run with as many are among the default tests.
@pytest.mark.soak
def test_fit__more_than_twenty_populations():
    data = oracle.simulate(66, 250, 22, seed=4, fst=0.6, concentration=0.02)
    result = fit(data.genotypes, 22)
    # Three people a population leave local optima: this is one, and near the best.
    here = result.best.point
    assert abs(gap_to_optimum(data.genotypes, result, here)) < 1e-8
    assert gap_to_optimum(data.genotypes, result, data) < 1e-3


def test_fit__missing_people_and_variants_and_monomorphic_ones():
    data = oracle.simulate(120, 600, 2, seed=8)
    genotypes = data.genotypes.copy()
    genotypes[:, 0], genotypes[:, 1], genotypes[:, 2] = 0, 2, -1
    genotypes[5] = -1
    result = fit(genotypes, 2)
    assert abs(gap_to_optimum(genotypes, result, data)) < 1e-8
    np.testing.assert_allclose(result.frequencies[:, 0], MIN_FREQUENCY, rtol=1e-5)
    np.testing.assert_allclose(1 - result.frequencies[:, 1], MIN_FREQUENCY, rtol=1e-5)
    without = fit(np.delete(genotypes, 5, axis=0), 2)
    difference = result.best.log_likelihood - without.best.log_likelihood
    assert abs(difference) / (genotypes >= 0).sum() < 1e-8


@pytest.mark.parametrize(("n_people", "n_variants"), [(1, 600), (9, 1), (1, 1)])
def test_fit__one_person_or_one_variant(n_people, n_variants):
    rng = np.random.default_rng(1)
    genotypes = rng.integers(0, 3, (n_people, n_variants)).astype(np.int8)
    result = fit(genotypes, 1)
    expected = oracle.pooled_frequency(genotypes)
    inside = np.clip(expected, MIN_FREQUENCY, 1 - MIN_FREQUENCY)
    np.testing.assert_allclose(result.frequencies[0], inside, atol=2e-6)


def test_fit__as_many_populations_as_people():
    genotypes = oracle.simulate(3, 600, 3, seed=2).genotypes
    result = fit(genotypes, 3)
    # Everyone a population of their own: nothing fits better.
    halves = np.where(genotypes >= 0, genotypes, 0) / 2
    ideal = oracle.log_likelihood(
        genotypes, np.eye(3), halves.clip(MIN_FREQUENCY, 1 - MIN_FREQUENCY)
    )
    n_observed = (genotypes >= 0).sum()
    assert abs(result.best.log_likelihood - ideal) / n_observed < 1e-7


# The start


def test_spectral_start__is_near_the_truth():
    start = starting_point(cohort(3).genotypes, 3)
    assert_valid(*start)
    truth = cohort(3).ancestry.astype(np.float32)
    order = match_components(truth, start.ancestry)
    assert np.sqrt(np.mean((start.ancestry[:, order] - truth) ** 2)) < 0.08
    error = start.frequencies[order] - cohort(3).frequencies
    assert np.sqrt(np.mean(error**2)) < 0.1


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("seed", range(12))
def test_spectral_start__of_one_population(k, seed):
    # Least squares leave nothing with K = 1, and rounding makes that negative.
    genotypes = oracle.simulate(200, 300, 1, seed=seed).genotypes
    assert_valid(*starting_point(genotypes, k, seed))


@pytest.mark.parametrize(
    "genotypes",
    [
        np.zeros((20, 40), np.int8),
        np.full((20, 40), 2, np.int8),
        np.tile(oracle.simulate(1, 40, 1, seed=1).genotypes, (20, 1)),
        np.tile(np.array([[0], [2]], np.int8), (10, 40)),
        np.full((20, 40), -1, np.int8),
    ],
    ids=["reference", "alternate", "clones", "two lines", "no calls"],
)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_spectral_start__of_people_who_do_not_differ(genotypes, k):
    assert_valid(*starting_point(genotypes, k))


@pytest.mark.parametrize("k", [0, 5])
def test_spectral_start__refuses_more_populations_than_the_data_carry(k):
    genotypes = oracle.simulate(4, 30, 2, seed=1).genotypes
    with pytest.raises(
        ValueError, match=rf"in \[1, 4\] for 4 people and 30 variants, got {k}"
    ):
        starting_point(genotypes, k)


def test_spectral_start__refuses_frequencies_of_another_width():
    packed = packing.pack_genotypes(np.zeros((4, 30), np.int8))
    with pytest.raises(ValueError, match="33 variants are 9 elements a person; .* 8"):
        spectral.spectral_start(packed, np.full(33, 0.5), 2, seed=0, tile=TILE)


# The search: falls are refused, steps halved, calm confirmed


def vector_point(*values):
    """Return a point of one person, one population and as many variants as values."""
    frequencies = np.asarray([values], np.float32)
    return Point(np.ones((1, 1), np.float32), frequencies)


RELAXED = 0.75


def evaluation_of(number, value, mapped, log_likelihood):
    point, image = vector_point(value), vector_point(mapped)
    return Evaluation(number, point, image, vector_point(RELAXED), log_likelihood)


def searched(*log_likelihoods, tolerance=0.1, n_secants=1):
    """Return the search after evaluations of these likelihoods."""
    search = Search(tolerance, n_secants)
    for number, value in enumerate(log_likelihoods):
        search = advance(search, evaluation_of(number, 0.25, 0.5, value))
    return search


def rounds_of(search):
    return [evaluation.round_number for evaluation in search.history]


@pytest.mark.parametrize("fallen", [-12.0, np.nan, -np.inf])
def test_advance__refuses_a_fall_and_goes_back_to_the_best_map(fallen):
    search = searched(-20.0, -10.0, fallen)
    assert search.best is not None
    assert search.best.round_number == 1
    assert rounds_of(search) == [1]
    assert search.refusals == 0
    assert propose(search).frequencies[0, 0] == 0.5


def test_advance__relaxes_alone_then_halves_that_until_accepted():
    search = searched(-20.0, -10.0, -12.0, np.nan)
    assert (search.refusals, search.radius) == (1, acceleration.MAX_RADIUS / 4)
    assert propose(search).frequencies[0, 0] == RELAXED
    search = advance(search, evaluation_of(4, 0.75, 0.5, -30.0))
    assert (search.refusals, search.radius) == (2, acceleration.MAX_RADIUS / 4)
    assert propose(search).frequencies[0, 0] == 0.5
    search = advance(search, evaluation_of(5, 0.5, 0.5, -30.0))
    assert propose(search).frequencies[0, 0] == 0.375
    # The map that was refused is no secant for what follows.
    search = advance(search, evaluation_of(6, 0.375, 0.5, -5.0))
    assert (search.refusals, rounds_of(search)) == (0, [6])
    assert search.radius == acceleration.MAX_RADIUS / 2
    assert search.best is search.history[-1]


@pytest.mark.parametrize("seed", range(5))
def test_refused_points__are_those_that_advance_refuses(seed):
    trace = np.random.default_rng(seed).normal(size=40).round(1)
    trace[7] = np.nan
    search, refused = Search(0.15), []
    for number, value in enumerate(trace.tolist()):
        before = search.best
        evaluation = evaluation_of(number, 0.25, 0.5, value)
        search = advance(search, evaluation)
        refused.append(before is not None and search.history[-1] is not evaluation)
    assert acceleration.refused_points(trace.tolist(), 0.15) == refused
    assert 0 < sum(refused) < len(refused)
    # What is accepted is monotone within the tolerance.
    accepted = trace[~np.array(refused)]
    assert (accepted >= np.maximum.accumulate(accepted) - 0.15).all()


def test_advance__ends_when_no_halving_helps():
    search = searched(-10.0)
    for number in range(acceleration.MAX_REFUSALS + 1):
        assert not search.converged
        search = advance(search, evaluation_of(number, 0.25, 0.5, np.nan))
    assert search.converged
    assert search.best.log_likelihood == -10.0


def test_advance__rounding_is_no_fall_but_the_best_is_kept():
    search = searched(-10.0, -10.05)
    assert rounds_of(search) == [0, 1]
    assert search.best.round_number == 0


def test_result__takes_the_last_relaxation_once_calm():
    calm = searched(-10.0, -9.99, -9.98)
    assert calm.result is calm.best.relaxed
    rising = searched(-10.0, -9.99, -5.0)
    assert rising.result is rising.best.point


def test_converged__needs_a_second_calm_round():
    assert not searched(-10.0).converged
    assert not searched(-10.0, -9.99).converged
    assert searched(-10.0, -9.99, -9.98).converged
    assert not searched(-10.0, -9.99, -5.0, -4.99).converged
    assert searched(-10.0, -9.99, -5.0, -4.99, -4.98).converged


def test_advance__keeps_as_many_evaluations_as_secants_need():
    search = searched(*range(-20, -10), n_secants=3)
    assert rounds_of(search) == [6, 7, 8, 9]


def test_propose__solves_a_linear_map_with_as_many_secants_as_dimensions():
    fixed = np.asarray([0.3, 0.5, 0.7], np.float32)
    shrinkage = np.asarray([0.9, 0.8, 0.5], np.float32)
    search, point = Search(1e-12, n_secants=3), vector_point(0.6, 0.2, 0.4)
    for number in range(5):
        values = point.frequencies[0]
        mapped = vector_point(*(fixed + shrinkage * (values - fixed)))
        loss = float(np.sum((values - fixed) ** 2))
        search = advance(search, Evaluation(number, point, mapped, mapped, -loss))
        point = propose(search)
    np.testing.assert_allclose(point.frequencies[0], fixed, atol=1e-4)


def test_propose__stays_inside_the_constraints():
    rng = np.random.default_rng(0)
    ancestry = rng.dirichlet([1.0] * 3, 5).astype(np.float32)
    frequencies = rng.uniform(0.2, 0.8, (3, 40)).astype(np.float32)
    towards = rng.dirichlet([1.0] * 3, 5).astype(np.float32) - ancestry
    slope = rng.normal(size=(3, 40)).astype(np.float32)

    def moved(share):
        share = np.float32(share)
        return Point(ancestry + share * towards, frequencies + share * slope)

    # Residuals that shrink by a hundredth a tenth of the way: the secant leads far out.
    search = Search(1e-6)
    for number, (share, residual) in enumerate([(0.0, 0.1), (0.01, 0.0999)]):
        mapped = moved(share + residual)
        evaluation = Evaluation(number, moved(share), mapped, mapped, float(number))
        search = advance(search, evaluation)
    proposed = propose(search)
    assert_valid(*proposed)
    assert (proposed.ancestry == 0).any()
    assert (proposed.frequencies == np.float32(MIN_FREQUENCY)).any()
    assert (proposed.frequencies == np.float32(1 - MIN_FREQUENCY)).any()
