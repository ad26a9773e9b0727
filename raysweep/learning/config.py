"""One configuration: every hyper-parameter of one run, typed, frozen and hashable."""

import hashlib
import json
import typing
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from raysweep.learning.data.source_files import FileSource
from raysweep.learning.data.source_shapes import SOURCES, TaskKind, content_of
from raysweep.learning.rules import ADDED, EXPERIMENTS, check_together, resolved
from raysweep.learning.setting_types import Count, Flag, Real, ReplayKind, Widths, describe, setting


def defaults_of(experiment: str) -> dict[str, Any]:
    """Give the default of every setting in an experiment."""
    fields = {name: field.default for name, field in Config.model_fields.items()}
    return {**fields, "experiment": experiment, **EXPERIMENTS[experiment]}


class Config(BaseModel):
    """One complete setting of every hyper-parameter, seed included.

    Field order is the order of the ``config/<name>`` columns. Each field names the section of
    the search-space file it belongs to; every field may also stand under ``space:``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Literal["replay_vib", "replay", "vib", "joint"] = setting(
        "replay_vib",
        "top",
        "Tasks in sequence with replay, learnt by a VIB or comparison model or by an MLP (replay);"
        " one task, VIB (vib); all tasks at once, the upper bound (joint).",
    )
    tasks: TaskKind = setting("perm_mnist", "data", "How tasks are made of the source.")
    n_tasks: Count = setting(2, "data", "Number of tasks in sequence.", ge=1, le=100)
    source: Literal["mnist_5k", "mnist", "fashion_mnist", "kmnist"] | FileSource = setting(
        "mnist_5k",
        "data",
        "Where the images come from; the path of an .npz file for your own.",
    )
    task_samples: Count = setting(
        0,
        "data",
        "Training samples of each task, drawn at random (by seed); 0 takes all.",
        ge=0,
        le=60_000,
    )
    normalize: Flag = setting(
        False,
        "data",
        "Whether classifier inputs are (x - mean) / sd of the source.",
    )
    shuffle_tasks: Flag = setting(
        False, "data", "Whether split tasks pair classes at random (by seed)."
    )
    first_task_identity: Flag = setting(
        False, "data", "Whether the first permuted task keeps its pixels in place."
    )
    drop_last: Flag = setting(True, "data", "Whether an epoch drops a last batch that is not full.")
    epochs: Count = setting(10, "training", "Epochs per task.", ge=1, le=100_000)
    generator_epochs: Count = setting(
        0,
        "training",
        "Epochs per task of a separate VAE; 0 takes as many as `epochs`.",
        ge=0,
        le=100_000,
    )
    batch_size: Count = setting(
        100,
        "training",
        "Samples per batch, of new data and of replay alike.",
        ge=1,
        le=60_000,
    )
    eval_samples: Count = setting(
        0,
        "training",
        "Draws of z per test sample; 0 takes the mean of z, k averages k softmax outputs.",
        ge=0,
        le=1000,
    )
    reduction: Literal["auto", "sum", "mean"] = setting(
        "auto",
        "training",
        "Whether a classifier minimises sums over a batch or means; auto: mean for mlp, else sum.",
    )
    ema_decay: Real = setting(
        0.0,
        "training",
        "Classifiers are tested with an exponential moving average of their weights, that keeps"
        " this share at each step; 0 takes the weights themselves.",
        ge=0,
        lt=1,
    )
    tf32: Flag = setting(
        False,
        "training",
        "Whether matrix products on a GPU may round their inputs to TF32 (10 bits); not on a CPU.",
    )
    model: Literal["vib", "comparison", "mlp"] = setting(
        "vib",
        "space",
        "Model that learns the tasks; mlp (no bottleneck) with experiments replay and joint.",
    )
    n_bottleneck: Count = setting(
        100,
        "space",
        "Width Z of the bottleneck, and of the VAE's.",
        ge=1,
        le=100_000,
    )
    encoder_widths: Widths = setting(
        (200, 200), "space", "Hidden widths of the encoder, or of the MLP."
    )
    class_decoder_widths: Widths = setting((), "space", "Hidden widths of the class decoder.")
    rec_decoder_widths: Widths = setting(
        (200, 200),
        "space",
        "Hidden widths of the reconstruction decoder; the VAE's, whose encoder mirrors them.",
    )
    nonlinearity: Literal["relu", "leaky_relu", "elu", "tanh", "sigmoid"] = setting(
        "relu",
        "space",
        "Between the layers of classifier and VIB (the VAE always uses relu).",
    )
    variance: Literal["exp", "softplus"] = setting(
        "exp",
        "space",
        "How a bottleneck's standard deviation comes from the encoder's output s: exp(s / 2), or"
        " softplus(s - 5) as in the deep VIB paper (the VAE always uses exp).",
    )
    optimizer: Literal["adam", "adagrad", "sgd"] = setting(
        "adam", "space", "Optimiser, as in torch.optim."
    )
    lr: Real = setting(1e-3, "space", "Learning rate.", gt=0)
    lr_schedule: Literal["constant", "exponential"] = setting(
        "constant",
        "space",
        "Learning rate within a task: lr, or lr * lr_decay^(epochs done).",
    )
    lr_decay: Real = setting(0.97, "space", "Factor of the exponential schedule.", gt=0, le=1)
    weight_decay: Real = setting(
        0.0, "space", "L2 penalty as in torch.optim (added to the gradient).", ge=0
    )
    optimizer_state: Literal["auto", "reset", "keep"] = setting(
        "auto",
        "space",
        "Optimiser state at a new task; auto resets it for vib, else keeps it.",
    )
    beta_1: Real = setting(
        0.0,
        "space",
        "VIB: weight of the reconstruction if negative (as -beta_1), of the KL if positive.",
    )
    beta_2: Real = setting(0.0, "space", "Weight of the KL term.", ge=0)
    replay: ReplayKind = setting("generative", "space", "What is replayed.")
    n_replay: Count = setting(
        1000,
        "space",
        "Samples put into the replay buffer after each task, or in all: see n_replay_scope.",
        ge=1,
        le=1_000_000,
    )
    n_replay_scope: Literal["auto", "per_task", "total"] = setting(
        "auto",
        "space",
        "Whether n_replay is the budget of each task, so that the buffer grows, or of all; auto:"
        " total for a continual generator and for reservoir, else per_task.",
    )
    selection: Literal[
        "random",
        "reservoir",
        "ring",
        "class_balanced",
        "herding",
        "mean_of_features",
        "kmeans",
        "kmeans_centroids",
    ] = setting(
        "random",
        "space",
        "Which real samples simple replay keeps; all but random and reservoir by task and class.",
    )
    selection_features: Literal["pixels", "encoder"] = setting(
        "pixels",
        "space",
        "Where herding, mean_of_features and kmeans measure distance: pixels, or the means that"
        " the encoder gives (an MLP's last hidden layer).",
    )
    retrieval: Literal["cycle", "mir", "generative_mir"] = setting(
        "cycle",
        "space",
        "How replay batches are drawn: shuffled passes, the candidates from the buffer that the"
        " next step would interfere with most, or generated ones that are moved to where it does.",
    )
    n_candidates: Count = setting(
        50,
        "space",
        "Samples of the buffer that mir looks at in each step.",
        ge=1,
        le=100_000,
    )
    mir_steps: Count = setting(
        3,
        "space",
        "Times that generative_mir moves what it generates, in each step.",
        ge=1,
        le=1000,
    )
    mir_interference: Real = setting(
        0.1, "space", "generative_mir: weight of the rise in loss in what it climbs.", ge=0
    )
    mir_entropy: Real = setting(
        1.0, "space", "generative_mir: weight against labels without confidence.", ge=0
    )
    mir_shell: Real = setting(
        0.0, "space", "generative_mir: weight that holds the length of z near its usual one.", ge=0
    )
    replay_weight: Real = setting(
        0.5,
        "space",
        "Weight w of the replay loss; new data has 1 - w.",
        ge=0,
        le=1,
    )
    replay_schedule: Literal["constant", "exponential", "1-1/t"] = setting(
        "constant",
        "space",
        "Replay weight at task t: replay_weight, replay_weight * replay_decay^(t - 2), or 1 - 1/t"
        " (each task counts the same).",
    )
    replay_decay: Real = setting(0.9, "space", "Factor of the exponential schedule.", gt=0, le=1)
    replay_labels: Literal["soft", "hard"] = setting(
        "soft", "space", "Labels of generated samples: softmax or argmax."
    )
    label_temperature: Real = setting(
        1.0,
        "space",
        "Temperature of soft labels: softmax(logits / temperature).",
        gt=0,
    )
    labeler: Literal["current", "per_task", "at_generation"] = setting(
        "current",
        "space",
        "Generated images are made anew after each task and labelled by the classifier as it is"
        " then, or as it was after their task; or made and labelled once, after their task.",
    )
    generator: Literal["auto", "frozen", "per_task", "continual"] = setting(
        "auto",
        "space",
        "What generates: VIB's decoder as task 1 left it (frozen), a VAE for each task, or one"
        " decoder or VAE that goes on with its own replay; auto: frozen for VIB with two tasks,"
        " continual with more, per_task for a VAE.",
    )
    generator_optimizer: Literal["auto", "adam", "adagrad", "sgd"] = setting(
        "auto",
        "space",
        "Optimiser of a separate VAE; auto: as `optimizer`.",
    )
    generator_lr: Real = setting(0.0, "space", "Learning rate of a separate VAE; 0: as `lr`.", ge=0)
    generator_replay_weight: Real = setting(
        0.5,
        "space",
        "Weight of replay in the loss of a continual VAE.",
        ge=0,
        le=1,
    )
    freeze_encoder: Flag = setting(
        False, "space", "Whether only the decoders learn from task 2 on."
    )
    loss_above: Real = setting(
        1e6,
        "divergence",
        "Per-sample mean of the total loss above which a configuration has diverged.",
        gt=0,
    )
    loss_factor: Real = setting(
        0.0,
        "divergence",
        "That loss is too high, too, above this factor (> 1) times its lowest in the stage so far,"
        " if that is > 0; 0: no such limit.",
        ge=0,
    )
    loss_patience: Count = setting(
        1,
        "divergence",
        "Steps in a row above one of these limits after which a configuration has diverged; a loss"
        " that is not finite is enough.",
        ge=1,
        le=1_000_000,
    )
    seed: Count = setting(
        0,
        "seeds",
        "Seed of every random draw.",
        ge=0,
        le=2**32 - 1,
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        """Take the experiment's own defaults."""
        own = EXPERIMENTS.get(str(values.get("experiment")), {}) if isinstance(values, dict) else {}
        return {**own, **values} if own else values

    def model_post_init(self, context: Any, /) -> None:
        """Resolve `auto` and hold the settings against each other."""
        for name, value in resolved(self).items():
            object.__setattr__(self, name, value)
        check_together(self)

    @property
    def n_inputs(self) -> int:
        """Input size D of every model."""
        return SOURCES[self.source].n_inputs

    @property
    def n_classes(self) -> int:
        """Class count C of every task."""
        return 2 if self.tasks == "split_mnist" else SOURCES[self.source].n_classes

    @property
    def has_vae(self) -> bool:
        """Whether a VAE of its own generates for replay."""
        return self.replay == "generative" and self.model != "vib"

    @property
    def vae_lr(self) -> float:
        """Learning rate of a separate VAE."""
        return self.generator_lr or self.lr

    @property
    def vae_epochs(self) -> int:
        """Epochs per task of a separate VAE."""
        return self.generator_epochs or self.epochs

    @property
    def is_deterministic(self) -> bool:
        """Whether the model has no bottleneck: z is the last hidden layer."""
        return self.model == "mlp"

    @property
    def n_noise(self) -> int:
        """Width of the noise that a classifier's step takes."""
        return 0 if self.is_deterministic else self.n_bottleneck

    @property
    def keeps_optimizer_state(self) -> bool:
        """Whether the optimiser goes on at a new task; freezing the encoder starts a new one."""
        return self.optimizer_state == "keep" and not self.freeze_encoder

    @cached_property
    def canonical(self) -> str:
        """The setting as JSON with sorted keys, the text that is hashed."""
        values = self.model_dump()
        defaults = {name: type(self).model_fields[name].default for name in ADDED}
        plain = defaults | resolved(SimpleNamespace(**(values | defaults)))
        for name in ADDED:
            if values[name] == plain[name]:
                del values[name]
        values["source"] = content_of(self.source)  # a file may be renamed
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """Identity of the configuration: 16 hexadecimal digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]


def section_of(name: str) -> str:
    """Give the section of the search-space file that a setting belongs to."""
    extra = typing.cast(dict[str, str], Config.model_fields[name].json_schema_extra)
    return extra["section"]


def expected_of(name: str) -> str:
    """Say what a setting accepts, by its type and limits."""
    return describe(Config.model_fields[name])
