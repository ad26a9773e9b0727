"""The training step against its definition under autograd, and the tally against plain Python."""

import gc
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import small_configs
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.data.task_sequences import make_tasks
from raysweep.learning.replay.filling import fill_buffers
from raysweep.learning.replay.retrieval import GeneratedInterference, Interference
from raysweep.learning.stacked.gradients import reconstruction
from raysweep.learning.stacked.layers import Linear, Workspace
from raysweep.learning.stage_graph import stages_of
from raysweep.learning.streams import generator, normal
from raysweep.learning.training.batches import Batches
from raysweep.learning.training.context import Context, Lane
from raysweep.learning.training.forward import Z_NOISE, decode, dropout_masks, encode
from raysweep.learning.training.loop import TrainGroup
from raysweep.learning.training.loss_monitor import LossMonitor
from raysweep.learning.training.objectives import define_losses
from raysweep.learning.training.step import Step

F32, F64 = torch.float32, torch.float64
NONLINEARITIES = ("relu", "leaky_relu", "elu", "tanh", "sigmoid")


def configure(**settings: Any) -> Config:
    """Make a configuration with small widths; the last batch of an epoch is not full."""
    odd: dict[str, Any] = {
        "encoder_widths": (12, 9),
        "rec_decoder_widths": (11, 8),
        "epochs": 10,
        "batch_size": 13,
        "drop_last": False,
        "n_replay": 31,
        "beta_2": 0.3,
    }
    return small_configs.configure(**(odd | settings))


def mixed(**settings: Any) -> list[Config]:
    """Make lanes with and without reconstruction, frozen encoder and weight decay, in turns.

    With ``dropout`` among the settings each lane has a rate of its own, two of them 0.
    """
    lanes: list[dict[str, Any]] = [
        {"beta_1": 0.5, "weight_decay": 0.02},
        {},
        {"beta_1": 0.0, "freeze_encoder": True, "beta_2": 0.0},
        {"beta_1": -0.5, "replay_weight": 0.2, "weight_decay": 0.1, "freeze_encoder": True},
        {"lr": 1e-3, "replay_weight": 0.0, "beta_1": -1.5},
    ]
    if "dropout" in settings:
        rates = (0.0, settings["dropout"], 0.25, 0.0, 0.7)
        lanes = [lane | {"dropout": rate} for lane, rate in zip(lanes, rates, strict=True)]
    return [configure(**(settings | lane)) for lane in lanes]


# --- groups in front of their first step --------------------------------------------------------


def scatter(group: TrainGroup) -> None:
    """Move each lane's parameters by numbers of its own, the same in any company."""
    for k, lane in enumerate(group.lanes):
        stream = generator(0, "scatter", lane.config.id, group.stage.name)
        for value in group.parameters.values.values():
            value[k] += 0.3 * normal(value[k].shape, stream, value.dtype) / value.shape[1] ** 0.5


Outputs = dict[tuple[str, str], Any]
"""What stages left, by the configuration's id and the stage's fingerprint."""


def open_group(
    configs: Sequence[Config], source: Source, name: str, dtype: torch.dtype = F64
) -> TrainGroup:
    """Make the group that trains the stage ``name``, on parents that have not learnt anything."""
    config = configs[0]
    device = torch.device("cpu")
    tasks = make_tasks(config, source, device)
    context = Context(config, tasks, source.mean, source.sd, device, dtype)
    outputs: Outputs = {}
    for stage in stages_of(config):
        if stage.kind == "fill_buffer":
            lanes = [lane_of(c, stage.name, outputs) for c in configs]
            for lane, buffer in zip(lanes, fill_buffers(context, lanes), strict=True):
                outputs[lane.config.id, lane.stage.fingerprint] = buffer
            continue
        group = make_group(context, configs, stage.name, outputs)
        if stage.name == name:
            return group
        for lane, state in zip(group.lanes, group.lane_states(), strict=True):
            outputs[lane.config.id, lane.stage.fingerprint] = state
    raise AssertionError(f"there is no stage {name}")


def lane_of(config: Config, name: str, outputs: Outputs) -> Lane:
    """Make a configuration's lane of a stage, with what its parents left."""
    stage = stage_of(config, name)
    single = {role: outputs[config.id, f] for role, f in stage.parents if not role[-1].isdigit()}
    return Lane(
        stage,
        config,
        **single,
        generators=tuple(outputs[config.id, f] for f in stage.numbered_parents("generator")),
        labelers=tuple(outputs[config.id, f] for f in stage.numbered_parents("model")),
    )


def stage_of(config: Config, name: str) -> Any:
    """Return a configuration's stage of a name."""
    return next(stage for stage in stages_of(config) if stage.name == name)


def make_group(
    context: Context, configs: Sequence[Config], name: str, outputs: Outputs
) -> TrainGroup:
    """Make a group of one stage and give its lanes parameters that differ."""
    group = TrainGroup(context, [lane_of(c, name, outputs) for c in configs])
    scatter(group)
    return group


STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "vib 1": ("train_task_1", {"model": "vib"}),
    "comparison 1": ("train_task_1", {"model": "comparison"}),
    "vae": ("train_generator_1", {"model": "comparison"}),
    "vib 2, no replay": ("train_task_2", {"model": "vib", "replay": "none"}),
    "vib 2, simple": ("train_task_2", {"model": "vib", "replay": "simple"}),
    "vib 2, generative": ("train_task_2", {"model": "vib"}),
    "comparison 2, no replay": ("train_task_2", {"model": "comparison", "replay": "none"}),
    "comparison 2, generative": ("train_task_2", {"model": "comparison"}),
}
WITH_DROPOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "vib 1, dropout": ("train_task_1", {"dropout": 0.5, "label_smoothing": 0.1}),
}
SHAPES: dict[str, dict[str, Any]] = {
    "odd": {},
    "one sample": {"batch_size": 1, "n_bottleneck": 1},
    "no hidden layers, normalised": {
        "encoder_widths": (),
        "rec_decoder_widths": (),
        "normalize": True,
        "batch_size": 7,
    },
    "class decoder, full batches": {
        "class_decoder_widths": (6, 4),
        "batch_size": 20,
        "n_replay": 40,
        "normalize": True,
    },
    "two classes, small buffer": {
        "tasks": "split_mnist",
        "n_replay": 5,
        "batch_size": 8,
        "class_decoder_widths": (3,),
    },
}


# --- one step -----------------------------------------------------------------------------------


def without_update(step: Step) -> None:
    """Load the next batch; compute losses and gradients."""
    step.batches.prepare()
    step._monitor.begin_step(step.batches.batch.n_new)
    step.batches.load()
    step._pass.compute()


def update(step: Step) -> None:
    """End the step that ``without_update`` began."""
    step._monitor.note()
    step._optimizer.step(step._monitor.is_alive, *step._frozen)


def assert_near(actual: Tensor, expected: Tensor, name: str) -> None:
    """Assert equality up to 1e-12 of each lane's largest number (found: 7e-14)."""
    error, scale = (
        (x.abs().flatten(1).amax(1) if x.dim() > 1 else x.abs())
        for x in (actual - expected, expected)
    )
    assert (error <= 1e-12 * scale).all(), (name, error, scale)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Assert equality up to the rounding of float64 over some steps."""
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13, equal_nan=True)


def computed(group: TrainGroup, name: str) -> int:
    """Count the lanes, from the first, whose gradient of a parameter the step computes."""
    if name.startswith("rec_decoder"):
        return group.weights.n_rec
    if name.startswith("encoder") and not group.stage.is_first:
        return max(
            (k for k, x in enumerate(group.lanes, 1) if not x.config.freeze_encoder), default=0
        )
    return len(group.lanes)


def check_against_definition(group: TrainGroup, step: Step) -> None:
    """Hold losses and gradients of the step's batch against the definition under autograd."""
    parameters, batch, monitor = group.parameters, step.batches.batch, group._monitor
    grads = parameters.grad.clone()
    expected = define_losses(group.network, group.weights, parameters.views, batch)
    assert_near(monitor.mean, expected.mean.detach(), "mean")
    for name, value in expected.parts.items():
        n = group.weights.n_rec if name in ("rec", "replay_rec") else len(value)
        assert_near(monitor.values[name][:n], value.detach()[:n], name)
        assert (monitor.values[name][n:] == 0).all()
    if group.is_classifier:
        assert torch.equal(monitor.values["n_correct"], n_correct(group, step))
    assert set(monitor.values) == set(expected.parts) | ({"n_correct"} & set(monitor.values))
    parameters.differentiate(expected.objective)
    views = parameters.layout.views(grads)
    for name, wanted in parameters.grads.items():
        n = computed(group, name)
        assert_near(views[name][:n], wanted[:n], name)
        assert (views[name][n:] == 0).all(), name
    parameters.grad.copy_(grads)


def n_correct(group: TrainGroup, step: Step) -> Tensor:
    """Count the right classes among the new samples by the definition's functions."""
    network, views, batch = group.network, group.parameters.views, step.batches.batch
    n = batch.n_new
    noises = {name: noise[:n] for name, noise in batch.noises.items()}
    latent = encode(views, batch.inputs[:, :n], network, noises, group.weights.lanes)
    assert network.class_decoder is not None and batch.labels is not None
    z = latent.sample(noises[Z_NOISE])
    logits = decode(views, z, network.nonlinearity, network.class_decoder)
    return (logits.argmax(-1) == batch.labels).sum(-1).to(F64)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("stage", "settings"), STAGES.values(), ids=STAGES)
def test_step_has_the_losses_and_gradients_of_the_definition(
    stage: str, settings: dict[str, Any], shape: dict[str, Any], tiny: Source
) -> None:
    kind = NONLINEARITIES[(len(stage) + len(settings) + len(shape)) % 5]
    group = open_group(mixed(**settings, **shape, nonlinearity=kind), tiny, stage)
    steps = group.begin_epoch()
    sizes = [(step.batches.batch.n_new, step.batches.batch.n_replay) for step in steps]
    # The first steps and the first of each further size; those between are only taken.
    watched = {0, 1, len(steps) - 1, *(sizes.index(size) for size in sizes)}
    for i, step in enumerate(steps):
        without_update(step)
        if i in watched:
            check_against_definition(group, step)
        update(step)
    assert group._monitor.is_alive.all()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("stage", ["vib 1", "vib 2, generative", "comparison 2, no replay", "vae"])
def test_step_has_the_gradients_of_the_definition_for_each_nonlinearity(
    stage: str, nonlinearity: str, tiny: Source
) -> None:
    name, settings = STAGES[stage]
    configs = mixed(**settings, nonlinearity=nonlinearity, class_decoder_widths=(6,), batch_size=7)
    group = open_group(configs, tiny, name)
    for step in group.begin_epoch()[:3]:
        without_update(step)
        check_against_definition(group, step)
        update(step)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("stage", [name for name in STAGES if name != "vae"])
def test_step_with_dropout_and_smoothed_labels_has_the_gradients_of_the_definition(
    stage: str, shape: dict[str, Any], tiny: Source
) -> None:
    name, settings = STAGES[stage]
    kind = NONLINEARITIES[(len(stage) + len(shape)) % 5]
    configs = mixed(**settings, **shape, nonlinearity=kind, dropout=0.5, label_smoothing=0.2)
    group = open_group(configs, tiny, name)
    steps = group.begin_epoch()
    for step in [*steps[:2], steps[-1]]:
        without_update(step)
        check_against_definition(group, step)
        update(step)
    assert group._monitor.is_alive.all()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_masks_have_the_values_of_torchs_dropout_and_its_share_of_zeros(rate: float) -> None:
    widths, n = [300, 0, 200], 400
    uniform = torch.rand(n, sum(widths), generator=generator(0, "uniform"), dtype=F64)
    masks = dropout_masks(
        {"dropout": uniform}, {"dropout": torch.tensor([rate, 0.3], dtype=F64)}, widths
    )
    assert masks is not None and [mask.shape for mask in masks] == [(2, n, w) for w in widths]
    torchs = torch.nn.Dropout(rate)(torch.ones(n, 500, dtype=F64))
    whole = torch.cat(masks, -1)
    assert torch.equal(whole[0].unique(), torchs.unique())
    # 200,000 units: the share is within four standard deviations.
    share = float((whole[0] == 0).double().mean())
    assert abs(share - rate) <= 4 * math.sqrt(rate * (1 - rate) / whole[0].numel())
    # Which units go is the same for all lanes: the higher rate leaves out those of the lower, too.
    less, more = (whole == 0) if rate <= 0.3 else (whole == 0).flip(0)
    assert not (less & ~more).any()


@pytest.mark.parametrize("is_capturable", [False, True], ids=["plain", "capturable"])
def test_dropout_takes_its_noise_from_streams_of_its_own(
    is_capturable: bool, tiny: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it, without = (
        open_group(mixed(replay="simple", **more), tiny, "train_task_2")
        for more in ({"dropout": 0.5}, {})
    )
    for group in (with_it, without):
        if is_capturable:
            be_capturable(group, monkeypatch)
        group.n_epochs_done = 1
    names = ("dropout", "replay_dropout")
    new, old = (generator(with_it.lanes[0].config.seed, n, "train_task_2", 2) for n in names)
    for step, other in zip(with_it.begin_epoch(), without.begin_epoch(), strict=True):
        for batches in (step.batches, other.batches):
            batches.prepare()
            batches.load()
        fields, others = fields_of(step), fields_of(other)
        batch, drawn = step.batches.batch, fields.pop("dropout")
        parts = ((batch.n_new, new), (batch.n_replay, old))
        wanted = [torch.rand(n, 12 + 9, generator=stream, dtype=F64) for n, stream in parts]
        assert drawn is not None and torch.equal(drawn, torch.cat(wanted))
        # No other random number depends on whether there is dropout.
        assert fields.keys() == others.keys()
        for name, value in fields.items():
            twin = others[name]
            assert value is None or twin is None or torch.equal(value, twin), name


def test_a_test_is_without_dropout(tiny: Source) -> None:
    configs = mixed(dropout=0.5)
    plain = [configure(**(c.model_dump() | {"dropout": 0.0})) for c in configs]
    group, other = (open_group(lanes, tiny, "train_task_1") for lanes in (configs, plain))
    other.parameters.flat.detach().copy_(group.parameters.flat)
    assert torch.equal(group.accuracy_on(1), other.accuracy_on(1))
    views, x = group.parameters.views, group.context.tasks[0].test.images.to(F64) / 255
    of_a_test, of_a_step = (
        encode(views, x, group.network, noises, group.weights.lanes)
        for noises in ({}, {"dropout": torch.zeros(len(x), 12 + 9, dtype=F64)})
    )
    assert torch.equal(of_a_test.mu, encode(views, x, group.network).mu)
    has_dropout = torch.tensor([lane.config.dropout > 0 for lane in group.lanes])
    is_same = (of_a_test.mu == of_a_step.mu).all(-1).all(-1)
    assert torch.equal(is_same, ~has_dropout)


RETRIEVALS: dict[str, dict[str, Any]] = {
    "mlp, mir": {"experiment": "replay", "retrieval": "mir", "n_candidates": 25},
    "vib, mir": {"retrieval": "mir", "n_candidates": 25, "replay": "simple"},
    "vib, generative_mir": {"retrieval": "generative_mir"},
}


@pytest.mark.parametrize("settings", RETRIEVALS.values(), ids=RETRIEVALS)
def test_retrieval_and_its_virtual_step_are_without_dropout(
    settings: dict[str, Any], tiny: Source
) -> None:
    group = open_group(mixed(**settings, dropout=0.5), tiny, "train_task_2")
    plain = TrainGroup(
        group.context,
        [
            replace(lane, config=configure(**(lane.config.model_dump() | {"dropout": 0.0})))
            for lane in group.lanes
        ],
    )
    plain.parameters.flat.detach().copy_(group.parameters.flat)
    wanted: list[Tensor] = []
    for of, left_out in ((plain, None), (group, None), (group, 0.0), (group, 1.0)):
        step = of.begin_epoch()[0]
        step.batches.prepare()
        step.batches.load()
        batch, retrieve = step.batches.batch, step._retrieve
        if left_out is not None:  # no unit is kept, or all are
            batch.noises["dropout"] = torch.full_like(batch.noises["dropout"], left_out)
        assert ("dropout" in batch.noises) == (of is group)
        assert isinstance(retrieve, Interference | GeneratedInterference)
        with torch.no_grad():
            retrieve()
        assert batch.targets is not None
        moved = retrieve._step.take().values()
        found = [batch.inputs.clone(), batch.targets.clone(), *(view.clone() for view in moved)]
        wanted = wanted or found
        for value, expected in zip(found, wanted, strict=True):
            assert torch.equal(value, expected)
    assert len(wanted) > 2


@pytest.mark.parametrize("stage", ["train_task_1", "train_task_2"])
def test_group_without_reconstruction_or_with_all_encoders_frozen_follows_the_definition(
    stage: str, tiny: Source
) -> None:
    configs = [configure(beta_1=b, freeze_encoder=True) for b in (0.0, 0.4)]
    group = open_group(configs, tiny, stage)
    for step in group.begin_epoch():
        without_update(step)
        check_against_definition(group, step)
        update(step)


def test_dead_lane_leaves_the_others_on_the_definition(tiny: Source) -> None:
    for stage in ("train_task_1", "train_task_2"):
        group = open_group(mixed(), tiny, stage)
        group.parameters.values["encoder.0.weight"][1, 0, 0] = math.nan
        with torch.no_grad():
            group.parameters.flat[1, ::7] = math.nan
        others = torch.tensor([0, 2, 3, 4])
        for step in group.begin_epoch():
            without_update(step)
            views, batch = group.parameters.views, step.batches.batch
            losses = define_losses(group.network, group.weights, views, batch)
            grads = group.parameters.grad.clone()
            assert_near(group._monitor.mean[others], losses.mean.detach()[others], "mean")
            group.parameters.differentiate(losses.objective)
            for name, wanted in group.parameters.grads.items():
                kept = others[others < computed(group, name)]
                actual = group.parameters.layout.views(grads)[name]
                assert_near(actual[kept], wanted[kept], name)
            group.parameters.grad.copy_(grads)
            update(step)
        assert group._monitor.is_alive.tolist() == [True, False, True, True, True]


# --- what a CUDA graph captures, on a CPU -------------------------------------------------------


class Recorded:
    """Call a function thrice as it is, then record its kernels and repeat those alone.

    As a CUDA graph does: the same kernels on the same memory, and nothing of Python between.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.n_calls = 0
        self._kernels: list[tuple[Any, ...]] = []

    def __call__(self) -> None:
        self.n_calls += 1
        if self.n_calls <= 3:
            self._function()
        elif self.n_calls == 4:
            with guarded(self._kernels):
                self._function()
        else:
            for function, args, kwargs, results in self._kernels:
                again = tree_leaves(function(*args, **kwargs))
                for old, new in zip(results, again, strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class _Recorder(TorchDispatchMode):
    """Keep each kernel with its tensors; fail on what a capture would not allow."""

    def __init__(self, kernels: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self._kernels = kernels

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = str(func.overloadpacket)
        if name in READING:
            raise AssertionError(f"{name} needs the host")
        if name == "aten._to_copy":
            assert not (kwargs or {}).keys() & {"device", "pin_memory"}, "a copy to a device"
        if name in ("aten.index", "aten.index_put", "aten.index_put_"):
            indices = [i for i in args[1] if i is not None]
            assert all(i.dtype != torch.bool for i in indices), f"{name} with a mask"
        results = func(*args, **(kwargs or {}))
        self._kernels.append((func, args, kwargs or {}, tree_leaves(results)))
        return results


READING = {
    f"aten.{name}"
    for name in (
        *("_local_scalar_dense", "item", "equal", "is_nonzero", "allclose"),
        *("nonzero", "argwhere", "masked_select", "repeat_interleave", "bincount"),
        *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
        *("lift_fresh", "lift_fresh_copy"),
    )
}
"""What reads a tensor back, has a shape that depends on one, or copies from the host's memory."""


@contextmanager
def guarded(kernels: list[tuple[Any, ...]]) -> Iterator[None]:
    """Record kernels; fail on what brings a tensor to Python, by a kernel or without one."""

    def fail(self: Tensor, *_: Any) -> Any:
        raise AssertionError("a tensor was read")

    names = ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
    with pytest.MonkeyPatch.context() as patch, _Recorder(kernels):
        for name in names:
            patch.setattr(Tensor, name, fail)
        yield


def be_capturable(group: TrainGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a group's steps be as on a GPU: feeds that stay in place, and ``step_all``."""
    make_step = group.make_step

    def make(n_new: int, n_replay: int, n_steps: int) -> Step:
        with monkeypatch.context() as patch:
            patch.setattr("raysweep.learning.training.loop.Batches", capturable_feed)
            step = make_step(n_new, n_replay, n_steps)
        assert step.batches.is_capturable
        return step

    monkeypatch.setattr(group, "make_step", make)
    monkeypatch.setattr(group.optimizer, "step", group.optimizer.step_all)


def capturable_feed(*args: Any, **options: Any) -> Batches:
    """Make a feed as on a GPU."""
    return Batches(*args, is_capturable=True, **options)


def fields_of(step: Step) -> dict[str, Tensor | None]:
    """Give the tensors of a step's batch by name, its noises among them."""
    batch = step.batches.batch
    names = ("inputs", "images", "labels", "targets", "replay_images")
    return {name: getattr(batch, name) for name in names} | batch.noises


CAPTURED = {
    "vib 1": ("train_task_1", {"batch_size": 7}),
    "vae, normalised": ("train_generator_1", {"model": "comparison", "normalize": True}),
    "vib 2, generative, normalised": ("train_task_2", {"batch_size": 3, "normalize": True}),
    "comparison 2, simple, two classes": (
        "train_task_2",
        {
            "model": "comparison",
            "replay": "simple",
            "tasks": "split_mnist",
            "batch_size": 3,
            "n_replay": 7,
        },
    ),
    "vib 2, continual, normalised": (
        "train_task_2",
        {"generator": "continual", "batch_size": 3, "normalize": True, "variance": "softplus"},
    ),
    "mlp 2": ("train_task_2", {"experiment": "replay", "model": "mlp", "batch_size": 3}),
    "mlp 2, dropout and smoothed labels": (
        "train_task_2",
        {"experiment": "replay", "batch_size": 3, "dropout": 0.5, "label_smoothing": 0.1},
    ),
    "vib 1, dropout": ("train_task_1", {"dropout": 0.3, "batch_size": 7, "normalize": True}),
}
RETRIEVED = {
    "mlp 2, mir": (
        "train_task_2",
        {
            "experiment": "replay",
            "model": "mlp",
            "batch_size": 3,
            "retrieval": "mir",
            "n_candidates": 9,
            "ema_decay": 0.5,
        },
    ),
    "mlp 2, mir, dropout and smoothed labels": (
        "train_task_2",
        {"experiment": "replay", "batch_size": 3, "retrieval": "mir", "n_candidates": 9}
        | {"dropout": 0.5, "label_smoothing": 0.1},
    ),
    "vib 2, mir": (
        "train_task_2",
        {"generator": "continual", "batch_size": 3, "retrieval": "mir", "n_candidates": 8},
    ),
}
"""Stages that put the replayed samples into the batch after it was loaded."""


@pytest.mark.parametrize(("stage", "settings"), CAPTURED.values(), ids=CAPTURED)
def test_capturable_feed_gives_the_batches_of_the_ordinary_one(
    stage: str, settings: dict[str, Any], tiny: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = mixed(**(settings | {"batch_size": 3 if "2" in stage else 1}))
    plain, other = (open_group(configs, tiny, stage) for _ in range(2))
    be_capturable(other, monkeypatch)
    addresses: dict[int, list[int]] = {}
    for epoch in range(2):
        plain.n_epochs_done = other.n_epochs_done = epoch
        pairs = list(zip(plain.begin_epoch(), other.begin_epoch(), strict=True))
        # More steps than a block on a GPU has, and a last one that is not full.
        assert len(pairs) > 64 or "2" in stage
        for ours, theirs in pairs:
            for batches in (ours.batches, theirs.batches):
                batches.prepare()
                batches.load()
            fields, twins = fields_of(ours), fields_of(theirs)
            assert fields.keys() == twins.keys()
            for name, value in fields.items():
                twin = twins[name]
                assert (value is None) == (twin is None), name
                assert value is None or twin is None or torch.equal(value, twin), name
            places = [t.data_ptr() for t in twins.values() if t is not None]
            assert addresses.setdefault(id(theirs), places) == places


@pytest.mark.parametrize("is_capturable", [False, True], ids=["plain", "capturable"])
def test_feed_gives_the_samples_and_noise_that_the_streams_draw(
    is_capturable: bool, tiny: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = mixed(normalize=True, n_replay=31, batch_size=13)
    group = open_group(configs, tiny, "train_task_2")
    if is_capturable:
        be_capturable(group, monkeypatch)
    config, samples = configs[0], group.context.tasks[1].train
    buffers = [lane.buffer for lane in group.lanes]
    group.n_epochs_done = 1
    purposes = ("batch_order", "replay_order", "noise", "replay_noise")
    streams = {name: generator(config.seed, name, "train_task_2", 2) for name in purposes}
    order = torch.randperm(100, generator=streams["batch_order"])
    replayed = list(torch.randperm(31, generator=streams["replay_order"]).split(13))
    for i, step in enumerate(group.begin_epoch()):
        step.batches.prepare()
        step.batches.load()
        batch, chosen = step.batches.batch, order[13 * i : 13 * i + 13]
        if not replayed:
            replayed = list(torch.randperm(31, generator=streams["replay_order"]).split(13))
        again, n = replayed.pop(0), len(chosen)
        images = samples.images[chosen].to(F64) / 255
        noise = torch.cat(
            [
                normal((len(x), 5), streams[name], F64)
                for name, x in (("noise", chosen), ("replay_noise", again))
            ]
        )
        assert (batch.n_new, batch.n_replay) == (n, len(again))
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.noises[Z_NOISE], noise)
        assert batch.labels is not None and batch.targets is not None
        assert torch.equal(batch.labels, samples.labels[chosen])
        for k, buffer in enumerate(buffers):
            assert buffer is not None
            old = (buffer.images[again] - tiny.mean) / tiny.sd
            assert_close(batch.inputs[k], torch.cat([(images - tiny.mean) / tiny.sd, old]))
            hot = functional.one_hot(samples.labels[chosen], 10).to(F64)
            assert torch.equal(batch.targets[k], torch.cat([hot, buffer.labels[again]]))
    assert i == 7 and n == 9


def test_guard_against_reading_catches_what_it_is_for() -> None:
    x = torch.ones(3)
    readings: list[Callable[[], Any]] = [
        lambda: [x.tolist()],
        lambda: bool(x[0] > 0),
        lambda: x[x > 0],
        lambda: torch.tensor([1.0, 2.0]),
        lambda: [x.nonzero()],
        lambda: torch.equal(x, x),
        lambda: float(x[0]),
        lambda: x.sum().item(),
    ]
    for read in readings:
        with pytest.raises(AssertionError), guarded([]):
            read()


def set_rates(group: TrainGroup, rates: list[float]) -> None:
    """Put other learning rates into both forms of the update, in this epoch and those to come."""
    group._lr = lambda: rates  # type: ignore[method-assign]
    group.optimizer.set_lr(rates)


UPDATES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"clip_norm": 2.0},
    "adagrad": {},
    "rmsprop": {"momentum": 0.5},
    "sgd": {},
    "sgd, momentum": {"momentum": 0.9, "clip_norm": 50.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize(
    ("stage", "settings"), (CAPTURED | RETRIEVED).values(), ids=CAPTURED | RETRIEVED
)
def test_steps_repeated_from_a_record_of_kernels_train_as_the_ordinary_ones(
    stage: str,
    settings: dict[str, Any],
    kind: str,
    tiny: Source,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = kind.split(",", maxsplit=1)[0]
    settings = settings | UPDATES[kind] | {"optimizer": optimizer}
    configs = mixed(**settings)
    dying = configure(**settings, weight_decay=0.3)
    plain, other = (open_group([*configs, dying], tiny, stage) for _ in range(2))
    for group in (plain, other):
        (k,) = [k for k, lane in enumerate(group.lanes) if lane.config is dying]
        if optimizer in ("sgd", "rmsprop"):  # on summed losses they need smaller steps
            set_rates(group, [lr / 100 for lr in group.optimizer.lr])
        rates = list(group.optimizer.lr)
        rates[k] = 1e30
        set_rates(group, rates)
    be_capturable(other, monkeypatch)
    recorded: dict[Step, Recorded] = {}
    for epoch in range(3):
        for group in (plain, other):
            group.n_epochs_done = epoch
            steps = group.begin_epoch()
            for step in steps:
                step.batches.prepare()
                step._monitor.begin_step(step.batches.batch.n_new)
                if group is other and step not in recorded:
                    recorded[step] = Recorded(step.run)
                (recorded[step] if group is other else step.run)()
            group._monitor.close(group.parameters.are_finite())
            group.n_steps_done += len(steps)
            group._last_finite = group._monitor.last_finite
        assert plain._monitor.is_alive.sum() == 5
        assert torch.equal(other._monitor.is_alive, plain._monitor.is_alive)
        assert other._monitor._died_at.tolist() == plain._monitor._died_at.tolist()
        alive = plain._monitor.is_alive
        assert_close(other.parameters.flat[alive], plain.parameters.flat[alive])
        assert_close(other._monitor._sums[:, alive], plain._monitor._sums[:, alive])
        assert_close(other._monitor._last_finite, plain._monitor._last_finite)
    assert sum(run.n_calls - 4 for run in recorded.values()) > 5


@pytest.mark.parametrize(
    ("stage", "settings"), (CAPTURED | RETRIEVED).values(), ids=CAPTURED | RETRIEVED
)
def test_captured_part_of_a_step_reads_nothing_and_stays_in_place(
    stage: str, settings: dict[str, Any], tiny: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = open_group(mixed(**settings), tiny, stage)
    be_capturable(group, monkeypatch)
    places: dict[int, dict[str, int]] = {}
    for step in group.begin_epoch():
        step.batches.prepare()
        step._monitor.begin_step(step.batches.batch.n_new)
        with guarded([]):
            step.run()
        now = tensor_places(step)
        assert places.setdefault(id(step), now) == now


def tensor_places(step: Step) -> dict[str, int]:
    """Return the address of each tensor that a step keeps, but for what is only used in between.

    Foldings happen outside of a graph and may put new tensors in place of the old ones.
    """
    owners: dict[str, object] = {
        "batch": step.batches.batch,
        "feed": step.batches,
        "tally": step._monitor,
        "optimizer": step._optimizer,
        "parameters": step._optimizer.parameters,
        "pass": step._pass,
        "weights": step._pass._weights,
    }
    places = {
        f"{owner}.{name}": value.data_ptr()
        for owner, thing in owners.items()
        for name, value in vars(thing).items()
        if isinstance(value, Tensor)
        and name not in ("_died_at", "_last_finite")
        # What belongs to an epoch is read by ``prepare`` alone.
        and name not in ("_order", "_replay_order")
    }
    places |= {f"column {n}": t.data_ptr() for n, t in step._optimizer._columns.items()}
    places |= {f"noise {n}": t.data_ptr() for n, t in step.batches.batch.noises.items()}
    places |= {f"tally.{n}": t.data_ptr() for n, t in step._monitor.values.items()}
    places |= {f"moment {n}": t.data_ptr() for n, t in step._optimizer.moments.items()}
    buffers = step._pass._workspace._buffers
    return places | {f"buffer {key}": t.data_ptr() for key, t in buffers.items()}


@pytest.mark.slow
def test_steps_that_are_no_longer_used_free_their_buffers_at_once(tiny: Source) -> None:
    group = open_group([configure()], tiny, "train_task_1")
    gc.collect()
    gc.disable()
    try:
        steps = group.begin_epoch()
        steps[0]()
        buffers = [weakref.ref(t) for t in steps[0]._pass._workspace._buffers.values()]
        assert buffers
        group._steps = {}
        del steps
        assert all(buffer() is None for buffer in buffers)
    finally:
        gc.enable()


# --- the tally ----------------------------------------------------------------------------------


class Account:
    """One lane's epochs in plain Python."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.died_at: int | None = None
        self.last_finite = math.nan
        self.n_steps = 0
        self.sums = [0.0, 0.0]

    def begin(self) -> None:
        """Start an epoch."""
        self.sums = [0.0, 0.0]

    def note(self, mean: float, part: float, n_new: int) -> None:
        """Add a step."""
        self.n_steps += 1
        self.sums = [self.sums[0] + mean * n_new, self.sums[1] + part]
        if self.died_at is not None:
            return
        if math.isfinite(mean):
            self.last_finite = mean
        if not mean <= self.threshold:
            self.died_at = self.n_steps

    def check(self, monitor: LossMonitor, k: int) -> None:
        """Hold a lane of the tally against this account."""
        assert monitor.is_alive[k].item() == (self.died_at is None)
        divergence = monitor.divergences("stage", 1)[k]
        assert (divergence.step if divergence else None) == self.died_at
        assert monitor.last_finite[k] == pytest.approx(self.last_finite, rel=1e-14, nan_ok=True)
        if self.died_at is None:
            assert monitor._sums[:, k].tolist() == pytest.approx(self.sums, rel=1e-12)


def check_tally(
    lanes: Sequence[Sequence[float]], ends: Sequence[int], dtype: torch.dtype = F64
) -> LossMonitor:
    """Feed lanes' per-step losses into a tally, an epoch up to each of ``ends``."""
    thresholds = [100.0 + k for k in range(len(lanes))]
    monitor = LossMonitor(["part"], torch.tensor(thresholds, dtype=dtype))
    accounts = [Account(threshold) for threshold in thresholds]
    start = 0
    for end in ends:
        monitor.begin([account.last_finite for account in accounts], start)
        for account in accounts:
            account.begin()
        for i in range(start, end):
            n_new = 1 + i % 7
            monitor.begin_step(n_new)
            for k, (account, losses) in enumerate(zip(accounts, lanes, strict=True)):
                monitor.mean[k], monitor.values["part"][k] = losses[i], i / (k + 1)
                account.note(monitor.mean[k].item(), monitor.values["part"][k].item(), n_new)
            monitor.note()
            alive = [account.died_at is None for account in accounts]
            assert monitor.is_alive.tolist() == alive
        monitor.close(torch.ones(len(lanes), dtype=torch.bool))
        for k, account in enumerate(accounts):
            account.check(monitor, k)
        start = end
    return monitor


def losses_with(n_steps: int, events: dict[int, float]) -> list[float]:
    """Return losses that fall from 50, with others at given steps (from 1)."""
    losses = [50 / (1 + i / 10) for i in range(n_steps)]
    for step, value in events.items():
        losses[step - 1] = value
    return losses


BAD = (math.nan, math.inf, 1e5)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("n_steps", [1, 2, 255, 256, 257, 511, 512, 513])
def test_tally_is_a_plain_account_wherever_a_lane_dies(n_steps: int, dtype: torch.dtype) -> None:
    places = sorted({s for s in (1, 2, 128, 255, 256, 257, 512, n_steps) if s <= n_steps})
    lanes = [losses_with(n_steps, {})]
    lanes += [losses_with(n_steps, {s: bad}) for s in places for bad in BAD]
    # What a dead lane's loss does later changes nothing.
    lanes += [losses_with(n_steps, {s: 1e5, places[-1]: math.nan}) for s in places[:-1]]
    lanes += [losses_with(n_steps, {s: math.nan, places[-1]: 1e5}) for s in places[:-1]]
    lanes += [[math.nan] * n_steps, [-math.inf] * n_steps]
    check_tally(lanes, [n_steps], dtype)


def test_last_finite_loss_is_carried_over_epochs_of_many_lengths() -> None:
    n = 600
    ends = [1, 3, 258, 515, 599, 600]
    at = [1, 2, 3, 4, 257, 258, 259, 514, 515, 516, 599, 600]
    lanes = [losses_with(n, {s: bad}) for s in at for bad in BAD]
    monitor = check_tally([losses_with(n, {}), *lanes, [math.nan] * n], ends)
    last = monitor.divergences("stage", 6)[-1]
    assert last is not None and (last.step, last.last_finite_loss) == (1, None)


@pytest.mark.parametrize("seed", range(4))
def test_tally_is_a_plain_account_of_random_losses(seed: int) -> None:
    stream = generator(seed, "tally")
    n = 530
    draws = torch.rand(9, n, generator=stream, dtype=F64)
    values = 110 * torch.rand(9, n, generator=stream, dtype=F64).pow(0.02 + 30 * draws[:, :1])
    values = torch.where(draws < 0.001, math.nan, torch.where(draws > 0.999, math.inf, values))
    lanes: list[list[float]] = values.tolist()
    check_tally(lanes, [100, 400, 530])


def test_lane_whose_last_update_spoilt_its_parameters_dies_at_the_last_step() -> None:
    monitor = LossMonitor(["part"], torch.tensor([100.0, 100.0, 100.0]))
    monitor.begin([math.nan] * 3, 10)
    for i in range(260):
        monitor.begin_step(2)
        monitor.mean.copy_(torch.tensor([1.0, 2.0, math.nan if i == 4 else 3.0]))
        monitor.note()
    monitor.close(torch.tensor([True, False, False]))
    first, second, third = monitor.divergences("s", 2)
    assert first is None
    assert second is not None and (second.step, second.last_finite_loss) == (270, 2.0)
    assert third is not None and (third.step, third.last_finite_loss) == (15, 3.0)


# --- the reconstruction loss --------------------------------------------------------------------


def reconstruct(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute loss and gradient."""
    return reconstruction(logits, target, Workspace(logits))


def expected_reconstruction(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute loss and gradient by torch, in float64."""
    x, y = logits.double(), target.double()
    losses = functional.binary_cross_entropy_with_logits(x, y.expand_as(x), reduction="none")
    return losses.sum((1, 2)), torch.sigmoid(x) - y


@pytest.mark.parametrize("size", [1e-3, 1.0, 15.0, 40.0, 800.0, 1e30])
@pytest.mark.parametrize("shape", [(1, 784), (3, 784), (7, 13), (1, 1), (5, 67)], ids=str)
def test_reconstruction_is_torchs_at_logits_of_any_size(
    shape: tuple[int, int], size: float
) -> None:
    stream = generator(0, "logits")
    n, n_pixels = shape
    target = torch.rand(n, n_pixels, generator=stream, dtype=F64)
    target[0, ::3], target[0, 1::3], target[-1, 2::5] = 0, 1, 0.5
    sign = torch.where(torch.rand(3, n, n_pixels, generator=stream) < 0.5, -1, 1).double()
    scattered = normal((3, n, n_pixels), stream, F64)
    for logits in (size * sign, size * scattered, size * scattered.abs()):
        losses, grads = reconstruct(logits, target)
        wanted, wanted_grads = expected_reconstruction(logits, target)
        torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(grads, wanted_grads, rtol=1e-12, atol=1e-15)


def test_reconstruction_of_saturated_logits_is_the_distance_to_the_target() -> None:
    x = torch.tensor([[[40.0, -40.0, 800.0, -800.0, 1e30, -1e30, 800.0]]], dtype=F64)
    target = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.5]], dtype=F64)
    losses, grads = reconstruct(x, target)
    assert losses.item() == pytest.approx(800 + 800 + 400, rel=1e-15)
    wanted = torch.tensor([0, 0, 1, -1, 0, 0, 0.5], dtype=F64)
    torch.testing.assert_close(grads[0, 0], wanted, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_reconstruction_is_not_finite_where_torchs_is_not(bad: float, target: float) -> None:
    logits = torch.zeros(3, 2, 67, dtype=F64)
    logits[1, 1, 3] = bad
    y = torch.full((2, 67), target, dtype=F64)
    losses, grads = reconstruct(logits, y)
    wanted, _ = expected_reconstruction(logits, y)
    assert not wanted[1].isfinite()
    assert losses.isfinite().tolist() == [True, False, True]
    assert grads[[0, 2]].isfinite().all()


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 8.0])
def test_reconstruction_in_float32_is_off_by_less_than_a_hundred_thousandth(spread: float) -> None:
    for n in (1, 13, 100):
        stream = generator(1, "pixels", n)
        target = torch.rand(n, 784, generator=stream)
        target = torch.where(target < 0.8, 0, (target - 0.8) * 5)
        # Like a trained decoder's: far below zero where pixels are black.
        logits = spread * normal((2, n, 784), stream) + torch.where(target > 0, 1, -spread)
        losses, grads = reconstruct(logits, target)
        wanted, wanted_grads = expected_reconstruction(logits, target)
        torch.testing.assert_close(losses.double(), wanted, rtol=1e-6, atol=0)
        torch.testing.assert_close(grads.double(), wanted_grads, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
def test_reconstruction_of_a_lane_is_that_of_the_lane_alone(n_threads: int) -> None:
    torch.set_num_threads(n_threads)  # conftest.py sets it back
    shapes = [(1, 784), (7, 784), (13, 784), (100, 784), (7, 13), (3, 67), (1, 1)]
    # No small factor, so a logarithm for each of 47,053 pixels; the loss is nearly all logarithms.
    cases = [(5, shape, 4.0) for shape in shapes] + [(20, (211, 223), 0.01)]
    for n_lanes, (n, n_pixels), spread in cases:
        stream = generator(2, "lanes", n, n_pixels)
        logits = spread * normal((n_lanes, n, n_pixels), stream)
        target = torch.rand(n, n_pixels, generator=stream)
        losses, grads = reconstruct(logits, target)
        for k in range(n_lanes):
            loss, grad = reconstruct(logits[k : k + 1].clone(), target)
            assert torch.equal(loss[0], losses[k]), (n, n_pixels)
            assert torch.equal(grad[0], grads[k]), (n, n_pixels)


# --- company ------------------------------------------------------------------------------------


def traces(group: TrainGroup, n_steps: int) -> dict[str, list[Tensor]]:
    """Take steps; give each lane's losses, gradients and parameters after each, by its id."""
    rows: dict[str, list[Tensor]] = {lane.config.id: [] for lane in group.lanes}
    steps = group.begin_epoch()
    assert len(steps) > n_steps
    rec_names = [name for name in group._monitor.names if name in ("rec", "replay_rec")]
    names = [name for name in group._monitor.names if name not in rec_names]
    for step in [*steps[:n_steps], steps[-1]]:  # the last batch is not full
        step()
        for k, lane in enumerate(group.lanes):
            monitor = group._monitor
            row = [monitor.mean[k : k + 1], group.parameters.flat[k], group.parameters.grad[k]]
            row += [monitor.values[name][k : k + 1] for name in names]
            if k < group.weights.n_rec:
                row += [monitor.values[name][k : k + 1] for name in rec_names]
            rows[lane.config.id].append(torch.cat(row))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(
    "shape", ["odd", "one sample", "no hidden layers, normalised", "class decoder, full batches"]
)
@pytest.mark.parametrize(
    "stage",
    ["vib 1", "vae", "vib 2, generative", "comparison 2, no replay", "vib 1, dropout"],
)
def test_losses_gradients_and_updates_of_a_lane_do_not_depend_on_its_company(
    stage: str, shape: str, n_threads: int, tiny: Source
) -> None:
    torch.set_num_threads(n_threads)
    name, settings = (STAGES | WITH_DROPOUT)[stage]
    configs = mixed(**settings, **SHAPES[shape])
    alone: dict[str, list[Tensor]] = {}
    for config in configs:
        alone |= traces(open_group([config], tiny, name, F32), 4)
    a, b, c, d, e = configs
    for company in ([a, d], [e, c, b], [d, b, e, a, c]):
        together = traces(open_group(company, tiny, name, F32), 4)
        for config in company:
            for i, (row, wanted) in enumerate(
                zip(together[config.id], alone[config.id], strict=True)
            ):
                assert torch.equal(row, wanted), (configs.index(config), len(company), i)


def test_mean_loss_of_a_lane_does_not_depend_on_how_many_follow(tiny: Source) -> None:
    # Kernels treat 8, 16 or 32 numbers at once and the rest otherwise.
    configs = [configure(lr=1e-3 * 1.1**i, replay_weight=i / 40, beta_1=-i / 9) for i in range(37)]
    for name in ("train_task_1", "train_task_2"):
        together = traces(open_group(configs, tiny, name, F32), 2)
        for config in configs[::4]:
            alone = traces(open_group([config], tiny, name, F32), 2)[config.id]
            for row, wanted in zip(together[config.id], alone, strict=True):
                assert torch.equal(row, wanted), config.lr


@pytest.mark.parametrize("how", ["nan", "threshold", "infinity later"])
@pytest.mark.parametrize("stage", ["vib 1", "vae", "vib 2, generative", "comparison 2, no replay"])
def test_dead_lane_stays_as_it_was_and_leaves_the_others_to_the_last_bit(
    stage: str, how: str, tiny: Source
) -> None:
    name, settings = STAGES[stage]
    configs = mixed(**settings, batch_size=7)
    extra = {"loss_above": 1e-3} if how == "threshold" else {}
    lost = configure(**settings, batch_size=7, weight_decay=0.1, **extra)
    wanted = traces(open_group(configs, tiny, name, F32), 8)
    group = open_group([*configs[:2], lost, *configs[2:]], tiny, name, F32)
    (k,) = [k for k, lane in enumerate(group.lanes) if lane.config is lost]
    if how == "nan":
        group.parameters.flat[k, ::3] = math.nan
    elif how == "infinity later":
        rates = list(group.optimizer.lr)
        rates[k] = 1e30
        set_rates(group, rates)
    kept = None
    steps = group.begin_epoch()
    for i, step in enumerate([*steps[:8], steps[-1]]):
        step()
        if not group._monitor.is_alive[k]:
            now = group.parameters.flat[k].clone().view(torch.int32)
            kept = now if kept is None else kept
            assert torch.equal(now, kept)
        for j, lane in enumerate(group.lanes):
            if j != k:
                row = wanted[lane.config.id][i]
                n = group.parameters.flat.shape[1]
                assert torch.equal(row[:1], group._monitor.mean[j : j + 1])
                assert torch.equal(row[1 : n + 1], group.parameters.flat[j])
                assert torch.equal(row[n + 1 : 2 * n + 1], group.parameters.grad[j])
    assert kept is not None
    assert group._monitor.is_alive.sum() == len(configs)


# --- what is saved ------------------------------------------------------------------------------


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Note each layer's products: what for, the layer's name, how many lanes."""
    calls: list[tuple[str, str, int]] = []

    def spy(method: str) -> None:
        original = getattr(Linear, method)

        def noting(self: Linear, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            calls.append((method, self._name, len(x)))
            return original(self, x, *args, **kwargs)

        monkeypatch.setattr(Linear, method, noting)

    for method in ("forward", "backward", "grad_input"):
        spy(method)
    return calls


def lanes_of(calls: Sequence[tuple[str, str, int]], method: str, prefix: str) -> set[int]:
    """Return for how many lanes a product of a chain was computed; empty if it never was."""
    return {n for what, name, n in calls if what == method and name.startswith(prefix)}


def test_image_decoder_is_computed_only_for_lanes_with_a_reconstruction(
    tiny: Source, products: list[tuple[str, str, int]]
) -> None:
    open_group(mixed(), tiny, "train_task_1").begin_epoch()[0]()
    for method in ("forward", "backward", "grad_input"):
        assert lanes_of(products, method, "rec_decoder") == {3}
    assert lanes_of(products, "forward", "encoder") == {5}
    assert lanes_of(products, "backward", "encoder") == {5}
    assert lanes_of(products, "backward", "class_decoder") == {5}


def test_image_decoder_is_not_computed_where_no_lane_has_a_reconstruction(
    tiny: Source, products: list[tuple[str, str, int]]
) -> None:
    configs = [configure(beta_1=beta_1) for beta_1 in (0.0, 0.3)]
    open_group(configs, tiny, "train_task_1").begin_epoch()[0]()
    assert lanes_of(products, "backward", "class_decoder") == {2}
    assert all(not name.startswith("rec_decoder") for _, name, _ in products)


@pytest.mark.parametrize("replay", ["none", "generative"])
def test_encoder_gradients_are_computed_only_for_lanes_that_train_it(
    replay: str, tiny: Source, products: list[tuple[str, str, int]]
) -> None:
    configs = mixed(replay=replay, class_decoder_widths=(6,))
    open_group(configs, tiny, "train_task_2").begin_epoch()[0]()
    assert lanes_of(products, "forward", "encoder") == {5}
    assert lanes_of(products, "backward", "encoder") == {3}
    assert lanes_of(products, "grad_input", "encoder") == {3}
    assert lanes_of(products, "grad_input", "class_decoder.0") == {3}
    assert lanes_of(products, "grad_input", "class_decoder.1") == {5}


@pytest.mark.parametrize("replay", ["none", "generative"])
def test_no_encoder_gradient_is_computed_where_all_are_frozen(
    replay: str, tiny: Source, products: list[tuple[str, str, int]]
) -> None:
    configs = [configure(replay=replay, freeze_encoder=True, beta_2=b) for b in (0.0, 0.1)]
    open_group(configs, tiny, "train_task_2").begin_epoch()[0]()
    kinds = {(what, name) for what, name, _ in products}
    layers = {("forward", f"encoder.{n}") for n in ("0", "1", "mu", "logvar")}
    assert kinds == layers | {("forward", "class_decoder.0"), ("backward", "class_decoder.0")}


def test_gradient_of_the_images_is_never_computed(
    tiny: Source, products: list[tuple[str, str, int]]
) -> None:
    for name in ("train_task_1", "train_generator_1", "train_task_2"):
        open_group(mixed(model="comparison"), tiny, name).begin_epoch()[0]()
    first = {name for _, name, _ in products if name.endswith("encoder.0")}
    assert first == {"encoder.0", "vae_encoder.0"}
    assert not {("grad_input", name) for name in first} & {(w, n) for w, n, _ in products}
