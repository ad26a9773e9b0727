"""A driver's lock and tables without training: processes that the tests of locks start.

Its arguments are what it does, the folder, a mark (a file whose existence starts it), how many
processes do it, each of which first prints ``ready`` if there are several, and how often. With
``RAYSWEEP_NO_LOCKS`` the file system seems to have no locks (an error's name), with
``RAYSWEEP_NO_LINKS`` no hard links; ``RAYSWEEP_STALE_S`` shortens the life of a lease; with
``RAYSWEEP_KILLED`` an earlier driver of each folder was killed.
"""

import errno
import fcntl
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from raysweep.errors import InputError
from raysweep.tables import file_lease
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tables.writer import Writer
from tests.table_rows import accuracy_rows


def _fail(name: str) -> None:
    number = getattr(errno, name)
    raise OSError(number, os.strerror(number))


def _surroundings() -> None:
    if name := os.environ.get("RAYSWEEP_NO_LOCKS"):
        fcntl.flock = lambda *_: _fail(name)
    if os.environ.get("RAYSWEEP_NO_LINKS"):
        os.link = lambda *_, **__: _fail("EPERM")
    if stale_s := os.environ.get("RAYSWEEP_STALE_S"):
        file_lease.STALE_S = float(stale_s)
        file_lease.RENEW_S = file_lease.STALE_S / 4
        file_lease._LOOK_S = file_lease._MARGIN_S = file_lease.STALE_S / 10


def _say(line: str) -> None:
    """Print a line at once, so that those of several processes do not mix."""
    os.write(1, f"{line}\n".encode())


def _wait_for(mark: Path) -> None:
    while not mark.exists():
        time.sleep(0.001)


def hold(folder: ResultsFolder, mark: Path) -> None:
    """Take the folder once and hold it until the mark is gone; print whether that worked."""
    _wait_for(mark)
    try:
        folder.open(say=lambda text: print(text, file=sys.stderr, flush=True))
    except InputError as error:
        _say(f"refused {error}")
        return
    _say("holds")
    while mark.exists():
        time.sleep(0.01)
    folder.close()


def write(folder: ResultsFolder, mark: Path) -> None:
    """Take the folder again and again, write and fold rows, and print each that is acknowledged."""
    first = os.getpid() * 1_000_000
    numbers = itertools.count(first)
    _wait_for(mark)
    while mark.exists():
        try:
            folder.open()
            writer = Writer(folder)
            for n in itertools.islice(numbers, 40):
                writer.add("accuracy", accuracy_rows(n, 1))
                writer.flush()
                _say(f"row {n:016x}")
                if n % 3 == 0:
                    writer.fold()
                if not mark.exists():
                    break
        except InputError as error:
            assert "expected no other driver" in str(error), error
            time.sleep(0.005)
        except WriteError as error:
            _say(f"lost {error}")
        finally:
            folder.close()


def die(folder: ResultsFolder) -> None:
    """Let a process take the folder and be killed."""
    child = os.fork()
    if not child:
        folder.open()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def race(folder: str, mark: str, n: int, rounds: int) -> None:
    """Let several processes try to hold a folder at the same moment; repeat with other folders."""
    if os.environ.get("RAYSWEEP_KILLED"):
        for i in range(rounds):
            die(ResultsFolder(f"{folder}{i}"))

    def act() -> None:
        for i in range(rounds):
            hold(ResultsFolder(f"{folder}{i}"), Path(f"{mark}{i}"))

    fork(act, n)


def fork(act: Callable[[], None], n: int) -> None:
    """Do something in several processes, without the time that starting them takes."""
    children = []
    for _ in range(n):
        child = os.fork()
        if not child:
            _say("ready")
            act()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def main(what: str, folder: str, mark: str, n: int, rounds: int) -> None:
    if what == "hold":
        hold(ResultsFolder(folder), Path(mark))
    elif what == "race":
        race(folder, mark, n, rounds)
    else:
        fork(lambda: write(ResultsFolder(folder), Path(mark)), n)


if __name__ == "__main__":
    _surroundings()
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
