"""Estimates of a pack before it runs: time, memory, and how many packs fit on a machine."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from raysweep.learning.config import Config
from raysweep.learning.data.task_kinds import n_test, n_train
from raysweep.learning.methods import buffer_rows
from raysweep.learning.models import VAE
from raysweep.learning.stage_graph import epochs_of, has_image_decoder, model_of, stages_of
from raysweep.learning.stages import Stage
from raysweep.learning.training import BLOCK_STEPS
from raysweep.packs.pack import Pack
from raysweep.settings.execution import Resources

_TINY = 1e-9
_FIXED_SHARE = 0.03
_MEMORY_FIXED = 40 * 10**6
_CHUNK = 500
_LATENT, _IMAGE = 8, 5
"""Numbers that a step keeps per row for each latent dimension and each reconstructed pixel."""


class Speed(NamedTuple):
    """The components of run time, in seconds.

    ``step_s`` is the overhead of a step besides its lanes' arithmetic (Python, kernel launches),
    ``multiply_s`` one multiply-add of a product, ``value_s`` the work outside of products per input
    value of a batch, ``epoch_s`` a report to the driver, ``pack_s`` switching to the next pack.
    """

    step_s: float
    multiply_s: float
    value_s: float
    epoch_s: float
    pack_s: float


CPU = Speed(step_s=0.4e-3, multiply_s=1 / 35e9, value_s=3e-9, epoch_s=0.02, pack_s=0.1)
"""One core of an AMD EPYC, torch 2.14: products at 70 GFLOP/s, with 2 FLOP per multiply-add."""
GPU = Speed(step_s=1e-3, multiply_s=1 / 5e12, value_s=5e-12, epoch_s=0.02, pack_s=0.1)
"""For products of small layers in float32; estimated, not measured."""


def _n_an_epoch(config: Config) -> int:
    """Estimate the training samples of an epoch."""
    return n_train(config) * (config.n_tasks if config.is_joint else 1)


def n_parameters(config: Config, stage: Stage) -> int:
    """Count the parameters of one lane of a training stage."""
    return model_of(config, stage).layout(config, has_image_decoder(config, stage)).n_parameters


def _lane_s(config: Config, stage: Stage, speed: Speed) -> float:
    """Estimate the seconds of arithmetic of one lane of a stage."""
    n_samples = (
        epochs_of(config, stage) * _n_an_epoch(config) * (2 if stage.parent("buffer") else 1)
    )
    # Forward, and backward with respect to inputs and weights.
    n_multiplies = 3 * n_parameters(config, stage)
    if stage.is_classifier and stage.parent("buffer") and config.retrieval != "cycle":
        n_multiplies *= 2  # the virtual step on new data, and candidates through two models
    return n_samples * (n_multiplies * speed.multiply_s + config.n_inputs * speed.value_s)


def fixed_s(pack: Pack, speed: Speed = CPU) -> float:
    """Estimate the seconds that a pack takes regardless of its number of lanes."""
    config = pack.configs[0]
    n_steps = -(-_n_an_epoch(config) // config.batch_size)
    return speed.pack_s + pack.n_epochs * (speed.epoch_s + n_steps * speed.step_s)


def cost(pack: Pack, speed: Speed = CPU) -> float:
    """Estimate a pack's seconds on one core (or GPU), used to start the longest pack first."""
    config = pack.configs[0]
    trained = [group for group in pack.groups if group[0].kind != "fill_buffer"]
    return fixed_s(pack, speed) + sum(
        len(group) * _lane_s(config, group[0], speed) for group in trained
    )


def useful_lanes(pack: Pack, speed: Speed = CPU) -> int:
    """Return the fewest lanes for which a pack's fixed cost is only a few percent of its time."""
    fixed = fixed_s(pack, speed)
    return math.ceil(fixed / (_FIXED_SHARE * (cost(pack, speed) - fixed)))


def _shared_bytes(config: Config) -> int:
    n_joint = _n_an_epoch(config) if config.is_joint else 0  # in addition to the single tasks
    n_images = config.n_tasks * (n_train(config) + n_test(config)) + n_joint
    return n_images * config.n_inputs + _MEMORY_FIXED


def lanes_within(memory: int, pack: Pack) -> int:
    """Return how many lanes like a pack's fit into ``memory`` bytes; at least 1."""
    shared = _shared_bytes(pack.configs[0])
    return max(1, (memory - shared) * len(pack.configs) // (memory_bytes(pack) - shared))


def memory_bytes(pack: Pack) -> int:
    """Estimate a pack's peak memory in a worker, not counting torch itself.

    All in float32: the lanes of the largest group plus the outputs of earlier groups that are still
    needed; a block of batches; the tasks' images; and a constant.
    """
    config = pack.configs[0]
    of_stage = {stage.fingerprint: c for c in pack.configs for stage in stages_of(c)}
    peak = 0
    needed: set[str] = set()
    kept = _kept(pack, of_stage)
    for i in range(len(pack.groups) - 1, -1, -1):
        group = pack.groups[i]
        needed |= {parent for stage in group for _, parent in stage.parents}
        # A single lane that is needed keeps the whole stack alive.
        held = sum(
            n
            for earlier, n in zip(pack.groups[:i], kept, strict=False)
            if any(stage.fingerprint in needed for stage in earlier)
        )
        own = of_stage[group[0].fingerprint]
        floats = _filled if group[0].kind == "fill_buffer" else _trained
        peak = max(peak, held + len(group) * floats(own, group[0]))
    block = BLOCK_STEPS * 2 * config.batch_size * (config.n_bottleneck + config.n_inputs // 4)
    return 4 * (peak + block) + _shared_bytes(config)


def _kept(pack: Pack, of_stage: Mapping[str, Config]) -> list[int]:
    """Count the numbers in each group's output."""
    n_moments = (
        2 if any(c.keeps_optimizer_state or c.generator == "continual" for c in pack.configs) else 0
    )
    sizes = []
    for group in pack.groups:
        config, stage = of_stage[group[0].fingerprint], group[0]
        if stage.kind == "fill_buffer":
            size = buffer_rows(config, stage.task) * (config.n_inputs + config.n_classes)
        else:
            size = n_parameters(config, stage) * (1 + n_moments)
        sizes.append(len(group) * size)
    return sizes


def _trained(config: Config, stage: Stage) -> int:
    """Return the most numbers that a lane of a training stage holds at once."""
    n, d, c = config.batch_size, config.n_inputs, config.n_classes
    p = n_parameters(config, stage)
    rec = sum(config.rec_decoder_widths)
    classifier = sum(config.encoder_widths) + sum(config.class_decoder_widths)
    z = config.n_noise if stage.is_classifier else config.n_bottleneck
    decodes = has_image_decoder(config, stage)
    hidden = (classifier if stage.is_classifier else rec) + (rec if decodes else 0)
    row = 2 * hidden + _LATENT * z + 4 * c + (_IMAGE * d if decodes else 0)
    # Values, gradients, moments, and temporary results of an update.
    total = 6 * p + n * row
    if stage.is_classifier:
        total += _CHUNK * 2 * (hidden + 2 * z)  # testing
        total += 4 * p if config.ema_decay else 0
    if stage.parent("buffer") is None:
        return total
    n_copies = 3 if config.normalize and stage.is_classifier else 1
    total += n * (row + 2 * d) + n_copies * buffer_rows(config, stage.task - 1) * (d + c)
    if not stage.is_classifier or config.retrieval == "cycle":
        return total
    total += 3 * p + n * row  # the virtual step
    if config.retrieval == "mir":
        return total + config.n_candidates * (d + c + 2 * (hidden + 2 * z))
    generator = VAE.layout(config).n_parameters if config.has_vae else p
    return total + p + generator + n * (8 * d + 3 * rec + 6 * classifier + 12 * z)


def _filled(config: Config, stage: Stage) -> int:
    """Return the most numbers that a lane holds at once while its buffer is filled."""
    rows = buffer_rows(config, stage.task) * (config.n_inputs + config.n_classes)
    if not config.of_replay.generates:
        return 2 * rows
    stacks = config.of_model.layout(config, has_images=config.of_model.decodes_images).n_parameters
    stacks += VAE.layout(config).n_parameters if config.has_vae else 0
    return (
        3 * rows
        + stacks
        + buffer_rows(config, stage.task) * max(config.rec_decoder_widths, default=0)
    )


def slots_on(resources: Resources, n_cpus: float, n_gpus: float) -> int:
    """Return how many packs can run on one machine at once."""
    by_cpu = int(n_cpus / resources.cpu + _TINY)
    if not resources.gpu:
        return by_cpu
    if resources.gpu < 1:  # a fraction must be on a single GPU
        return min(by_cpu, int(n_gpus) * int(1 / resources.gpu + _TINY))
    return min(by_cpu, int(n_gpus / resources.gpu + _TINY))
