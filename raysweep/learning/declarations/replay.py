"""Settings of replay and of its generator."""

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
"""Selections that compare samples by distance."""

SELECTIONS = ("random", "reservoir", "ring", "class_balanced", *FEATURE_SELECTIONS)


class ReplaySettings(ModelSettings):
    """Settings of replay."""

    replay: ReplayMethod = setting(
        "generative",
        "space",
        "What is replayed: generated samples, stored real samples (simple), or nothing.",
        Part.BUFFER,
        varies=Varies.BY_LANE_SIZE,
        decides=lambda config: config.n_stored_tasks > 0,
    )
    n_replay: Count = setting(
        1000,
        "space",
        "Size of the replay buffer in samples: per task or in total, see n_replay_scope.",
        Part.BUFFER,
        varies=Varies.BY_LANE_SIZE,
        ge=1,
        le=1_000_000,
    )
    n_replay_scope: Literal["auto", "per_task", "total"] = setting(
        "auto",
        "space",
        "Whether n_replay counts per task, so that the buffer grows, or in total; auto: total for "
        "a continual generator and for reservoir, otherwise per_task.",
        Part.BUFFER,
        varies=Varies.BY_LANE_SIZE,
    )
    selection: Annotated[str, Choice(SELECTIONS)] = setting(
        "random",
        "space",
        "How simple replay chooses the real samples it keeps; all but random and reservoir choose "
        "by task and class.",
        Part.CHOSEN,
        varies=Varies.BY_LANE,
    )
    selection_features: Literal["pixels", "encoder"] = setting(
        "pixels",
        "space",
        "Space in which herding, mean_of_features and kmeans measure distances: pixels, or the "
        "encoder's means (an MLP's last hidden layer).",
        when(Part.CHOSEN, selection=FEATURE_SELECTIONS),
        varies=Varies.BY_LANE,
    )
    retrieval: Literal["cycle", "mir", "generative_mir"] = setting(
        "cycle",
        "space",
        "How replay batches are drawn: shuffled passes over the buffer (cycle), the candidates "
        "that the next step would hurt most (mir), or samples generated to be hurt most "
        "(generative_mir).",
        Part.REPLAY,
        varies=Varies.BY_LANE_SIZE,
    )
    n_candidates: Count = setting(
        50,
        "space",
        "Number of buffer samples that mir chooses from in each step.",
        when(Part.REPLAY, retrieval=("mir",)),
        varies=Varies.BY_LANE_SIZE,
        ge=1,
        le=100_000,
    )
    mir_steps: Count = setting(
        3,
        "space",
        "Gradient steps by which generative_mir optimises its samples, in each training step.",
        when(Part.REPLAY, retrieval=("generative_mir",)),
        varies=Varies.BY_LANE,
        ge=1,
        le=1000,
    )
    mir_interference: Real = setting(
        0.1,
        "space",
        "generative_mir: weight of the rise in loss in its objective.",
        when(Part.REPLAY, retrieval=("generative_mir",)),
        varies=Varies.BY_LANE,
        ge=0,
    )
    mir_entropy: Real = setting(
        1.0,
        "space",
        "generative_mir: weight of the penalty on uncertain labels.",
        when(Part.REPLAY, retrieval=("generative_mir",)),
        varies=Varies.BY_LANE,
        ge=0,
    )
    mir_shell: Real = setting(
        0.0,
        "space",
        "generative_mir: weight of the term that keeps the norm of z near its expected value.",
        when(Part.REPLAY, retrieval=("generative_mir",)),
        varies=Varies.BY_LANE,
        ge=0,
    )
    replay_weight: Real = setting(
        0.5,
        "space",
        "Weight w of the replay loss; the loss on new data has weight 1 - w.",
        when(Part.REPLAY, replay_schedule=("constant", "exponential")),
        varies=Varies.BY_LANE,
        ge=0,
        le=1,
    )
    replay_schedule: Literal["constant", "exponential", "1-1/t"] = setting(
        "constant",
        "space",
        "Replay weight at task t: replay_weight, replay_weight * replay_decay^(t - 2), or 1 - 1/t "
        "(every task counts the same).",
        Part.REPLAY,
        varies=Varies.BY_LANE,
    )
    replay_decay: Real = setting(
        0.9,
        "space",
        "Factor per task of the exponential replay_schedule.",
        when(Part.REPLAY, replay_schedule=("exponential",)),
        varies=Varies.BY_LANE,
        gt=0,
        le=1,
    )
    replay_labels: Literal["soft", "hard"] = setting(
        "soft",
        "space",
        "Labels of generated samples: softmax (soft) or argmax (hard).",
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
        "Which classifier labels generated images. They are regenerated after each task and "
        "labelled by the current classifier (current) or the one their task left (per_task); or "
        "generated and labelled once, after their task (at_generation).",
        Part.GENERATED,
        varies=Varies.BY_LANE,
    )
    generator: Literal["auto", "frozen", "per_task", "continual"] = setting(
        "auto",
        "space",
        "What generates images: VIB's decoder as task 1 left it (frozen), one VAE for each task "
        "(per_task), or one decoder or VAE that keeps training on its own replay (continual); "
        "auto: frozen for VIB with two tasks, continual with more, per_task for a VAE.",
        Part.GENERATED,
        varies=Varies.BY_LANE_SIZE,
    )
    generator_optimizer: Annotated[str, Choice(("auto", *OPTIMIZERS))] = setting(
        "auto", "space", "Optimiser of a separate VAE; auto: same as `optimizer`.", Part.VAE
    )
    generator_lr: Real = setting(
        0.0,
        "space",
        "Learning rate of a separate VAE; 0: same as `lr`.",
        Part.VAE,
        varies=Varies.BY_LANE,
        ge=0,
    )
    generator_replay_weight: Real = setting(
        0.5,
        "space",
        "Weight of replay in the loss of a continually trained VAE.",
        Part.VAE_REPLAY,
        varies=Varies.BY_LANE,
        ge=0,
        le=1,
    )
    freeze_encoder: Flag = setting(
        False,
        "space",
        "Whether the encoder is frozen from task 2 on, so that only the decoders learn.",
        Part.LATER_TASK,
        varies=Varies.BY_LANE,
    )
