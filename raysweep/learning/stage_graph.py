"""The stages of a configuration: what it runs, what affects each result, and what is shared.

A stage is one phase of an experiment. Its fingerprint hashes exactly what can change its result,
so two configurations share a stage if and only if its result is the same for both.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from raysweep.learning.config import Config, settings_that_vary
from raysweep.learning.data.source_shapes import content_of
from raysweep.learning.declarations import DECLARATIONS
from raysweep.learning.declare import Part, Varies
from raysweep.learning.models import MODELS, VAE, Model, Network
from raysweep.learning.stage_parts import (
    Parts,
    buffer_parts,
    classifier_parts,
    decodes_images,
    read_by,
    vae_parts,
)
from raysweep.learning.stages import Stage, StageKind

STAGE_VERSION = 4
"""Increase this whenever a code change affects what a stage computes."""

LANE_SETTINGS = settings_that_vary(Varies.BY_LANE, Varies.BY_LANE_SIZE)
"""Settings in which the configurations of a pack may differ; all others form the pack key."""


@dataclass(frozen=True)
class Derived:
    """A value that a stage uses in place of the settings ``of`` it is computed from.

    Different settings that give the same value are the same experiment to stages of ``part``.
    """

    name: str
    of: tuple[str, ...]
    part: Part
    value: Callable[[Config, int], Any]


def replay_weight(config: Config, task: int) -> float:
    """Return the weight of replay at a task (2 or later).

    1 - 1/t follows van de Ven and Tolias (arXiv 1809.10635, section 4: new data has weight 1/t).
    """
    if config.replay_schedule == "1-1/t":
        return 1 - 1 / task
    if config.replay_schedule == "exponential":
        return config.replay_weight * config.replay_decay ** (task - 2)
    return config.replay_weight


_DERIVED = (
    Derived("source", ("source",), Part.EVERY, lambda config, task: content_of(config.source)),
    Derived(
        "loss_weights",
        ("beta_1", "beta_2"),
        Part.RECONSTRUCTION,
        lambda config, task: config.loss_weights,
    ),
    Derived(
        "keeps_optimizer_state",
        ("optimizer_state",),
        Part.LATER_TASK,
        lambda config, task: config.keeps_optimizer_state,
    ),
    Derived(
        "replay_weight",
        ("replay_weight", "replay_schedule", "replay_decay"),
        Part.REPLAY,
        replay_weight,
    ),
    Derived("lr", ("lr", "generator_lr"), Part.VAE, lambda config, task: config.vae_lr),
    Derived(
        "epochs", ("epochs", "generator_epochs"), Part.VAE, lambda config, task: config.vae_epochs
    ),
)


def readings(config: Config, parts: Parts, task: int) -> dict[str, Any]:
    """Return the values that a stage reads, by name: its result depends on these alone."""
    read = {name: getattr(config, name) for name in read_by(config, parts)}
    for derived in _DERIVED:
        if derived.part in parts:
            read = {name: value for name, value in read.items() if name not in derived.of}
            read[derived.name] = derived.value(config, task)
    return read


def _stage(
    config: Config,
    kind: StageKind,
    *,
    task: int,
    parts: Parts,
    parents: Mapping[str, str],
    group: Sequence[object] = (),
) -> Stage:
    content = {
        "version": STAGE_VERSION,
        "stage": f"{kind}_{task}",
        "settings": readings(config, parts, task),
        "parents": dict(parents),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:24]
    group_key = json.dumps([kind, task, *group])
    return Stage(kind, task, fingerprint, tuple(parents.items()), group_key, parts)


@lru_cache(maxsize=1_000_000)
def stages_of(config: Config) -> tuple[Stage, ...]:
    """List a configuration's stages in the order they run."""
    if config.is_joint:
        parts = classifier_parts(config, is_first=True, has_buffer=False)
        return (_stage(config, "train_joint", task=config.n_tasks, parts=parts, parents={}),)
    stages: list[Stage] = []
    models: list[Stage] = []
    generators: list[Stage] = []
    buffer: Stage | None = None
    for task in range(1, config.n_tasks + 1):
        models.append(_train_task(config, task, models, generators, buffer))
        stages.append(models[-1])
        if task == config.n_tasks or config.of_replay.part is None:
            continue
        if config.has_vae:
            generators.append(_train_generator(config, task, generators, buffer))
            stages.append(generators[-1])
        buffer = _fill_buffer(config, task, models, generators, buffer)
        stages.append(buffer)
    return tuple(stages)


def _train_task(
    config: Config,
    task: int,
    models: Sequence[Stage],
    generators: Sequence[Stage],
    buffer: Stage | None,
) -> Stage:
    parts = classifier_parts(config, is_first=task == 1, has_buffer=buffer is not None)
    if task == 1:
        return _stage(config, "train_task", task=task, parts=parts, parents={})
    parents = {"model": models[-1].fingerprint}
    group: list[object] = [config.trains_decoder]
    if buffer is not None:
        parents["buffer"] = buffer.fingerprint
        group += [*config.of_replay.size(config, task - 1), *_retrieved(config, parts)]
        if config.retrieval == "generative_mir" and config.has_vae:
            parents["generator"] = generators[-1].fingerprint
    return _stage(config, "train_task", task=task, parts=parts, parents=parents, group=group)


def _retrieved(config: Config, parts: Parts) -> list[object]:
    """Return the retrieval and its own settings, which are equal for stages that retrieve alike."""
    own = [
        getattr(config, name)
        for name, declared in DECLARATIONS.items()
        for reader in declared.readers
        if any(other == "retrieval" for other, _ in reader.conditions)
        and reader.reads(config, parts)
    ]
    return [config.retrieval, *own]


def _train_generator(
    config: Config, task: int, generators: Sequence[Stage], buffer: Stage | None
) -> Stage:
    has_buffer = task > 1 and config.generator == "continual"
    parts = vae_parts(config, has_buffer)
    if not has_buffer:
        return _stage(config, "train_generator", task=task, parts=parts, parents={})
    assert buffer is not None
    parents = {"generator": generators[-1].fingerprint, "buffer": buffer.fingerprint}
    group = config.of_replay.size(config, task - 1)
    return _stage(config, "train_generator", task=task, parts=parts, parents=parents, group=group)


def _fill_buffer(
    config: Config,
    task: int,
    models: Sequence[Stage],
    generators: Sequence[Stage],
    buffer: Stage | None,
) -> Stage:
    method, parts = config.of_replay, buffer_parts(config)
    parents = method.parents(config, models, generators)
    if buffer is not None and method.keeps_earlier(config):
        parents["buffer"] = buffer.fingerprint
    # Lanes of a group fill their buffers the same way; only the labels may differ by lane.
    labels = {"replay_labels", "label_temperature"}
    read = readings(config, parts, task)
    group = [read[n] for n in DECLARATIONS if n in read and n in LANE_SETTINGS - labels]
    return _stage(config, "fill_buffer", task=task, parts=parts, parents=parents, group=group)


def numbers_of(configs: Sequence[Config], stage: Stage) -> dict[str, list[float]]:
    """Return the real-valued lane settings that a group's stage reads, one value per lane."""
    names = [
        name
        for name, declared in DECLARATIONS.items()
        if name in LANE_SETTINGS
        and Config.model_fields[name].annotation is float
        and any(reader.part in stage.parts for reader in declared.readers)
    ]
    return {name: [getattr(config, name) for config in configs] for name in names}


def model_of(config: Config, stage: Stage) -> Model:
    """Return the model that a training stage trains."""
    return MODELS[config.model] if stage.is_classifier else VAE


def has_image_decoder(config: Config, stage: Stage) -> bool:
    """Return whether a training stage trains an image decoder."""
    return not stage.is_classifier or decodes_images(config, stage.is_first)


def network_of(config: Config, stage: Stage) -> Network:
    """Return the chains that a training stage trains."""
    return model_of(config, stage).network(config, has_image_decoder(config, stage))


def generator_of(config: Config) -> Network:
    """Return the chains of the network that generates a configuration's replay."""
    return (VAE if config.has_vae else config.of_model).network(config, has_images=True)


def weights_of_stage(config: Config, stage: Stage) -> tuple[float, float]:
    """Return the weights of the reconstruction loss and the KL in a training stage.

    From task 2 on the KL has weight beta_2, unless the decoder keeps training.
    """
    model = model_of(config, stage)
    if not stage.is_classifier or stage.is_first or config.trains_decoder:
        return model.loss_weights(config)
    return 0.0, config.beta_2 if model.has_latent else 0.0


def epochs_of(config: Config, stage: Stage) -> int:
    """Count the epochs of a stage; 0 for filling a buffer."""
    if stage.kind == "fill_buffer":
        return 0
    return config.vae_epochs if stage.kind == "train_generator" else config.epochs
