"""Images of a configuration: its replay buffer, and reconstructions beside the originals.

Tables hold no images. As training is reproducible, the configuration is trained again here, alone
and on the CPU; ``differences`` checks that the numbers are the same. Stages in the stage cache are
not trained again.

Letters: N samples, D input size, C classes.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source, data_folder, load_source
from raysweep.learning.data.task_kinds import TASK_KINDS
from raysweep.learning.data.task_sequences import scaled
from raysweep.learning.replay.buffers import Buffer, generate_images
from raysweep.learning.stacked.optimizers import LaneState, stack_views
from raysweep.learning.stage_graph import has_image_decoder, network_of, stages_of
from raysweep.learning.stages import Stage
from raysweep.learning.training.forward import encode
from raysweep.packs.run import PackRun
from raysweep.packs.stage_cache.entries import STORE, StageCache

_Array = NDArray[np.float64]
_Whole = NDArray[np.int64]
_TIMES = ("duration_s", "n_stored_stages")


@dataclass(frozen=True)
class Replayed:
    """The last replay buffer: images (N, D) in [0, 1], label probabilities (N, C), tasks (N,).

    Pixels are in the source's order. Tasks count from 1; 0 means unknown, as for a reservoir or
    for images from one generator of several tasks. For permuted tasks, unknown tasks are guessed:
    the task whose inverse permutation gives the smoothest image. ``is_guessed`` marks this.
    """

    images: _Array
    labels: _Array
    tasks: _Whole
    is_guessed: bool = False


@dataclass(frozen=True)
class Reconstructed:
    """Test images (N, D) of a task, labels (N,), and reconstructions decoded from the mean of z.

    ``of_task`` is the last task that the decoder learned. Pixels are in [0, 1] and in the source's
    order.
    """

    task: int
    of_task: int
    originals: _Array
    images: _Array
    labels: _Whole


@dataclass(frozen=True)
class Examples:
    """The result of ``examples``; ``outcome`` is the row of ``trials`` from training here.

    ``shape`` is the shape of an image: height, width and, for colour images, 3. ``replayed`` is
    None without replay, or if training diverged first.
    """

    config: Config
    shape: tuple[int, ...]
    outcome: dict[str, Any]
    replayed: Replayed | None
    reconstructed: tuple[Reconstructed, ...]

    @property
    def has_own_classes(self) -> bool:
        """Whether labels number the classes within a task instead of those of the source."""
        return TASK_KINDS[self.config.tasks].relabels


def examples(
    config: Config,
    data: Path | None = None,
    sweep: Path | None = None,
    n: int = 10,
    n_threads: int = 1,
) -> Examples:
    """Train a configuration; return its last replay buffer and ``n`` reconstructions per task.

    ``data`` is the data folder; ``sweep`` is a sweep's folder, to read the stage cache beside it
    if there is one. Set ``n_threads`` to the trial's number of CPUs, as the last bits depend on it.
    Raise ``InputError`` if the data is not available.
    """
    source = load_source(config.source, data_folder(data))
    wanted = [stage.fingerprint for stage in [*fills_of(config)[-1:], *_decoders(config)]]
    with _as_in_a_worker(n_threads), torch.no_grad():
        run = PackRun([config], source, store=_store(sweep), wanted=wanted)
        outcome: dict[str, Any] = {}
        while not run.is_done:
            for row in run.advance().trials:
                outcome = row
        return Examples(
            config,
            image_shape(config.n_inputs),
            outcome,
            _replayed(config, run),
            tuple(_reconstructed(config, run, source, n)),
        )


def has_examples(config: Config) -> bool:
    """Return whether a configuration has images to show: replayed or reconstructed ones."""
    return bool(fills_of(config) or _decoders(config))


def fills_of(config: Config) -> list[Stage]:
    """List the stages of a configuration that fill its replay buffer."""
    return [stage for stage in stages_of(config) if stage.kind == "fill_buffer"]


def differences(row: Mapping[Any, Any], outcome: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare a row of ``trials`` with an outcome; map each differing column to both values.

    Ignore times, and columns missing from the row.
    """
    pairs = {
        name: (_known(row[name]), _known(value))
        for name, value in outcome.items()
        if name in row and name not in _TIMES
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def in_turn(labels: _Whole, n: int) -> _Whole:
    """Choose ``n`` samples, cycling through the labels; return their indices sorted by label."""
    ranks = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    chosen: _Whole = np.lexsort((labels, ranks))[:n]
    return chosen[np.lexsort((chosen, labels[chosen]))]


def image_shape(n_inputs: int) -> tuple[int, ...]:
    """Return an image shape for D pixels: square, or square with three colours, or near-square."""
    side = isqrt(n_inputs)
    if side**2 == n_inputs:
        return side, side
    if n_inputs % 3 == 0 and isqrt(n_inputs // 3) ** 2 == n_inputs // 3:
        return isqrt(n_inputs // 3), isqrt(n_inputs // 3), 3
    height = next(rows for rows in range(side, 0, -1) if n_inputs % rows == 0)
    return height, n_inputs // height


@contextlib.contextmanager
def _as_in_a_worker(n_threads: int) -> Iterator[None]:
    """Set up torch as ``PackTrainable`` does, and restore the process's settings afterwards."""
    threads, flushes = torch.get_num_threads(), float(torch.tensor(1e-40) * 1) == 0
    torch.set_num_threads(n_threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushes)


def _store(sweep: Path | None) -> StageCache | None:
    """Open the stage cache beside a sweep for reading: without room, nothing is written."""
    if sweep is None:
        return None
    folder = sweep.absolute().parent / STORE
    return StageCache(folder, max_bytes=0) if folder.is_dir() else None


def _decoders(config: Config) -> list[Stage]:
    """List the stages that train the final image decoders: one, or one per task."""
    stages = stages_of(config)
    if config.has_vae:
        generators = [stage for stage in stages if stage.kind == "train_generator"]
        return generators if config.generator == "per_task" else generators[-1:]
    if config.loss_weights[0] == 0:
        return []
    return [s for s in stages if s.is_classifier and has_image_decoder(config, s)][-1:]


def _replayed(config: Config, run: PackRun) -> Replayed | None:
    fills = fills_of(config)
    buffer = run.output(fills[-1].fingerprint) if fills else None
    if not isinstance(buffer, Buffer):
        return None
    images = buffer.images.double().numpy()
    tasks = _tasks_of(config, buffer, fills[-1].task)
    is_guessed = bool((tasks == 0).any()) and _is_permuted(config)
    if is_guessed:
        candidates = range(1, fills[-1].task + 1)
        roughness = [_roughness(_upright(config, task, images)) for task in candidates]
        tasks = 1 + np.stack(roughness).argmin(0)
    for task in np.unique(tasks):
        of_task = tasks == task
        images[of_task] = _upright(config, int(task), images[of_task])
    return Replayed(images, buffer.labels.double().numpy(), tasks, is_guessed)


def _tasks_of(config: Config, buffer: Buffer, n_tasks: int) -> _Whole:
    """Return the task of each sample (N,), 0 where it is unknown."""
    groups: _Whole = buffer.groups.numpy()
    if n_tasks == 1:
        return np.ones_like(groups)
    if config.of_replay.generates:
        return groups + 1 if config.generator == "per_task" else np.zeros_like(groups)
    if config.selection == "reservoir":
        return np.zeros_like(groups)
    return groups + 1 if config.selection == "random" else groups // config.n_classes + 1


def _upright(config: Config, task: int, images: _Array) -> _Array:
    """Restore the source's pixel order in a task's images (N, D)."""
    order = TASK_KINDS[config.tasks].pixel_order(config, task, images.shape[1])
    return images if order is None else images[:, np.argsort(order.numpy())]


def _is_permuted(config: Config) -> bool:
    last = TASK_KINDS[config.tasks].pixel_order(config, config.n_tasks, config.n_inputs)
    return last is not None


def _roughness(images: _Array) -> _Array:
    """Sum the absolute differences of neighbouring pixels of each image (N, D); return (N,)."""
    grid = images.reshape(len(images), *image_shape(images.shape[1]))
    axes = tuple(range(1, grid.ndim))
    return sum((np.abs(np.diff(grid, axis=axis)).sum(axes) for axis in (1, 2)), np.zeros(len(grid)))


def _reconstructed(config: Config, run: PackRun, source: Source, n: int) -> Iterator[Reconstructed]:
    stages = _decoders(config)
    for stage in stages:
        state = run.output(stage.fingerprint)
        if not isinstance(state, LaneState):
            continue
        # Either each task has its own decoder, or one decoder has learned all tasks so far.
        for task in [stage.task] if len(stages) > 1 else range(1, stage.task + 1):
            test = run.context.tasks[task - 1].test
            chosen = in_turn(test.labels.numpy(), n)
            pixels = scaled(test.images[torch.from_numpy(chosen)], run.context.dtype)
            made = _decoded(config, run, state, pixels, stage)
            yield Reconstructed(
                task,
                stage.task,
                _upright(config, task, pixels.double().numpy()),
                _upright(config, task, made.double().numpy()),
                test.labels.numpy()[chosen],
            )


def _decoded(
    config: Config, run: PackRun, state: LaneState, pixels: torch.Tensor, stage: Stage
) -> torch.Tensor:
    """Encode images (N, D) and decode the mean of z."""
    views = stack_views([state])
    network = network_of(config, stage)
    inputs = run.context.inputs(pixels) if stage.is_classifier else pixels
    latent = encode(views, inputs, network)
    return generate_images(views, latent.mu, network)[0]


def _known(value: Any) -> Any:
    """Return a table's value, with None for null."""
    is_null = value is None or value != value or str(value) == "<NA>"  # noqa: PLR0124 (NaN)
    return None if is_null else value
