"""Regions of the genome to leave out, above all those of long-range disequilibrium.

Inversions, centromeres and the major histocompatibility complex correlate variants over
megabases, further than any pruning window, so that a region can pass for a population.
Two lists are shipped, for GRCh37 and GRCh38. The second is the first by position, with
ends rounded outwards to half a megabase. Pure apart from reading a BED file.

References
----------
Price et al. (2008), American Journal of Human Genetics 83:132-135.
Weale (2010), Methods in Molecular Biology 628:341-372.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import SHIPPED_REGIONS
from pipeline.errors import InputError
from pipeline.genome_build import contig_key


@dataclass(frozen=True)
class Region:
    """Part of a contig, as a line of a BED file has it.

    Attributes
    ----------
    contig
        Name, in whatever manner; "chr6" and "6" are the same.
    start, stop
        Base pairs from 0, the last excluded: positions start + 1 to stop.
    """

    contig: str
    start: int
    stop: int


def read_regions(name: str) -> list[Region]:
    """Regions of a shipped list ("GRCh37", "GRCh38") or of a BED file.

    Raises
    ------
    InputError
        If there is no such file, or a line of it has no contig, start and stop.
    """
    if name in SHIPPED_REGIONS:
        lists = resources.files("pipeline")
        text = (lists / f"long_range_ld.{name}.bed").read_text()
    else:
        try:
            text = Path(name).read_text()
        except (OSError, ValueError) as error:
            raise InputError(
                f"qc.exclude_regions: {name} cannot be read ({error}); name a BED "
                f"file, or one of {', '.join(SHIPPED_REGIONS)}"
            ) from error
    return [
        _parse(line, f"{name} line {number}")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith(("#", "track", "browser"))
    ]


def _parse(line: str, where: str) -> Region:
    fields = line.split()
    if len(fields) >= 3 and fields[1].isdecimal() and fields[2].isdecimal():
        region = Region(fields[0], int(fields[1]), int(fields[2]))
        if region.start < region.stop:
            return region
    raise InputError(
        f"{where}: {line.strip()!r} is not a contig, a start and a stop beyond it; "
        "write them as BED does, separated by tabs"
    )


def inside(
    contig_names: npt.NDArray[np.str_],
    contig_numbers: npt.NDArray[np.integer[Any]],
    positions: npt.NDArray[np.int64],
    regions: list[Region],
) -> npt.NDArray[np.bool_]:
    """True for the variants that lie in any of the regions.

    Parameters
    ----------
    contig_names
        Names of the contigs.
    contig_numbers, positions
        Contig, by number, and base pair from 1 of each variant.

    >>> names, numbers = np.array(["chr6"]), np.zeros(3, np.int64)
    >>> inside(names, numbers, np.array([10, 11, 20]), [Region("6", 10, 19)])
    array([False,  True, False])
    """
    keys = np.array([contig_key(name) for name in contig_names.tolist()])
    found = np.zeros(positions.size, np.bool_)
    for region in regions:
        numbers = np.flatnonzero(keys == contig_key(region.contig))
        within = (positions > region.start) & (positions <= region.stop)
        found |= within & np.isin(contig_numbers, numbers)
    return found
