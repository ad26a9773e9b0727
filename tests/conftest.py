"""Fixtures that the tests of the training core share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raysweep.learning.data.sources import Source, load_source

N_TRAIN, N_TEST = 400, 200
_LONGEST = (
    *("test_tune.py", "test_tune_faults.py", "test_tutorial.py", "test_howto.py"),
    *("test_tune_experiments.py", "test_search_runs.py", "test_early_stopping.py"),
    *("test_report.py", "test_object_store.py", "test_dry_run.py", "test_loggers.py"),
    *("test_resume.py", "test_stage_cache.py", "test_fingerprints_results.py"),
    *("test_planning_memory.py", "test_lanes_stages.py", "test_importance.py"),
)
"""Files that take long, the longest first; the rest take less than half a minute each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take longest, so that no core is left with one at the end."""
    place = {name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)  # a worker's setup switches it on


@pytest.fixture
def closed_figures() -> Iterator[None]:
    """Close what a test has drawn."""
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture(params=[1, 2])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run with one thread, then with two."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def source() -> Source:
    """Return all of mnist_5k: 4,000 training and 1,000 test samples."""
    return load_source("mnist_5k", Path("data"))


@pytest.fixture(scope="session")
def cut() -> Callable[..., Source]:
    """Return a function that keeps every so-manieth sample: all classes, in equal shares."""

    def keep(source: Source, n_train: int = N_TRAIN, n_test: int = N_TEST) -> Source:
        train = slice(None, None, len(source.train_labels) // n_train)
        test = slice(None, None, len(source.test_labels) // n_test)
        return replace(
            source,
            train_images=source.train_images[train][:n_train],
            train_labels=source.train_labels[train][:n_train],
            test_images=source.test_images[test][:n_test],
            test_labels=source.test_labels[test][:n_test],
        )

    return keep


@pytest.fixture(scope="session")
def tiny(source: Source, cut: Callable[..., Source]) -> Source:
    """Give 100 training and 20 test samples of mnist_5k, as many of each class."""
    return cut(source, 100, 20)


@pytest.fixture(scope="session")
def small(source: Source, cut: Callable[..., Source]) -> Source:
    """Return 400 training and 200 test samples of mnist_5k, as many of each class."""
    return cut(source)
