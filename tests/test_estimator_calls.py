"""Every encoding against the dense oracle: one allele, two, none, and fractions."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from estimator import centred, counting, likelihood, packing, quadratic, tiling
from estimator.packing import CALLS, DOSAGES, GENOTYPES, AlleleCounts
from tests import oracle

TILE = tiling.TileShape(people=8, width=4)
N_PEOPLE, N_VARIANTS, K = 19, 53, 3


@functools.cache
def parameters():
    data = oracle.simulate(N_PEOPLE, N_VARIANTS, K, seed=3, missing_rate=0.1)
    # What the kernels are given in float32 is what the oracle is given too.
    return data.ancestry.astype(np.float32), data.frequencies.astype(np.float32)


@functools.cache
def counts(encoding):
    """Return calls of every kind that an encoding holds, missing ones among them."""
    rng = np.random.default_rng(7)
    shape = (N_PEOPLE, N_VARIANTS)
    observed = rng.choice([0, 1, 2], shape, p=[0.1, 0.3, 0.6])
    if encoding is GENOTYPES:
        observed = np.where(observed == 1, 2, observed)
    observed[4], observed[:, 9] = 0, 0
    ancestry, frequencies = parameters()
    alternate = rng.binomial(observed, ancestry @ frequencies).astype(np.float64)
    if encoding is DOSAGES:
        alternate = observed * rng.uniform(size=shape)
        # Both ends, and what is between them in steps of what the encoding holds.
        alternate[:, 7], alternate[:, 8] = 0, observed[:, 8]
        alternate = np.rint(alternate * 2**14) / 2**14
    return AlleleCounts(alternate, observed.astype(np.int8))


def packed(encoding):
    codes = packing.encode_alleles(counts(encoding), encoding)
    return packing.pack_codes(codes, encoding)


def arguments(encoding):
    padded = tiling.pad_shard(packed(encoding), TILE)
    ancestry, frequencies = parameters()
    return (
        jnp.asarray(padded),
        jnp.asarray(tiling.pad_ancestry(ancestry, len(padded))),
        tiling.tile_variants(jnp.asarray(frequencies), TILE.width),
    )


def inputs(encoding):
    ancestry, frequencies = parameters()
    exact = tuple(counts(encoding))
    return exact, ancestry.astype(np.float64), frequencies.astype(np.float64)


def assert_close(actual, expected, rtol=5e-6):
    """Compare with an error relative to the largest entry."""
    np.testing.assert_allclose(actual, expected, atol=rtol * np.abs(expected).max())


each_encoding = pytest.mark.parametrize(
    "encoding", packing.ENCODINGS, ids=lambda encoding: encoding.name
)


@each_encoding
def test_ancestry_statistics__equal_the_oracle(encoding):
    found = likelihood.ancestry_statistics(*arguments(encoding), tile=TILE)
    exact = inputs(encoding)
    rows, columns = quadratic.pair_indices(K)
    people = slice(0, N_PEOPLE)
    assert_close(found.gradient[people], oracle.ancestry_gradient(*exact))
    hessian = oracle.ancestry_hessian(*exact)[:, rows, columns]
    assert_close(found.hessian[people], hessian)
    expected = oracle.person_log_likelihood(*exact)
    np.testing.assert_allclose(found.log_likelihood[people], expected, rtol=1e-6)
    for statistic in found:
        np.testing.assert_array_equal(statistic[N_PEOPLE:], 0)
        np.testing.assert_array_equal(statistic[4], 0)


@each_encoding
def test_frequency_statistics__equal_the_oracle(encoding):
    found = likelihood.frequency_statistics(*arguments(encoding), tile=TILE)
    gradient, hessian = (
        tiling.untile_variants(statistic, N_VARIANTS) for statistic in found
    )
    exact = inputs(encoding)
    rows, columns = quadratic.pair_indices(K)
    assert_close(gradient, oracle.frequency_gradient(*exact))
    assert_close(hessian, oracle.frequency_hessian(*exact)[:, rows, columns].T)
    np.testing.assert_array_equal(gradient[:, 9], 0)


@each_encoding
def test_likelihood_slopes__equal_the_oracle(encoding):
    found = likelihood.likelihood_slopes(*arguments(encoding), tile=TILE)
    exact = inputs(encoding)
    assert_close(found.ancestry[:N_PEOPLE], oracle.ancestry_gradient(*exact))
    frequencies = tiling.untile_variants(found.frequencies, N_VARIANTS)
    assert_close(frequencies, oracle.frequency_gradient(*exact))
    np.testing.assert_allclose(
        found.log_likelihood.sum(), oracle.log_likelihood(*exact), rtol=1e-6
    )


@each_encoding
def test_statistics__match_finite_differences(encoding):
    exact, ancestry, frequencies = inputs(encoding)
    of_people = likelihood.ancestry_statistics(*arguments(encoding), tile=TILE)
    of_variants = likelihood.frequency_statistics(*arguments(encoding), tile=TILE)
    person, variant = 11, 20
    row = tuple(values[[person]] for values in exact)
    column = tuple(values[:, [variant]] for values in exact)

    def value_of_q(q):
        return oracle.log_likelihood(row, q[None].clip(0), frequencies)

    def value_of_p(p):
        return oracle.log_likelihood(column, ancestry, p[:, None])

    slope = [
        oracle.central_difference(value_of_q, ancestry[person], (k,)) for k in range(K)
    ]
    assert_close(of_people.gradient[person], np.array(slope), rtol=1e-5)
    at = frequencies[:, variant]
    slope = [oracle.central_difference(value_of_p, at, (k,)) for k in range(K)]
    found = tiling.untile_variants(of_variants.gradient, N_VARIANTS)[:, variant]
    assert_close(found, np.array(slope), rtol=1e-5)


@pytest.mark.parametrize("encoding", [CALLS, DOSAGES], ids=lambda each: each.name)
def test_statistics__of_diploid_calls_are_those_at_two_bits(encoding):
    diploid = counts(GENOTYPES)
    codes = packing.encode_alleles(diploid, encoding)
    wide = tiling.pad_shard(packing.pack_codes(codes, encoding), TILE)
    narrow, ancestry, frequencies = arguments(GENOTYPES)
    expected = likelihood.ancestry_statistics(narrow, ancestry, frequencies, tile=TILE)
    found = likelihood.ancestry_statistics(
        jnp.asarray(wide), ancestry, frequencies, tile=TILE
    )
    np.testing.assert_array_equal(found.gradient, expected.gradient)
    np.testing.assert_array_equal(found.hessian, expected.hessian)
    # Dosages take logarithms of p itself, not of products rounded to float32.
    rtol = 1e-6 if encoding is DOSAGES else 0
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=rtol)


def test_log_likelihood__of_dosages_is_exact_on_half_a_million():
    data = oracle.simulate(256, 2048, 3, seed=6)
    ancestry = data.ancestry.astype(np.float32)
    frequencies = data.frequencies.astype(np.float32)
    observed = np.where(data.genotypes < 0, 0, 2)
    expected = (data.genotypes + observed * (ancestry @ frequencies)) / 2
    alternate = np.where(observed > 0, np.rint(expected * 2**14) / 2**14, 0)
    codes = packing.encode_alleles(AlleleCounts(alternate, observed), DOSAGES)
    tile = tiling.tile_shape("cpu")
    found = likelihood.ancestry_statistics(
        jnp.asarray(packing.pack_codes(codes, DOSAGES)),
        jnp.asarray(ancestry),
        tiling.tile_variants(jnp.asarray(frequencies), tile.width),
        tile=tile,
    ).log_likelihood.sum()
    exact = oracle.log_likelihood(
        (alternate, observed), ancestry.astype(np.float64), frequencies
    )
    assert abs(found - exact) / data.n_observed < 1e-9


@each_encoding
def test_centred_products__equal_dense_ones(encoding):
    alternate, observed = counts(encoding)
    genotypes = jnp.asarray(tiling.pad_shard(packed(encoding), TILE))
    rng = np.random.default_rng(0)
    frequency = rng.uniform(0.1, 0.9, N_VARIANTS).astype(np.float32)
    share = alternate / np.maximum(observed, 1)
    dense = np.where(observed > 0, share - frequency, 0)
    tiles = tiling.tile_variants(jnp.asarray(frequency[None]), TILE.width)

    factor = rng.normal(size=(5, N_VARIANTS)).astype(np.float32)
    factor_tiles = tiling.tile_variants(jnp.asarray(factor), TILE.width)
    product = centred.centred_times(genotypes, tiles, factor_tiles, tile=TILE)
    np.testing.assert_allclose(product[:N_PEOPLE], dense @ factor.T, atol=1e-5)

    people = rng.normal(size=(len(genotypes), 5)).astype(np.float32)
    product = centred.centred_transposed_times(
        genotypes, tiles, jnp.asarray(people), tile=TILE
    )
    rows = tiling.untile_variants(product, N_VARIANTS)
    np.testing.assert_allclose(rows, people[:N_PEOPLE].T @ dense, atol=1e-5)


# Packing


@each_encoding
def test_unpack_alleles__undoes_packing(encoding):
    found = packing.unpack_alleles(packed(encoding), N_VARIANTS)
    np.testing.assert_array_equal(found.alternate, counts(encoding).alternate)
    np.testing.assert_array_equal(found.observed, counts(encoding).observed)


@each_encoding
def test_count_called__counts_calls_of_one_allele_and_of_two(encoding):
    called = counting.count_called(packed(encoding))
    expected = np.count_nonzero(counts(encoding).observed, axis=1)
    np.testing.assert_array_equal(called, expected)
    padded = tiling.pad_shard(packed(encoding), TILE)
    assert counting.count_called(padded).sum() == expected.sum()


@each_encoding
def test_packed__has_the_same_shape_in_every_encoding(encoding):
    assert packed(encoding).shape == (N_PEOPLE, packing.packed_width(N_VARIANTS))
    assert packed(encoding).dtype == encoding.dtype
    assert packing.encoding_of(encoding.dtype) is encoding
    last = packing.unpack_codes(packed(encoding), N_VARIANTS + 3)[:, N_VARIANTS:]
    assert (last == encoding.missing).all()


def test_encode_alleles__rounds_dosages_to_the_nearest_unit():
    alternate = np.array([0.0, 1 / 3, 2 / 3, 1.99999, 2.0])
    codes = packing.encode_alleles(AlleleCounts(alternate, np.full(5, 2)), DOSAGES)
    found = packing.decode_alleles(codes, DOSAGES).alternate
    assert np.abs(found - alternate).max() <= 2**-15
    assert found[[0, -1]].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("alternate", "observed", "encoding", "message"),
    [
        (3, 2, GENOTYPES, "between 0 and those observed"),
        (2, 1, CALLS, "between 0 and those observed"),
        (-1, 2, DOSAGES, "between 0 and those observed"),
        (1, 1, GENOTYPES, "two bits cannot hold a call of a single allele"),
        (0.5, 1, CALLS, "only dosages can be fractional"),
    ],
)
def test_encode_alleles__refuses(alternate, observed, encoding, message):
    counts = AlleleCounts(np.array([alternate]), np.array([observed]))
    with pytest.raises(ValueError, match=message):
        packing.encode_alleles(counts, encoding)


def test_encoding_of__refuses_dosages_that_lost_their_upper_half():
    with pytest.raises(ValueError, match="uint32; .* needs jax_enable_x64"):
        packing.encoding_of(np.uint32)
