"""The one exception that ends a command with status 2."""


class InputError(ValueError):
    """Bad usage or bad input, told to the user in one line.

    The message says what is wrong, where (store, array, sample id or index) and
    what to do about it. Nothing has been published when it is raised.
    """
