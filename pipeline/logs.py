"""Log lines of a command: text for people, or one JSON object a line for machines."""

import datetime
import json
import logging
from typing import Any

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
# Attribute of a record: what a line says, as values.
FIGURES = "figures"


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


def configure(verbose: int, log_format: str) -> None:
    """Send log lines to stderr.

    Parameters
    ----------
    verbose
        1 and less shows what the pipeline says of its progress, 2 all that it does.
    log_format
        One of `FORMATS`. With "json", warnings of Python are lines too.
    """
    level = logging.DEBUG if verbose > 1 else logging.INFO
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    if log_format == JSON:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
        logging.captureWarnings(True)
    logging.getLogger("pipeline").setLevel(level)


def are_json() -> bool:
    """Whether log lines of this process are JSON objects."""
    handlers = logging.getLogger().handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)
