"""What a cohort has of a model: one genome build, known strands, variants enough.

Reads genotypes to count alleles: those of the A/T and C/G variants whose strand the
frequencies are to tell, and those that tell which allele the model counts. Writes
nothing. Invariant: of what is left unsettled, nothing is used.
"""

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import allele_direction, counted_allele, genome_build, plan, strands
from pipeline.alleles import OTHER_STRAND, Orientation
from pipeline.calls import count_calls
from pipeline.cohort import Cohort
from pipeline.config import CHECK, GIVEN, TRUSTED, ApplyConfig
from pipeline.errors import InputError
from pipeline.match import Match, ModelStore
from pipeline.quantities import count_things

logger = logging.getLogger(__name__)

# Variants that tell a cohort's mean ancestry: enough for its third digit.
_MAX_REFERENCE = 20_000
# Chunks of people that tell which allele a model counts, where nothing else is counted.
_MAX_CHUNKS = 4

Mask = npt.NDArray[np.bool_]


def check_build(model: ModelStore, cohort: Cohort) -> str:
    """Refuse a cohort on another genome build than the model's, where both are known.

    Returns
    -------
    The cohort's build, one of `genome_build.BUILDS`.

    Raises
    ------
    InputError
        If the builds are known and differ.
    """
    ours = model.attrs.get("genome_build", genome_build.UNKNOWN)
    theirs = cohort.genome_build
    if genome_build.UNKNOWN not in (ours, theirs) and ours != theirs:
        raise InputError(
            f"{cohort.url} is on genome build {theirs}, and {model.path} on {ours}; "
            "lift the cohort over, or use a model of its build"
        )
    return theirs


def check_overlap(
    match: Match, model: ModelStore, cohort: Cohort, config: ApplyConfig
) -> None:
    """Refuse a cohort that has too few of the model's variants, whatever their strand.

    Raises
    ------
    InputError
        If it has fewer than the configuration asks for.
    """
    found, total = int(np.count_nonzero(match.index >= 0)), len(match.index)
    if found < config.min_overlap * total:
        raise InputError(
            f"{cohort.url} has {found} of the {total} variants of {model.path}, and "
            f"{config.min_overlap:.0%} are needed (apply.min_overlap); check that both "
            "are of the same genome build and name contigs and alleles alike"
        )


def settle_strands(
    match: Match,
    model: ModelStore,
    cohort: Cohort,
    config: ApplyConfig,
    people: Mask | None = None,
) -> Match:
    """Use A/T and C/G variants or leave them out, as `config.strand` says.

    Parameters
    ----------
    match
        The model's variants in the cohort.
    model
        The model.
    cohort
        The cohort, of which everybody is counted where frequencies decide.
    config
        Strand, and the smallest overlap.
    people
        Those who are projected; by default everybody.

    Raises
    ------
    InputError
        If too few variants are left, the cohort's frequencies run against the model's,
        or its genotypes cannot be read.
    """
    if people is None:
        people = np.ones(cohort.n_samples, bool)
    match = trust_strands(match, cohort, config)
    asked = variants_to_count(match, config)
    counted = people if asked.has_ambiguous else _some(people, cohort.sample_chunk)
    counts = _count_alleles(asked, cohort, counted)
    check_direction(model, cohort, asked, counts)
    match = decide_strands(match, model, asked, counts)
    check_used(match, model, cohort, config)
    return match


def _some(people: Mask, sample_chunk: int) -> Mask:
    """Those of a few chunks of people, evenly spaced among the chunks with anybody."""
    chunk = np.arange(len(people)) // sample_chunk
    there = np.unique(chunk[people])
    return people & np.isin(chunk, there[plan.evenly_spaced(len(there), _MAX_CHUNKS)])


def check_direction(
    model: ModelStore, cohort: Cohort, asked: "Asked", counts: "Counted"
) -> None:
    """Refuse a cohort whose allele frequencies run against those of the model.

    Raises
    ------
    InputError
        If the model counts the other allele than it says.
    """
    alternate, total = (each[: asked.n_reference] for each in counts)
    variants = asked.variants[: asked.n_reference]
    p = model.read("variant_population_frequency").T[:, variants]
    found = allele_direction.correlate(alternate, total, p)
    if not found.runs_against:
        return
    remedy = (
        "one of the two counts the other allele: check which one is the reference, "
        "and make it again"
    )
    if model.attrs.get("method") == GIVEN:
        known = model.attrs.get("counted_allele", counted_allele.ALTERNATE)
        number = counted_allele.NUMBERS[counted_allele.other(known)]
        remedy = (
            "its P counts the other allele; make the model again with `streamixture "
            f"import-model --allele {number}`"
        )
    raise InputError(
        f"{cohort.url}: allele frequencies of {found.n_variants} variants run against "
        f"those of {model.path} (correlation {-found.against:.2f}); {remedy}"
    )


def check_used(
    match: Match, model: ModelStore, cohort: Cohort, config: ApplyConfig
) -> None:
    """Refuse a cohort of which too few variants are left once strands are settled.

    Raises
    ------
    InputError
        If so.
    """
    counts, total = match.counts, len(match.index)
    if counts.n_used < config.min_overlap * total:
        raise InputError(
            f"{cohort.url} has {counts.n_used} of the {total} variants of {model.path} "
            f"and {counts.n_ambiguous} more of ambiguous strand (A/T and C/G), and "
            f"{config.min_overlap:.0%} are needed (apply.min_overlap); if it is on the "
            "model's strand, say --strand trusted"
        )


def trust_strands(match: Match, cohort: Cohort, config: ApplyConfig) -> Match:
    """Take A/T and C/G variants to be on their written strand, if this is trusted."""
    if config.strand != TRUSTED:
        return match
    opposite = match.used & ((match.orientation & Orientation.COMPLEMENTED) > 0)
    if opposite.any():
        logger.warning(
            "%s: %s on the opposite strand, though strands are trusted",
            cohort.url,
            count_things(np.count_nonzero(opposite), "variant is", "variants are"),
        )
    return replace(match, ambiguous=np.zeros_like(match.ambiguous))


class Asked(NamedTuple):
    """Variants whose alleles are counted so that frequencies tell strands.

    Attributes
    ----------
    rows
        Their rows in the cohort.
    swapped
        Whose alleles are the other way round than the model's.
    variants
        Their positions in the model, those of known strand first.
    n_reference
        How many of these there are.
    slots
        As `decode.Columns` has them.
    """

    rows: npt.NDArray[np.int64]
    swapped: npt.NDArray[np.bool_]
    variants: npt.NDArray[np.intp]
    n_reference: int
    slots: npt.NDArray[np.int8] | None = None

    @property
    def has_ambiguous(self) -> bool:
        """Whether there is a strand to tell, and enough to tell it by."""
        return len(self.variants) > self.n_reference

    def turned(self, alternate: npt.NDArray[Any], total: npt.NDArray[Any]) -> "Counted":
        """Counts of the model's alternate alleles from those of the cohort's."""
        alternate = np.where(self.swapped, total - alternate, alternate)
        return Counted(alternate.astype(np.float64), total.astype(np.float64))


class Counted(NamedTuple):
    """The model's alternate alleles, as they are written, and all that are called."""

    alternate: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]


def variants_to_count(match: Match, config: ApplyConfig) -> Asked:
    """The variants to count for `check_direction` and `decide_strands`."""
    reference = np.flatnonzero(match.used)
    reference = reference[plan.evenly_spaced(len(reference), _MAX_REFERENCE)]
    ambiguous = np.flatnonzero(match.ambiguous)
    if config.strand != CHECK or len(reference) < strands.MIN_REFERENCE:
        ambiguous = ambiguous[:0]
    variants = np.append(reference, ambiguous)
    rows, swapped = match.index[variants], match.swapped[variants]
    slots = None if match.slots is None else match.slots[variants]
    return Asked(rows, swapped, variants, len(reference), slots)


def decide_strands(
    match: Match, model: ModelStore, asked: Asked, counted: Counted
) -> Match:
    """Tell the strand of A/T and C/G variants by their frequencies, where they do."""
    if not asked.has_ambiguous:
        return match
    alternate, total = counted
    reference, ambiguous = np.split(asked.variants, [asked.n_reference])
    called = np.flatnonzero(total[: asked.n_reference])
    frequency = alternate[called] / total[called]
    p = model.read("variant_population_frequency").T
    known = p[:, reference[called]].astype(np.float64)
    mixture = strands.mean_ancestry(frequency, known)
    spread = strands.dispersion(frequency, total[called], mixture @ known)
    decision = strands.decide(
        alternate[asked.n_reference :],
        total[asked.n_reference :],
        mixture @ p[:, ambiguous].astype(np.float64),
        spread,
    )
    orientation, left_out = match.orientation.copy(), match.ambiguous.copy()
    orientation[ambiguous[decision < 0]] ^= np.uint8(OTHER_STRAND)
    left_out[ambiguous[decision != 0]] = False
    n_decided = int(np.count_nonzero(decision))
    return replace(
        match, orientation=orientation, ambiguous=left_out, n_decided=n_decided
    )


def _count_alleles(asked: Asked, cohort: Cohort, people: Mask) -> Counted:
    wanted = np.zeros(cohort.n_variants, bool)
    wanted[asked.rows] = True
    counts = count_calls(cohort, wanted, people)
    return asked.turned(counts.n_alternate[asked.rows], counts.n_alleles[asked.rows])
