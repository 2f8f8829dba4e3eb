"""Standard errors of the people of a group, while their genotypes are in memory.

Runs inside the workers; the method and the blocks of variants are decided once, for
everybody.
"""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import numpy.typing as npt

from estimator.absent_alleles import Absent, score_of_absent, score_of_carried
from estimator.block_scores import block_scores, cut_blocks
from estimator.likelihood import ancestry_statistics
from estimator.uncertainty import PopulationError, standard_errors
from pipeline.config import JACKKNIFE, NO_ERRORS, ApplyConfig
from pipeline.minibatch import DeviceModel
from pipeline.variant_blocks import plan_variant_blocks

FloatArray = npt.NDArray[np.float32]


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
    """
    filled = np.zeros(len(ancestry), np.float32)
    filled[: len(n_called)] = n_called
    fitted = np.zeros(len(ancestry), bool)
    fitted[: len(in_fit)] = in_fit
    score = None
    if error is not None:
        score = _score_at(absent, error.noise, np.asarray(ancestry), filled, fitted)
    of_populations = partial(
        standard_errors,
        error=error,
        n_called=jax.device_put(filled),
        in_fit=jax.device_put(fitted),
        absent=None if score is None else jax.device_put(score),
    )
    arguments = (packed, ancestry, model.frequencies)
    if plan.method == JACKKNIFE:
        pieces, width = cut_blocks(np.array(plan.bounds), model.tile)
        scores = block_scores(*arguments, pieces, tile=model.tile, width=width)
        return np.array(of_populations(ancestry, *scores))
    statistics = ancestry_statistics(*arguments, tile=model.tile)
    hessian, gradient = statistics.hessian, statistics.gradient
    return np.array(of_populations(ancestry, hessian, gradient))


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
