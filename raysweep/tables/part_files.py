"""The part files of a table, told from anything else that lies beside them."""

import re

from raysweep.atomic import TEMPORARY
from raysweep.errors import InputError
from raysweep.tables.paths import ResultsPath
from raysweep.tables.schemas import TABLES

_NAME = re.compile(r"part-([0-9]{20})-([0-9]{8})\.parquet")
_LATEST = 2**63
"""Nanoseconds in 2262: a later time would need more digits, and sort wrongly."""
_NAMED = 3


def part_name(run: int, n: int) -> str:
    """Return the name of the ``n``-th part of a ``run``, named by its start in nanoseconds."""
    return f"part-{run:020d}-{n:08d}.parquet"


def run_of(name: str) -> int | None:
    """Return the run of a part file by its name, None if this is not such a name."""
    found = _NAME.fullmatch(name)
    run = int(found[1]) if found else _LATEST
    return run if run < _LATEST else None


def part_files(location: ResultsPath, table: str) -> list[ResultsPath]:
    """List the part files of a table, oldest first. Raise ``OSError`` on failure."""
    return [path for path, is_ours in _entries(location, table) if is_ours]


def stray_note(location: ResultsPath) -> str | None:
    """Return a line about what lies among the parts but is not ours; None if nothing does.

    Raise ``InputError`` if the folder cannot be read.
    """
    try:
        found = [entry for table in TABLES for entry in _entries(location, table)]
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{location}: expected to list its parts, got: {reason}") from None
    strays = [str(path) for path, is_ours in found if not is_ours]
    if not strays:
        return None
    more = f" and {len(strays) - _NAMED} more" if len(strays) > _NAMED else ""
    what = "is not a file that raysweep wrote: it is left as it is, and any rows in it"
    if len(strays) > 1:
        what = "are not files that raysweep wrote: they are left as they are, and any rows in them"
    return f"{', '.join(strays[:_NAMED])}{more} {what} do not count"


def _entries(location: ResultsPath, table: str) -> list[tuple[ResultsPath, bool]]:
    """List what lies among the parts of a table by name, and whether it is a part file."""
    folder = location / "parts" / table
    return [
        (folder / name, is_file and run_of(name) is not None)
        for name, is_file in sorted(folder.entries().items())
        if not name.startswith(TEMPORARY)
    ]
