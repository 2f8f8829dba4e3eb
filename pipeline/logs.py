"""Log lines of a command: text for people, or one JSON object a line for machines."""

import datetime
import json
import logging
import os
import sys
from typing import Any

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
# What chooses between them.
OPTION, VARIABLE = "--log-format", "STREAMIXTURE_LOG_FORMAT"
# Attribute of a record: what a line says, as values.
FIGURES = "figures"
_LINE = "%(asctime)s %(levelname)s %(message)s"


class JsonFormatter(logging.Formatter):
    """A line as a JSON object: time (UTC), level, logger, message, and its figures."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record in one line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIGURES, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(verbose: int | None = None, log_format: str | None = None) -> None:
    """Send log lines to stderr.

    Parameters
    ----------
    verbose
        1 and less shows what the pipeline says of its progress, 2 all that it does;
        None leaves it as it is.
    log_format
        One of `FORMATS`; None leaves it as it is. With "json", warnings of Python are
        lines too.
    """
    logging.basicConfig(level=logging.WARNING, format=_LINE)
    if log_format is not None:
        is_json = log_format == JSON
        for handler in logging.getLogger().handlers:
            formatter = JsonFormatter() if is_json else logging.Formatter(_LINE)
            handler.setFormatter(formatter)
        logging.captureWarnings(is_json)
    if verbose is not None:
        level = logging.DEBUG if verbose > 1 else logging.INFO
        logging.getLogger("pipeline").setLevel(level)


def describe_end(message: str, exit_status: int) -> str:
    """The line with which a command ends that does not end well."""
    line = " ".join(message.split())
    if not (are_json() or (not logging.getLogger().handlers and _will_be_json())):
        return f"Error: {line}"
    record = logging.makeLogRecord(
        {
            "name": "pipeline",
            "levelno": logging.ERROR,
            "levelname": "ERROR",
            "msg": line,
            FIGURES: {"exit_status": exit_status},
        }
    )
    return JsonFormatter().format(record)


def _will_be_json() -> bool:
    """Whether the command line, which nobody has read yet, asks for JSON."""
    words = sys.argv[1:]
    pairs = zip(words, words[1:], strict=False)
    chosen = [word.partition("=")[2] for word in words if word.startswith(f"{OPTION}=")]
    chosen += [value for word, value in pairs if word == OPTION]
    return (chosen or [os.environ.get(VARIABLE, "")])[-1] == JSON


def are_json() -> bool:
    """Whether log lines of this process are JSON objects."""
    handlers = logging.getLogger().handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)
