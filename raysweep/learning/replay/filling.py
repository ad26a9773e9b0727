"""Filling the replay buffer after a task."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.data.task_sequences import Samples, batch_order, scaled
from raysweep.learning.replay.buffers import (
    Buffer,
    budget,
    choose_samples,
    generate_images,
    generated,
    join,
    label,
    prior_noise,
)
from raysweep.learning.stacked.optimizers import LaneState, stack_views
from raysweep.learning.stage_graph import generator_of
from raysweep.learning.streams import generator, normal
from raysweep.learning.training.context import Context, Lane
from raysweep.learning.training.forward import Views, decode, encode

_CHUNK = 500


@torch.no_grad()
def fill_buffers(context: Context, lanes: Sequence[Lane]) -> list[Buffer]:
    """Fill the buffers of one group of fill stages, one buffer per lane.

    Simple replay chooses real samples. Generative replay decodes z ~ N(0, 1): VIB decodes image
    and label from the same z; a VAE decodes the image, which a classifier labels (through its
    stochastic encoder if it has one).
    """
    config, task = lanes[0].config, lanes[0].stage.task
    new = config.of_replay.fill(context, lanes)
    return [
        join(lane.buffer, buffer, budget(lane.config, task))
        for lane, buffer in zip(lanes, new, strict=True)
    ]


def choose(context: Context, lanes: Sequence[Lane]) -> list[Buffer]:
    """Choose which real samples of a task to keep, one buffer per lane."""
    config, stage = lanes[0].config, lanes[0].stage
    samples = context.tasks[stage.task - 1].train
    order = _last_order(context, lanes[0], len(samples)) if config.selection == "ring" else None
    if stage.parent("model") is None:
        chosen = choose_samples(
            config, stage.task, samples=samples, dtype=context.dtype, order=order
        )
        return [chosen] * len(lanes)
    features = _features(context, stack_views([lane.model for lane in lanes]), samples)
    return [
        choose_samples(
            lane.config, stage.task, samples=samples, dtype=context.dtype, features=lane_features
        )
        for lane, lane_features in zip(lanes, features, strict=True)
    ]


def _last_order(context: Context, lane: Lane, n: int) -> Tensor:
    """Return the indices of the samples in the order of the task's last epoch."""
    config, task = context.config, lane.stage.task
    purpose = (f"train_task_{task}", config.epochs)
    stream = generator(config.seed, "batch_order", *purpose, device=context.device)
    return torch.cat(list(batch_order(n, config.batch_size, config.drop_last, stream)))


def _features(context: Context, views: Views, samples: Samples) -> Tensor:
    """Encode a task's samples into means of z (K, N, Z)."""
    config, parts = context.config, []
    network = config.of_model.network(config, has_images=False)
    for start in range(0, len(samples), _CHUNK):
        images = scaled(samples.images[start : start + _CHUNK], context.dtype)
        parts.append(encode(views, context.inputs(images), network).mu)
    return torch.cat(parts, 1)


def _counts(config: Config, task: int) -> dict[int, int]:
    """Return how many samples to generate after a task, by the task whose generator makes them."""
    sizes = {group + 1: n for group, n in budget(config, task).items()}
    if config.labeler == "at_generation":
        return {task: sizes[task]}
    if config.has_vae and config.generator == "per_task":
        return sizes
    return {task: sum(sizes.values())}


def generate(context: Context, lanes: Sequence[Lane]) -> list[Buffer]:
    """Generate images and label them, one buffer per lane."""
    config, task = lanes[0].config, lanes[0].stage.task
    counts = _counts(config, task)
    like = torch.empty((), dtype=context.dtype, device=context.device)
    z = prior_noise(config, task, sum(counts.values()), like)
    noise = _label_noise(context, task, len(z))
    kinds = [lane.config.replay_labels for lane in lanes]
    temperatures = [lane.config.label_temperature for lane in lanes]
    buffers: list[Buffer | None] = [None] * len(lanes)
    everything = dict.fromkeys(range(task), len(z))
    start = 0
    for of_task, n in counts.items():
        rows = slice(start, start + n)
        start += n
        classifiers = stack_views([_of_task(lane.labelers, of_task, lane.model) for lane in lanes])
        if config.has_vae:
            of_lanes = [_of_task(lane.generators, of_task, lane.generator) for lane in lanes]
            images = generate_images(stack_views(of_lanes), z[rows], generator_of(config))
            logits = _label_logits(context, classifiers, images, noise[rows])
        else:
            images = generate_images(classifiers, z[rows], generator_of(config))
            logits = decode(classifiers, z[rows], config.nonlinearity, "class_decoder")
        labels = label(logits, kinds, temperatures)
        buffers = [
            join(buffer, generated(images[k], labels[k], of_task), everything)
            for k, buffer in enumerate(buffers)
        ]
    return [buffer for buffer in buffers if buffer is not None]


def _of_task(states: Sequence[LaneState], of_task: int, only: LaneState | None) -> LaneState | None:
    """Return the state of a task from ``states``, which end with the current task, or ``only``."""
    return states[min(of_task, len(states)) - 1] if states else only


def _label_noise(context: Context, task: int, n: int) -> Tensor:
    config = context.config
    stream = generator(config.seed, "replay_labels", task, device=context.device)
    return normal((n, config.n_noise), stream, context.dtype)


def _label_logits(context: Context, classifiers: Views, images: Tensor, noise: Tensor) -> Tensor:
    config, parts = context.config, []
    network = config.of_model.network(config, has_images=False)
    for start in range(0, images.shape[1], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        latent = encode(classifiers, context.inputs(images[:, chunk]), network)
        z = latent.sample(noise[chunk])
        parts.append(decode(classifiers, z, config.nonlinearity, "class_decoder"))
    return torch.cat(parts, 1)
