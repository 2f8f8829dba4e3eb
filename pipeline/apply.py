"""Apply a fitted model to prepared people: Q for each, to `ancestry.zarr`.

The encoder answers for a group of people, the answer is refined to the maximum of the
likelihood while their genotypes are in memory, and whole chunks of the output are
written in parallel. The same code serves the people of the fit and new ones.
"""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from estimator.few_calls import FEW_CALLS
from pipeline import bundle, fit_check, group_tasks, plan, schema
from pipeline.config import ApplyConfig
from pipeline.errors import InputError
from pipeline.fit_check import GroupCheck, say_poorly_described, say_uncalled
from pipeline.group_tasks import ERROR, KIND, VALUES, GroupTask, Projector
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import Prepared, open_store
from pipeline.progress import track
from pipeline.projector import group_size
from pipeline.references import ReferencePlan, write_references
from pipeline.standard_errors import ErrorPlan, plan_errors, say_few_calls
from pipeline.store import Store, write_all
from pipeline.tasks import Cluster, Future

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Figures:
    """Figures of an application.

    Attributes
    ----------
    log_likelihood
        Of the people in the fit, or of everybody where nobody is.
    observed_genotypes
        Called genotypes of the same people.
    n_uncalled
        People without any called genotype, whose Q is NaN.
    encoder_rmse
        Root mean square difference of the encoder's Q to the refined Q.
    fit_check
        What came of the fit check; None without one.
    """

    log_likelihood: float
    observed_genotypes: int
    n_uncalled: int
    encoder_rmse: float
    fit_check: dict[str, Any] | None


def apply_model(
    model_path: Location,
    prepared: Prepared,
    path: Location,
    config: ApplyConfig,
    cluster: Cluster,
    attrs: dict[str, Any],
) -> None:
    """Write an ancestry store for everybody in a prepared store.

    Parameters
    ----------
    model_path
        The model; its variants are the prepared store's, in order.
    prepared
        The people.
    path
        Where the store is built. An unfinished one of the same model, people and
        configuration is continued.
    config
        Newton steps after the encoder.
    cluster
        Workers.
    attrs
        Provenance, kept in the store's attributes.
    """
    model = Store.open(model_path, bundle.KIND)
    contigs = model.read("variant_contig_name")
    errors = plan_errors(config, contigs)
    stamp = str(attrs.get("stamp", ""))
    refine = bundle.newton_steps(str(model_path), model.attrs, config)
    projector = Projector(prepared.path, model_path, stamp, refine)
    references = path.with_name("references.npz")
    check = fit_check.plan_check(config, prepared)
    checked = None
    if check is not None:
        checked = GroupCheck(references, stamp, config.fit_check_threshold)
    group_task = partial(_group_task, projector, prepared, errors, checked)
    blocks = plan.split_rows(prepared.n_samples, prepared.sample_chunk)
    early: dict[Rows, Future] = {}
    if check is not None and not references.exists():
        with track("choosing references for the fit check"):
            chosen = _choose_references(check, references, prepared, projector, cluster)
            groups = itertools.chain.from_iterable(_groups(b, prepared) for b in blocks)
            early = _project_early(check, prepared, cluster, map(group_task, groups))
            cluster.result(chosen)
    store = Store.resume(path, KIND)
    if store is None:
        values = dict(VALUES)
        if errors is not None:
            values[ERROR] = schema.STANDARD_ERROR
        if check is not None:
            values |= schema.FIT_CHECK
        compared = None if check is None else references
        store = _lay_out(model_path, prepared, path, values, compared)
    store.track_blocks(len(blocks))
    left = store.blocks_left()
    with track("applying the model", len(left)) as progress:
        futures = []
        for block in left:
            tasks = [group_task(rows) for rows in _groups(blocks[block], prepared)]
            futures.append(
                _submit_block(cluster, path, block, blocks[block], tasks, early)
            )
        early.clear()
        for _ in cluster.completed(futures):
            progress.advance()
    applied = _figures(store, prepared, config)
    store.set_attrs(
        log_likelihood=applied.log_likelihood,
        observed_genotypes=applied.observed_genotypes,
        n_samples_uncalled=applied.n_uncalled,
        # Of a model without an encoder it would be that of another start.
        encoder_rmse=applied.encoder_rmse
        if model.attrs.get("has_encoder", True)
        else None,
        fit_check=applied.fit_check,
        **attrs,
    )
    store.finish()
    references.unlink(missing_ok=True)
    if applied.n_uncalled:
        logger.warning("%s", say_uncalled(applied.n_uncalled, prepared.n_samples))
    n_few = 0 if errors is None else _count_few_calls(store, prepared)
    if n_few:
        logger.warning("%s", say_few_calls(n_few, prepared.n_samples))
    if applied.fit_check and applied.fit_check["n_poorly_described"]:
        n_flagged = applied.fit_check["n_poorly_described"]
        logger.warning("%s", say_poorly_described(n_flagged, prepared.n_samples))


def _group_task(
    projector: Projector,
    prepared: Prepared,
    errors: ErrorPlan | None,
    check: GroupCheck | None,
    rows: Rows,
) -> GroupTask:
    fixed = None if prepared.fixed is None else prepared.fixed[rows.slice]
    in_fit = prepared.in_fit[rows.slice]
    return GroupTask(projector, rows, fixed, in_fit, errors, check)


def _groups(block: Rows, prepared: Prepared) -> list[Rows]:
    """Cut a block into groups."""
    return [
        Rows(block.start + rows.start, block.start + rows.stop)
        for rows in plan.split_rows(len(block), group_size(prepared))
    ]


def _choose_references(
    check: ReferencePlan,
    path: Location,
    prepared: Prepared,
    projector: Projector,
    cluster: Cluster,
) -> Future:
    """Begin the file of the references, from everybody who may be one of them."""
    size = group_size(prepared)
    cut = plan.split_rows(len(check.candidates), size)
    parts = []
    # Sent at once, before other groups: what names no worker waits at the scheduler.
    for rows, worker in zip(cut, cluster.spread(len(cut)), strict=True):
        people = check.candidates[rows.slice]
        fixed = None if prepared.fixed is None else prepared.fixed[people]
        asked = (projector, people, fixed, size)
        parts.append(
            cluster.submit(group_tasks.project_candidates, *asked, worker=worker)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    first = cluster.spread(1)[0]
    wanted = (check, path, projector.model_path, parts, size)
    return cluster.submit(write_references, *wanted, worker=first)


def _project_early(
    check: ReferencePlan,
    prepared: Prepared,
    cluster: Cluster,
    tasks: Iterator[GroupTask],
) -> dict[Rows, Future]:
    """Project some groups where there is no part in choosing the references.

    As many as all workers but the first have room for. By their rows.
    """
    workers = cluster.workers[1:]
    kept = check.elements.size * prepared.itemsize * group_size(prepared)
    chosen = itertools.islice(tasks, len(workers) * (fit_check.EARLY_BYTES // kept))
    return {
        task.rows: cluster.submit(
            group_tasks.project_unchecked,
            task,
            worker=workers[number % len(workers)],
            priority=-1,
        )
        for number, task in enumerate(chosen)
    }


def _lay_out(
    model_path: Location,
    prepared: Prepared,
    path: Location,
    values: dict[str, schema.ArraySpec],
    references: Location | None,
) -> Store:
    model = Store.open(model_path, bundle.KIND)
    source = open_store(prepared.path)
    if model.shape("variant_position")[0] != prepared.n_variants:
        raise InputError(
            f"{model_path} has {model.shape('variant_position')[0]} variants and "
            f"{prepared.path} {prepared.n_variants}; prepare the cohort for this model"
        )
    store = Store.create(path, KIND)
    copied = (*schema.VARIANT_KEYS, "variant_population_frequency")
    write_all(
        store,
        schema.ANCESTRY,
        {
            **{name: model.read(name) for name in copied},
            "sample_id": source.read("sample_id"),
            "sample_in_fit": prepared.in_fit,
        },
    )
    if "population_id" in model:
        names = model.read("population_id")
        store.write("population_id", schema.POPULATION_ID, names)
    if "sample_population" in source:
        labels = source.read("sample_population")
        store.write("sample_population", schema.POPULATION, labels)
    if "sample_group" in source:
        write_all(store, schema.GROUPS, {n: source.read(n) for n in schema.GROUPS})
    if references is not None:
        write_all(store, schema.REFERENCES, fit_check.reference_arrays(references))
    n_populations = model.attrs["n_populations"]
    for name, spec in values.items():
        shape = (prepared.n_samples, n_populations)[: len(spec.dims)]
        store.lay_out(
            name, spec, shape, (prepared.sample_chunk, n_populations)[: len(shape)]
        )
    return store


def _submit_block(
    cluster: Cluster,
    path: Location,
    block: int,
    rows: Rows,
    tasks: list[GroupTask],
    early: dict[Rows, Future],
) -> Future:
    """Submit what is left to do of a block, some of whose groups are projected."""
    parts = [
        cluster.submit(group_tasks.check_group, task, early[task.rows])
        if task.rows in early
        else cluster.submit(group_tasks.project_group, task)
        for task in tasks
    ]
    return cluster.submit(group_tasks.write_block, path, block, rows, parts)


def _count_few_calls(store: Store, prepared: Prepared) -> int:
    """People with some calls, but few, whose ancestry is estimated."""
    if store.shape(ERROR)[1] == 1:
        return 0
    n_called = store.read("sample_n_called")
    few = (n_called > 0) & (n_called < FEW_CALLS)
    if prepared.fixed is not None:
        few &= prepared.fixed < 0
    return int(np.count_nonzero(few))


def _figures(store: Store, prepared: Prepared, config: ApplyConfig) -> _Figures:
    n_values = prepared.n_samples * store.shape("variant_population_frequency")[1]
    counted = prepared.in_fit if prepared.in_fit.any() else ~prepared.in_fit
    n_called = store.read("sample_n_called")
    return _Figures(
        log_likelihood=float(store.read("sample_log_likelihood")[counted].sum()),
        observed_genotypes=int(n_called[counted].sum()),
        n_uncalled=int(np.count_nonzero(n_called == 0)),
        encoder_rmse=float(np.sqrt(sum(store.block_figures()) / n_values)),
        fit_check=fit_check.summarise(store, config),
    )
