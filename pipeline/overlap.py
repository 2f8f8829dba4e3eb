"""What a cohort has of a model: one genome build, known strands, variants enough.

Reads the genotypes of the A/T and C/G variants whose strand the frequencies are to
tell; writes nothing. Invariant: of what is left unsettled, nothing is used.
"""

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline import genome_build, plan, strands
from pipeline.alleles import OTHER_STRAND, Orientation
from pipeline.calls import count_calls
from pipeline.cohort import Cohort
from pipeline.config import CHECK, TRUSTED, ApplyConfig
from pipeline.errors import InputError
from pipeline.match import Match
from pipeline.store import Store

logger = logging.getLogger(__name__)

# Variants that tell a cohort's mean ancestry: enough for its third digit.
_MAX_REFERENCE = 20_000


def check_build(model: Store, cohort: Cohort) -> str:
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
    match: Match, model: Store, cohort: Cohort, config: ApplyConfig
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
    match: Match, model: Store, cohort: Cohort, config: ApplyConfig
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

    Raises
    ------
    InputError
        If too few variants are left, or the cohort's genotypes cannot be read.
    """
    if config.strand == TRUSTED:
        match = _trust(match, cohort)
    elif config.strand == CHECK:
        match = _decide(match, model, cohort)
    counts, total = match.counts, len(match.index)
    if counts.n_used < config.min_overlap * total:
        raise InputError(
            f"{cohort.url} has {counts.n_used} of the {total} variants of {model.path} "
            f"and {counts.n_ambiguous} more of ambiguous strand (A/T and C/G), and "
            f"{config.min_overlap:.0%} are needed (apply.min_overlap); if it is on the "
            "model's strand, say --strand trusted"
        )
    return match


def _trust(match: Match, cohort: Cohort) -> Match:
    """Take A/T and C/G variants to be on the strand that they are written on."""
    opposite = match.used & ((match.orientation & Orientation.COMPLEMENTED) > 0)
    if opposite.any():
        logger.warning(
            "%s: %d variants are on the opposite strand, though strands are trusted",
            cohort.url,
            np.count_nonzero(opposite),
        )
    return replace(match, ambiguous=np.zeros_like(match.ambiguous))


def _decide(match: Match, model: Store, cohort: Cohort) -> Match:
    """Tell the strand of A/T and C/G variants by their frequencies, where they do."""
    asked = np.flatnonzero(match.ambiguous)
    reference = np.flatnonzero(match.used)
    reference = reference[plan.evenly_spaced(len(reference), _MAX_REFERENCE)]
    if not asked.size or len(reference) < strands.MIN_REFERENCE:
        return match
    alternate, total = _count_alleles(match, np.append(reference, asked), cohort)
    n_reference = len(reference)
    called = np.flatnonzero(total[:n_reference])
    frequency = alternate[called] / total[called]
    p = model.read("variant_population_frequency").T
    known = p[:, reference[called]].astype(np.float64)
    mixture = strands.mean_ancestry(frequency, known)
    spread = strands.dispersion(frequency, total[called], mixture @ known)
    decision = strands.decide(
        alternate[n_reference:],
        total[n_reference:],
        mixture @ p[:, asked].astype(np.float64),
        spread,
    )
    orientation, ambiguous = match.orientation.copy(), match.ambiguous.copy()
    orientation[asked[decision < 0]] ^= np.uint8(OTHER_STRAND)
    ambiguous[asked[decision != 0]] = False
    n_decided = int(np.count_nonzero(decision))
    return replace(
        match, orientation=orientation, ambiguous=ambiguous, n_decided=n_decided
    )


def _count_alleles(
    match: Match, variants: npt.NDArray[np.intp], cohort: Cohort
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The model's alternate alleles, as they are written, and all that are called."""
    rows = match.index[variants]
    wanted = np.zeros(cohort.n_variants, bool)
    wanted[rows] = True
    counts = count_calls(cohort, wanted, np.ones(cohort.n_samples, bool))
    total, alternate = counts.n_alleles[rows], counts.n_alternate[rows]
    alternate = np.where(match.swapped[variants], total - alternate, alternate)
    return alternate, total.astype(np.float64)
