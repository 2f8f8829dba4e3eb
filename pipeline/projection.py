"""Projection: a model and another cohort in, an ancestry store out."""

from contextlib import AbstractContextManager

import numpy as np

from estimator.packing import GENOTYPES, Encoding
from pipeline import overlap, publication
from pipeline.apply import apply_model
from pipeline.bundle import newton_steps
from pipeline.cohort import Cohort
from pipeline.config import TRUSTED, RunConfig, replace_values
from pipeline.filling import fill, lay_out
from pipeline.groups import Groups, add_groups
from pipeline.lineage import describe, provenance_of_projection
from pipeline.location import Location
from pipeline.match import Match, MatchCounts, match_variants
from pipeline.prepared import open_prepared
from pipeline.schema import PREPARED, VARIANT_KEYS
from pipeline.sources import named_as_given, open_source
from pipeline.store import Store
from pipeline.tasks import Cluster
from pipeline.workspace import check_apart, open_store_workspace
from pipeline.write_back import WriteBack


def project(
    model_path: Location,
    source: str,
    output: Location,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    groups: Groups | None = None,
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
    groups
        Groups that the report shows people by.
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
    model = Store.open(publication.find_result(model_path, "model.zarr"), "model")
    newton_steps(str(model_path), model.attrs, config.apply)
    check_apart(source, output)
    back = WriteBack(overwrite, resume) if write_to_cohort else None
    if back is not None:
        back.check_source(source)
    with (
        open_store_workspace(output, name, **options) as workspace,
        named_as_given(source, workspace.work),
    ):
        cohort = open_source(source, workspace.work, config.source)
        build = overlap.check_build(model, cohort)
        match = match_variants(model, cohort)
        overlap.check_overlap(match, model, cohort, config.apply)
        fingerprint = cohort.fingerprint()
        if model.attrs.get("cohort_fingerprint") == fingerprint:
            config = replace_values(config, "apply", strand=TRUSTED)
        inputs = provenance_of_projection(fingerprint, model.attrs, config.apply)
        if groups is not None:
            cohort = add_groups(cohort, groups, source)
            inputs["groups"] = groups.fingerprint
        attrs = describe(source, inputs)
        if back is not None:
            k, named = model.attrs["n_populations"], "population_id" in model
            back.check(source, attrs["stamp"], k, named=named)
        finished = workspace.conclude(attrs["stamp"]) if resume else None
        if finished is not None:
            if back is not None:
                back.write(source, output)
            return MatchCounts.from_attrs(finished)
        workspace.check_inputs(inputs)
        with cluster as workers:
            path = workspace.building("prepared.zarr")
            if not workspace.is_built("prepared.zarr"):
                _prepare_for_model(cohort, path, model, match, config, workers)
            counts = MatchCounts.from_attrs(Store.open(path, "prepared").attrs)
            attrs |= {
                **{name: model.attrs[name] for name in ("n_populations", "method")},
                "model_stamp": model.attrs["stamp"],
                "genome_build": build,
            }
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
