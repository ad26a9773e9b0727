"""Filling the replay buffer after a task."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raysweep.models import decode, encode
from raysweep.replay import Buffer, choose_samples, generate_images, join, label, prior_noise
from raysweep.stacked import LaneState
from raysweep.stages.scene import Lane, Scene
from raysweep.streams import generator, normal

_CHUNK = 500


@torch.no_grad()
def fill_buffers(scene: Scene, lanes: Sequence[Lane]) -> list[Buffer]:
    """Fill the buffers of one group of fill stages, one buffer a lane.

    Simple replay chooses real samples. Generative replay decodes z ~ N(0, 1): VIB decodes image
    and label from one z; the comparison model's VAE decodes the image, which the classifier labels
    through its stochastic encoder.
    """
    config, task = lanes[0].config, lanes[0].stage.task
    if config.replay == "simple":
        samples = scene.tasks[task - 1].train
        chosen = choose_samples(config, task, samples, scene.dtype)
        return [join(lane.buffer, chosen) for lane in lanes]
    z = prior_noise(config, task, torch.empty((), dtype=scene.dtype, device=scene.device))
    classifiers = stack_views([lane.model for lane in lanes])
    if config.model == "vib":
        images = generate_images(classifiers, z, config.nonlinearity, "rec_decoder")
        logits = decode(classifiers, z, config.nonlinearity, "class_decoder")
    else:
        generators = stack_views([lane.generator for lane in lanes])
        images = generate_images(generators, z, "relu", "vae_decoder")
        logits = _label_logits(scene, classifiers, images, task)
    labels = label(logits, [lane.config.replay_labels for lane in lanes])
    new = [Buffer(images[k], labels[k]) for k in range(len(lanes))]
    return [join(lane.buffer, buffer) for lane, buffer in zip(lanes, new, strict=True)]


def _label_logits(
    scene: Scene, classifiers: dict[str, Tensor], images: Tensor, task: int
) -> Tensor:
    config = scene.config
    stream = generator(config.seed, "replay_labels", task, device=scene.device)
    noise = normal((images.shape[1], config.n_bottleneck), stream, scene.dtype)
    parts = []
    for start in range(0, images.shape[1], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        latent = encode(classifiers, scene.inputs(images[:, chunk]), config.nonlinearity)
        z = latent.sample(noise[chunk])
        parts.append(decode(classifiers, z, config.nonlinearity, "class_decoder"))
    return torch.cat(parts, 1)


def stack_views(states: Sequence[LaneState | None]) -> dict[str, Tensor]:
    """Stack the parameters of lanes of one layout into tensors (K, *shape)."""
    parameters = [state.parameters for state in states if state is not None]
    assert len(parameters) == len(states)
    return {name: torch.stack([p[name] for p in parameters]) for name in parameters[0]}
