"""Which of a variant's two alleles frequencies count, by name.

Stores count the alternate allele, which is allele 1 of PLINK's files. ADMIXTURE's P
counts allele 2, fastmixture2's and ADAMIXTURE's allele 1.

Names alone: what tells that a model counts the other allele is `allele_direction`.
"""

ALTERNATE, REFERENCE = "alternate", "reference"
# PLINK's numbers, the columns of a .bim file that hold the alleles.
NUMBERS = {ALTERNATE: "1", REFERENCE: "2"}
CHOICES = (*NUMBERS.values(), *NUMBERS)


def parse(text: str) -> str:
    """ALTERNATE or REFERENCE, as one of CHOICES names it.

    >>> parse("1"), parse("reference")
    ('alternate', 'reference')
    """
    by_number = {number: name for name, number in NUMBERS.items()}
    return by_number.get(text, text)


def other(allele: str) -> str:
    """The other of a variant's two alleles."""
    return REFERENCE if allele == ALTERNATE else ALTERNATE
