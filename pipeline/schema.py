"""Every array that the pipeline stores: name, dimensions, type and meaning, once.

Names follow sgkit: dimensions `samples` and `variants`, variables prefixed by the
axis that they live on. The stores are laid out from these specifications, and their
text is written into each array's attributes.
"""

import dataclasses
from collections.abc import Container
from dataclasses import dataclass

import numpy as np

SCHEMA_VERSION = 1

# Arrays of a cohort that the calls are read from, each where there is none before it:
# genotypes, dosages, and dosages of a VCF as bio2zarr names them, one an alternate
# allele.
CALLS, DOSAGES, VCF_DOSAGES = "call_genotype", "call_dosage", "call_DS"


def calls_array(names: Container[str]) -> str:
    """Name of the array that the calls are read from, of those that a store has.

    >>> calls_array(["call_DS", "call_dosage"]), calls_array([])
    ('call_dosage', 'call_genotype')
    """
    known = (CALLS, DOSAGES, VCF_DOSAGES)
    return next((name for name in known if name in names), CALLS)


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store.

    Attributes
    ----------
    dims
        Names of the dimensions.
    dtype
        numpy dtype; "str" is variable-length text.
    doc
        Meaning, unit, range and missing code.
    """

    dims: tuple[str, ...]
    dtype: str
    doc: str


VARIANT_KEYS = {
    "variant_contig_name": ArraySpec(
        ("variants",), "str", "Name of the contig that the variant lies on."
    ),
    "variant_position": ArraySpec(
        ("variants",), "int64", "Position on the contig, in base pairs from 1."
    ),
    "variant_allele": ArraySpec(
        ("variants", "alleles"), "str", "Reference allele, then the alternate counted."
    ),
    "variant_id": ArraySpec(("variants",), "str", "Id of the variant, '.' if none."),
}

PREPARED = {
    **VARIANT_KEYS,
    "variant_index": ArraySpec(
        ("variants",), "int64", "Row of the variant in the cohort's call_genotype."
    ),
    "variant_frequency": ArraySpec(
        ("variants",),
        "float64",
        "Frequency of the alternate allele among the people in sample_in_fit.",
    ),
    "sample_id": ArraySpec(("samples",), "str", "Id of the person."),
    "sample_call_rate": ArraySpec(
        ("samples",),
        "float64",
        "Fraction of the person's genotypes that are called, over the variants whose "
        "own call rate is high enough.",
    ),
    "sample_in_fit": ArraySpec(
        ("samples",),
        "bool",
        "Whether the person informs the fit: false for those whom quality control left "
        "out, relatives who are projected among them, and where a model is applied.",
    ),
    "sample_n_called": ArraySpec(
        ("samples",), "int64", "Number of the person's called genotypes."
    ),
    "call_genotype_packed": ArraySpec(
        ("samples", "variant_bytes"),
        "uint8",
        "Alternate alleles counted at two bits a genotype, four variants to a byte "
        "from the lowest bits up; 3 is missing.",
    ),
}

# What the array above is where two bits cannot hold the calls.
_PACKED_WIDER = {
    "uint16": "Calls at four bits, four variants to an element from the lowest bits "
    "up: 0, 1, 2 count alternate alleles of two observed, 4, 5 of one; 15 is missing.",
    "uint64": "Dosages at sixteen bits, four variants to an element from the lowest "
    "bits up: expected alternate alleles of two in units of 2**-14, or, plus 36864, of "
    "one; 65535 is missing.",
}


def packed_calls(dtype: str) -> ArraySpec:
    """Specification of call_genotype_packed for calls of one encoding, by its dtype."""
    spec = PREPARED["call_genotype_packed"]
    if dtype == spec.dtype:
        return spec
    return dataclasses.replace(spec, dtype=dtype, doc=_PACKED_WIDER[dtype])


# Kept until a store is filled.
BLOCK_COUNTS = "block_genotype_count"


def block_counts(n_people: int) -> ArraySpec:
    """Specification of the genotype counts of blocks of at most so many people."""
    return ArraySpec(
        ("blocks", "variants", "genotypes"),
        np.min_scalar_type(n_people).name,
        "People of each block with 0, 1 and 2 alternate alleles.",
    )


MODEL = {
    **VARIANT_KEYS,
    "variant_population_frequency": ArraySpec(
        ("variants", "populations"),
        "float32",
        "P: frequency of the alternate allele in each population, inside (0, 1).",
    ),
    "variant_encoder_centre": ArraySpec(
        ("variants",), "float32", "Frequency that the encoder centres genotypes on."
    ),
    "variant_encoder_projection": ArraySpec(
        ("variants", "features"),
        "float32",
        "Fixed first layer of the encoder: genotypes, halved and centred, to features.",
    ),
}

ANCESTRY_MEAN = ArraySpec(
    ("populations",),
    "float32",
    "Mean Q of the people of the fit, of a model without an encoder: projections start "
    "from it and the features, added up.",
)

FITTED_PEOPLE = ArraySpec(
    ("fitted_samples",),
    "uint64",
    "Digests, rising, of the genotypes of the people whom P was estimated from.",
)

# Of a model that was fitted to the maximum of the likelihood.
POPULATION_ERROR = {
    "population_frequency_noise": ArraySpec(
        ("populations_0", "populations_1"),
        "float32",
        "What the noise of P adds to the Hessian of a person's log-likelihood in Q, "
        "for each called genotype.",
    ),
    "population_basis_mean_square": ArraySpec(
        ("populations", "populations_0", "populations_1"),
        "float32",
        "For each population a matrix whose quadratic form in a person's Q is the mean "
        "square error of that entry of it which all people share.",
    ),
    "population_basis_bias": ArraySpec(
        ("populations_0", "populations_1"),
        "float32",
        "The part of that error which is no chance: a person's true Q is about "
        "Q + Q times this.",
    ),
}

ANCESTRY = {
    **VARIANT_KEYS,
    "variant_population_frequency": MODEL["variant_population_frequency"],
    "sample_id": PREPARED["sample_id"],
    "sample_in_fit": PREPARED["sample_in_fit"],
    "sample_ancestry_proportion": ArraySpec(
        ("samples", "populations"),
        "float32",
        "Q: share of each population in the person's ancestry, rows summing to 1; "
        "NaN for a person without any called genotype.",
    ),
    "sample_log_likelihood": ArraySpec(
        ("samples",),
        "float64",
        "Log-likelihood of the person's called genotypes at Q and P, in nats, "
        "without the binomial coefficient.",
    ),
    "sample_n_called": PREPARED["sample_n_called"],
}

POPULATION = ArraySpec(
    ("samples",),
    "str",
    "Group of the person that the report shows, from the cohort or the file of groups; "
    "empty where there is none.",
)
GROUPS = {
    "sample_group": ArraySpec(
        ("samples", "group_columns"),
        "str",
        "Further columns of the file of groups; empty for people without a line.",
    ),
    "group_column_id": ArraySpec(
        ("group_columns",), "str", "Name of each of these columns."
    ),
}
STANDARD_ERROR = ArraySpec(
    ("samples", "populations"),
    "float32",
    "Standard error of Q, in [0, 0.5]: 1.96 of them to either side are to hold the "
    "truth 95 times in 100. It counts the error of the populations where the model has "
    "that, else P is taken as known; 0 where Q was given or there is one population, "
    "0.5 for a person without any called genotype, whose Q is NaN.",
)
POPULATION_ID = ArraySpec(
    ("populations",),
    "str",
    "Name of the population, where people were labelled: the labels in order, then "
    "population_N for the others.",
)
# What every person has of the fit check, and the people they were compared with.
FIT_CHECK = {
    "sample_residual_correlation": ArraySpec(
        ("samples",),
        "float32",
        "Median residual correlation with the references most alike, in [-1, 1]: about "
        "0 where the populations describe the person, NaN without called genotypes.",
    ),
    "sample_residual_correlation_se": ArraySpec(
        ("samples",), "float32", "Standard error of it where they do."
    ),
    "sample_poorly_described": ArraySpec(
        ("samples",),
        "bool",
        "Whether that correlation is above the threshold, and above 3.5 of its "
        "standard errors.",
    ),
}
REFERENCES = {
    "reference_sample": ArraySpec(
        ("references",), "int64", "Positions of the references, rising."
    ),
    "reference_residual_correlation": ArraySpec(
        ("references_0", "references_1"),
        "float32",
        "Residual correlation of each two references, corrected for the estimation of "
        "P from them; NaN with themselves.",
    ),
    "population_residual_correlation": ArraySpec(
        ("populations_0", "populations_1"),
        "float32",
        "Mean of it over the pairs of references of two populations, each person in "
        "that of most of their ancestry; NaN where there is no pair.",
    ),
}
# What tells who has to be projected again, in the versions of a result.
REPROCESSED = {
    "sample_genotype_digest": ArraySpec(
        ("samples", "digest_words"),
        "uint64",
        "Digest of the person's genotypes at the model's variants, 128 bits.",
    ),
    "sample_version": ArraySpec(
        ("samples",),
        "int64",
        "Version in which the person came, or their genotypes changed last.",
    ),
}
OPTIONAL_ANCESTRY = {
    "population_id": POPULATION_ID,
    "sample_population": POPULATION,
    **GROUPS,
    "sample_ancestry_proportion_se": STANDARD_ERROR,
    **FIT_CHECK,
    **REFERENCES,
    **REPROCESSED,
}

RELATIVES = {
    "relatives_sample": ArraySpec(
        ("relatives", "pair"),
        "int64",
        "Positions of the two of each pair of close relatives; the earlier first.",
    ),
    "relatives_kinship": ArraySpec(
        ("relatives",),
        "float32",
        "KING-robust kinship coefficient of each pair: 0.5 for the same person "
        "twice, twins and copies of a line, about 0.25 for first-degree and 0.125 for "
        "second-degree relatives.",
    ),
}

ALTERNATE_SLOT = "variant_alternate_slot"
PREPARED_SLOT = ArraySpec(
    ("variants",),
    "int8",
    "Number of the alternate allele in the cohort, where others stand for no allele; "
    "0 where there is none, -1 elsewhere.",
)

PREPARED_SWAPPED = ArraySpec(
    ("variants",),
    "bool",
    "Whether the cohort's alleles are the other way round than the model's.",
)
