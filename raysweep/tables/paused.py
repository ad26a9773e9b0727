"""The files of ``paused/``: states of packs that a run left partly trained, and the list of them.

The list groups files that are to be trained as one pack. A state that is not listed, because a
driver was killed, says itself what it holds (``raysweep/packs/states.py``).
"""

import contextlib
import re
import uuid
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from raysweep.tables.json_files import read_json
from raysweep.tables.paths import ResultsPath

PAUSED = "paused"
"""Folder of the states of packs that a run left partly trained."""
PAUSED_LIST = "packs.json"
"""Lists them: ids of configurations and names of files."""

ASIDE = "aside"
"""Folder in the scratch folder for states that are not Ray Tune's checkpoints: of packs that lost
half of their lanes, and from workers that do not see the folder."""

_SUFFIX = ".safetensors"
_OURS = re.compile(r"[0-9a-f]{32}\.(safetensors|pt)")
"""Names of states; version 0.3.0 wrote ``.pt``."""
_LEFT = (f"packs/*/checkpoint_*/*{_SUFFIX}", f"{ASIDE}/*{_SUFFIX}")
"""Where states lie in the scratch folder of a driver that was killed."""


class PausedPack(NamedTuple):
    """A pack of the list: ids of configurations, names of files."""

    ids: tuple[str, ...]
    files: tuple[str, ...]


def new_state_name() -> str:
    """Return a name that no other state has: an earlier list stays valid until it is replaced."""
    return f"{uuid.uuid4().hex}{_SUFFIX}"


def read_paused(folder: str | Path | ResultsPath) -> list[PausedPack]:
    """Read the list in a sweep's folder, without entries that are damaged or lead elsewhere."""
    try:
        entries = read_json(ResultsPath.of(folder) / PAUSED / PAUSED_LIST)
    except (OSError, ValueError):
        return []
    found = [_entry(entry) for entry in entries] if isinstance(entries, list) else []
    return [entry for entry in found if entry is not None]


def _entry(found: Any) -> PausedPack | None:
    if not isinstance(found, dict):
        return None
    ids, files = found.get("configs"), found.get("files")
    if not isinstance(ids, list) or not isinstance(files, list) or not files:
        return None
    if not all(isinstance(name, str) for name in (*ids, *files)):
        return None
    if not all(_OURS.fullmatch(name) for name in files):
        return None
    return PausedPack(tuple(dict.fromkeys(ids)), tuple(dict.fromkeys(files)))


def partly_trained(folder: str | Path | ResultsPath) -> frozenset[str]:
    """Return the ids of the listed configurations, of which some may have ended since."""
    return frozenset(config_id for entry in read_paused(folder) for config_id in entry.ids)


def state_files(folder: ResultsPath) -> list[str]:
    """List the names of the states in a folder, sorted; other files there are the user's."""
    try:
        names = [] if is_link(folder) else folder.names()
    except OSError:
        return []
    return [name for name in names if _OURS.fullmatch(name)]


def is_link(folder: ResultsPath) -> bool:
    """Return whether a folder is a link, which may lead out of the results."""
    return folder.local is not None and folder.local.is_symlink()


def has_states(sweep: ResultsPath) -> bool:
    """Return whether a sweep's folder has a list of states, or states."""
    try:
        names = (sweep / PAUSED).names()
    except OSError:
        return False
    return any(name == PAUSED_LIST or _OURS.fullmatch(name) for name in names)


def rescue_states(sweep: ResultsPath, scratch: ResultsPath) -> None:
    """Move the states that a killed driver left in its scratch folder into ``paused/``."""
    if is_link(scratch) or is_link(sweep / PAUSED):
        return
    with contextlib.suppress(OSError):
        if scratch.local is not None:
            files = [file for pattern in _LEFT for file in scratch.local.glob(pattern)]
            left = [ResultsPath(file) for file in sorted(files) if file.is_file()]
        else:
            names = scratch.tree()
            left = [scratch / n for n in names if any(fnmatch(n, pattern) for pattern in _LEFT)]
        for file in left:
            if sweep.local is not None:
                (sweep.local / PAUSED).mkdir(exist_ok=True)
            file.move(sweep / PAUSED / new_state_name())
