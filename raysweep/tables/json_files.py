"""JSON of a results folder: read within limits, as anyone may have written it.

Every such file is optional: its readers do without one that is damaged. What they catch is
``OSError`` (it is missing, or no file) and ``ValueError`` (anything about its content).
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from raysweep.tables.paths import ResultsPath

MOST_BYTES = 64_000_000
"""Ours are a few kB; a list of a million configurations has 22 MB."""
_MOST_LEVELS = 20
"""Python's own functions fail beyond about 1,000."""


def read_json(path: ResultsPath) -> Any:
    """Read a JSON file of a results folder; raise ``OSError`` or ``ValueError``."""
    return decode_json(read_limited(path))


def read_limited(path: ResultsPath, most: int = MOST_BYTES) -> bytes:
    """Read a file that others may have written; raise ``ValueError`` if it is too large."""
    size = path.size()
    if size > most:
        raise ValueError(f"{size:,} bytes instead of at most {most:,}")
    return path.read_bytes()


def decode_json(content: bytes) -> Any:
    """Decode JSON; raise ``ValueError`` for anything else, and for what JSON does not have.

    That is NaN, infinite numbers (1e999), and deep nesting.
    """
    try:
        value = json.loads(content, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError("nested too deep")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def is_text(value: Any) -> bool:
    """Return whether a value is text."""
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number of a size that can be shown."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15


def is_amount(value: Any) -> bool:
    """Return whether a value is a number from 0 of a size that can be shown."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < 1e15


def are_texts(value: Any) -> bool:
    """Return whether a value is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def _by_name(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_valid, value.values()))


def _is_git(value: Any) -> bool:
    return isinstance(value, dict) and (
        isinstance(value.get("commit"), str | None)
        and isinstance(value.get("is_dirty"), bool | None)
    )


_RUN: Mapping[str, Callable[[Any], bool]] = {
    "command": are_texts,
    "start": is_text,
    "end": is_text,
    "driver": is_text,
    "hosts": are_texts,
    "versions": _by_name(is_text),
    "git": _is_git,
    "counts": _by_name(is_count),
    "train_s": is_amount,
    "train_cpu_s": is_amount,
}
"""The entries of a run in a manifest, with how their values are checked."""


def checked_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a run that have their type, and null for others that we know."""
    return {
        name: value if name not in _RUN or _RUN[name](value) else None
        for name, value in run.items()
    }
