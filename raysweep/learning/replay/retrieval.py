"""Maximally Interfered Retrieval: replay the samples that the next step would hurt most.

Aljundi et al. 2019 (arXiv 1908.04742), section 3, for all lanes at once. Whatever the optimiser,
the virtual step is one plain SGD step with the lane's learning rate on the mean loss of the new
samples. Letters: K lanes, B new samples, R new and replayed ones, N candidates or generated
samples, D inputs, Z latent dimensions, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.models import Network
from raysweep.learning.replay.buffers import generate_images
from raysweep.learning.stacked.gradients import cross_entropy_rows
from raysweep.learning.stacked.parameters import Parameters
from raysweep.learning.stage_graph import generator_of
from raysweep.learning.streams import normal
from raysweep.learning.training.batches import Batches, Replay
from raysweep.learning.training.context import Context
from raysweep.learning.training.forward import Z_NOISE, Views, decode, encode
from raysweep.learning.training.loss_monitor import LossMonitor
from raysweep.learning.training.objectives import Batch, Weights
from raysweep.learning.training.step import Pass


class VirtualStep:
    """The parameters after a plain SGD step on the new samples alone.

    ``lr`` is (K, 1) and may be changed in place. Frozen lanes keep the first ``frozen_end``
    elements of their rows.
    """

    def __init__(
        self,
        network: Network,
        weights: Weights,
        *,
        parameters: Parameters,
        batch: Batch,
        lr: Tensor,
        is_frozen: Tensor | None,
        frozen_end: int,
    ) -> None:
        n = batch.n_new
        self._batch, self._parameters, self._lr = batch, parameters, lr
        self._frozen, self._frozen_end = is_frozen, frozen_end
        self._probe = Batch(
            n, 0, batch.inputs[:, :n], batch.images, {}, batch.labels, batch.targets
        )
        nothing = torch.zeros_like(weights.rec)
        alone = replace(weights, rec=nothing, replay=nothing, n_rec=0, is_mean=True, lanes={})
        names = ["class", "kl", "n_correct"] if network.has_latent else ["class", "n_correct"]
        monitor = LossMonitor(names, torch.ones_like(weights.kl))
        classifier = replace(network, image_decoder=None)
        n_lanes = parameters.n_lanes
        self._pass = Pass(
            classifier,
            alone,
            parameters=parameters,
            batch=self._probe,
            monitor=monitor,
            n_free=n_lanes,
        )
        self._flat = torch.zeros_like(parameters.flat)
        self.views = parameters.layout.views(self._flat)
        # Parameters without a gradient of the class loss stay as they are.
        self._is_reached = torch.zeros(parameters.flat.shape[1], dtype=torch.bool)
        for name, view in parameters.layout.views(self._is_reached[None]).items():
            view.fill_(not name.startswith("rec_decoder."))
        self._is_reached = self._is_reached.to(parameters.flat.device)

    @torch.no_grad()
    def take(self) -> Views:
        """Take the step and return its parameters as views (K, ...), valid until the next step.

        This overwrites the gradient.
        """
        batch, probe, n = self._batch, self._probe, self._batch.n_new
        assert batch.targets is not None
        # Only the noise of z: the virtual step has no dropout.
        probe.noises[Z_NOISE] = batch.noises[Z_NOISE][:n]
        probe.labels, probe.targets = batch.labels, batch.targets[:, :n]
        self._pass.compute()
        update = self._lr * self._parameters.grad
        update = torch.where(self._is_reached, update, 0)
        if self._frozen is not None:
            held = update[:, : self._frozen_end]
            held.copy_(torch.where(self._frozen[:, None], 0, held))
        torch.sub(self._parameters.flat, update, out=self._flat)
        return self.views


class Interference:
    """Choose the candidates of a step whose loss the virtual step raises most."""

    def __init__(
        self,
        batches: Batches,
        replay: Replay,
        network: Network,
        parameters: Parameters,
        step: VirtualStep,
    ) -> None:
        self._batches, self._replay, self._network = batches, replay, network
        self._parameters, self._step = parameters, step

    @torch.no_grad()
    def __call__(self) -> None:
        """Copy the chosen samples of each lane into the batch."""
        candidates = self._batches.candidates
        inputs = self._replay.inputs.index_select(1, candidates)
        targets = self._replay.labels.index_select(1, candidates)
        after = class_losses(self._network, self._step.take(), inputs, targets)
        before = class_losses(self._network, self._parameters.values, inputs, targets)
        chosen = (after - before).topk(self._batches.batch.n_replay, dim=1).indices
        self._batches.put_replay(candidates[chosen])


class GeneratedInterference:
    """Generate replay samples that the virtual step hurts most: generative MIR.

    Starting from z ~ N(0, 1), repeat z <- z + d gain / d z ``mir_steps`` times, with gain = c_x *
    cross-entropy of the classifier after the step relative to the one at the task's start - c_e *
    entropy of the latter - c_s * (|z| - sqrt(Z))^2, each a mean over the samples (section 3.2;
    published code, ``retrieve_gen_for_cls``, without its diversity term between several sets of
    samples, as there is only one set). The first of ``streams`` belongs to the current epoch. The
    classifier at the task's start provides the labels. A lane whose z becomes non-finite uses its
    initial z.
    """

    def __init__(
        self,
        context: Context,
        config: Config,
        *,
        batches: Batches,
        network: Network,
        step: VirtualStep,
        classifiers: Views,
        generators: Views,
        streams: Sequence[torch.Generator],
    ) -> None:
        self._context, self._config, self._network = context, config, network
        self._batches, self._step, self._streams = batches, step, streams
        self._classifiers, self._generators = classifiers, generators
        self._generator = generator_of(config)

    def __call__(self) -> None:
        """Copy the generated samples and their labels into the batch."""
        batch, n = self._batches.batch, self._batches.batch.n_new
        n_lanes = batch.inputs.size(0)
        after = self._step.take()
        shape = (batch.n_replay, self._config.n_bottleneck)
        start = normal(shape, self._streams[0], self._context.dtype).expand(n_lanes, -1, -1)
        z = start.clone()
        for _ in range(self._config.mir_steps):
            z = z.requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(self._gain(z, after).sum(), z)
            z = z.detach() + slope
        with torch.no_grad():
            is_well = z.isfinite().all(-1).all(-1)[:, None, None]
            images = self._images(torch.where(is_well, z, start))
            inputs = self._context.inputs(images)
            assert batch.targets is not None
            batch.inputs[:, n:] = inputs
            batch.targets[:, n:] = torch.softmax(self._logits(self._classifiers, inputs), -1)
            if batch.replay_images is not None:
                batch.replay_images.copy_(images)

    def _images(self, z: Tensor) -> Tensor:
        return generate_images(self._generators, z, self._generator)

    def _logits(self, views: Views, inputs: Tensor) -> Tensor:
        network = self._network
        latent = encode(views, inputs, network)
        return decode(views, latent.mu, network.nonlinearity, "class_decoder")

    def _gain(self, z: Tensor, after: Views) -> Tensor:
        """Compute the gain (K,) that z (K, N, Z) is optimised for."""
        config = self._config
        inputs = self._context.inputs(self._images(z))
        before = torch.log_softmax(self._logits(self._classifiers, inputs), -1)
        then = torch.log_softmax(self._logits(after, inputs), -1)
        label = before.exp()
        gain = -config.mir_interference * (label * then).sum(-1)
        gain = gain + config.mir_entropy * (label * before).sum(-1)
        if config.mir_shell:
            radius = (z * z).sum(-1).sqrt()
            gain = gain - config.mir_shell * (radius - math.sqrt(z.size(-1))) ** 2
        return gain.mean(-1)


def class_losses(network: Network, views: Views, inputs: Tensor, targets: Tensor) -> Tensor:
    """Compute each sample's cross-entropy (K, N) from the mean of z, in nats.

    ``inputs`` (K, N, D), ``targets`` (K, N, C).
    """
    latent = encode(views, inputs, network)
    assert network.class_decoder is not None
    logits = decode(views, latent.mu, network.nonlinearity, network.class_decoder)
    return cross_entropy_rows(logits, targets)[0]
