"""Apply a fitted model to prepared people: Q for each, to `ancestry.zarr`.

The encoder answers for a group of people, the answer is refined to the maximum of the
likelihood while their genotypes are in memory, and whole chunks of the output are
written in parallel. The same code serves the people of the fit and new ones.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.packing import PackedArray
from estimator.tiling import pad_shard, tile_shape
from estimator.uncertainty import PopulationError
from pipeline import bundle, fit_check, plan, schema, stream
from pipeline.config import ApplyConfig
from pipeline.errors import InputError
from pipeline.fit_check import GroupCheck
from pipeline.location import Location
from pipeline.minibatch import DeviceModel, lay_out_model, pad_people
from pipeline.plan import Rows
from pipeline.prepared import Prepared, open_store
from pipeline.progress import track
from pipeline.projector import Projected, group_size, project
from pipeline.references import Candidates, ReferencePlan, write_references
from pipeline.standard_errors import ErrorPlan, group_errors, plan_errors
from pipeline.store import Store, write_all
from pipeline.stream import read_people, read_rows
from pipeline.tasks import Cluster, Future
from pipeline.train import Encoder

logger = logging.getLogger(__name__)

KIND = "ancestry"

FloatArray = npt.NDArray[np.float32]

_VALUES = {
    name: schema.ANCESTRY[name]
    for name in (
        "sample_ancestry_proportion",
        "sample_log_likelihood",
        "sample_n_called",
    )
}
_ERROR = "sample_ancestry_proportion_se"


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


@dataclass(frozen=True)
class _Projector:
    """How Q is found, of the people of some store."""

    prepared_path: Location
    model_path: Location
    stamp: str
    refine: int


@dataclass(frozen=True)
class _GroupTask:
    projector: _Projector
    rows: Rows
    fixed: npt.NDArray[np.int16] | None
    in_fit: npt.NDArray[np.bool_]
    errors: ErrorPlan | None
    check: GroupCheck | None


class _Group(NamedTuple):
    values: dict[str, npt.NDArray[Any]]  # by the name of the array that they go to
    squared_error: float


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
    contigs = Store.open(model_path, bundle.KIND).read("variant_contig_name")
    errors = plan_errors(config, contigs)
    stamp = str(attrs.get("stamp", ""))
    refine = config.newton_steps(bundle.fitted_by(model_path))
    projector = _Projector(prepared.path, model_path, stamp, refine)
    references = path.with_name("references.npz")
    check = fit_check.plan_check(config, prepared, model_path, references)
    group_task = partial(_group_task, projector, prepared, errors)
    blocks = plan.split_rows(prepared.n_samples, prepared.sample_chunk)
    if check is not None and not references.exists():
        with track("choosing references for the fit check"):
            group = _groups(blocks[0], prepared)[0]
            _choose_references(check, prepared, projector, cluster, group_task(group))
    store = Store.resume(path, KIND)
    if store is None:
        values = dict(_VALUES)
        if errors is not None:
            values[_ERROR] = schema.STANDARD_ERROR
        if check is not None:
            values |= schema.FIT_CHECK
        store = _lay_out(model_path, prepared, path, values, check)
    store.track_blocks(len(blocks))
    left = store.blocks_left()
    if check is not None:
        checked = GroupCheck(references, stamp, config.fit_check_threshold)
        group_task = partial(group_task, check=checked)
    with track("applying the model", len(left)) as progress:
        futures = []
        for block in left:
            tasks = [group_task(rows) for rows in _groups(blocks[block], prepared)]
            futures.append(_submit_block(cluster, path, block, blocks[block], tasks))
        for _ in cluster.completed(futures):
            progress.advance()
    applied = _figures(store, prepared, config)
    store.set_attrs(
        log_likelihood=applied.log_likelihood,
        observed_genotypes=applied.observed_genotypes,
        n_samples_uncalled=applied.n_uncalled,
        encoder_rmse=applied.encoder_rmse,
        fit_check=applied.fit_check,
        **attrs,
    )
    store.finish()
    references.unlink(missing_ok=True)
    if applied.n_uncalled:
        logger.warning(
            "%d of %d people have no called genotype; their ancestry is NaN",
            applied.n_uncalled,
            prepared.n_samples,
        )
    if applied.fit_check and applied.fit_check["n_poorly_described"]:
        logger.warning(
            "%d of %d people are not described by the populations; "
            "sample_poorly_described says who",
            applied.fit_check["n_poorly_described"],
            prepared.n_samples,
        )


def _group_task(
    projector: _Projector,
    prepared: Prepared,
    errors: ErrorPlan | None,
    rows: Rows,
    check: GroupCheck | None = None,
) -> _GroupTask:
    fixed = None if prepared.fixed is None else prepared.fixed[rows.slice]
    in_fit = prepared.in_fit[rows.slice]
    return _GroupTask(projector, rows, fixed, in_fit, errors, check)


def _groups(block: Rows, prepared: Prepared) -> list[Rows]:
    """Cut a block into groups."""
    return [
        Rows(block.start + rows.start, block.start + rows.stop)
        for rows in plan.split_rows(len(block), group_size(prepared))
    ]


def _choose_references(
    check: ReferencePlan,
    prepared: Prepared,
    projector: _Projector,
    cluster: Cluster,
    group: _GroupTask,
) -> None:
    """Make the file of the references, from everybody who may be one of them.

    A group, unchecked, is what a worker rehearses meanwhile.
    """
    size = group_size(prepared)
    parts = []
    for rows in plan.split_rows(len(check.candidates), size):
        people = check.candidates[rows.slice]
        fixed = None if prepared.fixed is None else prepared.fixed[people]
        parts.append(
            cluster.submit(
                _project_candidates, projector, people, fixed, check.elements, size
            )
        )
    check.path.parent.mkdir(parents=True, exist_ok=True)
    rehearsal = cluster.rehearse(_project_group, group)
    first = cluster.spread(1)[0]
    cluster.result(cluster.submit(write_references, check, parts, size, worker=first))
    del rehearsal


def _lay_out(
    model_path: Location,
    prepared: Prepared,
    path: Location,
    values: dict[str, schema.ArraySpec],
    check: ReferencePlan | None,
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
    if check is not None:
        write_all(store, schema.REFERENCES, fit_check.reference_arrays(check.path))
    n_populations = model.attrs["n_populations"]
    for name, spec in values.items():
        shape = (prepared.n_samples, n_populations)[: len(spec.dims)]
        store.lay_out(
            name, spec, shape, (prepared.sample_chunk, n_populations)[: len(shape)]
        )
    return store


def _submit_block(
    cluster: Cluster, path: Location, block: int, rows: Rows, tasks: list[_GroupTask]
) -> Future:
    parts = [cluster.submit(_project_group, task) for task in tasks]
    return cluster.submit(_write_block, path, block, rows, parts)


class _Loaded(NamedTuple):
    encoder: Encoder
    device: DeviceModel
    error: PopulationError | None


# The model that this worker used last, by path and fingerprint.
_loaded: dict[tuple[Location, str], _Loaded] = {}


def _load(projector: _Projector) -> _Loaded:
    key = (projector.model_path, projector.stamp)
    if key not in _loaded:
        model = bundle.load_model(projector.model_path)
        device = lay_out_model(model.frequencies, model.encoder.projector, tile_shape())
        _loaded.clear()
        stream.release_shards()
        _loaded[key] = _Loaded(model.encoder, device, model.error)
    return _loaded[key]


def _project(
    projector: _Projector,
    padded: PackedArray,
    fixed: npt.NDArray[np.int16] | None,
) -> Projected:
    encoder, device, _ = _load(projector)
    return project(
        device,
        encoder.config,
        encoder.weights,
        padded,
        refine=projector.refine,
        fixed=fixed,
    )


def _project_candidates(
    projector: _Projector,
    people: npt.NDArray[np.int64],
    fixed: npt.NDArray[np.int16] | None,
    elements: npt.NDArray[np.int64],
    n_padded: int,
) -> Candidates:
    packed = read_people(open_store(projector.prepared_path), people)
    padded = pad_people(packed, n_padded, _load(projector).device.tile)
    ancestry = _project(projector, padded, fixed).projection.ancestry
    return Candidates(packed[:, elements.ravel()], np.array(ancestry)[: len(people)])


def _project_group(task: _GroupTask) -> _Group:
    _, device, error = _load(task.projector)
    packed = read_rows(open_store(task.projector.prepared_path), task.rows)
    projected = _project(task.projector, pad_shard(packed, device.tile), task.fixed)
    genotypes, n_padded, encoded, (on_device, log_likelihood) = projected
    n_called = n_padded[: len(packed)]
    ancestry = np.array(on_device)[: len(packed)]
    values: dict[str, npt.NDArray[Any]] = {}
    if task.errors is not None:
        errors = group_errors(
            task.errors, genotypes, on_device, n_called, device, error
        )
        errors = errors[: len(packed)]
        if task.fixed is not None:
            errors[task.fixed >= 0] = 0
        errors[n_called == 0] = np.nan
        values[_ERROR] = errors
    if task.check is not None:
        checked = fit_check.check_group(
            task.check, packed, ancestry, task.rows, task.in_fit
        )
        values |= zip(schema.FIT_CHECK, checked, strict=True)
    difference = ancestry - np.asarray(encoded)[: len(packed)]
    squared_error = float(np.sum(difference[n_called > 0] ** 2, dtype=np.float64))
    ancestry[n_called == 0] = np.nan
    per_person = (ancestry, np.asarray(log_likelihood)[: len(packed)], n_called)
    values |= zip(_VALUES, per_person, strict=True)
    return _Group(values, squared_error)


def _write_block(path: Location, block: int, rows: Rows, parts: list[_Group]) -> None:
    store = Store.open(path, KIND, writable=True)
    for name in parts[0].values:
        whole = np.concatenate([part.values[name] for part in parts])
        store.write_rows(name, rows, whole)
    store.mark_done(block, sum(part.squared_error for part in parts))


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
