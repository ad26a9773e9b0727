"""Sizes of the data sources, known before any data is loaded."""

import re
from typing import NamedTuple


class SourceShape(NamedTuple):
    """What is known of a data source before it is loaded."""

    n_train: int
    n_test: int
    n_inputs: int
    n_classes: int


_FILE_SOURCE = re.compile(r"[\w.-]{1,40}@(\d+)-(\d+)-(\d+)-(\d+)-[0-9a-f]{16}", re.ASCII)


def is_file_source(name: str) -> bool:
    """Return whether a source's name is that of a user's own file, see ``source_files``."""
    return _FILE_SOURCE.fullmatch(name) is not None


def content_of(source: str) -> str:
    """Return the part of a source's name that tells its content; of a file, all but its name."""
    return source.partition("@")[2] if is_file_source(source) else source


class _Shapes(dict[str, SourceShape]):
    """Sizes by a source's name; a file's name has them in it, so a worker needs no file."""

    def __missing__(self, name: str) -> SourceShape:
        match = _FILE_SOURCE.fullmatch(name)
        if match is None:
            raise KeyError(name)
        return SourceShape(*map(int, match.groups()))


class NamedSource(NamedTuple):
    """A source that has a word in ``source:``.

    ``mean`` and ``sd`` are those of the training pixels scaled to [0, 1], ``torchvision`` is its
    class in torchvision.datasets; a source without one has a loader in ``sources``.
    """

    shape: SourceShape
    mean: float
    sd: float
    torchvision: str | None = None


_MNIST = SourceShape(60_000, 10_000, 784, 10)

NAMED_SOURCES = {
    "mnist_5k": NamedSource(SourceShape(4_000, 1_000, 784, 10), 0.1307, 0.3081),
    "mnist": NamedSource(_MNIST, 0.1307, 0.3081, "MNIST"),
    "fashion_mnist": NamedSource(_MNIST, 0.2860, 0.3530, "FashionMNIST"),
    "kmnist": NamedSource(_MNIST, 0.1918, 0.3483, "KMNIST"),
}
"""The words of ``source:``."""

SOURCES = _Shapes({name: source.shape for name, source in NAMED_SOURCES.items()})
"""The sources that come with raysweep, or are downloaded, and any file's."""
