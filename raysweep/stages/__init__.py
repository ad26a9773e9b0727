"""The stages of an experiment, each for all its lanes at once.

``train`` has the training loop that classifier, VIB and VAE share, ``objectives`` defines what
each of them minimises, ``step`` computes it fast on the batches of ``feed``, ``tally`` adds it up,
``evaluate`` has the test accuracy, ``fill`` the replay buffer.
"""

from raysweep.stages.fill import fill_buffers
from raysweep.stages.scene import Lane, Scene
from raysweep.stages.tally import Divergence, EpochReport
from raysweep.stages.train import TrainGroup

__all__ = ["Divergence", "EpochReport", "Lane", "Scene", "TrainGroup", "fill_buffers"]
