"""Runs in TensorBoard, MLflow and W&B, read back with those projects' own readers."""

import itertools
import json
import math
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from report_sweeps import configs, rows_of, write_sweep
from sweep_runs import ROOT, SMALL, run, write
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams
from wandb.proto import wandb_internal_pb2

from raysweep.learning.config import Config
from raysweep.monitor.loggers import log_writer
from raysweep.monitor.loggers.log_writer import LogWriter
from raysweep.monitor.loggers.logged_run import SETTING_NAMES, LoggedRun, run_of
from raysweep.monitor.loggers.mlflow import MlflowLogger
from raysweep.monitor.loggers.tensorboard import TensorBoardLogger
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_epochs, read_trials

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of others' packages
TEXT = (
    SMALL.replace("lr: 1e-3", "lr: {grid_search: [1e-3, 1000]}").replace(", generative]", "]")
    + "loggers: [tensorboard, mlflow, wandb]\n"
)
"""16 configurations; a learning rate of 1,000 takes some to where their loss explodes."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a real sweep with all three loggers, in which some configurations diverge."""
    location = tmp_path_factory.mktemp("logged")
    done = run(write(location, TEXT))
    assert done.returncode == 0, done.stderr
    assert "can't log" not in done.stderr, done.stderr
    assert "INFO" not in done.stderr, done.stderr  # of others' packages
    assert set(read_trials(location / "results" / "small")["status"]) == {"finished", "diverged"}
    return location / "results" / "small"


def scalars_of(epochs: pd.DataFrame, config_id: str) -> dict[str, Any]:
    """Return the values of the epochs table by name and step, as a reader of docs expects them."""
    own = epochs[epochs["config_id"] == config_id].sort_values(["task", "stage", "epoch"])
    found: dict[str, Any] = {}
    for step, (_, row) in enumerate(own.iterrows(), 1):
        for name in ("loss", "test_accuracy", "class_loss", "duration_s"):
            if not math.isnan(row[name]):
                found.setdefault(f"{row['stage']}/{name}", []).append((step, row[name]))
    return found


def text_of(events: EventAccumulator, name: str) -> str:
    (event,) = events.Tensors(name)
    (text,) = event.tensor_proto.string_val
    return str(text.decode())


def test_tensorboard_has_scalars_and_hyper_parameters(sweep: Path) -> None:
    trials, epochs = read_trials(sweep).set_index("config_id"), read_epochs(sweep)
    folders = [f for f in (sweep / "loggers" / "tensorboard").iterdir() if f.is_dir()]
    by_id = {folder.name.split()[-1]: folder for folder in folders}
    assert len(folders) == len(by_id) == len(trials)
    assert set(by_id) == set(trials.index)
    for config_id, folder in by_id.items():
        (file,) = folder.iterdir()
        events = EventAccumulator(str(file))
        events.Reload()
        trial = trials.loc[config_id]
        for name, expected in scalars_of(epochs, config_id).items():
            read = [(event.step, event.value) for event in events.Scalars(name)]
            assert [step for step, _ in read] == [step for step, _ in expected]
            values = [value for _, value in expected]
            assert [value for _, value in read] == pytest.approx(values, rel=1e-6)
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        start = hparams.parse_session_start_info_plugin_data(content)
        assert start.group_name == folder.name
        assert folder.name.startswith(f"model={trial['config/model']} replay=")
        assert start.hparams["beta_2"].number_value == trial["config/beta_2"]
        assert start.hparams["encoder_widths"].string_value == "20"
        # Its page takes the columns of any one run for those of all.
        content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
        shown = hparams.parse_experiment_plugin_data(content)
        assert {"average_accuracy", "forgetting"} <= {m.name.tag for m in shown.metric_infos}
        assert text_of(events, "status") == trial["status"]
        if trial["status"] == "diverged":
            assert text_of(events, "diverged_stage") == trial["diverged_stage"]
            assert text_of(events, "diverged_epoch") == str(int(trial["diverged_epoch"]))
        else:
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
        if trial["status"] == "diverged":
            assert made.data.tags["diverged_stage"] == trial["diverged_stage"]
            assert made.data.tags["diverged_epoch"] == str(int(trial["diverged_epoch"]))
        else:
            assert made.data.metrics["average_accuracy"] == trial["average_accuracy"]
        assert made.info.status == "FINISHED"
    for one in trials.groupby("status")["config_id"].first():
        for name, expected in scalars_of(epochs, one).items():
            history = client.get_metric_history(by_id[one].info.run_id, name)
            assert [(m.step, m.value) for m in history] == expected


def test_on_a_shared_mlflow_only_own_runs_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    run_of_both = run_of({"config_id": "a", "status": "finished"}, [])
    for name in ("mine", "theirs", "mine"):
        logger = MlflowLogger(tmp_path / name, "sweep")
        logger.remove("a")
        logger.log(run_of_both)
    homes = [one.data.tags["logged_from"] for one in mlflow_runs(tmp_path, "sweep")]
    assert sorted(homes) == [str(tmp_path / "mine"), str(tmp_path / "theirs")]


def test_a_server_of_mlflow_adds_no_lines_to_the_drivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    info = {"run_id": "r", "run_uuid": "r", "experiment_id": "1", "status": "RUNNING"}
    answers = {"experiments/create": {"experiment_id": "1"}, "runs/create": {"run": {"info": info}}}
    asked: list[str] = []

    class StandIn(BaseHTTPRequestHandler):
        """As much of a server as a run needs (package mlflow, not mlflow-skinny, has the real)."""

        def do_GET(self) -> None:
            name = self.path.partition("mlflow/")[2].partition("?")[0]
            asked.append(name)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_unknown = name == "experiments/get-by-name"
            self.send_response(404 if is_unknown else 200)
            self.end_headers()
            unknown = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}
            content = unknown if is_unknown else answers.get(name, {"run": {"info": info}})
            self.wfile.write(json.dumps(content).encode())

        do_POST = do_GET  # noqa: N815 (the base class's name)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        MlflowLogger(tmp_path, "sweep").log(run_of({"config_id": "a", "status": "finished"}, []))
        server.shutdown()
    assert {"runs/create", "runs/log-batch", "runs/update"} <= set(asked)
    assert capfd.readouterr() == ("", "")


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
    for _, trial in trials.iterrows():
        records = wandb_records(by_id[trial["config_id"]])
        (header,) = (r.run for r in records if r.WhichOneof("record_type") == "run")
        config = {item.key: json.loads(item.value_json) for item in header.config.update}
        assert config["beta_2"] == trial["config/beta_2"]
        assert header.project == "small"
        assert header.display_name.split()[-1] == trial["config_id"]
        read: dict[str, list[tuple[int, float]]] = {}
        summary: dict[str, Any] = {}
        for record in records:
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                value = json.loads(item.value_json)
                read.setdefault(name, []).append((record.history.step.num, value))
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for name, expected in scalars_of(epochs, trial["config_id"]).items():
            assert read[name] == expected
        assert summary["status"] == trial["status"]
        if trial["status"] == "diverged":
            assert summary["diverged_stage"] == trial["diverged_stage"]
        else:
            assert summary["average_accuracy"] == trial["average_accuracy"]


def test_a_second_run_logs_nothing_twice(sweep: Path) -> None:
    before = sorted(str(p) for p in (sweep / "loggers").rglob("*") if p.is_file())
    done = run(write(sweep.parents[1], TEXT))
    assert done.returncode == 0
    assert "nothing to train" in done.stderr
    after = sorted(str(p) for p in (sweep / "loggers").rglob("*") if p.is_file())
    assert after == before
    assert len(mlflow_runs(sweep / "loggers" / "mlflow", "small")) == len(read_trials(sweep))


def test_a_logger_that_cannot_write_changes_no_exit_code_and_the_next_run_catches_up(
    sweep: Path, tmp_path: Path
) -> None:
    """Put a file where TensorBoard's folder was; lose MLflow's record beside its runs."""
    copy = tmp_path / "results" / "small"
    shutil.copytree(sweep, copy)
    file = write(tmp_path, TEXT)
    n_configs = len(read_trials(sweep))
    shutil.rmtree(copy / "loggers" / "tensorboard")
    (copy / "loggers" / "tensorboard").write_text("in the way")
    (copy / "loggers" / "mlflow" / "logged.json").unlink()
    done = run(file)
    assert done.returncode == 0
    assert done.stderr.count("note: tensorboard can't log: ") == 1
    assert "Traceback" not in done.stderr
    assert len(mlflow_runs(copy / "loggers" / "mlflow", "small")) == n_configs
    (copy / "loggers" / "tensorboard").unlink()
    done = run(file)
    assert done.returncode == 0
    assert "can't log" not in done.stderr
    folders = [f for f in (copy / "loggers" / "tensorboard").iterdir() if f.is_dir()]
    assert len(folders) == n_configs


def test_no_logger_takes_torch_into_the_driver() -> None:
    names = "tensorboard", "mlflow", "wandb"
    script = f"""
import sys, tempfile
from pathlib import Path
from raysweep.learning.config import Config
from raysweep.monitor.loggers import log_writer
from raysweep.monitor.loggers.logged_run import run_of
folder = Path(tempfile.mkdtemp())
for name in {names!r}:
    module, kind, _ = log_writer._MODULES[name]
    made = getattr(log_writer.importlib.import_module(module), kind)(folder / name, "sweep")
    if name != "wandb":  # its first run takes seconds
        made.log(run_of({{"config_id": "a", "status": "finished"}}, []))
print("torch" in sys.modules)
"""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


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
    monkeypatch.setitem(log_writer._MODULES, "mlflow", (__name__, "Recorder", "json"))
    return Recorder


def keep(folder: Path, tables: Path) -> list[str]:
    said: list[str] = []
    LogWriter(["mlflow"], ResultsPath.of(tables), folder, said.append).close()
    return said


def test_what_a_killed_driver_had_begun_is_logged_anew(
    tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [rows_of(c, False) for c in configs(2, 2, 1)]
    tables = write_sweep(tmp_path / "sweep", made)
    ids = [trial["config_id"] for trial, _ in made]
    record = tmp_path / "log" / "mlflow" / "logged.json"
    record.parent.mkdir(parents=True)
    # It had logged the first, and was killed in a batch of the last two.
    record.write_text(json.dumps({"logged": {ids[0]: 1}, "begun": ids[-2:]}))
    monkeypatch.setattr(log_writer, "_BATCH", 3)  # so that these two are not in the first of it
    assert keep(tmp_path / "log", tables) == []
    logged = [name for what, name in recorder.calls if what == "log"]
    removed = [name for what, name in recorder.calls if what == "remove"]
    assert sorted(logged) == sorted(ids[1:])
    assert sorted(removed) == sorted(ids[-2:])
    recorder.calls.clear()
    assert keep(tmp_path / "log", tables) == []
    assert recorder.calls == []


@pytest.mark.parametrize("content", ["", "[]", '{"logged": [1], "begun": []}', '{"logged'])
def test_beside_a_damaged_record_each_run_is_written_anew(
    tmp_path: Path, recorder: type[Recorder], content: str
) -> None:
    made = [rows_of(c, False) for c in configs(1, 2, 1)]
    tables = write_sweep(tmp_path / "sweep", made)
    record = tmp_path / "log" / "mlflow" / "logged.json"
    record.parent.mkdir(parents=True)
    record.write_text(content)
    assert keep(tmp_path / "log", tables) == []
    ids = [trial["config_id"] for trial, _ in made]
    pairs = [(what, name) for name in ids for what in ("remove", "log")]
    assert sorted(recorder.calls) == sorted(pairs)
    assert [what for what, _ in recorder.calls] == ["remove", "log"] * len(ids)


def test_tables_that_cannot_be_read_are_said_once(
    tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(location: ResultsPath) -> pd.DataFrame:
        looks.append(time.monotonic())
        raise OSError("the store\nis gone")

    looks: list[float] = []
    monkeypatch.setattr(log_writer, "read_trials", fail)
    monkeypatch.setattr(log_writer, "_EVERY_S", 0.01)
    said: list[str] = []
    logging = LogWriter(["mlflow"], ResultsPath.of(tmp_path), tmp_path / "log", said.append)
    deadline = time.monotonic() + 20
    while len(looks) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    logging.close()
    assert len(looks) > 3  # the last one is at the end
    assert said == ["note: logging is suspended: OSError: the store is gone"]
    assert recorder.calls == []


def test_a_run_of_a_failed_configuration_says_why() -> None:
    (config,) = itertools.islice(configs(1, 1, 1), 1)
    row = rows_of(config, False)[0]
    lost = {name: math.nan if isinstance(v, float) else v for name, v in row.items()}
    lost |= {"started_at": pd.NaT, "ended_at": pd.NaT, "host": math.nan}
    made = run_of({**lost, "status": "failed", "error": "worker lost 3 times"}, [])
    assert made.texts["status"] == "failed"
    assert made.texts["error"] == "worker lost 3 times"
    assert "host" not in made.texts
    assert made.metrics == {}
    assert abs(made.ended_s - time.time()) < 60  # none is known


NOT_ALIKE = [
    Config(experiment="joint"),
    Config(model="comparison", replay="simple", n_replay=200),
    Config(replay="none"),
]


def logged_runs(folder: Path) -> list[LoggedRun]:
    """Write configurations to which other settings apply, and give what is logged of them."""
    write_sweep(folder, [rows_of(config, False) for config in NOT_ALIKE])
    return [run_of(row, []) for row in read_trials(folder).to_dict("records")]


def test_a_setting_that_does_not_apply_is_not_logged(tmp_path: Path) -> None:
    runs = {one.config_id: one for one in logged_runs(tmp_path / "sweep")}
    for config in NOT_ALIKE:
        made = runs[config.id]
        assert set(made.settings) == set(config.applicable)
        assert not re.search(r"None|nan|\N{EN DASH}", f"{made.name} {made.settings}")
        whole = {name: v for name, v in config.applicable.items() if type(v) is int}
        assert {name: made.settings[name] for name in whole} == whole
        assert {type(made.settings[name]) for name in whole} == {int}
    assert runs[NOT_ALIKE[1].id].name.startswith("model=comparison replay=simple lr=0.001 beta_2=")


def test_tensorboard_names_the_settings_that_a_run_lacks_without_a_value(tmp_path: Path) -> None:
    writer = TensorBoardLogger(tmp_path / "log", "sweep")
    for one in logged_runs(tmp_path / "sweep"):
        writer.log(one)
    for config in NOT_ALIKE:
        (file,) = (tmp_path / "log").glob(f"*{config.id}/*")
        events = EventAccumulator(str(file))
        events.Reload()
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        assert set(hparams.parse_session_start_info_plugin_data(content).hparams) == set(
            config.applicable
        )
        content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
        named = {of.name for of in hparams.parse_experiment_plugin_data(content).hparam_infos}
        assert named == set(SETTING_NAMES) == set(Config.model_fields)


def test_mlflow_has_no_parameter_for_what_does_not_apply(tmp_path: Path) -> None:
    writer = MlflowLogger(tmp_path / "log", "sweep")
    for one in logged_runs(tmp_path / "sweep"):
        writer.log(one)
    params = {
        one.data.tags["config_id"]: one.data.params
        for one in mlflow_runs(tmp_path / "log", "sweep")
    }
    assert {key: set(of) for key, of in params.items()} == {
        config.id: set(config.applicable) for config in NOT_ALIKE
    }
    assert params[NOT_ALIKE[1].id]["n_replay"] == "200"


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
    monkeypatch.setitem(log_writer._MODULES, "wandb", ("", "", "no_such_package"))
    with pytest.raises(log_writer.InputError, match=r"pip install 'raysweep\[wandb\]'"):
        log_writer.check_installed(["tensorboard", "wandb"])
    assert not (tmp_path / "results").exists()
