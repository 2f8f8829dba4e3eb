"""Fit Q and P in rounds over the shards of a prepared store.

A round evaluates one point (`rounds`), from the starting values on (`start`). The
driver then chooses the next point (`estimator.acceleration`) and writes its files,
which are the checkpoint.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from estimator.absent_alleles import find_absent
from estimator.acceleration import Point, Search, advance, propose, refused_points
from pipeline import checkpoint, rounds, steps
from pipeline.config import LIKELIHOOD, FitConfig
from pipeline.location import Location
from pipeline.prepared import Prepared, open_store
from pipeline.progress import track
from pipeline.start import passes_of_start, starting_point
from pipeline.tasks import Cluster, Future


@dataclass(frozen=True)
class FitResult:
    """A fitted model.

    Attributes
    ----------
    point
        Q of the people in the fit, and P.
    log_likelihood
        Of the best point evaluated, which the last relaxation did not lower.
    trace
        Log-likelihood of the point that each round evaluated.
    converged
        Whether the stopping rule was met.
    data_passes
        Times the genotypes were read from first to last.
    method
        What fitted it: "likelihood" or "neural".
    people
        Models of a sample of people there, for `estimate_error`; None where there are
        none.
    refused
        Which of the points of the trace the acceleration refused, because the
        likelihood fell; empty for none. That of the others is monotone.
    """

    point: Point
    log_likelihood: float
    trace: list[float]
    converged: bool
    data_passes: int
    method: str = LIKELIHOOD
    people: Location | None = None
    refused: list[bool] = field(default_factory=list)


def fit(
    prepared: Prepared,
    config: FitConfig,
    cluster: Cluster,
    folder: Location,
    *,
    seed: int,
    stamp: str,
) -> FitResult:
    """Fit the model to the maximum of its likelihood.

    Parameters
    ----------
    prepared
        The genotypes.
    config
        Number of populations, tolerance, sizes of shards.
    cluster
        Workers; their number does not change the result.
    folder
        Where the rounds' files go. A fit found there is continued.
    seed
        Of the start.
    stamp
        Fingerprint of the prepared store.

    Raises
    ------
    InputError
        If there are fewer than two people, or one variant, for each population.
    """
    tasks = rounds.shard_tasks(prepared, config, stamp)
    n_called = int(_called(prepared).sum())
    fresh = Search(tolerance=config.tolerance * n_called, n_secants=config.n_secants)
    resumed = checkpoint.load_search(folder, fresh)
    if resumed is None:
        search, round_number = fresh, 0
        point = starting_point(
            prepared, config, cluster, folder, seed=seed, stamp=stamp
        )
        checkpoint.save_point(folder, checkpoint.point_name(0), point)
    else:
        search, round_number = resumed
        point = checkpoint.load_point(folder, checkpoint.point_name(round_number))
    # With K = 1 the start is the maximum: one round gives its likelihood.
    is_closed = config.n_populations == 1
    n_rounds = 1 if is_closed else config.max_rounds
    with track("fitting") as progress:
        while not search.converged and round_number < n_rounds:
            evaluation = rounds.evaluate(
                cluster, tasks, folder, round_number, point, search.radius
            )
            search = advance(search, evaluation)
            point = propose(search)
            checkpoint.save_search(folder, search, evaluation, point)
            round_number += 1
            assert search.best is not None, "a round was evaluated"
            # Of the best point so far: that of a refused one is no step back.
            reached = search.best.log_likelihood
            progress.advance(
                note=f"log-likelihood {reached:.2f}",
                round=round_number,
                log_likelihood=reached,
                genotypes=n_called,
            )
    assert search.best is not None, "at least one round was evaluated"
    trace = checkpoint.load_trace(folder)
    people = checkpoint.people_path(folder, search.best.round_number)
    return FitResult(
        point=search.result,
        log_likelihood=search.best.log_likelihood,
        trace=trace,
        converged=is_closed or search.converged,
        data_passes=len(trace) + passes_of_start(config),
        people=people,
        refused=refused_points(trace, search.tolerance),
    )


def estimate_error(
    prepared: Prepared, fitted: FitResult, cluster: Cluster
) -> Future | None:
    """Begin to estimate the error of the populations, for standard errors.

    Returns
    -------
    A `PopulationError`, under way on the worker that chose the bases; None where it
    cannot be known.
    """
    if fitted.people is None:
        return None
    point = fitted.point
    n_variants = point.frequencies.shape[1]
    called = _called(prepared)
    weighted = point.ancestry * (called / n_variants)[:, None]
    return cluster.submit(
        steps.estimate_error,
        fitted.people,
        find_absent(point.frequencies),
        weighted.T @ point.ancestry.astype(float),
        float(called.mean()),
        worker=cluster.last,
    )


def _called(prepared: Prepared) -> npt.NDArray[np.int64]:
    """Called genotypes of each person in the fit."""
    return open_store(prepared.path).read("sample_n_called")[prepared.in_fit]
