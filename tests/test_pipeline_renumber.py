"""The order of populations that keeps them in their old columns."""

import numpy as np

from pipeline.renumber import find_order

IDS = np.array([f"s{i}" for i in range(40)])


def shares(k: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet([0.2] * k, 40).astype(np.float32)


def test_find_order__undoes_a_permutation_of_people_and_populations():
    q = shares(4)
    people = np.random.default_rng(1).permutation(40)[:30]
    order = find_order(q[:, [2, 0, 3, 1]], IDS, q[people], IDS[people])
    np.testing.assert_array_equal(q[:, [2, 0, 3, 1]][:, order], q)


def test_find_order__more_and_fewer_populations():
    q = shares(4)
    assert find_order(q, IDS, q[:, [3, 1]], IDS).tolist()[:2] == [3, 1]
    assert sorted(find_order(q, IDS, q[:, [3, 1]], IDS).tolist()) == [0, 1, 2, 3]
    assert find_order(q[:, [3, 1]], IDS, q, IDS).tolist() == [1, 0]


def test_find_order__nobody_in_common_or_called():
    q = shares(3)
    assert find_order(q, IDS, q, np.char.add(IDS, "x")).tolist() == [0, 1, 2]
    assert find_order(q, IDS, np.full_like(q, np.nan), IDS).tolist() == [0, 1, 2]
