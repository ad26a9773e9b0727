"""Packs that a run left partly trained: their states, from which the next run resumes.

They are kept in the results folder, unless that is an object store. The list of them is written
after the rows of their epochs, so a state is never ahead of the tables; epochs by which it is
behind are trained again and give the same rows.
"""

import contextlib
import json
import re
import sys
import uuid
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from raysweep.learning.config import Config
from raysweep.packs.pack import Pack
from raysweep.packs.planning.estimates import memory_bytes
from raysweep.statuses import Status
from raysweep.tables.folder import PAUSED, PAUSED_LIST
from raysweep.tables.json_files import read_json
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import statuses
from raysweep.tune.scheduling.queue import Job

_SUFFIX = ".pt"
_OURS = re.compile(r"[0-9a-f]{32}" + re.escape(_SUFFIX))
"""Names of the states that we write; other files may be the user's."""


def keep_states(location: ResultsPath, jobs: Iterable[Job]) -> int:
    """Keep the states of jobs that have not ended; return how many of them are new.

    States of earlier runs are kept for configurations that have no row and no later state, such as
    those that were not part of this run. A folder that can't be written is left as it is.
    """
    if location.local is None:
        return 0
    folder = (location.local / PAUSED).absolute()
    kept: list[dict[str, Any]] = []
    n_new = 0
    with contextlib.suppress(OSError):
        (location / PAUSED).expect_folder()
        for job in jobs:
            files = _files_of(job)
            if files and job.n_open and all(file.exists() for file in files):
                folder.mkdir(exist_ok=True)
                n_new += any(file.parent != folder for file in files)
                names = [_moved(file, folder) for file in files]
                kept.append({"configs": [c.id for c in job.open_configs], "files": names})
        kept += _others(location, folder, {i for entry in kept for i in entry["configs"]})
        if kept:
            (location / PAUSED / PAUSED_LIST).write_bytes(json.dumps(kept).encode())
        elif folder.exists():
            (folder / PAUSED_LIST).unlink(missing_ok=True)
        _clear(folder, {name for entry in kept for name in entry["files"]})
        return n_new
    return 0


def _others(location: ResultsPath, folder: Path, ids_kept: set[str]) -> list[dict[str, Any]]:
    """List the earlier states of configurations that have no row and no later state."""
    listed = _listed(folder)
    if not listed:
        return []
    ended = {i for i, (status, _) in statuses(location).items() if status != Status.FAILED}
    gone = ended | ids_kept
    left = [([i for i in ids if i not in gone], names) for ids, names in listed]
    return [
        {"configs": ids, "files": names}
        for ids, names in left
        if ids and all((folder / name).exists() for name in names)
    ]


def _files_of(job: Job) -> list[Path]:
    if job.checkpoint is not None:
        return [Path(job.checkpoint.path) / "pack.pt"]
    return list(job.states)


def _moved(file: Path, folder: Path) -> str:
    """Move a file to a new name, so that an earlier run's list stays valid until it is replaced."""
    if file.parent == folder:
        return file.name
    name = f"{uuid.uuid4().hex}{_SUFFIX}"
    file.rename(folder / name)
    return name


def _clear(folder: Path, names: set[str]) -> None:
    """Delete all states of ours but those named, and the folder if it is empty then."""
    for file in folder.glob(f"*{_SUFFIX}"):
        if file.name not in names and _OURS.fullmatch(file.name) and not file.is_symlink():
            file.unlink()
    if folder.exists() and not names:
        with contextlib.suppress(OSError):  # the user put something there
            folder.rmdir()


def paused_jobs(
    location: ResultsPath,
    missing: Sequence[Config],
    *,
    most: int | None = None,
    memory: int | None = None,
    limit: int | None = None,
    alone: Container[str] = (),
) -> list[Job]:
    """Return the jobs that resume from kept states, for configurations in ``missing``.

    Packs of more than ``most`` configurations or ``memory`` bytes are planned again instead. At
    most ``limit`` configurations resume, and those in ``alone`` (ids) only from a state that
    holds no others.
    """
    if location.local is None:
        return []
    try:
        (location / PAUSED).expect_folder()
    except OSError:
        return []
    folder = (location.local / PAUSED).absolute()
    left = {config.id: config for config in missing}
    jobs: list[Job] = []
    for ids, names in _listed(folder):
        files = tuple(folder / name for name in names)
        configs = tuple(left[i] for i in ids if i in left and (i not in alone or len(ids) == 1))
        if not configs or not all(file.is_file() and not file.is_symlink() for file in files):
            continue
        pack = Pack(configs)
        room = sys.maxsize if limit is None else limit - sum(len(job.pack.configs) for job in jobs)
        if len(configs) > min(room, most or sys.maxsize):
            continue
        if memory is not None and len(configs) > 1 and memory_bytes(pack) > memory:
            continue
        for config in configs:
            del left[config.id]
        jobs.append(Job(configs[0].id, pack, states=files, is_paused=True))
    return jobs


def _listed(folder: Path) -> list[tuple[list[str], list[str]]]:
    """Read the ids and file names of the list; return nothing if it is damaged."""
    try:
        entries = [
            (entry["configs"], entry["files"])
            for entry in read_json(ResultsPath(folder / PAUSED_LIST))
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    return [
        (list(dict.fromkeys(ids)), names)
        for ids, names in entries
        if _are_texts(ids)
        and _are_texts(names)
        and names
        # Refuse paths that lead elsewhere.
        and all(Path(name).name == name and name.endswith(_SUFFIX) for name in names)
    ]


def _are_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(one, str) for one in found)
