"""Ancestry in Python, in sgkit's manner: functions from Dataset to Dataset.

Imports what does the work when a function is called, so that the command, which imports
this with the package, need not wait for jax before it takes stop signals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from estimator import DifferentiableAncestryEstimator
    from pipeline.config import RunConfig


def estimate_ancestry(
    ds: xr.Dataset,
    n_populations: int | None = None,
    *,
    call_genotype: str = "call_genotype",
    call_dosage: str = "call_dosage",
    sample_id: str = "sample_id",
    contig_id: str = "contig_id",
    variant_contig: str = "variant_contig",
    variant_position: str = "variant_position",
    variant_allele: str = "variant_allele",
    config: RunConfig | Path | str | None = None,
    quality_control: bool = True,
    seed: int | None = None,
    encoder: bool = True,
    output: Path | str | None = None,
    overwrite: bool = False,
    scratch: Path | str | None = None,
    merge: bool = True,
) -> xr.Dataset:
    """Estimate the ancestry of everybody in a Dataset, by the ADMIXTURE model.

    Does what ``streamixture run`` does, on the workers of the current Dask client
    (``distributed.Client.current``), one thread and one device each, or else on those
    of a cluster that is started on this machine and stopped again. The genotypes are
    written to a scratch store once, from which the workers stream them; a cohort that
    is a store already needs no copy with ``streamixture run``.

    Workers that are started here do not run the script that calls this, so it needs no
    ``if __name__ == "__main__":`` for them.

    Parameters
    ----------
    ds
        Dataset with the variables below.
    n_populations
        K, the number of populations; by default that of the configuration, 5.
    call_genotype
        Variable of the calls, as defined by ``sgkit.variables.call_genotype_spec``:
        alleles (variants, samples, ploidy), signed integers, negative where missing;
        at most two alleles a call.
    call_dosage
        Variable of the dosages, as defined by ``sgkit.variables.call_dosage_spec``,
        taken where there are no calls: expected alternate alleles of two (variants,
        samples), floating-point, NaN where missing.
    sample_id
        Variable of unique ids, ``sgkit.variables.sample_id_spec`` (samples), text.
    contig_id
        Variable of the contigs' names, ``sgkit.variables.contig_id_spec`` (contigs),
        text.
    variant_contig
        Variable of ``sgkit.variables.variant_contig_spec`` (variants), integers.
    variant_position
        Variable of ``sgkit.variables.variant_position_spec`` (variants), integers.
    variant_allele
        Variable of ``sgkit.variables.variant_allele_spec`` (variants, alleles), text.
    config
        Every setting, or a TOML file of them, as for ``streamixture run --config``.
    quality_control
        False keeps every biallelic variant and every person, as ``--no-qc`` does.
    seed
        Of everything random; by default the configuration's, 42.
    encoder
        False trains no encoder, as ``--no-encoder`` does: a small Dataset takes up to
        half of the time, and ``project_ancestry`` with the model ends at the same
        optimum.
    output
        Directory to keep the results in, such as ``model.zarr``, that
        `project_ancestry` takes. By default they are deleted.
    overwrite
        Replace results that are there.
    scratch
        Directory for the copy of the genotypes, that all workers see; by default the
        system's temporary directory.
    merge
        If True (the default), merge the input Dataset and the computed variables into
        a single Dataset, otherwise return only the latter.

    Returns
    -------
    A Dataset whose coordinate is the people's ids, with these attributes of the run:
    ``log_likelihood`` (of the people in the fit, in nats) and ``observed_genotypes``
    that it is of, ``n_populations``, ``method``, ``data_passes``, and ``converged``
    except after ``fit.method = "neural"``, which ends after its epochs. Its variables,
    in memory:

    - ``sample_ancestry_proportion`` (samples, populations), float32: Q, rows summing
      to 1; NaN for a person without any called genotype.
    - ``sample_ancestry_proportion_se`` (samples, populations), float32: its standard
      error, with the error of the fitted populations in it, unless the configuration
      leaves it out; after ``fit.method = "neural"`` the populations are taken as known.
      0.5 for a person without any called genotype.
    - ``sample_log_likelihood`` (samples), float64: of the called genotypes, in nats.
    - ``sample_in_fit`` (samples), bool: who informed the fit.
    - ``sample_residual_correlation`` and ``sample_residual_correlation_se`` (samples),
      float32, and ``sample_poorly_described`` (samples), bool: whom the populations do
      not describe, where the Dataset is large enough to tell.
    - ``variant_population_frequency`` (variants, populations), float32: P, the
      frequency of the alternate allele; NaN at variants that quality control left out.

    Raises
    ------
    ValueError
        If a variable is missing or will not do, its store lacks chunks that zarr would
        read as whatever the memory held, quality control leaves nothing, or the
        workers will not do.

    References
    ----------
    Alexander, D.H., Novembre, J. and Lange, K. (2009), Fast model-based estimation of
    ancestry in unrelated individuals, Genome Research 19:1655-1664.

    Garcia-Erill, G. and Albrechtsen, A. (2020), Evaluation of model fit of inferred
    admixture proportions, Molecular Ecology Resources 20:936-949.
    """
    from pipeline import dataset_fit, datasets

    names = {
        "call_genotype": call_genotype,
        "call_dosage": call_dosage,
        "sample_id": sample_id,
        "contig_id": contig_id,
        "variant_contig": variant_contig,
        "variant_position": variant_position,
        "variant_allele": variant_allele,
    }
    cohort = datasets.select_cohort(ds, names)
    settings = dataset_fit.configure(
        config,
        n_populations=n_populations,
        quality_control=quality_control,
        seed=seed,
        encoder=encoder,
    )
    found = dataset_fit.estimate(
        cohort,
        settings,
        name=datasets.name_of(ds),
        output=output,
        overwrite=overwrite,
        scratch=scratch,
    )
    return datasets.add(ds, found, merge=merge, sample_id=sample_id)


def project_ancestry(
    ds: xr.Dataset,
    model: xr.Dataset | Path | str,
    *,
    call_genotype: str = "call_genotype",
    call_dosage: str = "call_dosage",
    contig_id: str = "contig_id",
    variant_contig: str = "variant_contig",
    variant_position: str = "variant_position",
    variant_allele: str = "variant_allele",
    refine: int | None = None,
    strand: str = "check",
    min_overlap: float = 0.5,
    standard_errors: str = "none",
    fit_check: bool = True,
    merge: bool = True,
) -> xr.Dataset:
    """Project the people of a Dataset on a fitted model, lazily.

    The new variables are dask arrays: nothing of the Dataset is read until they are
    computed, by whatever computes dask's arrays then, and the chunks may be any. A
    chunk of people is read, projected and forgotten. The result is that of
    ``streamixture apply``, to the precision of its stopping rule.

    The fit check compares people with one another, so that computing anything of it, or
    Q itself, reads the whole Dataset; it warns (``UserWarning``) of people whom the
    populations do not describe, whose Q says little. With ``fit_check=False``, or fewer
    than 32 people or 512 variants, a chunk of people is computed by itself.

    Parameters
    ----------
    ds
        Dataset with the variables below.
    model
        A ``model.zarr`` (path or URL), or a Dataset opened from one. It is read at
        once.
    call_genotype, call_dosage, contig_id, variant_contig, variant_position, \
variant_allele
        Variables, as for `estimate_ancestry`.
    refine
        Newton steps after the encoder; 0 is the encoder's answer. By default what fits
        the model's method, 8 for a likelihood fit.
    strand
        A/T and C/G variants: "check" lets their frequencies over everybody in the
        Dataset tell the strand, for which the calls are read twice where the model has
        such variants; "trusted" takes it as written, as for the very cohort that the
        model was fitted to; "drop" leaves them out.
    min_overlap
        Share of the model's variants that the Dataset must have usable, in [0, 1].
    standard_errors
        How those of Q are computed, while the genotypes are in memory: "jackknife" over
        blocks of variants, as ``streamixture apply`` does, "information", the curvature
        of the likelihood alone, or "none" (the default).
    fit_check
        Whether to look for people whom the populations do not describe. Four kilobytes
        a person are kept until all are projected.
    merge
        If True (the default), merge the input Dataset and the computed variables into
        a single Dataset, otherwise return only the latter.

    Returns
    -------
    A Dataset with these variables:

    - ``sample_ancestry_proportion`` (samples, populations), float32, dask-backed: Q,
      rows summing to 1; NaN for a person without any called genotype.
    - ``sample_log_likelihood`` (samples), float64, dask-backed: of the called
      genotypes at Q and P, in nats.
    - ``sample_ancestry_proportion_se`` (samples, populations), float32, dask-backed:
      where standard errors are asked for.
    - ``sample_residual_correlation`` and ``sample_residual_correlation_se`` (samples),
      float32, and ``sample_poorly_described`` (samples), bool, dask-backed: the fit
      check, where there are people and variants enough. NaN and False where too few
      people have called genotypes.
    - ``population_id`` (populations), text: where the model's populations have names.

    Its attributes are ``n_populations`` and ``method`` of the model, and people's ids,
    if the Dataset has ``sample_id``, are a coordinate.

    Raises
    ------
    ValueError
        If a variable is missing or will not do, its store lacks chunks that zarr would
        read as whatever the memory held, or the model is none. When the result is
        computed: if the Dataset lacks too many of the model's variants or is on
        another genome build, or a call has a third allele.

    References
    ----------
    Alexander, D.H., Novembre, J. and Lange, K. (2009), Fast model-based estimation of
    ancestry in unrelated individuals, Genome Research 19:1655-1664.
    """
    from pipeline import dataset_projection, datasets
    from pipeline.config import ApplyConfig
    from pipeline.python_words import python_words

    names = {
        "call_genotype": call_genotype,
        "call_dosage": call_dosage,
        "contig_id": contig_id,
        "variant_contig": variant_contig,
        "variant_position": variant_position,
        "variant_allele": variant_allele,
    }
    cohort = datasets.select_cohort(ds, names)
    calls = call_genotype if call_genotype in ds else call_dosage
    with python_words():
        settings = ApplyConfig(
            refine=-1 if refine is None else refine,
            strand=strand,
            min_overlap=min_overlap,
            standard_errors=standard_errors,
            fit_check_people=ApplyConfig.fit_check_people if fit_check else 0,
        )
    given = dataset_projection.read_model(model)
    found = dataset_projection.project(cohort, given, calls, settings)
    return datasets.add(ds, found, merge=merge)


def load_estimator(model: Path | str) -> DifferentiableAncestryEstimator:
    """Load a fitted model as a Flax NNX module, to look at, use or train on.

    Parameters
    ----------
    model
        A ``model.zarr`` (path or URL).

    Returns
    -------
    A `DifferentiableAncestryEstimator` in evaluation mode: its encoder's answer for the
    model's variants, in the model's order and counting its alternate alleles. It has no
    Newton steps behind it, as ``apply.refine = 0``.

    Raises
    ------
    ValueError
        If it is no model, not whole, or has no encoder.
    """
    from pipeline import bundle
    from pipeline.location import locate
    from pipeline.publication import resolve

    return bundle.estimator_of(resolve(locate(model)))
