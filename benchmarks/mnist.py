"""Full MNIST for the benchmarks of the training core, and the process set-up of a worker."""

import sys
from pathlib import Path

import torch

from raysweep.errors import InputError
from raysweep.learning.data.sources import Source, data_folder, load_source


def load_mnist(folder: Path | None) -> Source:
    """Load MNIST from a data folder (None: RAYSWEEP_DATA or data); exit with 2 on failure."""
    try:
        return load_source("mnist", data_folder(folder))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def be_a_worker() -> None:
    """Compute in one thread and flush denormals."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
