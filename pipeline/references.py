"""The references of the fit check: who they are, and what the model leaves of them.

Some hundred people of the cohort whom everybody is compared with. Candidates come with
their calls at some thousand variants and their Q; the references chosen among them are
one file, with their residuals and how they correlate with one another. Invariant: who
is a reference depends on the data and the configuration, not on the workers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from estimator import residuals
from estimator.likelihood import frequency_statistics
from estimator.packing import VARIANTS_PER_BYTE, PackedArray
from estimator.residuals import HALVES, Panel, References, ResidualSums
from estimator.tiling import (
    TileShape,
    pad_ancestry,
    pad_shard,
    tile_shape,
    untile_variants,
)
from pipeline.location import Location, replacing
from pipeline.plan import split_rows
from pipeline.store import Store

Integers = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReferencePlan:
    """What the references are chosen from.

    Attributes
    ----------
    n_references
        Most references.
    elements
        Packed elements of each half of the variants, shape (halves, elements).
    candidates
        Positions of the people to choose from, rising.
    n_in_fit
        People that P was estimated from; 0 where it was given.
    """

    n_references: int
    elements: Integers
    candidates: Integers
    n_in_fit: int


class Candidates(NamedTuple):
    """People who may become references: calls at the elements of both halves, and Q."""

    packed: PackedArray
    ancestry: FloatArray


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


def load_references(path: Location) -> ReferenceFile:
    """Read the file."""
    with path.open("rb") as handle:
        return ReferenceFile(**np.load(handle, allow_pickle=False))


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


def write_references(
    plan: ReferencePlan,
    path: Location,
    model_path: Location,
    parts: list[Candidates],
    people_per_call: int,
) -> None:
    """Choose the references, compare them with one another, and write the file.

    Parameters
    ----------
    plan
        The plan.
    path
        The file.
    model_path
        The model.
    parts, people_per_call
        As for `make_references`.
    """
    model = Store.open(model_path, "model")
    p = model.read("variant_population_frequency").T
    file = make_references(plan, p, parts, people_per_call)
    with replacing(path) as handle:
        np.savez(handle, **file._asdict())


def make_references(
    plan: ReferencePlan, p: FloatArray, parts: list[Candidates], people_per_call: int
) -> ReferenceFile:
    """Choose the references, and compare them with one another.

    Parameters
    ----------
    plan
        The plan.
    p
        P of the model.
    parts
        The candidates, in order.
    people_per_call
        People of a group: the kernel is compiled for as many.
    """
    packed = np.concatenate([part.packed for part in parts])
    ancestry = np.concatenate([part.ancestry for part in parts])
    frequencies = _frequencies_at(plan, p)
    covariance = _covariance(plan, packed, ancestry, frequencies)
    chosen = choose_references(ancestry.argmax(axis=1), plan.n_references)
    file = _compare_references(
        plan,
        Candidates(packed[chosen], ancestry[chosen]),
        frequencies,
        covariance,
        people_per_call,
    )
    return file._replace(people=plan.candidates[chosen])


def _frequencies_at(plan: ReferencePlan, p: FloatArray) -> FloatArray:
    """P at the variants of each half, (halves, populations, variants); .5 after all."""
    filling = -p.shape[1] % VARIANTS_PER_BYTE
    padded = np.pad(p, ((0, 0), (0, filling)), constant_values=0.5)
    by_element = padded.reshape(len(p), -1, VARIANTS_PER_BYTE)[:, plan.elements]
    shape = (HALVES, len(p), -1)
    return np.ascontiguousarray(by_element.transpose(1, 0, 2, 3).reshape(shape))


def _covariance(
    plan: ReferencePlan,
    packed: PackedArray,
    ancestry: FloatArray,
    frequencies: FloatArray,
) -> Doubles:
    """Covariance of P's error over each half; zeros where P was given."""
    k, n_variants = frequencies.shape[1:]
    if not plan.n_in_fit:
        return np.zeros((HALVES, k, k))
    tile = half_tile(plan.elements)
    padded = jax.device_put(_pad(packed, tile))
    q = jax.device_put(pad_ancestry(ancestry, padded.shape[0]))
    tiles = residuals.tile_halves(frequencies, tile.width, fill=0.5)
    hessian = frequency_statistics(padded, q, tiles, tile=tile).hessian
    halves = _untile(hessian, n_variants)
    # The candidates stand for everybody in the fit.
    share = len(packed) / plan.n_in_fit
    return share * np.stack(
        [
            residuals.frequency_covariance(*half)
            for half in zip(halves, frequencies, strict=True)
        ]
    )


def _untile(tiles: jax.Array | FloatArray, n_variants: int) -> FloatArray:
    """Undo `tile_halves`."""
    halves = np.split(np.asarray(tiles), HALVES)
    return np.stack([untile_variants(half, n_variants) for half in halves])


def _compare_references(
    plan: ReferencePlan,
    people: Candidates,
    frequencies: FloatArray,
    covariance: Doubles,
    people_per_call: int,
) -> ReferenceFile:
    """All of the file but the positions, with the correlations of every pair."""
    tile = half_tile(plan.elements)
    n_people, n_variants = len(people.packed), frequencies.shape[2]
    padded = jax.device_put(_pad(people.packed, tile))
    q = jax.device_put(pad_ancestry(people.ancestry, padded.shape[0]))
    tiles = residuals.tile_halves(frequencies, tile.width, fill=0.5)
    found = residuals.reference_residuals(padded, q, tiles, tile=tile)
    values = _untile(np.asarray(found)[:, :, :n_people], n_variants)
    del found
    panel = lay_out(frequencies, values, tile)
    parts = [
        compare(panel, people.packed[rows.slice], people.ancestry[rows.slice], tile)
        for rows in split_rows(n_people, people_per_call)
    ]
    sums = ResidualSums(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    weight = np.einsum("hsv,hsv->h", values, values, dtype=np.float64)
    references = residuals.describe_references(
        people.ancestry, sums, weight, covariance
    )
    in_fit = np.full(n_people, plan.n_in_fit > 0)
    whole = residuals.correlate(sums, people.ancestry, in_fit, references).whole
    np.fill_diagonal(whole, np.nan)
    return ReferenceFile(
        np.empty(0, np.int64),
        plan.elements,
        frequencies,
        values,
        whole.astype(np.float32),
        *references,
    )


def compare(
    panel: Panel, packed: PackedArray, ancestry: FloatArray, tile: TileShape
) -> ResidualSums:
    """Compare some people with the references of a panel.

    Parameters
    ----------
    panel
        The references, laid out for the tile.
    packed
        Calls at the elements of one half, then of the other, not padded.
    ancestry
        Q of the same people.
    tile
        From `half_tile`.
    """
    padded = jax.device_put(_pad(packed, tile))
    q = jax.device_put(pad_ancestry(ancestry, padded.shape[0]))
    sums = residuals.residual_sums(padded, q, panel, tile=tile)
    return ResidualSums(*(np.asarray(part)[: len(packed)] for part in sums))


def half_tile(elements: Integers) -> TileShape:
    """Tile of this device, no wider than one half of the variants."""
    tile = tile_shape()
    return TileShape(tile.people, min(tile.width, elements.shape[1]))


def _pad(packed: PackedArray, tile: TileShape) -> PackedArray:
    """Fill both halves up with missing to whole tiles."""
    halves = np.split(packed, HALVES, axis=1)
    return np.concatenate([pad_shard(half, tile) for half in halves], axis=1)


def lay_out(frequencies: FloatArray, values: FloatArray, tile: TileShape) -> Panel:
    """Put P and the references' residuals on the device."""
    weight = np.einsum("hsv,hsv->hv", values, values)[:, None]
    return Panel(
        residuals.tile_halves(frequencies, tile.width, fill=0.5),
        residuals.tile_halves(values, tile.width, fill=0.0),
        residuals.tile_halves(weight, tile.width, fill=0.0),
    )
