"""Find a model's variants in another cohort, by contig, position and alleles.

The same variant may be written with its alleles the other way round, and its counts
are then turned round too, or on the opposite strand. A variant that the cohort lacks,
or of which nothing tells how to count it, is missing in everybody, never filled in.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from pipeline import genome_build, remedies
from pipeline.alleles import OTHER_STRAND, Orientation, Pair, normalise, relate
from pipeline.cohort import Cohort
from pipeline.decode import Columns
from pipeline.errors import InputError
from pipeline.location import Location

_POSITION_BITS = 40
_NO_RANK = 255

Integers = npt.NDArray[np.int64]


class ModelStore(Protocol):
    """What matching asks of a model: a `Store`, or a Dataset in its place."""

    @property
    def path(self) -> Location:
        """Where it is, for errors."""

    @property
    def attrs(self) -> dict[str, Any]:
        """Its attributes."""

    def read(self, name: str, *selection: Any) -> npt.NDArray[Any]:
        """Values of an array."""


@dataclass(frozen=True)
class MatchCounts:
    """What became of a model's variants: all but the last add up to their number.

    Attributes
    ----------
    n_matched, n_swapped, n_complemented, n_complemented_swapped
        Used as the cohort writes them, with alleles swapped, on the opposite strand,
        and both.
    n_ambiguous
        A/T and C/G variants left out because nothing tells their strand.
    n_absent
        Not in the cohort, or with other alleles.
    n_decided_by_frequency
        A/T and C/G variants among those used whose strand the frequencies told.
    """

    n_matched: int
    n_swapped: int
    n_complemented: int
    n_complemented_swapped: int
    n_ambiguous: int
    n_absent: int
    n_decided_by_frequency: int

    @property
    def n_used(self) -> int:
        """Variants whose genotypes are used."""
        return (
            self.n_matched
            + self.n_swapped
            + self.n_complemented
            + self.n_complemented_swapped
        )

    def as_attrs(self) -> dict[str, int]:
        """The counts as a store's attributes, `variants_matched` and so on."""
        return {_attribute(name): value for name, value in asdict(self).items()}

    @classmethod
    def from_attrs(cls, attrs: dict[str, Any]) -> Self:
        """The counts that `as_attrs` put among a store's attributes."""
        return cls(**{f.name: attrs[_attribute(f.name)] for f in fields(cls)})

    def __str__(self) -> str:
        return (
            f"{self.n_matched} matched, {self.n_swapped} with alleles swapped, "
            f"{self.n_complemented} on the opposite strand, "
            f"{self.n_complemented_swapped} both, {self.n_absent} absent, "
            f"{self.n_ambiguous} of ambiguous strand left out "
            f"({self.n_decided_by_frequency} others decided by frequency)"
        )


def _attribute(name: str) -> str:
    return f"variants_{name.removeprefix('n_')}"


@dataclass(frozen=True, eq=False)
class Match:
    """A model's variants in a cohort, in the model's order.

    Attributes
    ----------
    index
        Row of each variant in the cohort; -1 where it is absent.
    orientation
        What turns the cohort's alleles into the model's, an `Orientation`.
    ambiguous
        A/T and C/G variants that are there, of which nothing tells the strand.
    n_decided
        Variants that were ambiguous before the frequencies were looked at.
    slots
        As `Columns` has them.
    """

    index: Integers
    orientation: npt.NDArray[np.uint8]
    ambiguous: npt.NDArray[np.bool_]
    n_decided: int = 0
    slots: npt.NDArray[np.int8] | None = None

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """Variants whose genotypes are used."""
        return (self.index >= 0) & ~self.ambiguous

    @property
    def swapped(self) -> npt.NDArray[np.bool_]:
        """Variants whose alleles are counted the other way round."""
        return (self.orientation & Orientation.SWAPPED) > 0

    @property
    def columns(self) -> Columns:
        """Where the genotypes of each variant come from."""
        index = np.where(self.used, self.index, -1)
        return Columns(index, self.swapped & self.used, self.slots)

    @property
    def counts(self) -> MatchCounts:
        """What became of the variants."""
        used = np.bincount(self.orientation[self.used], minlength=4).tolist()
        return MatchCounts(
            n_matched=used[Orientation.AS_WRITTEN],
            n_swapped=used[Orientation.SWAPPED],
            n_complemented=used[Orientation.COMPLEMENTED],
            n_complemented_swapped=used[OTHER_STRAND],
            n_ambiguous=int(np.count_nonzero(self.ambiguous)),
            n_absent=int(np.count_nonzero(self.index < 0)),
            n_decided_by_frequency=self.n_decided,
        )


def match_variants(model: ModelStore, cohort: Cohort) -> Match:
    """Find a model's variants in a cohort by their keys alone.

    Of several variants of the cohort that could be the model's, the one written most
    like it is taken: as it is, then swapped, on the opposite strand, both; and one
    with two alleles before one of which only one is known. A variant of the cohort
    serves one of the model.

    Parameters
    ----------
    model
        The model, or any store with the keys of variants.
    cohort
        The cohort.

    Raises
    ------
    InputError
        If two variants of the cohort could as well be the same one of the model.
    """
    contigs = model.read("variant_contig_name")
    names = sorted({_contig_key(name) for name in np.unique(contigs).tolist()})
    codes = {name: code for code, name in enumerate(names)}
    places = _places(contigs, model.read("variant_position"), codes)
    alleles = model.read("variant_allele")
    pairs = _pairs(alleles[:, 0].tolist(), alleles[:, 1].tolist())
    found = _Search(len(places))
    for row, pair, candidates in _candidates(cohort, places, codes):
        for variant in candidates:
            found.offer(variant, row, pairs[variant], pair)
    found.check(cohort)
    match = found.match()
    return replace(match, slots=cohort.slots_of(match.index))


class _Search:
    """The best variant of a cohort so far for each of a model's."""

    def __init__(self, n_variants: int) -> None:
        self._index = [-1] * n_variants
        self._rank = [_NO_RANK] * n_variants
        self._either = [False] * n_variants
        self._tied: dict[int, int] = {}

    def offer(self, variant: int, row: int, model: Pair, cohort: Pair) -> None:
        """Take a row of the cohort for a variant of the model if it is the best."""
        relation = relate(model, cohort)
        if relation is None or relation.rank > self._rank[variant]:
            return
        if relation.rank == self._rank[variant]:
            self._tied[variant] = row
            return
        self._tied.pop(variant, None)
        self._index[variant] = row
        self._rank[variant] = relation.rank
        self._either[variant] = relation.either_strand

    def check(self, cohort: Cohort) -> None:
        """Refuse a cohort of which two rows are the same variant of the model."""
        if not self._tied:
            return
        second = min(self._tied.values())
        first = next(self._index[v] for v, row in self._tied.items() if row == second)
        reference, alternate = (each[second] for each in cohort.alleles)
        raise InputError(
            f"{cohort.url}: variants {first} and {second} are both "
            f"{cohort.contigs[second]}:{cohort.positions[second]}:{reference}:"
            f"{alternate}; keep one of them: {remedies.ONE_OF_EACH}"
        )

    def match(self) -> Match:
        """What was found, every row of the cohort once."""
        index, rank = np.array(self._index, np.int64), np.array(self._rank)
        order = np.lexsort((rank, index))
        again = order[1:][index[order[1:]] == index[order[:-1]]]
        index[again] = -1
        absent = index < 0
        orientation = np.where(absent, 0, rank % 4).astype(np.uint8)
        return Match(index, orientation, np.array(self._either, bool) & ~absent)


_contig_key = lru_cache(genome_build.contig_key)


def _places(
    contigs: npt.NDArray[np.str_], positions: Integers, codes: dict[str, int]
) -> Integers:
    """Contig and position of each variant in one number; -1 on other contigs."""
    # Contigs come in runs, unless the variants are shuffled.
    starts = np.flatnonzero(np.append(True, contigs[1:] != contigs[:-1]))
    runs = [codes.get(_contig_key(name), -1) for name in contigs[starts].tolist()]
    code = np.repeat(runs, np.diff(np.append(starts, len(contigs))))
    places = (code << _POSITION_BITS) + positions
    return np.where((code < 0) | (positions < 0), -1, places)


def _pairs(references: list[str], alternates: list[str]) -> list[Pair]:
    return [
        (normalise(reference), normalise(alternate))
        for reference, alternate in zip(references, alternates, strict=True)
    ]


class _Candidate(NamedTuple):
    row: int
    pair: Pair
    variants: list[int]


def _candidates(
    cohort: Cohort, places: Integers, codes: dict[str, int]
) -> Iterator[_Candidate]:
    """Variants of the cohort that lie where some of the model's do."""
    theirs = _places(cohort.contigs, cohort.positions, codes)
    there = cohort.biallelic_mask & (theirs >= 0) & np.isin(theirs, places)
    rows = np.flatnonzero(there)
    order = np.argsort(places, kind="stable")
    first, last = (
        np.searchsorted(places[order], theirs[rows], side).tolist()
        for side in ("left", "right")
    )
    alleles = cohort.alleles
    pairs = _pairs(alleles.reference[rows].tolist(), alleles.alternate[rows].tolist())
    for row, pair, start, stop in zip(rows.tolist(), pairs, first, last, strict=True):
        yield _Candidate(row, pair, order[start:stop].tolist())
