"""Errors in the words of the Python functions, where a command has options.

The stages name the options of the commands that most people call them by. Whoever
calls a function has its parameters instead, and never sees the copy of a Dataset that
a run reads.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping

from pipeline.errors import ClusterError, InputError

# In this order: what stands for a whole remedy, then single options.
_RULES = (
    (r"pass --resume to finish .*?, --overwrite to", "pass overwrite=True to"),
    (
        r"run with the same inputs to --resume, or --overwrite to",
        "pass overwrite=True to",
    ),
    (r"\b(go|it goes) on with --resume", "call it again with overwrite=True"),
    (r"--resume", "overwrite=True"),
    (r"--overwrite", "overwrite=True"),
    (r"--output", "output"),
    (r"--config\b", "config"),
    (r"--strand (\w+)", r'strand="\1"'),
    (r"(raise|lower|set) --workers( to \d+ or less)?", "use a dask Client of fewer"),
    (r"--worker-memory", "the memory of the dask Client's workers"),
    (r"--no-qc", "quality_control=False"),
    (r"--no-encoder", "encoder=False"),
    (r"(?<![\w-])-k\b", "n_populations"),
    (r"\bfit\.n_populations is\b", "n_populations is"),
    (r"\bapply\.(refine|strand|min_overlap|standard_errors)\b", r"\1"),
)


def to_python(message: str) -> str:
    """A message with parameters in place of options; commands in backquotes stay.

    >>> to_python("out exists already; pass --overwrite, or lower -k")
    'out exists already; pass overwrite=True, or lower n_populations'
    >>> to_python("run `streamixture fit -k 2`")
    'run `streamixture fit -k 2`'
    """
    parts = re.split(r"(`[^`]*`)", message)
    for pattern, words in _RULES:
        # Every second part is a command, to be run as it stands.
        parts[::2] = [re.sub(pattern, words, part) for part in parts[::2]]
    return "".join(parts)


@contextlib.contextmanager
def python_words(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Raise errors of the block in the words of the Python functions.

    Parameters
    ----------
    names
        What stands for a text, such as the path of a working copy.
    """
    try:
        yield
    except (InputError, ClusterError) as error:
        message = str(error)
        for text, name in (names or {}).items():
            message = message.replace(text, name)
        changed = type(error)(to_python(message))
        raise changed.with_traceback(error.__traceback__) from None
