"""The tree in which sums over the shards are added, whoever adds which of them.

The sums of either half of the leaves are added last, and so on down to single leaves:
their number alone fixes the order, and with it every bit of the total. A run of
neighbours that is a subtree, as those of each of two or four workers are, is added by
one task, the rest by tasks that take two sums each.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def _halves(tree: range) -> tuple[range, range]:
    """The subtrees that a tree's last addition takes: one for each of two workers."""
    half = -(-len(tree) // 2)
    return tree[:half], tree[half:]


def subtrees(tree: range, run: range, most: int) -> list[range]:
    """Cut a run of a tree's leaves into its largest subtrees.

    Parameters
    ----------
    tree
        All of the leaves.
    run
        Neighbours among them.
    most
        Leaves of a subtree, at most.

    >>> subtrees(range(10), range(5, 10), 4)
    [range(5, 8), range(8, 10)]
    """
    if tree.stop <= run.start or run.stop <= tree.start:
        return []
    inside = run.start <= tree.start and tree.stop <= run.stop
    if inside and len(tree) <= most:
        return [tree]
    return [part for half in _halves(tree) for part in subtrees(half, run, most)]


def subtrees_of_workers(workers: Sequence[T], most: int) -> list[tuple[T, list[range]]]:
    """Cut the leaves of each worker into the largest subtrees that they make up.

    Parameters
    ----------
    workers
        The worker of each leaf; those of one worker are neighbours.
    most
        Leaves of a subtree, at most.

    >>> subtrees_of_workers("aaaaab", 4)
    [('a', [range(0, 3), range(3, 5)]), ('b', [range(5, 6)])]
    """
    tree, found = range(len(workers)), []
    for worker, group in itertools.groupby(tree, workers.__getitem__):
        leaves = list(group)
        run = range(leaves[0], leaves[-1] + 1)
        found.append((worker, subtrees(tree, run, most)))
    return found


def add_up(
    tree: range, sum_of: Callable[[range], T | None], add: Callable[[T, T], T]
) -> T:
    """Sum of a tree.

    Parameters
    ----------
    tree
        The leaves.
    sum_of
        Sum of a subtree that need not be added up, such as a leaf; None of any other.
        Called from the first leaf to the last, so that few sums wait at a time: one for
        each level of the tree.
    add
        Adds the sums of two neighbours.

    >>> leaves = {range(i, i + 1): str(i) for i in range(5)}
    >>> add_up(range(5), leaves.get, "({}+{})".format)
    '(((0+1)+2)+(3+4))'
    """
    found = sum_of(tree)
    if found is not None:
        return found
    first, second = (add_up(half, sum_of, add) for half in _halves(tree))
    return add(first, second)
