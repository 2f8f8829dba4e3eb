"""Means of a quantity of pairs of people, by the groups of both.

Pure arithmetic: the fit check has them by population, and its report by label.
"""

import numpy as np
import numpy.typing as npt


def mean_over_pairs(
    values: npt.NDArray[np.floating],
    group: npt.NDArray[np.integer],
    n_groups: int,
) -> npt.NDArray[np.float64]:
    """Mean over the pairs of people of each two groups.

    Parameters
    ----------
    values
        Of each pair, NaN where unknown, as of people with themselves.
    group
        Group of each person, from 0; -1 for those in none.
    n_groups
        Number of groups.

    Returns
    -------
    Groups by groups; NaN where there is no pair.

    >>> pairs = np.array([[np.nan, 0.25, 0], [0.25, np.nan, 0.5], [0, 0.5, np.nan]])
    >>> mean_over_pairs(pairs, np.array([0, 0, 1]), 2).tolist()
    [[0.25, 0.25], [0.25, nan]]
    """
    member = (group[:, None] == np.arange(n_groups)).astype(np.float64)
    known = np.isfinite(values)
    total = member.T @ np.where(known, values, 0) @ member
    n_pairs = member.T @ known.astype(np.float64) @ member
    return np.where(n_pairs > 0, total / np.maximum(n_pairs, 1), np.nan)
