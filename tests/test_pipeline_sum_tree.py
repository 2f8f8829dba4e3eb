"""However the leaves are cut into runs, the same neighbours are added."""

import itertools

import pytest

from pipeline.sum_tree import add_up, subtrees


def _add(left: str, right: str) -> str:
    return f"({left}{right})"


def _leaf(run: range) -> str | None:
    return str(run.start) if len(run) == 1 else None


def _by_levels(n: int) -> str:
    """Neighbours are added until one sum is left."""
    level = [str(i) for i in range(n)]
    while len(level) > 1:
        pairs = [_add(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = [*pairs, *level[len(pairs) * 2 :]]
    return level[0]


@pytest.mark.parametrize("n", range(1, 40))
def test_add_up__adds_neighbours_until_one_sum_is_left(n: int):
    assert add_up(range(n), _leaf, _add) == _by_levels(n)


@pytest.mark.parametrize("most", [1, 3, 4, 8, 100])
@pytest.mark.parametrize("n_runs", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 5, 10, 13, 32])
def test_subtrees__are_added_up_alike(n: int, n_runs: int, most: int):
    cuts = [i * n // n_runs for i in range(n_runs + 1)]
    runs = [
        run
        for start, stop in itertools.pairwise(cuts)
        for run in subtrees(range(n), range(start, stop), most)
    ]
    assert [leaf for run in runs for leaf in run] == list(range(n))
    assert max(map(len, runs)) <= most
    sums = {run: add_up(run, _leaf, _add) for run in runs}
    assert add_up(range(n), sums.get, _add) == _by_levels(n)


def test_subtrees__are_as_large_as_they_may_be():
    assert subtrees(range(40), range(20), 8) == [range(8), range(8, 16), range(16, 20)]
