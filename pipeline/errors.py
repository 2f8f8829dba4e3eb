"""The exceptions that end a command with one line instead of a traceback."""


class InputError(ValueError):
    """Bad usage or bad input, told to the user in one line; exit status 2.

    The message says what is wrong, where (store, array, sample id or index) and
    what to do about it. Nothing has been published when it is raised.
    """


class BusyError(InputError):
    """Another run holds the output, or writes the input; exit status 75.

    Nothing is wrong with the input: the same command will do when that run is over.
    """


class ClusterError(RuntimeError):
    """The workers, or their scheduler, are gone or not yet there; exit status 75.

    What was finished before is on disk, and a run goes on from there when it is
    resumed.
    """


def require(condition: bool, message: str) -> None:
    """Raise InputError with the message unless the condition holds."""
    if not condition:
        raise InputError(message)


def install_extra(extra: str) -> str:
    """How to install what only some commands need; the package is on no index.

    >>> install_extra("watch")
    "run pip install '.[watch]' in a checkout of streamixture"
    """
    return f"run pip install '.[{extra}]' in a checkout of streamixture"
