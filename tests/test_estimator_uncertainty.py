"""Standard errors against dense float64 formulas, known truth, and ADMIXTURE's."""

from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from estimator.block_scores import block_scores, cut_blocks
from estimator.bounded import bounded_square, square_at_zero
from estimator.likelihood import ancestry_statistics
from estimator.packing import pack_genotypes
from estimator.projection import project_ancestry
from estimator.tiling import TileShape, pad_ancestry, pad_shard
from estimator.tiling import tile_variants as lay_out
from estimator.uncertainty import (
    MAX_STANDARD_ERROR,
    PopulationError,
    standard_errors,
)
from tests import oracle

TILE = TileShape(people=8, width=4)
# Genotypes, Q and P.
Arrays: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
BOUNDS = np.array([0, 5, 6, 19, 40, 57, 61])


def dense_scores(genotypes, ancestry, frequencies, bounds):
    """Scores of each person in each block, shape (people, blocks, K), float64."""
    first = oracle.slopes(genotypes, ancestry, frequencies)[0]
    return np.stack(
        [
            first[:, start:stop] @ frequencies[:, start:stop].T
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
        ],
        axis=1,
    )


def dense_scatter(genotypes, ancestry, frequencies, bounds):
    scores = dense_scores(genotypes, ancestry, frequencies, bounds)
    share = np.diff(bounds) / bounds[-1]
    centred = scores - share[None, :, None] * scores.sum(axis=1, keepdims=True)
    n_blocks = len(share)
    scatter = np.einsum("ibk,ibl->ikl", centred, centred)
    return scatter * n_blocks / max(n_blocks - 1, 1)


def dense_errors(ancestry, hessian, score, scatter=None):
    """Sandwich in a basis of the free steps that sum to zero, one person at a time.

    Returns the standard errors, and those of the observed information where no other
    entry leaves zero.
    """
    variances = np.zeros_like(ancestry, dtype=np.float64)
    informed = np.zeros_like(variances)
    for person, q in enumerate(ancestry):
        squares, means, spreads = np.zeros((3, len(q)))
        for population in range(len(q)):
            free = q > 0
            free[population] = True
            kept = np.flatnonzero(free)
            if len(kept) < 2:
                continue
            basis = np.zeros((len(q), len(kept) - 1))
            basis[kept[0]] = -1
            basis[kept[1:], np.arange(len(kept) - 1)] = 1
            inverse = np.linalg.inv(basis.T @ hessian[person] @ basis)
            covariance = basis @ inverse @ basis.T
            informed[person, population] = covariance[population, population]
            moved = covariance[population] / covariance[population, population]
            step = covariance[population] @ score[person]
            if scatter is not None:
                covariance = covariance @ scatter[person] @ covariance
            variance = covariance[population, population]
            if informed[person, population] >= MAX_STANDARD_ERROR**2:
                variance = MAX_STANDARD_ERROR**2
            if q[population] == 0:
                share, mean, square = moments_above_zero(step, variance)
                reach = step + 1.959964 * np.sqrt(variance)
                variance = max(square, (max(reach, 0) / 1.959964) ** 2)
                squares += moved**2 * square
                means += moved * mean / share
                spreads += moved**2 * (square / share - (mean / share) ** 2)
            variances[person, population] = variance
        free = q > 0
        if np.count_nonzero(free) > 1:
            for population in np.flatnonzero(free):
                whole = variances[person, population] + spreads[population]
                covering = covering_error(np.sqrt(whole), means[population])
                variances[person, population] = covering**2
        else:
            variances[person, free] += squares[free]
    return np.sqrt(variances).clip(0, MAX_STANDARD_ERROR), np.sqrt(informed)


def moments_above_zero(mean, variance):
    """How often normal x is above zero; sums of x and its square there, by quadrature.

    Divided by how often, they are those of x among numbers above zero.
    """
    error = np.sqrt(variance)
    x = np.linspace(0, max(mean, 0) + 12 * error, 20_001)
    density = scipy.stats.norm.pdf(x, mean, error)
    return [np.trapezoid(x**power * density, x) for power in range(3)]


def covering_error(deviation, bias):
    """An error e of which 1.96 hold a bias with its chance 95 times in 100."""
    if bias == 0:
        return deviation

    def surplus(error):
        inside = np.array([-1.959964, 1.959964]) * error
        return np.diff(scipy.stats.norm.cdf(inside, bias, deviation))[0] - 0.95

    return scipy.optimize.brentq(surplus, 0, 9 * (deviation + abs(bias)))


@pytest.fixture(scope="module")
def cohort() -> Arrays:
    drawn = oracle.simulate(21, 61, 3, seed=3, missing_rate=0.1)
    ancestry = drawn.ancestry.astype(np.float32)
    ancestry[0] = [0.3, 0.7, 0]
    ancestry[1] = [0, 1, 0]
    return drawn.genotypes, ancestry, drawn.frequencies.astype(np.float32)


def scores_of(genotypes, ancestry, frequencies, bounds, tile=TILE):
    packed = pad_shard(pack_genotypes(genotypes), tile)
    pieces, width = cut_blocks(bounds, tile)
    found = block_scores(
        jnp.asarray(packed),
        jnp.asarray(pad_ancestry(ancestry, len(packed))),
        lay_out(jnp.asarray(frequencies), tile.width),
        pieces,
        tile=tile,
        width=width,
    )
    return [np.asarray(values)[: len(genotypes)] for values in found]


def pairs_of(matrices):
    rows, columns = np.triu_indices(matrices.shape[1])
    return matrices[:, rows, columns]


@pytest.mark.parametrize(
    ("bounds", "tile"),
    [
        (BOUNDS, TILE),
        (BOUNDS, TileShape(32, 16)),
        (np.array([0, 61]), TILE),
        (np.arange(62), TileShape(16, 2)),
        (np.array([0, 60, 61]), TileShape(32, 16)),
    ],
)
def test_block_scores__equal_the_dense_ones(cohort: Arrays, bounds, tile):
    hessian, score, scatter = scores_of(*cohort, bounds, tile)
    slope = oracle.ancestry_gradient(*cohort)
    np.testing.assert_allclose(score, slope, rtol=2e-5, atol=2e-4)
    expected = pairs_of(oracle.ancestry_hessian(*cohort))
    np.testing.assert_allclose(hessian, expected, rtol=2e-5)
    expected = pairs_of(dense_scatter(*cohort, bounds))
    scale = np.abs(dense_scores(*cohort, bounds)).sum(axis=1).max() ** 2
    np.testing.assert_allclose(scatter, expected, rtol=2e-4, atol=1e-6 * scale)


def test_cut_blocks__pieces_cover_every_variant_once():
    tile = TileShape(people=8, width=4)
    pieces, width = cut_blocks(BOUNDS, tile)
    covered = np.concatenate(
        [np.arange(*piece) for piece in zip(pieces.start, pieces.stop, strict=True)]
    )
    assert covered.tolist() == list(range(61))
    assert width == 4
    assert (pieces.start >= 4 * pieces.byte).all()
    assert (pieces.stop <= 4 * (pieces.byte + width)).all()
    np.testing.assert_allclose(pieces.share[pieces.share > 0], np.diff(BOUNDS) / 61)


@pytest.mark.parametrize("method", ["information", "jackknife"])
def test_standard_errors__equal_the_dense_sandwich(cohort: Arrays, method):
    ancestry = cohort[1]
    hessian = oracle.ancestry_hessian(*cohort)
    scatter = dense_scatter(*cohort, BOUNDS) if method == "jackknife" else None
    score = oracle.ancestry_gradient(*cohort)
    # One entry at zero that data hold there hard, one that they hold a little.
    score[0] = [3.0, 3.0, 1.0]
    given = [jnp.asarray(v.astype(np.float32)) for v in (pairs_of(hessian), score)]
    if scatter is not None:
        given.append(jnp.asarray(pairs_of(scatter).astype(np.float32)))
    found = np.asarray(standard_errors(jnp.asarray(ancestry), *given))
    expected, information = dense_errors(ancestry, hessian, score, scatter)
    told = information < MAX_STANDARD_ERROR
    assert told.mean() > 0.5
    np.testing.assert_allclose(found[told], expected[told], rtol=5e-3, atol=1e-6)
    assert found[1, 1] >= found[1].max()


def test_standard_errors__at_zero_and_inside():
    # Draws of a person's score, and the maximum of each draw's quadratic model.
    hessian = np.array([[30.0, 5.0, 10.0], [5.0, 40.0, 8.0], [10.0, 8.0, 25.0]])
    ancestry, slope = np.array([0.6, 0.4, 0.0]), np.array([2.0, 2.0, 1.0])
    within = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    rng = np.random.default_rng(4)
    scores = slope + rng.normal(size=(20_000, 3)) @ np.linalg.cholesky(hessian).T
    bend = np.linalg.inv(within.T @ hessian @ within)
    steps = scores @ within @ bend @ within.T
    rows, columns = np.triu_indices(3)
    given = (ancestry, hessian[rows, columns], slope)
    found = standard_errors(*(jnp.asarray(x[None].astype(np.float32)) for x in given))
    # At zero, as far as an interval about what it would be beyond.
    reach = np.mean(steps[:, 2]) + 1.959964 * np.std(steps[:, 2])
    assert np.mean(steps[:, 2]) < 0
    assert 1.959964 * found[0, 2] == pytest.approx(reach, rel=0.02)
    # Inside, such as to hold what the likelihood says of ancestry within the bounds.
    possible = steps[steps[:, 2] > 0, :2]
    held = np.mean(np.abs(possible) <= 1.959964 * np.asarray(found)[:, :2], axis=0)
    np.testing.assert_allclose(held, 0.95, atol=0.01)


@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_standard_errors__intervals_at_zero_hold_the_truth_as_often(truth: float):
    # In errors of 1, of entries that are estimated within their bound.
    x = truth + np.random.default_rng(6).standard_normal(50_000).astype(np.float32)
    zero = x < 0
    one = jnp.ones(len(x), jnp.float32)
    square = np.where(zero, square_at_zero(jnp.asarray(x), one), 1)
    held = np.abs(np.maximum(x, 0) - truth) <= 1.959964 * np.sqrt(square)
    assert 0.945 < held.mean() < (1.001 if truth == 0 else 0.98)
    # Far below, what is left is the root mean square of what leaves zero.
    far = jnp.full(1, -3, jnp.float32)
    left = bounded_square(far, one[:1])
    np.testing.assert_array_equal(square_at_zero(far, one[:1]), left)


@pytest.mark.parametrize("z", [-30.0, -4.01, -3.99, -1.0, 0.0, 3.0])
def test_standard_errors__of_what_is_far_from_leaving_zero(z: float):
    # One population of three at zero, and no other sample's variance.
    hessian = np.array([[40.0, 0.0, 0.0], [0.0, 40.0, 0.0], [0.0, 0.0, 80.0]])
    deviation = 0.1
    slope = np.array([0.0, 0.0, z / deviation])
    ancestry = np.array([[0.5, 0.5, 0.0]])
    given = [jnp.asarray(x.astype(np.float32)) for x in (ancestry, slope[None])]
    pairs = jnp.asarray(pairs_of(hessian[None]).astype(np.float32))
    found = np.asarray(standard_errors(given[0], pairs, given[1]))
    expected, _ = dense_errors(ancestry, hessian[None], slope[None])
    np.testing.assert_allclose(found[0, :2], expected[0, :2], rtol=0.01)


def test_standard_errors__of_a_person_whom_the_data_tell_nothing():
    nothing = jnp.zeros((1, 3), jnp.float32)
    even = jnp.full((1, 2), 0.5, jnp.float32)
    for given in ((nothing, even * 0), (nothing, even * 0, nothing)):
        found = np.asarray(standard_errors(even, *given))
        assert found.tolist() == [[MAX_STANDARD_ERROR] * 2]


def test_standard_errors__of_people_at_vertices_are_numbers():
    rng = np.random.default_rng(7)
    k, n = 4, 400
    roots = rng.normal(size=(n, k, 6)) * rng.uniform(0.1, 100, (n, 1, 1))
    hessian = pairs_of(np.einsum("nak,nbk->nab", roots, roots))
    vertices = np.eye(k)[rng.integers(k, size=n)]
    score = rng.normal(size=(n, k)) * 10 - 100 * (vertices == 0)
    given = [jnp.asarray(x.astype(np.float32)) for x in (vertices, hessian, score)]
    bias = rng.normal(size=(k, k)) / 100
    bias -= bias.mean(axis=1, keepdims=True)
    error = PopulationError(
        np.zeros((k, k), np.float32),
        np.einsum("ak,ck->kac", bias, bias).astype(np.float32),
        bias.astype(np.float32),
    )
    called = jnp.ones(n, jnp.float32)
    found = standard_errors(*given, error=error, n_called=called)
    assert np.isfinite(found).all()
    assert np.isfinite(standard_errors(*given)).all()


def test_standard_errors__of_one_population():
    one = jnp.ones((2, 1), jnp.float32)
    assert np.asarray(standard_errors(one, one, one, one)).tolist() == [[0.0], [0.0]]


def project(genotypes, frequencies, tile):
    packed = jnp.asarray(pad_shard(pack_genotypes(genotypes), tile))
    k = len(frequencies)
    tiles = lay_out(jnp.asarray(frequencies.astype(np.float32)), tile.width)
    uniform = jnp.full((len(packed), k), 1 / k, jnp.float32)
    found = project_ancestry(packed, uniform, tiles, refine=8, tile=tile)
    return packed, tiles, found.ancestry


@pytest.mark.parametrize("method", ["information", "jackknife"])
def test_standard_errors__intervals_cover_the_truth(method):
    # Given the populations, 95 % intervals of unlinked variants hold 95 % of truths.
    truth = oracle.simulate(800, 4000, 3, seed=11, fst=0.1, concentration=0.5)
    tile = TileShape(128, 256)
    packed, tiles, ancestry = project(truth.genotypes, truth.frequencies, tile)
    if method == "jackknife":
        bounds = np.arange(129) * 4000 // 128
        pieces, width = cut_blocks(bounds, tile)
        given = block_scores(packed, ancestry, tiles, pieces, tile=tile, width=width)
        errors = standard_errors(ancestry, *given)
    else:
        statistics = ancestry_statistics(packed, ancestry, tiles, tile=tile)
        errors = standard_errors(ancestry, statistics.hessian, statistics.gradient)
    admixed = (truth.ancestry > 0.02) & (truth.ancestry < 0.98)
    difference = np.abs(np.asarray(ancestry)[:800] - truth.ancestry)
    covered = difference <= 1.96 * np.asarray(errors)[:800]
    assert admixed.sum() > 1500
    assert 0.93 <= covered[admixed].mean() <= 0.97
