"""The whole path, from YAML to Parquet, on the real Ray and real digits."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import pytest
from gs_server import gs_credentials, serve_gs
from s3_server import StoreServer, credentials, serve
from sweep_runs import (
    ROOT,
    SMALL,
    assert_same_tables,
    command,
    run,
    small_sweep,
    tables,
    write,
)

from raysweep.settings.sweep import load_sweep
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials
from raysweep.tune.preview import table_size

pytestmark = pytest.mark.slow

N_SMALL = 12


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small sweep, undisturbed."""
    return small_sweep(tmp_path_factory)


def test_a_sweep_leaves_whole_tables_that_pandas_opens(small: Path) -> None:
    trials = pd.read_parquet(small / "trials.parquet")
    epochs = pd.read_parquet(small / "epochs.parquet")
    accuracy = pd.read_parquet(small / "accuracy.parquet")
    assert len(trials) == trials["config_id"].nunique() == N_SMALL
    assert set(trials["status"]) == {"finished"}
    assert trials["average_accuracy"].between(0, 1).all()
    generative = trials["config/replay"] == "generative"
    assert trials.loc[generative, "replay_label_entropy"].gt(0).all()
    assert trials.loc[trials["config/replay"] == "none", "replay_label_entropy"].isna().all()
    # Every configuration trains two tasks; a comparison model with generative replay a VAE too.
    n_vae = (generative & (trials["config/model"] == "comparison")).sum()
    assert len(epochs) == 2 * (2 * N_SMALL + n_vae)
    assert len(accuracy) == 6 * N_SMALL  # two tasks after 0, 1 and 2
    final = accuracy[accuracy["after_task"] == 2].groupby("config_id")["accuracy"].mean()
    expected = trials.set_index("config_id")["average_accuracy"]
    pd.testing.assert_series_equal(final, expected.sort_index(), check_names=False)
    assert set(trials["n_train_samples"]) == {8000}
    assert not list(small.rglob("part-*.parquet"))


def test_readers_see_what_pandas_sees(small: Path) -> None:
    for name, read in (
        ("trials", read_trials),
        ("epochs", read_epochs),
        ("accuracy", read_accuracy),
    ):
        pd.testing.assert_frame_equal(read(small), pd.read_parquet(small / f"{name}.parquet"))


def test_manifest_says_what_ran_where(small: Path) -> None:
    (entry,) = json.loads((small / "manifest.json").read_text())["runs"]
    assert entry["counts"] == {"finished": N_SMALL}
    assert entry["start"] <= entry["end"]
    assert entry["hosts"] and {"torch", "ray", "raysweep"} <= set(entry["versions"])
    assert any("small.yaml" in word for word in entry["command"])


def test_resolved_search_space_gives_the_same_configurations(small: Path, tmp_path: Path) -> None:
    file = write(tmp_path, (small / "sweep.yaml").read_text(), "again.yaml")
    done = run(file, "--dry-run")
    assert f"{N_SMALL} in all" in done.stdout
    again = run(file, "--dry-run", "--results", str(small.parent), "--name", "small")
    assert f"{N_SMALL} done, 0 to do" in again.stdout
    assert "tables" in done.stdout and "tables" not in again.stdout  # nothing to measure


def test_the_tables_are_those_that_a_dry_run_counted(small: Path) -> None:
    configs = load_sweep(small.parents[1] / "small.yaml").configs
    assert table_size.n_rows(configs) == {name: len(table) for name, table in tables(small).items()}
    size = sum(file.stat().st_size for file in small.glob("*.parquet"))
    assert 0.5 < table_size.n_bytes(configs) / size < 2


def test_a_second_run_trains_nothing_and_does_not_start_ray(small: Path) -> None:
    before = (small / "trials.parquet").read_bytes()
    done = run(small.parents[1] / "small.yaml", "-v")
    assert done.returncode == 0
    assert "nothing to train" in done.stderr
    assert "starting Ray" not in done.stderr
    assert f"{N_SMALL} finished" in done.stdout
    assert (small / "trials.parquet").read_bytes() == before


def test_pack_size_changes_no_number(small: Path, tmp_path: Path) -> None:
    file = write(tmp_path)
    done = run(file, "pack=1")
    assert done.returncode == 0, done.stderr
    assert_same_tables(tmp_path / "results" / "small", small)


def test_hopeless_rate_diverges_and_leaves_the_others_alone(small: Path, tmp_path: Path) -> None:
    file = write(tmp_path)
    done = run(file, "space.lr={grid_search: [1e-3, 1e9]}")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "small"
    frames = tables(folder)
    is_hopeless = frames["trials"]["config/lr"] == 1e9
    hopeless = frames["trials"][is_hopeless]
    assert len(hopeless) == N_SMALL
    assert set(hopeless["status"]) == {"diverged"}
    assert set(hopeless["diverged_stage"]) == {"train_task_1"}
    assert (hopeless["diverged_epoch"] == 1).all() and (hopeless["diverged_step"] >= 2).all()
    assert hopeless["last_finite_loss"].notna().all()
    assert hopeless["average_accuracy"].isna().all()
    undisturbed = tables(small)
    for name, frame in frames.items():
        others = frame[~frame["config_id"].isin(hopeless["config_id"])].reset_index(drop=True)
        expected = undisturbed[name]
        # Columns that were all null have another type beside values.
        others = others.astype(expected.dtypes.to_dict())
        pd.testing.assert_frame_equal(others, expected, check_exact=True)


def test_editing_trains_only_what_is_new_and_limit_stops(tmp_path: Path) -> None:
    file = write(tmp_path)
    folder = tmp_path / "results" / "small"
    limited = run(file, "--limit", "3")
    assert limited.returncode == 3
    assert "--limit 3 reached: 9 configurations are missing" in limited.stdout
    assert "python -m raysweep.tune" in limited.stdout
    first = set(read_trials(folder)["config_id"])
    assert len(first) == 3
    started = read_trials(folder).set_index("config_id")["started_at"]
    write(tmp_path, SMALL.replace("[none, simple, generative]", "[none, simple]"))
    edited = run(file)
    assert edited.returncode == 0
    trials = read_trials(folder)
    n_old = len(trials) - 8
    assert f"{n_old} more rows are from earlier versions" in edited.stdout
    again = trials.set_index("config_id")["started_at"]
    pd.testing.assert_series_equal(again[started.index], started)
    fresh = run(file, "--fresh", "--limit", "1")
    assert fresh.returncode == 3
    assert len(read_trials(folder)) == 1
    (moved,) = [path for path in folder.parent.iterdir() if path.name.startswith("small.")]
    assert len(read_trials(moved)) == len(trials)


def test_resources_that_no_node_has_are_an_error_not_a_wait(tmp_path: Path) -> None:
    done = run(write(tmp_path), "resources.cpu=1000")
    assert done.returncode == 4
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "resources" in line and "1000" in line


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("space.lr=-1", "space.lr: expected a number > 0, got -1"),
        (
            "space.n_replay=5000",
            "space.n_replay: expected at most 4000, the samples of the smallest task, with "
            "selection random, got 5000",
        ),
        (
            "data.tasks=split_mnist",
            "space.n_replay: expected at most 800, the samples of the smallest task, with "
            "selection random, got 900",
        ),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(
    tmp_path: Path, argument: str, expected: str
) -> None:
    file = write(tmp_path, SMALL.replace("n_replay: 200", "n_replay: 900"))
    done = run(file, argument)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"error: small.yaml: {expected}"]
    assert not (tmp_path / "results").exists()


def test_names_that_leave_the_results_folder_are_refused(tmp_path: Path) -> None:
    done = run(write(tmp_path), "--name", "../elsewhere")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_leaderboard_script_reads_the_sweep(small: Path) -> None:
    words = [sys.executable, "-m", "analysis.leaderboard", str(small)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    trials = read_trials(small)
    settings = [c for c in trials if c.startswith("config/") and c != "config/seed"]
    best = trials.groupby(settings, dropna=False)["average_accuracy"].mean().max()
    assert f"{best:.4f}" in done.stdout.splitlines()[1]


def test_a_sweep_joins_a_running_cluster(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    file = write(tmp_path)
    try:
        cluster.add_node(num_cpus=2, object_store_memory=400 * 2**20)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)  # the cluster asks for none
        refused = run(file, "--address", cluster.address)
        options = ("--without-token", "--wait-for-nodes", "1")
        done = run(file, "--address", cluster.address, *options)
        wait = (*options[:2], "2", "--wait-s", "1")
        late = run(file, "--name", "late", "--address", cluster.address, *wait)
    finally:
        cluster.shutdown()
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert refused.returncode == 2 and "expected a cluster that asks for a token" in line
    (line,) = [line for line in late.stderr.splitlines() if line.startswith("error:")]
    assert late.returncode == 4 and "expected 2 nodes that can run a pack" in line
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_tables(tmp_path / "results" / "small", small)


@pytest.mark.parametrize("store", [serve, serve_gs])
def test_results_in_a_store_are_those_of_a_folder(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Callable[[], AbstractContextManager[StoreServer]],
) -> None:
    for name, value in {**credentials(), **gs_credentials(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    file = write(tmp_path)
    with store() as server:
        address = server.address("runs")
        words = [*command(file, "-q", "--results", address)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        location = ResultsPath.of(address) / "small"
        assert_same_tables(str(location), small)
        names = location.tree()
    assert not (tmp_path / "results").exists()
    expected = [".lock", "accuracy.parquet", "epochs.parquet", "manifest.json", "sweep.yaml"]
    assert names == [*expected, "trials.parquet"]


def test_an_address_without_a_cluster_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    done = run(write(tmp_path), "--address", "127.0.0.1:1")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    expected = "error: --address (or RAY_ADDRESS): expected a running Ray cluster at 127.0.0.1:1"
    assert line.startswith(f"{expected}, got")
