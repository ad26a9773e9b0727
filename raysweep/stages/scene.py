"""What the stages of a pack share, and what sets one lane of a stage apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.data.tasks import Task
from raysweep.plan import Stage
from raysweep.replay import Buffer
from raysweep.settings import Config
from raysweep.stacked import LaneState


@dataclass(frozen=True)
class Scene:
    """The pack's tasks, where and in which precision it computes, and its inputs' statistics.

    ``config`` is any of the pack's configurations: only settings of the pack key are read. On a
    GPU steps are captured as CUDA graphs if ``has_graphs``.
    """

    config: Config
    tasks: list[Task]
    mean: float
    sd: float
    device: torch.device
    dtype: torch.dtype = torch.float32
    has_graphs: bool = True

    def inputs(self, images: Tensor) -> Tensor:
        """Turn images in [0, 1] into what a classifier sees: normalised if the config says so."""
        return (images - self.mean) / self.sd if self.config.normalize else images


@dataclass
class Lane:
    """One lane of a stage: any configuration that has the stage, and what its parents left."""

    stage: Stage
    config: Config
    model: LaneState | None = None
    buffer: Buffer | None = None
    generator: LaneState | None = None
