"""Planning: configurations into packs, packs into distinct stages, memory in advance.

A stage is one phase of an experiment. Its fingerprint hashes everything that can change its
result and nothing else, so two configurations share a stage exactly if its result is the same.
"""

import hashlib
import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from raysweep.settings import SOURCES, Config, Resources, loss_weights

STAGE_VERSION = 1
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
_TINY = 1e-9
_MEMORY_FIXED = 40 * 10**6
MAX_LANES = 16
"""Most lanes the planner gives a pack by itself; more gain nothing on a CPU."""


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


@lru_cache(maxsize=65_536)
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

    @property
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


@dataclass(frozen=True)
class Plan:
    """What a sweep will run: packs, longest first, and counts of their stages."""

    packs: tuple[Pack, ...]
    n_stages: int
    n_distinct_stages: int
    n_run_stages: int


def make_plan(
    configs: Sequence[Config],
    n_slots: int = 1,
    max_lanes: int | None = None,
    alone: Container[str] = (),
) -> Plan:
    """Put each configuration into exactly one pack.

    ``n_slots`` is how many packs can run at once; ``max_lanes`` fixes the largest number of
    configurations in a pack, None lets the planner choose it. Configurations that share their
    first stages go into one pack where it has room. Those with an id in ``alone`` get a pack each.
    """
    by_key: dict[str, list[Config]] = {}
    for config in configs:
        if config.id not in alone:
            by_key.setdefault(pack_key(config), []).append(config)
    packs = [Pack((config,)) for config in configs if config.id in alone]
    for members in by_key.values():
        limit = max_lanes or _choose_lanes(len(members), len(by_key), n_slots)
        packs.extend(Pack(tuple(chunk)) for chunk in _chunks(members, limit))
    packs.sort(key=cost, reverse=True)
    fingerprints = [stage.fingerprint for config in configs for stage in stages_of(config)]
    n_run = sum(len(group) for pack in packs for group in pack.groups)
    return Plan(tuple(packs), len(fingerprints), len(set(fingerprints)), n_run)


def _choose_lanes(n_members: int, n_keys: int, n_slots: int) -> int:
    # Each slot gets a pack; more packs than that only where one would pass MAX_LANES.
    n_packs = max(1, -(-n_slots // n_keys), -(-n_members // MAX_LANES))
    return -(-n_members // n_packs)


_SHARED_FIRST = ("train_generator_1", "train_task_1", "fill_buffer_1")
"""Stages by which configurations are put side by side: the dearest to share first."""


def _chunks(configs: Sequence[Config], limit: int) -> list[list[Config]]:
    """Cut into chunks of at most ``limit``, not between prefix mates where that is possible."""
    families: dict[str, list[Config]] = {}
    rank: dict[str, int] = {}
    for config in configs:
        for stage in stages_of(config):
            rank.setdefault(stage.fingerprint, len(rank))

    def shared(config: Config) -> list[int]:
        by_name = {stage.name: rank[stage.fingerprint] for stage in stages_of(config)}
        return [by_name.get(name, -1) for name in _SHARED_FIRST]

    for config in sorted(configs, key=shared):
        families.setdefault(stages_of(config)[0].fingerprint, []).append(config)
    chunks: list[list[Config]] = [[]]
    for family in families.values():
        if len(chunks[-1]) + len(family) > limit and chunks[-1]:
            chunks.append([])
        for config in family:
            if len(chunks[-1]) == limit:
                chunks.append([])
            chunks[-1].append(config)
    return chunks


def _layer_sizes(*widths: int) -> int:
    return sum((a + 1) * b for a, b in pairwise(widths))


def n_parameters(config: Config, kind: StageKind) -> int:
    """Count the parameters one lane of a training stage holds."""
    z, rec = config.n_bottleneck, config.rec_decoder_widths
    if kind == "train_generator":
        encoder = _layer_sizes(config.n_inputs, *reversed(rec), 2 * z)
        return encoder + _layer_sizes(z, *rec, config.n_inputs)
    classifier = _layer_sizes(config.n_inputs, *config.encoder_widths, 2 * z) + _layer_sizes(
        z, *config.class_decoder_widths, config.n_classes
    )
    if config.model == "vib":
        classifier += _layer_sizes(z, *rec, config.n_inputs)
    return classifier


def cost(pack: Pack) -> float:
    """Estimate a pack's work in multiply-adds, to start the longest pack first."""
    config = pack.configs[0]
    work = 0.0
    for group in pack.groups:
        if group[0].kind != "fill_buffer":
            n_batches = 2 if group[0].parent("buffer") else 1
            work += len(group) * n_batches * n_parameters(config, group[0].kind)
    return work * config.epochs * SOURCES[config.source].n_train


def memory_bytes(pack: Pack) -> int:
    """Estimate a pack's peak memory in a worker, beside what torch itself takes.

    float32 throughout: parameters, gradient, optimiser state and temporaries, activations and
    buffers of the stage that needs most, the tasks' images, and a constant.
    """
    config = pack.configs[0]
    peak = 0
    n_buffers = len({f for g in pack.groups for s in g if (f := s.parent("buffer"))})
    n_replay = max(c.n_replay if c.replay != "none" else 0 for c in pack.configs)
    buffer_row = config.n_inputs + config.n_classes
    buffers = n_buffers * n_replay * (config.n_tasks - 1) * buffer_row
    for group in pack.groups:
        if group[0].kind == "fill_buffer":
            continue
        widths = (*config.encoder_widths, *config.class_decoder_widths, *config.rec_decoder_widths)
        activations = (
            3 * config.batch_size * (2 * config.n_inputs + 4 * config.n_bottleneck + sum(widths))
        )
        held = buffers if group[0].parent("buffer") else 0
        lanes = len(group) * (8 * n_parameters(config, group[0].kind) + activations)
        peak = max(peak, lanes + 2 * held)
    n_images = config.n_tasks * sum(SOURCES[config.source][:2])
    return 4 * peak + n_images * config.n_inputs + _MEMORY_FIXED


def memory_of(plan: Plan, n_slots: int) -> tuple[int, int]:
    """Give the largest pack's memory and that of the ``n_slots`` largest together, in bytes."""
    sizes = sorted((memory_bytes(pack) for pack in plan.packs), reverse=True)
    return (sizes[0] if sizes else 0), sum(sizes[:n_slots])


def slots_on(resources: Resources, n_cpus: float, n_gpus: float) -> int:
    """Count how many packs fit on one machine at once."""
    by_cpu = int(n_cpus / resources.cpu + _TINY)
    if not resources.gpu:
        return by_cpu
    if resources.gpu < 1:  # a fraction lies on one GPU
        return min(by_cpu, int(n_gpus) * int(1 / resources.gpu + _TINY))
    return min(by_cpu, int(n_gpus / resources.gpu + _TINY))
