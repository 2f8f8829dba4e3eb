"""The options that several commands of `streamixture` share, and what they set.

Imports no stage: bad usage and `--help` need not wait for jax.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline import output_names, source_files
from pipeline.config import (
    GROUP_IDS,
    IID,
    METHODS,
    SAMPLE_IDS,
    RunConfig,
    load_config,
    replace_values,
)
from pipeline.location import Location, locate

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


class _LocationType(click.ParamType):
    """A local path, or the URL of an object store."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Location:
        """Take the text of an option or argument."""
        return locate(value)


LOCATION = _LocationType()


class _CohortType(click.ParamType):
    """A store, or files to import, where the prefix of a PLINK fileset will do."""

    name = "cohort"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Take the text of an argument."""
        return source_files.complete(value)


COHORT = _CohortType()


class _OutputType(_LocationType):
    """A store or a folder to make, which must not be called as files are."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Location:
        """Take the text of an option or argument."""
        output_names.check_folder(str(value))
        return super().convert(value, param, ctx)


OUTPUT = _OutputType()

# What is in effect where neither an option nor a file says otherwise.
_DEFAULTS = RunConfig()

config_option = click.option(
    "--config", "config_path", type=PATH, help="TOML file; see README."
)
seed_option = click.option(
    "--seed",
    type=int,
    show_default=str(_DEFAULTS.seed),
    help="Seed of everything random.",
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace results that exist, once done."
)
write_to_cohort_option = click.option(
    "--write-to-cohort",
    is_flag=True,
    help="Add sample_ancestry_proportion to the COHORT store too; with --overwrite, in "
    "place of an earlier one.",
)
populations_option = click.option(
    "-k",
    "n_populations",
    type=click.IntRange(min=1),
    show_default=f"{_DEFAULTS.fit.n_populations}, or fit.n_populations of --config",
    help="Number of populations, K.",
)
method_option = click.option(
    "--method",
    type=click.Choice(METHODS),
    show_default=_DEFAULTS.fit.method,
    help="Maximise the likelihood, or train encoder and frequencies alone.",
)


def import_options(function: Command) -> Command:
    """Add the options that say what is read of files that are imported."""
    sample_id = click.option(
        "--sample-id",
        type=click.Choice(SAMPLE_IDS),
        show_default=_DEFAULTS.source.sample_id,
        help="Ids of people in PLINK and .sample tables: the individual id, or family "
        'and individual id with "_" between.',
    )
    dosages = click.option(
        "--dosages",
        is_flag=True,
        help="Read the dosages of .pgen or VCF (DS) and not the hard calls.",
    )
    return sample_id(dosages(function))


no_encoder_option = click.option(
    "--no-encoder",
    is_flag=True,
    help="Train no encoder: projections start from the linear answer, and end at the "
    "same optimum.",
)

include_x_option = click.option(
    "--include-x", is_flag=True, help="Use X too, with the ploidy that the calls have."
)


labels_option = click.option(
    "--labels",
    type=LOCATION,
    help="Lines of sample id, tab, population, or ADMIXTURE's .pop, a population a "
    "line in the cohort's order: people whose population the fit takes as known. To "
    "show people by groups and leave the fit alone, give --groups.",
)


def group_options(function: Command) -> Command:
    """Add the options that say what groups people are shown by."""
    path = click.option(
        "--groups",
        type=LOCATION,
        help="Lines of id, group and further columns, between tabs or blanks: what "
        "report and tables show people by. It changes no estimate, as --labels does.",
    )
    ids = click.option(
        "--group-id",
        type=click.Choice(GROUP_IDS),
        default=IID,
        help="What people are named by in --groups: individual id, family and "
        "individual id in two columns, or family id.",
    )
    return path(ids(function))


def read_groups(path: Location | None, group_id: str) -> Any:
    """Read the file of groups, where one is given."""
    from pipeline import groups

    return None if path is None else groups.read_groups(path, group_id)


def read_labels(path: Location | None) -> Any:
    """Read the file of labels, where one is given."""
    from pipeline import labels

    return None if path is None else labels.read_labels(path)


def restart(function: Command) -> Command:
    """Add the options that say what to do with what is there already."""
    resume = click.option("--resume", is_flag=True, help="Finish what was interrupted.")
    return resume(overwrite_option(function))


def configure(
    config_path: Path | None,
    *,
    seed: int | None = None,
    n_populations: int | None = None,
    method: str | None = None,
    no_qc: bool = False,
    include_x: bool = False,
    no_encoder: bool = False,
    refine: int | None = None,
    strand: str | None = None,
    sample_id: str | None = None,
    dosages: bool = False,
) -> RunConfig:
    """The file's configuration with the flags' values in their place."""
    config = load_config(config_path)
    if sample_id is not None:
        config = replace_values(config, "source", sample_id=sample_id)
    if dosages:
        config = replace_values(config, "source", dosages=True)
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
    if no_encoder:
        config = replace_values(config, "train", encoder=False)
    if refine is not None:
        config = replace_values(config, "apply", refine=refine)
    if strand is not None:
        config = replace_values(config, "apply", strand=strand)
    return config
