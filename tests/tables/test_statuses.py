"""Words of the column ``status``: members of an enum in the code, plain text in every file."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from table_rows import trial_row

from raysweep.learning.config import Config
from raysweep.monitor.terminal import PARTS
from raysweep.statuses import ENDED, Status
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.reader import read_trials, statuses
from raysweep.tables.schemas import TABLES
from raysweep.tables.writer import Writer


def test_words_are_those_of_the_tables_so_far() -> None:
    assert list(Status) == ["finished", "diverged", "stopped", "failed", "missing"]
    assert set(ENDED) == set(Status) - {Status.MISSING}
    assert [name for name in PARTS if name in set(Status)] == list(ENDED)


def test_tables_hold_plain_text(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    writer = Writer(folder)
    configs = [Config(seed=seed) for seed in range(len(ENDED))]
    for config, status in zip(configs, ENDED, strict=True):
        writer.add("trials", [trial_row(config, status)])
    writer.fold()
    column = pq.read_table(folder.path / "trials.parquet")["status"]
    assert column.type == pa.string()
    assert column.to_pylist() == ["finished", "diverged", "stopped", "failed"]
    assert {type(value) for value in column.to_pylist()} == {str}
    assert {status for status, _ in statuses(folder.path).values()} == set(ENDED)
    trials = read_trials(folder.path)
    assert trials["config_id"][trials["status"] == Status.STOPPED].tolist() == [configs[2].id]
    folder.close()


def test_words_and_members_are_one_key() -> None:
    assert Counter(["failed", Status.FAILED])["failed"] == 2
    assert json.dumps({Status.FAILED: Status.FINISHED}) == '{"failed": "finished"}'


def test_the_docs_of_the_column_name_each_word() -> None:
    (column,) = [c for c in TABLES["trials"].columns if c.name == "status"]
    assert column.description.startswith("`finished`, `diverged`, `stopped` or `failed`;")
