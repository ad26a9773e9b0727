"""The base class of kinds of task sequences."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from raysweep.learning.data.source_shapes import SourceShape
from raysweep.learning.declarations import Settings
from raysweep.learning.declare import Part

if TYPE_CHECKING:
    from torch import Tensor

    from raysweep.learning.data.task_sequences import Samples


class TaskKind:
    """A way to make tasks from a source; each subclass has its own file, named after its word.

    Sizes must be known before the data is loaded. Letters: N samples, D pixels, C classes.
    """

    part: ClassVar[Part | None] = None
    """The part of every stage that reads this kind's own settings; None if it has none."""
    class_words: ClassVar[str] = "all classes"
    """The classes of a task, in words."""
    relabels: ClassVar[bool] = False
    """Whether labels number the classes within a task instead of those of the source."""

    def check(self, config: Settings) -> None:
        """Raise ``InputError`` for settings that are incompatible with this kind."""

    def n_classes(self, shape: SourceShape) -> int:
        """Return the number of classes of each task."""
        return shape.n_classes

    def most_tasks(self, shape: SourceShape) -> int | None:
        """Return the largest number of tasks; None for no limit."""
        return None

    def share(self, shape: SourceShape) -> tuple[int, int]:
        """Return a task's share of the source's samples, as numerator and denominator."""
        return 1, 1

    def fewest(self, shape: SourceShape) -> int:
        """Return a lower bound on the number of training samples of every task."""
        return shape.n_train

    def sizes(self, config: Settings, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of training samples of each task from the class ``counts`` (C,)."""
        return np.full(config.n_tasks, counts.sum())

    def pixel_order(self, config: Settings, task: int, n_inputs: int) -> "Tensor | None":
        """Return a task's pixel permutation (D,), out[i] = in[order[i]], or None.

        ``task`` counts from 1; ``n_inputs`` is D.
        """
        return None

    def make(
        self, config: Settings, task: int, train: "Samples", test: "Samples"
    ) -> "tuple[Samples, Samples]":
        """Make the training and test samples of a task (from 1) from those of the source."""
        raise NotImplementedError
