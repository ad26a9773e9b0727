"""Control groups of the kernel that limit a driver and all its children."""

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_FILES = {
    # In cgroups v1: folder, file of the limit, file with the events; then in v2.
    "memory": (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
        ("/sys/fs/cgroup", "memory.max", "memory.events"),
    ),
    "pids": (
        ("/sys/fs/cgroup/pids", "pids.max", "pids.events"),
        ("/sys/fs/cgroup", "pids.max", "pids.events"),
    ),
}


class Group:
    """A control group; processes are started in it, and its children are, too."""

    def __init__(self, folder: Path, events: str) -> None:
        self.folder, self._events = folder, folder / events

    def words(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs a command in it."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', f"{self.folder}/cgroup.procs", *words]

    def count(self, event: str) -> int:
        """Count how often an event came, such as ``oom_kill``."""
        for line in self._events.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == event:
                return int(number)
        return 0


@contextmanager
def limited(kind: str, limit: int) -> Iterator[Group]:
    """Make a group with a limit; skip the test where none can be made.

    ``kind`` is "memory" (bytes) or "pids" (processes and threads).
    """
    made: Group | None = None
    for root, limits, events in _FILES[kind]:
        folder = Path(root) / f"raysweep-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            try:
                (folder / limits).write_text(str(limit))
                made = Group(folder, events)
                break
            except OSError:
                folder.rmdir()
    if made is None:
        pytest.skip(f"needs a control group for {kind} that can be written to")
    folder = made.folder
    try:
        yield made
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                folder.rmdir()
                break
            time.sleep(0.1)
