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
_NUMBER = re.compile(r"(chr)?0*([0-9]+)", re.IGNORECASE)
# After the last autosome PLINK numbers X, Y, what X and Y share, and mitochondria.
_X_CODES, _OTHER_CODES = {1, 3}, {2, 4}
_HUMAN_AUTOSOMES = 22


def informative(
    names: npt.NDArray[np.str_], *, include_x: bool, n_autosomes: int = 0
) -> npt.NDArray[np.bool_]:
    """True for the contigs whose variants may inform the fit.

    Autosomes and contigs of unknown kind; with ``include_x`` X, and what X and Y
    share, too.

    Parameters
    ----------
    names
        Names of all contigs of a cohort.
    include_x
        Whether X counts.
    n_autosomes
        Number of the last autosome; the four after it are X, Y, what these share, and
        mitochondria, as in PLINK, and those beyond are left out. 0 takes the numbers
        23 to 26 for those of man, unless X, Y or mitochondria are named too, or a
        higher number is there: then all are autosomes.

    >>> informative(np.array(["chr1", "X", "chrY", "scaffold9", "MT"]), include_x=False)
    array([ True, False, False,  True, False])
    >>> informative(np.array(["22", "23", "24"]), include_x=True)
    array([ True,  True, False])
    >>> informative(np.array(["1", "23", "26", "X"]), include_x=False)
    array([ True,  True,  True, False])
    >>> informative(np.array(["26", "27"]), include_x=True, n_autosomes=26)
    array([ True,  True])
    """
    found = names.tolist()
    n_autosomes = n_autosomes or _presumed_autosomes(found)
    return np.array([_keeps(name, n_autosomes, include_x) for name in found], bool)


def are_presumed(names: npt.NDArray[np.str_]) -> bool:
    """Whether numbers are taken for X, Y or mitochondria by man's alone."""
    numbers = map(_number, names.tolist())
    return bool(_presumed_autosomes(names.tolist())) and any(
        number > _HUMAN_AUTOSOMES for number in numbers
    )


def _presumed_autosomes(names: list[str]) -> int:
    """Number of the last autosome where it is man's; 0 where there is no telling."""
    last_code = _HUMAN_AUTOSOMES + max(_OTHER_CODES)
    if any(_number(name) > last_code for name in names):
        return 0
    named = any(_X.fullmatch(name) or _OTHER.fullmatch(name) for name in names)
    return 0 if named else _HUMAN_AUTOSOMES


def _number(name: str) -> int:
    match = _NUMBER.fullmatch(name)
    return int(match[2]) if match else 0


def _keeps(name: str, n_autosomes: int, include_x: bool) -> bool:
    if _OTHER.fullmatch(name):
        return False
    if _X.fullmatch(name):
        return include_x
    code = _number(name) - n_autosomes if n_autosomes else 0
    return code <= 0 or (include_x and code in _X_CODES)
