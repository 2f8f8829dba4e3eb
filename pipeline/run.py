"""The stages in order: import, prepare, fit, train, apply, report, publish.

Each stage's store is finished before the next begins, and a finished one is not made
again by a run that resumes.
"""

import dataclasses
import datetime
import shutil
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from estimator.packing import DOSAGES, GENOTYPES
from pipeline import budget, fit_stage, lineage, provenance, sources
from pipeline.apply import apply_model
from pipeline.cohort import Cohort
from pipeline.config import RunConfig
from pipeline.demo import write_demo_cohort
from pipeline.encode import chunk_sizes
from pipeline.groups import Groups, add_groups
from pipeline.ingest import needs_import
from pipeline.labels import Labels
from pipeline.location import Location
from pipeline.meter import Meter
from pipeline.prepare import prepare
from pipeline.report import write_report
from pipeline.source_files import BGEN, SourceFiles, find_files
from pipeline.source_sizes import read_sizes
from pipeline.store import Store
from pipeline.tasks import Cluster
from pipeline.workspace import STORES, Workspace, check_apart, open_workspace
from pipeline.write_back import WriteBack


@dataclass(frozen=True)
class RunResult:
    """Where a run's results are, and its figures."""

    output: Location
    summary: dict[str, Any]


def run(
    source: str,
    output: Location,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    labels: Labels | None = None,
    groups: Groups | None = None,
    resume: bool = False,
    overwrite: bool = False,
    write_to_cohort: bool = False,
    name: str | None = None,
) -> RunResult:
    """Estimate the ancestry of everybody in a cohort.

    Parameters
    ----------
    source
        A VCF Zarr store, or what `ingest` imports: PLINK, BGEN or VCF files.
    output
        Directory for prepared.zarr, model.zarr, ancestry.zarr, report.html, run.json.
    config
        Everything else that the results depend on.
    cluster
        Workers, started when the cohort was found to be readable.
    labels
        People whose population is known.
    groups
        Groups that the report shows people by.
    resume, overwrite
        What to do where the directory has results.
    write_to_cohort
        Add Q to the cohort's own store too, once the results are published.
    name
        What the results call the cohort, where the source is a copy of it; by default
        the source's own name.

    Raises
    ------
    InputError
        If the cohort, the configuration or the output directory will not do.
    """
    check_apart(source, output)
    back = WriteBack(overwrite, resume) if write_to_cohort else None
    if back is not None:
        back.check_source(source)
    with (
        open_workspace(output, resume=resume, overwrite=overwrite) as workspace,
        sources.named_as_given(source, workspace.work),
    ):
        cohort = sources.open_to_fit(source, workspace.work, config.source)
        labels = fit_stage.match_labels(labels, cohort.sample_ids, config)
        inputs = lineage.provenance_inputs(cohort.fingerprint(), config, labels)
        if groups is not None:
            cohort = add_groups(cohort, groups, source)
            inputs["groups"] = groups.fingerprint
        attrs = lineage.describe(name or source, inputs)
        k = config.fit.n_populations
        if back is not None:
            back.check(source, attrs["stamp"], k, named=labels is not None)
        finished = workspace.conclude(attrs["stamp"]) if resume else None
        if finished is not None:
            if back is not None:
                back.write(source, output / "ancestry.zarr")
            return RunResult(output, finished)
        workspace.check_inputs(inputs)
        with cluster as workers:
            planned = _check_budget(_sizes(cohort), output, config, workers)
            meter = Meter(workers, workspace.building("stages.json"))
            _run_stages(cohort, workspace, config, meter, attrs, labels)
            described = [report.as_json() for report in workers.reports()]
        ancestry = workspace.building("ancestry.zarr")
        write_report(ancestry, workspace.building("report.html"))
        summary = {
            **_summarise(workspace, meter, attrs),
            "plan": dataclasses.asdict(planned),
            "workers": described,
        }
        provenance.write_json(workspace.building("run.json"), summary)
        workspace.publish()
        if back is not None:
            back.write(source, output / "ancestry.zarr")
    return RunResult(output, summary)


def plan_run(
    source: str,
    output: Location,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
) -> list[tuple[str, str]]:
    """What `run` would need, as lines of a table; writes nothing.

    Raises
    ------
    InputError
        If the cohort will not do, or the run would not fit.
    """
    check_apart(source, output)
    lines = []
    if needs_import(source):
        found = find_files([source])
        sizes = _sizes_of_files(found, config)
        lines = [("import", f"{found}, first; the sizes are those of its tables")]
    else:
        cohort = sources.open_stored(source)
        sizes = _sizes(cohort)
    with cluster as workers:
        planned = _check_budget(sizes, output, config, workers)
        described = budget.describe(planned, sizes, max(len(workers.workers), 1))
        return [*described[:1], *lines, *described[1:]]


def _sizes_of_files(found: SourceFiles, config: RunConfig) -> budget.Sizes:
    """Sizes of the store that files will be imported to."""
    n_samples, n_variants = read_sizes(found)
    variant_chunk, sample_chunk = chunk_sizes(n_samples)
    dosages = config.source.dosages or found.kind == BGEN
    itemsize = (DOSAGES if dosages else GENOTYPES).itemsize
    return budget.Sizes(n_samples, n_variants, sample_chunk, variant_chunk, itemsize)


def _sizes(cohort: Cohort) -> budget.Sizes:
    # Half and haploid calls, which need four bits, are found by quality control.
    expected = DOSAGES if cohort.has_dosages else GENOTYPES
    return budget.Sizes(
        cohort.n_samples,
        cohort.n_variants,
        cohort.sample_chunk,
        cohort.variant_chunk,
        expected.itemsize,
    )


def _check_budget(
    sizes: budget.Sizes, output: Location, config: RunConfig, workers: Cluster
) -> budget.Budget:
    """Plan for the whole cohort, of which quality control leaves less."""
    limit = workers.memory_limit()
    planned = budget.plan_budget(
        sizes,
        config,
        max(len(workers.workers), 1),
        limit,
        on_gpus=workers.on_gpus(),
    )
    budget.check_budget(
        planned,
        worker_limit=limit,
        driver_limit=psutil.virtual_memory().total,
        free_disk=_free_disk(output),
    )
    return planned


def _free_disk(output: Location) -> int:
    if not isinstance(output, Path):
        # An object store has no such bound.
        return sys.maxsize
    existing = next(
        path for path in (output, *output.absolute().parents) if path.exists()
    )
    return shutil.disk_usage(existing).free


def _run_stages(
    cohort: Cohort,
    workspace: Workspace,
    config: RunConfig,
    meter: Meter,
    attrs: dict[str, Any],
    labels: Labels | None,
) -> None:
    paths = {name: workspace.building(name) for name in STORES}
    if not workspace.is_built("prepared.zarr"):
        with meter.stage("prepare"):
            prepare(cohort, paths["prepared.zarr"], config.qc, meter.cluster, attrs)
    prepared = fit_stage.open_for_fit(paths["prepared.zarr"], config, labels)
    if not workspace.is_built("model.zarr"):
        fit_stage.fit_model(prepared, paths["model.zarr"], config, meter, attrs)
    if not workspace.is_built("ancestry.zarr"):
        with meter.stage("apply"):
            apply_model(
                paths["model.zarr"],
                prepared,
                paths["ancestry.zarr"],
                config.apply,
                meter.cluster,
                {**attrs, **_fit_figures(paths["model.zarr"])},
            )


def _fit_figures(model_path: Location) -> dict[str, Any]:
    model = Store.open(model_path, "model").attrs
    copied = (
        "qc_steps",
        "relatives",
        "log_likelihood_trace",
        "log_likelihood_refused",
        "converged",
        "data_passes",
        "method",
        "n_populations",
    )
    evaluation = {k: v for k, v in model.items() if k == "evaluation"}
    return {**{name: model[name] for name in copied}, **evaluation}


def _summarise(
    workspace: Workspace, meter: Meter, attrs: dict[str, Any]
) -> dict[str, Any]:
    """Contents of run.json."""
    store = Store.open(workspace.building("ancestry.zarr"), "ancestry")
    found = store.attrs
    n_samples, n_populations = store.shape("sample_ancestry_proportion")
    return {
        "method": found["method"],
        "log_likelihood": found["log_likelihood"],
        "observed_genotypes": found["observed_genotypes"],
        "data_passes": found["data_passes"],
        "converged": found["converged"],
        "n_populations": n_populations,
        **_population_names(store),
        "n_samples": n_samples,
        "n_samples_in_fit": int(store.read("sample_in_fit").sum()),
        "n_samples_uncalled": found["n_samples_uncalled"],
        "n_variants": store.shape("variant_position")[0],
        "encoder_rmse": found["encoder_rmse"],
        "fit_check": found["fit_check"],
        "qc_steps": found["qc_steps"],
        "relatives": found["relatives"],
        "log_likelihood_trace": found["log_likelihood_trace"],
        "log_likelihood_refused": found["log_likelihood_refused"],
        **{name: found[name] for name in ("evaluation",) if name in found},
        "stages": meter.records,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **attrs,
    }


def _population_names(store: Store) -> dict[str, list[str]]:
    if "population_id" not in store:
        return {}
    return {"population_id": store.read("population_id").tolist()}


def run_demo(
    output: Location,
    config: RunConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    overwrite: bool = False,
) -> RunResult:
    """Run on the 1000 Genomes people, whose cohort is written into the output too."""
    cohort = output / "cohort.vcz"
    if overwrite or not cohort.exists():
        write_demo_cohort(cohort, overwrite=overwrite)
    return run(str(cohort), output, config, cluster, overwrite=overwrite)
