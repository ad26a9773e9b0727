"""Packs that a run left partly trained: their states, from which the next run resumes.

They are kept in ``paused/`` of the results folder, on disk or in an object store. A state says
which rows of each configuration it stands behind, and is used for those of which the tables have
all of these rows with the same values; epochs by which it is behind are trained again and give the
same rows. So it does not matter whether the run was stopped or killed.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

from raysweep.learning.config import Config
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import memory_bytes
from raysweep.packs.states import STATE_FILE
from raysweep.statuses import Status
from raysweep.tables.folder import WriteError
from raysweep.tables.paths import ResultsPath
from raysweep.tables.paused import PAUSED, PAUSED_LIST, new_state_name, state_files
from raysweep.tables.reader import statuses
from raysweep.tables.writer import Writer
from raysweep.tune.scheduling.left_states import Problem, find_states
from raysweep.tune.scheduling.queue import Job

Say = Callable[[str], None]


def fold_and_keep_states(writer: Writer, jobs: Sequence[Job]) -> int:
    """Fold the tables, then do as ``keep_states``, also if rows could not be written.

    On a full disk, for example, files can still be moved. Raise ``WriteError`` as ``Writer.fold``.
    """
    folder = writer.folder
    try:
        writer.fold()
    except WriteError:
        with contextlib.suppress(OSError, WriteError):
            folder.expect_lock()  # not if another driver has the folder now
            keep_states(folder.location, jobs)
        raise
    return keep_states(folder.location, jobs)


def keep_states(location: ResultsPath, jobs: Iterable[Job]) -> int:
    """Keep the states of jobs that have not ended; return how many of them are new.

    States of earlier runs are kept for configurations that have no row and no later state, such as
    those that were not part of this run. A folder that can't be written is left as it is.
    """
    folder = _folder(location)
    kept: list[dict[str, list[str]]] = []
    n_new = 0
    with contextlib.suppress(OSError):
        (location / PAUSED).expect_folder()
        for job in jobs:
            files = _files_of(job, location)
            if files and job.n_open and all(file.exists() for file in files):
                if folder.local is not None:
                    folder.local.mkdir(exist_ok=True)
                moved = [_moved(file, folder) for file in files]
                n_new += any(file.name not in moved for file in files)
                kept.append({"configs": [c.id for c in job.open_configs], "files": moved})
        kept += _others(location, kept)
        if kept:
            (location / PAUSED / PAUSED_LIST).write_bytes(json.dumps(kept).encode())
        elif folder.exists():
            (folder / PAUSED_LIST).delete()
        _clear(folder, {name for entry in kept for name in entry["files"]})
        return n_new
    return 0


def _folder(location: ResultsPath) -> ResultsPath:
    """Return the folder of the states, by a path that workers can use, too."""
    folder = location / PAUSED
    return ResultsPath(folder.local.absolute()) if folder.local is not None else folder


def _others(
    location: ResultsPath, kept: Sequence[Mapping[str, Sequence[str]]]
) -> list[dict[str, list[str]]]:
    """List the earlier states of configurations that have no row and no later state."""
    names = {name for entry in kept for name in entry["files"]}
    if not set(state_files(location / PAUSED)) - names:
        return []
    ended = {i for i, (status, _) in statuses(location).items() if status != Status.FAILED}
    gone = ended.union(*(entry["configs"] for entry in kept))
    others = []
    for left in find_states(location, lambda i: i not in gone, names)[0]:
        ids = [config_id for config_id in left.ids if config_id not in gone]
        gone.update(ids)
        others += [{"configs": ids, "files": list(left.files)}] if ids else []
    return others


def _files_of(job: Job, location: ResultsPath) -> list[ResultsPath]:
    if job.checkpoint is None:
        return list(job.states)
    folder = ResultsPath(Path(job.checkpoint.path))
    if location.local is None:  # Tune leaves out the address of the store
        folder = location / job.checkpoint.path.removeprefix(f"{location.key}/")
    return [folder / STATE_FILE]


def _moved(file: ResultsPath, folder: ResultsPath) -> str:
    """Move a file into the folder unless it is there; return its name."""
    if file == folder / file.name:
        return file.name
    name = new_state_name()
    file.move(folder / name)
    return name


def _clear(folder: ResultsPath, names: set[str]) -> None:
    """Delete all states but those named, and the folder if it is empty then."""
    for name in state_files(folder):
        if name not in names:
            (folder / name).delete()
    if folder.local is not None and folder.local.exists() and not names:
        with contextlib.suppress(OSError):  # the user put something there
            folder.local.rmdir()


def paused_jobs(
    location: ResultsPath,
    missing: Sequence[Config],
    *,
    most: int | None = None,
    memory: int | None = None,
    limit: int | None = None,
    alone: Container[str] = (),
    say: Say = lambda _: None,
) -> list[Job]:
    """Return the jobs that resume from kept states, for configurations in ``missing``.

    Packs of more than ``most`` configurations or ``memory`` bytes are planned again instead. At
    most ``limit`` configurations resume, and those in ``alone`` (ids) only from a state that
    holds no others. States that can't be used are reported through ``say``.
    """
    try:
        (location / PAUSED).expect_folder()
    except OSError:
        return []
    folder = _folder(location)
    left = {config.id: config for config in missing}
    jobs: list[Job] = []
    states, problems = find_states(location, left.__contains__)
    for state in states:
        ids = state.ids
        configs = tuple(left[i] for i in ids if i in left and (i not in alone or len(ids) == 1))
        if not configs:
            continue
        pack = Pack(configs)
        room = sys.maxsize if limit is None else limit - sum(len(job.pack.configs) for job in jobs)
        if len(configs) > min(room, most or sys.maxsize):
            continue
        if memory is not None and len(configs) > 1 and memory_bytes(pack) > memory:
            continue
        for config in configs:
            del left[config.id]
        files = tuple(folder / name for name in state.files)
        jobs.append(Job(configs[0].id, pack, states=files, is_paused=True))
    _report(problems, left, say)
    return jobs


def _report(problems: Sequence[Problem], left: Container[str], say: Say) -> None:
    """Report why states can't be used, and how many configurations start over for each."""
    reported = set[str]()
    for file, why, ids in problems:
        if ids is None:
            say(
                f"note: the state {PAUSED}/{file} {why}: its configurations resume from an "
                f"earlier one or start over"
            )
            continue
        over = [i for i in ids if i in left and i not in reported]
        reported.update(over)
        if over:
            start = "configuration starts" if len(over) == 1 else "configurations start"
            say(f"note: {len(over)} {start} over: the state {PAUSED}/{file} {why}")
