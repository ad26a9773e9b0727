"""Split tasks: two classes each; all tasks share one pair of outputs."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raysweep.learning.data.source_shapes import SourceShape
from raysweep.learning.data.task_kinds._task_kind import TaskKind
from raysweep.learning.declarations import Settings
from raysweep.learning.declare import Part

if TYPE_CHECKING:
    from raysweep.learning.data.task_sequences import Samples

_PER_TASK = 2
_SMALLEST = 0.9
"""Lower bound on a pair's size, relative to the mean; MNIST's smallest pair is 6 % below it."""


class Split(TaskKind):
    """Task k has the classes of rank 2k - 2 and 2k - 1, with target = rank % 2.

    ``shuffle_tasks`` shuffles the order of the classes.
    """

    part = Part.SPLIT
    class_words = "two classes"
    relabels = True

    def n_classes(self, shape: SourceShape) -> int:
        """Return 2: all tasks have the same two outputs."""
        return _PER_TASK

    def most_tasks(self, shape: SourceShape) -> int:
        """Return the number of pairs of classes; an odd last class is left out."""
        return shape.n_classes // _PER_TASK

    def share(self, shape: SourceShape) -> tuple[int, int]:
        """Return the share of two classes among all."""
        return _PER_TASK, shape.n_classes

    def fewest(self, shape: SourceShape) -> int:
        """Return a lower bound on the size of the smallest pair."""
        return int(_SMALLEST * _PER_TASK * shape.n_train / shape.n_classes)

    def sizes(self, config: Settings, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sizes of the pairs; if shuffled (by seed), of the rarest classes in order."""
        ordered = np.sort(counts) if config.shuffle_tasks else counts
        n_paired = len(ordered) // _PER_TASK * _PER_TASK
        pairs: NDArray[np.int64] = ordered[:n_paired].reshape(-1, _PER_TASK).sum(1)
        return pairs[: config.n_tasks]

    def make(
        self, config: Settings, task: int, train: "Samples", test: "Samples"
    ) -> "tuple[Samples, Samples]":
        """Pick the samples of two classes."""
        import torch

        from raysweep.learning.data.source_shapes import SOURCES
        from raysweep.learning.data.task_sequences import Samples
        from raysweep.learning.streams import generator

        n_classes = SOURCES[config.source].n_classes
        rank = torch.arange(n_classes)
        if config.shuffle_tasks:
            rank = torch.randperm(n_classes, generator=generator(config.seed, "class_order"))
        rank = rank.to(train.labels.device)

        def pick(samples: Samples) -> Samples:
            ranks = rank[samples.labels]
            chosen = ranks // _PER_TASK == task - 1
            return Samples(samples.images[chosen], ranks[chosen] % _PER_TASK)

        return pick(train), pick(test)


TASK_KIND = Split()
