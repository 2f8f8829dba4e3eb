"""Preparing on its own: a cohort in, a prepared store out."""

from contextlib import AbstractContextManager

from pipeline.config import RunConfig
from pipeline.lineage import describe, provenance_inputs
from pipeline.location import Location
from pipeline.prepare import prepare
from pipeline.sources import open_to_fit
from pipeline.tasks import Cluster
from pipeline.workspace import check_apart, open_store_workspace


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
        cohort = open_to_fit(source, workspace.work, config.source)
        inputs = provenance_inputs(cohort.fingerprint(), config)
        attrs = describe(source, config, inputs)
        if resume and workspace.conclude(attrs["stamp"]):
            return
        workspace.check_inputs(inputs)
        with cluster as workers:
            prepare(cohort, workspace.building(name), config.qc, workers, attrs)
        workspace.publish()
