import numpy as np
import pytest

from estimator.packing import (
    CALLS,
    DOSAGES,
    GENOTYPES,
    AlleleCounts,
    decode_alleles,
    encode_alleles,
)
from pipeline import call_codes
from pipeline.call_codes import INVALID_CALL, NeedsWiderError

ALLELES = np.arange(-128, 128, dtype=np.int8)


def straight_code(first: int, second: int) -> int:
    known = [allele for allele in (first, second) if allele >= 0]
    if any(allele > 1 for allele in known):
        return INVALID_CALL
    return {0: 3, 1: 4, 2: 0}[len(known)] + sum(known)


@pytest.mark.parametrize("order", ["C", "F"])
def test_codes_of_pairs__of_every_pair_of_alleles(order):
    calls = np.stack(np.meshgrid(ALLELES, ALLELES, indexing="ij"), axis=2)
    calls = np.asarray(calls, order=order)
    codes = call_codes.codes_of(calls)
    expected = [[straight_code(int(a), int(b)) for b in ALLELES] for a in ALLELES]
    np.testing.assert_array_equal(codes, expected)
    # What other types hold is cut down to what matters.
    wide = np.where(calls > 1, 1000, calls.astype(np.int32))
    np.testing.assert_array_equal(call_codes.codes_of(wide), codes)


def test_codes_of_pairs__of_one_allele():
    codes = call_codes.codes_of(ALLELES.reshape(2, 128, 1))
    expected = [straight_code(int(allele), -2) for allele in ALLELES]
    assert codes.ravel().tolist() == expected


def test_codes_of_dosages__agree_with_the_encoding():
    dosages = np.random.default_rng(0).uniform(0, 2, (300, 7))
    observed = np.full(dosages.shape, 2, np.int8)
    expected = encode_alleles(AlleleCounts(dosages, observed), DOSAGES)
    np.testing.assert_array_equal(call_codes.codes_of(dosages), expected)
    half = call_codes.codes_of(dosages.astype(np.float16))
    assert np.abs(half.astype(int) - expected).max() <= 8


def every_code(encoding) -> np.ndarray:
    """Return one row of each valid code as decoded, a missing one last."""
    codes = range(0, 2**15 + 1, 64) if encoding is DOSAGES else (0, 1, 2, 4, 5)
    blank = np.empty(0, encoding.code_dtype)
    missing = call_codes.missing_code(blank)
    return np.array([[*codes, missing]], encoding.code_dtype)


@pytest.mark.parametrize("encoding", [CALLS, DOSAGES], ids=lambda each: each.name)
def test_swap_alleles__counts_the_other_allele(encoding):
    codes = every_code(encoding)
    before, after = (
        decode_alleles(call_codes.narrow(each, encoding), encoding)
        for each in (codes, call_codes.swap_alleles(codes))
    )
    np.testing.assert_array_equal(after.observed, before.observed)
    np.testing.assert_array_equal(after.alternate, before.observed - before.alternate)


def test_narrow__keeps_what_the_encoding_holds():
    diploid = np.array([[0, 1, 2, 3]], np.uint8)
    np.testing.assert_array_equal(call_codes.narrow(diploid, GENOTYPES), [[0, 1, 2, 3]])
    whole = np.array([[0, 2**14, 2**15, 0xFFFF]], np.uint16)
    np.testing.assert_array_equal(call_codes.narrow(whole, GENOTYPES), [[0, 1, 2, 3]])
    for encoding in (CALLS, DOSAGES):
        codes = call_codes.narrow(every_code(encoding), encoding)
        np.testing.assert_array_equal(codes[:, :-1], every_code(encoding)[:, :-1])
        assert codes[0, -1] == encoding.missing


@pytest.mark.parametrize(
    ("codes", "encoding", "needed"),
    [
        (np.array([[4]], np.uint8), GENOTYPES, CALLS),
        (np.array([[5]], np.uint8), GENOTYPES, CALLS),
        (np.array([[1]], np.uint16), GENOTYPES, DOSAGES),
        (np.array([[0]], np.uint16), CALLS, DOSAGES),
    ],
)
def test_narrow__tells_the_encoding_that_is_needed(codes, encoding, needed):
    with pytest.raises(NeedsWiderError) as raised:
        call_codes.narrow(codes, encoding)
    assert raised.value.encoding is needed


def test_nearest_counts__are_of_two_alleles():
    dosages = np.array([[0, 0.4, 0.6, 1.4, 1.6, 2, np.nan, 3]])
    found = call_codes.nearest_counts(call_codes.codes_of(dosages))
    assert found.tolist() == [[0, 0, 1, 1, 2, 2, -1, -1]]


def test_find_invalid__is_the_first():
    codes = call_codes.codes_of(np.array([[[0, 1], [1, 1]], [[0, 2], [3, -1]]]))
    assert call_codes.find_invalid(codes).tolist() == [1, 0]
    assert call_codes.find_invalid(codes[:1]).size == 0


def straight_count(alleles: list[int]) -> int:
    known = [allele for allele in alleles if allele >= 0]
    if not known or max(known) > 1:
        return -1
    return 2 * sum(known) // len(known)


@pytest.mark.parametrize("ploidy", [1, 2])
@pytest.mark.parametrize("people", [slice(None), np.array([1, 4, 5])])
def test_nearest_of__counts_two_alleles_of_each_call(ploidy, people):
    rng = np.random.default_rng(2)
    calls = rng.integers(-2, 3, (300, 9, ploidy)).astype(np.int8)
    expected = [[straight_count(call) for call in row] for row in calls.tolist()]
    found = call_codes.nearest_of(calls, people)
    np.testing.assert_array_equal(found, np.array(expected)[:, people])


def test_nearest_of__of_dosages():
    dosages = np.array([[0.2, np.nan, 1.6], [2.0, 1.0, 0.0]], np.float32)
    found = call_codes.nearest_of(dosages, np.array([0, 2]))
    assert found.tolist() == [[0, 2], [2, 0]]
