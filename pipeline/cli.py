"""The `streamixture` command: the stages of a run, together or each on its own.

In the order of the pipeline: simulate, import, prepare, fit, apply, export, report;
`run` is all of it, and `demo` is `run` on the 1000 Genomes people.

Holds no logic, and imports the stages when a command is called: worker processes
import this module again before their device is set, so jax must not come with it.
"""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.config import METHODS, RunConfig, load_config, replace_values
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.cluster import Cluster

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)
_FAILED = 1
_BAD_INPUT = 2
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class _Group(click.Group):
    """Ends with one line where the input is bad, or the disk full or forbidden."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            _say_error(str(error))
            sys.exit(_BAD_INPUT)
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            _say_error(
                f"{error.strerror}: {error.filename or 'while writing the results'}; "
                "mend that and go on with --resume where a run was interrupted"
            )
            sys.exit(_FAILED)


def _say_error(message: str) -> None:
    click.echo(f"Error: {' '.join(message.split())}", err=True)


def _workers(function: Command) -> Command:
    """Add the options that say where to run."""
    for option in (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Worker processes on this machine; by default one for each GPU, "
            "or without GPUs one for each core.",
        ),
        click.option("--scheduler", help="Address of a Dask scheduler to use instead."),
    ):
        function = option(function)
    return function


_config_option = click.option(
    "--config", "config_path", type=_PATH, help="TOML file; see README."
)
_seed_option = click.option("--seed", type=int, help="Seed of everything random.")
_overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace results that exist, once done."
)
_populations_option = click.option(
    "-k", "n_populations", type=click.IntRange(min=1), help="Number of populations."
)
_method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Maximise the likelihood (default), or train encoder and frequencies alone.",
)


def _configure(
    config_path: Path | None,
    *,
    seed: int | None = None,
    n_populations: int | None = None,
    method: str | None = None,
    no_qc: bool = False,
    refine: int | None = None,
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
    if refine is not None:
        config = replace_values(config, "apply", refine=refine)
    return config


def _cluster(
    workers: int | None, scheduler: str | None
) -> "contextlib.AbstractContextManager[Cluster]":
    from pipeline import cluster

    if scheduler is not None:
        if workers is not None:
            raise InputError("--workers and --scheduler exclude each other; give one")
        return cluster.existing_cluster(scheduler)
    n_cores = len(os.sched_getaffinity(0))
    specs = cluster.plan_workers(cluster.visible_gpus(), n_cores, workers)
    return cluster.local_cluster(specs)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamixture", prog_name="streamixture")
@click.option("-v", "--verbose", count=True, help="More log lines; twice for debug.")
def main(verbose: int) -> None:
    """Ancestry proportions for biobank-sized cohorts, from VCF Zarr to Zarr."""
    level = logging.DEBUG if verbose > 1 else logging.INFO
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("pipeline").setLevel(level)


@main.command()
@click.argument("cohort")
@click.option("--output", required=True, type=_PATH, help="Directory for the results.")
@_populations_option
@_method_option
@_workers
@_config_option
@_seed_option
@click.option(
    "--no-qc", is_flag=True, help="Keep every biallelic variant and every person."
)
@click.option("--resume", is_flag=True, help="Finish an interrupted run.")
@_overwrite_option
def run(
    cohort: str,
    output: Path,
    n_populations: int | None,
    method: str | None,
    workers: int | None,
    scheduler: str | None,
    config_path: Path | None,
    seed: int | None,
    no_qc: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Estimate the ancestry of everybody in COHORT.

    COHORT is a VCF Zarr store, a PLINK .bed file, or a .vcf.gz or .bcf file with its
    index.
    """
    config = _configure(
        config_path, seed=seed, n_populations=n_populations, method=method, no_qc=no_qc
    )
    from pipeline import run as runner

    result = runner.run(
        cohort,
        output,
        config,
        _cluster(workers, scheduler),
        resume=resume,
        overwrite=overwrite,
    )
    _print_result(result.summary, output)


def _print_result(summary: dict[str, Any], output: Path) -> None:
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
        click.echo(f"  {output / name}: {meaning}")


@main.command("import")
@click.argument("source")
@click.option("--output", required=True, type=_PATH, help="VCF Zarr store to make.")
@click.option("--workers", type=click.IntRange(min=0), default=0)
@_overwrite_option
def import_(source: str, output: Path, workers: int, overwrite: bool) -> None:
    """Convert SOURCE, a .bed, .vcf.gz or .bcf file, to VCF Zarr."""
    from pipeline import ingest

    ingest.ingest(source, output, n_workers=workers, overwrite=overwrite)
    click.echo(f"imported {source} to {output}")


@main.command()
@click.argument("cohort")
@click.option("--output", required=True, type=_PATH, help="Prepared store to make.")
@_workers
@_config_option
@click.option("--no-qc", is_flag=True, help="Keep every biallelic variant and person.")
@_overwrite_option
def prepare(
    cohort: str,
    output: Path,
    workers: int | None,
    scheduler: str | None,
    config_path: Path | None,
    no_qc: bool,
    overwrite: bool,
) -> None:
    """Check the quality of COHORT and pack its genotypes for the fit."""
    config = _configure(config_path, no_qc=no_qc)
    from pipeline import stages

    cluster = _cluster(workers, scheduler)
    stages.prepare_only(cohort, output, config, cluster, overwrite=overwrite)
    click.echo(f"prepared {cohort} as {output}")


@main.command()
@click.argument("prepared", type=_PATH)
@click.option("--output", required=True, type=_PATH, help="Model store to make.")
@_populations_option
@_method_option
@_workers
@_config_option
@_seed_option
@_overwrite_option
def fit(
    prepared: Path,
    output: Path,
    n_populations: int | None,
    method: str | None,
    workers: int | None,
    scheduler: str | None,
    config_path: Path | None,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Fit the model to a PREPARED store and train its encoder."""
    config = _configure(
        config_path, seed=seed, n_populations=n_populations, method=method
    )
    from pipeline import stages

    cluster = _cluster(workers, scheduler)
    stages.fit_only(prepared, output, config, cluster, overwrite=overwrite)
    click.echo(f"fitted {prepared}: {output}")


@main.command("apply")
@click.argument("model", type=_PATH)
@click.argument("cohort")
@click.option("--output", required=True, type=_PATH, help="Ancestry store to make.")
@click.option(
    "--refine",
    type=click.IntRange(min=0),
    help="Newton steps after the encoder; 0 is the encoder alone.",
)
@_workers
@_config_option
@_overwrite_option
def apply_(
    model: Path,
    cohort: str,
    output: Path,
    refine: int | None,
    workers: int | None,
    scheduler: str | None,
    config_path: Path | None,
    overwrite: bool,
) -> None:
    """Project the people of COHORT on a fitted MODEL."""
    config = _configure(config_path, refine=refine)
    from pipeline import stages

    cluster = _cluster(workers, scheduler)
    match = stages.project(model, cohort, output, config, cluster, overwrite=overwrite)
    click.echo(
        f"variants of the model: {match.n_matched} matched, {match.n_swapped} with "
        f"alleles swapped, {match.n_absent} absent"
    )
    click.echo(f"ancestry of {cohort}: {output}")


@main.command()
@click.argument("store", type=_PATH)
@click.argument("prefix", type=_PATH)
@_overwrite_option
def export(store: Path, prefix: Path, overwrite: bool) -> None:
    """Write an ancestry STORE as PREFIX.K.Q, PREFIX.K.P, .samples and .variants."""
    from pipeline import export as stage

    for path in stage.export_admixture(store, prefix, overwrite=overwrite):
        click.echo(path)


@main.command()
@click.argument("store", type=_PATH)
@click.option("--output", required=True, type=_PATH, help="HTML file to write.")
def report(store: Path, output: Path) -> None:
    """Write the report of an ancestry STORE."""
    from pipeline import report as stage

    stage.write_report(store, output)
    click.echo(output)


@main.command()
@click.argument("store", type=_PATH)
@click.option("--samples", type=click.IntRange(min=1), required=True)
@click.option("--variants", type=click.IntRange(min=1), required=True)
@_populations_option
@click.option("--fst", type=click.FloatRange(0, 1, True, True), default=0.05)
@click.option("--dirichlet", type=click.FloatRange(0, min_open=True), default=0.25)
@click.option("--missing", type=click.FloatRange(0, 1), default=0.01)
@click.option("--genealogy", is_flag=True, help="Draw from msprime's ancestry.")
@click.option("--seed", type=click.IntRange(min=0), default=42)
@_overwrite_option
def simulate(
    store: Path,
    samples: int,
    variants: int,
    n_populations: int | None,
    fst: float,
    dirichlet: float,
    missing: float,
    genealogy: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Simulate an admixed cohort with known Q and P, as a VCF Zarr STORE."""
    from pipeline import simulate as stage

    stage.simulate(
        store,
        n_samples=samples,
        n_variants=variants,
        n_populations=n_populations or RunConfig().fit.n_populations,
        fst=fst,
        dirichlet=dirichlet,
        missing_rate=missing,
        genealogy=genealogy,
        overwrite=overwrite,
        seed=seed,
    )
    click.echo(f"simulated {store}")


@main.command()
@click.option("--output", type=_PATH, default=Path("demo-output"), show_default=True)
@_populations_option
@_workers
@_config_option
@_seed_option
@_overwrite_option
def demo(
    output: Path,
    n_populations: int | None,
    workers: int | None,
    scheduler: str | None,
    config_path: Path | None,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Run on the 2,504 people of 1000 Genomes phase 3."""
    config = _configure(config_path, seed=seed, n_populations=n_populations)
    from pipeline import run as runner

    cluster = _cluster(workers, scheduler)
    result = runner.run_demo(output, config, cluster, overwrite=overwrite)
    _print_groups(output / "ancestry.zarr")
    _print_result(result.summary, output)


def _print_groups(path: Path) -> None:
    from pipeline import report as stage
    from pipeline import store

    found = store.Store.open(path, "ancestry")
    means = stage.group_means(
        found.read("sample_ancestry_proportion"),
        found.read("sample_population").tolist(),
    )
    width = max(map(len, means.names))
    click.echo("mean ancestry of each superpopulation:")
    for name, count, shares in zip(means.names, means.counts, means.means, strict=True):
        columns = "  ".join(f"{share:.3f}" for share in shares)
        click.echo(f"  {name:{width}}  {count:5d} people  {columns}")
