"""What workers do with a group of people whom a model is applied to.

A group is read, projected and compared with the references of the fit check while its
genotypes are in memory; or it is projected before there are references, and compared
later. Whole blocks of groups are written.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.absent_alleles import Absent, find_absent
from estimator.packing import PackedArray
from estimator.tiling import pad_shard, tile_shape
from estimator.uncertainty import PopulationError
from pipeline import bundle, fit_check, schema, stream
from pipeline.fit_check import GroupCheck
from pipeline.genotype_digests import were_fitted
from pipeline.location import Location
from pipeline.minibatch import DeviceModel, lay_out_model, pad_people
from pipeline.plan import Rows
from pipeline.prepared import open_store
from pipeline.projector import Projected, project
from pipeline.references import Candidates
from pipeline.standard_errors import ErrorPlan, group_errors
from pipeline.store import Store
from pipeline.stream import read_people, read_rows
from pipeline.train import Encoder

KIND = "ancestry"

FloatArray = npt.NDArray[np.float32]

VALUES = {
    name: schema.ANCESTRY[name]
    for name in (
        "sample_ancestry_proportion",
        "sample_log_likelihood",
        "sample_n_called",
    )
}
ERROR = "sample_ancestry_proportion_se"


@dataclass(frozen=True)
class Projector:
    """How Q is found, of the people of some store."""

    prepared_path: Location
    model_path: Location
    stamp: str
    refine: int


@dataclass(frozen=True)
class GroupTask:
    """A group of people to find Q of.

    Attributes
    ----------
    projector
        How.
    rows
        Who they are in the prepared store.
    fixed
        Population of each of them, -1 where free; None where all are.
    in_fit
        Who of them P was estimated from.
    errors, check
        What is computed besides; None for nothing.
    """

    projector: Projector
    rows: Rows
    fixed: npt.NDArray[np.int16] | None
    in_fit: npt.NDArray[np.bool_]
    errors: ErrorPlan | None
    check: GroupCheck | None


class Group(NamedTuple):
    """What is found of a group: values by the array that they go to, and a sum."""

    values: dict[str, npt.NDArray[Any]]
    squared_error: float


class Unchecked(NamedTuple):
    """A group before its fit check, and what that takes."""

    group: Group
    ancestry: FloatArray
    calls: PackedArray


class _Loaded(NamedTuple):
    encoder: Encoder
    device: DeviceModel
    error: PopulationError | None
    absent: Absent
    fitted_people: npt.NDArray[np.uint64] | None


# The model that this worker used last, by path and fingerprint.
_loaded: dict[tuple[Location, str], _Loaded] = {}


def _load(projector: Projector) -> _Loaded:
    key = (projector.model_path, projector.stamp)
    if key not in _loaded:
        model = bundle.load_model(projector.model_path)
        device = lay_out_model(model.frequencies, model.encoder.projector, tile_shape())
        _loaded.clear()
        stream.release_shards()
        _loaded[key] = _Loaded(
            model.encoder,
            device,
            model.error,
            find_absent(model.frequencies),
            model.fitted_people,
        )
    return _loaded[key]


def _project(
    projector: Projector,
    padded: PackedArray,
    fixed: npt.NDArray[np.int16] | None,
) -> Projected:
    model = _load(projector)
    return project(
        model.device,
        model.encoder.config,
        model.encoder.weights,
        padded,
        refine=projector.refine,
        fixed=fixed,
    )


def project_candidates(
    projector: Projector,
    people: npt.NDArray[np.int64],
    fixed: npt.NDArray[np.int16] | None,
    n_padded: int,
) -> Candidates:
    """Project people who may be references, as a group of so many."""
    packed = read_people(open_store(projector.prepared_path), people)
    padded = pad_people(packed, n_padded, _load(projector).device.tile)
    ancestry = _project(projector, padded, fixed).projection.ancestry
    return Candidates(_compared(packed), np.array(ancestry)[: len(people)])


def _compared(packed: PackedArray) -> PackedArray:
    """Calls at the variants of the fit check."""
    return packed[:, fit_check.choose_elements(packed.shape[1]).ravel()]


def project_group(task: GroupTask) -> Group:
    """Project a group and compare it with the references."""
    return check_group(task, project_unchecked(task))


def project_unchecked(task: GroupTask) -> Unchecked:
    """Project a group, and keep what its fit check will take."""
    model = _load(task.projector)
    packed = read_rows(open_store(task.projector.prepared_path), task.rows)
    projected = _project(
        task.projector, pad_shard(packed, model.device.tile), task.fixed
    )
    genotypes, n_padded, encoded, (on_device, log_likelihood) = projected
    n_called = n_padded[: len(packed)]
    found = np.array(on_device)[: len(packed)]
    values: dict[str, npt.NDArray[Any]] = {}
    if task.errors is not None:
        in_fit = task.in_fit
        if model.fitted_people is not None and not in_fit.all():
            in_fit = in_fit | were_fitted(packed, model.fitted_people)
        errors = group_errors(
            task.errors,
            genotypes,
            on_device,
            n_called,
            in_fit,
            model.device,
            model.error,
            model.absent,
        )
        errors = errors[: len(packed)]
        if task.fixed is not None:
            errors[(task.fixed >= 0) & (n_called > 0)] = 0
        values[ERROR] = errors
    difference = found - np.asarray(encoded)[: len(packed)]
    squared_error = float(np.sum(difference[n_called > 0] ** 2, dtype=np.float64))
    ancestry = np.where((n_called == 0)[:, None], np.float32(np.nan), found)
    per_person = (ancestry, np.asarray(log_likelihood)[: len(packed)], n_called)
    values |= zip(VALUES, per_person, strict=True)
    calls = packed[:, :0] if task.check is None else _compared(packed)
    return Unchecked(Group(values, squared_error), found, calls)


def check_group(task: GroupTask, unchecked: Unchecked) -> Group:
    """The group with what its fit check finds, once there are references."""
    group, ancestry, calls = unchecked
    if task.check is None:
        return group
    checked = fit_check.check_group(task.check, calls, ancestry, task.rows, task.in_fit)
    values = group.values | dict(zip(schema.FIT_CHECK, checked, strict=True))
    return group._replace(values=values)


def write_block(path: Location, block: int, rows: Rows, parts: list[Group]) -> None:
    """Write the chunks of a block, and mark it done."""
    store = Store.open(path, KIND, writable=True)
    for name in parts[0].values:
        whole = np.concatenate([part.values[name] for part in parts])
        store.write_rows(name, rows, whole)
    store.mark_done(block, sum(part.squared_error for part in parts))
