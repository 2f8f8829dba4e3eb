"""Each stage of the pipeline on its own, from one store to the next."""

import dataclasses
import json
import logging
import sys
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.packing import GENOTYPES, Encoding
from pipeline import budget, overlap, provenance, publication
from pipeline.apply import apply_model
from pipeline.bundle import save_model
from pipeline.cohort import Cohort, open_cohort
from pipeline.config import NEURAL, TRUSTED, FitConfig, RunConfig, replace_values
from pipeline.distinct import check_distinct
from pipeline.errors import InputError
from pipeline.fit import fit
from pipeline.ingest import ingest, needs_import, source_digest
from pipeline.labels import Labels, fix_labelled, place_labels
from pipeline.location import Location, delete_tree, locate
from pipeline.match import Match, MatchCounts, match_variants
from pipeline.meter import Meter
from pipeline.neural import NeuralFit
from pipeline.prepare import fill, lay_out, prepare
from pipeline.prepared import Prepared, hold_out, open_prepared, open_store
from pipeline.schema import PREPARED, VARIANT_KEYS
from pipeline.store import Store, check_genotypes
from pipeline.tasks import Cluster
from pipeline.train import train
from pipeline.workspace import check_apart, open_store_workspace
from pipeline.write_back import WriteBack

logger = logging.getLogger(__name__)


def provenance_inputs(
    fingerprint: str, config: RunConfig, labels: Labels | None = None
) -> dict[str, Any]:
    """What a result depends on: cohort, configuration, software and labels."""
    inputs = {
        "cohort": fingerprint,
        "configuration": config.as_json(),
        "versions": provenance.package_versions(),
    }
    files = {path: provenance.file_digest(path) for path in config.qc.files}
    if files:
        inputs["files"] = files
    return inputs if labels is None else inputs | {"labels": labels.fingerprint}


def describe(source: str, config: RunConfig, inputs: dict[str, Any]) -> dict[str, Any]:
    """Provenance that every store carries.

    No time of day: the same inputs give the same bytes.
    """
    return {
        "source": locate(source).name,
        "config": config.as_json(),
        "stamp": provenance.digest(inputs),
        "cohort_fingerprint": inputs["cohort"],
        "provenance": {"versions": inputs["versions"]},
        **({"labels_fingerprint": inputs["labels"]} if "labels" in inputs else {}),
    }


def check_labels(
    labels: Labels | None, sample_ids: npt.NDArray[np.str_], config: RunConfig
) -> None:
    """Refuse labels that do not fit the cohort, before any work.

    Raises
    ------
    InputError
        If a labelled person is not in the cohort, the populations are more than K, or
        the method takes no labels.
    """
    if labels is None:
        return
    if config.fit.method == NEURAL:
        raise InputError(
            'fit.method is "neural", which takes no labels; leave --labels out or fit '
            'with "likelihood"'
        )
    place_labels(labels, sample_ids, config.fit.n_populations)


def open_for_fit(path: Location, config: RunConfig, labels: Labels | None) -> Prepared:
    """Open a prepared store as the fit sees it: who is left out, who is labelled."""
    prepared = hold_out(open_prepared(path), config.held_out)
    if labels is None:
        return prepared
    sample_ids = open_store(path).read("sample_id")
    return fix_labelled(prepared, labels, sample_ids, config.fit.n_populations)


def open_source(source: str, folder: Location) -> Cohort:
    """Open a cohort, importing it into a folder first if it is no VCF Zarr store.

    The processes of an import are one a core of this machine.

    Raises
    ------
    InputError
        If it cannot be used, or if files that were imported there have changed.
    """
    path = locate(source)
    if needs_import(source):
        path = folder / "cohort.vcz"
        _import_once(source, path, folder / "cohort.json")
    url = str(publication.resolve(path))
    cohort = open_cohort(url)
    check_genotypes(url)
    return cohort


def open_to_fit(source: str, folder: Location) -> Cohort:
    """Open a cohort as `open_source` does, for a model of its own.

    Where people are projected on a model, the matching chooses among duplicates.

    Raises
    ------
    InputError
        Also if it has a variant twice.
    """
    cohort = open_source(source, folder)
    check_distinct(cohort)
    return cohort


def _import_once(source: str, path: Location, kept: Location) -> None:
    """Import to a path, unless it is there already, and keep the files' digest."""
    digest = source_digest(source)
    if not path.exists():
        provenance.write_json(kept, digest)
        # What is to be done with an import that was begun, the workspace decides.
        ingest(source, path, resume=True, digest=digest)
    elif json.loads(kept.read_text()) != digest:
        raise InputError(
            f"{source} has changed since the unfinished run imported it; restore it "
            "to --resume, or --overwrite to start afresh"
        )


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
    planned = budget.plan_budget(sizes, config, n_workers, limit)
    budget.check_budget(
        planned, worker_limit=limit, driver_limit=sys.maxsize, free_disk=sys.maxsize
    )
    return dataclasses.replace(config.fit, cache_bytes=planned.cache_bytes)


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
            "the fit did not converge in %d rounds; raise fit.max_rounds",
            config.fit.max_rounds,
        )
    with meter.stage("train"):
        encoder = train(
            prepared,
            fitted,
            config.train,
            meter.cluster,
            rounds / "encoder",
            seed=config.seed,
            stamp=attrs["stamp"],
        )
        save_model(path, prepared, fitted, encoder, attrs)
    delete_tree(rounds)


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


def prepare_only(
    source: str,
    output: Location,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a prepared store of a cohort.

    Raises
    ------
    InputError
        If the cohort cannot be used, or the output exists.
    """
    name = "prepared.zarr"
    check_apart(source, output)
    options = {"resume": resume, "overwrite": overwrite}
    with open_store_workspace(output, name, **options) as workspace:
        cohort = open_to_fit(source, workspace.work)
        inputs = provenance_inputs(cohort.fingerprint(), config)
        attrs = describe(source, config, inputs)
        if resume and workspace.conclude(attrs["stamp"]):
            return
        workspace.check_inputs(inputs)
        with cluster as workers:
            prepare(cohort, workspace.building(name), config.qc, workers, attrs)
        workspace.publish()


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
    found = open_prepared(publication.resolve(prepared_path))
    origin = open_store(found.path)
    check_labels(labels, origin.read("sample_id"), config)
    prepared = open_for_fit(found.path, config, labels)
    inputs = provenance_inputs(origin.attrs["cohort_fingerprint"], config, labels)
    inputs["prepared"] = origin.attrs["stamp"]
    attrs = describe(str(prepared_path), config, inputs)
    with open_store_workspace(output, name, **options) as workspace:
        if resume and workspace.conclude(attrs["stamp"]):
            return
        workspace.check_inputs(inputs)
        with cluster as workers:
            meter = Meter(workers, workspace.building("stages.json"))
            fit_model(prepared, workspace.building(name), config, meter, attrs)
        workspace.publish()


def project(
    model_path: Location,
    source: str,
    output: Location,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    resume: bool = False,
    overwrite: bool = False,
    write_to_cohort: bool = False,
) -> MatchCounts:
    """Project the people of another cohort on a fitted model.

    Parameters
    ----------
    model_path
        A model store.
    source
        The cohort, as for `run`. The strands of the one that the model was fitted to
        are trusted.
    output
        The ancestry store to make.
    config
        Refinement, strands, overlap and seed.
    cluster
        Workers.
    resume
        Continue an interrupted projection.
    overwrite
        Replace an ancestry store that is there.
    write_to_cohort
        Add Q to the cohort's own store too.

    Returns
    -------
    What became of the model's variants.

    Raises
    ------
    InputError
        If the cohort lacks too many of the model's variants or is on another genome
        build, or the output exists.
    """
    name = "ancestry.zarr"
    options = {"resume": resume, "overwrite": overwrite}
    model = Store.open(publication.resolve(model_path), "model")
    check_apart(source, output)
    back = WriteBack(overwrite, resume) if write_to_cohort else None
    if back is not None:
        back.check_source(source)
    with open_store_workspace(output, name, **options) as workspace:
        cohort = open_source(source, workspace.work)
        build = overlap.check_build(model, cohort)
        match = match_variants(model, cohort)
        overlap.check_overlap(match, model, cohort, config.apply)
        fingerprint = cohort.fingerprint()
        inputs = provenance_inputs(fingerprint, config) | {
            "model": model.attrs["stamp"]
        }
        attrs = describe(source, config, inputs)
        if back is not None:
            k, named = model.attrs["n_populations"], "population_id" in model
            back.check(source, attrs["stamp"], k, named=named)
        finished = workspace.conclude(attrs["stamp"]) if resume else None
        if finished is not None:
            if back is not None:
                back.write(source, output)
            return MatchCounts.from_attrs(finished)
        workspace.check_inputs(inputs)
        if model.attrs.get("cohort_fingerprint") == fingerprint:
            config = replace_values(config, "apply", strand=TRUSTED)
        with cluster as workers:
            path = workspace.building("prepared.zarr")
            if not workspace.is_built("prepared.zarr"):
                _prepare_for_model(cohort, path, model, match, config, workers)
            counts = MatchCounts.from_attrs(Store.open(path, "prepared").attrs)
            attrs |= {"model_stamp": model.attrs["stamp"], "genome_build": build}
            apply_model(
                model.path,
                open_prepared(path),
                workspace.building(name),
                config.apply,
                workers,
                attrs | counts.as_attrs(),
            )
        workspace.publish()
        if back is not None:
            back.write(source, output)
    return counts


def _prepare_for_model(
    cohort: Cohort,
    path: Location,
    model: Store,
    match: Match,
    config: RunConfig,
    cluster: Cluster,
) -> None:
    """Prepare a cohort's genotypes at a model's variants, for nobody's fit."""

    def laid_out(encoding: Encoding) -> Store:
        settled = overlap.settle_strands(match, model, cohort, config.apply)
        keys = {name: model.read(name) for name in VARIANT_KEYS}
        store = lay_out(cohort, path, settled.columns, keys, encoding)
        nobody = np.zeros(cohort.n_samples, bool)
        store.write("sample_in_fit", PREPARED["sample_in_fit"], nobody)
        store.set_attrs(**settled.counts.as_attrs())
        return store

    # Nothing was counted that would tell the encoding beforehand. A block that cannot
    # be written ends at its first call that two bits cannot hold.
    store = Store.resume(path, "prepared") or laid_out(GENOTYPES)
    while (needed := fill(cohort, store, cluster)) is not None:
        store = laid_out(needed)
    store.finish()
