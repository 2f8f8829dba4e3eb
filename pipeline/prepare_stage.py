"""Preparing on its own: a cohort in, a prepared store out."""

from contextlib import AbstractContextManager
from typing import Any

from pipeline.config import RunConfig
from pipeline.lineage import describe, provenance_inputs
from pipeline.location import Location
from pipeline.prepare import prepare
from pipeline.sources import named_as_given, open_to_fit
from pipeline.store import Store
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
) -> dict[str, Any]:
    """Make a prepared store of a cohort.

    Returns
    -------
    Attributes of the store: what quality control did, among others.

    Raises
    ------
    InputError
        If the cohort cannot be used, or the output exists.
    """
    name = "prepared.zarr"
    check_apart(source, output)
    options = {"resume": resume, "overwrite": overwrite}
    with (
        open_store_workspace(output, name, **options) as workspace,
        named_as_given(source, workspace.work),
    ):
        cohort = open_to_fit(source, workspace.work, config.source)
        inputs = provenance_inputs(cohort.fingerprint(), config)
        attrs = describe(source, inputs)
        finished = workspace.conclude(attrs["stamp"]) if resume else None
        if finished is not None:
            return finished
        workspace.check_inputs(inputs)
        with cluster as workers:
            prepare(cohort, workspace.building(name), config.qc, workers, attrs)
        made = Store.open(workspace.building(name), "prepared").attrs
        workspace.publish()
    return made
