"""Values, gradients and Hessians of the tiled kernels, in every way of cutting."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from estimator import centred, counting, likelihood, packing, quadratic, tiling
from estimator.config import MIN_FREQUENCY
from tests import oracle

SMALL = tiling.TileShape(people=8, width=4)
TILES = [SMALL, tiling.TileShape(people=16, width=2), tiling.tile_shape("cpu")]


@functools.cache
def cohort():
    """Return 19 people by 53 variants with every kind of hole."""
    data = oracle.simulate(19, 53, 3, seed=3, missing_rate=0.1)
    data.genotypes[:, 7], data.genotypes[:, 8], data.genotypes[:, 9] = 0, 2, -1
    data.genotypes[4] = -1
    data.ancestry[5] = [1, 0, 0]
    # What the kernels are given in float32 is what the oracle is given too.
    return oracle.Cohort(
        data.genotypes,
        data.ancestry.astype(np.float32),
        data.frequencies.astype(np.float32),
    )


def arguments(data, tile):
    padded = tiling.pad_shard(packing.pack_genotypes(data.genotypes), tile)
    ancestry = tiling.pad_ancestry(data.ancestry, len(padded))
    tiles = tiling.tile_variants(jnp.asarray(data.frequencies), tile.width)
    return jnp.asarray(padded), jnp.asarray(ancestry), tiles


def ancestry_statistics(data, tile):
    """Return the statistics of the people that were not added as padding."""
    statistics = likelihood.ancestry_statistics(*arguments(data, tile), tile=tile)
    n_people = len(data.genotypes)
    return likelihood.AncestryStatistics(*(array[:n_people] for array in statistics))


def frequency_statistics(data, tile):
    statistics = likelihood.frequency_statistics(*arguments(data, tile), tile=tile)
    n_variants = data.genotypes.shape[1]
    return likelihood.FrequencyStatistics(
        *(jnp.asarray(tiling.untile_variants(s, n_variants)) for s in statistics)
    )


def inputs(data):
    """Return the arguments of the oracle's functions."""
    parameters = (data.ancestry.astype(np.float64), data.frequencies.astype(np.float64))
    return data.genotypes, *parameters


def assert_close(actual, expected, rtol=2e-6):
    """Compare with an error relative to the largest entry."""
    np.testing.assert_allclose(actual, expected, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("tile", TILES)
def test_ancestry_statistics__equal_the_oracle(tile):
    data = cohort()
    statistics = ancestry_statistics(data, tile)
    rows, columns = quadratic.pair_indices(3)
    hessian = oracle.ancestry_hessian(*inputs(data))[:, rows, columns]
    assert_close(statistics.gradient, oracle.ancestry_gradient(*inputs(data)))
    assert_close(statistics.hessian, hessian)
    np.testing.assert_allclose(
        statistics.log_likelihood,
        oracle.person_log_likelihood(*inputs(data)),
        rtol=1e-6,
    )
    assert statistics.log_likelihood.dtype == np.float64


@pytest.mark.parametrize("tile", TILES)
def test_frequency_statistics__equal_the_oracle(tile):
    data = cohort()
    statistics = frequency_statistics(data, tile)
    rows, columns = quadratic.pair_indices(3)
    hessian = oracle.frequency_hessian(*inputs(data))[:, rows, columns].T
    assert_close(statistics.gradient, oracle.frequency_gradient(*inputs(data)))
    assert_close(statistics.hessian, hessian)


@pytest.mark.parametrize(("of_four", "counted"), [(2, [0, 2]), (1, [0]), (0, [])])
def test_ancestry_statistics__hessian_of_some_of_four_neighbours(of_four, counted):
    shard = arguments(cohort(), SMALL)
    every = likelihood.ancestry_statistics(*shard, tile=SMALL)
    found = likelihood.ancestry_statistics(*shard, tile=SMALL, of_four=of_four)
    genotypes = cohort().genotypes.copy()
    genotypes[:, ~np.isin(np.arange(genotypes.shape[1]) % 4, counted)] = -1
    part = dataclasses.replace(cohort(), genotypes=genotypes)
    expected = likelihood.ancestry_statistics(*arguments(part, SMALL), tile=SMALL)
    weight = 4 / max(of_four, 1)
    np.testing.assert_allclose(found.hessian, weight * expected.hessian, rtol=1e-5)
    np.testing.assert_array_equal(found.gradient, every.gradient)
    np.testing.assert_array_equal(found.log_likelihood, every.log_likelihood)


def test_statistics__missing_contributes_nothing():
    data = cohort()
    of_people, of_variants = (
        ancestry_statistics(data, SMALL),
        frequency_statistics(data, SMALL),
    )
    for statistic in of_people:
        np.testing.assert_array_equal(statistic[4], 0)
    for statistic in of_variants:
        np.testing.assert_array_equal(statistic[:, 9], 0)


def test_statistics__padding_contributes_nothing():
    tile = tiling.tile_shape("cpu")
    packed, ancestry, frequencies = arguments(cohort(), tile)
    people = likelihood.ancestry_statistics(packed, ancestry, frequencies, tile=tile)
    variants = likelihood.frequency_statistics(packed, ancestry, frequencies, tile=tile)
    assert len(packed) == 128
    for statistic in people:
        np.testing.assert_array_equal(statistic[19:], 0)
    for statistic in variants:
        rows = tiling.untile_variants(statistic, tile.variants)
        np.testing.assert_array_equal(rows[:, 53:], 0)


def test_ancestry_statistics__match_finite_differences():
    data = cohort()
    genotypes, ancestry, frequencies = inputs(data)
    statistics = ancestry_statistics(data, SMALL)
    hessians = quadratic.symmetric_from_pairs(jnp.asarray(statistics.hessian.T), 3)
    for person in (0, 11):

        def value(q, person=person):
            return oracle.log_likelihood(
                genotypes[[person]], q[None].clip(0), frequencies
            )

        def slope(q, person=person):
            return oracle.ancestry_gradient(genotypes[[person]], q[None], frequencies)[
                0
            ]

        at = ancestry[person]
        gradient = [oracle.central_difference(value, at, (k,)) for k in range(3)]
        assert_close(statistics.gradient[person], np.array(gradient), rtol=1e-5)
        hessian = [-oracle.central_difference(slope, at, (k,)) for k in range(3)]
        assert_close(hessians[..., person], np.array(hessian), rtol=1e-5)


def test_frequency_statistics__match_finite_differences():
    data = cohort()
    genotypes, ancestry, frequencies = inputs(data)
    statistics = frequency_statistics(data, SMALL)
    hessians = quadratic.symmetric_from_pairs(jnp.asarray(statistics.hessian), 3)
    for variant in (0, 7, 8, 52):

        def value(p, variant=variant):
            return oracle.log_likelihood(genotypes[:, [variant]], ancestry, p[:, None])

        def slope(p, variant=variant):
            column = genotypes[:, [variant]]
            return oracle.frequency_gradient(column, ancestry, p[:, None])[:, 0]

        at = frequencies[:, variant]
        gradient = [oracle.central_difference(value, at, (k,)) for k in range(3)]
        assert_close(statistics.gradient[:, variant], np.array(gradient), rtol=1e-5)
        hessian = [-oracle.central_difference(slope, at, (k,)) for k in range(3)]
        assert_close(hessians[..., variant], np.array(hessian), rtol=1e-5)


def test_log_likelihood__per_genotype_is_exact_on_a_million():
    data = oracle.simulate(512, 2048, 3, seed=6)
    data = oracle.Cohort(
        data.genotypes,
        data.ancestry.astype(np.float32),
        data.frequencies.astype(np.float32),
    )
    total = ancestry_statistics(data, tiling.tile_shape("cpu")).log_likelihood.sum()
    exact = oracle.log_likelihood(*inputs(data))
    assert abs(total - exact) / data.n_observed < 1e-9


def test_log_likelihood__is_finite_at_the_bounds():
    genotypes = np.array([[0, 2, 1, 2, 0]], np.int8)
    frequencies = np.array([[1, 0, 1, 1, 0]], np.float32)
    data = oracle.Cohort(genotypes, np.ones((1, 1), np.float32), frequencies)
    statistics = ancestry_statistics(data, SMALL)
    log = np.log(MIN_FREQUENCY)
    expected = 5 * log + 5 * np.log1p(-MIN_FREQUENCY)
    np.testing.assert_allclose(statistics.log_likelihood, [expected], rtol=1e-6)
    assert all(np.isfinite(statistic).all() for statistic in statistics)


# Layout


@pytest.mark.parametrize("n_variants", [1, 16, 17, 53])
def test_tile_variants__round_trip(n_variants):
    values = np.random.default_rng(0).uniform(size=(3, n_variants)).astype(np.float32)
    tiles = tiling.tile_variants(jnp.asarray(values), 4, fill=0.25)
    assert tiles.shape == (-(-n_variants // 16), 4, 3, 4)
    np.testing.assert_array_equal(tiling.untile_variants(tiles, n_variants), values)
    filled = tiling.untile_variants(tiles, 16 * len(tiles))
    np.testing.assert_array_equal(filled[:, n_variants:], 0.25)


def test_tile_variants__position_in_the_byte_comes_before_the_byte():
    tiles = tiling.tile_variants(jnp.arange(32, dtype=jnp.float32)[None], 4)
    np.testing.assert_array_equal(tiles[1, 2, 0], [18, 22, 26, 30])


def test_pad__fills_to_whole_tiles():
    packed = packing.pack_genotypes(cohort().genotypes)
    padded = tiling.pad_shard(packed, SMALL)
    assert padded.shape == (24, 16)
    np.testing.assert_array_equal(padded[:19, :14], packed)
    assert counting.count_called(padded).sum() == cohort().n_observed
    np.testing.assert_allclose(tiling.pad_ancestry(cohort().ancestry, 24)[19:], 1 / 3)
    np.testing.assert_array_equal(tiling.pad_shard(padded, SMALL), padded)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_tile_shape__is_by_default_that_of_the_platform(platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert tiling.tile_shape() == tiling.tile_shape(platform)


def test_tile_shape__depends_on_the_platform():
    assert tiling.tile_shape("gpu") == tiling.tile_shape("cuda")
    assert tiling.tile_shape("gpu").variants > tiling.tile_shape("cpu").variants
    assert tiling.tile_shape("cpu").variants == 512


# Products of centred genotypes


def centred_matrix(genotypes, frequency):
    return np.where(genotypes >= 0, genotypes / 2 - frequency, 0)


@pytest.mark.parametrize("tile", TILES[:2])
def test_centred_products__equal_dense_ones(tile):
    genotypes = cohort().genotypes
    packed = jnp.asarray(tiling.pad_shard(packing.pack_genotypes(genotypes), tile))
    rng = np.random.default_rng(0)
    frequency = oracle.pooled_frequency(genotypes).astype(np.float32)
    tiles = tiling.tile_variants(jnp.asarray(frequency[None]), tile.width)
    dense = centred_matrix(genotypes, frequency)

    factor = rng.normal(size=(5, 53)).astype(np.float32)
    factor_tiles = tiling.tile_variants(jnp.asarray(factor), tile.width)
    product = centred.centred_times(packed, tiles, factor_tiles, tile=tile)
    np.testing.assert_allclose(product[:19], dense @ factor.T, atol=1e-5)
    np.testing.assert_array_equal(product[19:], 0)

    people = rng.normal(size=(len(packed), 5)).astype(np.float32)
    product = centred.centred_transposed_times(
        packed, tiles, jnp.asarray(people), tile=tile
    )
    rows = tiling.untile_variants(product, 53)
    np.testing.assert_allclose(rows, people[:19].T @ dense, atol=1e-5)
