"""Sizes of the data sources, known before any data is loaded."""

import re
from typing import NamedTuple


class SourceShape(NamedTuple):
    """The sizes of a data source, known before it is loaded."""

    n_train: int
    n_test: int
    n_inputs: int
    n_classes: int


_FILE_SOURCE = re.compile(r"[\w.-]{1,40}@(\d+)-(\d+)-(\d+)-(\d+)-[0-9a-f]{16}", re.ASCII)


def is_file_source(name: str) -> bool:
    """Return whether a source is a user's own file, judging by its name; see ``source_files``."""
    return _FILE_SOURCE.fullmatch(name) is not None


def content_of(source: str) -> str:
    """Return the part of a source's name that identifies its content: not a file's stem."""
    return source.partition("@")[2] if is_file_source(source) else source


class _Shapes(dict[str, SourceShape]):
    """Sizes by source name; the name of a file source contains them, so workers need no file."""

    def __missing__(self, name: str) -> SourceShape:
        match = _FILE_SOURCE.fullmatch(name)
        if match is None:
            raise KeyError(name)
        return SourceShape(*map(int, match.groups()))


class NamedSource(NamedTuple):
    """A source that has a word in ``source:``.

    ``mean`` and ``sd`` are statistics of the training pixels scaled to [0, 1]. ``torchvision`` is
    its class in torchvision.datasets; a source without one has a loader in ``sources``.
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
"""Sizes of the sources that ship with raysweep or are downloaded, and of any file source."""
