"""A whole search by the command line: killed, gone on with, and told from outside."""

import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from sweep_runs import run, start, wait_until, write

from raysweep.monitor.snapshot import SweepStatus
from raysweep.settings.sweep import load_sweep
from raysweep.tables.pareto import pareto_settings, read_pareto
from raysweep.tables.reader import read_trials
from raysweep.tables.schemas import config_of

pytestmark = pytest.mark.slow

TEXT = """
experiment: replay_vib
data: {tasks: perm_mnist, source: mnist_5k, task_samples: 200}
training: {epochs: 4, batch_size: 100}
search: {method: optuna, n_samples: 20, seed: 3, metric: [learning_accuracy, forgetting]}
space:
  n_bottleneck: {choice: [4, 8]}
  encoder_widths: [16]
  rec_decoder_widths: [16]
  lr: {loguniform: [1e-4, 1e-1]}
  beta_2: {uniform: [0, 1]}
  replay: {choice: [none, simple]}
  n_replay: 100
seeds: [0, 1]
pack: 4
"""


def n_rows(folder: Path) -> int:
    return len(read_trials(folder)) if (folder / "parts").is_dir() else 0


def suggested(folder: Path) -> list[dict[str, object]]:
    file = folder / "suggestions.json"
    return json.loads(file.read_text()) if file.exists() else []  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """Return a search that was resumed after its driver was killed, and what was open then."""
    location = tmp_path_factory.mktemp("search")
    file = write(location, TEXT)
    folder = location / "results" / "small"
    process = start(file)
    wait_until(lambda: n_rows(folder) >= 8, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_trials(folder)
    assert 0 < len(before) < 40
    space = load_sweep(file).space
    assert space is not None
    ended = set(before["config_id"])
    left = [p for p in suggested(folder) if any(c.id not in ended for c in space.configs(p))]
    done = run(file)
    assert done.returncode == 0, done.stderr + done.stdout
    after = read_trials(folder)
    kept = after[after["config_id"].isin(ended)].set_index("config_id")
    pd.testing.assert_frame_equal(
        kept.sort_index(), before.set_index("config_id").sort_index(), check_exact=True
    )
    return folder, left


def test_a_killed_search_gives_each_suggestion_exactly_one_row(
    searched: tuple[Path, list[dict[str, object]]],
) -> None:
    folder, left = searched
    trials = read_trials(folder)
    assert len(trials) == 40
    assert not trials["config_id"].duplicated().any()
    space = load_sweep(folder.parents[1] / "small.yaml").space
    assert space is not None
    found = [space.parameters_of(config_of(row)) for _, row in trials.iterrows()]
    assert None not in found
    by_suggestion = pd.Series([json.dumps(p, sort_keys=True) for p in found]).value_counts()
    assert len(by_suggestion) == 20
    assert set(by_suggestion) == {2}  # both seeds
    # What ran or waited when the driver was killed was not lost.
    assert left
    for parameters in left:
        assert json.dumps(parameters, sort_keys=True) in by_suggestion


def test_a_search_that_is_over_trains_nothing_and_more_samples_only_those(
    searched: tuple[Path, list[dict[str, object]]],
) -> None:
    folder, _ = searched
    file = folder.parents[1] / "small.yaml"
    before = read_trials(folder)
    done = run(file)
    assert done.returncode == 0
    assert "nothing to train" in done.stderr
    assert "Pareto front: the settings that no other one beats" in done.stdout
    dry = run(file, "search.n_samples=22", "--dry-run")
    assert "22 suggestions x 2 seeds: 44 in all, 40 done" in dry.stdout
    done = run(file, "search.n_samples=22", "--limit", "2")
    assert done.returncode == 3, done.stdout
    assert "2 configurations are missing" in done.stdout
    done = run(file, "search.n_samples=22")
    assert done.returncode == 0, done.stdout
    trials = read_trials(folder)
    assert len(trials) == 44
    assert set(before["config_id"]) <= set(trials["config_id"])


def test_a_search_for_two_metrics_keeps_the_front_of_its_trials(
    searched: tuple[Path, list[dict[str, object]]],
) -> None:
    folder, _ = searched
    trials, front = read_trials(folder), read_pareto(folder)
    metrics = ["learning_accuracy", "forgetting"]
    pd.testing.assert_frame_equal(front, pareto_settings(trials, metrics), check_exact=True)
    # Each setting of two finished seeds is on the front, or another one beats it.
    names = ["config/n_bottleneck", "config/lr", "config/beta_2", "config/replay"]
    means = trials.assign(n=trials["status"] == "finished").groupby(names)
    table = means[metrics].mean()[means["n"].sum() == 2].sort_index()
    for setting, one in table.iterrows():
        gains = (table - one) * [1, -1]
        is_beaten = ((gains >= 0).all(axis=1) & (gains > 0).any(axis=1)).any()
        is_on_front = (front[names] == list(setting)).all(axis=1).any()  # type: ignore[call-overload]
        assert is_on_front != is_beaten
    assert 1 <= len(front) < len(table)
    assert set(front["n_seeds"]) == {2}


def test_status_tells_how_many_suggestions_are_to_come(
    searched: tuple[Path, list[dict[str, object]]],
) -> None:
    folder, _ = searched
    snapshot = SweepStatus.at(folder).snapshot()
    assert snapshot.n_total in (40, 44)
    assert snapshot.n_ended == len(read_trials(folder))


def test_a_search_is_asked_as_slots_come_free_not_for_all_at_once(tmp_path: Path) -> None:
    n_cores = len(os.sched_getaffinity(0))
    text = TEXT.replace("seeds: [0, 1]", f"resources: {{cpu: {n_cores}}}")  # one slot
    text = text.replace("pack: 4", "pack: 1").replace("epochs: 4", "epochs: 1")
    file = write(tmp_path, text.replace("[4, 8]", "[4]"))
    process = start(file, "search.n_samples=8")
    n_open = [0]
    while process.poll() is None:
        n_open.append(len(suggested(tmp_path / "results" / "small")))
        time.sleep(0.02)
    assert process.returncode == 0, process.communicate()[0]
    assert len(read_trials(tmp_path / "results" / "small")) == 8
    assert max(n_open) == 2  # one that runs and one that waits


def test_a_metric_that_is_none_is_refused_before_ray_starts(tmp_path: Path) -> None:
    file = write(tmp_path, TEXT.replace("[learning_accuracy, forgetting]", "average_acuracy"))
    done = run(file)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "search.metric: expected a metric of trials" in line
    assert "did you mean average_accuracy?" in line
    assert not (tmp_path / "results" / "small" / "parts").exists()
    assert os.environ.get("RAY_ADDRESS") is None
