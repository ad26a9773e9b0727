"""The product seen as the plain program sees itself, and the comparison of both."""

import pytest
import torch
from plain_models import F64
from plain_results import Trace
from torch import Tensor

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.models import MODELS, VAE
from raysweep.learning.stacked.layout import Layout
from raysweep.packs.run import PackRun


def run_product(config: Config, source: Source) -> Trace:
    """Run ``PackRun`` on one configuration; record what the plain program records."""
    run, trace = PackRun([config], source, dtype=F64), Trace()
    while not run.is_done:
        report = run.advance()
        for row in report.epochs:
            dropped = ("config_id", "stage", "epoch", "task", "duration_s")
            values = {k: v for k, v in row.items() if k not in dropped and v is not None}
            trace.epochs[row["stage"], row["epoch"]] = values
            group = run.state()["group"]
            if group:  # between the epochs of a stage; afterwards the stage's model is handed on
                layout, key = stage_layout(config, row["stage"]), (row["stage"], row["epoch"])
                trace.parameters[key] = named_lane(layout, group["flat"])
                if group["average"] is not None:
                    trace.averages[key] = named_lane(layout, group["average"])
        for row in report.accuracy:
            trace.matrix[row["after_task"], row["on_task"]] = row["accuracy"]
        for row in report.trials:
            assert row["status"] == "finished"
            dropped = ("config_id", "status", "duration_s", "n_stored_stages")
            trace.trial = {k: v for k, v in row.items() if k not in dropped and v is not None}
    return trace


def named_lane(layout: Layout, flat: Tensor) -> dict[str, Tensor]:
    """Return the first lane's parameters by their names."""
    return {name: view[0].clone() for name, view in layout.views(flat).items()}


def stage_layout(config: Config, stage: str) -> Layout:
    """Return the layout of a training stage's parameters."""
    if stage.startswith("train_generator"):
        return VAE.layout(config)
    is_first = stage in ("train_task_1", "train_joint")
    goes_on = config.replay == "generative" and config.generator == "continual"
    has_images = config.model == "vib" and (is_first or goes_on)
    return MODELS[config.model].layout(config, has_images)


def assert_same(actual: Trace, expected: Trace) -> None:
    """Hold the product's numbers against the plain program's: all rows, metrics, parameters."""
    assert list(actual.epochs) == list(expected.epochs)
    for key, row in expected.epochs.items():
        assert actual.epochs[key] == pytest.approx(row, rel=1e-9, abs=1e-12), key
    assert actual.matrix == expected.matrix
    assert actual.trial == pytest.approx(expected.trial, rel=1e-9, abs=1e-12)
    assert actual.parameters
    assert bool(actual.averages) == bool(expected.averages)
    for what in ("parameters", "averages"):
        for key, parameters in getattr(actual, what).items():
            wanted = getattr(expected, what)[key]
            assert parameters.keys() == wanted.keys()
            for name, value in parameters.items():
                message = f"{what} {key} {name}"
                torch.testing.assert_close(value, wanted[name], rtol=1e-8, atol=1e-10, msg=message)
