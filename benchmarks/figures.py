"""Printing of benchmark figures: one JSON line each."""

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median, stdev
from typing import Literal

import torch

from raysweep import __version__


def hardware() -> str:
    """Return the processor, this process's available cores and threads, and the GPU if any."""
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0].partition(":")[2].strip() if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    n_cores = len(os.sched_getaffinity(0))
    return f"{name}, {n_cores} cores, {torch.get_num_threads()} threads{gpu}"


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    packages = {name: version(name) for name in ("torch", "ray", "numpy")}
    return {"raysweep": __version__, "python": platform.python_version(), **packages}


def print_figure(
    name: str,
    values: Sequence[float],
    goal: float | None,
    is_met: bool | None,
    *,
    better: Literal["lower", "higher"],
    average: Callable[[Sequence[float]], float] = median,
    **more: object,
) -> None:
    """Print one figure: the median (or another average) of its repetitions, and their spread.

    ``spread`` is the standard deviation over the ``n`` repetitions, null for one.
    """
    figure = {
        "name": name,
        "value": average(values),
        "goal": goal,
        "better": better,
        "met": is_met,
        "spread": stdev(values) if len(values) > 1 else None,
        "n": len(values),
        **more,
        "hardware": hardware(),
        "versions": versions(),
    }
    print(json.dumps(figure), flush=True)


class Table:
    """Figures with goals, printed as they come, and a table on stderr at the end."""

    def __init__(self) -> None:
        self._lines = ["| figure | value | goal | unit | n | met |", "|---|---|---|---|---|---|"]
        self._are_met: list[bool] = []

    def add(
        self,
        name: str,
        values: Sequence[float],
        goal: float | None,
        better: Literal["lower", "higher"],
        *,
        unit: str,
        **more: object,
    ) -> None:
        """Print a figure, met if its median is on the better side of the goal, if it has one."""
        value = median(values)
        is_met, shown = None, ("none", "")
        if goal is not None:
            is_met = value <= goal if better == "lower" else value >= goal
            self._are_met.append(is_met)
            bound = "at most" if better == "lower" else "at least"
            shown = (f"{bound} {goal:g}", "yes" if is_met else "no")
        self._lines.append(
            f"| {name} | {value:.3g} | {shown[0]} | {unit} | {len(values)} | {shown[1]} |"
        )
        print_figure(name, values, goal, is_met, better=better, average=median, unit=unit, **more)

    def close(self) -> int:
        """Print the table; return the exit code, 1 if a goal was missed."""
        print("\n".join(self._lines), file=sys.stderr)
        return 0 if all(self._are_met) else 1
