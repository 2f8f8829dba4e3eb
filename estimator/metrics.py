"""Agreement between two sets of ancestry proportions.

Reads and writes NumPy arrays, on the host, in float64. The likelihood does not
change when populations are renumbered, so two runs agree only up to a
permutation of components, found here by optimal assignment.
"""

import numpy as np
import numpy.typing as npt
from scipy import optimize


def _checked_pair(
    Q: npt.ArrayLike, Q_reference: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return both tables in float64, or raise ValueError if they cannot be compared."""
    table = np.asarray(Q, dtype=np.float64)
    reference = np.asarray(Q_reference, dtype=np.float64)
    if table.ndim != 2 or table.shape != reference.shape:
        raise ValueError(
            "Q and Q_reference must be two tables of one shape (people, populations), "
            f"got {table.shape} and {reference.shape}"
        )
    if table.size == 0:
        raise ValueError(f"Q and Q_reference are empty, of shape {table.shape}")
    for name, values in (("Q", table), ("Q_reference", reference)):
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise ValueError(f"{name} is not finite, first in row {finite.argmin()}")
    return table, reference


def match_components(
    Q: npt.ArrayLike, Q_reference: npt.ArrayLike
) -> npt.NDArray[np.intp]:
    """Find the order of populations that brings one result closest to another.

    The permutation minimises the squared distance between ``Q[:, permutation]``
    and ``Q_reference`` over all permutations, not greedily. To match on allele
    frequencies instead, pass ``P.T`` and ``P_reference.T``.

    Parameters
    ----------
    Q
        Proportions to reorder, one row a person, one column a population.
    Q_reference
        Proportions of the same people, of the same number of populations.

    Returns
    -------
    For each column of ``Q_reference``, the column of ``Q`` that matches it.

    Raises
    ------
    ValueError
        If the tables differ in shape, are empty or hold a value not finite.

    References
    ----------
    Crouse (2016), On implementing 2D rectangular assignment algorithms, IEEE
    Transactions on Aerospace and Electronic Systems 52(4):1679-1696.

    Examples
    --------
    >>> match_components([[1.0, 0.0], [0.7, 0.3]], [[0.1, 0.9], [0.2, 0.8]])
    array([1, 0])
    """
    table, reference = _checked_pair(Q, Q_reference)
    # The columns' own norms add the same amount under every permutation, so
    # the least squared distance is the greatest sum of inner products.
    _, permutation = optimize.linear_sum_assignment(reference.T @ table, maximize=True)
    return permutation


def rmse(Q: npt.ArrayLike, Q_reference: npt.ArrayLike, match: bool = True) -> float:
    """Root mean squared difference over all people and populations.

    Parameters
    ----------
    Q
        Proportions, one row a person, one column a population.
    Q_reference
        Proportions of the same people, of the same number of populations.
    match
        Whether to reorder the columns of ``Q`` first, by ``match_components``.

    Returns
    -------
    The difference, in the units of ``Q``: in [0, 1] for proportions.

    Raises
    ------
    ValueError
        If the tables differ in shape, are empty or hold a value not finite.

    Examples
    --------
    >>> rmse([[1.0, 0.0]], [[0.0, 1.0]])
    0.0
    >>> rmse([[1.0, 0.0]], [[0.0, 1.0]], match=False)
    1.0
    """
    table, reference = _checked_pair(Q, Q_reference)
    if match:
        table = table[:, match_components(table, reference)]
    return float(np.sqrt(np.mean(np.square(table - reference))))
