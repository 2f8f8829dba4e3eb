"""Commands of other programs that error messages recommend.

Each is run by a test on the input whose message recommends it, with PLINK 2.00a3.5 and
bcftools 1.16 (tests/test_pipeline_advice.py). NEW stands for a name that the user
chooses.
"""

from pathlib import Path

# Names after the two alleles in their alphabet's order, so that a variant that is
# there twice, either way round, has one name.
ONE_OF_EACH = (
    "plink2 --set-all-var-ids '@:#:$1:$2' --rm-dup force-first --make-pgen --out NEW "
    "keeps the first of each"
)
INDEX = "bcftools index makes it, after bcftools sort where records are out of order"
BGZIP = "bcftools view -Oz -o NEW.vcf.gz writes it so, and bcftools index its index"
RENAME_PEOPLE = "bcftools reheader -s NAMES gives each a name of its own"
ONE_HEADER = (
    "their headers declare different things; bcftools concat -Oz -o NEW.vcf.gz FILES, "
    "then bcftools index NEW.vcf.gz, makes one file of them"
)
SORT_VCF = "bcftools sort -Oz -o NEW.vcf.gz, then bcftools index"
SORT = (
    "put them in order before the import (plink2 --sort-vars --make-pgen --out NEW, or "
    "bcftools sort)"
)
BED_BY_VARIANTS = "plink2 --make-bed writes it variant by variant"


def merge_filesets(suffix: str) -> str:
    """How to make one fileset of several, each of some variants.

    Of PLINK 1, `plink --merge-list` would take all variants without an id for one.
    """
    bfile = " bfile" if suffix == ".bed" else ""
    return (
        f"merge them with plink2 --pmerge-list LIST{bfile} --make-pgen --out NEW, LIST "
        f"having their names without {suffix}"
    )


MERGE_BGEN = (
    "make each a fileset with plink2 --bgen FILE ref-first --make-pgen, merge these "
    "with plink2 --pmerge-list LIST --make-pgen --out NEW, and import NEW.pgen with "
    "--dosages"
)


def bgen_as_pgen(bgen: Path, sample: Path | None, *, autosomes: bool = False) -> str:
    """How to make of a BGEN file dosages that can be read."""
    people = "" if sample is None else f" --sample {sample}"
    chosen = " --chr 1-22" if autosomes else ""
    return (
        f"plink2 --bgen {bgen} ref-first{people}{chosen} --make-pgen erase-phase --out "
        "NEW, and import NEW.pgen with --dosages"
    )


def order_people(first: Path) -> str:
    """How to put the people of all VCF files in the order of the first."""
    return (
        f"bcftools query -l {first} > IDS, then for each file bcftools view -S IDS -Oz "
        "-o NEW.vcf.gz FILE and bcftools index NEW.vcf.gz, puts people in one order"
    )


def dosages_of_probabilities(vcf: str) -> str:
    """How to make dosages of the genotype probabilities of a VCF file."""
    return (
        f"plink2 --vcf {vcf} dosage=GP --make-pgen --out NEW makes dosages of its "
        "genotype probabilities; import NEW.pgen with --dosages"
    )
