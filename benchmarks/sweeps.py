"""Running the real command line in fresh processes, measured."""

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class SweepRun:
    """The cost of one run of the command: wall seconds, and the driver's own peak memory."""

    wall_s: float
    driver_peak_bytes: int
    output: str
    folder: Path

    def stated(self, pattern: str) -> float:
        """Return the number that the command printed where ``pattern`` has its group."""
        match = re.search(pattern, self.output)
        if match is None:
            raise ValueError(f"expected {pattern!r} in the command's output, got: {self.output}")
        return float(match[1])


def write_space(path: Path, space: dict[str, object], **sections: object) -> Path:
    """Write a search space of the two-task experiment on ``mnist_5k``."""
    data = {"tasks": "perm_mnist", "source": "mnist_5k", **dict(sections.pop("data", {}))}
    content = {"experiment": "replay_vib", "data": data, "space": space, **sections}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run_command(file: Path, *arguments: str, n_configs: int, may_diverge: bool = False) -> SweepRun:
    """Run ``python -m raysweep.tune`` on a file beside which its results go, from nothing.

    The peak is that of the driver's process alone, as Linux keeps it. Raises ``RuntimeError``
    where the command fails or not all configurations finish (or diverge, if they may).
    """
    folder = file.parent / "results" / file.stem
    shutil.rmtree(folder, ignore_errors=True)
    ends = f"{n_configs} configurations: " if may_diverge else f"{n_configs} finished"
    # Not ru_maxrss: it starts with the peak of the process that forked this one.
    code = (
        "import atexit, pathlib; from raysweep.tune.cli import main; "
        "atexit.register(lambda: print(pathlib.Path('/proc/self/status').read_text())); main()"
    )
    words = [sys.executable, "-c", code, str(file), "--results", str(folder.parent), *arguments]
    start = time.perf_counter()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - start
    is_whole = "--dry-run" in arguments or ends in done.stdout
    if done.returncode or not is_whole:
        raise RuntimeError(f"the sweep failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    run = SweepRun(wall_s, 0, done.stdout, folder)
    return SweepRun(wall_s, int(run.stated(r"VmHWM:\s+(\d+) kB")) * 1024, done.stdout, folder)
