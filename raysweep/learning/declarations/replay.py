"""Settings of what is replayed, and of what generates it."""

from typing import Annotated, Literal

from raysweep.learning.declarations.models import OPTIMIZERS, ModelSettings
from raysweep.learning.declare import (
    Choice,
    Count,
    Flag,
    Part,
    Real,
    ReplayMethod,
    Varies,
    setting,
    when,
)

FEATURE_SELECTIONS = ("herding", "mean_of_features", "kmeans", "kmeans_centroids")
"""Selections that measure distances."""

SELECTIONS = ("random", "reservoir", "ring", "class_balanced", *FEATURE_SELECTIONS)


class ReplaySettings(ModelSettings):
    """What is replayed."""

    replay: ReplayMethod = setting(
        "generative",
        "space",
        "What is replayed.",
        Part.BUFFER,
        varies=Varies.BY_LANE_SIZE,
        decides=lambda config: config.n_stored_tasks > 0,
    )
    n_replay: Count = setting(
        1000,
        "space",
        "Samples put into the replay buffer after each task, or in all: see n_replay_scope.",
        Part.BUFFER,
        varies=Varies.BY_LANE_SIZE,
        ge=1,
        le=1_000_000,
    )
    n_replay_scope: Literal["auto", "per_task", "total"] = setting(
        "auto",
        "space",
        "Whether n_replay is the budget of each task, so that the buffer grows, or of all; auto: "
        "total for a continual generator and for reservoir, else per_task.",
        Part.BUFFER,
        varies=Varies.BY_LANE_SIZE,
    )
    selection: Annotated[str, Choice(SELECTIONS)] = setting(
        "random",
        "space",
        "Which real samples simple replay keeps; all but random and reservoir by task and class.",
        Part.CHOSEN,
        varies=Varies.BY_LANE,
    )
    selection_features: Literal["pixels", "encoder"] = setting(
        "pixels",
        "space",
        "Where herding, mean_of_features and kmeans measure distance: pixels, or the means that "
        "the encoder gives (an MLP's last hidden layer).",
        when(Part.CHOSEN, selection=FEATURE_SELECTIONS),
        varies=Varies.BY_LANE,
    )
    retrieval: Literal["cycle", "mir", "generative_mir"] = setting(
        "cycle",
        "space",
        "How replay batches are drawn: shuffled passes, the candidates from the buffer that the "
        "next step would interfere with most, or generated ones that are moved to where it does.",
        Part.REPLAY,
        varies=Varies.BY_LANE_SIZE,
    )
    n_candidates: Count = setting(
        50,
        "space",
        "Samples of the buffer that mir looks at in each step.",
        when(Part.REPLAY, retrieval=("mir",)),
        varies=Varies.BY_LANE_SIZE,
        ge=1,
        le=100_000,
    )
    mir_steps: Count = setting(
        3,
        "space",
        "Times that generative_mir moves what it generates, in each step.",
        when(Part.REPLAY, retrieval=("generative_mir",)),
        varies=Varies.BY_LANE,
        ge=1,
        le=1000,
    )
    mir_interference: Real = setting(
        0.1,
        "space",
        "generative_mir: weight of the rise in loss in what it climbs.",
        when(Part.REPLAY, retrieval=("generative_mir",)),
        varies=Varies.BY_LANE,
        ge=0,
    )
    mir_entropy: Real = setting(
        1.0,
        "space",
        "generative_mir: weight against labels without confidence.",
        when(Part.REPLAY, retrieval=("generative_mir",)),
        varies=Varies.BY_LANE,
        ge=0,
    )
    mir_shell: Real = setting(
        0.0,
        "space",
        "generative_mir: weight that holds the length of z near its usual one.",
        when(Part.REPLAY, retrieval=("generative_mir",)),
        varies=Varies.BY_LANE,
        ge=0,
    )
    replay_weight: Real = setting(
        0.5,
        "space",
        "Weight w of the replay loss; new data has 1 - w.",
        when(Part.REPLAY, replay_schedule=("constant", "exponential")),
        varies=Varies.BY_LANE,
        ge=0,
        le=1,
    )
    replay_schedule: Literal["constant", "exponential", "1-1/t"] = setting(
        "constant",
        "space",
        "Replay weight at task t: replay_weight, replay_weight * replay_decay^(t - 2), or 1 - 1/t "
        "(each task counts the same).",
        Part.REPLAY,
        varies=Varies.BY_LANE,
    )
    replay_decay: Real = setting(
        0.9,
        "space",
        "Factor of the exponential schedule.",
        when(Part.REPLAY, replay_schedule=("exponential",)),
        varies=Varies.BY_LANE,
        gt=0,
        le=1,
    )
    replay_labels: Literal["soft", "hard"] = setting(
        "soft",
        "space",
        "Labels of generated samples: softmax or argmax.",
        Part.GENERATED,
        varies=Varies.BY_LANE,
    )
    label_temperature: Real = setting(
        1.0,
        "space",
        "Temperature of soft labels: softmax(logits / temperature).",
        when(Part.GENERATED, replay_labels=("soft",)),
        varies=Varies.BY_LANE,
        gt=0,
    )
    labeler: Literal["current", "per_task", "at_generation"] = setting(
        "current",
        "space",
        "Generated images are made anew after each task and labelled by the classifier as it is "
        "then, or as it was after their task; or made and labelled once, after their task.",
        Part.GENERATED,
        varies=Varies.BY_LANE,
    )
    generator: Literal["auto", "frozen", "per_task", "continual"] = setting(
        "auto",
        "space",
        "What generates: VIB's decoder as task 1 left it (frozen), a VAE for each task, or one "
        "decoder or VAE that goes on with its own replay; auto: frozen for VIB with two tasks, "
        "continual with more, per_task for a VAE.",
        Part.GENERATED,
        varies=Varies.BY_LANE_SIZE,
    )
    generator_optimizer: Annotated[str, Choice(("auto", *OPTIMIZERS))] = setting(
        "auto", "space", "Optimiser of a separate VAE; auto: as `optimizer`.", Part.VAE
    )
    generator_lr: Real = setting(
        0.0,
        "space",
        "Learning rate of a separate VAE; 0: as `lr`.",
        Part.VAE,
        varies=Varies.BY_LANE,
        ge=0,
    )
    generator_replay_weight: Real = setting(
        0.5,
        "space",
        "Weight of replay in the loss of a continual VAE.",
        Part.VAE_REPLAY,
        varies=Varies.BY_LANE,
        ge=0,
        le=1,
    )
    freeze_encoder: Flag = setting(
        False,
        "space",
        "Whether only the decoders learn from task 2 on.",
        Part.LATER_TASK,
        varies=Varies.BY_LANE,
    )
