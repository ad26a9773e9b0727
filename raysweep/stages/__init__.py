"""The stages of an experiment, each for all its lanes at once.

``train`` has the training loop that classifier, VIB and VAE share, ``objectives`` what each
of them minimises, ``evaluate`` the test accuracy, ``fill`` the replay buffer.
"""

from raysweep.stages.fill import fill_buffers
from raysweep.stages.scene import Lane, Scene
from raysweep.stages.train import Divergence, EpochReport, TrainGroup

__all__ = ["Divergence", "EpochReport", "Lane", "Scene", "TrainGroup", "fill_buffers"]
