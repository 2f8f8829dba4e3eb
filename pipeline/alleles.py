"""How the alleles of one variant, as two cohorts write them, relate to each other.

Pure functions of text. Either cohort may have the reference and alternate allele the
other way round, and may report the opposite strand, where each base is written as its
complement. Only single bases are complemented: an insertion or deletion is written
with the base before it, which on the opposite strand is another base at another
position, so these, and symbolic or coded alleles, are compared as they are written.
"""

from enum import IntFlag
from functools import lru_cache
from typing import NamedTuple

UNOBSERVED = frozenset(["", ".", "0"])
"""How VCF, PLINK and VCF Zarr write an allele that nobody in the cohort carries."""

PLACEHOLDERS = frozenset(["<NON_REF>", "<*>", "*"])
"""Alternates that stand for no allele: of gVCF, and for a deletion begun before."""

_COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "": ""}

Pair = tuple[str, str]


class Orientation(IntFlag):
    """What turns a cohort's alleles into the model's."""

    AS_WRITTEN = 0
    SWAPPED = 1
    COMPLEMENTED = 2


OTHER_STRAND = Orientation.SWAPPED | Orientation.COMPLEMENTED
"""What turns the orientation of A/T and C/G alleles to that of the other strand."""


class Relation(NamedTuple):
    """How a cohort's pair of alleles is read as a model's.

    Attributes
    ----------
    orientation
        What turns one into the other; the strand as written where both strands do.
    either_strand
        Whether the opposite strand would give the same pair the other way round, as
        for A/T and C/G: the alleles do not tell which is counted.
    complete
        Whether neither pair lacks an allele.
    """

    orientation: Orientation
    either_strand: bool
    complete: bool

    @property
    def rank(self) -> int:
        """Order of preference among several variants: the lowest is the best."""
        return 4 * (not self.complete) + int(self.orientation)


def normalise(allele: str) -> str:
    """An allele in upper case, and '' for one that nobody carries.

    >>> normalise("acG"), normalise("0"), normalise("<del>"), normalise("<NON_REF>")
    ('ACG', '', '<DEL>', '')
    """
    return "" if allele in UNOBSERVED | PLACEHOLDERS else allele.upper()


@lru_cache(maxsize=65_536)
def relate(model: Pair, cohort: Pair) -> Relation | None:
    """How a cohort's reference and alternate allele are a model's; None if they differ.

    An allele that one of the two has not observed ('') may be any, as long as the
    alleles are single characters: the one that is there tells which is counted.

    Parameters
    ----------
    model, cohort
        Reference and alternate allele, normalised.

    >>> relate(("A", "C"), ("C", "A")).orientation.name
    'SWAPPED'
    >>> relate(("A", "C"), ("G", "T")).orientation.name
    'SWAPPED|COMPLEMENTED'
    >>> relate(("A", "T"), ("A", "T")).either_strand
    True
    >>> relate(("A", "C"), ("A", "G")) is None
    True
    """
    if model[0] == model[1] or cohort[0] == cohort[1]:
        return None
    n_unobserved = (*model, *cohort).count("")
    complete = n_unobserved == 0
    same = _order(model, cohort)
    opposite = None
    # An A alone and a T alone may be the two strands, or the two alleles.
    if n_unobserved < 2 and _COMPLEMENT.keys() >= {*model, *cohort}:
        opposite = _order(model, (_COMPLEMENT[cohort[0]], _COMPLEMENT[cohort[1]]))
    if same is not None:
        return Relation(same, opposite is not None, complete)
    if opposite is not None:
        return Relation(opposite | Orientation.COMPLEMENTED, False, complete)
    return None


def _order(model: Pair, cohort: Pair) -> Orientation | None:
    """Whether the cohort's alleles are the model's, in order or swapped."""
    if _agree(model, cohort):
        return Orientation.AS_WRITTEN
    if _agree(model, (cohort[1], cohort[0])):
        return Orientation.SWAPPED
    return None


def _agree(first: Pair, second: Pair) -> bool:
    if first == second:
        return True
    if "" not in first + second or max(map(len, first + second)) > 1:
        return False
    pairs = list(zip(first, second, strict=True))
    known = [(a, b) for a, b in pairs if a and b]
    return bool(known) and all(a == b for a, b in known)
