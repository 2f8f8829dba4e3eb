import hypothesis.extra.numpy as numpy_strategies
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator import counting, packing

SHAPES = st.tuples(st.integers(0, 5), st.integers(0, 19))


def int8_arrays(low, high):
    return numpy_strategies.arrays(np.int8, SHAPES, elements=st.integers(low, high))


@given(int8_arrays(-128, 2))
def test_pack__round_trip_keeps_counts_and_every_kind_of_missing(genotypes):
    n_people, n_variants = genotypes.shape
    packed = packing.pack_genotypes(genotypes)
    assert packed.dtype == np.uint8
    assert packed.shape == (n_people, packing.packed_width(n_variants))
    unpacked = packing.unpack_genotypes(packed, n_variants)
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, np.maximum(genotypes, -1))


@given(int8_arrays(-1, 2))
def test_pack__fills_the_last_byte_with_missing(genotypes):
    packed = packing.pack_genotypes(genotypes)
    filled = packing.unpack_genotypes(packed, 4 * packed.shape[1])
    assert (filled[:, genotypes.shape[1] :] == -1).all()


@given(int8_arrays(-1, 2))
def test_count_called__leaves_missing_and_filling_out(genotypes):
    called = counting.count_called(packing.pack_genotypes(genotypes))
    np.testing.assert_array_equal(called, (genotypes >= 0).sum(axis=1))
    columns = counting.count_called_columns(packing.pack_genotypes(genotypes).T)
    np.testing.assert_array_equal(columns, called)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (3, 19), (300, 9), (4_100, 130)])
def test_count_genotypes__counts_each_of_every_variant(shape):
    genotypes = np.random.default_rng(1).integers(-1, 3, shape).astype(np.int8)
    found = counting.count_genotypes(packing.pack_genotypes(genotypes).T)
    expected = np.stack([(genotypes == g).sum(axis=0) for g in range(3)], axis=1)
    np.testing.assert_array_equal(found[: shape[1]], expected)
    assert not found[shape[1] :].any()


@given(int8_arrays(-128, 127).filter(lambda g: (g > 2).any()))
def test_pack__refuses_counts_above_two(genotypes):
    with pytest.raises(
        ValueError, match=f"at most 2 alternate alleles; found {genotypes.max()}$"
    ):
        packing.pack_genotypes(genotypes)


def test_pack__layout_is_low_bits_first():
    packed = packing.pack_genotypes(np.array([[1, 2, 0, -1, 2]], np.int8))
    np.testing.assert_array_equal(packed, [[0b11_00_10_01, 0b11_11_11_10]])


def test_pack__takes_a_view_with_strides():
    genotypes = np.arange(24).reshape(4, 6).astype(np.int8) % 4 - 1
    packed = packing.pack_genotypes(genotypes.T[::2])
    np.testing.assert_array_equal(packing.unpack_genotypes(packed, 4), genotypes.T[::2])
