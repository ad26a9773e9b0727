"""Files that the processes of one test session share: made once, whichever comes first."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the session, the same one in all processes of pytest-xdist."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextmanager
def locked(file: Path, is_shared: bool = False) -> Iterator[None]:
    """Hold a lock on a file: one process alone, or with others that want it shared."""
    with file.open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
        yield  # closing the file releases it


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return the session's folder of a name, which the first process to ask lets ``make`` fill.

    Nobody may write there afterwards: tests of other modules compare with what lies there.
    """
    folder = session_folder(factory) / "made_once" / name
    folder.mkdir(parents=True, exist_ok=True)
    is_made = folder.with_name(f"{name}.made")
    with locked(folder.with_name(f"{name}.lock")):
        if not is_made.exists():
            make(folder)
            is_made.touch()
    return folder
