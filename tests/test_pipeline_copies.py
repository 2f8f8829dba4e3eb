"""Copies of one person or line: found without heterozygotes, and counted apart."""

import dask.array as da
import numpy as np
import pytest

from pipeline import kinship, relatedness
from pipeline.bit_planes import bit_planes

N_VARIANTS = 5_000


def lines(n: int, frequency: tuple[float, float] = (0.1, 0.9), seed: int = 3):
    """Inbred lines, unrelated, without a heterozygote; variants x lines."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(*frequency, (N_VARIANTS, 1))
    return (2 * rng.binomial(1, p, (N_VARIANTS, n))).astype(np.int8)


def find(dosage: np.ndarray) -> relatedness.Relatives:
    return relatedness.find_relatives(da.from_array(dosage, (1_000, 7)))


def pairs(found: relatedness.Relatives) -> list[tuple[int, int]]:
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


def test_find_relatives__copies_of_an_inbred_line():
    dosage = lines(20)
    dosage[:, 1:6] = dosage[:, :1]
    found = find(dosage)
    assert pairs(found) == [(i, j) for i in range(6) for j in range(i + 1, 6)]
    assert found.kinship.tolist() == [0.5] * 15
    assert (found.n_duplicates, found.n_first_degree, found.n_second_degree) == (
        15,
        0,
        0,
    )
    assert found.n_inbred == 20


@pytest.mark.parametrize("error", [0.001, 0.004])
def test_find_relatives__copies_of_an_inbred_line_with_errors(error: float):
    rng = np.random.default_rng(1)
    dosage = lines(20)
    dosage[:, 1:6] = dosage[:, :1]
    wrong = rng.random(dosage.shape) < error
    dosage[wrong] = rng.integers(0, 3, np.count_nonzero(wrong))
    dosage[rng.random(dosage.shape) < 0.1] = -1
    found = find(dosage)
    assert pairs(found) == [(i, j) for i in range(6) for j in range(i + 1, 6)]
    assert found.n_duplicates == 15


def test_find_relatives__inbred_lines_that_differ_are_no_copies():
    rng = np.random.default_rng(2)
    # Rare alleles, so that lines have most genotypes in common.
    dosage = lines(40, frequency=(0.05, 0.06))
    for child in range(30, 40):  # Inbred children of two lines, and of one with them.
        from_first = rng.random(N_VARIANTS) < (0.5 if child < 35 else 0.75)
        dosage[:, child] = np.where(from_first, dosage[:, 0], dosage[:, 1])
    found = find(dosage)
    assert pairs(found) == []
    assert found.n_inbred == 40


def test_find_relatives__replicates_are_no_first_degree():
    rng = np.random.default_rng(4)
    p = rng.uniform(0.1, 0.9, (N_VARIANTS, 1))
    parents = rng.random((2, 2, N_VARIANTS, 1)) < p
    child = np.stack(
        [np.where(rng.random((N_VARIANTS, 1)) < 0.5, *one) for one in parents]
    )
    dosage = np.concatenate(
        [
            parents[0].sum(axis=0),
            parents[1].sum(axis=0),
            child.sum(axis=0),
        ]
        + [rng.binomial(2, p, (N_VARIANTS, 20))],
        axis=1,
    ).astype(np.int8)
    dosage = np.concatenate([dosage, dosage[:, 2:3], dosage[:, 3:4]], axis=1)
    wrong = rng.random(dosage.shape) < 0.001
    dosage[wrong] = rng.integers(0, 3, np.count_nonzero(wrong))
    found = find(dosage)
    copies = found.kinship >= kinship.DUPLICATE
    assert [pair for pair, same in zip(pairs(found), copies, strict=True) if same] == [
        (2, 23),
        (3, 24),
    ]
    assert (found.n_duplicates, found.n_first_degree, found.n_second_degree) == (
        2,
        4,
        0,
    )
    assert found.n_inbred == 0


def test_related_pairs__few_calls_in_both_tell_nothing():
    dosage = lines(2)
    dosage[:, 1] = dosage[:, 0]
    dosage[::2, 0] = -1
    people = bit_planes(dosage.T)
    found = kinship.related_pairs(people, people, 0, 0, 0.1)
    assert found[0].tolist() == [0]
    dosage[kinship.MIN_SHARED_CALLS * 2 - 1 :, 1] = -1
    people = bit_planes(dosage.T)
    found = kinship.related_pairs(people, people, 0, 0, 0.1)
    assert found[0].tolist() == []


def test_related_pairs__nobody_called_is_nobody_s_copy():
    nothing = bit_planes(np.full((3, N_VARIANTS), -1, np.int8))
    assert kinship.related_pairs(nothing, nothing, 0, 0, 0.1)[0].tolist() == []
    assert not kinship.few_heterozygotes(nothing).any()
