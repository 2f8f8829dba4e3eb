"""Lists of variants: which of a cohort's are named in a file.

Pure apart from reading the file.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.genome_build import contig_key

if TYPE_CHECKING:
    # It brings xarray, which a model of given frequencies does without.
    from pipeline.cohort import Cohort

KEYS = ("contig", "position", "id", "reference", "alternate")
# The header of PREFIX.variants, as `streamixture export` writes it. The last column
# says whether PREFIX.K.P counts the alternate or the reference allele.
COLUMNS = (*KEYS, "counted")

_Key = tuple[str, int, str, str]


def listed_variants(path: str, cohort: "Cohort") -> npt.NDArray[np.bool_]:
    """True for the variants of a cohort that a file lists.

    Parameters
    ----------
    path
        A PREFIX.variants file of `streamixture export`, whose variants are found by
        contig, position and alleles, or text with one variant id to a line.
    cohort
        The cohort.

    Raises
    ------
    InputError
        If the file cannot be read, or lists nothing that the cohort has.
    """
    try:
        with open(path) as file:
            lines = [line.rstrip("\n") for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"qc.variants: {path} cannot be read ({error}); name a list of variants"
        ) from error
    if lines and tuple(lines[0].split("\t")) in (COLUMNS, KEYS):
        wanted = {
            _parse(line, f"{path} line {n}") for n, line in enumerate(lines[1:], 2)
        }
        found = np.array([key in wanted for key in _keys(cohort)], np.bool_)
    else:
        found = np.isin(cohort.variant_ids, [line.strip() for line in lines])
    if not found.any():
        raise InputError(
            f"qc.variants: {path} lists no variant of {cohort.url}; check that ids, or "
            "contigs and positions, are written alike"
        )
    return found


def _parse(line: str, where: str) -> _Key:
    fields = line.split("\t")
    if len(KEYS) <= len(fields) <= len(COLUMNS) and fields[1].isdecimal():
        contig, position, _, reference, alternate = fields[: len(KEYS)]
        return contig_key(contig), int(position), reference, alternate
    raise InputError(
        f"{where}: {line!r} is not a contig, a position, an id and two alleles between "
        "tabs; export the list again"
    )


def _keys(cohort: "Cohort") -> "zip[_Key]":
    alleles = cohort.alleles
    return zip(
        map(contig_key, cohort.contigs.tolist()),
        cohort.positions.tolist(),
        alleles.reference.tolist(),
        alleles.alternate.tolist(),
        strict=True,
    )
