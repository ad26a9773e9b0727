"""Files that are not what their names say: other tables, other sweeps, stray ones, huge ones."""

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_rows import accuracy_rows, trial_row

from raysweep import results
from raysweep.analysis.sweeps import Sweeps
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.tables import checksums
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.pareto import read_pareto
from raysweep.tables.part_files import part_files, stray_note
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_accuracy, read_epochs, read_trials
from raysweep.tables.survey import survey
from raysweep.tables.writer import Writer

READERS = {"trials": read_trials, "epochs": read_epochs, "accuracy": read_accuracy}


def write_sweep(path: Path, lr: float = 0.1, is_folded: bool = True) -> Path:
    """Write a sweep of one configuration that failed, so that it needs no rows."""
    opened = ResultsFolder(path)
    opened.open()
    writer = Writer(opened)
    config = Config(lr=lr)
    writer.add("trials", [trial_row(config, "failed")])
    writer.add("epochs", [{"config_id": config.id, "stage": "train_task_1", "epoch": 1}])
    writer.add("accuracy", accuracy_rows(0, 2))
    if is_folded:
        writer.fold()
    writer.flush()
    opened.close()
    return path


def as_written_by_0_3_0(file: Path) -> None:
    pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)


# Another table, another sweep


@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize("table", READERS)
@pytest.mark.parametrize("other", READERS)
def test_a_table_copied_over_another_is_refused(
    tmp_path: Path, table: str, other: str, is_early: bool
) -> None:
    folder = write_sweep(tmp_path / "sweep")
    path = folder / f"{table}.parquet"
    path.write_bytes((folder / f"{other}.parquet").read_bytes())
    if is_early:
        as_written_by_0_3_0(path)
    if table == other:
        assert len(READERS[table](folder)) == (2 if table == "accuracy" else 1)
        return
    expected = (
        rf"{re.escape(str(path))}: expected a file of the table {table}, got one .*; delete it"
    )
    for read in (READERS[table], survey):
        with pytest.raises(InputError, match=expected) as error:
            read(folder)
        assert "\n" not in str(error.value)


def test_a_part_of_another_table_is_refused(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", is_folded=False)
    (part,) = (folder / "parts" / "accuracy").iterdir()
    shutil.copy(part, folder / "parts" / "trials" / part.name)
    with pytest.raises(InputError, match=r"expected a file of the table trials, got one of 'acc"):
        read_trials(folder)


def test_any_parquet_file_is_not_a_table(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    pq.write_table(pa.table({"x": [1]}), folder / "trials.parquet")
    with pytest.raises(InputError, match="got one without the column config_id"):
        read_trials(folder)


@pytest.mark.parametrize("table", READERS)
def test_a_table_of_another_sweep_is_refused(tmp_path: Path, table: str) -> None:
    folder = write_sweep(tmp_path / "sweep")
    other = write_sweep(tmp_path / "other", lr=0.2)
    shutil.copy(other / f"{table}.parquet", folder)
    with pytest.raises(InputError) as error:
        survey(folder)
    assert str(error.value) == (
        f"{folder / table}.parquet: expected a file of the same sweep as those beside it, got one "
        f"of another sweep; put the right one back, or delete it and run the sweep again"
    )


def test_a_part_of_another_sweep_is_refused(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    other = write_sweep(tmp_path / "other", lr=0.2, is_folded=False)
    (part,) = (other / "parts" / "trials").iterdir()
    shutil.copy(part, folder / "parts" / "trials")
    with pytest.raises(InputError, match="expected a file of the same sweep"):
        read_trials(folder)


def test_a_folder_may_be_copied_and_written_on(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", is_folded=False)
    copied = shutil.copytree(folder, tmp_path / "elsewhere" / "renamed")
    write_sweep(copied, lr=0.3)
    assert len(survey(copied).rows) == 2
    # What was written there is of the same sweep, so it may come back.
    for table in READERS:
        shutil.copy(copied / f"{table}.parquet", folder)
    assert len(survey(folder).rows) == 2


def test_files_of_0_3_0_fit_any_sweep_and_are_given_its_id(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    for table in READERS:
        as_written_by_0_3_0(folder / f"{table}.parquet")
    write_sweep(folder, lr=0.2, is_folded=False)
    write_sweep(folder, lr=0.3, is_folded=False)  # another run finds the id in the parts
    assert len(survey(folder).rows) == 3
    write_sweep(folder, lr=0.4)
    metadata = [pq.read_schema(folder / f"{table}.parquet").metadata for table in READERS]
    assert len({found[b"raysweep.sweep"] for found in metadata}) == 1
    assert [found[b"raysweep.table"].decode() for found in metadata] == list(READERS)


def test_a_new_sweep_has_another_id_even_under_the_same_name(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    before = pq.read_schema(folder / "trials.parquet").metadata
    opened = ResultsFolder(folder)
    moved = opened.open(is_fresh=True)
    opened.close()
    write_sweep(folder)
    assert pq.read_schema(folder / "trials.parquet").metadata != before
    assert moved is not None
    shutil.copy(Path(str(moved)) / "trials.parquet", folder)
    with pytest.raises(InputError, match="of another sweep"):
        survey(folder)


# Strays


def stray(parts: Path, kind: str) -> Path:
    """Plant something that is not a part file."""
    (part,) = parts.glob("part-*.parquet")
    names = {
        "copy": "part-copy.parquet",
        "editor": f"{part.name}~",
        "other digits": part.name.replace("part-0", "part-"),
        "arabic digits": part.name.replace("0", "\u0660"),
        "far future": f"part-{10**20 - 1}-00000001.parquet",
        "empty": "part-.parquet",
        "link": f"part-{1:020d}-00000001.parquet",
        "folder": f"part-{2:020d}-00000001.parquet",
        "pipe": f"part-{3:020d}-00000001.parquet",
    }
    path = parts / names[kind]
    if kind == "link":
        path.symlink_to(part)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    else:
        shutil.copy(part, path)
    return path


KINDS = ["copy", "editor", "other digits", "arabic digits", "far future", "empty"]
KINDS += ["link", "folder", "pipe"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stray_file_is_named_and_passed_over(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(tmp_path / "sweep", is_folded=False)
    path = stray(folder / "parts" / "trials", kind)
    note = stray_note(ResultsPath.of(folder))
    assert note == (
        f"{path} is not a file that raysweep wrote: it is left as it is, and any rows in it do not "
        f"count"
    )
    assert survey(folder).strays == note
    assert len(Sweeps([folder]).trials) == 1
    assert capsys.readouterr().err == f"note: {note}\n"
    with pytest.warns(UserWarning) as warned:
        assert len(results.read_trials(folder)) == 1
    assert [str(warning.message) for warning in warned] == [note]
    write_sweep(folder, lr=0.2)  # the writer, too
    assert len(read_trials(folder)) == len(pd.read_parquet(folder / "trials.parquet")) == 2
    assert os.path.lexists(path)
    assert len(part_files(ResultsPath.of(folder), "trials")) == 0
    write_sweep(folder, lr=0.3, is_folded=False)
    assert len(read_trials(folder)) == 3


def test_many_strays_are_named_in_one_line(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    for number in range(5):
        (folder / "parts" / "epochs" / f"copy-{number}.parquet").touch()
    note = stray_note(ResultsPath.of(folder))
    assert note is not None and "copy-2.parquet and 2 more are not files that raysweep" in note


def test_half_written_files_are_no_strays(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    (folder / "parts" / "epochs" / ".tmp-1-part-1.parquet").touch()
    assert stray_note(ResultsPath.of(folder)) is None


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_table_that_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    folder = write_sweep(tmp_path / "sweep")
    path = folder / "epochs.parquet"
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(
        InputError, match=r"epochs\.parquet is a (pipe|folder), not a file; remove it"
    ):
        read_epochs(folder)


# Files that unpack to many times their size

LIMIT = "expected a table of at most 256 MB, got .* KB that unpack to .* MB"


def test_a_small_file_of_many_rows_is_not_unpacked(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    path = folder / "accuracy.parquet"
    n = 12_000_000
    ids = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), n), ["a"])
    ones = pa.repeat(1, n)
    table = pa.table({"config_id": ids, "after_task": ones, "on_task": ones})
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 300_000
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=f"{path}: {LIMIT}"):
        read_accuracy(folder)
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_a_long_text_that_many_rows_share_is_not_repeated(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    path = folder / "trials.parquet"
    n = 2000
    index = pa.array([0] * n, pa.int32())
    text = pa.DictionaryArray.from_arrays(index, ["x" * 1_000_000])
    table = pa.table({"config_id": [f"{i:016x}" for i in range(n)], "status": text, "error": text})
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 300_000
    with pytest.raises(InputError, match=f"{path}: {LIMIT}"):
        read_trials(folder)
    shutil.copy(path, folder / "pareto.parquet")
    with pytest.raises(InputError, match=f"pareto.parquet: {LIMIT}; run the sweep again to rewr"):
        read_pareto(folder)


def test_large_tables_of_many_texts_are_read_as_they_were_written() -> None:
    n = 20_000  # enough that the footer does not tell how long the texts are
    table = pa.table(
        {
            "config_id": [f"{i * 7919:016x}" for i in range(n)],
            "stage": [None if i % 7 == 0 else f"train_task_{i % 3}" for i in range(n)],
            "epoch": list(range(n)),
        }
    )
    content = checksums.encode(table)
    assert checksums.decode(content).equals(table)
    assert checksums.decode(content, ["stage"]).equals(table.select(["stage"]))
