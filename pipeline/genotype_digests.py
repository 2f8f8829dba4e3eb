"""Digests of people's genotypes at a model's variants: who has others than before.

Reads prepared stores. A digest depends on the calls alone: not on how they are packed
in the store, which the calls of other people may widen, nor on where the person is.
"""

import hashlib
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.packing import (
    CALLS,
    GENOTYPES,
    VARIANTS_PER_BYTE,
    PackedArray,
    encoding_of,
    pack_codes,
    unpack_codes,
)
from pipeline import plan
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import Prepared, open_store
from pipeline.stream import read_rows
from pipeline.tasks import Cluster

N_WORDS = 2

Digests = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Text = npt.NDArray[np.str_]


def digest_rows(packed: PackedArray) -> Digests:
    """Digest of each person's packed genotypes, shape (people, 2)."""
    encoding = encoding_of(packed.dtype)
    # As they are: copies would be as much again.
    rows = list(np.ascontiguousarray(packed))
    if encoding is CALLS:
        codes = unpack_codes(packed, packed.shape[1] * VARIANTS_PER_BYTE)
        # Calls of two alleles are the same at two bits and at four.
        single = (codes > GENOTYPES.missing) & (codes != CALLS.missing)
        narrow = ~single.any(axis=1)
        packed_again = pack_codes(codes[narrow] & np.uint8(3), GENOTYPES)
        for place, row in zip(np.flatnonzero(narrow), packed_again, strict=True):
            rows[place] = row
    size = N_WORDS * 8
    hashed = [hashlib.blake2b(row, digest_size=size).digest() for row in rows]
    return np.frombuffer(b"".join(hashed), "<u8").reshape(-1, N_WORDS)


def digest_people(prepared: Prepared, cluster: Cluster) -> Digests:
    """Digest of the genotypes of everybody in a prepared store."""
    # No more at once than is read for anything else.
    parts = plan.split_rows(prepared.n_samples, prepared.unit)
    whole = np.empty((prepared.n_samples, N_WORDS), np.uint64)
    found = cluster.run_all(partial(_digest_part, prepared.path), parts)
    for rows, digests in found:
        whole[rows.slice] = digests
    return whole


def digest_fitted(prepared: Prepared, cluster: Cluster) -> npt.NDArray[np.uint64]:
    """Digests of those in the fit, rising, of which a model knows them again."""
    return np.sort(digest_people(prepared, cluster)[prepared.in_fit, 0])


def were_fitted(
    packed: PackedArray, fitted_people: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """Whose packed genotypes, at a model's variants, are those of people in its fit."""
    return np.isin(digest_rows(packed)[:, 0], fitted_people)


def _digest_part(path: Location, rows: Rows) -> tuple[Rows, Digests]:
    return rows, digest_rows(read_rows(open_store(path), rows))


class Difference(NamedTuple):
    """How the people of a cohort differ from those of an earlier version.

    Attributes
    ----------
    earlier
        Row of each person of the cohort in the earlier version, -1 if new.
    new, changed
        Positions in the cohort of those who are new, or have other genotypes.
    n_removed
        Number of those who are gone.
    """

    earlier: Integers
    new: Integers
    changed: Integers
    n_removed: int

    @property
    def affected(self) -> Integers:
        """Positions in the cohort of those to project, rising."""
        return np.sort(np.concatenate([self.new, self.changed]))


def find_rows(ids: Text, earlier_ids: Text) -> Integers:
    """Row of each id among earlier ones; -1 where it is not there.

    >>> find_rows(np.array(["b", "c"]), np.array(["a", "b"])).tolist()
    [1, -1]
    """
    place = {each: row for row, each in enumerate(earlier_ids.tolist())}
    return np.array([place.get(each, -1) for each in ids.tolist()], np.int64)


def compare_people(
    ids: Text,
    earlier_ids: Text,
    earlier_digests: Digests,
    scanned: Integers,
    digests: Digests,
) -> Difference:
    """Compare a cohort with an earlier version.

    Parameters
    ----------
    ids
        The cohort's people.
    earlier_ids, earlier_digests
        People of the earlier version.
    scanned, digests
        Positions of those whose genotypes were looked at, everybody who is new among
        them, and their digests. The others have the same genotypes.
    """
    earlier = find_rows(ids, earlier_ids)
    was_there = earlier[scanned] >= 0
    same = np.zeros(len(scanned), bool)
    same[was_there] = (
        digests[was_there] == earlier_digests[earlier[scanned[was_there]]]
    ).all(axis=1)
    n_kept = int(np.count_nonzero(earlier >= 0))
    return Difference(
        earlier,
        np.flatnonzero(earlier < 0),
        scanned[was_there & ~same],
        len(earlier_ids) - n_kept,
    )
