"""The step of the later stages against its definition: means, softplus, continual, joint."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raysweep.learning.data.sources import Source
from raysweep.learning.data.task_sequences import Samples, Task
from raysweep.learning.stacked.functional import softplus
from raysweep.learning.stacked.gradients import SOFTPLUS_SHIFT, Gaussian
from raysweep.learning.stacked.layers import Workspace
from raysweep.learning.streams import generator, normal
from tests.learning.test_step import (
    F32,
    F64,
    NONLINEARITIES,
    SHAPES,
    assert_near,
    check_against_definition,
    configure,
    mixed,
    open_group,
    traces,
    update,
    without_update,
)

MLP: dict[str, Any] = {"experiment": "replay", "model": "mlp"}
CONTINUAL: dict[str, Any] = {"model": "vib", "generator": "continual"}
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp 1, mean": ("train_task_1", MLP),
    "mlp 1, sum": ("train_task_1", MLP | {"reduction": "sum"}),
    "mlp 2, no replay": ("train_task_2", MLP | {"replay": "none"}),
    "mlp 2, simple, mean": ("train_task_2", MLP | {"replay": "simple"}),
    "mlp 2, generative, sum": ("train_task_2", MLP | {"reduction": "sum"}),
    "mlp 3, continual VAE": (
        "train_task_3",
        MLP | {"n_tasks": 3, "generator": "continual", "replay_schedule": "exponential"},
    ),
    "continual VAE": ("train_generator_2", MLP | {"n_tasks": 3, "generator": "continual"}),
    "continual VAE of a comparison": (
        "train_generator_2",
        {"model": "comparison", "n_tasks": 3, "generator": "continual", "variance": "softplus"},
    ),
    "comparison 2, mean": ("train_task_2", {"model": "comparison", "reduction": "mean"}),
    "vib 1, mean": ("train_task_1", {"model": "vib", "reduction": "mean"}),
    "vib 1, softplus": ("train_task_1", {"model": "vib", "variance": "softplus"}),
    "vib 2, softplus": ("train_task_2", {"model": "vib", "variance": "softplus"}),
    "vib 2, continual": ("train_task_2", CONTINUAL),
    "vib 2, continual, softplus, mean": (
        "train_task_2",
        CONTINUAL | {"variance": "softplus", "reduction": "mean", "normalize": True},
    ),
    "vib 3, continual": ("train_task_3", CONTINUAL | {"n_tasks": 3}),
    "joint vib, softplus": (
        "train_joint",
        {"experiment": "joint", "model": "vib", "variance": "softplus"},
    ),
    "joint mlp": ("train_joint", {"experiment": "joint", "model": "mlp"}),
    "mlp 1, dropout": ("train_task_1", MLP | {"dropout": 0.4}),
    "mlp 2, dropout, simple": ("train_task_2", MLP | {"dropout": 0.4, "replay": "simple"}),
    "mlp 3, dropout, smoothed sums": (
        "train_task_3",
        MLP | {"n_tasks": 3, "dropout": 0.4, "label_smoothing": 0.3, "reduction": "sum"},
    ),
    "comparison 2, dropout, softplus": (
        "train_task_2",
        {"model": "comparison", "dropout": 0.4, "variance": "softplus", "label_smoothing": 1.0},
    ),
    "vib 2, dropout, continual, mean": (
        "train_task_2",
        CONTINUAL | {"dropout": 0.4, "reduction": "mean"},
    ),
    "vib 3, dropout, continual": ("train_task_3", CONTINUAL | {"n_tasks": 3, "dropout": 0.4}),
    "joint mlp, dropout": (
        "train_joint",
        {"experiment": "joint", "model": "mlp", "dropout": 0.4, "label_smoothing": 0.1},
    ),
}


def train_three_steps(configs: list[Any], source: Source, stage: str) -> None:
    """Hold each of the first steps and the last, which is not full, against the definition."""
    group = open_group(configs, source, stage)
    steps = group.begin_epoch()
    for step in [*steps[:2], steps[-1]]:
        without_update(step)
        check_against_definition(group, step)
        update(step)
    assert group._monitor.is_alive.all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("stage", "settings"), STAGES.values(), ids=STAGES)
def test_step_has_the_losses_and_gradients_of_the_definition(
    stage: str, settings: dict[str, Any], shape: dict[str, Any], tiny: Source
) -> None:
    kind = NONLINEARITIES[(len(stage) + len(settings) + len(shape)) % 5]
    settings = {**shape, **settings, "nonlinearity": kind}
    train_three_steps(mixed(**settings), tiny, stage)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("stage", [stage for stage in STAGES if "dropout" in stage])
def test_step_with_dropout_follows_the_definition_for_each_nonlinearity(
    stage: str, nonlinearity: str, tiny: Source
) -> None:
    name, settings = STAGES[stage]
    train_three_steps(mixed(**settings, nonlinearity=nonlinearity, batch_size=7), tiny, name)


FREEZES: dict[str, list[tuple[float, bool]]] = {
    "all, with reconstruction": [(-0.5, True), (-0.1, True)],
    "all, without": [(0.0, True), (0.5, True)],
    "all, some with": [(0.5, True), (-0.1, True)],
    "those with reconstruction": [(-0.5, True), (0.5, False), (-0.1, True)],
    "those without": [(-0.5, False), (0.5, True), (-0.1, False)],
    "some of those with, none without": [(-0.5, True), (-0.2, True), (-0.1, False)],
    "none": [(-0.5, False), (0.0, False)],
}


@pytest.mark.parametrize("lanes", FREEZES.values(), ids=FREEZES)
def test_continual_decoder_beside_any_frozen_encoders_follows_the_definition(
    lanes: list[tuple[float, bool]], tiny: Source
) -> None:
    for rates in ((0.0, 0.0, 0.0), (0.3, 0.0, 0.6)):
        configs = [
            configure(**CONTINUAL, beta_1=beta_1, freeze_encoder=is_frozen, dropout=rate)
            for (beta_1, is_frozen), rate in zip(lanes, rates, strict=False)
        ]
        train_three_steps(configs, tiny, "train_task_2")


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("shape", ["odd", "one sample", "class decoder, full batches"])
@pytest.mark.parametrize(
    "stage",
    [
        *("mlp 2, simple, mean", "continual VAE", "vib 1, softplus", "vib 2, continual"),
        *("joint mlp", "mlp 2, dropout, simple", "vib 2, dropout, continual, mean"),
    ],
)
def test_losses_gradients_and_updates_of_a_lane_do_not_depend_on_its_company(
    stage: str, shape: str, n_threads: int, tiny: Source
) -> None:
    torch.set_num_threads(n_threads)
    name, settings = STAGES[stage]
    # Of frozen encoders the gradient is computed or not: neither changes them.
    configs = [config for config in mixed(**settings, **SHAPES[shape]) if not config.freeze_encoder]
    configs += [configure(**settings, **SHAPES[shape], lr=2e-3, beta_1=0.0)]
    alone: dict[str, list[Tensor]] = {}
    for config in configs:
        alone |= traces(open_group([config], tiny, name, F32), 2)
    together = traces(open_group(configs[::-1], tiny, name, F32), 2)
    for config in configs:
        for row, wanted in zip(together[config.id], alone[config.id], strict=True):
            assert torch.equal(row, wanted), config


# --- softplus -------------------------------------------------------------------------------------


def gaussian_parts(
    variance: str, mu: Tensor, s: Tensor, noise: Tensor, grad_z: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Compute z, KL and gradients by ``Gaussian``."""
    gaussian = Gaussian(Workspace(mu), variance)
    z = gaussian.sample(mu, s, noise).clone()
    kl = gaussian.kl_rows().clone()
    grad_mu, grad_s = gaussian.backward(grad_z.clone(), weight)
    return {"z": z, "kl": kl, "grad mu": grad_mu.clone(), "grad s": grad_s.clone()}


@pytest.mark.parametrize("is_by_row", [True, False])
@pytest.mark.parametrize("variance", ["exp", "softplus"])
def test_gaussian_has_the_gradients_of_autograd_at_any_size_of_its_variance(
    variance: str, is_by_row: bool
) -> None:
    stream = generator(0, "gaussian")
    mu, s, grad_z = (normal((3, 7, 5), stream, F64) for _ in range(3))
    s = (
        s
        + torch.tensor([-15.0, 0.0, 30.0] if variance == "softplus" else [-9, 0, 9])[:, None, None]
    )
    noise = normal((7, 5), stream, F64)
    weight = torch.rand(3, 7 if is_by_row else 1, 1, generator=stream, dtype=F64)
    actual = gaussian_parts(variance, mu, s, noise, grad_z, weight)
    mu.requires_grad_()
    s.requires_grad_()
    is_softplus = variance == "softplus"
    sd = functional.softplus(s - SOFTPLUS_SHIFT, threshold=99) if is_softplus else torch.exp(s / 2)
    z = mu + noise * sd
    kl = 0.5 * (mu**2 + sd**2 - 2 * sd.log() - 1).sum(-1)
    grad_mu, grad_s = torch.autograd.grad((z * grad_z).sum() + (kl * weight[..., 0]).sum(), (mu, s))
    wanted = {"z": z.detach(), "kl": kl.detach(), "grad mu": grad_mu, "grad s": grad_s}
    for name, value in wanted.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-11, atol=1e-14, msg=name)


def test_softplus_variance_in_float32_keeps_the_gradient_where_the_variance_is_tiny() -> None:
    s = torch.linspace(-14.0, 6.0, 41)[None, None]
    mu, noise, weight = torch.zeros_like(s), torch.zeros(1, 41), torch.ones(1, 1, 1)
    actual = gaussian_parts("softplus", mu, s, noise, torch.zeros_like(s), weight)["grad s"]
    exact = (x.double() for x in (mu, s, noise, torch.zeros_like(s), weight))
    wanted = gaussian_parts("softplus", *exact)["grad s"]
    torch.testing.assert_close(actual.double(), wanted, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_softplus_is_torchs(scale: float) -> None:
    x = scale * normal((3, 7, 5), generator(0, "softplus"), F64)
    torch.testing.assert_close(
        softplus(x), functional.softplus(x, threshold=1000), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (7, 5), (13, 33), (53, 7), (100, 100)], ids=str)
def test_softplus_and_its_gaussian_of_a_lane_are_those_of_the_lane_alone(
    shape: tuple[int, int], n_threads: int
) -> None:
    torch.set_num_threads(n_threads)  # conftest.py sets it back
    n, n_latent = shape
    for n_lanes in (2, 3, 17):
        stream = generator(1, "softplus lanes", n, n_latent)
        mu, s, grad_z = (3 * normal((n_lanes, n, n_latent), stream) for _ in range(3))
        noise = normal((n, n_latent), stream)
        weight = torch.rand(n_lanes, n, 1, generator=stream)
        whole, together = softplus(s), gaussian_parts("softplus", mu, s, noise, grad_z, weight)
        for k in range(n_lanes):
            lane = slice(k, k + 1)
            assert torch.equal(softplus(s[lane].clone())[0], whole[k])
            own = [x[lane].clone() for x in (mu, s)]
            alone = gaussian_parts("softplus", *own, noise, grad_z[lane].clone(), weight[lane])
            for name, value in alone.items():
                assert torch.equal(value[0], together[name][k]), name


# --- averaged weights -----------------------------------------------------------------------------


def test_averaged_weights_follow_their_recurrence_and_stop_with_a_dead_lane(tiny: Source) -> None:
    configs = [configure(ema_decay=0.8, lr=lr) for lr in (1e-3, 1e9, 3e-3)]
    group = open_group(configs, tiny, "train_task_1")
    assert group._average is not None
    wanted = group._average.flat.clone()
    for step in group.begin_epoch():
        step()
        alive = group._monitor.is_alive
        wanted[alive] = 0.8 * wanted[alive] + 0.2 * group.parameters.flat.detach()[alive]
        assert_near(group._average.flat[alive], wanted[alive], "average")
        assert torch.equal(group._average.flat[~alive], wanted[~alive])
        wanted = group._average.flat.clone()
    assert group._monitor.is_alive.tolist() == [True, False, True]


def test_accuracy_is_that_of_the_averaged_weights(tiny: Source) -> None:
    group = open_group([configure(ema_decay=0.8)], tiny, "train_task_1")
    plain = open_group([configure()], tiny, "train_task_1")
    assert group._average is not None
    # Weights that name one digit for every image, and an average that names another.
    for parameters, digit in ((group._average, 3), (group.parameters, 7), (plain.parameters, 7)):
        parameters.flat.detach().zero_()
        parameters.values["class_decoder.0.bias"].flatten()[digit] = 1.0
    samples = group.context.tasks[0].test
    threes = Samples(samples.images, torch.full_like(samples.labels, 3))
    for group_of in (group, plain):
        group_of.context.tasks[0] = Task(samples, threes)
    assert group.accuracy_on(1).tolist() == [1.0]
    assert plain.accuracy_on(1).tolist() == [0.0]
