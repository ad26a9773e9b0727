"""Settings of how long is trained, in which batches, and how it is tested."""

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
    """How it is trained."""

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
        "Epochs per task of a separate VAE; 0 takes as many as `epochs`.",
        Part.VAE,
        ge=0,
        le=100_000,
    )
    batch_size: Count = setting(
        100,
        "training",
        "Samples per batch, of new data and of replay alike.",
        Part.TRAINING,
        when(Part.CHOSEN, selection=("ring",)),
        ge=1,
        le=60_000,
    )
    eval_samples: Count = setting(
        0,
        "training",
        "Draws of z per test sample; 0 takes the mean of z, k averages k softmax outputs.",
        Part.BOTTLENECK,
        ge=0,
        le=1000,
    )
    reduction: Literal["auto", "sum", "mean"] = setting(
        "auto",
        "training",
        "Whether a classifier minimises sums over a batch or means; auto: mean for mlp, else sum.",
        Part.CLASSIFIER,
    )
    label_smoothing: Real = setting(
        0.0,
        "training",
        "Share of the target that a classifier's new samples spread evenly over all classes, as in "
        "torch.nn.CrossEntropyLoss; labels in a replay buffer are taken as they are.",
        Part.CLASSIFIER,
        ge=0,
        le=1,
    )
    ema_decay: Real = setting(
        0.0,
        "training",
        "Classifiers are tested with an exponential moving average of their weights, that keeps "
        "this share at each step; 0 takes the weights themselves.",
        Part.CLASSIFIER,
        ge=0,
        lt=1,
    )
    tf32: Flag = setting(
        False,
        "training",
        "Whether matrix products on a GPU may round their inputs to TF32 (10 bits); not on a CPU.",
        Part.EVERY,
    )
