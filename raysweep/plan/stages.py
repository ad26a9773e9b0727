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

from raysweep.settings import Config, loss_weights

STAGE_VERSION = 2
"""Raised whenever the code of a stage changes what it computes."""

LANE_SETTINGS = frozenset(
    {
        "lr",
        "weight_decay",
        "optimizer_state",
        "beta_1",
        "beta_2",
        "replay",
        "n_replay",
        "replay_weight",
        "replay_labels",
        "freeze_encoder",
        "loss_above",
    }
)
"""Settings in which the configurations of a pack may differ; all others make the pack key."""

_DATA = (
    "tasks",
    "n_tasks",
    "source",
    "normalize",
    "shuffle_tasks",
    "first_task_identity",
    "drop_last",
    "seed",
    "tf32",  # no data, but as much part of every stage
)
_TRAINING = (*_DATA, "epochs", "batch_size", "optimizer", "lr", "weight_decay", "loss_above")
_CLASSIFIER = (
    *_TRAINING,
    "model",
    "n_bottleneck",
    "encoder_widths",
    "class_decoder_widths",
    "nonlinearity",
    "eval_samples",
)
_GENERATOR = (*_TRAINING, "n_bottleneck", "rec_decoder_widths")

StageKind = Literal["train_task", "train_generator", "fill_buffer"]


@dataclass(frozen=True)
class Stage:
    """One stage of one configuration.

    ``task`` counts from 1. ``parents`` maps a role (``model``, ``generator``, ``buffer``) to the
    fingerprint of the stage that provides it. Stages of one pack with equal ``group`` have
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
        return f"{self.kind}_{self.task}"

    def parent(self, role: str) -> str | None:
        """Give the fingerprint of the parent in a role, or None."""
        return dict(self.parents).get(role)


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
    stages: list[Stage] = []
    buffer: Stage | None = None
    model: Stage | None = None
    for task in range(1, config.n_tasks + 1):
        model = _train_task(config, task, model, buffer)
        stages.append(model)
        if task == config.n_tasks or config.replay == "none":
            continue
        generator = None
        if config.replay == "generative" and config.model == "comparison":
            generator = _stage(config, "train_generator", task, _pick(config, _GENERATOR), {})
            stages.append(generator)
        buffer = _fill_buffer(config, task, model, generator, buffer)
        stages.append(buffer)
    return tuple(stages)


def _pick(config: Config, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _train_task(config: Config, task: int, model: Stage | None, buffer: Stage | None) -> Stage:
    settings = _pick(config, _CLASSIFIER)
    if task == 1:
        settings["loss_weights"] = loss_weights(config)
        if config.model == "vib":
            settings["rec_decoder_widths"] = config.rec_decoder_widths
        return _stage(config, "train_task", task, settings, {})
    assert model is not None
    settings |= _pick(config, ("beta_2", "freeze_encoder", "keeps_optimizer_state"))
    parents = {"model": model.fingerprint}
    group: list[object] = [False]
    if buffer is not None:
        settings["replay_weight"] = config.replay_weight
        parents["buffer"] = buffer.fingerprint
        group = [True, config.n_replay]
    return _stage(config, "train_task", task, settings, parents, group)


def _fill_buffer(
    config: Config, task: int, model: Stage, generator: Stage | None, buffer: Stage | None
) -> Stage:
    settings = _pick(config, (*_DATA, "n_replay", "replay"))
    group = [config.replay, config.n_replay]
    parents = {"buffer": buffer.fingerprint} if buffer else {}
    if config.replay == "generative":
        settings["replay_labels"] = config.replay_labels
        parents["model"] = model.fingerprint
        if generator is not None:
            parents["generator"] = generator.fingerprint
    return _stage(config, "fill_buffer", task, settings, parents, group)


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
        n_trained = sum(group[0].kind != "fill_buffer" for group in self.groups)
        return n_trained * self.configs[0].epochs


def group_stages(configs: Sequence[Config]) -> list[tuple[Stage, ...]]:
    """Group the distinct stages of configurations of one pack key, in the order they run."""
    order = {"train_task": 0, "train_generator": 1, "fill_buffer": 2}
    groups: dict[tuple[int, int, str], dict[str, Stage]] = {}
    for config in configs:
        for stage in stages_of(config):
            key = (stage.task, order[stage.kind], stage.group)
            groups.setdefault(key, {})[stage.fingerprint] = stage
    return [tuple(groups[key].values()) for key in sorted(groups)]
