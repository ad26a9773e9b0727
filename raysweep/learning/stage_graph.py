"""Stages: what a configuration runs, what can change the result, and what is shared.

A stage is one phase of an experiment. Its fingerprint hashes everything that can change its
result and nothing else, so two configurations share a stage exactly if its result is the same.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from raysweep.learning.config import Config
from raysweep.learning.data.source_shapes import SOURCES
from raysweep.learning.rules import REPLAY_SETTINGS, loss_weights

STAGE_VERSION = 3
"""Raised whenever the code of a stage changes what it computes."""

LANE_SETTINGS = frozenset(REPLAY_SETTINGS) - {"generator_epochs", "generator_optimizer"} | {
    "lr",
    "lr_schedule",
    "lr_decay",
    "weight_decay",
    "beta_1",
    "beta_2",
    "loss_above",
    "loss_factor",
    "loss_patience",
}
"""Settings in which the configurations of a pack may differ; all others make the pack key."""

_DATA = (
    "tasks",
    "n_tasks",
    "source",
    "task_samples",
    "normalize",
    "shuffle_tasks",
    "first_task_identity",
    "drop_last",
    "seed",
    "tf32",  # no data, but as much part of every stage
)
_TRAINING = (*_DATA, "batch_size", "weight_decay", "loss_above")
_CLASSIFIER = (
    "epochs",
    "optimizer",
    "lr",
    "model",
    "encoder_widths",
    "class_decoder_widths",
    "nonlinearity",
    "reduction",
    "ema_decay",
)
_BOTTLENECK = ("n_bottleneck", "eval_samples", "variance")

GENERATIVE_MIR = ("mir_steps", "mir_interference", "mir_entropy", "mir_shell")

StageKind = Literal["train_task", "train_joint", "train_generator", "fill_buffer"]


@dataclass(frozen=True)
class Stage:
    """One stage of one configuration.

    ``task`` counts from 1; for joint training it is the last. ``parents`` maps a role (``model``,
    ``generator``, ``buffer``; ``model_1``, ``generator_1`` and so on where there are several) to
    the fingerprint of the stage that provides it. Stages of one pack with equal ``group`` have
    tensors of equal shapes and train as one stacked model.
    """

    kind: StageKind
    task: int
    fingerprint: str
    parents: tuple[tuple[str, str], ...]
    group: str

    @property
    def name(self) -> str:
        """The stage's name in the tables, such as ``train_task_1``."""
        return self.kind if self.kind == "train_joint" else f"{self.kind}_{self.task}"

    @property
    def is_classifier(self) -> bool:
        """Whether the stage trains what classifies."""
        return self.kind in ("train_task", "train_joint")

    @property
    def is_first(self) -> bool:
        """Whether a classifier starts here, with the loss of task 1."""
        return self.kind == "train_joint" or (self.kind == "train_task" and self.task == 1)

    def parent(self, role: str) -> str | None:
        """Give the fingerprint of the parent in a role, or None."""
        return dict(self.parents).get(role)

    def numbered_parents(self, role: str) -> list[str]:
        """List the parents in the roles ``role_1``, ``role_2`` and so on."""
        return [parent for name, parent in self.parents if name.startswith(f"{role}_")]


def _stage(
    config: Config,
    kind: StageKind,
    task: int,
    settings: dict[str, Any],
    parents: dict[str, str],
    group: Sequence[object] = (),
) -> Stage:
    content = {
        "version": STAGE_VERSION,
        "stage": f"{kind}_{task}",
        "settings": settings,
        "parents": parents,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:24]
    return Stage(kind, task, fingerprint, tuple(parents.items()), json.dumps([kind, task, *group]))


@lru_cache(maxsize=1_000_000)
def stages_of(config: Config) -> tuple[Stage, ...]:
    """List a configuration's stages in the order they run."""
    if config.experiment == "joint":
        settings = {**_classifier(config), **_first_task(config)}
        return (_stage(config, "train_joint", config.n_tasks, settings, {}),)
    stages: list[Stage] = []
    models: list[Stage] = []
    generators: list[Stage] = []
    buffer: Stage | None = None
    for task in range(1, config.n_tasks + 1):
        models.append(_train_task(config, task, models, generators, buffer))
        stages.append(models[-1])
        if task == config.n_tasks or config.replay == "none":
            continue
        if config.has_vae:
            generators.append(_train_generator(config, task, generators, buffer))
            stages.append(generators[-1])
        buffer = _fill_buffer(config, task, models, generators, buffer)
        stages.append(buffer)
    return tuple(stages)


def _pick(config: Config, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _training(config: Config) -> dict[str, Any]:
    settings = _pick(config, _TRAINING)
    if config.loss_factor > 0:
        settings["loss_factor"] = config.loss_factor
    if config.loss_patience > 1:
        settings["loss_patience"] = config.loss_patience
    return settings


def _classifier(config: Config) -> dict[str, Any]:
    settings = _training(config) | _pick(config, _CLASSIFIER)
    if not config.is_deterministic:
        settings |= _pick(config, _BOTTLENECK)
    if config.lr_schedule != "constant":
        settings |= _pick(config, ("lr_schedule", "lr_decay"))
    return settings


def _first_task(config: Config) -> dict[str, Any]:
    settings: dict[str, Any] = {"loss_weights": loss_weights(config)}
    if config.model == "vib":
        settings["rec_decoder_widths"] = config.rec_decoder_widths
    return settings


def _train_task(
    config: Config,
    task: int,
    models: Sequence[Stage],
    generators: Sequence[Stage],
    buffer: Stage | None,
) -> Stage:
    settings = _classifier(config)
    if task == 1:
        return _stage(config, "train_task", task, settings | _first_task(config), {})
    settings |= _pick(config, ("freeze_encoder", "keeps_optimizer_state"))
    goes_on = trains_decoder(config)
    if goes_on:
        settings |= _first_task(config)
    elif not config.is_deterministic:
        settings["beta_2"] = config.beta_2
    parents = {"model": models[-1].fingerprint}
    group: list[object] = [goes_on]
    if buffer is not None:
        settings["replay_weight"] = replay_weight(config, task)
        settings["retrieval"] = config.retrieval
        parents["buffer"] = buffer.fingerprint
        group += [*_buffer_size(config, task - 1), config.retrieval]
        if config.retrieval == "mir":
            settings["n_candidates"] = config.n_candidates
            group.append(config.n_candidates)
        if config.retrieval == "generative_mir":
            own = _pick(config, GENERATIVE_MIR)
            settings |= own
            group += own.values()
            if config.has_vae:
                settings |= _pick(config, ("rec_decoder_widths", "n_bottleneck"))
                parents["generator"] = generators[-1].fingerprint
    return _stage(config, "train_task", task, settings, parents, group)


def trains_decoder(config: Config) -> bool:
    """Tell whether a VIB's reconstruction decoder goes on learning after task 1."""
    is_generative = config.model == "vib" and config.replay == "generative"
    return is_generative and config.generator == "continual"


def replay_weight(config: Config, task: int) -> float:
    """Give the weight of replay at a task, from 2 on.

    1 - 1/t is van de Ven and Tolias's (arXiv 1809.10635, section 4: new data has 1/t).
    """
    if config.replay_schedule == "1-1/t":
        return 1 - 1 / task
    if config.replay_schedule == "exponential":
        return config.replay_weight * config.replay_decay ** (task - 2)
    return config.replay_weight


def _train_generator(
    config: Config, task: int, generators: Sequence[Stage], buffer: Stage | None
) -> Stage:
    settings = _training(config) | _pick(config, ("n_bottleneck", "rec_decoder_widths"))
    settings["epochs"] = config.vae_epochs
    settings["optimizer"] = config.generator_optimizer
    settings["lr"] = config.vae_lr
    parents: dict[str, str] = {}
    group: list[object] = []
    if task > 1 and config.generator == "continual":
        assert buffer is not None
        settings["generator_replay_weight"] = config.generator_replay_weight
        parents = {"generator": generators[-1].fingerprint, "buffer": buffer.fingerprint}
        group = _buffer_size(config, task - 1)
    return _stage(config, "train_generator", task, settings, parents, group)


def _buffer_size(config: Config, n_tasks: int) -> list[object]:
    """Give what tells whether two buffers of ``n_tasks`` tasks have equal sizes."""
    is_total = config.n_replay_scope == "total"
    if config.replay == "generative":
        return [config.n_replay * (1 if is_total else n_tasks)]
    if config.selection in ("random", "reservoir"):
        if config.n_replay > _fewest_samples(config):  # tasks may have less to give
            return [config.selection, config.n_replay, is_total]
        return [config.n_replay * (1 if is_total else n_tasks)]
    is_ring = config.selection == "ring"
    return ["ring" if is_ring else "by_class", config.n_replay, is_total]


def _fewest_samples(config: Config) -> int:
    """Give a number of training samples that each task has at least."""
    shape = SOURCES[config.source]
    n_samples = shape.n_train
    if config.tasks == "split_mnist":  # pairs of classes, the smallest of MNIST 6 % below the mean
        n_samples = int(0.9 * 2 * shape.n_train / shape.n_classes)
    return min(n_samples, config.task_samples or n_samples)


def _fill_buffer(
    config: Config,
    task: int,
    models: Sequence[Stage],
    generators: Sequence[Stage],
    buffer: Stage | None,
) -> Stage:
    names = ["replay", "n_replay", "n_replay_scope"]
    parents: dict[str, str] = {}
    is_kept = True
    if config.replay == "simple":
        names += ["selection"]
        if config.selection in FEATURE_SELECTIONS:
            names += ["selection_features"]
            if config.selection_features == "encoder":
                parents["model"] = models[-1].fingerprint
    else:
        names += ["replay_labels", "labeler", "generator"]
        if config.replay_labels == "soft":
            names += ["label_temperature"]
        is_kept = config.labeler == "at_generation"
        numbered = {}
        if config.has_vae and config.generator == "per_task":
            shown = generators[-1:] if is_kept else generators
            numbered = {f"generator_{s.task}": s.fingerprint for s in shown}
        elif config.has_vae:
            parents["generator"] = generators[-1].fingerprint
        if config.labeler == "per_task":
            numbered |= {f"model_{s.task}": s.fingerprint for s in models}
        else:
            parents["model"] = models[-1].fingerprint
        parents |= numbered
    if buffer is not None and is_kept:
        parents["buffer"] = buffer.fingerprint
    settings = _pick(config, (*_DATA, *names))
    if config.replay == "simple" and config.selection == "ring":  # the last epoch's order
        settings |= _pick(config, ("epochs", "batch_size"))
    lane_names = {"replay_labels", "label_temperature"}
    group = [settings[name] for name in names if name not in lane_names]
    return _stage(config, "fill_buffer", task, settings, parents, group)


FEATURE_SELECTIONS = ("herding", "mean_of_features", "kmeans", "kmeans_centroids")
"""Selections that measure distances."""


def pack_key(config: Config) -> str:
    """Give the text that configurations must share to train in one pack."""
    return json.dumps(config.model_dump(exclude=set(LANE_SETTINGS)), sort_keys=True)


@dataclass(frozen=True)
class Pack:
    """Configurations of equal shapes that train at once as one stacked model."""

    configs: tuple[Config, ...]

    @cached_property
    def groups(self) -> list[tuple[Stage, ...]]:
        """Group the pack's distinct stages, in the order they run; a group trains in step."""
        return group_stages(self.configs)

    @property
    def n_epochs(self) -> int:
        """Number of epochs that the pack trains, group after group, if no lane diverges."""
        return sum(epochs_of(self.configs[0], group[0]) for group in self.groups)


def epochs_of(config: Config, stage: Stage) -> int:
    """Count the epochs of a stage; 0 for filling a buffer."""
    if stage.kind == "fill_buffer":
        return 0
    return config.vae_epochs if stage.kind == "train_generator" else config.epochs


def turn_of(stage: Stage) -> tuple[int, int, str]:
    """Give the key of a stage's group in a pack; groups run in the order of their keys."""
    order = {"train_task": 0, "train_joint": 0, "train_generator": 1, "fill_buffer": 2}
    return stage.task, order[stage.kind], stage.group


def group_stages(configs: Sequence[Config]) -> list[tuple[Stage, ...]]:
    """Group the distinct stages of configurations of one pack key, in the order they run."""
    groups: dict[tuple[int, int, str], dict[str, Stage]] = {}
    for config in configs:
        for stage in stages_of(config):
            groups.setdefault(turn_of(stage), {})[stage.fingerprint] = stage
    return [tuple(groups[key].values()) for key in sorted(groups)]
