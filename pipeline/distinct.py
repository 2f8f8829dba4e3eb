"""Refuse a cohort that has a variant twice.

Reads the variant keys of a cohort; writes nothing. The invariant: of a cohort that
passed, no two variants have contig, position and alleles in common.
"""

import numpy as np
import numpy.typing as npt

from pipeline import remedies
from pipeline.alleles import PLACEHOLDERS
from pipeline.cohort import Cohort
from pipeline.errors import InputError

# Alleles that are read at a time.
_SLAB = 100_000


def check_distinct(cohort: Cohort) -> None:
    """Refuse two variants with the same contig, position and alleles.

    Either would count as evidence of its own, and no model could tell them apart.
    Alleles are compared without regard to which is the reference: A>C and C>A at one
    place are one variant. Those that share only their place, such as the lines of a
    multiallelic site that was split, are different.

    Raises
    ------
    InputError
        If so; names the first two.
    """
    contig = cohort.dataset["variant_contig"].values
    position = cohort.positions
    rows = _sharing_a_place(contig, position)
    seen: dict[tuple[int, int, tuple[str, ...]], int] = {}
    for start in range(0, len(rows), _SLAB):
        slab = rows[start : start + _SLAB]
        alleles = cohort.dataset["variant_allele"][slab].values.astype(str)
        for row, listed in zip(slab.tolist(), alleles.tolist(), strict=True):
            place = (int(contig[row]), int(position[row]))
            found = [each for each in listed if each and each not in PLACEHOLDERS]
            first = seen.setdefault((*place, tuple(sorted(found))), row)
            if first != row:
                raise InputError(
                    f"{cohort.url}: variants {first} and {row} are both "
                    f"{cohort.contigs[row]}:{place[1]}:{':'.join(found)};"
                    f" keep one of them: {remedies.ONE_OF_EACH}"
                )


def _sharing_a_place(
    contig: npt.NDArray[np.integer], position: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Rows of the variants whose contig and position another has too, in order."""
    order = np.lexsort((position, contig))
    same = (np.diff(position[order]) == 0) & (np.diff(contig[order]) == 0)
    return np.sort(order[np.append(same, False) | np.insert(same, 0, False)])
