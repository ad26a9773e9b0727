"""What a kind of task sequence is."""

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
    """A way to make tasks of a source; a subclass a file, whose name is the word for it.

    Sizes are asked for before the data is there. Letters: N samples, D pixels, C classes.
    """

    part: ClassVar[Part | None] = None
    """The part of every stage that reads this kind's own settings; None where it has none."""
    class_words: ClassVar[str] = "all classes"
    """The classes of a task, in words."""
    relabels: ClassVar[bool] = False
    """Whether labels count the classes of a task, and are not those of the source."""

    def check(self, config: Settings) -> None:
        """Raise ``InputError`` for settings that do not go with it."""

    def n_classes(self, shape: SourceShape) -> int:
        """Return the number of classes of each task."""
        return shape.n_classes

    def most_tasks(self, shape: SourceShape) -> int | None:
        """Return the largest number of tasks, None for any."""
        return None

    def share(self, shape: SourceShape) -> tuple[int, int]:
        """Return a task's share of the source's samples, as numerator and denominator."""
        return 1, 1

    def fewest(self, shape: SourceShape) -> int:
        """Return a number of training samples that every task has at least."""
        return shape.n_train

    def sizes(self, config: Settings, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each task's number of training samples, by ``counts`` (C,) of each class."""
        return np.full(config.n_tasks, counts.sum())

    def pixel_order(self, config: Settings, task: int, n_inputs: int) -> "Tensor | None":
        """Return the permutation (D,) of a task's pixels, out[i] = in[order[i]]; None for none.

        ``task`` counts from 1; ``n_inputs`` is D.
        """
        return None

    def make(
        self, config: Settings, task: int, train: "Samples", test: "Samples"
    ) -> "tuple[Samples, Samples]":
        """Return the training and test samples of a task (from 1), of those of the source."""
        raise NotImplementedError
