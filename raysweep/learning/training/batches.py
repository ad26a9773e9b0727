"""The inputs of training steps, in tensors with fixed addresses.

Letters: K lanes, B new samples of a batch, R new and replayed ones, D input size, Z bottleneck,
C classes, N samples in a buffer, M steps of a block.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raysweep.learning.data.task_sequences import Samples
from raysweep.learning.replay.buffers import Buffer
from raysweep.learning.training import BLOCK_STEPS
from raysweep.learning.training.context import Context
from raysweep.learning.training.forward import Z_NOISE, Noise
from raysweep.learning.training.objectives import Batch

_BLOCK = {"cpu": BLOCK_STEPS, "cuda": 64}
"""Steps whose samples (and, on a GPU, noise) are prepared at once, by device type."""


class Replay:
    """The buffers of K lanes: ``inputs`` (K, N, D) and label probabilities ``labels`` (K, N, C).

    ``images`` (K, N, D) in [0, 1] are the inputs before normalisation; VAE inputs are not
    normalised.
    """

    def __init__(
        self, context: Context, buffers: Sequence[Buffer], is_classifier: bool = True
    ) -> None:
        self.images = torch.stack([buffer.images for buffer in buffers])
        self.inputs = context.inputs(self.images) if is_classifier else self.images
        self.labels = torch.stack([buffer.labels for buffer in buffers])

    def __len__(self) -> int:
        """Count the samples of a lane."""
        return self.labels.shape[1]


def gather(values: Tensor, chosen: Tensor, into: Tensor) -> None:
    """Copy the rows ``chosen``, (n,) or (K, n), of the values (K, N, D) to ``into`` (K, n, D)."""
    if chosen.dim() == 2:
        for source, rows, part in zip(values, chosen, into, strict=True):
            part.copy_(source.index_select(0, rows))
    elif into.is_cuda:
        into.copy_(values.index_select(1, chosen))
    else:
        for source, part in zip(values, into, strict=True):  # one copy instead of two
            torch.index_select(source, 0, chosen, out=part)


class Batches:
    """Loads the batches of one size, one after another, into ``batch``.

    Call ``prepare`` before each ``load``. It gathers the data of the next block of steps and may
    read from the host; ``load`` takes the next batch of the block. On a GPU, ``load`` counts on the
    device and copies into tensors with fixed addresses, so that it can be captured in a CUDA graph
    (``is_capturable``); on a CPU it makes the batch a view of the block instead. ``n_steps`` is the
    number of batches of this size in an epoch, ``noises`` the noise of a step, and ``has_images``
    whether replayed images are reconstructed. With ``n_candidates``, the replay order has as many
    samples per step, which ``load`` leaves in ``candidates`` for ``put_replay`` to choose from.
    """

    def __init__(
        self,
        context: Context,
        samples: Samples,
        *,
        n_lanes: int,
        n_new: int,
        n_replay: int,
        is_classifier: bool,
        replay: Replay | None,
        n_steps: int,
        is_capturable: bool | None = None,
        noises: Mapping[str, Noise] | None = None,
        has_images: bool = False,
        n_candidates: int = 0,
    ) -> None:
        self._context, self._samples, self._replay = context, samples, replay
        is_cuda = context.device.type == "cuda"
        self.is_capturable = is_cuda if is_capturable is None else is_capturable
        config, n_inputs, n_rows = context.config, context.config.n_inputs, n_new + n_replay
        self._drawn = {Z_NOISE: Noise(config.n_bottleneck)} if noises is None else noises
        widths = {name: noise.width for name, noise in self._drawn.items()}
        images = torch.empty(n_new, n_inputs, dtype=context.dtype, device=context.device)
        self._is_normalized = config.normalize and is_classifier
        self._new_inputs = torch.empty_like(images) if self._is_normalized else images
        self.batch = Batch(
            n_new,
            n_replay,
            inputs=self._new_inputs.expand(n_lanes, n_new, n_inputs),
            images=images,
            noises={name: images.new_empty(n_rows, n) for name, n in widths.items()},
            labels=samples.labels.new_empty(n_new) if is_classifier else None,
            targets=images.new_empty(n_new, config.n_classes) if is_classifier else None,
        )
        if replay is not None:
            self.batch.inputs = images.new_empty(n_lanes, n_rows, n_inputs)
            if is_classifier:
                self.batch.targets = images.new_empty(n_lanes, n_rows, config.n_classes)
            if has_images:
                self.batch.replay_images = images.new_empty(n_lanes, n_replay, n_inputs)
        self.has_candidates = n_candidates > 0
        self._n_block = m = min(n_steps, _BLOCK["cuda" if self.is_capturable else "cpu"])
        like = samples.labels
        self._pixels = torch.empty(
            m, n_new, n_inputs, dtype=samples.images.dtype, device=context.device
        )
        self._labels = like.new_empty(m, n_new)
        one_hot = torch.eye(config.n_classes, dtype=context.dtype, device=context.device)
        share = config.label_smoothing
        self._one_hot = one_hot * (1 - share) + share / config.n_classes if share else one_hot
        self._targets = images.new_empty(m, n_new, config.n_classes)
        self._chosen = like.new_empty(m, n_candidates or n_replay)
        self.candidates = self._chosen[0].clone()
        self._noises = {name: images.new_empty(m, n_rows, n) for name, n in widths.items()}
        self._slot_on_device = like.new_zeros(1)
        self._slot = 0

    def begin(
        self,
        order: Tensor,  # (steps, B)
        replay_order: Tensor,  # (steps, R - B)
        streams: Mapping[str, tuple[torch.Generator, torch.Generator]],
    ) -> None:
        """Start an epoch.

        ``order`` and ``replay_order`` hold the indices of each step's samples; ``streams`` has for
        each noise one generator for new samples and one for replayed ones.
        """
        self._order, self._replay_order = order, replay_order
        self._streams = streams
        self._n_prepared = 0

    def prepare(self) -> None:
        """Gather the samples of the next block of steps when the last one is used up."""
        assert self._n_prepared < len(self._order), "the epoch is over"
        self._slot = self._n_prepared % self._n_block
        if self._slot == 0:
            block = slice(self._n_prepared, self._n_prepared + self._n_block)
            order = self._order[block]
            n = len(order)
            flat = order.reshape(-1)
            torch.index_select(
                self._samples.images, 0, flat, out=self._pixels[:n].view(len(flat), -1)
            )
            if self.batch.labels is not None:
                self._labels[:n] = self._samples.labels.index_select(0, flat).view_as(order)
                self._targets[:n] = self._one_hot[self._labels[:n]]
            self._chosen[:n] = self._replay_order[block]
            self._slot_on_device.zero_()
        for name, noise in self._noises.items():
            if noise.is_cuda:
                if self._slot == 0:
                    self._draw(name, noise)
            else:
                # One step at a time, as batches of different sizes share a stream.
                self._draw(name, noise[self._slot])
        self._n_prepared += 1

    def _draw(self, name: str, noise: Tensor) -> None:
        """Fill (..., R, W), with separate streams for the rows of new and of replayed samples."""
        n_new, (new, replayed) = self.batch.n_new, self._streams[name]
        fill = self._drawn[name].fill
        if self.batch.n_replay == 0:
            fill(noise, new)
            return
        fill(noise[..., :n_new, :], new)
        fill(noise[..., n_new:, :], replayed)

    def load(self) -> None:
        """Load the next batch into ``batch``."""
        batch = self.batch
        batch.images.copy_(self._pick(self._pixels, None)).div_(255)
        for name, noise in self._noises.items():
            batch.noises[name] = self._pick(noise, batch.noises[name])
        if self._is_normalized:
            self._new_inputs.copy_(self._context.inputs(batch.images))
        if batch.labels is not None and batch.targets is not None:
            batch.labels = self._pick(self._labels, batch.labels)
            targets = self._pick(self._targets, batch.targets if self._replay is None else None)
            if self._replay is None:
                batch.targets = targets
            else:
                batch.targets[:, : batch.n_new] = targets
        if self._replay is not None:
            batch.inputs[:, : batch.n_new] = self._new_inputs
            if self.has_candidates:
                self.candidates = self._pick(self._chosen, self.candidates)
            else:
                self.put_replay(self._pick(self._chosen, None))
        if self.is_capturable:
            self._slot_on_device.add_(1)

    def put_replay(self, chosen: Tensor) -> None:
        """Copy the buffer's samples ``chosen``, (n,) or (K, n), into the batch's last rows."""
        batch, n, replay = self.batch, self.batch.n_new, self._replay
        assert replay is not None
        gather(replay.inputs, chosen, batch.inputs[:, n:])
        if batch.targets is not None:
            gather(replay.labels, chosen, batch.targets[:, n:])
        if batch.replay_images is not None:
            gather(replay.images, chosen, batch.replay_images)

    def _pick(self, block: Tensor, into: Tensor | None) -> Tensor:
        """Return the current step's part of a block (M, ...), copied to ``into`` if capturing."""
        if not self.is_capturable:
            return block[self._slot]
        picked = block.index_select(0, self._slot_on_device).squeeze(0)
        return picked if into is None else into.copy_(picked)
