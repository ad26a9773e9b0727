"""Arguments of the Python API: what they may be, and how messages name them."""

import math
import numbers
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raysweep.errors import InputError, RaysweepError
from raysweep.tables.paths import ResultsPath

_NAMES = {"data": "data_folder", "max-configs": "refuse_above"}
"""Options of the command that are called otherwise in Python: these are keys of a search space."""


@contextmanager
def in_python_words() -> Iterator[None]:
    """Name arguments where a message names options: ``--data`` is ``data_folder`` in Python."""
    try:
        yield
    except RaysweepError as error:
        error.args = tuple(map(translated, error.args))
        raise


def translated(message: Any) -> Any:
    """Return a message that names arguments in place of options."""

    def word(match: re.Match[str]) -> str:
        return _NAMES.get(match[1], match[1].replace("-", "_"))

    return re.sub(r"(?<![\w-])--([a-z][a-z-]*[a-z])", word, message)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number from ``least``; raise ``InputError`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"{name}: expected a whole number from {least}, got {_what(value)}")
    return int(value)


def seconds(name: str, value: Any) -> float:
    """Return a number from 0; raise ``InputError`` for anything else."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or math.isnan(value) or value < 0:
        raise InputError(f"{name}: expected seconds from 0, got {_what(value)}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return True or False; raise ``InputError`` for anything else: the text "no" counts as true.

    NumPy's are booleans, too.
    """
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name}: expected True or False, got {_what(value)}")
    return bool(value)


def text(name: str, value: Any) -> str | None:
    """Return text that is not blank, or None; raise ``InputError`` for anything else."""
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise InputError(f"{name}: expected text or None, got {_what(value)}")
    return None if value is None else str(value)


def path(name: str, value: Any, what: str = "folder") -> Path:
    """Return a path, ``~`` expanded as a shell does it; raise ``InputError`` for anything else."""
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str) or not given.strip() or "\0" in given:
        raise InputError(f"{name}: expected a {what}, got {_what(value)}")
    try:
        return Path(given).expanduser()
    except RuntimeError:  # no home, no such user
        return Path(given)


def place(name: str, value: Any) -> ResultsPath:
    """Return a folder, or its address in an object store; raise ``InputError`` for anything else.

    It stays the same place when the process changes its folder.
    """
    local = path(name, value)
    found = ResultsPath.of(local if isinstance(value, os.PathLike) or "://" not in value else value)
    if found.local is None:
        return found
    try:
        found.local.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(
            f"{name}: expected a folder, got {_what(value)}: {error.strerror}"
        ) from None
    return ResultsPath(found.local.absolute())


def words(name: str, value: Any) -> list[str]:
    """Return a list of texts, a single one given alone; raise ``InputError`` for anything else."""
    given = [value] if isinstance(value, str) else value
    is_list = isinstance(given, Sequence) or hasattr(given, "tolist")
    if not is_list or not len(given) or not all(isinstance(word, str) for word in given):
        raise InputError(f"{name}: expected text or a list of texts, got {_what(value)}")
    return list(map(str, given))


def _what(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f"{value[:77]}...")
    return type(value).__name__
