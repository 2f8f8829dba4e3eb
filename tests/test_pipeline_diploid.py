from itertools import product

import numpy as np
import pytest

from estimator.packing import GENOTYPES, pack_codes
from pipeline import call_codes, diploid
from pipeline.diploid import pack_diploid

PACKED = [*product((0, 1), repeat=2), *product((-1, -2), repeat=2)]


def packed(calls: np.ndarray) -> np.ndarray:
    found = pack_diploid(calls)
    assert found is not None
    return found


def by_codes(calls: np.ndarray) -> np.ndarray:
    return pack_codes(call_codes.codes_of(calls).T, GENOTYPES).T


@pytest.mark.parametrize("n_people", [1, 7, 64])
@pytest.mark.parametrize("tile_calls", [1, 100, 2**17])
def test_pack_diploid__agrees_with_codes(monkeypatch, n_people, tile_calls):
    monkeypatch.setattr(diploid, "_TILE_CALLS", tile_calls)
    drawn = np.random.default_rng(0).integers(len(PACKED), size=(84, n_people))
    calls = np.array(PACKED, np.int8)[drawn]
    for each in (calls, np.asfortranarray(calls), calls[::-1]):
        np.testing.assert_array_equal(packed(each), by_codes(each))


def test_pack_diploid__of_every_two_calls_of_a_person():
    # Whatever one variant's alleles are, they leave those of the others alone.
    calls = np.array(list(product(PACKED, repeat=4)), np.int8).transpose(1, 0, 2)
    np.testing.assert_array_equal(packed(calls), by_codes(calls))


@pytest.mark.parametrize("place", range(4))
def test_pack_diploid__leaves_other_calls_alone(place):
    for pair in product(range(-128, 128), repeat=2):
        calls = np.zeros((4, 3, 2), np.int8)
        calls[place, 1] = pair
        assert (pack_diploid(calls) is not None) == (pair in PACKED), pair


@pytest.mark.parametrize(
    "calls",
    [
        np.zeros((4, 3, 1), np.int8),
        np.zeros((4, 3, 2), np.int16),
        np.zeros((4, 3), np.float32),
    ],
    ids=["haploid", "wide", "dosages"],
)
def test_pack_diploid__leaves_other_arrays_alone(calls):
    assert pack_diploid(calls) is None


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_pack_diploid__of_nothing(shape):
    assert packed(np.zeros((*shape, 2), np.int8)).shape == (shape[0] // 4, shape[1])
