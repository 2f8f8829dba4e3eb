"""TOML files as frozen dataclasses: unknown keys and other types are refused."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from pipeline.errors import InputError, require

T = TypeVar("T")


def read(cls: type[T], path: Path, option: str) -> T:
    """Read a TOML file as a frozen dataclass, whose dataclasses are its tables.

    Parameters
    ----------
    cls
        The class of the whole file.
    path
        The file.
    option
        What named it, for the error.

    Raises
    ------
    InputError
        If the file is missing, is not TOML, or has an unknown key or a bad value.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check {option}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    return cast(T, _build(cls, values, f"{path}: ", ""))


def _build(cls: type, values: Mapping[str, Any], where: str, section: str) -> Any:
    """Make a section from a TOML table, checking names and types."""
    kinds = get_type_hints(cls)
    title = f"[{section}]" if section else "the top level"
    unknown = sorted(set(values) - set(kinds))
    require(
        not unknown,
        f"{where}unknown key {', '.join(unknown)} in {title}; "
        f"known are {', '.join(kinds)}",
    )
    converted = {
        name: _convert(kinds[name], value, where, name)
        for name, value in values.items()
    }
    return cls(**converted)


def _convert(kind: Any, value: Any, where: str, name: str) -> Any:
    if dataclasses.is_dataclass(kind):
        require(isinstance(value, dict), f"{where}{name} must be a table, [{name}]")
        return _build(kind, value, where, name)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        require(isinstance(value, list), f"{where}{name} must be a list")
        return tuple(_convert(get_args(kind)[0], item, where, name) for item in value)
    accepted = (int, float) if kind is float else kind
    # To Python a bool is an int; to a reader of the file it is not.
    right = isinstance(value, accepted) and (kind is bool) == isinstance(value, bool)
    require(right, f"{where}{name} is {value!r}; it must be of type {kind.__name__}")
    return kind(value)
