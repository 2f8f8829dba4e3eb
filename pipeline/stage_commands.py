"""The stages of a run as commands of their own, in the order of the pipeline.

They hold no logic, and import their stage when they are called.
"""

from pathlib import Path

import click
from click.core import ParameterSource

from pipeline import counted_allele, genome_build, qc_summary
from pipeline.config import STRANDS, RunConfig
from pipeline.launch import on_workers
from pipeline.location import Location
from pipeline.options import (
    COHORT,
    LOCATION,
    OUTPUT,
    PATH,
    config_option,
    configure,
    group_options,
    import_options,
    include_x_option,
    labels_option,
    method_option,
    no_encoder_option,
    overwrite_option,
    populations_option,
    read_groups,
    read_labels,
    restart,
    seed_option,
    write_to_cohort_option,
)
from pipeline.usage import Command
from pipeline.watch import Watched


@click.command("import", cls=Command)
@click.argument("sources", nargs=-1, required=True, type=COHORT, metavar="SOURCE...")
@click.option("--output", required=True, type=OUTPUT, help="VCF Zarr store to make.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    show_default="one for each core",
    help="Processes; 0 works in this one.",
)
@import_options
@restart
def import_(
    sources: tuple[str, ...],
    output: Location,
    workers: int | None,
    sample_id: str | None,
    dosages: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Convert SOURCE, a .bed, .pgen, .bgen, .vcf.gz or .bcf file, to VCF Zarr.

    Several VCF or BCF files, one for each chromosome, are named one by one or by a
    pattern in quotes, such as 'chr*.vcf.gz'.
    """
    from pipeline import ingest

    config = configure(None, sample_id=sample_id, dosages=dosages).source
    ingest.ingest(
        sources,
        output,
        config=config,
        n_workers=workers,
        resume=resume,
        overwrite=overwrite,
    )
    click.echo(f"imported {' '.join(sources)} to {output}")


@click.command(cls=Command)
@click.argument("cohort", type=COHORT)
@click.option("--output", required=True, type=OUTPUT, help="Prepared store to make.")
@on_workers
@config_option
@click.option("--no-qc", is_flag=True, help="Keep every biallelic variant and person.")
@include_x_option
@import_options
@restart
def prepare(
    cohort: str,
    output: Location,
    where: Watched,
    config_path: Path | None,
    no_qc: bool,
    include_x: bool,
    sample_id: str | None,
    dosages: bool,
    **restart: bool,
) -> None:
    """Check the quality of COHORT and pack its genotypes for the fit."""
    config = configure(
        config_path,
        no_qc=no_qc,
        include_x=include_x,
        sample_id=sample_id,
        dosages=dosages,
    )
    from pipeline import prepare_stage

    cluster = where.cluster()
    attrs = prepare_stage.prepare_only(cohort, output, config, cluster, **restart)
    for line in qc_summary.describe_quality_control(
        attrs["qc_steps"], attrs.get("relatives")
    ):
        click.echo(line)
    click.echo(f"prepared {cohort} as {output}")


@click.command(cls=Command)
@click.argument("prepared", type=LOCATION)
@click.option("--output", required=True, type=OUTPUT, help="Model store to make.")
@populations_option
@method_option
@no_encoder_option
@on_workers
@config_option
@seed_option
@labels_option
@restart
def fit(
    prepared: Location,
    output: Location,
    n_populations: int | None,
    method: str | None,
    no_encoder: bool,
    where: Watched,
    config_path: Path | None,
    seed: int | None,
    labels: Location | None,
    **restart: bool,
) -> None:
    """Fit the model to a PREPARED store and train its encoder.

    PREPARED may be the directory of a run, of which prepared.zarr is taken.
    """
    config = configure(
        config_path,
        seed=seed,
        n_populations=n_populations,
        method=method,
        no_encoder=no_encoder,
    )
    from pipeline import fit_stage

    cluster = where.cluster()
    known = read_labels(labels)
    fit_stage.fit_only(prepared, output, config, cluster, labels=known, **restart)
    click.echo(f"fitted {prepared}: {output}")


@click.command("import-model", cls=Command)
@click.argument("frequencies", type=PATH)
@click.argument("variants", type=PATH)
@click.option("--output", required=True, type=OUTPUT, help="Model store to make.")
@click.option(
    "--genome-build",
    type=click.Choice(genome_build.BUILDS),
    default=genome_build.UNKNOWN,
    help="Build of the positions; cohorts on another are refused.",
)
@click.option(
    "--allele",
    type=click.Choice(counted_allele.CHOICES),
    help="Allele that FREQUENCIES counts: 1, the alternate (fastmixture2, ADAMIXTURE, "
    "exports), or 2, the reference (ADMIXTURE).",
    show_default="what the files say, and 2 with a .bim file",
)
@no_encoder_option
@on_workers
@config_option
@seed_option
@overwrite_option
def import_model(
    frequencies: Path,
    variants: Path,
    output: Location,
    genome_build: str,
    allele: str | None,
    no_encoder: bool,
    where: Watched,
    config_path: Path | None,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Make a model of allele FREQUENCIES, as ADMIXTURE's .P, at VARIANTS.

    VARIANTS is the .bim file that FREQUENCIES were fitted to, or PREFIX.variants of an
    export. A P of `fastmixture2 --write-info` names its variants itself.
    """
    config = configure(config_path, seed=seed, no_encoder=no_encoder)
    from pipeline import given

    counted = None if allele is None else counted_allele.parse(allele)
    known = given.read_frequencies(frequencies, variants, genome_build, counted)
    given.make_model(known, output, config, where.cluster(), overwrite=overwrite)
    number = counted_allele.NUMBERS[known.counted_allele]
    click.echo(
        f"made a model of {frequencies}, as frequencies of allele {number}, the "
        f"{known.counted_allele}, {known.told_by}: {output}"
    )


@click.command("apply", cls=Command)
@click.argument("model", type=LOCATION)
@click.argument("cohort", type=COHORT)
@click.option("--output", required=True, type=OUTPUT, help="Ancestry store to make.")
@click.option(
    "--refine",
    type=click.IntRange(min=0),
    show_default="enough for the maximum of the likelihood",
    help="Newton steps after the encoder; 0 is the encoder alone.",
)
@click.option(
    "--strand",
    type=click.Choice(STRANDS),
    show_default=RunConfig().apply.strand,
    help="A/T and C/G variants: let their frequencies tell the strand, trust it as "
    "written, or drop them.",
)
@on_workers
@config_option
@import_options
@group_options
@write_to_cohort_option
@restart
def apply_(
    model: Location,
    cohort: str,
    output: Location,
    refine: int | None,
    strand: str | None,
    where: Watched,
    config_path: Path | None,
    sample_id: str | None,
    dosages: bool,
    groups: Location | None,
    group_id: str,
    **options: bool,
) -> None:
    """Project the people of COHORT on a fitted MODEL.

    MODEL may be the directory of a run, of which model.zarr is taken; COHORT is as for
    `run`.
    """
    config = configure(
        config_path,
        refine=refine,
        strand=strand,
        sample_id=sample_id,
        dosages=dosages,
    )
    from pipeline import projection

    cluster = where.cluster()
    shown = read_groups(groups, group_id)
    found = projection.project(
        model, cohort, output, config, cluster, groups=shown, **options
    )
    click.echo(f"variants of the model: {found}")
    click.echo(f"ancestry of {cohort}: {output}")


@click.command(cls=Command)
@click.argument("store", type=LOCATION)
@click.argument("prefix", type=LOCATION)
@click.option(
    "--allele",
    type=click.Choice(counted_allele.CHOICES),
    default=counted_allele.ALTERNATE,
    help="Allele that PREFIX.K.P counts: 1, the alternate, or 2, the reference, as "
    "ADMIXTURE's does. PREFIX.variants says which.",
)
@overwrite_option
def export(store: Location, prefix: Location, allele: str, overwrite: bool) -> None:
    """Write an ancestry STORE as PREFIX.K.Q, .K.P, .K.Q_se, .tsv and more.

    STORE may be the directory of a run, of which ancestry.zarr is taken.

    PREFIX.K.Q, PREFIX.K.P and PREFIX.K.Q_se (standard errors) are as ADMIXTURE writes
    them, PREFIX.samples and PREFIX.variants name their lines, and PREFIX.populations
    their columns where populations have names. PREFIX.tsv is a table for R and pandas:
    ids, shares, errors, fit check and log-likelihood of everybody.
    """
    from pipeline import export as stage

    counted = counted_allele.parse(allele)
    for path in stage.export_admixture(
        store, prefix, allele=counted, overwrite=overwrite
    ):
        click.echo(path)


@click.command(cls=Command)
@click.argument("store", type=LOCATION)
@click.option("--output", required=True, type=LOCATION, help="HTML file to write.")
@group_options
def report(
    store: Location, output: Location, groups: Location | None, group_id: str
) -> None:
    """Write the report of an ancestry STORE, as one page of HTML.

    STORE may be the directory of a run, of which ancestry.zarr is taken.
    """
    from pipeline import report as stage

    stage.write_report(store, output, groups=read_groups(groups, group_id))
    click.echo(output)


@click.command(cls=Command)
@click.argument("store", type=OUTPUT)
@click.option(
    "--samples", type=click.IntRange(min=1), required=True, help="Number of people."
)
@click.option(
    "--variants",
    type=click.IntRange(min=1),
    help="Number of variants; needed unless --truth is given.",
)
@click.option(
    "--truth",
    type=LOCATION,
    help="Simulated store whose populations newcomers are drawn from.",
)
@click.option(
    "-k",
    "n_populations",
    type=click.IntRange(min=1),
    default=RunConfig().fit.n_populations,
    help="Number of populations, K.",
)
@click.option(
    "--fst",
    type=click.FloatRange(0, 1, True, True),
    default=0.05,
    help="Fst of each population to their ancestor.",
)
@click.option(
    "--dirichlet",
    type=click.FloatRange(0, min_open=True),
    default=0.25,
    help="Concentration of the people's proportions; small for little admixture.",
)
@click.option(
    "--missing",
    type=click.FloatRange(0, 1),
    default=0.01,
    help="Share of the calls that are missing.",
)
@click.option(
    "--half-calls",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Share of the calls of which one allele is unknown.",
)
@click.option(
    "--x-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of the variants on X, where every second person is haploid.",
)
@click.option(
    "--dosage-blur",
    type=click.FloatRange(0, 1),
    help="Write dosages, this far at most from the genotypes to their expectation.",
)
@click.option("--genealogy", is_flag=True, help="Draw from msprime's ancestry.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=42,
    help="Seed of everything random.",
)
@overwrite_option
def simulate(
    store: Location,
    samples: int,
    variants: int | None,
    truth: Location | None,
    n_populations: int,
    fst: float,
    dirichlet: float,
    missing: float,
    half_calls: float,
    x_share: float,
    dosage_blur: float | None,
    genealogy: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Simulate an admixed cohort with known Q and P, as a VCF Zarr STORE.

    A cohort of another number of people has other populations, whatever the seed;
    --truth STORE draws newcomers from those of an earlier one.
    """
    from pipeline import draws
    from pipeline import simulate as stage

    kinds = draws.CallKinds(missing, half_calls, x_share, dosage_blur)
    if truth is not None:
        _check_not_given(*_OF_TRUTH, because="are those of --truth")
        stage.simulate_newcomers(
            store,
            truth,
            n_samples=samples,
            dirichlet=dirichlet,
            kinds=kinds,
            overwrite=overwrite,
            seed=seed,
        )
        click.echo(f"simulated {store}")
        return
    if variants is None:
        raise click.UsageError("Missing option '--variants'.")
    stage.simulate(
        store,
        n_samples=samples,
        n_variants=variants,
        n_populations=n_populations,
        fst=fst,
        dirichlet=dirichlet,
        kinds=kinds,
        genealogy=genealogy,
        overwrite=overwrite,
        seed=seed,
    )
    click.echo(f"simulated {store}")


# What a simulated store says by itself.
_OF_TRUTH = ("variants", "n_populations", "fst", "x_share", "genealogy")


def _check_not_given(*names: str, because: str) -> None:
    """Refuse options on the command line that another one makes void."""
    context = click.get_current_context()
    given = [
        option.opts[-1]
        for option in context.command.params
        if option.name in names
        and context.get_parameter_source(str(option.name))
        is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)} {because}; leave them out")
