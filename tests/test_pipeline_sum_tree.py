"""However the leaves are cut into runs, the same neighbours are added."""

import itertools

import pytest

from pipeline.sum_tree import add_up, subtrees


def _add(left: str, right: str) -> str:
    return f"({left}{right})"


def _leaf(run: range) -> str | None:
    return str(run.start) if len(run) == 1 else None


def _by_halves(leaves: list[str]) -> str:
    """Each half is added up, the first the larger if there is an odd leaf."""
    if len(leaves) == 1:
        return leaves[0]
    middle = (len(leaves) + 1) // 2
    return _add(_by_halves(leaves[:middle]), _by_halves(leaves[middle:]))


@pytest.mark.parametrize("n", range(1, 40))
def test_add_up__adds_the_sums_of_halves(n: int):
    assert add_up(range(n), _leaf, _add) == _by_halves([str(i) for i in range(n)])


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
    assert add_up(range(n), sums.get, _add) == _by_halves([str(i) for i in range(n)])


def test_subtrees__are_as_large_as_they_may_be():
    assert subtrees(range(40), range(20), 8) == [
        *(range(start, start + 5) for start in (0, 5, 10, 15))
    ]
    assert subtrees(range(40), range(20), 32) == [range(20)]


@pytest.mark.parametrize("n", range(2, 40))
def test_subtrees__are_one_for_each_of_two_workers(n: int):
    # As `Cluster.spread` gives neighbours to workers.
    first = sum(i * 2 // n == 0 for i in range(n))
    assert subtrees(range(n), range(first), n) == [range(first)]
    assert subtrees(range(n), range(first, n), n) == [range(first, n)]
