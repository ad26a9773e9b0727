"""One configuration: every hyper-parameter of one run, typed, frozen and hashable."""

import hashlib
import json
import math
import re
import typing
from difflib import get_close_matches
from functools import cache, cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

TaskKind = Literal["perm_mnist", "split_mnist"]


class InputError(Exception):
    """Say in one line what a user got wrong and what to do; the command line exits with 2."""


class SourceShape(NamedTuple):
    """What is known of a data source before it is loaded."""

    n_train: int
    n_test: int
    n_inputs: int
    n_classes: int


SOURCES: dict[str, SourceShape] = {
    "mnist_5k": SourceShape(4_000, 1_000, 784, 10),
    "mnist": SourceShape(60_000, 10_000, 784, 10),
    "fashion_mnist": SourceShape(60_000, 10_000, 784, 10),
    "kmnist": SourceShape(60_000, 10_000, 784, 10),
}


def plain_number(value: Any) -> Any:
    """Give a number, or text that can be nothing else; raise ``ValueError`` otherwise."""
    if isinstance(value, bool) or value is None:
        raise ValueError("not a number")
    if isinstance(value, str):
        if re.match(r"[-+]?0[0-9]", value.strip()):
            raise ValueError("octal in YAML 1.1, decimal in YAML 1.2")
        value = float(value)
    if isinstance(value, float) and value == 0:
        return 0.0  # -0.0 and 0.0 are one setting
    return value


def _flag(value: Any) -> Any:
    if not isinstance(value, bool | str):
        raise ValueError("not a flag")
    return value


def _widths(value: Any) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, list | tuple):
        raise ValueError("not a list of widths")
    if any(isinstance(width, bool) for width in value):
        raise ValueError("not a list of widths")
    return tuple(plain_number(width) for width in value)


def _replay_kind(value: Any) -> Any:
    # `replay: no`, `off`, `false` and `null` have one reading.
    is_no = isinstance(value, str) and value.lower() in ("no", "off", "false")
    return "none" if value is None or value is False or is_no else value


Real = Annotated[float, BeforeValidator(plain_number), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(plain_number)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=100_000)], ...], BeforeValidator(_widths)]
ReplayKind = Annotated[Literal["none", "simple", "generative"], BeforeValidator(_replay_kind)]


def _setting(default: Any, section: str, expected: str, description: str, **limits: Any) -> Any:
    return Field(
        default,
        description=description,
        json_schema_extra={"section": section, "expected": expected},
        **limits,
    )


_ADDED = ("tf32",)
"""Settings that came after the first rows were written: at their defaults they leave ids alone."""


class Config(BaseModel):
    """One complete setting of every hyper-parameter, seed included.

    Field order is the order of the ``config/<name>`` columns. Each field names the section of
    the search-space file it belongs to; every field may also stand under ``space:``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Literal["replay_vib"] = _setting(
        "replay_vib", "top", "replay_vib", "Experiment: tasks in sequence with replay."
    )
    tasks: TaskKind = _setting(
        "perm_mnist", "data", "one of perm_mnist, split_mnist", "How tasks are made of the source."
    )
    n_tasks: Count = _setting(
        2, "data", "a whole number from 1 to 100", "Number of tasks in sequence.", ge=1, le=100
    )
    source: Literal["mnist_5k", "mnist", "fashion_mnist", "kmnist"] = _setting(
        "mnist_5k", "data", f"one of {', '.join(SOURCES)}", "Where the images come from."
    )
    normalize: Flag = _setting(
        False,
        "data",
        "true or false",
        "Whether classifier inputs are (x - mean) / sd of the source.",
    )
    shuffle_tasks: Flag = _setting(
        False, "data", "true or false", "Whether split tasks pair classes at random (by seed)."
    )
    first_task_identity: Flag = _setting(
        False, "data", "true or false", "Whether the first permuted task keeps its pixels in place."
    )
    drop_last: Flag = _setting(
        True, "data", "true or false", "Whether an epoch drops a last batch that is not full."
    )
    epochs: Count = _setting(
        10, "training", "a whole number from 1 to 100000", "Epochs per task.", ge=1, le=100_000
    )
    batch_size: Count = _setting(
        100,
        "training",
        "a whole number from 1 to 60000",
        "Samples per batch, of new data and of replay alike.",
        ge=1,
        le=60_000,
    )
    eval_samples: Count = _setting(
        0,
        "training",
        "a whole number from 0 to 1000",
        "Draws of z per test sample; 0 takes the mean of z, k averages k softmax outputs.",
        ge=0,
        le=1000,
    )
    tf32: Flag = _setting(
        False,
        "training",
        "true or false",
        "Whether matrix products on a GPU may round their inputs to TF32 (10 bits); not on a CPU.",
    )
    model: Literal["vib", "comparison"] = _setting(
        "vib", "space", "one of vib, comparison", "Model that learns the tasks."
    )
    n_bottleneck: Count = _setting(
        100,
        "space",
        "a whole number from 1 to 100000",
        "Width Z of the bottleneck (of the VAE's, too).",
        ge=1,
        le=100_000,
    )
    encoder_widths: Widths = _setting(
        (200, 200), "space", "a list of whole numbers > 0", "Hidden widths of the encoder."
    )
    class_decoder_widths: Widths = _setting(
        (), "space", "a list of whole numbers > 0", "Hidden widths of the class decoder."
    )
    rec_decoder_widths: Widths = _setting(
        (200, 200),
        "space",
        "a list of whole numbers > 0",
        "Hidden widths of the reconstruction decoder; the VAE's, whose encoder mirrors them.",
    )
    nonlinearity: Literal["relu", "leaky_relu", "elu", "tanh", "sigmoid"] = _setting(
        "relu",
        "space",
        "one of relu, leaky_relu, elu, tanh, sigmoid",
        "Between the layers of classifier and VIB (the VAE always uses relu).",
    )
    optimizer: Literal["adam", "adagrad", "sgd"] = _setting(
        "adam", "space", "one of adam, adagrad, sgd", "Optimiser, as in torch.optim."
    )
    lr: Real = _setting(1e-3, "space", "a number > 0", "Learning rate.", gt=0)
    weight_decay: Real = _setting(
        0.0, "space", "a number >= 0", "L2 penalty as in torch.optim (added to the gradient).", ge=0
    )
    optimizer_state: Literal["auto", "reset", "keep"] = _setting(
        "auto",
        "space",
        "one of auto, reset, keep",
        "Optimiser state at a new task; auto resets it for vib and keeps it for comparison.",
    )
    beta_1: Real = _setting(
        0.0,
        "space",
        "a number",
        "VIB: weight of the reconstruction if negative (as -beta_1), of the KL if positive.",
    )
    beta_2: Real = _setting(0.0, "space", "a number >= 0", "Weight of the KL term.", ge=0)
    replay: ReplayKind = _setting(
        "generative", "space", "one of none, simple, generative", "What is replayed."
    )
    n_replay: Count = _setting(
        1000,
        "space",
        "a whole number from 1 to 1000000",
        "Samples put into the replay buffer after each task.",
        ge=1,
        le=1_000_000,
    )
    replay_weight: Real = _setting(
        0.5,
        "space",
        "a number from 0 to 1",
        "Weight w of the replay loss; new data has 1 - w.",
        ge=0,
        le=1,
    )
    replay_labels: Literal["soft", "hard"] = _setting(
        "soft", "space", "one of soft, hard", "Labels of generated samples: softmax or argmax."
    )
    freeze_encoder: Flag = _setting(
        False, "space", "true or false", "Whether only the class decoder learns from task 2 on."
    )
    loss_above: Real = _setting(
        1e6,
        "stop",
        "a number > 0",
        "Per-sample mean of the total loss above which a configuration has diverged.",
        gt=0,
    )
    seed: Count = _setting(
        0,
        "seeds",
        "a whole number from 0 to 4294967295",
        "Seed of every random draw.",
        ge=0,
        le=2**32 - 1,
    )

    def model_post_init(self, context: Any, /) -> None:
        """Resolve `auto` and hold the settings against each other."""
        if self.optimizer_state == "auto":
            state = "reset" if self.model == "vib" else "keep"
            object.__setattr__(self, "optimizer_state", state)
        if self.tasks == "split_mnist" and self.n_tasks > SOURCES[self.source].n_classes // 2:
            raise InputError(
                f"data.n_tasks: expected at most {SOURCES[self.source].n_classes // 2} tasks of "
                f"two classes with split_mnist, got {self.n_tasks}"
            )
        if self.replay == "generative" and self.n_tasks > 2:
            raise InputError(
                f"data.n_tasks: expected at most 2 with replay generative (the generator learns "
                f"task 1 only), got {self.n_tasks}; use n_tasks 2, or replay none or simple"
            )
        if self.drop_last and self.batch_size > SOURCES[self.source].n_train:
            raise InputError(
                f"training.batch_size: expected at most the {SOURCES[self.source].n_train} training"
                f" samples of {self.source}, got {self.batch_size}; lower it or set drop_last false"
            )

    @property
    def n_inputs(self) -> int:
        """Input size D of every model."""
        return SOURCES[self.source].n_inputs

    @property
    def n_classes(self) -> int:
        """Class count C of every task."""
        return 2 if self.tasks == "split_mnist" else SOURCES[self.source].n_classes

    @property
    def keeps_optimizer_state(self) -> bool:
        """Whether the optimiser goes on at a new task; freezing the encoder starts a new one."""
        return self.optimizer_state == "keep" and not self.freeze_encoder

    @cached_property
    def canonical(self) -> str:
        """The setting as JSON with sorted keys, the text that is hashed."""
        values = self.model_dump()
        for name in _ADDED:
            if values[name] == type(self).model_fields[name].default:
                del values[name]
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """Identity of the configuration: 16 hexadecimal digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]


def loss_weights(config: Config) -> tuple[float, float]:
    """Convert beta_1 and beta_2 into the weights (reconstruction, KL) of task 1.

    The sign of beta_1 chooses: up to 0, -beta_1 weighs the reconstruction and beta_2 the KL;
    above 0 there is no reconstruction and beta_1 + beta_2 weighs the KL. The comparison model
    has no reconstruction and ignores beta_1. From task 2 on both use beta_2 for the KL.
    """
    if config.model == "comparison":
        return 0.0, config.beta_2
    if config.beta_1 > 0:
        return 0.0, config.beta_1 + config.beta_2
    return abs(config.beta_1), config.beta_2


def show_widths(widths: tuple[int, ...]) -> str:
    """Write widths as the field does: ``200-200``; the empty text where there are none."""
    return "-".join(map(str, widths))


def section_of(name: str) -> str:
    """Give the section of the search-space file that a setting belongs to."""
    return _extra(Config.model_fields[name], "section")


def _extra(field: FieldInfo, key: str) -> str:
    extra = typing.cast(dict[str, str], field.json_schema_extra)
    return extra[key]


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    field = Config.model_fields[name]
    annotation = field.rebuild_annotation()
    return TypeAdapter(annotation)


def check_value(name: str, value: Any, where: str) -> Any:
    """Give a setting's value in its type, or raise ``InputError`` that names ``where``."""
    try:
        return _adapter(name).validate_python(value)
    except (ValidationError, ValueError, OverflowError):
        expected = _extra(Config.model_fields[name], "expected")
        raise InputError(
            f"{where}: expected {expected}, got {show(value)}{near(value, choices_of(name))}"
        ) from None


def choices_of(name: str) -> list[str]:
    """List the words a setting accepts; empty where it is no choice."""
    annotation = Config.model_fields[name].annotation
    return [str(word) for word in typing.get_args(annotation) if isinstance(word, str)]


def near(word: object, known: list[str]) -> str:
    """Give `` (did you mean ...?)`` where a known word is near; two letters are near to none."""
    is_long = len(str(word)) > 2
    matches = get_close_matches(str(word), known, n=1, cutoff=0.6) if is_long else []
    return f" (did you mean {matches[0]}?)" if matches else ""


def show(value: object) -> str:
    """Show a user's value in a message, shortened."""
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return "NaN" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
