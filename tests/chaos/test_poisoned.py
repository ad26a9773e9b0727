"""Configurations that hang, raise, crash, run out of memory or turn NaN, among healthy ones."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from checks import Rows, acknowledged, assert_whole
from conftest import Form, Note
from loads import Load
from runs import Run, assert_no_traceback
from sweep_runs import FAULTS

_HANG_S = 8
"""What an epoch may take: a worker's first one takes one or two seconds on a busy machine."""


def _one(lr: float, beta_1: float, beta_2: float) -> dict[str, Any]:
    """Return settings that a single configuration of a load has."""
    return {"lr": lr, "beta_1": beta_1, "beta_2": beta_2, "seed": 0}


def _struck(load: Load, match: Mapping[str, Any]) -> set[str]:
    """Return the ids of the configurations with some settings."""
    return {
        config.id
        for config in load.configs()
        if all(getattr(config, name) == value for name, value in match.items())
    }


def _run(load: Load, location: Path, *faults: Mapping[str, Any]) -> Run:
    env = {"PYTHONPATH": str(FAULTS), "RAYSWEEP_FAULTS": json.dumps(faults)}
    return Run(load, location, env=env)


def _rows_of(run: Run, ids: set[str]) -> pd.DataFrame:
    trials = acknowledged(run.folder)["trials"]
    return trials[trials["config_id"].isin(ids)]


def test_packs_out_of_memory_are_halved_and_lanes_of_nan_leave_alone(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(form.pick(1, 4))
    in_one_lane = _one(4e-3, -0.1, 1e-2)
    in_all_lanes = {"lr": 8e-3}
    run = _run(
        load,
        tmp_path,
        {"kind": "torch_memory", "match": {"lr": 1e-3, "beta_1": -0.1}, "lanes": 2},
        {"kind": "memory", "match": {"lr": 2e-3, "beta_1": 0.1}, "lanes": 1},
        {"kind": "nan", "match": in_one_lane, "stage": "train_task_2", "epoch": 2},
        {"kind": "nan", "match": in_all_lanes, "stage": "train_task_1", "epoch": 1},
    )
    assert run.wait() == 0, run.output
    assert_no_traceback(run)
    one, every = _struck(load, in_one_lane), _struck(load, in_all_lanes)
    assert_whole(run.folder, load, undisturbed(load), other=one | every)
    for ids, stage, epoch in ((one, "train_task_2", 2), (every, "train_task_1", 1)):
        rows = _rows_of(run, ids)
        assert set(rows["status"]) == {"diverged"}
        assert set(rows["diverged_stage"]) == {stage}
        assert set(rows["diverged_epoch"]) == {epoch}
        assert rows["average_accuracy"].isna().all()
    assert "halves" in run.output
    attempts = int(_rows_of(run, _struck(load, {"lr": 2e-3}))["attempt"].max())
    note("out of memory over one lane", load, "most attempts of a configuration", attempts)


def test_configurations_that_hang_raise_or_crash_fail_alone(
    form: Form, undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(form.pick(1, 4), pack=form.pick(2, 5), more=f"max_seconds: {_HANG_S}")
    hangs, raises = _one(1e-3, 0.1, 1e-3), _one(4e-3, -0.1, 1e-2)
    crashes, is_killed = _one(2e-3, -0.1, 0.1), _one(8e-3, 0.1, 1.0)
    faults = [
        {"kind": "hang", "match": hangs},
        {"kind": "raise", "match": raises},
        {"kind": "segfault", "match": crashes},
    ]
    if form.is_long:
        faults.append({"kind": "kill", "match": is_killed})
    run = _run(load, tmp_path, *faults)
    assert run.wait(form.pick(240, 1200)) == 1, run.output
    assert_no_traceback(run)
    struck = set().union(*(_struck(load, fault["match"]) for fault in faults))
    assert len(struck) == len(faults)
    assert_whole(run.folder, load, undisturbed(load), other=struck)
    expected = {
        "hang": "max_seconds",
        "raise": "ValueError: a fault of the chaos suite",
        "segfault": "worker lost",
        "kill": "worker lost",
    }
    for fault in faults:
        (row,) = _rows_of(run, _struck(load, fault["match"])).to_dict("records")
        assert row["status"] == "failed", fault
        assert expected[fault["kind"]] in row["error"], row["error"]
        assert pd.isna(row["average_accuracy"])
        note(f"configuration: {fault['kind']}", load, "attempts", row["attempt"])
        note(f"configuration: {fault['kind']}", load, "error", row["error"])
    assert f"{len(faults)} failed" in run.output
    assert list((run.folder / "logs").iterdir())


@pytest.mark.parametrize("kind", ["segfault", "hang"])
def test_a_failed_configuration_ends_well_once_its_cause_is_gone(
    form: Form, undisturbed: Callable[[Load], Rows], tmp_path: Path, kind: str
) -> None:
    if not form.is_long:
        pytest.skip("long form only")
    load = Load(1, more=f"max_seconds: {_HANG_S}")
    run = _run(load, tmp_path, {"kind": kind, "match": _one(1e-3, 0.1, 1e-3)})
    assert run.wait(600) == 1, run.output
    again = Run(load, tmp_path)
    assert again.wait() == 0, again.output
    assert_whole(again.folder, load, undisturbed(load))
