"""Damage to tables is seen, whatever byte it hits, and readers never fail for other reasons."""

import multiprocessing
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_rows import trial_row

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.tables import checksums, writer
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials, statuses
from raysweep.tables.schemas import TABLES
from raysweep.tables.survey import survey
from raysweep.tables.writer import Writer

READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "trials": read_trials,
    "epochs": read_epochs,
    "accuracy": read_accuracy,
}
N_LAST = 1024
N_READS = int(os.environ.get("RAYSWEEP_TEST_READS", "500"))
N_WRITES = 20
"""So often at least is a table written while it is read."""


def rows_of(config: Config) -> dict[str, list[dict[str, object]]]:
    return {
        "trials": [trial_row(config, average_accuracy=config.lr, host="h")],
        "epochs": [
            {"config_id": config.id, "stage": "train_task_1", "epoch": epoch, "loss": epoch / 3}
            for epoch in range(1, 6)
        ],
        "accuracy": [
            {"config_id": config.id, "after_task": 1, "on_task": task, "accuracy": task / 7}
            for task in (1, 2)
        ],
    }


def write_rows(results: Writer, *configs: Config) -> None:
    for config in configs:
        for table, rows in rows_of(config).items():
            results.add(table, rows)
    results.flush()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep's folder with a folded file and two parts of each table."""
    folder = ResultsFolder(tmp_path_factory.mktemp("damage") / "sweep")
    folder.open()
    results = Writer(folder)
    write_rows(results, *(Config(lr=lr) for lr in (0.1, 0.2, 0.3)))
    results.fold()
    write_rows(results, Config(lr=0.4))
    write_rows(results, Config(lr=0.5))
    folder.close()
    return folder.path


def files_of(folder: Path, table: str, is_folded: bool) -> Path:
    return (
        folder / f"{table}.parquet"
        if is_folded
        else sorted((folder / "parts" / table).iterdir())[0]
    )


def only_file(written: Path, folder: Path, table: str, is_folded: bool) -> Path:
    """Copy one file of a table into a folder of its own."""
    source = files_of(written, table, is_folded)
    target = folder / source.relative_to(written)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    return target


def assert_exact_or_named(
    folder: Path, table: str, path: Path, content: bytes, whole: pd.DataFrame
) -> bool:
    """Read a damaged file: either exactly what was acknowledged, or an error with its name."""
    path.write_bytes(content)
    try:
        frame = READERS[table](folder)
    except InputError as error:
        text = str(error)
        assert text.startswith(f"{path}: expected a complete Parquet file, got a damaged one (")
        assert "delete it" in text and "\n" not in text
        return True
    pd.testing.assert_frame_equal(frame, whole)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("is_folded", [True, False])
@pytest.mark.parametrize("table", TABLES)
def test_a_file_cut_at_any_of_its_last_bytes_is_named(
    written: Path, tmp_path: Path, table: str, is_folded: bool
) -> None:
    path = only_file(written, tmp_path, table, is_folded)
    whole = READERS[table](tmp_path)
    content = path.read_bytes()
    cuts = [*range(len(content) - 1, max(0, len(content) - N_LAST), -1), 100, 8, 4, 1, 0]
    for n_bytes in cuts:
        assert assert_exact_or_named(tmp_path, table, path, content[:n_bytes], whole), n_bytes


@pytest.mark.slow
@pytest.mark.parametrize("is_folded", [True, False])
@pytest.mark.parametrize("table", TABLES)
def test_a_bit_flipped_anywhere_is_named_or_harmless(
    written: Path, tmp_path: Path, table: str, is_folded: bool
) -> None:
    path = only_file(written, tmp_path, table, is_folded)
    whole = READERS[table](tmp_path)
    content = path.read_bytes()
    start = max(0, len(content) - N_LAST)
    n_silent = 0
    for i in [*range(0, start, 7), *range(start, len(content))]:
        flipped = bytearray(content)
        flipped[i] ^= 1 << i % 8
        n_silent += not assert_exact_or_named(tmp_path, table, path, bytes(flipped), whole)
    assert n_silent <= len(
        checksums._MARK
    )  # a digest that is not found, over content that is whole


def test_a_block_of_zeros_is_named(written: Path) -> None:
    path, whole = files_of(written, "trials", is_folded=True), read_trials(written)
    content = path.read_bytes()
    n_block = 512
    try:
        for start in range(0, len(content), 64):
            zeroed = bytearray(content)
            zeroed[start : start + n_block] = bytes(len(zeroed[start : start + n_block]))
            assert assert_exact_or_named(written, "trials", path, bytes(zeroed), whole), start
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_file_is_told_before_a_run_writes_anything(
    written: Path, tmp_path: Path, table: str
) -> None:
    folder = shutil.copytree(written, tmp_path / "sweep")
    path = files_of(folder, table, is_folded=False)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=rf"{path.name}: expected a complete Parq") as error:
        survey(folder)
    assert "delete it and run the sweep again to train what the file held" in str(error.value)


def test_without_the_damaged_file_all_others_are_there(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "sweep")
    path = files_of(folder, "trials", is_folded=False)
    path.write_bytes(b"damaged")
    path.unlink()
    assert set(statuses(folder)) == {Config(lr=lr).id for lr in (0.1, 0.2, 0.3, 0.5)}


def test_damage_during_a_run_stops_the_fold_and_keeps_every_file(
    written: Path, tmp_path: Path
) -> None:
    folder = ResultsFolder(shutil.copytree(written, tmp_path / "sweep"))
    folder.open()
    path = files_of(folder.path, "epochs", is_folded=False)
    path.write_bytes(path.read_bytes()[:-9])
    before = {file: file.read_bytes() for file in folder.path.rglob("*.parquet")}
    with pytest.raises(WriteError, match=f"{path.name}: expected a complete Parquet file"):
        Writer(folder).fold()
    folder.close()
    assert {file: file.read_bytes() for file in folder.path.rglob("*.parquet")} == before


def test_files_without_a_digest_are_read_and_their_damage_is_told(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    folder.close()
    path = folder.path / "accuracy.parquet"
    pq.write_table(pa.Table.from_pylist(rows_of(Config())["accuracy"]), path)
    assert len(read_accuracy(folder.path)) == 2
    content = path.read_bytes()
    for n_bytes in range(len(content)):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(InputError, match="expected a complete Parquet file, got a damaged one"):
            read_accuracy(folder.path)


def test_a_digest_that_is_lost_is_missed() -> None:
    table = pa.table({"config_id": ["a"]})
    content = checksums.encode(table)
    assert checksums.decode(content).equals(table)
    (n_footer,) = struct.unpack("<I", content[-8:-4])
    footer = len(content) - 8 - n_footer
    with pytest.raises(checksums.DamagedError, match="digest is missing"):
        checksums.decode(content[: footer - checksums._N_SEAL] + content[footer:])


def test_other_readers_see_plain_parquet(written: Path) -> None:
    path = written / "trials.parquet"
    assert len(pd.read_parquet(path)) == pq.read_table(path).num_rows == 3
    assert pq.read_schema(path).names == TABLES["trials"].arrow.names


# Reading without end while a sweep is written


def _write_on(path: str, acknowledged: "Synchronized[int]", is_over: "Synchronized[int]") -> None:
    writer._FOLD_AFTER_PARTS = 20
    folder = ResultsFolder(Path(path))
    folder.open()
    results = Writer(folder)
    n = 0
    while not is_over.value:
        key = {"after_task": n % 1000, "on_task": 1}  # so that the table stays small
        results.add("accuracy", [{"config_id": f"{n // 1000 % 5}", **key, "accuracy": float(n)}])
        results.flush()
        n += 1
        acknowledged.value = n
    folder.close()


def read_while_written(folder: Path, n_reads: int) -> int:
    """Read a table often while another process flushes and folds; give how often that wrote.

    Row n has the accuracy n, so the largest tells which rows a reader saw.
    """
    context = multiprocessing.get_context("spawn")
    acknowledged = context.Value("q", 0)
    is_over = context.Value("q", 0)
    process = context.Process(target=_write_on, args=(str(folder), acknowledged, is_over))
    process.start()
    try:
        while not acknowledged.value:
            time.sleep(0.01)
            assert process.is_alive()
        n = 0
        while n < n_reads or acknowledged.value <= N_WRITES:  # it folds meanwhile
            n += 1
            n_before = acknowledged.value
            frame = read_accuracy(folder)
            assert frame["accuracy"].max() >= n_before - 1
            assert len(frame) >= min(n_before, 5000)
            assert not frame.duplicated(["config_id", "after_task", "on_task"]).any()
            assert process.is_alive()
    finally:
        is_over.value = 1
        process.join(timeout=60)
    assert process.exitcode == 0
    return int(acknowledged.value)


@pytest.mark.slow
def test_no_read_fails_or_misses_a_row_while_a_sweep_is_written(tmp_path: Path) -> None:
    assert read_while_written(tmp_path / "sweep", N_READS) > N_WRITES


def main() -> None:
    """Read 10,000 times (or as often as the argument says) and say how long it took."""
    n_reads = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="reads-") as name:
        start = time.monotonic()
        n_written = read_while_written(Path(name) / "sweep", n_reads)
        print(f"{n_reads} reads, {n_written} flushes, {time.monotonic() - start:.0f} s: no error")


if __name__ == "__main__":
    main()
