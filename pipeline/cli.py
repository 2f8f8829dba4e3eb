"""The `streamixture` command: the stages of a run, together or each on its own.

In the order of the pipeline: simulate, import, prepare, fit, import-model, apply,
export, report; `run` is all of it, `demo` is `run` on the 1000 Genomes people, and
`reprocess` brings the results of a run up to date.

Holds no logic, and imports the stages when a command is called: worker processes
import this module again before their device is set, so jax must not come with it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline import genome_build, logs, publication
from pipeline.config import METHODS, STRANDS, RunConfig, load_config, replace_values
from pipeline.launch import Group, on_workers
from pipeline.location import Location, locate
from pipeline.watch import Watched

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)


class _LocationType(click.ParamType):
    """A local path, or the URL of an object store."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Location:
        """Take the text of an option or argument."""
        return locate(value)


_LOCATION = _LocationType()

_config_option = click.option(
    "--config", "config_path", type=_PATH, help="TOML file; see README."
)
_seed_option = click.option("--seed", type=int, help="Seed of everything random.")
_overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace results that exist, once done."
)
_write_to_cohort_option = click.option(
    "--write-to-cohort",
    is_flag=True,
    help="Add sample_ancestry_proportion to the COHORT store too; with --overwrite, in "
    "place of an earlier one.",
)
_populations_option = click.option(
    "-k", "n_populations", type=click.IntRange(min=1), help="Number of populations."
)
_method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Maximise the likelihood (default), or train encoder and frequencies alone.",
)

_include_x_option = click.option(
    "--include-x", is_flag=True, help="Use X too, with the ploidy that the calls have."
)


_labels_option = click.option(
    "--labels",
    type=_LOCATION,
    help="Lines of sample id, tab, population: people whose population is known.",
)


def _read_labels(path: Location | None) -> Any:
    from pipeline import labels

    return None if path is None else labels.read_labels(path)


def _restart(function: Command) -> Command:
    """Add the options that say what to do with what is there already."""
    resume = click.option("--resume", is_flag=True, help="Finish what was interrupted.")
    return resume(_overwrite_option(function))


def _configure(
    config_path: Path | None,
    *,
    seed: int | None = None,
    n_populations: int | None = None,
    method: str | None = None,
    no_qc: bool = False,
    include_x: bool = False,
    refine: int | None = None,
    strand: str | None = None,
) -> RunConfig:
    """The file's configuration with the flags' values in their place."""
    config = load_config(config_path)
    if seed is not None:
        config = replace_values(config, "", seed=seed)
    if n_populations is not None:
        config = replace_values(config, "fit", n_populations=n_populations)
    if method is not None:
        config = replace_values(config, "fit", method=method)
    if no_qc:
        config = replace_values(config, "qc", enabled=False)
    if include_x:
        config = replace_values(config, "qc", include_x=True)
    if refine is not None:
        config = replace_values(config, "apply", refine=refine)
    if strand is not None:
        config = replace_values(config, "apply", strand=strand)
    return config


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamixture", prog_name="streamixture")
@click.option("-v", "--verbose", count=True, help="More log lines; twice for debug.")
@click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    default=logs.TEXT,
    envvar="STREAMIXTURE_LOG_FORMAT",
    help="Log lines as text (default), or as one JSON object each.",
)
def main(verbose: int, log_format: str) -> None:
    """Ancestry proportions for biobank-sized cohorts, from VCF Zarr to Zarr."""
    logs.configure(verbose, log_format)


@main.command()
@click.argument("cohort")
@click.option(
    "--output", required=True, type=_LOCATION, help="Directory for the results."
)
@_populations_option
@_method_option
@on_workers
@_config_option
@_seed_option
@click.option(
    "--no-qc", is_flag=True, help="Keep every biallelic variant and every person."
)
@_include_x_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print what the run would need, and whether it fits; write nothing.",
)
@_labels_option
@_write_to_cohort_option
@_restart
def run(
    cohort: str,
    output: Location,
    n_populations: int | None,
    method: str | None,
    where: Watched,
    config_path: Path | None,
    seed: int | None,
    no_qc: bool,
    include_x: bool,
    dry_run: bool,
    labels: Location | None,
    **options: bool,
) -> None:
    """Estimate the ancestry of everybody in COHORT.

    COHORT is a VCF Zarr store, a PLINK .bed or .pgen file, a BGEN file, or a .vcf.gz or
    .bcf file with its index; of several, a pattern in quotes, such as 'chr*.vcf.gz'.
    """
    config = _configure(
        config_path,
        seed=seed,
        n_populations=n_populations,
        method=method,
        no_qc=no_qc,
        include_x=include_x,
    )
    from pipeline import run as runner

    if dry_run:
        lines = runner.plan_run(cohort, output, config, where.cluster())
        for name, value in lines:
            click.echo(f"{name:20}  {value}")
        return
    known = _read_labels(labels)
    result = runner.run(
        cohort, output, config, where.cluster(), labels=known, **options
    )
    _print_result(result.summary, output)


def _print_result(summary: dict[str, Any], output: Location) -> None:
    per_genotype = summary["log_likelihood"] / max(summary["observed_genotypes"], 1)
    click.echo(
        f"log-likelihood {summary['log_likelihood']:.2f} "
        f"({per_genotype:.6f} a genotype) of {summary['n_samples_in_fit']} people and "
        f"{summary['n_variants']} variants, K = {summary['n_populations']}, "
        f"{summary['data_passes']} passes over the data"
    )
    for name, meaning in (
        ("ancestry.zarr", "ancestry proportions"),
        ("model.zarr", "allele frequencies and encoder, to project new people"),
        ("prepared.zarr", "genotypes that passed quality control"),
        ("report.html", "figures to look at"),
        ("run.json", "figures to compute with"),
    ):
        click.echo(f"  {publication.resolve(output / name)}: {meaning}")


@main.command("import")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--output", required=True, type=_LOCATION, help="VCF Zarr store to make.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes; by default one for each core. 0 works in this one.",
)
@_restart
def import_(
    sources: tuple[str, ...],
    output: Location,
    workers: int | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Convert SOURCE, a .bed, .pgen, .bgen, .vcf.gz or .bcf file, to VCF Zarr.

    Several VCF or BCF files, one for each chromosome, are named one by one or by a
    pattern in quotes, such as 'chr*.vcf.gz'.
    """
    from pipeline import ingest

    ingest.ingest(
        sources, output, n_workers=workers, resume=resume, overwrite=overwrite
    )
    click.echo(f"imported {' '.join(sources)} to {output}")


@main.command()
@click.argument("cohort")
@click.option("--output", required=True, type=_LOCATION, help="Prepared store to make.")
@on_workers
@_config_option
@click.option("--no-qc", is_flag=True, help="Keep every biallelic variant and person.")
@_include_x_option
@_restart
def prepare(
    cohort: str,
    output: Location,
    where: Watched,
    config_path: Path | None,
    no_qc: bool,
    include_x: bool,
    **restart: bool,
) -> None:
    """Check the quality of COHORT and pack its genotypes for the fit."""
    config = _configure(config_path, no_qc=no_qc, include_x=include_x)
    from pipeline import stages

    cluster = where.cluster()
    stages.prepare_only(cohort, output, config, cluster, **restart)
    click.echo(f"prepared {cohort} as {output}")


@main.command()
@click.argument("prepared", type=_LOCATION)
@click.option("--output", required=True, type=_LOCATION, help="Model store to make.")
@_populations_option
@_method_option
@on_workers
@_config_option
@_seed_option
@_labels_option
@_restart
def fit(
    prepared: Location,
    output: Location,
    n_populations: int | None,
    method: str | None,
    where: Watched,
    config_path: Path | None,
    seed: int | None,
    labels: Location | None,
    **restart: bool,
) -> None:
    """Fit the model to a PREPARED store and train its encoder."""
    config = _configure(
        config_path, seed=seed, n_populations=n_populations, method=method
    )
    from pipeline import stages

    cluster = where.cluster()
    known = _read_labels(labels)
    stages.fit_only(prepared, output, config, cluster, labels=known, **restart)
    click.echo(f"fitted {prepared}: {output}")


@main.command("import-model")
@click.argument("frequencies", type=_PATH)
@click.argument("variants", type=_PATH)
@click.option("--output", required=True, type=_LOCATION, help="Model store to make.")
@click.option(
    "--genome-build",
    type=click.Choice(genome_build.BUILDS),
    default=genome_build.UNKNOWN,
    help="Build of the positions; cohorts on another are refused.",
)
@on_workers
@_config_option
@_seed_option
@_overwrite_option
def import_model(
    frequencies: Path,
    variants: Path,
    output: Location,
    genome_build: str,
    where: Watched,
    config_path: Path | None,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Make a model of allele FREQUENCIES, as ADMIXTURE's .P, at VARIANTS.

    VARIANTS is the .bim file that ADMIXTURE read, or PREFIX.variants of an export.
    """
    config = _configure(config_path, seed=seed)
    from pipeline import given

    known = given.read_frequencies(frequencies, variants, genome_build)
    given.make_model(known, output, config, where.cluster(), overwrite=overwrite)
    click.echo(f"made a model of {frequencies}: {output}")


@main.command("apply")
@click.argument("model", type=_LOCATION)
@click.argument("cohort")
@click.option("--output", required=True, type=_LOCATION, help="Ancestry store to make.")
@click.option(
    "--refine",
    type=click.IntRange(min=0),
    help="Newton steps after the encoder; 0 is the encoder alone.",
)
@click.option(
    "--strand",
    type=click.Choice(STRANDS),
    help="A/T and C/G variants: let their frequencies tell the strand (default), "
    "trust it as written, or drop them.",
)
@on_workers
@_config_option
@_write_to_cohort_option
@_restart
def apply_(
    model: Location,
    cohort: str,
    output: Location,
    refine: int | None,
    strand: str | None,
    where: Watched,
    config_path: Path | None,
    **options: bool,
) -> None:
    """Project the people of COHORT on a fitted MODEL."""
    config = _configure(config_path, refine=refine, strand=strand)
    from pipeline import stages

    cluster = where.cluster()
    found = stages.project(model, cohort, output, config, cluster, **options)
    click.echo(f"variants of the model: {found}")
    click.echo(f"ancestry of {cohort}: {output}")


@main.command()
@click.argument("config_path", type=_PATH, metavar="CONFIG.toml")
@on_workers
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--status", is_flag=True, help="List the versions and the last runs.")
@click.option(
    "--roll-back",
    is_flag=False,
    flag_value=0,
    type=click.IntRange(min=0),
    metavar="[VERSION]",
    help="Publish an earlier version again, by default the one before, until the "
    "cohort or a setting changes.",
)
@click.option(
    "--force", is_flag=True, help="Compare everybody, though no file changed."
)
def reprocess(
    config_path: Path,
    where: Watched,
    dry_run: bool,
    status: bool,
    roll_back: int | None,
    force: bool,
) -> None:
    """Bring results up to date with a cohort that grows, as CONFIG.toml says.

    Does nothing if nothing changed.
    """
    from pipeline import due, versions
    from pipeline.reprocess_config import load_reprocess_config

    config = load_reprocess_config(config_path)
    output = locate(config.output)
    if status:
        for line in versions.describe(output):
            click.echo(line)
        return
    if roll_back is not None:
        shown = versions.roll_back(output, roll_back or None)
        click.echo(f"{output}: version {shown} is current")
        return
    outlook = due.look(config)
    if dry_run or (outlook.is_idle and not force):
        click.echo(f"{output}: {outlook.describe()}")
        return
    from pipeline import reprocess as stage

    click.echo(f"{output}: {stage.reprocess(config, where.cluster(), force=force)}")


@main.command()
@click.argument("store", type=_LOCATION)
@click.argument("prefix", type=_LOCATION)
@_overwrite_option
def export(store: Location, prefix: Location, overwrite: bool) -> None:
    """Write an ancestry STORE as PREFIX.K.Q, PREFIX.K.P, .samples and .variants."""
    from pipeline import export as stage

    for path in stage.export_admixture(store, prefix, overwrite=overwrite):
        click.echo(path)


@main.command()
@click.argument("store", type=_LOCATION)
@click.option("--output", required=True, type=_LOCATION, help="HTML file to write.")
def report(store: Location, output: Location) -> None:
    """Write the report of an ancestry STORE."""
    from pipeline import report as stage

    stage.write_report(store, output)
    click.echo(output)


@main.command()
@click.argument("store", type=_LOCATION)
@click.option("--samples", type=click.IntRange(min=1), required=True)
@click.option("--variants", type=click.IntRange(min=1), required=True)
@_populations_option
@click.option("--fst", type=click.FloatRange(0, 1, True, True), default=0.05)
@click.option("--dirichlet", type=click.FloatRange(0, min_open=True), default=0.25)
@click.option("--missing", type=click.FloatRange(0, 1), default=0.01)
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
@click.option("--seed", type=click.IntRange(min=0), default=42)
@_overwrite_option
def simulate(
    store: Location,
    samples: int,
    variants: int,
    n_populations: int | None,
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
    """Simulate an admixed cohort with known Q and P, as a VCF Zarr STORE."""
    from pipeline import draws
    from pipeline import simulate as stage

    stage.simulate(
        store,
        n_samples=samples,
        n_variants=variants,
        n_populations=n_populations or RunConfig().fit.n_populations,
        fst=fst,
        dirichlet=dirichlet,
        kinds=draws.CallKinds(missing, half_calls, x_share, dosage_blur),
        genealogy=genealogy,
        overwrite=overwrite,
        seed=seed,
    )
    click.echo(f"simulated {store}")


@main.command()
@click.option(
    "--output", type=_LOCATION, default=Path("demo-output"), show_default=True
)
@_populations_option
@on_workers
@_config_option
@_seed_option
@_overwrite_option
def demo(
    output: Location,
    n_populations: int | None,
    where: Watched,
    config_path: Path | None,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Run on the 2,504 people of 1000 Genomes phase 3."""
    config = _configure(config_path, seed=seed, n_populations=n_populations)
    from pipeline import run as runner

    cluster = where.cluster()
    result = runner.run_demo(output, config, cluster, overwrite=overwrite)
    _print_groups(output / "ancestry.zarr")
    _print_result(result.summary, output)


def _print_groups(path: Location) -> None:
    from pipeline import report as stage
    from pipeline import store

    found = store.Store.open(publication.resolve(path), "ancestry")
    means = stage.group_means(
        found.read("sample_ancestry_proportion"),
        found.read("sample_population").tolist(),
    )
    width = max(map(len, means.names))
    click.echo("mean ancestry of each superpopulation:")
    for name, count, shares in zip(means.names, means.counts, means.means, strict=True):
        columns = "  ".join(f"{share:.3f}" for share in shares)
        click.echo(f"  {name:{width}}  {count:5d} people  {columns}")
