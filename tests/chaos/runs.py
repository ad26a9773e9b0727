"""Processes of the chaos suite: drivers whose output is read while they run, none left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from loads import Load
from sweep_runs import ROOT, command, n_rows

HANG_S = 240.0
"""No run of the short form takes so long, not even beside other work: it hangs."""
_started: "list[Process]" = []


@cache
def _tmp() -> Path:
    """Make the folder of Ray's files; a short name, as sockets have at most 107 letters."""
    return Path(tempfile.mkdtemp(prefix="rsc-", dir="/tmp"))


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of all processes here: Ray's files go where they are removed."""
    dropped = ("RAY_ADDRESS", "RAYSWEEP_COMMAND", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**env, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(_tmp()), **changes}


class Process:
    """A process with its output in a file, so that it never waits for a reader."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        handle, name = tempfile.mkstemp(dir=_tmp())
        self._output = Path(name)
        self.started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                words,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=environment(**(env or {})),
            )
        finally:
            os.close(handle)
        _started.append(self)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float = HANG_S) -> int:
        """Wait for its end; give the exit code."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end within {timeout_s:.0f} s: {self.output}") from None

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float = HANG_S) -> float:
        """Wait for a condition while it runs; give the seconds that took."""
        start = time.monotonic()
        while not is_so():
            assert self.code is None or is_so(), f"ended with {self.code} too early: {self.output}"
            if time.monotonic() - start > timeout_s:
                self.kill()
                raise AssertionError(f"did not come true in {timeout_s:.0f} s: {self.output}")
            time.sleep(0.05)
        return time.monotonic() - start

    def wait_unless_ended(self, seconds: float) -> None:
        """Wait for so long, or to its end if that comes first."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def send(self, signum: int) -> None:
        """Send it a signal."""
        self._process.send_signal(signum)

    def kill(self) -> None:
        """End it at once, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(timeout=60)


class Run(Process):
    """A driver; its results are in ``folder``, whichever way it ends."""

    def __init__(
        self,
        load: Load,
        location: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        enter: Callable[[Sequence[str]], list[str]] = list,
        seen: Callable[[Path], Path] = Path,
    ) -> None:
        """Start it by the words that ``enter`` makes of its own.

        ``seen`` gives the path by which this process sees a path of the driver's.
        """
        load.write(seen(location))
        self.folder = seen(location / "results" / load.name)
        file = location / f"{load.name}.yaml"
        words = command(file, "--results", str(location / "results"), *arguments)
        super().__init__(enter(words), env)

    def n_rows(self, table: str = "trials") -> int:
        """Count the rows that are acknowledged."""
        return n_rows(self.folder, table)

    def wait_for_rows(self, n: int, table: str = "trials") -> float:
        """Wait until a table has so many rows; give the seconds that took."""
        return self.wait_until(lambda: self.n_rows(table) >= n)

    @property
    def error_lines(self) -> list[str]:
        """The lines that say what went wrong."""
        return [line for line in self.output.splitlines() if line.startswith("error:")]


def assert_no_traceback(run: Process) -> None:
    """Hold a process to messages of one line."""
    assert "Traceback" not in run.output, run.output


def end_in_one_line(run: Run, reason: str) -> str:
    """Hold a run to its end with one line that gives the reason and how to go on; return it."""
    assert run.wait() == 3, run.output
    assert_no_traceback(run)
    (line,) = run.error_lines
    assert reason in line, line
    assert "rows written are kept, continue with: python -m raysweep.tune" in line, line
    return line


def wait_until_gone(pids: Iterable[int]) -> None:
    """Wait until processes have ended; raise if they outlive their driver."""
    for _ in range(1200):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError("processes outlived their driver by a minute")


def end_all() -> None:
    """End what still runs and remove Ray's files; at the end of the session."""
    for process in _started:
        process.kill()
    # Agents of Ray outlive a driver that was killed by a minute. Ours name our folder.
    mark = f"RAY_TMPDIR={_tmp()}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
    shutil.rmtree(_tmp(), ignore_errors=True)
