"""Sweeps that stop configurations early, by the real command line."""

import signal
from pathlib import Path

import pandas as pd
import pytest
from sweep_runs import CIRCUMSTANCES, n_rows, run, start, tables, wait_until, write

from raysweep.tables.reader import read_trials

pytestmark = pytest.mark.slow

SPACE = """
experiment: replay_vib
data: {tasks: perm_mnist, source: mnist_5k, task_samples: 400}
training: {epochs: 3, batch_size: 100}
space:
  n_bottleneck: 4
  encoder_widths: [16]
  rec_decoder_widths: [16]
  lr: {grid_search: [1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2]}
  beta_2: {grid_search: [0.0, 0.1]}
  replay: {grid_search: [none, simple]}
  n_replay: 50
pack: 6
"""
RULE = "early_stopping: {method: asha, grace_period: 2, reduction_factor: 2}\n"


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the results of a grid, ``whole``, and of it with a rule, ``killed``.

    The driver of the second was killed in the middle and started again.
    """
    location = tmp_path_factory.mktemp("early")
    whole, killed = (
        write(location, SPACE, "whole.yaml"),
        write(location, SPACE + RULE, "killed.yaml"),
    )
    done = run(whole)
    assert done.returncode == 0, done.stderr + done.stdout
    process = start(killed)
    wait_until(lambda: n_rows(location / "results" / "killed", "trials") >= 6, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run(killed)
    assert done.returncode == 0, done.stderr + done.stdout
    assert " stopped" in done.stdout
    return location


def test_each_configuration_has_one_row_and_what_was_stopped_says_why(sweeps: Path) -> None:
    trials = read_trials(sweeps / "results" / "killed")
    assert len(trials) == 24
    assert not trials["config_id"].duplicated().any()
    # How many depends on which packs are first; the first of all loses its worse half.
    assert set(trials["status"]) == {"stopped", "finished"}
    stopped = trials[trials["status"] == "stopped"]
    assert set(stopped["stopped_rung"]) <= {2, 4}
    assert (
        stopped["stopped_reason"].str.match(r"asha: average_accuracy 0\.\d+ after [24] of 6").all()
    )
    assert stopped["average_accuracy"].isna().all()
    assert trials.loc[trials["status"] == "finished", "stopped_reason"].isna().all()


def test_stopping_changes_no_number_of_what_is_not_stopped(sweeps: Path) -> None:
    whole, early = (tables(sweeps / "results" / name) for name in ("whole", "killed"))
    status = early["trials"].set_index("config_id")["status"]
    finished = set(status[status == "finished"].index)
    for name, frame in early.items():
        ours, theirs = (
            f[f["config_id"].isin(finished)].reset_index(drop=True) for f in (frame, whole[name])
        )
        if name == "epochs":
            assert ours.pop("average_accuracy").notna().all()
            theirs = theirs.drop(columns="average_accuracy")
        # Whole numbers beside nulls are floats.
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True, check_dtype=False)


def test_a_stopped_configuration_has_the_epochs_of_the_grid_up_to_its_rung(sweeps: Path) -> None:
    whole, early = (tables(sweeps / "results" / name) for name in ("whole", "killed"))
    rungs = early["trials"].set_index("config_id")["stopped_rung"].dropna()
    for config_id, rung in rungs.items():
        ours, theirs = (
            rows[rows["config_id"] == config_id].drop(columns="average_accuracy")
            for rows in (early["epochs"], whole["epochs"])
        )
        # Before it was killed the first driver may have seen later ones.
        assert len(ours) >= rung
        pd.testing.assert_frame_equal(
            ours.reset_index(drop=True),
            theirs.head(len(ours)).reset_index(drop=True),
            check_exact=True,
        )


def test_the_best_of_each_rung_went_on(sweeps: Path) -> None:
    early = tables(sweeps / "results" / "killed")
    epochs = early["epochs"]
    at_rung = epochs[(epochs["stage"] == "train_task_1") & (epochs["epoch"] == 2)]
    best = at_rung.sort_values("average_accuracy")["config_id"].iloc[-1]
    trial = early["trials"].set_index("config_id").loc[best]
    assert trial["stopped_rung"] != 2


def test_a_rerun_leaves_what_was_stopped_and_one_without_the_rule_trains_it(sweeps: Path) -> None:
    file = sweeps / "killed.yaml"
    before = read_trials(sweeps / "results" / "killed")
    again = run(file)
    assert again.returncode == 0, again.stderr
    assert "nothing to train" in again.stderr + again.stdout
    pd.testing.assert_frame_equal(read_trials(sweeps / "results" / "killed"), before)
    n_stopped = int((before["status"] == "stopped").sum())
    done = run(file, "early_stopping=none")
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{n_stopped} of 24 configurations to train" in done.stderr + done.stdout
    whole = tables(sweeps / "results" / "whole")
    every = tables(sweeps / "results" / "killed")
    for name in ("trials", "accuracy"):
        pd.testing.assert_frame_equal(every[name], whole[name], check_exact=True)
    assert "attempt" in CIRCUMSTANCES


def test_a_used_up_budget_ends_a_run_in_order_and_the_next_goes_on(tmp_path: Path) -> None:
    file = write(tmp_path, SPACE)
    first = run(file, "max_configs=6")
    assert first.returncode == 3, first.stderr + first.stdout
    assert "max_configs 6 reached: 18 configurations are missing; continue with: " in first.stdout
    assert len(read_trials(tmp_path / "results" / "small")) == 6
    second = run(file, "time_budget=0.1s")
    assert second.returncode == 3, second.stderr + second.stdout
    assert "time_budget of 0 s used up before a configuration ended; give more" in second.stdout
    assert "set a smaller pack: 18 configurations are missing; continue with: " in second.stdout
    assert len(read_trials(tmp_path / "results" / "small")) == 6


def test_a_dry_run_names_the_rule_and_the_budget(tmp_path: Path) -> None:
    text = SPACE + RULE + "time_budget: 90min\nmax_configs: 7\nmax_gpu_hours: 2\n"
    done = run(write(tmp_path, text), "--dry-run")
    assert done.returncode == 0, done.stderr
    rule = "asha: metric average_accuracy, grace_period 2, reduction_factor 2"
    assert f"early stopping  {rule}\n" in done.stdout
    limits = "per run: 1 h 30 min of wall time, 7 configurations, 2 GPU-hours"
    assert f"budget          {limits}\n" in done.stdout
    assert "expected rows: 7 of trials" in done.stdout
