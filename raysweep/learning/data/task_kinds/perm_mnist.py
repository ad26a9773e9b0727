"""Permuted tasks: each has all classes, with the pixels permuted differently."""

from typing import TYPE_CHECKING

from raysweep.learning.data.task_kinds._task_kind import TaskKind
from raysweep.learning.declarations import Settings
from raysweep.learning.declare import Part

if TYPE_CHECKING:
    from torch import Tensor

    from raysweep.learning.data.task_sequences import Samples


class Permuted(TaskKind):
    """Pixel permutations out[i] = in[perm[i]], the same for training and test.

    The first task is permuted too, unless ``first_task_identity`` is set.
    """

    part = Part.PERMUTED

    def pixel_order(self, config: Settings, task: int, n_inputs: int) -> "Tensor | None":
        """Return a task's pixel permutation (D,), or None if its pixels stay in place."""
        import torch

        from raysweep.learning.streams import generator

        if task == 1 and config.first_task_identity:
            return None
        return torch.randperm(n_inputs, generator=generator(config.seed, "permutation", task))

    def make(
        self, config: Settings, task: int, train: "Samples", test: "Samples"
    ) -> "tuple[Samples, Samples]":
        """Permute the pixels of all samples."""
        from raysweep.learning.data.task_sequences import Samples

        order = self.pixel_order(config, task, train.images.shape[1])
        if order is None:
            return train, test
        order = order.to(train.images.device)
        return (
            Samples(train.images[:, order], train.labels),
            Samples(test.images[:, order], test.labels),
        )


TASK_KIND = Permuted()
