"""Which contigs are autosomes, by their names.

Pure arithmetic on names. Only what is known to be another chromosome is told apart, so
that the contigs of simulated cohorts and of other species stay.
"""

import re

import numpy as np
import numpy.typing as npt

# Names of UCSC and Ensembl, with alternative and unplaced sequences; RefSeq's of man.
_X = re.compile(r"(chr)?(x|xy|par[12]?)(_.*)?|nc_000023\..*", re.IGNORECASE)
_OTHER = re.compile(r"(chr)?(y|m|mt)(_.*)?|nc_000024\..*|nc_012920\..*", re.IGNORECASE)
# PLINK's numbers of human X, Y, X and Y alike, and mitochondria.
_X_NUMBERS, _OTHER_NUMBERS = {23, 25}, {24, 26}
_NUMBER = re.compile(r"(chr)?0*([0-9]+)", re.IGNORECASE)


def informative(
    names: npt.NDArray[np.str_], *, include_x: bool
) -> npt.NDArray[np.bool_]:
    """True for the contigs whose variants may inform the fit.

    Autosomes and contigs of unknown kind; with ``include_x`` X, and what X and Y
    share, too. The numbers 23 to 26 stand for other chromosomes, as in PLINK, unless a
    contig has a higher one: then they are autosomes of a species that has so many.

    Parameters
    ----------
    names
        Names of all contigs of a cohort.
    include_x
        Whether X counts.

    >>> informative(np.array(["chr1", "X", "chrY", "scaffold9", "MT"]), include_x=False)
    array([ True, False, False,  True, False])
    >>> informative(np.array(["22", "23", "24"]), include_x=True)
    array([ True,  True, False])
    >>> informative(np.array(["1", "23", "29", "X"]), include_x=False)
    array([ True,  True,  True, False])
    """
    numbers = [_number(name) for name in names.tolist()]
    human = max(numbers, default=0) <= max(_OTHER_NUMBERS)
    return np.array(
        [
            _keeps(name, number if human else 0, include_x)
            for name, number in zip(names.tolist(), numbers, strict=True)
        ],
        bool,
    )


def _number(name: str) -> int:
    match = _NUMBER.fullmatch(name)
    return int(match[2]) if match else 0


def _keeps(name: str, number: int, include_x: bool) -> bool:
    if number in _OTHER_NUMBERS or _OTHER.fullmatch(name):
        return False
    return include_x or not (number in _X_NUMBERS or _X.fullmatch(name))
