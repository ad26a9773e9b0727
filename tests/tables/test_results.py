"""Tables: written atomically, read while written, each key once."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_rows import accuracy_rows, frame_of, read_while_flushed, trial_row

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.tables.folder import ResultsFolder, WriteError, check_name
from raysweep.tables.ranking import leaderboard
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials, statuses
from raysweep.tables.schemas import TABLES, config_columns
from raysweep.tables.writer import Writer


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    return folder


def test_rows_are_readable_as_soon_as_they_are_flushed(folder: ResultsFolder) -> None:
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 3))
    assert len(read_accuracy(folder.path)) == 0
    writer.flush()
    assert len(read_accuracy(folder.path)) == 3
    assert len(read_trials(folder.path)) == len(read_epochs(folder.path)) == 0


def test_a_key_delivered_twice_counts_once_and_the_last_row_wins(folder: ResultsFolder) -> None:
    writer = Writer(folder)
    for value in (0.1, 0.2, 0.3):
        writer.add("accuracy", accuracy_rows(0, 2, value))
        writer.flush()
    writer.fold()
    writer.add("accuracy", accuracy_rows(1, 2, 0.4))
    writer.flush()
    frame = read_accuracy(folder.path).set_index("config_id")["accuracy"]
    assert sorted(frame.to_dict().items()) == [
        (f"{0:016x}", 0.3),
        (f"{1:016x}", 0.4),
        (f"{2:016x}", 0.4),
    ]


def test_a_key_twice_in_one_part_counts_once(folder: ResultsFolder) -> None:
    writer = Writer(folder)
    writer.add("accuracy", [*accuracy_rows(0, 2, 0.1), *accuracy_rows(0, 2, 0.2)])
    writer.flush()
    assert sorted(read_accuracy(folder.path)["accuracy"]) == [0.2, 0.2]


def test_rows_that_could_not_be_written_are_kept_for_the_next_flush(folder: ResultsFolder) -> None:
    writer = Writer(folder)
    parts = folder.path / "parts" / "accuracy"
    parts.rmdir()
    writer.add("accuracy", accuracy_rows(0, 3))
    with pytest.raises(WriteError, match="expected to write results, got: No such file"):
        writer.flush()
    parts.mkdir()
    writer.flush()
    assert len(read_accuracy(folder.path)) == 3


def test_a_clock_set_back_does_not_bring_old_rows_back(
    folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config()
    for clock, status in ((2_000, "failed"), (1_000, "finished")):
        monkeypatch.setattr("raysweep.tables.writer.time.time_ns", lambda: clock)  # noqa: B023
        writer = Writer(folder)
        writer.add("trials", [trial_row(config, status)])
        writer.flush()
    assert statuses(folder.path)[config.id][0] == "finished"


def test_parts_of_a_later_run_come_after_those_of_an_earlier_one(folder: ResultsFolder) -> None:
    config = Config()
    for status in ("failed", "finished"):
        writer = Writer(folder)
        writer.add("trials", [trial_row(config, status)])
        writer.flush()
    assert statuses(folder.path) == {config.id: ("finished", 1)}


def test_a_crash_between_fold_and_removal_of_parts_doubles_nothing(folder: ResultsFolder) -> None:
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 5))
    writer.flush()
    (part,) = (folder.path / "parts" / "accuracy").iterdir()
    kept = part.read_bytes()
    writer.fold()
    part.write_bytes(kept)
    assert len(read_accuracy(folder.path)) == 5


def test_pandas_alone_opens_the_folded_tables(folder: ResultsFolder) -> None:
    writer = Writer(folder)
    writer.add("trials", [trial_row(Config(lr=lr)) for lr in (1e-3, 1e-2)])
    writer.fold()
    frame = pd.read_parquet(folder.path / "trials.parquet")
    assert list(frame.columns) == [column.name for column in TABLES["trials"].columns]
    assert sorted(frame["config/lr"]) == [1e-3, 1e-2]
    assert len(pd.read_parquet(folder.path / "epochs.parquet")) == 0


def test_readers_never_fail_or_miss_rows_while_parts_are_folded(folder: ResultsFolder) -> None:
    def count() -> int:
        return len(read_accuracy(folder.path))

    assert read_while_flushed(Writer(folder), 150, count, fold_every=7) > 10
    assert count() == 1500


def test_a_damaged_part_is_named_with_the_way_on(folder: ResultsFolder) -> None:
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 5))
    writer.flush()
    (part,) = (folder.path / "parts" / "accuracy").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(
        InputError, match=f"{part.name}.*damaged.*delete it and run the sweep again"
    ):
        read_accuracy(folder.path)


def test_half_written_files_of_a_killed_driver_are_ignored_and_cleared(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    names = (f".tmp-{'a' * 16}-part-1.parquet", ".tmp-some-host-1-part-1.parquet")  # and of 0.3.0
    stale = [folder.path / "parts" / "accuracy" / name for name in names]
    for file in stale:
        file.write_bytes(b"PAR1 half")
    assert len(read_accuracy(folder.path)) == 0
    folder.close()
    folder.open()
    assert not any(file.exists() for file in stale)


def test_a_table_of_an_older_version_gains_null_columns(folder: ResultsFolder) -> None:
    old = pa.table({"config_id": ["a"], "status": ["finished"]})
    pq.write_table(old, folder.path / "trials.parquet")
    writer = Writer(folder)
    writer.add("trials", [trial_row(Config())])
    writer.fold()
    frame = read_trials(folder.path).set_index("config_id")
    assert frame.loc["a", "status"] == "finished"
    assert pd.isna(frame.loc["a", "config/lr"])


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(InputError, match="expected no folder or a sweep's folder"):
        ResultsFolder(tmp_path).open()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_sweep_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: expected a sweep's folder"):
        read_trials(tmp_path / "nothing")


def test_another_process_cannot_take_the_lock(folder: ResultsFolder) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from raysweep.tables.folder import ResultsFolder\n"
        "ResultsFolder(Path(sys.argv[1])).open()"
    )
    words = [sys.executable, "-c", code, str(folder.path)]
    held = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "holds it" in held.stderr
    folder.close()
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/tmp/x", ".hidden", "-x", "a b"])
def test_names_that_could_escape_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        check_name(name)


@pytest.mark.parametrize("name", ["vib", "vib_published", "a-b.c", "2026"])
def test_plain_names_pass(name: str) -> None:
    assert check_name(name) == name


def test_every_setting_has_its_column() -> None:
    columns = {column.name: column for column in TABLES["trials"].columns}
    row = config_columns(Config(encoder_widths=(400, 200), class_decoder_widths=()))
    assert {f"config/{name}" for name in Config.model_fields} <= set(row)
    assert set(row) <= set(columns)
    assert row["config/encoder_widths"] == "400-200"
    assert row["config/class_decoder_widths"] == ""
    assert all(column.description.endswith(".") for column in columns.values())


def boards_trials() -> pd.DataFrame:
    def row(lr: float, seed: int, accuracy: float | None, status: str) -> dict[str, object]:
        config = Config(lr=lr, seed=seed)
        return trial_row(config, status, average_accuracy=accuracy)

    rows = [
        row(1e-3, 0, 0.8, "finished"),
        row(1e-3, 1, 0.9, "finished"),
        row(1e-2, 0, 0.95, "finished"),
        row(1e-2, 1, 0.6, "finished"),
        row(1e-1, 0, None, "diverged"),
        row(1e-1, 1, 0.7, "finished"),
        row(1.0, 0, None, "diverged"),
        row(1.0, 1, None, "diverged"),
    ]
    return frame_of(rows)


def test_leaderboard_ranks_by_the_mean_over_seeds_not_by_a_lucky_one() -> None:
    board = leaderboard(boards_trials())
    assert list(board["lr"]) == [1e-3, 1e-2, 1e-1]
    assert board["mean"].tolist() == pytest.approx([0.85, 0.775, 0.7])
    assert list(board["seeds"]) == ["2/2", "2/2", "1/2"]
    assert board["sd"].iloc[0] == pytest.approx(0.1 / 2**0.5)
    assert pd.isna(board["sd"].iloc[2])


def test_leaderboard_puts_least_forgetting_first() -> None:
    trials = boards_trials().assign(forgetting=[0.3, 0.1, 0.4, 0.4, 0, 0.1, 0, 0])
    board = leaderboard(trials, "forgetting", n=2)
    assert list(board["lr"]) == [1e-3, 1e-2]


def test_leaderboard_names_a_metric_near_a_misspelt_one() -> None:
    with pytest.raises(InputError, match="did you mean average_accuracy"):
        leaderboard(boards_trials(), "avarage_accuracy")
