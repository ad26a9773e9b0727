"""Run a command, and measure or kill it with all that it started.

As a program (``python measured.py WORDS ...``) it adopts the orphans of the command, so that Ray's
processes, which leave their parent, are waited for and their processor time is counted.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_DEADLINE_S = 1800.0


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code, wall and processor seconds, and what it printed."""

    code: int
    wall_s: float
    cpu_s: float
    output: str


def run(
    words: list[str], folder: Path, paths: list[Path], kill_if: Callable[[], bool] | None = None
) -> Ended:
    """Run a command in a folder; kill it and all its descendants once ``kill_if`` is true."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PEERS_LOG": str(folder / "epochs.log"),
        "HYDRA_FULL_ERROR": "1",
    }
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, __file__, *words],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + _DEADLINE_S
        while process.poll() is None:
            is_over = time.monotonic() > end
            if is_over or (kill_if is not None and kill_if()):
                process.send_signal(signal.SIGTERM)
                process.wait()
                if is_over:
                    raise RuntimeError(f"{words} took longer than {_DEADLINE_S:.0f} s")
            time.sleep(0.05)
    text = (folder / "output.txt").read_text()
    whole, _, last = text.rstrip().rpartition("\n")
    found = json.loads(last)
    return Ended(found["code"], found["wall_s"], found["cpu_s"], whole)


def descendants() -> list[int]:
    """List the processes that this one started, and all that they started."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
    found, new = set[int](), {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return sorted(found)


def _kill_all(*_: object) -> None:
    while pids := descendants():
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        time.sleep(0.01)
    _print(-signal.SIGKILL, 0.0)
    os._exit(0)


def _print(code: int, wall_s: float) -> None:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"code": code, "wall_s": wall_s, "cpu_s": used.ru_utime + used.ru_stime}
    print("\n" + json.dumps(found), flush=True)


def main(words: list[str]) -> None:
    """Run the command; print what it took as the last line."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _kill_all)
    start = time.perf_counter()
    code = subprocess.run(words, check=False).returncode
    wall_s = time.perf_counter() - start
    while True:  # Ray's processes end soon after their driver
        try:
            os.wait()
        except ChildProcessError:
            break
    _print(code, wall_s)


if __name__ == "__main__":
    main(sys.argv[1:])
