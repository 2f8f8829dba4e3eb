"""Quality control: which variants and which people inform the fit.

Reads a cohort's genotypes as they lie in its chunks; writes nothing. The filters run
in a fixed order: biallelic, autosomal, listed, excluded regions, called, variant
call rate, sample call rate, relatives, minor allele frequency, Hardy-Weinberg, linkage
disequilibrium. Invariant: the masks depend on the genotypes and the settings, never on
chunks or workers.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from estimator.packing import Encoding
from pipeline import calls, contigs, linkage, pruning, regions, relatedness, remedies
from pipeline.calls import CallCounts, CallSource, CohortCalls, Fractions, Mask
from pipeline.carried import carried_placeholders
from pipeline.cohort import Cohort
from pipeline.config import AUTO, AUTO_RELATIVES, IGNORE, PROJECT, QCConfig
from pipeline.errors import InputError
from pipeline.relatedness import Relatives
from pipeline.variant_list import listed_variants

Axis = Literal["variants", "samples"]

_SETTINGS = {
    "biallelic": "split multiallelic sites when writing the cohort",
    "autosomal": "set qc.autosomes or qc.include_x",
    "listed": "name another list in qc.variants",
    "excluded_regions": "set qc.exclude_regions otherwise",
    "called": "check how the cohort was converted",
    "variant_call_rate": "lower qc.min_variant_call_rate",
    "sample_call_rate": "lower qc.min_sample_call_rate",
    "relatives": 'set qc.relatives to "report"',
    "minor_allele_frequency": "lower qc.min_maf",
    "hardy_weinberg": "lower qc.min_hwe_p",
}
_HWE_CHUNK = 10_000
# Contigs that a line names.
_MAX_LISTED = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QCStep:
    """What one filter did.

    Attributes
    ----------
    name
        The filter.
    axis
        What it removes.
    threshold
        The setting it compared with; None if it has none or was switched off.
    removed, remaining
        Numbers of variants or people.
    """

    name: str
    axis: Axis
    threshold: float | None
    removed: int
    remaining: int


@dataclass(frozen=True, eq=False)
class QCResult:
    """What quality control keeps, and the statistics it decided on.

    Attributes
    ----------
    variant_mask, sample_mask
        True for what is kept.
    alternate_frequency
        Alternate allele frequency among the people kept, in [0, 1]; NaN for
        multiallelic variants and where nobody is called.
    sample_call_rate
        Fraction of a person's genotypes called, in [0, 1], over the variants that
        passed the variant call rate.
    steps
        The filters in the order they ran.
    encoding
        The narrowest that holds the calls of the variants kept, of everybody.
    relatives
        Pairs of close relatives among the people who passed the call rate; None where
        they were not looked for, or the variants were too few to tell.
    """

    variant_mask: Mask
    sample_mask: Mask
    alternate_frequency: Fractions
    sample_call_rate: Fractions
    steps: tuple[QCStep, ...]
    encoding: Encoding
    relatives: Relatives | None


def quality_control(
    cohort: Cohort, config: QCConfig, source: CallSource | None = None
) -> QCResult:
    """Choose the variants and people that inform the fit.

    Every genotype is counted once; what fails a call rate is counted again, to take it
    out of the other axis's counts, and the samples for kinship and for linkage
    disequilibrium are read for themselves.
    Frequencies and Hardy-Weinberg are those of the people kept; variant call rates
    are those of everyone.

    Parameters
    ----------
    cohort
        The cohort; computed with whatever dask scheduler is current.
    config
        Thresholds. With `enabled` False only multiallelic and uncalled variants go.
    source
        Where the calls of `candidate_variants` are, by default in the cohort.

    Raises
    ------
    InputError
        If a filter leaves no variants or nobody, if a biallelic variant has a call of
        a third allele or an impossible dosage, or, for linkage disequilibrium, if
        variants are not sorted.
    """
    everyone = np.ones(cohort.n_samples, dtype=np.bool_)
    source = source or CohortCalls(cohort)
    if not config.enabled:
        counts = source.count(biallelic_variants(cohort), everyone)
        return keep_called(cohort, counts)
    runs = _sorted_contigs(cohort) if config.max_ld_r2 < 1 else None
    filters = _filter_places(cohort, config)
    _log_other_contigs(cohort, config)
    counts = of_everyone = source.count(filters.variants, everyone)
    filters.keep_variants("called", counts.n_called > 0)
    called = filters.variants
    rate = config.min_variant_call_rate
    passing = counts.n_called / cohort.n_samples >= rate
    filters.keep_variants("variant_call_rate", passing, rate)
    failing = called & ~filters.variants
    failed = source.count(failing, everyone)
    sample_called = counts.sample_called - failed.sample_called
    sample_call_rate = sample_called / np.count_nonzero(filters.variants)
    rate = config.min_sample_call_rate
    filters.keep_samples("sample_call_rate", sample_call_rate >= rate, rate)
    counts = counts - source.count(called, ~filters.samples)
    passed = filters.samples
    relatives, unrelated = _filter_relatives(
        filters, source, counts, config, sample_call_rate
    )
    counts = counts - source.count(called, passed & ~filters.samples)
    _filter_frequencies(filters, counts, config)
    _filter_linkage(filters, source, counts, config, runs, unrelated)
    result = QCResult(
        variant_mask=filters.variants,
        sample_mask=filters.samples,
        alternate_frequency=counts.alternate_frequency,
        sample_call_rate=sample_call_rate,
        steps=tuple(filters.steps),
        encoding=of_everyone.encoding(filters.variants),
        relatives=relatives,
    )
    kept = result.alternate_frequency[result.variant_mask]
    _check_polymorphic(cohort, kept, result.steps)
    return result


def candidate_variants(cohort: Cohort, config: QCConfig) -> Mask:
    """True for the variants that may be kept, by all that is known without their calls.

    Raises
    ------
    InputError
        If there are none, or, for linkage disequilibrium, if they are not sorted.
    """
    if config.max_ld_r2 < 1:
        _sorted_contigs(cohort)
    return _filter_places(cohort, config).variants


def biallelic_variants(cohort: Cohort) -> Mask:
    """True for what the first filter keeps.

    Raises
    ------
    InputError
        If that is nothing.
    """
    return _Filters(cohort).variants


def keep_called(cohort: Cohort, counts: CallCounts) -> QCResult:
    """What is kept without quality control: biallelic variants that are called.

    Parameters
    ----------
    cohort
        The cohort.
    counts
        Of its biallelic variants in everybody.

    Raises
    ------
    InputError
        If nothing is left.
    """
    filters = _Filters(cohort)
    filters.keep_variants("called", counts.n_called > 0)
    result = QCResult(
        variant_mask=filters.variants,
        sample_mask=filters.samples,
        alternate_frequency=counts.alternate_frequency,
        sample_call_rate=counts.sample_called / np.count_nonzero(filters.variants),
        steps=tuple(filters.steps),
        encoding=counts.encoding(filters.variants),
        relatives=None,
    )
    kept = result.alternate_frequency[result.variant_mask]
    _check_polymorphic(cohort, kept, result.steps)
    return result


def nothing_left(steps: Sequence[QCStep], axis: Axis) -> str:
    """What to say where the last of the filters left nothing, and what to do.

    The filter that removed most is named: the last one need not be to blame.
    """
    of_axis = [step for step in steps if step.axis == axis]
    last, most = of_axis[-1], max(of_axis, key=lambda step: step.removed)
    what = "variants" if axis == "variants" else "people"
    total = sum(step.removed for step in of_axis)
    text = f"no {what} are left after the filter {_with_limit(last)}"
    if most is not last:
        text += f"; {_with_limit(most)} removed most ({most.removed} of {total})"
    return f"{text}; {_SETTINGS[most.name]}"


def _with_limit(step: QCStep) -> str:
    return (
        step.name
        if step.threshold is None
        else f"{step.name} (threshold {step.threshold})"
    )


def _check_polymorphic(
    cohort: Cohort, frequencies: Fractions, steps: Sequence[QCStep]
) -> None:
    """Refuse a cohort of which no variant that is left differs between people.

    Raises
    ------
    InputError
        If everybody has the same allele at all of them.
    """
    if ((frequencies > 0) & (frequencies < 1)).any():
        return
    of_variants = [step for step in steps if step.axis == "variants"]
    most = max(of_variants, key=lambda step: step.removed)
    remedy = "give variants at which people differ"
    if most.removed:
        remedy = (
            f"{_with_limit(most)} removed {most.removed} others; {_SETTINGS[most.name]}"
        )
    raise InputError(
        f"{cohort.url}: everybody has the same allele at all of the {frequencies.size} "
        f"variants that are left, which tell nothing of ancestry; {remedy}"
    )


class _Filters:
    """The variants and people kept so far, and the record of each filter.

    The first filter has run: nothing works without biallelic variants.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self.variants = np.ones(cohort.n_variants, dtype=np.bool_)
        self.samples = np.ones(cohort.n_samples, dtype=np.bool_)
        self.steps: list[QCStep] = []
        self.keep_variants(
            "biallelic", cohort.biallelic_mask & ~carried_placeholders(cohort)
        )

    def keep_variants(
        self, name: str, passing: Mask, threshold: float | None = None
    ) -> None:
        self.variants = self._keep("variants", name, self.variants, passing, threshold)

    def keep_samples(
        self, name: str, passing: Mask, threshold: float | None = None
    ) -> None:
        self.samples = self._keep("samples", name, self.samples, passing, threshold)

    def _keep(
        self,
        axis: Axis,
        name: str,
        before: Mask,
        passing: Mask,
        threshold: float | None,
    ) -> Mask:
        after = before & passing
        remaining = np.count_nonzero(after)
        removed = np.count_nonzero(before) - remaining
        self.steps.append(QCStep(name, axis, threshold, removed, remaining))
        if remaining == 0:
            raise InputError(f"{self.cohort.url}: {nothing_left(self.steps, axis)}")
        return after


def _filter_places(cohort: Cohort, config: QCConfig) -> _Filters:
    """The filters that know all they need before a call is read."""
    filters = _Filters(cohort)
    wanted = _informative_contigs(cohort, config)
    filters.keep_variants("autosomal", wanted[cohort.contig_numbers])
    if config.variants:
        filters.keep_variants("listed", listed_variants(config.variants, cohort))
    if config.exclude_regions:
        excluded = regions.inside(
            cohort.contig_names,
            cohort.contig_numbers,
            cohort.positions,
            regions.read_regions(config.exclude_regions),
        )
        filters.keep_variants("excluded_regions", ~excluded)
    return filters


def _informative_contigs(cohort: Cohort, config: QCConfig) -> Mask:
    return contigs.informative(
        cohort.contig_names,
        include_x=config.include_x,
        n_autosomes=config.autosomes,
    )


def _log_other_contigs(cohort: Cohort, config: QCConfig) -> None:
    """Say which contigs are left out, and how many variants they have."""
    names, numbers = cohort.contig_names, cohort.contig_numbers
    counts = np.bincount(numbers, minlength=len(names))
    wanted = _informative_contigs(cohort, config)
    left_out = np.flatnonzero(~wanted & (counts > 0))
    if not left_out.size:
        return
    listed = ", ".join(f"{names[n]} ({counts[n]})" for n in left_out[:_MAX_LISTED])
    listed += ", ..." if left_out.size > _MAX_LISTED else ""
    presumed = not config.autosomes and contigs.are_presumed(names[counts > 0])
    logger.log(
        logging.WARNING if presumed else logging.INFO,
        "%s: %d of %d variants are left out, on contigs that are no autosomes: %s%s",
        cohort.url,
        counts[left_out].sum(),
        counts.sum(),
        listed,
        "; these numbers are taken for man's X, Y, XY and MT: set qc.autosomes for "
        "another species"
        if presumed
        else "",
    )


def _filter_relatives(
    filters: _Filters,
    source: CallSource,
    counts: CallCounts,
    config: QCConfig,
    call_rate: Fractions,
) -> tuple[Relatives | None, Mask]:
    """Pairs of relatives, and a largest set of people without any.

    The others leave the fit only where the settings say so.
    """
    found = None
    if config.relatives != IGNORE:
        found = relatedness.search(
            filters.cohort,
            source,
            filters.variants,
            filters.samples,
            counts.minor_frequency,
            relatedness.SECOND_DEGREE,
            config.autosomes,
        )
    if found is None:
        filters.keep_samples("relatives", filters.samples)
        return None, filters.samples
    unrelated = filters.samples & relatedness.unrelated(found, call_rate)
    large = config.relatives == AUTO and filters.cohort.n_samples >= AUTO_RELATIVES
    if large or config.relatives == PROJECT:
        filters.keep_samples("relatives", unrelated, relatedness.SECOND_DEGREE)
    else:
        filters.keep_samples("relatives", filters.samples)
    return found, unrelated


def _filter_frequencies(
    filters: _Filters, counts: CallCounts, config: QCConfig
) -> None:
    maf = config.min_maf
    # Before the filter that would be blamed for variants which no setting brings back.
    frequencies = counts.minor_frequency[filters.variants]
    _check_polymorphic(filters.cohort, frequencies, filters.steps)
    # A variant that no kept person is called at has frequency NaN and fails.
    passing = counts.minor_frequency >= maf
    filters.keep_variants("minor_allele_frequency", passing, maf)
    if config.min_hwe_p == 0:
        filters.keep_variants("hardy_weinberg", filters.variants)
        return
    import sgkit

    kept = filters.variants
    dataset = xr.Dataset(
        {"variant_genotype_count": (("variants", "genotypes"), counts.genotypes[kept])},
        coords={"genotypes": np.array(calls.GENOTYPES)},
    ).chunk(variants=_HWE_CHUNK)
    test = sgkit.hardy_weinberg_test(dataset, ploidy=2, alleles=2, merge=False)
    passing = np.zeros_like(kept)
    # Without diploid calls there is nothing to test, and no number to compare.
    passing[kept] = ~(test["variant_hwe_p_value"].values < config.min_hwe_p)
    filters.keep_variants("hardy_weinberg", passing, config.min_hwe_p)


def _sorted_contigs(cohort: Cohort) -> npt.NDArray[np.int64]:
    """Return the number of every variant's contig, in order of appearance.

    Names and numbers of contigs may come in any order in a store.
    """
    contig = cohort.dataset["variant_contig"].values
    position = cohort.positions
    changes = contig[1:] != contig[:-1]
    run = np.concatenate([[0], np.cumsum(changes)])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    _, first_runs = np.unique(contig[starts], return_index=True)
    again = np.delete(starts, first_runs)
    backwards = np.flatnonzero(~changes & (position[1:] < position[:-1])) + 1
    offending = np.concatenate([again, backwards])
    if offending.size:
        raise InputError(
            f"{cohort.url}: variant_position is not sorted within contigs: variant "
            f"{offending.min()} is out of order; {remedies.SORT}, or set "
            "qc.max_ld_r2 to 1"
        )
    return run


def _filter_linkage(
    filters: _Filters,
    source: CallSource,
    counts: CallCounts,
    config: QCConfig,
    runs: npt.NDArray[np.int64] | None,
    unrelated: Mask,
) -> None:
    if runs is None:
        filters.keep_variants("linkage_disequilibrium", filters.variants)
        return
    kept = filters.variants
    positions = filters.cohort.positions[kept]
    ends = linkage.window_ends(runs[kept], positions, config.ld_window_bp)
    passing = np.zeros_like(kept)
    passing[kept] = pruning.prune(
        source.dosage(kept, _linkage_sample(unrelated, config)),
        ends,
        counts.minor_frequency[kept],
        config.max_ld_r2,
    )
    filters.keep_variants("linkage_disequilibrium", passing, config.max_ld_r2)


def _linkage_sample(unrelated: Mask, config: QCConfig) -> Mask:
    """Evenly spaced people among the unrelated ones."""
    people = np.flatnonzero(unrelated)
    n_people = min(people.size, config.ld_max_samples)
    sample = np.zeros_like(unrelated)
    sample[people[np.arange(n_people) * people.size // n_people]] = True
    return sample
