"""Data sets in the user's own files: ``source: data/letters.npz``.

A configuration names such a source by the content of the file, not by its location: the file's
stem, its sizes and a digest of its arrays, ``letters@4000-1000-784-26-0123456789abcdef``. Workers,
which do not have the file, get the sizes from the name, and ids depend only on content.
"""

import hashlib
import re
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from raysweep.errors import InputError
from raysweep.learning.data.source_shapes import content_of, is_file_source

ENDING = ".npz"
_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),  # as Keras writes them
    ("train_images", "train_labels", "test_images", "test_labels"),  # as in MedMNIST
)
_MOST_CLASSES = 256


class FileArrays(NamedTuple):
    """Images (N, D) and labels (N,) of a file, both uint8, for training and for testing."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


_PATHS: dict[str, Path] = {}
"""The file where this process found a source, by the source's name."""


def _source(value: Any) -> str:
    """Validate a reference to a file: its path, or the source's name in tables."""
    if isinstance(value, str) and is_file_source(value):
        return value
    if not isinstance(value, str) or not value.lower().endswith(ENDING):
        raise ValueError("not a source")
    return source_name(value)


FileSource = Annotated[
    str, BeforeValidator(_source), Field(json_schema_extra={"pattern": r"\.[nN][pP][zZ]$|@"})
]


def source_name(text: str) -> str:
    """Return the source's name for the file at a path; raise ``InputError`` if it is not valid."""
    try:
        path = Path(text).expanduser()
        stat = path.stat()
    except (OSError, ValueError, RuntimeError):  # a null byte; the home of an unknown user
        raise InputError(
            f"expected an .npz file of images and labels, found none at {text[:200]!r} "
            f"(relative to {Path.cwd()})"
        ) from None
    if not S_ISREG(stat.st_mode):  # reading a pipe or device may have no end
        raise InputError(
            f"{path.absolute()}: expected an .npz file, as numpy.savez writes it, got: a "
            "directory, pipe or device"
        )
    name = _named(path.absolute(), stat.st_mtime_ns, stat.st_size)
    _PATHS[name] = path.absolute()
    return name


@lru_cache(maxsize=64)
def _named(path: Path, mtime_ns: int, n_bytes: int) -> str:
    arrays = read_arrays(path)
    digest = hashlib.sha256(b"raysweep source 1")
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    sizes = (
        len(arrays.train_labels),
        len(arrays.test_labels),
        arrays.train_images.shape[1],
        int(arrays.train_labels.max()) + 1,
    )
    stem = re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII)[:40] or "file"
    return f"{stem}@{'-'.join(map(str, sizes))}-{digest.hexdigest()[:16]}"


def find_file(name: str, folder: Path) -> Path | None:
    """Find the file of a source: where this process last found it, or by content in ``folder``."""
    known = [_PATHS[name]] if name in _PATHS else []
    for path in [*known, *sorted(folder.glob(f"*{ENDING}"))]:
        try:
            if content_of(source_name(str(path))) == content_of(name):
                return path
        except InputError:
            continue  # not a data set, or deleted meanwhile
    return None


_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    AttributeError,
    RuntimeError,  # encrypted, or an unknown compression
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(path: Path) -> FileArrays:
    """Read and check a file of images and labels; raise ``InputError`` naming the file.

    The file is written by ``numpy.savez`` and has the arrays ``x_train``, ``y_train``, ``x_test``
    and ``y_test`` (or ``train_images``, ``train_labels``, ``test_images``, ``test_labels``).
    Images are uint8 with shape (N, D) or (N, height, width, ...), labels whole numbers from 0 with
    shape (N,) or (N, 1).
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = next((names for names in _KEYS if set(names) <= set(file.files)), None)
            if names is None:
                raise InputError(
                    f"{path}: expected the arrays {', '.join(_KEYS[0])} (or "
                    f"{', '.join(_KEYS[1])}), got {', '.join(file.files)[:200] or 'none'}"
                )
            arrays = {name: file[name] for name in names}
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: expected an .npz file, as numpy.savez writes it, got: {reason}"
        ) from None
    train, test = names[:2], names[2:]
    train_images, train_labels = _samples(path, train, arrays)
    test_images, test_labels = _samples(path, test, arrays)
    if train_images.shape[1] != test_images.shape[1]:
        raise InputError(
            f"{path}: expected {test[0]} with {train_images.shape[1]} pixels per image, like "
            f"{train[0]}, got {test_images.shape[1]}"
        )
    n_classes = max(2, int(train_labels.max()) + 1)
    for name, labels in ((train[1], train_labels), (test[1], test_labels)):
        missing = sorted(set(range(n_classes)) - set(labels.tolist()))
        if missing or labels.max() >= n_classes:
            got = f"none of class {missing[0]}" if missing else f"class {labels.max()}"
            raise InputError(
                f"{path}: expected samples of each class from 0 to {n_classes - 1} in {name}, "
                f"got {got}"
            )
    return FileArrays(train_images, train_labels, test_images, test_labels)


def _samples(
    path: Path, names: tuple[str, ...], arrays: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = (arrays[name] for name in names)
    if images.dtype != np.uint8 or images.ndim < 2 or not images.size:
        raise InputError(
            f"{path}: expected {names[0]} of uint8 pixels, 0 to 255, with shape (N, D) or "
            f"(N, height, width), got {images.dtype} {images.shape}"
        )
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.shape != images.shape[:1] or flat.dtype.kind not in "iu":
        raise InputError(
            f"{path}: expected {names[1]} of {len(images)} whole numbers, one for each image, "
            f"got {labels.dtype} {labels.shape}"
        )
    if flat.min() < 0 or flat.max() >= _MOST_CLASSES:
        raise InputError(
            f"{path}: expected {names[1]} from 0 to {_MOST_CLASSES - 1}, "
            f"got {flat.min()} to {flat.max()}"
        )
    return images.reshape(len(images), -1), flat.astype(np.uint8)
