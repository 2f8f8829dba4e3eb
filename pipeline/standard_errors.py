"""Standard errors of the people of a group, while their genotypes are in memory.

Runs inside the workers; the method and the blocks of variants are decided once, for
everybody.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from estimator.absent_alleles import Absent, score_of_absent, score_of_carried
from estimator.block_scores import block_scores, cut_blocks
from estimator.few_calls import (
    FEW_BLOCKS,
    FEW_CALLS,
    count_blocks,
    few_blocks_factor,
    profile_errors,
)
from estimator.likelihood import ancestry_statistics
from estimator.uncertainty import (
    MAX_STANDARD_ERROR,
    PopulationError,
    standard_errors,
)
from pipeline.config import JACKKNIFE, NO_ERRORS, ApplyConfig
from pipeline.minibatch import DeviceModel
from pipeline.variant_blocks import plan_variant_blocks

FloatArray = npt.NDArray[np.float32]
# People whose errors are computed apart are filled up to a multiple.
_TOGETHER = 32


@dataclass(frozen=True)
class ErrorPlan:
    """How standard errors are computed.

    Attributes
    ----------
    method
        "jackknife" or "information".
    bounds
        First variant of each block, and the number of variants.
    """

    method: str
    bounds: tuple[int, ...]


def plan_errors(config: ApplyConfig, contigs: npt.NDArray[np.str_]) -> ErrorPlan | None:
    """Plan for variants on some contigs; None where nothing is to be computed."""
    if config.standard_errors == NO_ERRORS:
        return None
    bounds = plan_variant_blocks(contigs, config.jackknife_blocks)
    return ErrorPlan(config.standard_errors, tuple(bounds.tolist()))


def group_errors(
    plan: ErrorPlan,
    packed: jax.Array,
    ancestry: jax.Array,
    n_called: npt.NDArray[np.int64],
    in_fit: npt.NDArray[np.bool_],
    model: DeviceModel,
    error: PopulationError | None,
    absent: Absent,
) -> FloatArray:
    """Standard errors of Q of some people.

    Parameters
    ----------
    plan
        How.
    packed
        Their genotypes, padded to whole tiles.
    ancestry
        Q at the maximum, of as many rows.
    n_called
        Called genotypes of each person; those who only fill the tiles have none.
    in_fit
        Who of them P was estimated from.
    model
        P on this worker's device.
    error
        Of the populations, where it is known.
    absent
        Alleles that populations lack.

    Returns
    -------
    Of as many rows. Of people with few calls, the profile of the likelihood has them
    (`few_calls`); those with none have the largest.
    """
    filled = np.zeros(len(ancestry), np.float32)
    filled[: len(n_called)] = n_called
    fitted = np.zeros(len(ancestry), bool)
    fitted[: len(in_fit)] = in_fit
    score_of = None
    if error is not None:
        score_of = _score_at(absent, error.noise, np.asarray(ancestry), filled, fitted)
    of_people = {"n_called": filled, "in_fit": fitted, "absent": score_of}
    arguments = (packed, ancestry, model.frequencies)
    hessian, score, scatter = None, None, None
    if plan.method == JACKKNIFE:
        pieces, width = cut_blocks(np.array(plan.bounds), model.tile)
        hessian, score, scatter = block_scores(
            *arguments, pieces, tile=model.tile, width=width
        )
    else:
        statistics = ancestry_statistics(*arguments, tile=model.tile)
        hessian, score = statistics.hessian, statistics.gradient
    on_device = {name: _put(values) for name, values in of_people.items()}
    given = (ancestry, hessian, score)
    errors = np.array(standard_errors(*given, scatter, error=error, **on_device))
    if ancestry.shape[1] == 1:
        return errors
    few = n_called < FEW_CALLS
    if few.any():
        chosen = _Chosen.of(few, given, of_people)
        errors[: len(few)][few] = chosen.profiled(error)
    if scatter is not None:
        narrow, factor = _find_narrow(plan, packed, n_called)
        if narrow.any():
            chosen = _Chosen.of(narrow, given, of_people)
            wider = np.minimum(errors[: len(narrow)][narrow] * factor[:, None], 0.5)
            least = chosen.informed(error)
            errors[: len(narrow)][narrow] = np.maximum(wider, least)
    errors[: len(n_called)][n_called == 0] = MAX_STANDARD_ERROR
    return errors


def say_few_calls(n_few: int, n_people: int) -> str:
    """The line that warns of people with few called genotypes.

    >>> say_few_calls(1, 60).partition(";")[0]
    '1 of 60 people has fewer than 512 called genotypes'
    """
    verb = "has" if n_few == 1 else "have"
    return (
        f"{n_few} of {n_people} people {verb} fewer than {FEW_CALLS} called genotypes; "
        "the standard errors of their ancestry are wide, from the whole likelihood"
    )


def _put(values: npt.NDArray[Any] | None) -> jax.Array | None:
    return None if values is None else jax.device_put(values)


@dataclass(frozen=True)
class _Chosen:
    """Some people of a group, filled up by themselves.

    Attributes
    ----------
    n_people
        How many they are.
    given
        Their Q, Hessians and scores.
    of_people
        What their errors take besides, where the error of the populations is known.
    """

    n_people: int
    given: tuple[jax.Array, ...]
    of_people: dict[str, jax.Array | None]

    @classmethod
    def of(
        cls,
        chosen: npt.NDArray[np.bool_],
        given: tuple[jax.Array, ...],
        of_people: dict[str, npt.NDArray[Any] | None],
    ) -> "_Chosen":
        rows = np.flatnonzero(chosen)
        filled = np.resize(rows, -(-len(rows) // _TOGETHER) * _TOGETHER)
        return cls(
            len(rows),
            tuple(jax.device_put(np.asarray(values)[filled]) for values in given),
            {
                name: None if values is None else jax.device_put(values[filled])
                for name, values in of_people.items()
            },
        )

    def informed(self, error: PopulationError | None) -> FloatArray:
        """Errors by the curvature of the likelihood."""
        found = standard_errors(*self.given, error=error, **self.of_people)
        return np.array(found)[: self.n_people]

    def profiled(self, error: PopulationError | None) -> FloatArray:
        """Errors by the whole likelihood, and what the populations add."""
        squares = np.array(profile_errors(*self.given))[: self.n_people] ** 2
        if error is not None:
            known = np.array(standard_errors(*self.given))[: self.n_people]
            added = self.informed(error) ** 2 - known**2
            # Where the noise of P is all that the calls tell, nothing is known.
            added = np.nan_to_num(added, nan=MAX_STANDARD_ERROR**2)
            squares = squares + np.maximum(added, 0)
        return np.sqrt(np.minimum(squares, MAX_STANDARD_ERROR**2))


def _find_narrow(
    plan: ErrorPlan, packed: jax.Array, n_called: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """People with calls enough, but in few blocks, and how much wider their errors are.

    Returns
    -------
    Who they are, and for each of them a factor.
    """
    n_blocks = len(plan.bounds) - 1
    fewest = min(FEW_BLOCKS, n_blocks / 2)
    # As many blocks as their share of all calls, or more.
    may_be = n_called * n_blocks < fewest * plan.bounds[-1]
    narrow = may_be & (n_called >= FEW_CALLS)
    rows = np.flatnonzero(narrow)
    effective = count_blocks(np.asarray(packed)[rows], plan.bounds)
    narrow[rows] = effective < fewest
    return narrow, few_blocks_factor(effective[effective < fewest])


def _score_at(
    absent: Absent,
    noise: npt.ArrayLike,
    ancestry: FloatArray,
    n_called: FloatArray,
    fitted: npt.NDArray[np.bool_],
) -> FloatArray:
    """Mean score of everybody's truth at alleles that populations lack."""
    score = np.empty_like(ancestry)
    for who, of in ((fitted, score_of_absent), (~fitted, score_of_carried)):
        score[who] = of(absent, noise, ancestry[who], n_called[who])
    return score
