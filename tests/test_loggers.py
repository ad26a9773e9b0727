"""Runs in TensorBoard, MLflow and W&B, read back with those projects' own readers."""

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from report_sweeps import configs, rows_of, write_sweep
from sweep_runs import SMALL, run, write
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from raysweep.loggers import LogKeeper, keeper
from raysweep.loggers.runs import LoggedRun
from raysweep.results import Place, read_epochs, read_trials

pytestmark = pytest.mark.filterwarnings("ignore")  # of others' packages
NAMES = ("tensorboard", "mlflow", "wandb")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a real sweep of 12 configurations with all three loggers; one lane diverges."""
    place = tmp_path_factory.mktemp("logged")
    text = SMALL + "loggers: [tensorboard, mlflow, wandb]\nstop: {loss_above: 600}\n"
    done = run(write(place, text))
    assert done.returncode == 0, done.stderr
    assert "can't log" not in done.stderr, done.stderr
    return place / "results" / "small"


def scalars_of(trials: pd.DataFrame, epochs: pd.DataFrame, config_id: str) -> dict[str, Any]:
    """Give the values of the epochs table by name and step, as a reader of docs expects them."""
    own = epochs[epochs["config_id"] == config_id].sort_values(["task", "stage", "epoch"])
    found: dict[str, Any] = {}
    for step, (_, row) in enumerate(own.iterrows(), 1):
        for name in ("loss", "test_accuracy", "class_loss", "duration_s"):
            if not math.isnan(row[name]):
                found.setdefault(f"{row['stage']}/{name}", []).append((step, row[name]))
    return found


def test_tensorboard_has_scalars_and_hyper_parameters(sweep: Path) -> None:
    trials, epochs = read_trials(sweep), read_epochs(sweep)
    folders = {f.name: f for f in (sweep / "loggers" / "tensorboard").iterdir() if f.is_dir()}
    assert set(folders) == set(trials["config_id"])
    for config_id, folder in folders.items():
        (file,) = folder.iterdir()
        events = EventAccumulator(str(file))
        events.Reload()
        for name, expected in scalars_of(trials, epochs, config_id).items():
            read = [(event.step, event.value) for event in events.Scalars(name)]
            assert [step for step, _ in read] == [step for step, _ in expected]
            values = [value for _, value in expected]
            assert [value for _, value in read] == pytest.approx(values, rel=1e-6)
        start = events.summary_metadata["_hparams_/session_start_info"]
        content = start.plugin_data.content
        assert b"beta_2" in content and b"n_bottleneck" in content
        trial = trials.set_index("config_id").loc[config_id]
        (last,) = events.Scalars("average_accuracy")
        assert last.value == pytest.approx(trial["average_accuracy"])


def mlflow_runs(folder: Path, sweep_name: str) -> Sequence[Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(sweep_name)
    assert experiment is not None
    runs: Sequence[Any] = client.search_runs(
        [experiment.experiment_id], run_view_type=ViewType.ACTIVE_ONLY
    )
    return runs


def test_mlflow_has_a_run_for_each_configuration(sweep: Path) -> None:
    trials, epochs = read_trials(sweep), read_epochs(sweep)
    folder = sweep / "loggers" / "mlflow"
    runs = mlflow_runs(folder, "small")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    by_id = {one.data.tags["config_id"]: one for one in runs}
    assert len(runs) == len(by_id) == len(trials)
    for _, trial in trials.iterrows():
        made = by_id[trial["config_id"]]
        assert float(made.data.params["beta_2"]) == trial["config/beta_2"]
        assert made.data.params["replay"] == trial["config/replay"]
        assert made.data.tags["status"] == trial["status"]
        assert made.data.metrics["average_accuracy"] == trial["average_accuracy"]
        assert made.info.status == "FINISHED"
    one = trials["config_id"].iloc[0]
    for name, expected in scalars_of(trials, epochs, one).items():
        history = client.get_metric_history(by_id[one].info.run_id, name)
        assert [(m.step, m.value) for m in history] == expected


def wandb_records(file: Path) -> list[Any]:
    """Read a file of W&B's: LevelDB's log format after a header of 7 bytes."""
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    records, parts, at = [], b"", 7
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:  # no header fits into the rest of a block
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        parts = (b"" if kind in (1, 2) else parts) + content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
    return records


def test_wandb_has_its_files_offline(sweep: Path) -> None:
    trials, epochs = read_trials(sweep), read_epochs(sweep)
    files = list((sweep / "loggers" / "wandb" / "wandb").glob("offline-run-*/*.wandb"))
    by_id = {file.stem.removeprefix("run-"): file for file in files}
    assert len(files) == len(by_id) == len(trials)
    one = trials["config_id"].iloc[0]
    records = wandb_records(by_id[one])
    (header,) = (r.run for r in records if r.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in header.config.update}
    assert config["beta_2"] == trials["config/beta_2"].iloc[0]
    assert header.project == "small"
    read: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                value = json.loads(item.value_json)
                read.setdefault(name, []).append((record.history.step.num, value))
    for name, expected in scalars_of(trials, epochs, one).items():
        assert read[name] == expected


def test_a_second_run_logs_nothing_twice(sweep: Path) -> None:
    before = sorted(str(p) for p in (sweep / "loggers").rglob("*") if p.is_file())
    text = SMALL + "loggers: [tensorboard, mlflow, wandb]\nstop: {loss_above: 600}\n"
    done = run(write(sweep.parents[1], text))
    assert done.returncode == 0
    after = sorted(str(p) for p in (sweep / "loggers").rglob("*") if p.is_file())
    assert after == before
    assert len(mlflow_runs(sweep / "loggers" / "mlflow", "small")) == 12


class Recorder:
    """Stands in for another tool where only the order of calls matters."""

    calls: list[tuple[str, str]]

    def __init__(self, folder: Path, sweep: str) -> None:
        self.folder = folder

    def log(self, logged: LoggedRun) -> None:
        self.calls.append(("log", logged.config_id))

    def remove(self, config_id: str) -> None:
        self.calls.append(("remove", config_id))

    def close(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.calls = []
    monkeypatch.setitem(keeper._MODULES, "mlflow", (__name__, "Recorder", "json"))
    return Recorder


def keep(folder: Path, tables: Path) -> list[str]:
    said: list[str] = []
    LogKeeper(["mlflow"], Place.of(tables), folder, said.append).close()
    return said


def test_what_a_killed_driver_had_begun_is_logged_anew(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    made = [rows_of(c, False) for c in configs(2, 2, 1)]
    tables = write_sweep(tmp_path / "sweep", made)
    ids = [trial["config_id"] for trial, _ in made]
    record = tmp_path / "log" / "mlflow" / "logged.json"
    record.parent.mkdir(parents=True)
    # It had logged the first, and was killed in a batch of the next two.
    record.write_text(json.dumps({"logged": {ids[0]: 1}, "begun": ids[1:3]}))
    assert keep(tmp_path / "log", tables) == []
    logged = [name for what, name in recorder.calls if what == "log"]
    removed = [name for what, name in recorder.calls if what == "remove"]
    assert sorted(logged) == sorted(ids[1:])
    assert sorted(removed) == sorted(ids[1:3])
    recorder.calls.clear()
    assert keep(tmp_path / "log", tables) == []
    assert recorder.calls == []


def test_a_configuration_that_failed_and_ends_later_is_logged_anew(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    made = [rows_of(c, False) for c in configs(1, 2, 1)]
    tables = write_sweep(tmp_path / "sweep", made)
    keep(tmp_path / "log", tables)
    recorder.calls.clear()
    again = made[0][0] | {"attempt": 2}
    write_sweep(tables, [(again, [])])
    keep(tmp_path / "log", tables)
    name = again["config_id"]
    assert recorder.calls == [("remove", name), ("log", name)]


def test_a_logger_that_fails_is_said_once_and_caught_up_later(
    tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [rows_of(c, False) for c in configs(2, 2, 1)]
    tables = write_sweep(tmp_path / "sweep", made)

    def fail(self: Recorder, logged: LoggedRun) -> None:
        raise ConnectionError("the server\nis gone")

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "log", fail)
        said = keep(tmp_path / "log", tables)
    assert said == [
        "note: mlflow can't log: ConnectionError: the server is gone; the next run catches up"
    ]
    keep(tmp_path / "log", tables)
    assert len({name for what, name in recorder.calls if what == "log"}) == len(made)


def test_unknown_and_missing_loggers_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(write(tmp_path, SMALL + "loggers: [tensorbord]\n"))
    assert done.returncode == 2
    assert "did you mean tensorboard?" in done.stderr
    done = run(write(tmp_path, SMALL + "loggers: tensorboard\n"))
    assert done.returncode == 2
    assert "expected a list such as [tensorboard]" in done.stderr
    monkeypatch.setitem(keeper._MODULES, "wandb", ("", "", "no_such_package"))
    with pytest.raises(keeper.InputError, match=r"pip install 'raysweep\[wandb\]'"):
        keeper.check_installed(["tensorboard", "wandb"])
    assert not (tmp_path / "results").exists()
