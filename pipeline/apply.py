"""Apply a fitted model to prepared people: Q for each, to `ancestry.zarr`.

The encoder answers for a group of people, the answer is refined to the maximum of the
likelihood while their genotypes are in memory, and whole chunks of the output are
written in parallel. The same code serves the people of the fit and new ones.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from estimator import training
from estimator.likelihood import pad_shard, tile_shape
from estimator.packing import count_called
from estimator.projection import project_ancestry
from estimator.relaxation import fix_ancestry
from pipeline import bundle, plan, schema, stream
from pipeline.config import ApplyConfig
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.minibatch import DeviceModel, lay_out_model
from pipeline.plan import Rows
from pipeline.prepared import Prepared, open_store
from pipeline.progress import track
from pipeline.standard_errors import ErrorPlan, group_errors, plan_errors
from pipeline.store import Store, write_all
from pipeline.stream import read_rows
from pipeline.tasks import Cluster, Future
from pipeline.train import Encoder

logger = logging.getLogger(__name__)

KIND = "ancestry"

FloatArray = npt.NDArray[np.float32]

# A group of people is what one task projects.
GROUP_PEOPLE = 512
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
    """

    log_likelihood: float
    observed_genotypes: int
    n_uncalled: int
    encoder_rmse: float


@dataclass(frozen=True)
class _GroupTask:
    prepared_path: Location
    model_path: Location
    stamp: str
    rows: Rows
    fixed: npt.NDArray[np.int16] | None
    refine: int
    errors: ErrorPlan | None


class _Group(NamedTuple):
    ancestry: FloatArray
    log_likelihood: npt.NDArray[np.float64]
    n_called: npt.NDArray[np.int64]
    standard_error: FloatArray | None
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
    store = Store.resume(path, KIND)
    if store is None:
        values = (
            _VALUES if errors is None else _VALUES | {_ERROR: schema.STANDARD_ERROR}
        )
        store = _lay_out(model_path, prepared, path, values)
    blocks = plan.split_rows(prepared.n_samples, prepared.sample_chunk)
    store.track_blocks(len(blocks))
    left = store.blocks_left()
    stamp = str(attrs.get("stamp", ""))
    refine = config.newton_steps(bundle.fitted_by(model_path))
    group_task = partial(
        _GroupTask, prepared.path, model_path, stamp, refine=refine, errors=errors
    )
    with track("applying the model", len(left)) as progress:
        futures = []
        for block in left:
            tasks = [
                group_task(rows, _fixed_in(prepared, rows))
                for rows in _groups(blocks[block], prepared)
            ]
            futures.append(_submit_block(cluster, path, block, blocks[block], tasks))
        for _ in cluster.completed(futures):
            progress.advance()
    applied = _figures(store, prepared)
    store.set_attrs(
        log_likelihood=applied.log_likelihood,
        observed_genotypes=applied.observed_genotypes,
        n_samples_uncalled=applied.n_uncalled,
        encoder_rmse=applied.encoder_rmse,
        **attrs,
    )
    store.finish()
    if applied.n_uncalled:
        logger.warning(
            "%d of %d people have no called genotype; their ancestry is NaN",
            applied.n_uncalled,
            prepared.n_samples,
        )


def _fixed_in(prepared: Prepared, rows: Rows) -> npt.NDArray[np.int16] | None:
    return None if prepared.fixed is None else prepared.fixed[rows.slice]


def _groups(block: Rows, prepared: Prepared) -> list[Rows]:
    """Cut a block into groups, at least four over a small cohort."""
    quarter = -(-prepared.n_samples // plan.MIN_SHARDS)
    size = min(GROUP_PEOPLE, -(-quarter // prepared.unit) * prepared.unit)
    return [
        Rows(block.start + rows.start, block.start + rows.stop)
        for rows in plan.split_rows(len(block), size)
    ]


def _lay_out(
    model_path: Location,
    prepared: Prepared,
    path: Location,
    values: dict[str, schema.ArraySpec],
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


# The model that this worker used last, by path and fingerprint.
_loaded: dict[tuple[Location, str], _Loaded] = {}


def _load(task: _GroupTask) -> _Loaded:
    key = (task.model_path, task.stamp)
    if key not in _loaded:
        model = bundle.load_model(task.model_path)
        projector = model.encoder.projector
        device = lay_out_model(model.frequencies, projector, tile_shape())
        _loaded.clear()
        stream.release_shards()
        _loaded[key] = _Loaded(model.encoder, device)
    return _loaded[key]


def _project_group(task: _GroupTask) -> _Group:
    encoder, device = _load(task)
    packed = read_rows(open_store(task.prepared_path), task.rows)
    padded = pad_shard(packed, device.tile)
    genotypes = jnp.asarray(padded)
    features = device.features(
        genotypes, jnp.asarray(count_called(padded).astype(np.float32))
    )
    encoded = training.encode(encoder.config, encoder.weights, features)
    projected = project_ancestry(
        genotypes, encoded, device.frequencies, refine=task.refine, tile=device.tile
    )
    if task.fixed is not None:
        given = fix_ancestry(projected.ancestry, task.fixed)
        projected = project_ancestry(
            genotypes, given, device.frequencies, refine=0, tile=device.tile
        )
    n_called = count_called(packed)
    errors = None
    if task.errors is not None:
        errors = group_errors(task.errors, genotypes, projected.ancestry, device)
        errors = errors[: len(packed)]
        if task.fixed is not None:
            errors[task.fixed >= 0] = 0
        errors[n_called == 0] = np.nan
    ancestry = np.array(projected.ancestry)[: len(packed)]
    difference = ancestry - np.asarray(encoded)[: len(packed)]
    squared_error = float(np.sum(difference[n_called > 0] ** 2, dtype=np.float64))
    ancestry[n_called == 0] = np.nan
    log_likelihood = np.asarray(projected.log_likelihood)[: len(packed)]
    return _Group(ancestry, log_likelihood, n_called, errors, squared_error)


def _write_block(path: Location, block: int, rows: Rows, parts: list[_Group]) -> None:
    store = Store.open(path, KIND, writable=True)
    for name, values in zip((*_VALUES, _ERROR), zip(*parts, strict=True), strict=False):
        if name in store:
            store.write_rows(name, rows, np.concatenate(values))
    store.mark_done(block, sum(part.squared_error for part in parts))


def _figures(store: Store, prepared: Prepared) -> _Figures:
    n_values = prepared.n_samples * store.shape("variant_population_frequency")[1]
    counted = prepared.in_fit if prepared.in_fit.any() else ~prepared.in_fit
    n_called = store.read("sample_n_called")
    return _Figures(
        log_likelihood=float(store.read("sample_log_likelihood")[counted].sum()),
        observed_genotypes=int(n_called[counted].sum()),
        n_uncalled=int(np.count_nonzero(n_called == 0)),
        encoder_rmse=float(np.sqrt(sum(store.block_figures()) / n_values)),
    )
