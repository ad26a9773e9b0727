"""A run trains again what lost its rows, says so, and ends with the tables of a whole run."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sweep_runs import SMALL, assert_same_tables, run, small_sweep, write

from raysweep.tables.completeness import COUNTS
from raysweep.tables.reader import read_trials
from raysweep.tables.survey import survey

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a copy of the small sweep."""
    write(tmp_path)
    return shutil.copytree(small_sweep(tmp_path_factory), tmp_path / "results" / "small")


def test_what_a_deleted_table_held_is_trained_again(
    copied: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = copied.parents[1] / "small.yaml"
    (copied / "epochs.parquet").unlink()
    dry = run(file, "--dry-run")
    note = (
        "12 of 12 configurations that have ended lack rows: only 0 of 52 rows of epochs are there "
        "(files were deleted, lost or replaced); they are trained again"
    )
    assert note in dry.stderr and "0 done, 12 to do" in dry.stdout
    limited = run(file, "--limit", "5")
    assert limited.returncode == 3 and "5 finished, 7 missing" in limited.stdout, limited.stdout
    assert note in limited.stderr and "5 of 12 configurations to train" in limited.stderr
    done = run(file)
    assert done.returncode == 0 and "12 finished" in done.stdout, done.stdout + done.stderr
    assert "7 of 12 configurations that have ended lack rows: only 0 of " in done.stderr
    assert set(read_trials(copied)["attempt"]) == {2}
    assert_same_tables(copied, small_sweep(tmp_path_factory))
    again = run(file)
    assert "lack rows" not in again.stderr and "nothing to train" in again.stderr


def test_a_folder_of_0_3_0_is_not_trained_again_for_nothing(copied: Path) -> None:
    for table in ("trials", *COUNTS):
        frame = pq.read_table(copied / f"{table}.parquet").replace_schema_metadata(None)
        kept = [name for name in frame.column_names if name not in COUNTS.values()]
        pq.write_table(frame.select(kept), copied / f"{table}.parquet")
    done = run(copied.parents[1] / "small.yaml")
    assert done.returncode == 0 and "nothing to train" in done.stderr, done.stderr
    shutil.copy(copied / "accuracy.parquet", copied / "trials.parquet")
    refused = run(copied.parents[1] / "small.yaml")
    assert refused.returncode == 2
    assert "trials.parquet: expected a file of the table trials, got one" in refused.stderr


def test_a_search_trains_again_what_lacks_rows_and_suggests_nothing_new(tmp_path: Path) -> None:
    text = SMALL.replace("lr: 1e-3", "lr: {loguniform: [1e-4, 1e-2]}")
    text = text.replace("{grid_search: [none, simple, generative]}", "none")
    text = text.replace("{grid_search: [vib, comparison]}", "vib")
    text = text.replace("{grid_search: [0, 0.01]}", "0")
    file = write(tmp_path, text + "search: {method: optuna, n_samples: 4}\n")
    folder = tmp_path / "results" / "small"
    first = run(file)
    assert first.returncode == 0, first.stdout + first.stderr
    ids = set(read_trials(folder)["config_id"])
    (folder / "accuracy.parquet").unlink()
    done = run(file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 configurations that have ended lack rows: only 0 of 24" in done.stderr
    assert set(read_trials(folder)["config_id"]) == ids
    assert not survey(folder).gaps
