"""The `streamixture` command.

`run` is the whole pipeline, `demo` is `run` on the 1000 Genomes people, `reprocess`
brings the results of a run up to date, and the stages are commands of their own
(`stage_commands`).

Holds no logic, and imports the stages when a command is called: bad usage and `--help`
need not wait for jax.
"""

from pathlib import Path
from typing import Any

import click

from pipeline import logs, publication, qc_summary, stage_commands
from pipeline.launch import Group, on_workers
from pipeline.location import Location, locate
from pipeline.options import (
    COHORT,
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
from pipeline.quantities import count_things
from pipeline.watch import Watched


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(package_name="streamixture", prog_name="streamixture")
@click.option(
    "-v",
    "--verbose",
    count=True,
    show_default=False,
    help="More log lines; twice for debug.",
)
@click.option(
    logs.OPTION,
    type=click.Choice(logs.FORMATS),
    default=logs.TEXT,
    envvar=logs.VARIABLE,
    help="Log lines as text, or as one JSON object each.",
)
def main(verbose: int, log_format: str) -> None:
    """Ancestry proportions for biobank-sized cohorts, from VCF Zarr to Zarr."""
    logs.configure(verbose, log_format)


@main.command()
@click.argument("cohort", type=COHORT)
@click.option("--output", required=True, type=OUTPUT, help="Directory for the results.")
@populations_option
@method_option
@no_encoder_option
@on_workers
@config_option
@seed_option
@click.option(
    "--no-qc", is_flag=True, help="Keep every biallelic variant and every person."
)
@include_x_option
@import_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print what the run would need, and whether it fits; write nothing.",
)
@labels_option
@group_options
@write_to_cohort_option
@restart
def run(
    cohort: str,
    output: Location,
    n_populations: int | None,
    method: str | None,
    no_encoder: bool,
    where: Watched,
    config_path: Path | None,
    seed: int | None,
    no_qc: bool,
    include_x: bool,
    sample_id: str | None,
    dosages: bool,
    dry_run: bool,
    labels: Location | None,
    groups: Location | None,
    group_id: str,
    **options: Any,
) -> None:
    """Estimate the ancestry of everybody in COHORT.

    COHORT is a VCF Zarr store, a PLINK .bed or .pgen file or its prefix, a BGEN file,
    or a .vcf.gz or .bcf file with its index; of several, a pattern in quotes, such as
    'chr*.vcf.gz'.
    """
    config = configure(
        config_path,
        seed=seed,
        n_populations=n_populations,
        method=method,
        no_qc=no_qc,
        include_x=include_x,
        no_encoder=no_encoder,
        sample_id=sample_id,
        dosages=dosages,
    )
    from pipeline import run as runner

    if dry_run:
        lines = runner.plan_run(cohort, output, config, where.cluster())
        for name, value in lines:
            click.echo(f"{name:20}  {value}")
        return
    known = read_labels(labels)
    shown = read_groups(groups, group_id)
    result = runner.run(
        cohort, output, config, where.cluster(), labels=known, groups=shown, **options
    )
    _print_result(result.summary, output)


def _print_result(summary: dict[str, Any], output: Location) -> None:
    for line in qc_summary.describe_quality_control(
        summary["qc_steps"], summary["relatives"]
    ):
        click.echo(line)
    check = summary["fit_check"]
    if check:
        click.echo(_describe_check(check["n_poorly_described"], summary["n_samples"]))
    per_genotype = summary["log_likelihood"] / max(summary["observed_genotypes"], 1)
    click.echo(
        f"log-likelihood {summary['log_likelihood']:.2f} "
        f"({per_genotype:.6f} a genotype) of "
        f"{count_things(summary['n_samples_in_fit'], 'person', 'people')} and "
        f"{count_things(summary['n_variants'], 'variant', 'variants')}, "
        f"K = {summary['n_populations']}, "
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


def _describe_check(n_flagged: int, n_people: int) -> str:
    if not n_flagged:
        return "fit check: nobody was found whom the populations do not describe"
    verb = "is" if n_flagged == 1 else "are"
    return (
        f"fit check: {n_flagged:,} of {n_people:,} people {verb} not described by the "
        "populations"
    )


@main.command()
@click.argument("config_path", type=PATH, metavar="CONFIG.toml")
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
@click.option(
    "--output",
    type=OUTPUT,
    default=Path("demo-output"),
    help="Directory for the results.",
)
@populations_option
@on_workers
@config_option
@seed_option
@overwrite_option
def demo(
    output: Location,
    n_populations: int | None,
    where: Watched,
    config_path: Path | None,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Run on the 2,504 people of 1000 Genomes phase 3."""
    config = configure(config_path, seed=seed, n_populations=n_populations)
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


for _stage in (
    stage_commands.import_,
    stage_commands.prepare,
    stage_commands.fit,
    stage_commands.import_model,
    stage_commands.apply_,
    stage_commands.export,
    stage_commands.report,
    stage_commands.simulate,
):
    main.add_command(_stage)
