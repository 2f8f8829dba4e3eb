"""The fit on its own: a prepared store in, a model store out.

Also loaded where no cohort is read, and so does without what reading one takes.
"""

import dataclasses
import logging
import sys
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import budget, publication
from pipeline.bundle import save_model
from pipeline.config import NEURAL, FitConfig, RunConfig
from pipeline.errors import InputError
from pipeline.fit import FitResult, estimate_error, fit
from pipeline.genotype_digests import digest_fitted
from pipeline.labels import Labels, fix_labelled, place_labels
from pipeline.lineage import describe, provenance_inputs
from pipeline.location import Location, delete_tree
from pipeline.meter import Meter
from pipeline.neural import NeuralFit
from pipeline.prepared import Prepared, hold_out, open_prepared, open_store
from pipeline.quantities import count_things
from pipeline.tasks import Cluster
from pipeline.train import train, without_training
from pipeline.workspace import open_store_workspace

logger = logging.getLogger(__name__)

# Rounds whose gain says how far a fit that did not converge had come.
_LAST_ROUNDS = 10


def match_labels(
    labels: Labels | None, sample_ids: npt.NDArray[np.str_], config: RunConfig
) -> Labels | None:
    """Labels by sample id, refused before any work if they do not fit the cohort.

    Raises
    ------
    InputError
        If a labelled person is not in the cohort, the populations are more than K, or
        the method takes no labels.
    """
    if labels is None:
        return None
    if config.fit.method == NEURAL:
        raise InputError(
            'fit.method is "neural", which takes no labels; leave --labels out or fit '
            'with "likelihood"'
        )
    found = labels.of_people(sample_ids)
    place_labels(found, sample_ids, config.fit.n_populations)
    return found


def open_for_fit(path: Location, config: RunConfig, labels: Labels | None) -> Prepared:
    """Open a prepared store as the fit sees it: who is left out, who is labelled."""
    prepared = hold_out(open_prepared(path), config.held_out)
    if labels is None:
        return prepared
    sample_ids = open_store(path).read("sample_id")
    return fix_labelled(prepared, labels, sample_ids, config.fit.n_populations)


def fit_model(
    prepared: Prepared,
    path: Location,
    config: RunConfig,
    meter: Meter,
    attrs: dict[str, Any],
) -> None:
    """Fit the model, train its encoder, and write the model store.

    Files of the rounds go beside the store, and are deleted with success.
    """
    rounds = path.with_name("rounds")
    if config.fit.method == NEURAL:
        _train_jointly(prepared, path, config, meter, attrs)
        delete_tree(rounds)
        return
    with meter.stage("fit"):
        fitted = fit(
            prepared,
            _fit_within_memory(prepared, config, meter.cluster),
            meter.cluster,
            rounds,
            seed=config.seed,
            stamp=attrs["stamp"],
        )
    if not fitted.converged:
        logger.warning(
            "the fit did not converge in %s: the last %s gained %.1e a genotype. The "
            "likelihood is flat where K exceeds the structure in the data; lower -k, "
            "or raise fit.max_rounds",
            count_things(config.fit.max_rounds, "round", "rounds"),
            *_last_gain(fitted, prepared),
        )
    with meter.stage("train" if config.train.encoder else "errors"):
        error = estimate_error(prepared, fitted, meter.cluster)
        if config.train.encoder:
            encoder = train(
                prepared,
                fitted,
                config.train,
                meter.cluster,
                rounds / "encoder",
                seed=config.seed,
                stamp=attrs["stamp"],
            )
        else:
            point = fitted.point
            mean = point.ancestry.mean(axis=0, dtype=np.float64)
            encoder = without_training(mean, point.frequencies)
        known = None if error is None else meter.cluster.result(error)
        people = None
        if known is not None:
            people = digest_fitted(prepared, meter.cluster)
        save_model(path, prepared, fitted, encoder, attrs, known, people)
    delete_tree(rounds)


def _last_gain(fitted: FitResult, prepared: Prepared) -> tuple[int, float]:
    """Rounds at the end of a fit, and what they gained for each called genotype."""
    best = np.maximum.accumulate(fitted.trace)
    last = min(_LAST_ROUNDS, len(best) - 1)
    called = open_store(prepared.path).read("sample_n_called")[prepared.in_fit]
    return last, float(best[-1] - best[-1 - last]) / int(called.sum())


def _fit_within_memory(
    prepared: Prepared, config: RunConfig, cluster: Cluster
) -> FitConfig:
    """The fit's settings, with as many shards kept as the workers have room for.

    It changes nothing in the results, and so nothing in their provenance.

    Raises
    ------
    InputError
        If the fit would not fit. A run was admitted before anybody knew that calls of
        a single allele take twice the room.
    """
    sizes = budget.Sizes(
        prepared.n_samples,
        prepared.n_variants,
        prepared.sample_chunk,
        variant_chunk=1,
        itemsize=prepared.itemsize,
    )
    n_workers = max(len(cluster.workers), 1)
    limit = cluster.memory_limit()
    planned = budget.plan_budget(
        sizes, config, n_workers, limit, on_gpus=cluster.on_gpus()
    )
    budget.check_budget(
        planned, worker_limit=limit, driver_limit=sys.maxsize, free_disk=sys.maxsize
    )
    return dataclasses.replace(config.fit, cache_bytes=planned.cache_bytes)


def _train_jointly(
    prepared: Prepared,
    path: Location,
    config: RunConfig,
    meter: Meter,
    attrs: dict[str, Any],
) -> None:
    """Train encoder and P together: starting values as one stage, then the rest."""
    bounded = _fit_within_memory(prepared, config, meter.cluster)
    config = dataclasses.replace(config, fit=bounded)
    training = NeuralFit(
        prepared, config, meter.cluster, path.with_name("rounds"), attrs["stamp"]
    )
    with meter.stage("fit"):
        training.start()
    with meter.stage("train"):
        result = training.train()
        evaluated = {**attrs, "evaluation": result.evaluation}
        save_model(path, prepared, result.fitted, result.encoder, evaluated)


def fit_only(
    prepared_path: Location,
    output: Location,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    labels: Labels | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a model store of a prepared one, with some people's population known.

    Raises
    ------
    InputError
        If the prepared store or the labels cannot be used, or the output exists.
    """
    name = "model.zarr"
    options = {"resume": resume, "overwrite": overwrite}
    found = open_prepared(publication.find_result(prepared_path, "prepared.zarr"))
    origin = open_store(found.path)
    labels = match_labels(labels, origin.read("sample_id"), config)
    prepared = open_for_fit(found.path, config, labels)
    inputs = provenance_inputs(origin.attrs["cohort_fingerprint"], config, labels)
    inputs["prepared"] = origin.attrs["stamp"]
    attrs = describe(str(prepared_path), inputs)
    with open_store_workspace(output, name, **options) as workspace:
        if resume and workspace.conclude(attrs["stamp"]):
            return
        workspace.check_inputs(inputs)
        with cluster as workers:
            meter = Meter(workers, workspace.building("stages.json"))
            fit_model(prepared, workspace.building(name), config, meter, attrs)
        workspace.publish()
