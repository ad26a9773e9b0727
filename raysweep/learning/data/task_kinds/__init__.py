"""Kinds of task sequences, one file each; the file's name is its word in ``tasks:``."""

from raysweep.learning.data.source_shapes import SOURCES
from raysweep.learning.data.task_kinds._task_kind import TaskKind
from raysweep.learning.declarations import Settings
from raysweep.learning.declare import load_words

TASK_KINDS: dict[str, TaskKind] = load_words(__name__, "TASK_KIND")


def n_inputs(config: Settings) -> int:
    """Return the input size D of every model."""
    return SOURCES[config.source].n_inputs


def n_classes(config: Settings) -> int:
    """Return the number of classes C of every task."""
    return TASK_KINDS[config.tasks].n_classes(SOURCES[config.source])


def n_train(config: Settings) -> int:
    """Estimate the number of training samples of a task."""
    shape = SOURCES[config.source]
    of, whole = TASK_KINDS[config.tasks].share(shape)
    n_of_task = shape.n_train * of // whole
    return min(config.task_samples or n_of_task, n_of_task)


def n_test(config: Settings) -> int:
    """Estimate the number of test samples of a task."""
    shape = SOURCES[config.source]
    of, whole = TASK_KINDS[config.tasks].share(shape)
    return shape.n_test * of // whole


def fewest_train(config: Settings) -> int:
    """Return a lower bound on the number of training samples of every task."""
    fewest = TASK_KINDS[config.tasks].fewest(SOURCES[config.source])
    return min(fewest, config.task_samples or fewest)
