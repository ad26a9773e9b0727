"""What the stages of a pack share, and what is specific to one lane of a stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.data.task_sequences import Samples, Task
from raysweep.learning.replay.buffers import Buffer
from raysweep.learning.stacked.optimizers import LaneState
from raysweep.learning.stages import Stage


@dataclass(frozen=True)
class Context:
    """The pack's tasks, device, precision and input statistics.

    ``config`` is any of the pack's configurations: only settings of the pack key are read from it.
    On a GPU, steps are captured as CUDA graphs if ``has_graphs``.
    """

    config: Config
    tasks: list[Task]
    mean: float
    sd: float
    device: torch.device
    dtype: torch.dtype = torch.float32
    has_graphs: bool = True

    def train_samples(self, stage: Stage) -> Samples:
        """Return the new samples of a stage: those of its task, or of all tasks if joint."""
        return self.joint if stage.kind == "train_joint" else self.tasks[stage.task - 1].train

    @cached_property
    def joint(self) -> Samples:
        """The training samples of all tasks, in task order."""
        parts = [task.train for task in self.tasks]
        images, labels = [p.images for p in parts], [p.labels for p in parts]
        return Samples(torch.cat(images), torch.cat(labels))

    def inputs(self, images: Tensor) -> Tensor:
        """Convert images in [0, 1] to classifier inputs, normalised if the setting says so."""
        return (images - self.mean) / self.sd if self.config.normalize else images


@dataclass
class Lane:
    """One lane of a stage: any configuration that has the stage, and its parents' results.

    ``generators`` and ``labelers`` have one entry per task so far, if each task has its own.
    """

    stage: Stage
    config: Config
    model: LaneState | None = None
    buffer: Buffer | None = None
    generator: LaneState | None = None
    generators: tuple[LaneState, ...] = ()
    labelers: tuple[LaneState, ...] = ()

    @classmethod
    def of(
        cls,
        stage: Stage,
        config: Config,
        models: Mapping[str, LaneState],
        buffers: Mapping[str, Buffer],
    ) -> "Lane":
        """Make a lane from the results of the stage's parents, given by fingerprint."""
        model, generator, buffer = map(stage.parent, ("model", "generator", "buffer"))
        generators, labelers = map(stage.numbered_parents, ("generator", "model"))
        return cls(
            stage,
            config,
            models[model] if model else None,
            buffers[buffer] if buffer else None,
            models[generator] if generator else None,
            tuple(models[parent] for parent in generators),
            tuple(models[parent] for parent in labelers),
        )
