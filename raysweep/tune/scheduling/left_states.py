"""The states in ``paused/``: which configurations may resume from which of them."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from raysweep.packs.states import RowsBehind, StateError, expect_whole, rows_in
from raysweep.sealed import SUFFIX
from raysweep.tables.paths import ResultsPath
from raysweep.tables.paused import PAUSED, PausedPack, read_paused, state_files
from raysweep.tune.scheduling.written_rows import WrittenRows

_N_READERS = 8
_IS_ANOTHERS = "is not of the configurations that its list names"
_IS_OLD = "is from an earlier version of raysweep"
_IS_AHEAD = "stands behind rows that the tables do not have"

Rows = Mapping[str, RowsBehind]


@dataclass(frozen=True)
class LeftState:
    """Files from which configurations (ids) resume as one pack; ``n_epochs`` is how far it is."""

    files: tuple[str, ...]
    ids: tuple[str, ...]
    n_epochs: int


class Problem(NamedTuple):
    """Why configurations (ids; None if unknown) can't resume from a file."""

    file: str
    why: str
    ids: tuple[str, ...] | None


def find_states(
    location: ResultsPath, is_wanted: Callable[[str], bool], other_than: Container[str] = ()
) -> tuple[list[LeftState], list[Problem]]:
    """Find states for the wanted configurations (by id), the furthest first; skip some files.

    A configuration may be in several. Also return which states can't be used. What a killed run
    left is verified here, as the kill may have cut it and another state may be whole; what was
    stopped is verified by the worker.
    """
    folder = location / PAUSED
    listed = [p for p in read_paused(location) if not any(f in other_than for f in p.files)]
    of_list = {name for pack in listed for name in pack.files}
    unlisted = [n for n in state_files(folder) if n not in of_list and n not in other_than]
    rows, failures = _read_all(folder, sorted(of_list), unlisted)
    problems = [
        *(Problem(name, failures[name], None) for name in unlisted if name in failures),
        *_lost(listed, rows, failures),
    ]
    # A state by itself comes after the packs of the list: it is for what these do not take.
    groups = [(p.files, p.ids) for p in listed if all(name in rows for name in p.files)]
    groups += [((name,), tuple(found)) for name, found in rows.items()]
    asked = {i for found in rows.values() for i in found if is_wanted(i)}
    written = WrittenRows(location, asked)
    found = []
    for files, ids in groups:
        behind = {i: rows[n][i] for n in files for i in ids if i in asked and i in rows[n]}
        agreed = tuple(i for i, row in behind.items() if written.have(i, row))
        if agreed:
            found.append(LeftState(files, agreed, _n_epochs(behind[i] for i in agreed)))
        ahead = tuple(i for i in behind if i not in agreed)
        problems += [Problem(files[0], _IS_AHEAD, ahead)] if ahead else []
    return sorted(found, key=lambda left: -left.n_epochs), problems


def _read_all(
    folder: ResultsPath, listed: Iterable[str], unlisted: Iterable[str]
) -> tuple[dict[str, Rows], dict[str, str]]:
    """Return, by name, the rows behind each state, or why it can't be used."""

    def read(name: str, is_checked: bool) -> Rows | str:
        try:
            with (folder / name).opened() as file:
                if is_checked:
                    expect_whole(file)
                return rows_in(file)
        except OSError as error:
            return f"can't be read: {error.strerror or error}"
        except StateError as error:
            return str(error) if name.endswith(SUFFIX) else _IS_OLD

    files = {**dict.fromkeys(listed, False), **dict.fromkeys(unlisted, True)}
    with ThreadPoolExecutor(_N_READERS) as pool:
        found = dict(zip(files, pool.map(read, files, files.values()), strict=True))
    failures = {name: why for name, why in found.items() if isinstance(why, str)}
    return {n: rows for n, rows in found.items() if not isinstance(rows, str)}, failures


def _lost(
    listed: Sequence[PausedPack], rows: Mapping[str, Rows], failures: Mapping[str, str]
) -> list[Problem]:
    """Return the problems of configurations that the list names and no state of theirs has."""
    problems = []
    for pack in listed:
        there = {i for name in pack.files for i in rows.get(name, ())}
        failed = [name for name in pack.files if name in failures]
        name = failed[0] if failed else pack.files[0]
        ids = tuple(i for i in pack.ids if i not in there)
        problems += [Problem(name, failures.get(name, _IS_ANOTHERS), ids)] if ids else []
    return problems


def _n_epochs(behind: Iterable[RowsBehind]) -> int:
    return max(sum(int(n) for n, _ in row["epochs"].values()) for row in behind)
