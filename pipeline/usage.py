"""Commands whose help has headings, and that refuse what click takes in silence.

An option of one value that is given twice is refused, where click takes the last. Log
options may stand behind the command too.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from pipeline import logs

MAIN = "Main options"
# Options under headings of their own, by parameter. Others are main ones.
HEADINGS = {
    "What is read": (
        "sample_id",
        "dosages",
        "include_x",
        "no_qc",
        "groups",
        "group_id",
    ),
    "Settings": ("config_path", "method", "seed"),
    "What is there already": ("resume", "overwrite"),
    "Workers": (
        *("workers", "worker_memory", "scheduler", "scheduler_file", "min_workers"),
        *("job_system", "cluster_config"),
    ),
    "Watching": (
        *("dashboard", "performance_report", "metrics_file"),
        *("verbose", "log_format"),
    ),
    "Help": ("help", "version"),
}


def _log_options() -> list[click.Parameter]:
    """-v and --log-format, which change the log lines as soon as they are read."""
    return [
        click.Option(
            ["-v", "--verbose"],
            count=True,
            is_eager=True,
            expose_value=False,
            callback=_set_verbose,
            show_default=False,
            help="More log lines; twice for debug.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(logs.FORMATS),
            is_eager=True,
            expose_value=False,
            callback=_set_format,
            show_default=f"{logs.TEXT}, or $STREAMIXTURE_LOG_FORMAT",
            help="Log lines as text, or as one JSON object each.",
        ),
    ]


def _set_verbose(ctx: click.Context, _: click.Parameter, value: int) -> None:
    if value and not ctx.resilient_parsing:
        logs.configure(verbose=value)


def _set_format(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        logs.configure(log_format=value)


class Command(click.Command):
    """A command with headings in its help, each option once, and log options."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.params = [*self.params, *_log_options()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, none of which says a thing twice."""
        check_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the options under their headings, the main ones first."""
        write_options(self.get_params(ctx), ctx, formatter)


class CommandGroup(click.Group):
    """A group whose commands, and own options, are such."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments up to the command, none of which says a thing twice."""
        check_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the options and then the commands, in the order of the pipeline."""
        write_options(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, the whole pipeline before its stages."""
        return list(self.commands)


def check_repeated(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """Refuse an option of one value that is given more than once.

    Raises
    ------
    UsageError
        If there is one; names it.
    """
    if ctx.resilient_parsing:
        return
    *_, order = command.make_parser(ctx).parse_args(list(args))
    for parameter, times in Counter(order).items():
        if times > 1 and isinstance(parameter, click.Option) and _takes_one(parameter):
            name = max(parameter.opts, key=len)
            raise click.UsageError(
                f"{name} is given {times} times, and takes one value; give it once.",
                ctx,
            )


def _takes_one(option: click.Option) -> bool:
    return not (option.multiple or option.count or option.is_bool_flag)


def write_options(
    parameters: Sequence[click.Parameter],
    ctx: click.Context,
    formatter: click.HelpFormatter,
) -> None:
    """Write options under their headings, the main ones first."""
    place = {name: title for title, names in HEADINGS.items() for name in names}
    rank = {name: i for i, name in enumerate(place)}
    found: dict[str, list[tuple[str, str]]] = {}
    for option in sorted(parameters, key=lambda each: rank.get(_name(each), -1)):
        record = option.get_help_record(ctx)
        if record is not None and isinstance(option, click.Option):
            found.setdefault(place.get(_name(option), MAIN), []).append(record)
    for title in (MAIN, *HEADINGS):
        if title in found:
            with formatter.section(title):
                formatter.write_dl(found[title])


def _name(parameter: click.Parameter) -> str:
    """Name of a parameter, as `HEADINGS` has it."""
    return "help" if "--help" in parameter.opts else parameter.name or ""
