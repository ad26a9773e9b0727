"""Starting Ray on this machine, again if it fails, and joining a cluster."""

import contextlib
import contextvars
import errno
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

from raysweep._compat import silence_lost_workers
from raysweep.errors import InputError, NothingRunsError
from raysweep.tables.processes import stat_fields
from raysweep.tune.cluster.session_folder import remove
from raysweep.tune.signals import can_handle_signals, hangups_held_back

_WAITS_S = (5.0, 15.0, 45.0)
"""Seconds before each further try: on a busy machine, five of about 40 starts failed."""
_NOTES_S = (10, 20, 40, 80, 160)
"""Seconds after which to say that Ray is still starting: with a quiet machine, it takes about 5."""
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}
"""Errors that trying again does not fix."""
_ENDED_S = 10.0
_ANSWER_S = 10.0
_SETTINGS, _FRAME_HEADER = 4, 9
_HTTP2_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])
"""A client's preface and an empty settings frame (RFC 9113, section 3.4)."""
Say = Callable[[str], None]


def start_ray(options: Mapping[str, Any], folder: Path, say: Say, is_verbose: bool) -> None:
    """Start Ray on this machine; its files go to ``folder``.

    Tries again, after a while, if it fails: on a busy machine Ray's processes do not find each
    other in time. What a try leaves, processes and files, is removed before the next. Raises
    ``NothingRunsError`` if none succeeds.
    """
    n_tries = len(_WAITS_S) + 1
    for i in range(n_tries):
        try:
            with _notes_on_the_wait(say):
                _init({**options, "_temp_dir": str(folder)}, is_verbose)
        except BaseException as error:
            _clear(folder)
            if not isinstance(error, Exception):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if i + 1 == n_tries or _is_lasting(error):
                raise NothingRunsError(
                    f"expected Ray to start on this machine, got: {reason} (tried {_times(i + 1)})"
                    f"; see that it has processors, memory and processes to spare and room in "
                    f"{folder.parents[1]} (or set RAY_TMPDIR), and run the same command again"
                ) from None
            say(
                f"Ray did not start: {reason}; trying again in {_WAITS_S[i]:.0f} s "
                f"({i + 1} of {len(_WAITS_S)})"
            )
            time.sleep(_WAITS_S[i])
        else:
            return


def join_ray(options: Mapping[str, Any], say: Say, is_verbose: bool) -> str | None:
    """Join a running cluster; return the URL of its dashboard, if it has one."""
    try:
        _refuse_silence(options["address"])
        with _notes_on_the_wait(say, "Ray has not answered yet"):
            dashboard = _init(options, is_verbose)
    except Exception as error:  # noqa: BLE001 (Ray raises bare ones, too)
        reason = " ".join(str(error).split())[:200]
        if "Failed to connect" in reason:  # it listens, but rejects us
            reason += "; if one runs there, its token may differ from ours"
        raise InputError(
            f"--address (or RAY_ADDRESS): expected a running Ray cluster at "
            f"{options['address']}, got: {reason}"
        ) from None
    return f"http://{dashboard}" if dashboard else None


def _init(options: Mapping[str, Any], is_verbose: bool) -> str | None:
    """Call ``ray.init``; return the dashboard's host and port, if there is one."""
    with _without_advice():
        import ray

    if not is_verbose:
        silence_lost_workers()
    handler = signal.getsignal(signal.SIGTERM)
    with hangups_held_back():
        try:
            dashboard: str | None = ray.init(**options).dashboard_url
        finally:
            if can_handle_signals():
                signal.signal(signal.SIGTERM, handler)  # Ray installs its own, which aborts
    return dashboard


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the advice to install ipywidgets when a notebook imports Ray and tqdm."""
    getLogger("ray.widgets.util").setLevel(WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        yield


@contextmanager
def _notes_on_the_wait(say: Say, what: str = "Ray is still starting") -> Iterator[None]:
    """Report now and then that what happens here has not ended yet."""
    is_over = threading.Event()
    start = time.monotonic()

    def tell() -> None:
        for seconds in _NOTES_S:
            if is_over.wait(start + seconds - time.monotonic()):
                return
            say(f"{what} ({seconds} s)")

    # In a copy of this thread's context, by which a notebook knows the cell that it is.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(tell,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _is_lasting(error: Exception) -> bool:
    """Return whether an error will be the same at the next try."""
    if isinstance(error, OSError):
        return error.errno in _LASTING
    return isinstance(error, ValueError | TypeError)


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _clear(folder: Path) -> None:
    """Remove what a start that failed left: processes and files."""
    import ray

    with contextlib.suppress(Exception):
        ray.shutdown()
    pids = _descendants_of(folder)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + _ENDED_S
    while any(map(_is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    remove(folder)


def _descendants_of(folder: Path) -> list[int]:
    """List the processes below this one whose arguments name a folder."""
    parents, named = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):  # it has ended
            pid = int(entry.name)
            parents[pid] = int(stat_fields(pid)[1])
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                named.append(pid)

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False

    return [pid for pid in named if descends(pid)]


def _is_running(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] != "Z"


def _refuse_silence(address: str) -> None:
    """Raise ``OSError`` if nothing answers as Ray's server would: Ray would retry endlessly.

    A gRPC server opens each connection with a settings frame (RFC 9113, sections 3.4 and 6.5).
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        return
    with socket.create_connection((host, int(port)), timeout=_ANSWER_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        connection.sendall(_HTTP2_OPENING)
        answer = b""
        while len(answer) < _FRAME_HEADER:
            received = connection.recv(_FRAME_HEADER - len(answer))
            if not received:
                break
            answer += received
    if len(answer) < _FRAME_HEADER or answer[3] != _SETTINGS:
        raise ConnectionError("something other than Ray listens there")
