"""Estimates of a pack before it runs: seconds, bytes, and how many packs a machine holds."""

import math
from itertools import pairwise
from typing import NamedTuple

from raysweep.plan.stages import Pack, Stage, StageKind, epochs_of
from raysweep.settings import SOURCES, Config, Resources

_TINY = 1e-9
_FIXED_SHARE = 0.03
_MEMORY_FIXED = 40 * 10**6
BLOCK_STEPS = 8
"""Training steps whose samples are gathered at once on a CPU."""


class Speed(NamedTuple):
    """What time goes into, in seconds.

    ``step_s`` is what a step takes beside its lanes' arithmetic (Python, kernel launches),
    ``multiply_s`` one multiply-add of a product, ``value_s`` one input value of a batch outside
    of products, ``epoch_s`` a report to the driver, ``pack_s`` the change from pack to pack.
    """

    step_s: float
    multiply_s: float
    value_s: float
    epoch_s: float
    pack_s: float


CPU = Speed(step_s=0.4e-3, multiply_s=1 / 35e9, value_s=3e-9, epoch_s=0.02, pack_s=0.1)
"""One core of an AMD EPYC with torch 2.14: products run at 70 GFLOP/s, two for a multiply-add."""
GPU = Speed(step_s=1e-3, multiply_s=1 / 5e12, value_s=5e-12, epoch_s=0.02, pack_s=0.1)
"""Products of small layers in float32; estimated, not measured."""


def _layer_sizes(*widths: int) -> int:
    return sum((a + 1) * b for a, b in pairwise(widths))


def n_parameters(config: Config, kind: StageKind) -> int:
    """Count the parameters one lane of a training stage holds."""
    z, rec = config.n_bottleneck, config.rec_decoder_widths
    if kind == "train_generator":
        encoder = _layer_sizes(config.n_inputs, *reversed(rec), 2 * z)
        return encoder + _layer_sizes(z, *rec, config.n_inputs)
    hidden = (config.n_inputs, *config.encoder_widths)
    if config.is_deterministic:
        return _layer_sizes(*hidden, *config.class_decoder_widths, config.n_classes)
    classifier = _layer_sizes(*hidden, 2 * z) + _layer_sizes(
        z, *config.class_decoder_widths, config.n_classes
    )
    if config.model == "vib":
        classifier += _layer_sizes(z, *rec, config.n_inputs)
    return classifier


def _n_train(config: Config) -> int:
    """Estimate the training samples of an epoch."""
    n_train, _, _, n_classes = SOURCES[config.source]
    n_of_task = n_train * 2 // n_classes if config.tasks == "split_mnist" else n_train
    n_of_task = min(config.task_samples or n_of_task, n_of_task)
    return n_of_task * (config.n_tasks if config.experiment == "joint" else 1)


def _lane_s(config: Config, stage: Stage, speed: Speed) -> float:
    """Estimate the seconds of a stage's arithmetic, one lane."""
    n_samples = epochs_of(config, stage) * _n_train(config) * (2 if stage.parent("buffer") else 1)
    # Forward, and backward to inputs and to weights.
    n_multiplies = 3 * n_parameters(config, stage.kind)
    if stage.is_classifier and stage.parent("buffer") and config.retrieval != "cycle":
        n_multiplies *= 2  # a probe with new data, and candidates through two models
    return n_samples * (n_multiplies * speed.multiply_s + config.n_inputs * speed.value_s)


def fixed_s(pack: Pack, speed: Speed = CPU) -> float:
    """Estimate the seconds that a pack takes however few lanes it has."""
    config = pack.configs[0]
    n_steps = -(-_n_train(config) // config.batch_size)
    return speed.pack_s + pack.n_epochs * (speed.epoch_s + n_steps * speed.step_s)


def cost(pack: Pack, speed: Speed = CPU) -> float:
    """Estimate a pack's seconds on one core (or GPU), to start the longest pack first."""
    config = pack.configs[0]
    trained = [group for group in pack.groups if group[0].kind != "fill_buffer"]
    return fixed_s(pack, speed) + sum(
        len(group) * _lane_s(config, group[0], speed) for group in trained
    )


def useful_lanes(pack: Pack, speed: Speed = CPU) -> int:
    """Give the fewest lanes like a pack's at which its fixed cost is a few percent of its time."""
    fixed = fixed_s(pack, speed)
    return math.ceil(fixed / (_FIXED_SHARE * (cost(pack, speed) - fixed)))


def _shared_bytes(config: Config) -> int:
    n_train, n_test, _, n_classes = SOURCES[config.source]
    n_images = config.n_tasks * (n_train + n_test)
    if config.tasks == "split_mnist":
        n_images = n_images * 2 // n_classes
    if config.experiment == "joint":
        n_images += config.n_tasks * n_train  # all tasks in one array, beside the single ones
    return n_images * config.n_inputs + _MEMORY_FIXED


def lanes_within(memory: int, pack: Pack) -> int:
    """Give the most lanes like a pack's that fit into ``memory`` bytes; at least 1."""
    shared = _shared_bytes(pack.configs[0])
    return max(1, (memory - shared) * len(pack.configs) // (memory_bytes(pack) - shared))


def memory_bytes(pack: Pack) -> int:
    """Estimate a pack's peak memory in a worker, beside what torch itself takes.

    float32 throughout: parameters, gradient, optimiser state and temporaries, activations and
    buffers of the stage that needs most, a block of batches, the tasks' images, and a constant.
    """
    config = pack.configs[0]
    peak = 0
    n_replay = max(c.n_replay if c.replay != "none" else 0 for c in pack.configs)
    # Each lane has its own copy beside the filled buffers; scaling it makes another for a moment.
    n_copies = 3 if config.normalize else 2
    buffer_row = config.n_inputs + config.n_classes
    is_growing = any(c.n_replay_scope == "per_task" for c in pack.configs)
    n_replay *= max(1, config.n_tasks - 1) if is_growing else 1
    buffer = n_copies * n_replay * buffer_row
    block = BLOCK_STEPS * 2 * config.batch_size * (config.n_bottleneck + config.n_inputs // 4)
    for group in pack.groups:
        if group[0].kind == "fill_buffer":
            continue
        widths = (*config.encoder_widths, *config.class_decoder_widths, *config.rec_decoder_widths)
        activations = (
            3 * config.batch_size * (2 * config.n_inputs + 4 * config.n_bottleneck + sum(widths))
        )
        held = buffer if group[0].parent("buffer") else 0
        lanes = len(group) * (8 * n_parameters(config, group[0].kind) + activations + held)
        peak = max(peak, lanes + block)
    return 4 * peak + _shared_bytes(config)


def slots_on(resources: Resources, n_cpus: float, n_gpus: float) -> int:
    """Count how many packs fit on one machine at once."""
    by_cpu = int(n_cpus / resources.cpu + _TINY)
    if not resources.gpu:
        return by_cpu
    if resources.gpu < 1:  # a fraction lies on one GPU
        return min(by_cpu, int(n_gpus) * int(1 / resources.gpu + _TINY))
    return min(by_cpu, int(n_gpus / resources.gpu + _TINY))
