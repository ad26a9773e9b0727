"""No table vouches for another: a configuration that lacks rows is known, however it ended."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_configs import configure
from table_rows import frame_of, trial_row

from raysweep import load
from raysweep.analysis.sweeps import Sweeps
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import epochs_of, stages_of
from raysweep.monitor.snapshot import SweepStatus
from raysweep.packs.run import PackRun
from raysweep.settings.stopping import Stop
from raysweep.settings.sweep import sweep_from
from raysweep.tables import completeness
from raysweep.tables.completeness import COUNTS, find_gaps, rows_needed
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.reader import statuses
from raysweep.tables.schemas import TABLES
from raysweep.tables.survey import survey
from raysweep.tables.writer import Writer
from raysweep.tune.scheduling.ledger import Ledger

TEXT = """
experiment: replay
data: {tasks: split_mnist, n_tasks: 3}
training: {epochs: 4}
space: {replay: simple, lr: {grid_search: [0.1, 0.2, 0.3]}}
"""
CONFIGS = sweep_from("x.yaml", TEXT.encode()).configs
ENDS: list[dict[str, Any]] = [
    {"status": "finished", "forward_transfer": 0.1},
    {"status": "diverged", "diverged_stage": "train_task_2", "diverged_epoch": 3},
    {"status": "stopped", "stopped_rung": 9},
]


def rows_of(config: Config, outcome: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Make the rows of a configuration that ended so, without a look at the code under test."""
    n = {"finished": 12, "diverged": 7, "stopped": 9}[outcome["status"]]
    last = {"finished": 3, "diverged": 1, "stopped": 2}[outcome["status"]]
    places = [(f"train_task_{task}", epoch) for task in (1, 2, 3) for epoch in (1, 2, 3, 4)]
    tested = [(after, on) for after in range(last + 1) for on in (1, 2, 3)]
    own = {"config_id": config.id}
    return {
        "epochs": [own | {"stage": stage, "epoch": epoch} for stage, epoch in places[:n]],
        "accuracy": [own | {"after_task": a, "on_task": o, "accuracy": 0.5} for a, o in tested],
        "trials": [trial_row(config, **(dict(outcome) | rows_needed(config, outcome)))],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a sweep whose configurations finished, diverged and stopped; two parts of each."""
    results = ResultsFolder(tmp_path / "results" / "sweep")
    results.open()
    results.write_text("sweep.yaml", TEXT)
    writer = Writer(results)
    for config, outcome in zip(CONFIGS, ENDS, strict=True):
        for table, rows in rows_of(config, outcome).items():
            writer.add(table, rows)
        writer.flush()
    results.close()
    return results.path


def fold(path: Path) -> None:
    results = ResultsFolder(path)
    results.open()
    Writer(results).fold()
    results.close()


def as_written_by_0_3_0(path: Path) -> None:
    """Write the tables again as that version did: without counts, without table and sweep."""
    fold(path)
    for table in ("trials", *COUNTS):
        frame = pq.read_table(path / f"{table}.parquet").replace_schema_metadata(None)
        kept = [name for name in frame.column_names if name not in COUNTS.values()]
        pq.write_table(frame.select(kept), path / f"{table}.parquet")


def test_what_is_whole_is_whole(folder: Path) -> None:
    assert not survey(folder).gaps
    fold(folder)
    found = survey(folder)
    assert not found.gaps and found.gap_note() is None
    assert found.rows == statuses(folder)


@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize("table", COUNTS)
def test_a_table_that_is_gone_is_missed_for_every_status(
    folder: Path, table: str, is_early: bool
) -> None:
    fold(folder)
    if is_early:
        as_written_by_0_3_0(folder)
        assert not survey(folder).gaps
    (folder / f"{table}.parquet").unlink()
    found = survey(folder)
    assert found.lacking == {config.id for config in CONFIGS}
    # Version 0.3.0 does not tell whether accuracy was measured before the training that diverged.
    n = {"epochs": 12 + 7 + 9, "accuracy": 12 + 6 + 9 - (6 if is_early else 0)}[table]
    assert found.gap_note() == (
        f"3 of 3 configurations that have ended lack rows: only 0 of {n} rows of {table} are there "
        f"(files were deleted, lost or replaced)"
    )


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("table", COUNTS)
def test_a_single_part_that_is_gone_is_missed(folder: Path, table: str, number: int) -> None:
    sorted((folder / "parts" / table).iterdir())[number].unlink()
    found = survey(folder)
    assert found.lacking == {CONFIGS[number].id}
    assert [gap.table for gap in found.gaps] == [table]


@pytest.mark.parametrize("is_early", [False, True])
def test_every_row_counts(folder: Path, is_early: bool) -> None:
    fold(folder)
    if is_early:
        as_written_by_0_3_0(folder)
    whole = pq.read_table(folder / "epochs.parquet").to_pandas()
    for row in range(0, len(whole), 5):
        left = pa.Table.from_pandas(whole.drop(index=row), preserve_index=False)
        pq.write_table(left, folder / "epochs.parquet")
        assert survey(folder).lacking == {whole.loc[row, "config_id"]}


def test_rows_of_other_configurations_are_left_alone(folder: Path) -> None:
    other = Config(lr=0.7)
    results = ResultsFolder(folder)
    results.open()
    writer = Writer(results)
    writer.add("epochs", [{"config_id": other.id, "stage": "train_task_1", "epoch": 1}])
    writer.add("trials", [trial_row(Config(lr=0.8), n_epoch_rows=5, n_accuracy_rows=5)])
    writer.flush()
    results.close()
    sweep = sweep_from("x.yaml", TEXT.encode())
    said: list[str] = []
    Ledger.of(results.location).say_lost(sweep, said.append)
    assert said == []  # those that lack rows belong to an earlier search space
    assert Ledger.of(results.location).missing(sweep) == [CONFIGS[2]]  # there is no early stopping


@pytest.mark.parametrize("number", [1, 2])
def test_later_rows_of_an_earlier_attempt_do_not_stand_in_for_lost_ones(
    folder: Path, number: int
) -> None:
    whole = rows_of(CONFIGS[number], ENDS[0])
    later = {"epochs": whole["epochs"][-2:], "accuracy": whole["accuracy"][-3:]}
    results = ResultsFolder(folder)
    results.open()
    writer = Writer(results)
    for table, rows in later.items():
        writer.add(table, rows)
    writer.fold()
    results.close()
    assert not survey(folder).gaps
    for table in COUNTS:
        frame = pq.read_table(folder / f"{table}.parquet").to_pandas()
        first = frame[frame["config_id"] == CONFIGS[number].id].index[0]
        left = pa.Table.from_pandas(frame.drop(index=first), preserve_index=False)
        pq.write_table(left, folder / f"{table}.parquet")
    found = survey(folder)
    assert found.lacking == {CONFIGS[number].id} and len(found.gaps) == 2


def test_failed_ones_need_no_rows() -> None:
    row = trial_row(CONFIGS[0], "failed")
    assert rows_needed(CONFIGS[0], row) == {"n_epoch_rows": 0, "n_accuracy_rows": 0}
    none = {table: TABLES[table].arrow.empty_table() for table in COUNTS}
    assert find_gaps(frame_of([row]), none) == []


def test_what_lacks_rows_is_missing_and_keeps_its_attempts(folder: Path) -> None:
    sorted((folder / "parts" / "epochs").iterdir())[0].unlink()
    ledger = Ledger(survey(folder))
    sweep = sweep_from("x.yaml", TEXT.encode())
    assert ledger.status(CONFIGS[0]) == "missing" and ledger.attempts(CONFIGS[0]) == 1
    assert CONFIGS[0] in ledger.missing(sweep) and CONFIGS[0] not in ledger.ended(sweep)
    said: list[str] = []
    ledger.say_lost(sweep, said.append)
    assert said == [
        "note: 1 of 3 configurations that have ended lack rows: only 0 of 12 rows of epochs are "
        "there (files were deleted, lost or replaced); they are trained again"
    ]


def test_a_row_that_another_version_wrote_is_not_trained_again(folder: Path) -> None:
    as_written_by_0_3_0(folder)
    trials = pq.read_table(folder / "trials.parquet").to_pandas()
    trials["config/lr"] = 0.123  # so that settings and id do not match
    pq.write_table(pa.Table.from_pandas(trials), folder / "trials.parquet")
    (folder / "epochs.parquet").unlink()
    assert not survey(folder).gaps


def test_rows_of_both_versions_in_one_table(folder: Path) -> None:
    as_written_by_0_3_0(folder)
    results = ResultsFolder(folder)
    results.open()
    writer = Writer(results)
    for table, rows in rows_of(Config(**(CONFIGS[0].model_dump() | {"lr": 0.4})), ENDS[0]).items():
        writer.add(table, rows)
    writer.fold()
    results.close()
    assert not survey(folder).gaps
    (folder / "epochs.parquet").unlink()
    assert len(survey(folder).lacking) == 4


# What a pack writes


def trained(configs: list[Config], source: Source, stops: Mapping[str, int]) -> dict[str, Any]:
    """Train a pack; stop configurations after so many epochs of their classifier."""
    run = PackRun(configs, source)
    rows: dict[str, list[dict[str, Any]]] = {"epochs": [], "accuracy": [], "trials": []}
    while not run.is_done:
        report = run.advance()
        for table in rows:
            rows[table] += getattr(report, table)
        for config_id, rung in stops.items():
            n = sum(
                row["config_id"] == config_id and not row["stage"].startswith("train_generator")
                for row in rows["epochs"]
            )
            if n == rung:
                run.stop({config_id: Stop(rung, "behind")})
    return rows


@pytest.mark.parametrize(
    "settings",
    [
        {"replay": "none"},
        {"replay": "simple", "n_tasks": 3, "tasks": "perm_mnist"},
        {"model": "comparison", "replay": "generative", "generator_epochs": 3},
        {"experiment": "joint", "model": "mlp"},
        {"experiment": "vib"},
    ],
    ids=str,
)
def test_a_pack_writes_as_many_rows_as_are_needed(settings: dict[str, Any], small: Source) -> None:
    configs = [configure(lr=lr, **settings) for lr in (1e-3, 2e-3, 3e-3, 1e30, 4e-3)]
    has_vae = "generator_epochs" in settings
    late = [configure(lr=5e-3, **settings, loss_above=100.0)] if has_vae else []
    rungs = {configs[1].id: 1, configs[2].id: 2}
    rows = trained([*configs, *late], small, rungs)
    found = {row["config_id"]: row for row in rows["trials"]}
    assert {row["status"] for row in found.values()} == {"finished", "diverged", "stopped"}
    for config in [*configs, *late]:
        needed = rows_needed(config, found[config.id])
        for table, column in COUNTS.items():
            own = [row for row in rows[table] if row["config_id"] == config.id]
            assert needed[column] == len(own), (found[config.id]["status"], table)


def test_stages_depend_on_no_real_number_and_not_on_the_seed() -> None:
    numbers = random.Random(0)
    real = ["lr", "beta_2", "replay_weight", "dropout", "weight_decay", "momentum"]
    for model in ("vib", "comparison"):
        for replay in ("none", "simple", "generative"):
            shapes = set()
            for beta in (-0.5, 0.0, 0.5):
                values = {name: numbers.random() / 2 for name in real}
                config = configure(
                    **{
                        **values,
                        "model": model,
                        "replay": replay,
                        "beta_1": beta,
                        "seed": numbers.randrange(99),
                    }
                )
                shapes.add(tuple((s.name, epochs_of(config, s)) for s in stages_of(config)))
            assert len(shapes) == 1
    columns = completeness._settings_of_stages(frame_of([trial_row(Config())]))
    assert {"config/model", "config/replay", "config/epochs"} <= set(columns)
    assert not {"config/lr", "config/seed"} & set(columns)


# What readers say


def test_status_load_and_analysis_say_that_rows_are_lost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not SweepStatus.at(folder).snapshot().losses
    load(folder)
    assert len(Sweeps([folder]).epochs) == 28
    assert capsys.readouterr().err == ""
    sorted((folder / "parts" / "epochs").iterdir())[0].unlink()
    loss = (
        "1 of 3 configurations that have ended lack rows: only 0 of 12 rows of epochs are there "
        "(files were deleted, lost or replaced); run the sweep again to train them again"
    )
    snapshot = SweepStatus.at(folder).snapshot()
    assert snapshot.losses == [loss] and loss in snapshot.notes
    with pytest.warns(UserWarning) as warned:
        load(folder)
    assert [str(warning.message) for warning in warned] == [f"{folder}: {loss}"]
    sweeps = Sweeps([folder])
    assert len(sweeps.epochs) == 16 and len(sweeps.accuracy) == 27
    assert capsys.readouterr().err == f"note: {folder}: {loss}\n"


def test_status_names_a_damaged_table(folder: Path) -> None:
    part = sorted((folder / "parts" / "epochs").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-5])
    (loss,) = SweepStatus.at(folder).snapshot().losses
    assert loss.startswith(f"{part}: expected a complete Parquet file")
