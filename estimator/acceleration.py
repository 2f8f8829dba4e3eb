"""Quasi-Newton acceleration of the rounds, kept monotone by the likelihood.

One round maps a point x = (Q, P) to G(x), by a relaxation and a step of the basis
(`basis`). From the residuals G(x) - x of the last few points, Anderson's secant method
proposes the next point to map. The pass that maps it also returns its likelihood, and
a point whose likelihood fell is refused: the search goes on from the best point's own
map, then from its relaxation alone, then from halfway there. So the likelihood of the
accepted points is monotone, within the tolerance, and that of all points is not.

Plain numpy on vectors: it runs on the driver, which needs no device and no jax.

References
----------
Anderson (1965), Journal of the ACM 12:547-560.
Zhou, Alexander and Lange (2011), Statistics and Computing 21:261-273.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.config import MIN_FREQUENCY

# Relative to the trace: keeps the least squares solvable when the residuals of
# successive points become parallel.
REGULARISATION = 1e-12
# After this many refusals a halved step is below the resolution of float32.
MAX_REFUSALS = 21
# Longest step of the basis: near 1 it could lose a population.
MAX_RADIUS = 0.4
_DOT_BLOCK = 1 << 20

FloatArray = npt.NDArray[np.float32]


class Point(NamedTuple):
    """One value of the model's parameters.

    Attributes
    ----------
    ancestry
        Q, shape (people, populations), rows on the simplex.
    frequencies
        P, shape (populations, variants), inside (0, 1).
    """

    ancestry: FloatArray
    frequencies: FloatArray


class Evaluation(NamedTuple):
    """A point, its log-likelihood, and what one round makes of it.

    Attributes
    ----------
    round_number
        Tells evaluations apart and finds them again on disk.
    point
        The point.
    mapped
        After a relaxation and a step of the basis.
    relaxed
        After the relaxation alone, which near the maximum lowers no likelihood.
    log_likelihood
        At the point.
    """

    round_number: int
    point: Point
    mapped: Point
    relaxed: Point
    log_likelihood: float


@dataclass(frozen=True)
class Search:
    """Everything that the next proposal depends on.

    Attributes
    ----------
    tolerance
        Gain in log-likelihood below which a round counts as calm.
    n_secants
        Most differences of residuals that a proposal combines.
    history
        Accepted evaluations that the secants come from, oldest first.
    best
        The accepted evaluation of highest likelihood.
    refusals
        How many points without secants were refused since the last acceptance.
    calm_rounds
        Accepted rounds in a row that gained less than the tolerance.
    radius
        Longest step of the basis in the next round.
    """

    tolerance: float
    n_secants: int = 1
    history: tuple[Evaluation, ...] = ()
    best: Evaluation | None = None
    refusals: int = 0
    calm_rounds: int = 0
    radius: float = MAX_RADIUS

    @property
    def converged(self) -> bool:
        """Whether a calm round was confirmed by the next, or no step is left."""
        return self.is_calm or self.refusals > MAX_REFUSALS

    @property
    def is_calm(self) -> bool:
        """Whether a calm round was confirmed by the next."""
        return self.calm_rounds >= 2

    @property
    def result(self) -> Point:
        """The best point so far; after calm, what one relaxation more makes of it.

        Its likelihood was not evaluated: near the maximum a relaxation cannot lower
        it, which far from there is not known.
        """
        assert self.best is not None, "at least one round was evaluated"
        return self.best.relaxed if self.is_calm else self.best.point


def advance(search: Search, evaluation: Evaluation) -> Search:
    """Accept or refuse an evaluated point.

    A fall within the tolerance is rounding of the sums and no reason to refuse.
    """
    if search.best is None:
        return replace(search, history=(evaluation,), best=evaluation)
    gain = float(evaluation.log_likelihood - search.best.log_likelihood)
    if _is_fall(gain, search.tolerance):
        return _refuse(search, search.best)
    # A map that was refused is no secant.
    history = search.history if search.refusals == 0 else ()
    return replace(
        search,
        history=(*history, evaluation)[-search.n_secants - 1 :],
        best=evaluation if gain > 0 else search.best,
        refusals=0,
        calm_rounds=search.calm_rounds + 1 if gain < search.tolerance else 0,
        radius=min(2 * search.radius, MAX_RADIUS),
    )


def _is_fall(gain: float, tolerance: float) -> bool:
    # Not `gain < -tolerance`: a likelihood of NaN is refused too.
    return not gain >= -tolerance


def refused_points(trace: Sequence[float], tolerance: float) -> list[bool]:
    """Which points of a search were refused, as `advance` decides it.

    Parameters
    ----------
    trace
        Log-likelihood of every point, in order.
    tolerance
        Of the search.

    >>> refused_points([-9.0, -5.0, -7.0, -4.0], 0.1)
    [False, False, True, False]
    """
    refused: list[bool] = []
    best = None
    for log_likelihood in trace:
        fell = best is not None and _is_fall(log_likelihood - best, tolerance)
        refused.append(fell)
        if best is None or log_likelihood > best:
            best = log_likelihood
    return refused


def _refuse(search: Search, best: Evaluation) -> Search:
    if len(search.history) > 1:
        return replace(search, history=(best,), refusals=0)
    # The first of these was the map itself: its step of the basis went too far.
    shrink = 0.25 if search.refusals == 0 else 1.0
    return replace(
        search,
        history=(best,),
        refusals=search.refusals + 1,
        radius=search.radius * shrink,
    )


def propose(search: Search) -> Point:
    """Return the next point to evaluate, inside the constraints."""
    latest = search.history[-1]
    if search.refusals > 0:
        share = np.float32(0.5 ** (search.refusals - 1))
        ends = zip(latest.point, latest.relaxed, strict=True)
        return Point(*(x + share * (g - x) for x, g in ends))
    if len(search.history) == 1:
        return latest.mapped
    weights = _secant_weights(search.history)
    combined = [mapped.copy() for mapped in latest.mapped]
    for weight, evaluation in zip(weights, search.history[:-1], strict=True):
        maps = zip(combined, evaluation.mapped, latest.mapped, strict=True)
        for total, mapped, newest in maps:
            # What all maps have at a bound stays there, and rows of Q keep their sums.
            total += np.float32(weight) * (mapped - newest)
    return _constrain(Point(*combined))


def _secant_weights(history: Sequence[Evaluation]) -> npt.NDArray[np.float64]:
    """Weights of the earlier maps that cancel the latest residual best."""
    residuals = [
        np.concatenate([(g - x).ravel() for x, g in zip(*e[1:3], strict=True)])
        for e in history
    ]
    latest = residuals.pop()
    differences = [latest - residual for residual in residuals]
    gram = np.array([[_dot(a, b) for b in differences] for a in differences])
    right = np.array([_dot(a, latest) for a in differences])
    gram += np.eye(len(gram)) * (REGULARISATION * np.trace(gram) + 1e-300)
    return np.linalg.solve(gram, right)


def _dot(a: FloatArray, b: FloatArray) -> float:
    """Inner product in float64, in an order that no number of threads changes."""
    return sum(
        float(np.sum(a[i : i + _DOT_BLOCK].astype(np.float64) * b[i : i + _DOT_BLOCK]))
        for i in range(0, len(a), _DOT_BLOCK)
    )


def _constrain(point: Point) -> Point:
    ancestry = np.clip(point.ancestry, 0, None)
    ancestry /= ancestry.sum(axis=1, keepdims=True)
    frequencies = np.clip(point.frequencies, MIN_FREQUENCY, 1 - MIN_FREQUENCY)
    return Point(ancestry, frequencies)
