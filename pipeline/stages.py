"""Each stage of the pipeline on its own, from one store to the next."""

import logging
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import provenance
from pipeline.apply import apply_model
from pipeline.bundle import save_model
from pipeline.cluster import Cluster
from pipeline.cohort import Cohort, open_cohort
from pipeline.config import NEURAL, RunConfig
from pipeline.fit import fit
from pipeline.ingest import ingest, needs_import
from pipeline.match import Match, match_variants
from pipeline.meter import Meter
from pipeline.neural import NeuralFit
from pipeline.prepare import (
    Prepared,
    fill,
    hold_out,
    lay_out,
    open_prepared,
    prepare,
)
from pipeline.schema import PREPARED, VARIANT_KEYS
from pipeline.store import Store, check_genotypes, publish
from pipeline.train import train
from pipeline.workspace import build_beside, check_output

logger = logging.getLogger(__name__)


def provenance_inputs(fingerprint: str, config: RunConfig) -> dict[str, Any]:
    """What a result depends on: cohort, configuration and software."""
    return {
        "cohort": fingerprint,
        "configuration": config.as_json(),
        "versions": provenance.package_versions(),
    }


def describe(source: str, config: RunConfig, inputs: dict[str, Any]) -> dict[str, Any]:
    """Provenance that every store carries.

    No time of day: the same inputs give the same bytes.
    """
    return {
        "source": Path(source).name,
        "config": config.as_json(),
        "stamp": provenance.digest(inputs),
        "cohort_fingerprint": inputs["cohort"],
        "provenance": {"versions": inputs["versions"]},
    }


def open_source(source: str, folder: Path) -> Cohort:
    """Open a cohort, importing it into a folder first if it is no VCF Zarr store."""
    path = source
    if needs_import(source):
        path = str(folder / "cohort.vcz")
        if not Path(path).exists():
            ingest(source, path)
    cohort = open_cohort(path)
    check_genotypes(path)
    return cohort


def fit_model(
    prepared: Prepared,
    path: Path,
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
        shutil.rmtree(rounds)
        return
    with meter.stage("fit"):
        fitted = fit(
            prepared,
            config.fit,
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
    shutil.rmtree(rounds)


def _train_jointly(
    prepared: Prepared,
    path: Path,
    config: RunConfig,
    meter: Meter,
    attrs: dict[str, Any],
) -> None:
    """Train encoder and P together: starting values as one stage, then the rest."""
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
    output: Path,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    overwrite: bool = False,
) -> None:
    """Make a prepared store of a cohort.

    Raises
    ------
    InputError
        If the cohort cannot be used, or the output exists.
    """
    check_output(output, "prepared", overwrite=overwrite)
    with build_beside(output) as folder:
        cohort = open_source(source, folder)
        attrs = describe(
            source, config, provenance_inputs(cohort.fingerprint(), config)
        )
        with cluster as workers:
            prepare(cohort, folder / output.name, config.qc, workers, attrs)
        publish(folder / output.name, output)


def fit_only(
    prepared_path: Path,
    output: Path,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    overwrite: bool = False,
) -> None:
    """Make a model store of a prepared one.

    Raises
    ------
    InputError
        If the prepared store cannot be used, or the output exists.
    """
    check_output(output, "model", overwrite=overwrite)
    prepared = hold_out(open_prepared(prepared_path), config.held_out)
    origin = Store.open(prepared_path, "prepared").attrs["cohort_fingerprint"]
    attrs = describe(str(prepared_path), config, provenance_inputs(origin, config))
    with build_beside(output) as folder, cluster as workers:
        meter = Meter(workers, folder / "stages.json")
        fit_model(prepared, folder / output.name, config, meter, attrs)
        publish(folder / output.name, output)


def project(
    model_path: Path,
    source: str,
    output: Path,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    overwrite: bool = False,
) -> Match:
    """Project the people of another cohort on a fitted model.

    Parameters
    ----------
    model_path
        A model store.
    source
        The cohort, as for `run`.
    output
        The ancestry store to make.
    config
        Refinement and seed.
    cluster
        Workers.
    overwrite
        Replace an ancestry store that is there.

    Raises
    ------
    InputError
        If the cohort lacks too many of the model's variants, or the output exists.
    """
    check_output(output, "ancestry", overwrite=overwrite)
    model = Store.open(model_path, "model")
    with build_beside(output) as folder:
        cohort = open_source(source, folder)
        match = match_variants(model_path, cohort)
        inputs = provenance_inputs(cohort.fingerprint(), config)
        inputs["model"] = model.attrs["stamp"]
        attrs = {
            **describe(source, config, inputs),
            "model_stamp": model.attrs["stamp"],
            "variants_matched": match.n_matched,
            "variants_swapped": match.n_swapped,
            "variants_absent": match.n_absent,
        }
        keys = {name: model.read(name) for name in VARIANT_KEYS}
        store = lay_out(cohort, folder / "prepared.zarr", match.columns, keys)
        nobody = np.zeros(cohort.n_samples, bool)
        store.write("sample_in_fit", PREPARED["sample_in_fit"], nobody)
        with cluster as workers:
            fill(cohort, store, workers)
            store.finish()
            built = folder / "ancestry.zarr"
            prepared = open_prepared(store.path)
            apply_model(model_path, prepared, built, config.apply, workers, attrs)
        publish(built, output)
    return match
