"""The other experiments through the real command line: bounds, tasks, the shipped files."""

from pathlib import Path

import pytest
from sweep_runs import ROOT, assert_same_tables, run, write

from raysweep.packs.planning.packing import make_plan
from raysweep.settings.sweep import load_sweep
from raysweep.tables.ranking import leaderboard
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials

pytestmark = pytest.mark.slow

BOUNDS = """
experiment: replay
data: {tasks: split_mnist, n_tasks: 3, source: mnist_5k, task_samples: 300}
training: {epochs: 2, batch_size: 50}
space:
  encoder_widths: [30]
  n_bottleneck: 4
  rec_decoder_widths: [20]
  lr: 3e-3
  n_replay: 100
  any_of:
    - replay: none
    - replay: simple
      selection: herding
      selection_features: encoder
      retrieval: {grid_search: [cycle, mir]}
      n_candidates: 60
    - replay: generative
      generator: {grid_search: [per_task, continual]}
    - experiment: joint
    - experiment: joint
      model: vib
      beta_2: 1e-3
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def bounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep with its bounds."""
    file = write(tmp_path_factory.mktemp("bounds"), BOUNDS)
    done = run(file)
    assert done.returncode == 0, done.stdout + done.stderr
    return file.parent / "results" / "small"


def test_a_sweep_carries_its_bounds(bounds: Path) -> None:
    trials = read_trials(bounds)
    assert len(trials) == 14
    assert set(trials["status"]) == {"finished"}
    joint = trials["config/experiment"] == "joint"
    assert joint.sum() == 4
    sequence = ["forgetting", "backward_transfer", "forward_transfer", "learning_accuracy"]
    assert trials.loc[joint, sequence].isna().all(axis=None)
    assert trials.loc[~joint, sequence].notna().all(axis=None)
    assert trials.loc[joint, "config/replay"].isna().all()  # it does not apply
    mlp = trials[trials["config/model"] == "mlp"].fillna({"config/replay": "none"})
    mean = mlp.groupby(["config/experiment", "config/replay"])["average_accuracy"].mean()
    assert mean["joint", "none"] > mean["replay", "simple"] > mean["replay", "none"]
    stages = read_epochs(bounds).groupby("config_id")["stage"].unique()
    assert all(list(stages[i]) == ["train_joint"] for i in trials.loc[joint, "config_id"])
    after = read_accuracy(bounds).groupby("config_id")["after_task"].unique()
    for config_id, is_joint in zip(trials["config_id"], joint, strict=True):
        assert sorted(after[config_id]) == ([0, 3] if is_joint else [0, 1, 2, 3])
    board = leaderboard(trials, "average_accuracy", 3)
    assert board["ci95"].notna().all()


def test_resolved_space_with_bounds_gives_the_same_table(bounds: Path, tmp_path: Path) -> None:
    file = write(tmp_path, (bounds / "sweep.yaml").read_text())
    assert run(file, "pack=1").returncode == 0
    assert_same_tables(bounds, tmp_path / "results" / "small")


def test_transfers_follow_from_the_accuracy_table(bounds: Path) -> None:
    trials = read_trials(bounds).set_index("config_id")
    rows = read_accuracy(bounds).set_index(["config_id", "after_task", "on_task"])["accuracy"]
    for config_id, trial in trials[trials["config/experiment"] == "replay"].iterrows():
        r = rows[config_id]
        backward = [r[3, i] - r[i, i] for i in (1, 2)]
        forward = [r[i - 1, i] - r[0, i] for i in (2, 3)]
        assert trial["backward_transfer"] == pytest.approx(sum(backward) / 2, abs=1e-12)
        assert trial["forward_transfer"] == pytest.approx(sum(forward) / 2, abs=1e-12)


SIZES = {
    "beta_map": 720,
    "joint": 2,
    "mir": 60,
    "replay_perm": 4,
    "replay_split": 15,
    "split_mnist": 12,
    "vib": 108,
    "vib_deep": 1,
    "vib_published": 36,
    "vib_single": 66,
}


SEARCHES = {"vib_search": 100}


def test_each_shipped_search_space_is_counted_and_in_the_docs() -> None:
    shipped = sorted((ROOT / "search_spaces").glob("*.yaml"))
    assert [file.stem for file in shipped] == sorted([*SIZES, *SEARCHES])
    page = (ROOT / "docs" / "search-spaces.md").read_text()
    assert [file.name for file in shipped if f"`{file.name}`" not in page] == []


@pytest.mark.parametrize("name", SEARCHES)
def test_shipped_searches_are_what_the_docs_say(name: str) -> None:
    sweep = load_sweep(ROOT / "search_spaces" / f"{name}.yaml")
    assert (sweep.search.n_samples, sweep.configs, sweep.notes) == (SEARCHES[name], (), ())
    assert sweep.early_stopping is not None
    assert sweep.budget.time_s == 600
    planned = [c.id for pack in make_plan(sweep.examples, 2).packs for c in pack.configs]
    assert sorted(planned) == sorted(config.id for config in sweep.examples)


@pytest.mark.parametrize("name", SIZES)
def test_shipped_search_spaces_are_what_the_docs_say(name: str) -> None:
    file = ROOT / "search_spaces" / f"{name}.yaml"
    sweep = load_sweep(file)
    assert len(sweep.configs) == SIZES[name]
    assert not sweep.n_duplicates
    assert not sweep.notes
    planned = [c.id for pack in make_plan(sweep.configs, 2).packs for c in pack.configs]
    assert sorted(planned) == sorted(config.id for config in sweep.configs)


def test_the_frame_of_a_joint_run_has_a_best_epoch(bounds: Path) -> None:
    trials = read_trials(bounds)
    epochs = read_epochs(bounds)
    last = epochs[epochs["test_accuracy"].notna()]
    for _, trial in trials.iterrows():
        own = last[(last["config_id"] == trial["config_id"]) & (last["task"] == 3)]
        assert trial["best_accuracy"] == own["test_accuracy"].max()
        best = own.sort_values("epoch").reset_index(drop=True)["test_accuracy"].idxmax() + 1
        assert trial["best_epoch"] == best
