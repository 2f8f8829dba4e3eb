"""Kinship against a plain count, and families of known degree."""

import dask.array as da
import numba
import numpy as np
import pytest

from pipeline import bit_planes as bit_planes_module
from pipeline import kinship, relatedness
from pipeline.bit_planes import bit_planes
from pipeline.relatedness import Relatives

N_VARIANTS = 4_000


def plain_kinship(first: np.ndarray, second: np.ndarray) -> float:
    """Equation 11 of Manichaikul et al. (2010), as it is printed."""
    both = (first >= 0) & (second >= 0)
    a, b = first[both], second[both]
    n_a, n_b = np.count_nonzero(a == 1), np.count_nonzero(b == 1)
    n_both = np.count_nonzero((a == 1) & (b == 1))
    n_opposite = np.count_nonzero(np.abs(a - b) == 2)
    fewer = min(n_a, n_b)
    if fewer == 0:
        return 0.0
    shared = (n_both - 2 * n_opposite) / (2 * fewer)
    return float(shared + 0.5 - 0.25 * (n_a + n_b) / fewer)


@pytest.mark.parametrize("n_variants", [1, 63, 64, 200])
def test_kinship__is_the_printed_equation(n_variants: int):
    rng = np.random.default_rng(n_variants)
    dosage = rng.integers(-1, 3, (n_variants, 12)).astype(np.int8)
    left, right = bit_planes(dosage[:, :5].T), bit_planes(dosage[:, 5:].T)
    expected = [
        [plain_kinship(dosage[:, i], dosage[:, j]) for j in range(5, 12)]
        for i in range(5)
    ]
    np.testing.assert_allclose(kinship.kinship(left, right), expected, atol=1e-6)


class Family:
    """People as pairs of haplotypes, in two populations far apart."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)
        common = self.rng.uniform(0.2, 0.8, N_VARIANTS)
        drift = self.rng.normal(0, 0.15, (2, N_VARIANTS))
        self.frequencies = np.clip(common + drift, 0.05, 0.95)
        self.people: list[np.ndarray] = []

    def founder(self, population: int = 0) -> int:
        drawn = self.rng.random((2, N_VARIANTS)) < self.frequencies[population]
        return self.add(drawn)

    def child(self, mother: int, father: int) -> int:
        parents = [self.people[mother], self.people[father]]
        passed = [
            np.where(self.rng.random(N_VARIANTS) < 0.5, *haplotypes)
            for haplotypes in parents
        ]
        return self.add(np.stack(passed))

    def add(self, haplotypes: np.ndarray) -> int:
        self.people.append(haplotypes)
        return len(self.people) - 1

    def dosage(self) -> np.ndarray:
        counts = np.stack([person.sum(axis=0) for person in self.people], axis=1)
        counts = counts.astype(np.int8)
        counts[self.rng.random(counts.shape) < 0.02] = -1
        return counts


@pytest.fixture(scope="module")
def family() -> dict[str, object]:
    people = Family()
    strangers = [people.founder(i % 2) for i in range(20)]
    mother, father, other = people.founder(), people.founder(), people.founder()
    first, second = people.child(mother, father), people.child(mother, father)
    half = people.child(mother, other)
    spouse = people.founder()
    grandchild = people.child(first, spouse)
    twin = people.add(people.people[strangers[0]])
    return {
        "dosage": people.dosage(),
        "first": {
            *((mother, first), (mother, second), (father, first), (father, second)),
            *((first, second), (mother, half), (other, half), (first, grandchild)),
            *((spouse, grandchild), (strangers[0], twin)),
        },
        "second": {
            *((first, half), (second, half), (mother, grandchild)),
            *((father, grandchild), (second, grandchild)),
        },
    }


def pairs_of(found: Relatives, chosen: np.ndarray) -> set[tuple[int, int]]:
    first, second = found.first[chosen].tolist(), found.second[chosen].tolist()
    return set(zip(first, second, strict=True))


def test_find_relatives__degrees_of_a_family(family: dict):
    found = relatedness.find_relatives(da.from_array(family["dosage"], (700, 9)))
    close = found.kinship >= relatedness.FIRST_DEGREE
    assert pairs_of(found, close) == family["first"]
    assert pairs_of(found, ~close) == family["second"]
    # The twins are counted apart.
    assert found.n_duplicates == 1
    assert found.n_first_degree == len(family["first"]) - 1
    assert found.n_second_degree == len(family["second"])


def test_find_relatives__does_not_depend_on_blocks(
    family: dict, monkeypatch: pytest.MonkeyPatch
):
    dosage = da.from_array(family["dosage"], (1_000, 5))
    whole = relatedness.find_relatives(dosage)
    monkeypatch.setattr(relatedness, "_BLOCK_PEOPLE", 4)
    parts = relatedness.find_relatives(dosage)
    for name in ("first", "second", "kinship"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_unrelated__keeps_no_pair_and_could_keep_nobody_more(family: dict):
    dosage = family["dosage"]
    found = relatedness.find_relatives(da.from_array(dosage, dosage.shape))
    kept = relatedness.unrelated(found, (dosage >= 0).mean(axis=0))
    assert not (kept[found.first] & kept[found.second]).any()
    for person in np.flatnonzero(~kept):
        relatives = np.concatenate(
            [found.second[found.first == person], found.first[found.second == person]]
        )
        assert kept[relatives].any()
    # Strangers stay; of twins, the one with more calls.
    assert kept[1:20].all()


def test_unrelated__prefers_those_with_fewer_relatives_then_more_calls():
    first, second = np.array([0, 1, 3]), np.array([1, 2, 4])
    pairs = Relatives(first, second, np.full(3, 0.25, np.float32))
    call_rate = np.array([0.9, 1.0, 0.9, 0.8, 0.9, 1.0])
    kept = relatedness.unrelated(pairs, call_rate)
    assert kept.tolist() == [True, False, True, False, True, True]


def test_unrelated__without_any_relatives():
    nobody = np.empty(0, np.int64)
    pairs = Relatives(nobody, nobody, np.empty(0, np.float32))
    assert relatedness.unrelated(pairs, np.ones(3)).all()


def test_compile_function__compiles_where_nothing_can_be_kept(
    monkeypatch: pytest.MonkeyPatch,
):
    def refuse(function: object, **options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return function

    monkeypatch.setattr(numba, "njit", refuse)
    assert bit_planes_module.compile_function(len) is len
