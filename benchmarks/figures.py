"""The form in which every benchmark prints its figures: one JSON line each."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch

from raysweep import __version__


def hardware() -> str:
    """Name the processor, the number of cores this process may use and the GPU if any."""
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0].partition(":")[2].strip() if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} threads{gpu}"


def print_figure(
    name: str, values: Sequence[float], goal: float, is_met: bool, **more: object
) -> None:
    """Print one figure: the mean of its repetitions and their standard deviation."""
    figure = {
        "name": name,
        "value": fmean(values),
        "goal": goal,
        "met": is_met,
        "spread": stdev(values) if len(values) > 1 else None,
        "n": len(values),
        **more,
        "hardware": hardware(),
        "versions": {"raysweep": __version__, "torch": torch.__version__},
    }
    print(json.dumps(figure), flush=True)
