"""How many processes and threads this process and its children may still start.

Where Ray is refused one in its start, it waits for half a minute and gives no reason, or ends the
process that started it. Linux only; elsewhere nothing is known and nothing refused.
"""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from raysweep.errors import NothingRunsError

_RAY = 200
"""Processes and threads of Ray without its workers: 190 on two CPUs (Ray 2.60)."""
_WORKER = 22
"""Threads of a worker."""
_MOUNTS = {"": "/sys/fs/cgroup", "pids": "/sys/fs/cgroup/pids"}
"""Where control groups lie, by the controller that /proc/self/cgroup names (none in version 2)."""


def expect_room_for_ray(n_cpus: int) -> None:
    """Raise ``NothingRunsError`` if Ray and a worker for each CPU can't be started here."""
    needed = _RAY + _WORKER * n_cpus
    for n_left, limit in (_left_to_user(), _left_in_groups()):
        if n_left is not None and n_left < needed:
            raise NothingRunsError(
                f"expected room for at least {needed} more processes and threads, as Ray needs to "
                f"use all CPUs here ({n_cpus}), got {max(0, n_left)}; raise the limit ({limit})"
            )


def _left_to_user() -> tuple[int | None, str]:
    """Return what ``ulimit -u`` leaves to this user; root has no such limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return None, ""
    n_used = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if process.stat().st_uid == os.getuid():
                n_used += sum(1 for _ in (process / "task").iterdir())
    return limit - n_used, "ulimit -u"


def _left_in_groups() -> tuple[int | None, str]:
    """Return what the control groups of this process leave, as in a container."""
    lefts = []
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # "max", or not a controller here
            limit = int((group / "pids.max").read_text())
            lefts.append(limit - int((group / "pids.current").read_text()))
    return min(lefts, default=None), "a container's --pids-limit, a service's TasksMax"


def _groups() -> Iterator[Path]:
    """Yield the control groups that this process is in, and those above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controller, path = line.split(":", 2)
        if controller in _MOUNTS:
            root = Path(_MOUNTS[controller])
            group = root / path.lstrip("/")
            yield group
            yield from (above for above in group.parents if above.is_relative_to(root))
