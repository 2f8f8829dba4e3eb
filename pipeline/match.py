"""Find a model's variants in another cohort, by contig, position and alleles.

The same variant may be written with its alleles the other way round; its counts are
then turned round too. A variant that the cohort lacks is missing in everybody, never
filled in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import bundle, schema
from pipeline.cohort import Cohort
from pipeline.decode import Columns
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.store import Store

# Share of the model's variants that a cohort must have to be projected.
MIN_OVERLAP = 0.5

_Key = tuple[str, int, str, str]


@dataclass(frozen=True)
class Match:
    """A model's variants in a cohort.

    Attributes
    ----------
    columns
        Where each of the model's variants is, in the model's order.
    n_matched, n_swapped, n_absent
        Variants found as they are, found with alleles swapped, and not found.
    """

    columns: Columns
    n_matched: int
    n_swapped: int
    n_absent: int


def match_variants(model_path: Location, cohort: Cohort) -> Match:
    """Match a model's variants to a cohort's.

    Raises
    ------
    InputError
        If the cohort has a variant twice that the model uses, or fewer than half
        of the model's variants.
    """
    store = Store.open(model_path, bundle.KIND)
    keys = {name: store.read(name) for name in schema.VARIANT_KEYS}
    wanted = {
        key: i
        for i, key in enumerate(
            zip(
                keys["variant_contig_name"].tolist(),
                keys["variant_position"].tolist(),
                *keys["variant_allele"].T.tolist(),
                strict=True,
            )
        )
    }
    # Not as long as `wanted`: of a variant that the model has twice, one is absent.
    index = np.full(len(keys["variant_position"]), -1, np.int64)
    swapped = np.zeros(len(index), bool)
    for row, key, turned in _cohort_keys(cohort):
        place = wanted.get(key)
        flip = place is None
        if place is None:
            place = wanted.get(turned)
        if place is None:
            continue
        if index[place] >= 0:
            raise InputError(
                f"{cohort.url}: variants {index[place]} and {row} are both "
                f"{':'.join(map(str, key))}; keep one of them"
            )
        index[place], swapped[place] = row, flip
    return _checked(Match(Columns(index, swapped), *_counts(index, swapped)), cohort)


def _cohort_keys(cohort: Cohort) -> Iterator[tuple[int, _Key, _Key]]:
    alleles = cohort.alleles
    rows = np.flatnonzero(cohort.biallelic_mask).tolist()
    contigs, positions = cohort.contigs.tolist(), cohort.positions.tolist()
    reference, alternate = alleles.reference.tolist(), alleles.alternate.tolist()
    for row in rows:
        place = (contigs[row], positions[row])
        yield (
            row,
            (*place, reference[row], alternate[row]),
            (*place, alternate[row], reference[row]),
        )


def _counts(
    index: npt.NDArray[np.int64], swapped: npt.NDArray[np.bool_]
) -> tuple[int, int, int]:
    n_absent = int(np.count_nonzero(index < 0))
    n_swapped = int(np.count_nonzero(swapped))
    return len(index) - n_absent - n_swapped, n_swapped, n_absent


def _checked(match: Match, cohort: Cohort) -> Match:
    total = len(match.columns)
    found = match.n_matched + match.n_swapped
    if found < MIN_OVERLAP * total:
        raise InputError(
            f"{cohort.url} has {found} of the model's {total} variants, and "
            f"{MIN_OVERLAP:.0%} are needed; check that both are of the same genome "
            "build and name contigs alike"
        )
    return match
