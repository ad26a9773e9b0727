"""Settings of training and testing: epochs, batches, averaging, precision."""

from typing import Literal

from raysweep.learning.declarations.tasks import TaskSettings
from raysweep.learning.declare import (
    Count,
    Flag,
    Part,
    Real,
    setting,
    when,
)


class TrainingSettings(TaskSettings):
    """Settings of training and testing."""

    epochs: Count = setting(
        10,
        "training",
        "Epochs per task.",
        Part.CLASSIFIER,
        when(Part.VAE, generator_epochs=(0,)),
        when(Part.CHOSEN, selection=("ring",)),
        ge=1,
        le=100_000,
    )
    generator_epochs: Count = setting(
        0,
        "training",
        "Epochs per task of a separate VAE; 0: same as `epochs`.",
        Part.VAE,
        ge=0,
        le=100_000,
    )
    batch_size: Count = setting(
        100,
        "training",
        "Samples per batch; a step takes this many new samples and as many replayed ones.",
        Part.TRAINING,
        when(Part.CHOSEN, selection=("ring",)),
        ge=1,
        le=60_000,
    )
    eval_samples: Count = setting(
        0,
        "training",
        "Draws of z per test sample, whose softmax outputs are averaged; 0 uses the mean of z.",
        Part.BOTTLENECK,
        ge=0,
        le=1000,
    )
    reduction: Literal["auto", "sum", "mean"] = setting(
        "auto",
        "training",
        "Whether a classifier minimises the sum or the mean over a batch; auto: mean for mlp, "
        "otherwise sum.",
        Part.CLASSIFIER,
    )
    label_smoothing: Real = setting(
        0.0,
        "training",
        "Label smoothing of a classifier's new samples, as in torch.nn.CrossEntropyLoss; labels in "
        "a replay buffer are not smoothed.",
        Part.CLASSIFIER,
        ge=0,
        le=1,
    )
    ema_decay: Real = setting(
        0.0,
        "training",
        "Decay per step of the exponential moving average of the weights that classifiers are "
        "tested with; 0 tests the weights themselves.",
        Part.CLASSIFIER,
        ge=0,
        lt=1,
    )
    tf32: Flag = setting(
        False,
        "training",
        "Whether matrix products on a GPU may round their inputs to TF32 (10 bits); no effect on a "
        "CPU.",
        Part.EVERY,
    )
