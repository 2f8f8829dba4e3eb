"""Fit check: who is not described by the populations, and which populations these are.

Everybody's residuals are compared with those of some hundred people of the cohort, the
references (`estimator.residuals`), at some thousand variants, in `apply`, while a
group's genotypes are in memory: what it costs a person does not grow with the cohort.
The references and their residuals are one file beside the unfinished store. Invariant:
who is a reference depends on the data and the configuration, not on the workers.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from estimator import residuals
from estimator.likelihood import (
    TileShape,
    frequency_statistics,
    pad_ancestry,
    pad_shard,
    tile_shape,
    untile_variants,
)
from estimator.packing import VARIANTS_PER_BYTE, PackedArray, packed_width
from estimator.residuals import HALVES, Panel, References, ResidualSums
from pipeline import plan
from pipeline.config import MIN_CHECK_PEOPLE, ApplyConfig
from pipeline.location import Location, replacing
from pipeline.plan import Rows
from pipeline.prepared import Prepared, open_store
from pipeline.schema import REFERENCES
from pipeline.store import Store

Integers = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Variants of the comparison: a pair's correlation then has a standard deviation of .01.
MAX_VARIANTS = 16_384
# With fewer, chance is larger than what is looked for.
MIN_VARIANTS = 512
# People that the references are chosen from, for each of them.
CANDIDATES = 4
# Share of people flagged by chance: 3.09 standard errors.
FALSE_RATE = 0.001
_STANDARD_ERRORS = 3.09
# Stretches of variants that belong to one half and the other in turn.
_STRETCHES = 64
# Share of the most calls that a reference has to have.
_MIN_CALLED = 0.5


@dataclass(frozen=True, eq=False)
class CheckPlan:
    """Where the references are, or are to be, and whom to choose them from.

    Attributes
    ----------
    path
        The file of the references.
    model_path
        The model.
    stamp
        Fingerprint of the run, so that a file made anew is read anew.
    threshold
        Residual correlation from which a person is flagged.
    n_references
        Most references.
    elements
        Packed elements of each half of the variants, shape (halves, elements).
    candidates
        Positions of the people to choose from, rising.
    n_in_fit
        People that P was estimated from; 0 where it was given.
    """

    path: Location
    model_path: Location
    stamp: str
    threshold: float
    n_references: int
    elements: Integers
    candidates: Integers
    n_in_fit: int

    def for_groups(self) -> "GroupCheck":
        """What a task for some people needs of it."""
        return GroupCheck(self.path, self.stamp, self.threshold)


@dataclass(frozen=True)
class GroupCheck:
    """Where the references are, and from which correlation people are flagged."""

    path: Location
    stamp: str
    threshold: float


class ReferenceFile(NamedTuple):
    """The file of the references.

    Attributes
    ----------
    people
        Their positions, rising.
    elements
        Packed elements of each half of the variants.
    frequencies, residuals
        P and the references' residuals at the variants of each half.
    correlation
        Of each with each other, NaN with themselves.
    ancestry, size, alleles, weight, covariance
        As in `estimator.residuals.References`.
    """

    people: Integers
    elements: Integers
    frequencies: FloatArray
    residuals: FloatArray
    correlation: FloatArray
    ancestry: FloatArray
    size: Doubles
    alleles: Doubles
    weight: Doubles
    covariance: Doubles

    @property
    def references(self) -> References:
        """The references as the estimator knows them."""
        return References(
            self.ancestry, self.size, self.alleles, self.weight, self.covariance
        )


class Candidates(NamedTuple):
    """People who may become references: calls at the elements of both halves, and Q."""

    packed: PackedArray
    ancestry: FloatArray


class Checked(NamedTuple):
    """What the check found of some people."""

    correlation: FloatArray
    standard_error: FloatArray
    poorly_described: npt.NDArray[np.bool_]


def plan_check(
    config: ApplyConfig,
    prepared: Prepared,
    model_path: Location,
    path: Location,
    stamp: str,
) -> CheckPlan | None:
    """Plan the check of a prepared store; None where it is off, or too little to tell.

    Parameters
    ----------
    config
        Number of references, and threshold.
    prepared
        The people. References are in the fit, where anybody is.
    model_path
        The model.
    path
        Where the references go.
    stamp
        Fingerprint of the run.
    """
    if not config.fit_check_people or prepared.n_variants < MIN_VARIANTS:
        return None
    n_called = open_store(prepared.path).read("sample_n_called")
    counted = prepared.in_fit if prepared.n_in_fit else ~prepared.in_fit
    people = np.flatnonzero(counted & (n_called > _MIN_CALLED * n_called.max()))
    if len(people) < MIN_CHECK_PEOPLE:
        return None
    most = CANDIDATES * config.fit_check_people
    candidates = people[plan.evenly_spaced(len(people), most)]
    return CheckPlan(
        path,
        model_path,
        stamp,
        config.fit_check_threshold,
        config.fit_check_people,
        choose_elements(packed_width(prepared.n_variants)),
        candidates,
        prepared.n_in_fit,
    )


def choose_elements(n_elements: int) -> Integers:
    """Evenly spaced elements, in stretches that go to one half and the other in turn.

    >>> choose_elements(256)[:, :5].tolist()
    [[0, 1, 2, 3, 8], [4, 5, 6, 7, 12]]
    """
    most = MAX_VARIANTS // VARIANTS_PER_BYTE
    chosen = np.arange(n_elements)[plan.evenly_spaced(n_elements, most)]
    half = np.arange(len(chosen)) * _STRETCHES // len(chosen) % HALVES
    length = min(np.bincount(half, minlength=HALVES))
    return np.stack([chosen[half == i][:length] for i in range(HALVES)])


def choose_references(population: Integers, most: int) -> Integers:
    """Choose people, evenly spaced, as many of each population as there are.

    Parameters
    ----------
    population
        Dominant population of each person.
    most
        Most people to choose.

    Returns
    -------
    Positions, rising.

    >>> choose_references(np.array([0, 0, 0, 1, 0, 0, 0]), 4).tolist()
    [0, 2, 3, 5]
    """
    counts = np.bincount(population)
    chosen: list[Integers] = []
    left = most
    for rank, k in enumerate(np.argsort(counts, kind="stable")):
        # What small populations do not fill is shared by the larger ones.
        n_taken = min(left // (len(counts) - rank), int(counts[k]))
        left -= n_taken
        members = np.flatnonzero(population == k)
        chosen.append(members[np.arange(n_taken) * len(members) // max(n_taken, 1)])
    return np.sort(np.concatenate(chosen))


def reference_arrays(check: CheckPlan) -> dict[str, npt.NDArray[Any]]:
    """Who the references are and how they correlate, as `schema.REFERENCES`."""
    with check.path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
        people, correlation, ancestry = (
            file[name] for name in ("people", "correlation", "ancestry")
        )
    k = ancestry.shape[1]
    means = group_means(correlation, ancestry.argmax(axis=1), k)
    arrays = (people, correlation, means.astype(np.float32))
    return dict(zip(REFERENCES, arrays, strict=True))


def summarise(store: Store, config: ApplyConfig) -> dict[str, Any] | None:
    """Figures of the check for an ancestry store's attributes; None without one."""
    if "sample_poorly_described" not in store:
        return None
    matrix = store.read("population_residual_correlation").astype(np.float64)
    known = [[None if np.isnan(x) else round(x, 6) for x in row] for row in matrix]
    return {
        "n_references": store.shape("reference_sample")[0],
        "threshold": config.fit_check_threshold,
        "false_rate": FALSE_RATE,
        "n_poorly_described": int(store.read("sample_poorly_described").sum()),
        "population_residual_correlation": known,
    }


def write_references(
    check: CheckPlan, parts: list[Candidates], people_per_call: int
) -> None:
    """Choose the references, compare them with one another, and write the file.

    Parameters
    ----------
    check
        The plan.
    parts
        The candidates, in order.
    people_per_call
        People of a group: the kernel is compiled for as many.
    """
    packed = np.concatenate([part.packed for part in parts])
    ancestry = np.concatenate([part.ancestry for part in parts])
    frequencies = _read_frequencies(check)
    covariance = _covariance(check, packed, ancestry, frequencies)
    chosen = choose_references(ancestry.argmax(axis=1), check.n_references)
    file = _compare_references(
        check,
        Candidates(packed[chosen], ancestry[chosen]),
        frequencies,
        covariance,
        people_per_call,
    )
    with replacing(check.path) as handle:
        np.savez(handle, **file._replace(people=check.candidates[chosen])._asdict())


def _read_frequencies(check: CheckPlan) -> FloatArray:
    """P at the variants of each half, (halves, populations, variants); .5 after all."""
    model = Store.open(check.model_path, "model")
    p = model.read("variant_population_frequency").T
    filling = -p.shape[1] % VARIANTS_PER_BYTE
    padded = np.pad(p, ((0, 0), (0, filling)), constant_values=0.5)
    by_element = padded.reshape(len(p), -1, VARIANTS_PER_BYTE)[:, check.elements]
    shape = (HALVES, len(p), -1)
    return np.ascontiguousarray(by_element.transpose(1, 0, 2, 3).reshape(shape))


def _covariance(
    check: CheckPlan,
    packed: PackedArray,
    ancestry: FloatArray,
    frequencies: FloatArray,
) -> Doubles:
    """Covariance of P's error over each half; zeros where P was given."""
    k, n_variants = frequencies.shape[1:]
    if not check.n_in_fit:
        return np.zeros((HALVES, k, k))
    tile = _tile(check.elements)
    padded = jnp.asarray(_pad(packed, tile))
    q = jnp.asarray(pad_ancestry(ancestry, padded.shape[0]))
    tiles = residuals.tile_halves(frequencies, tile.width, fill=0.5)
    hessian = frequency_statistics(padded, q, tiles, tile=tile).hessian
    halves = _untile(hessian, n_variants)
    # The candidates stand for everybody in the fit.
    share = len(packed) / check.n_in_fit
    return share * np.stack(
        [
            residuals.frequency_covariance(*half)
            for half in zip(halves, frequencies, strict=True)
        ]
    )


def _untile(tiles: jax.Array, n_variants: int) -> FloatArray:
    """Undo `tile_halves`."""
    halves = jnp.split(tiles, HALVES)
    return np.stack([np.asarray(untile_variants(h, n_variants)) for h in halves])


def _compare_references(
    check: CheckPlan,
    people: Candidates,
    frequencies: FloatArray,
    covariance: Doubles,
    people_per_call: int,
) -> ReferenceFile:
    """All of the file but the positions, with the correlations of every pair."""
    tile = _tile(check.elements)
    n_people, n_variants = len(people.packed), frequencies.shape[2]
    padded = jnp.asarray(_pad(people.packed, tile))
    q = jnp.asarray(pad_ancestry(people.ancestry, padded.shape[0]))
    tiles = residuals.tile_halves(frequencies, tile.width, fill=0.5)
    found = residuals.reference_residuals(padded, q, tiles, tile=tile)
    values = _untile(found[:, :, :n_people], n_variants)
    panel = _lay_out(frequencies, values, tile)
    parts = [
        _sums(panel, people.packed[rows.slice], people.ancestry[rows.slice], tile)
        for rows in plan.split_rows(n_people, people_per_call)
    ]
    sums = ResidualSums(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    weight = np.sum(values.astype(np.float64) ** 2, axis=(1, 2))
    references = residuals.describe_references(
        people.ancestry, sums, weight, covariance
    )
    in_fit = np.full(n_people, check.n_in_fit > 0)
    whole = residuals.correlate(sums, people.ancestry, in_fit, references).whole
    np.fill_diagonal(whole, np.nan)
    return ReferenceFile(
        np.empty(0, np.int64),
        check.elements,
        frequencies,
        values,
        whole.astype(np.float32),
        *references,
    )


def _sums(
    panel: Panel, packed: PackedArray, ancestry: FloatArray, tile: TileShape
) -> ResidualSums:
    """Compare some people with the references."""
    padded = jnp.asarray(_pad(packed, tile))
    q = jnp.asarray(pad_ancestry(ancestry, padded.shape[0]))
    sums = residuals.residual_sums(padded, q, panel, tile=tile)
    return ResidualSums(*(np.asarray(part)[: len(packed)] for part in sums))


def _tile(elements: Integers) -> TileShape:
    """Tile of this device, no wider than one half of the variants."""
    tile = tile_shape()
    return TileShape(tile.people, min(tile.width, elements.shape[1]))


def _pad(packed: PackedArray, tile: TileShape) -> PackedArray:
    """Fill both halves up with missing to whole tiles."""
    halves = np.split(packed, HALVES, axis=1)
    return np.concatenate([pad_shard(half, tile) for half in halves], axis=1)


def _lay_out(frequencies: FloatArray, values: FloatArray, tile: TileShape) -> Panel:
    weight = np.sum(values**2, axis=1, keepdims=True)
    return Panel(
        residuals.tile_halves(frequencies, tile.width, fill=0.5),
        residuals.tile_halves(values, tile.width, fill=0.0),
        residuals.tile_halves(weight, tile.width, fill=0.0),
    )


class _Loaded(NamedTuple):
    people: Integers
    elements: Integers
    references: References
    panel: Panel
    tile: TileShape


# The references that this worker compared people with last.
_loaded: dict[GroupCheck, _Loaded] = {}


def _load(check: GroupCheck) -> _Loaded:
    if check not in _loaded:
        with check.path.open("rb") as handle:
            file = ReferenceFile(**np.load(handle, allow_pickle=False))
        tile = _tile(file.elements)
        _loaded.clear()
        panel = _lay_out(file.frequencies, file.residuals, tile)
        # What is on the device now is not kept here as well.
        _loaded[check] = _Loaded(
            file.people, file.elements, file.references, panel, tile
        )
    return _loaded[check]


def check_group(
    check: GroupCheck,
    packed: PackedArray,
    ancestry: FloatArray,
    rows: Rows,
    in_fit: npt.NDArray[np.bool_],
) -> Checked:
    """Check the people of a group.

    Parameters
    ----------
    check
        Where the references are.
    packed
        Genotypes of the people, not padded.
    ancestry
        Their Q.
    rows
        Their positions.
    in_fit
        Who of them P was estimated from.
    """
    people, elements, references, panel, tile = _load(check)
    sums = _sums(panel, packed[:, elements.ravel()], ancestry, tile)
    halves = residuals.correlate(sums, ancestry, in_fit, references).halves
    positions = np.arange(rows.start, rows.stop)
    place = np.searchsorted(people, positions)
    place = np.minimum(place, len(people) - 1)
    own = np.where(people[place] == positions, place, -1)
    found = residuals.check_fit(halves, own)
    least = np.maximum(check.threshold, _STANDARD_ERRORS * found.standard_error)
    return Checked(*found, found.correlation > least)


def group_means(correlation: FloatArray, group: Integers, n_groups: int) -> Doubles:
    """Mean of the known correlations of pairs of people of each two groups.

    >>> pairs = np.array([[np.nan, 0.25, 0], [0.25, np.nan, 0.5], [0, 0.5, np.nan]])
    >>> group_means(pairs, np.array([0, 0, 1]), 2).tolist()
    [[0.25, 0.25], [0.25, nan]]
    """
    member = (group[:, None] == np.arange(n_groups)).astype(np.float64)
    known = np.isfinite(correlation)
    total = member.T @ np.where(known, correlation, 0) @ member
    n_pairs = member.T @ known.astype(np.float64) @ member
    return np.where(n_pairs > 0, total / np.maximum(n_pairs, 1), np.nan)
