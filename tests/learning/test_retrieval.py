"""Maximally interfered retrieval against slow plain versions, a lane at a time, in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raysweep.learning.data.sources import Source, load_source
from raysweep.learning.streams import generator
from raysweep.learning.training.loop import TrainGroup
from raysweep.learning.training.step import Step
from raysweep.packs.run import PackRun
from tests.small_configs import configure

K_TOP = 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return 400 training and 100 test digits."""
    whole = load_source("mnist_5k", tmp_path_factory.mktemp("none"))
    rows = np.arange(0, 4000, 10)
    tests = np.arange(0, 1000, 10)
    return Source(
        "mnist_5k",
        whole.train_images[rows],
        whole.train_labels[rows],
        whole.test_images[tests],
        whole.test_labels[tests],
        whole.mean,
        whole.sd,
    )


def second_task(source: Source, *lanes: dict[str, Any]) -> tuple[TrainGroup, Step]:
    """Train up to task 2; give its group and its first step with new samples loaded."""
    configs = [
        configure(**{"epochs": 1, "batch_size": K_TOP, "n_replay": 60, "seed": 5} | lane)
        for lane in lanes
    ]
    run = PackRun(configs, source, dtype=torch.float64)
    while run._group is None or run._group.stage.task < 2:
        run.advance()
        if run._group is None and run.groups[run._position][0].name == "fill_buffer_1":
            from raysweep.packs.rows import Report

            run._open_group(Report())
    group = run._group
    step = group.begin_epoch()[0]
    step.batches.prepare()
    step.batches.load()
    return group, step


def mlp(views: dict[str, Tensor], x: Tensor) -> Tensor:
    """Compute the logits of an MLP of two hidden layers of relu."""
    for name in ("encoder.0", "encoder.1"):
        x = torch.relu(x @ views[f"{name}.weight"] + views[f"{name}.bias"])
    return x @ views["class_decoder.0.weight"] + views["class_decoder.0.bias"]


def after_a_step(group: TrainGroup, step: Step, k: int) -> tuple[dict[str, Tensor], ...]:
    """Return a lane's parameters and what plain SGD on the new samples makes of them."""
    batch, n = step.batches.batch, step.batches.batch.n_new
    now = {name: v[k].clone().requires_grad_() for name, v in group.parameters.values.items()}
    loss = functional.cross_entropy(mlp(now, batch.inputs[k, :n]), batch.labels)
    grads = torch.autograd.grad(loss, list(now.values()))
    lr = group.lanes[k].config.lr
    then = {name: v - lr * g for (name, v), g in zip(now.items(), grads, strict=True)}
    return {n: v.detach() for n, v in now.items()}, {n: v.detach() for n, v in then.items()}


MIR = {"experiment": "replay", "replay": "simple", "retrieval": "mir", "n_candidates": 45}
GENERATED = {"experiment": "replay", "replay": "generative", "retrieval": "generative_mir"}


def test_mir_takes_the_candidates_whose_loss_a_step_on_new_data_raises_most(small: Source) -> None:
    group, step = second_task(small, MIR | {"lr": 1e-3}, MIR | {"lr": 1e-2})
    candidates = step.batches.candidates.clone()
    assert len(candidates.unique()) == 45
    assert step._retrieve is not None
    step._retrieve()
    batch, n = step.batches.batch, step.batches.batch.n_new
    for k, lane in enumerate(group.lanes):
        now, then = after_a_step(group, step, k)
        rise = []
        for i in candidates.tolist():
            x, y = lane.buffer.images[i : i + 1], lane.buffer.labels[i : i + 1].argmax(-1)
            rise.append(
                float(functional.cross_entropy(mlp(then, x), y))
                - float(functional.cross_entropy(mlp(now, x), y))
            )
        top = sorted(range(45), key=lambda j: -rise[j])[:K_TOP]
        expected = lane.buffer.images[candidates[top]]
        assert torch.equal(batch.inputs[k, n:], expected)
        assert torch.equal(batch.targets[k, n:], lane.buffer.labels[candidates[top]])
    assert not torch.equal(batch.inputs[0, n:], batch.inputs[1, n:])


@pytest.mark.parametrize("shell", [0.0, 0.7])
def test_generative_mir_climbs_the_gain_from_noise(small: Source, shell: float) -> None:
    gain = {"mir_steps": 4, "mir_interference": 3.0, "mir_entropy": 0.5, "mir_shell": shell}
    group, step = second_task(small, GENERATED | gain | {"lr": 0.05}, GENERATED | gain | {"lr": 1})
    assert step._retrieve is not None
    step._retrieve()
    batch, n = step.batches.batch, step.batches.batch.n_new
    config = group.lanes[0].config
    stream = generator(config.seed, "mir_z", "train_task_2", 1)
    shape = (K_TOP, config.n_bottleneck)
    start = torch.randn(shape, generator=stream, dtype=torch.float64)
    for k, lane in enumerate(group.lanes):
        _, then = after_a_step(group, step, k)
        before, vae = lane.model.parameters, lane.generator.parameters

        def images(z: Tensor, vae: dict[str, Tensor] = vae) -> Tensor:
            for i in range(2):
                name = f"vae_decoder.{i}"
                z = torch.relu(z @ vae[f"{name}.weight"] + vae[f"{name}.bias"])
            return torch.sigmoid(z @ vae["vae_decoder.2.weight"] + vae["vae_decoder.2.bias"])

        z = start.clone()
        for _ in range(4):
            z.requires_grad_()
            label = torch.softmax(mlp(before, images(z)), -1)
            crossed = -(label * torch.log(torch.softmax(mlp(then, images(z)), -1))).sum(-1).mean()
            entropy = -(label * torch.log(label)).sum(-1).mean()
            off = ((z.norm(dim=-1) - math.sqrt(z.shape[-1])) ** 2).mean()
            (slope,) = torch.autograd.grad(3.0 * crossed - 0.5 * entropy - shell * off, z)
            z = (z + slope).detach()
        torch.testing.assert_close(batch.inputs[k, n:], images(z), rtol=1e-9, atol=1e-12)
        labels = torch.softmax(mlp(before, images(z)), -1)
        torch.testing.assert_close(batch.targets[k, n:], labels, rtol=1e-9, atol=1e-12)
        assert (images(z) - images(start)).abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        GENERATED,
        GENERATED | {"generator": "continual", "tasks": "split_mnist", "n_tasks": 3},
        {"replay": "generative", "retrieval": "generative_mir", "normalize": True},
        {"replay": "generative", "retrieval": "generative_mir", "model": "comparison"},
        {
            "replay": "generative",
            "retrieval": "generative_mir",
            "generator": "continual",
            "n_tasks": 3,
            "beta_1": -0.5,
        },
    ],
    ids=["mlp", "mlp, continual", "vib, normalised", "comparison", "vib, continual"],
)
def test_generative_mir_in_company_matches_the_solo_run(
    small: Source, setting: dict[str, Any]
) -> None:
    lanes = [
        configure(**{"epochs": 1, "batch_size": 25, **setting, **own})
        for own in (
            {"lr": 1e-3},
            {"lr": 3e-2, "replay_weight": 0.2},
            {"lr": 1e-2, "label_temperature": 2.0},
        )
    ]
    together = rows_of(PackRun(lanes, small))
    for lane in lanes:
        alone = rows_of(PackRun([lane], small))
        assert together[lane.id] == alone[lane.id]
        assert alone[lane.id][-1]["status"] == "finished"


def test_generative_mir_goes_on_from_where_it_stopped(small: Source) -> None:
    config = configure(**GENERATED, batch_size=25)
    whole = rows_of(PackRun([config], small))
    run, parts = PackRun([config], small), []
    while not run.is_done:
        report = run.advance()
        parts += report.epochs
        state = run.state()
        if not run.is_done:
            run = PackRun([config], small)
            run.restore(state)
    assert without_times(parts) == whole[config.id][: len(parts)]


def rows_of(run: PackRun) -> dict[str, list[dict[str, Any]]]:
    """Run a pack; give each configuration's rows without times: epochs, then accuracy, trials."""
    epochs, accuracy, trials = [], [], []
    while not run.is_done:
        report = run.advance()
        epochs += report.epochs
        accuracy += report.accuracy
        trials += report.trials
    rows = without_times([*epochs, *accuracy, *trials])
    return {c.id: [row for row in rows if row["config_id"] == c.id] for c in run.configs}


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{n: v for n, v in row.items() if n != "duration_s"} for row in rows]
