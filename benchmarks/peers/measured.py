"""Run a command, and measure or kill it with all that it started.

As a program (``python measured.py WORDS ...``) it adopts the orphans of the command, so that Ray's
processes, which leave their parent, are still its own. Processor time is looked up in /proc every
quarter of a second, process by process: ``getrusage`` misses Ray's workers, which nobody waits for.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

_PR_SET_CHILD_SUBREAPER = 36
_DEADLINE_S = 1800.0
_EVERY_S = 0.25
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code, wall and processor seconds, and what it printed."""

    code: int
    wall_s: float
    cpu_s: float
    output: str


def run(
    words: list[str],
    folder: Path,
    paths: list[Path],
    *,
    stop_if: Callable[[], bool] | None = None,
    is_gentle: bool = False,
) -> Ended:
    """Run a command in a folder; end it once ``stop_if`` is true.

    That is by killing it and all its descendants, or if ``is_gentle`` as ctrl-c does.
    """
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
            if is_over or (stop_if is not None and stop_if()):
                is_killed = is_over or not is_gentle
                process.send_signal(signal.SIGTERM if is_killed else signal.SIGUSR1)
                process.wait()
                if is_over:
                    raise RuntimeError(f"{words} took longer than {_DEADLINE_S:.0f} s")
            time.sleep(0.05)
    text = (folder / "output.txt").read_text()
    whole, _, last = text.rstrip().rpartition("\n")
    found = json.loads(last)
    return Ended(found["code"], found["wall_s"], found["cpu_s"], whole)


def seconds_of_descendants() -> dict[tuple[int, str], float]:
    """Return the processor seconds of all that this process started, by number and start."""
    processes: dict[int, list[str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        processes[int(folder.name)] = fields
    found, new = set[int](), {os.getpid()}
    while new:
        new = {pid for pid, fields in processes.items() if int(fields[1]) in new} - found
        found |= new
    return {
        (pid, processes[pid][19]): (int(processes[pid][11]) + int(processes[pid][12])) / _TICKS_S
        for pid in found
    }


def _reap() -> bool:
    """Collect children that ended; tell whether any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _kill_all(*_: object) -> None:
    while pids := seconds_of_descendants():
        for pid, _start in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(0.01)
    _print(-signal.SIGKILL, 0.0, 0.0)
    os._exit(0)


def _print(code: int, wall_s: float, cpu_s: float) -> None:
    print("\n" + json.dumps({"code": code, "wall_s": wall_s, "cpu_s": cpu_s}), flush=True)


def main(words: list[str]) -> None:
    """Run the command; print what it took as the last line."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _kill_all)
    start = time.perf_counter()
    ended: list[float] = []
    # A shell's background jobs ignore it, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(words, start_new_session=True)

    def interrupt(*_: object) -> None:
        """Do what ctrl-c in a terminal does: it reaches all processes of the command's group."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)

    signal.signal(signal.SIGUSR1, interrupt)

    def wait() -> None:
        process.wait()
        ended.append(time.perf_counter() - start)

    Thread(target=wait, daemon=True).start()
    seconds: dict[tuple[int, str], float] = {}
    while not ended:
        seconds.update(seconds_of_descendants())
        time.sleep(_EVERY_S)
    while _reap():  # Ray's processes end soon after their driver
        seconds.update(seconds_of_descendants())
        time.sleep(_EVERY_S)
    _print(process.returncode, ended[0], sum(seconds.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
