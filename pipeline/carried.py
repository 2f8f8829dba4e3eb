"""Who carries alleles that stand for no allele of their own.

gVCF lists <NON_REF> or <*> at every site, and VCF lists * where a deletion that began
before spans it. Nobody need carry them. Reads the genotypes of the variants that list
one; writes nothing. Invariant: a variant that passed has no call of such an allele.
"""

import functools
import logging
from typing import TYPE_CHECKING, NamedTuple

import dask
import numpy as np
import numpy.typing as npt

from pipeline import decode
from pipeline.mask_parts import MaskPart, cut_mask

if TYPE_CHECKING:
    # Workers import this module, and each would hold xarray in memory for nothing.
    from pipeline.cohort import Cohort

logger = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]


class _Task(NamedTuple):
    """Variants of one chunk, and the number of the alternate allele of each."""

    url: str
    variants: MaskPart
    slots: npt.NDArray[np.int8]
    sample_chunk: int
    n_samples: int


@functools.lru_cache(maxsize=1)
def carried_placeholders(cohort: "Cohort") -> Mask:
    """True for biallelic variants at which somebody carries another listed allele.

    The genotypes of the variants that list one are read once, in one dask computation,
    and the answer for the last cohort is kept.
    """
    found = np.zeros(cohort.n_variants, np.bool_)
    slots = cohort.alternate_slots
    if slots is None or cohort.has_dosages:
        return found
    size, n_samples = cohort.sample_chunk, cohort.n_samples
    parts = cut_mask(slots >= 0, cohort.variant_chunk)
    look = dask.delayed(_look, pure=False)
    tasks = [
        look(_Task(cohort.url, part, slots[part.positions], size, n_samples))
        for part in parts
    ]
    for part, carried in zip(parts, dask.compute(*tasks), strict=True):
        found[part.positions] = carried
    logger.info(
        "%s: %d variants list <NON_REF>, <*> or *; %d of them, where somebody carries "
        "it, are left out as multiallelic",
        cohort.url,
        np.count_nonzero(slots >= 0),
        np.count_nonzero(found),
    )
    return found


def _look(task: _Task) -> Mask:
    carried = np.zeros(len(task.variants), np.bool_)
    alternate = task.slots[:, np.newaxis, np.newaxis]
    for start in range(0, task.n_samples, task.sample_chunk):
        people = slice(start, min(start + task.sample_chunk, task.n_samples))
        calls = decode.read_calls(task.url, task.variants.bounds, people)
        told = calls[task.variants.within]
        carried |= ((told > 0) & (told != alternate)).any(axis=(1, 2))
    return carried
