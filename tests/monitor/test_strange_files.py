"""Files of a results folder that are damaged, huge, strange or hostile: never a traceback."""

import copy
import json
import math
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from report_sweeps import rows_of, write_sweep

import raysweep
from raysweep.analysis.report import page
from raysweep.analysis.report.collect import collect
from raysweep.analysis.sweeps import Sweeps
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.monitor.driver_report import STATUS_FILE, DriverReport
from raysweep.monitor.loggers.log_writer import LogWriter, _Record
from raysweep.monitor.snapshot import SweepStatus
from raysweep.monitor.terminal import show_status
from raysweep.settings.sweep import sweep_from
from raysweep.statuses import Status
from raysweep.tables.folder import ResultsFolder, read_runs
from raysweep.tables.locks import this_process
from raysweep.tables.paths import ResultsPath
from raysweep.tune.scheduling.resume import paused_jobs
from raysweep.tune.search.suggestions import known_of

pytestmark = pytest.mark.filterwarnings("ignore:.* lack rows:UserWarning")
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u200b\x7f\r\n\ud800"
"""What a terminal obeys, what reorders text, what is not seen, and no Unicode at all."""
SPACE = """
experiment: replay_vib
search: {method: optuna, n_samples: 4}
space:
  lr: {loguniform: [1.0e-4, 1.0e-1]}
  replay: none
"""
SUGGESTED = [{"lr": 0.01}, {"lr": 0.001}]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that a run of a search may leave, and of a driver that runs."""
    folder = tmp_path_factory.mktemp("sound") / "sweep"
    configs = [Config(lr=lr, replay="none", seed=0) for lr in (0.01, 0.05)]
    write_sweep(folder, [rows_of(config, False) for config in configs])
    (folder / "sweep.yaml").write_text(SPACE)
    (folder / "suggestions.json").write_text(json.dumps(SUGGESTED))
    (folder / "paused").mkdir()
    state = "0" * 32 + ".pt"
    (folder / "paused" / state).write_bytes(b"state")
    entry = {"configs": [configs[0].id], "files": [state]}
    (folder / "paused" / "packs.json").write_text(json.dumps([entry]))
    (folder / ".lock").write_text(this_process())
    worker = {"n_configs": 8, "host": "node-1", "stage": "train_task_1", "epoch": 1}
    worker |= {"n_epochs": 5, "share": 0.5, "heard_s": 1.0}
    report = {"driver": this_process(), "n_running": 8, "left_s": 60.0, "workers": [worker]}
    (folder / STATUS_FILE).write_text(json.dumps({**report, "dashboard": "http://127.0.0.1:8265"}))
    (folder / "loggers" / "tensorboard").mkdir(parents=True)
    logged = {"logged": {configs[0].id: 1}, "begun": [configs[1].id], "is_lost": False}
    (folder / "loggers" / "tensorboard" / "logged.json").write_text(json.dumps(logged))
    (folder / "logs").mkdir()
    (folder / "logs" / "driver.log").write_text("a line\n")
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "sweep"))


def read_status(folder: Path) -> None:
    snapshot = SweepStatus.at(folder).snapshot()
    shown = [*str(snapshot).split("\n"), show_status(snapshot)]
    assert all(line.isprintable() for line in shown), shown
    assert snapshot._repr_html_()


def read_report(folder: Path) -> None:
    shown = page._cleaned(collect(Sweeps([folder]), "average_accuracy"))
    assert all(line.isprintable() for text in texts_in(shown) for line in text.split("\n"))
    json.dumps(shown, allow_nan=False)


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in (*value, *value.values()) if isinstance(value, dict) else value:
        if not isinstance(value, str):
            yield from texts_in(inner) if isinstance(inner, str | dict | list) else ()


def read_results(folder: Path) -> None:
    results = raysweep.load(folder)
    assert repr(results).isprintable()
    results._repr_html_()
    assert len(results.leaderboard())


def read_plan(folder: Path) -> None:
    file = folder.parent / "space.yaml"
    file.write_text(SPACE)
    plan = raysweep.plan(file, results=folder.parent, name=folder.name, measure=False)
    assert all(line.isprintable() for line in str(plan).split("\n"))


def read_left(folder: Path) -> None:
    """Read what earlier runs left, as a run and a plan do at their start."""
    location, sweep = ResultsPath.of(folder), sweep_from("space.yaml", SPACE.encode())
    assert sweep.space is not None
    known = known_of(location, sweep.space, False, [Status.FINISHED])
    paused_jobs(location, known.configs(sweep.space))


def read_matrix(folder: Path) -> None:
    assert len(raysweep.load(folder).accuracy) == 0


def read_record(folder: Path) -> None:
    _Record(folder / "loggers" / "tensorboard" / "logged.json")


def add_run(folder: Path) -> None:
    """Add to the manifest as a run does, which keeps the entries of earlier runs."""
    results = ResultsFolder(folder)
    results.add_run({"start": "2026-01-01T00:00:00+00:00", "command": ["raysweep"]})
    assert read_runs(folder)[-1]["command"] == ["raysweep"]


READERS: dict[str, Sequence[Callable[[Path], None]]] = {
    "manifest.json": (read_status, read_report, add_run),
    STATUS_FILE: (read_status,),
    "suggestions.json": (read_left,),
    "paused/packs.json": (read_status, read_left),
    "loggers/tensorboard/logged.json": (read_record,),
    ".lock": (read_status,),
    "sweep.yaml": (read_status, read_report, read_results),
    "trials.parquet": (read_status, read_report, read_results, read_plan),
    "epochs.parquet": (read_report,),
    "accuracy.parquet": (read_matrix,),
}
"""Who reads each file."""
EVERYTHING = (read_status, read_report, read_results)
EVERYTHING += (read_left, read_plan, read_record, add_run)
JSON_FILES = [name for name in READERS if name.endswith(".json")]


def read_by(readers: Sequence[Callable[[Path], None]], folder: Path) -> list[str]:
    """Read the folder in several ways; return the mistakes that were named, each a line."""
    named = []
    for read in readers:
        try:
            read(folder)
        except raysweep.RaysweepError as error:
            lines = str(error).split("\n")
            assert all(line.isprintable() and len(line) < 1500 for line in lines), lines
            assert len(lines) == 1 or isinstance(error, InputError)
            named.append(str(error))
    return named


def test_a_sound_folder_is_read_without_any_mistake(folder: Path) -> None:
    assert read_by(EVERYTHING, folder) == []


DEEP = 200_000
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(5000),
    "cut": b'{"runs": [{"sta',
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
    "number": b"1",
    "text": b'"x"',
    "nan": b'[NaN, {"runs": [NaN]}]',
    "infinite": b'{"runs": [{"start": 1e999, "train_s": 1e999}], "left_s": -Infinity}',
    "long number": b"9" * 5000,
    "long number in a list": b'[{"lr": ' + b"9" * 5000 + b"}]",
    "latin-1": b'{"runs": [{"start": "\xff\xfe"}]}',
    "utf-16": '{"runs": []}'.encode("utf-16"),
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep lists, cut": b"[" * DEEP,
    "deep objects": b'{"runs":' * DEEP + b"1" + b"}" * DEEP,
    "deep entry": b'{"runs": [{"start": "1", "x": ' + b"[" * 400 + b"]" * 400 + b"}]}",
    "deep YAML": b"- " * 20_000,
    "deep YAML flow": b"a: " + b"{a: " * 20_000,
    "alias bomb": b"a: &a [x]\n"
    + b"".join(
        b"b%d: &b%d [*%s, *%s]\n" % (i, i, *[b"a" if not i else b"b%d" % (i - 1)] * 2)
        for i in range(64)
    ),
    "hostile": HOSTILE.encode(errors="surrogatepass"),
    "hostile JSON": json.dumps({HOSTILE: [HOSTILE]}).encode(),
    "hostile YAML": f'{HOSTILE[2:5]}: 1\n"\\e[2J": 1\n'.encode(),
    "another process": f"process {'9' * 5000} on {socket.gethostname()}".encode(),
    "another host": b"process 1 on \x1b[2Jhost",
}


@pytest.mark.parametrize("file", [*JSON_FILES, ".lock", "sweep.yaml"])
def test_content_of_any_kind_is_one_line_at_most(folder: Path, file: str) -> None:
    for content in CONTENTS.values():
        (folder / file).write_bytes(content)
        read_by(READERS[file], folder)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**10)  # sparse: takes no space


def _link_without_end(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


ENTRIES = [_pipe, _huge, _link_without_end, _loop, Path.mkdir]


@pytest.mark.parametrize("make", ENTRIES, ids=lambda make: make.__name__.strip("_"))
@pytest.mark.parametrize("file", [*JSON_FILES, "sweep.yaml"])
def test_what_is_no_file_or_has_no_end_neither_hangs_nor_fills_memory(
    folder: Path, file: str, make: Callable[[Path], None]
) -> None:
    (folder / file).unlink()
    make(folder / file)
    read_by(READERS[file], folder)


VALUES: list[Any] = [
    None,
    True,
    -1,
    10**400,
    1e308,
    5e-324,
    "",
    HOSTILE,
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    [],
    {},
    [[None]],
    {"x": {"y": [HOSTILE]}},
]


def changes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each place in a value, with another value to put there."""
    for other in VALUES:
        yield path, other
    below_it = value.items() if isinstance(value, dict) else ()
    for key, below in enumerate(value) if isinstance(value, list) else below_it:
        yield from changes(below, (*path, key))


def changed(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copied = copy.deepcopy(value)
    at = copied
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = other
    return copied


@pytest.mark.parametrize("file", JSON_FILES)
def test_a_value_of_a_wrong_type_at_any_level_is_one_line_at_most(folder: Path, file: str) -> None:
    value = json.loads((folder / file).read_bytes())
    found = list(changes(value))
    for path, other in random.Random(file).sample(found, min(60, len(found))):
        (folder / file).write_text(json.dumps(changed(value, path, other)))
        read_by(READERS[file], folder)


@pytest.mark.parametrize("file", READERS)
def test_cut_and_flipped_bytes_are_one_line_at_most(folder: Path, file: str) -> None:
    stream, sound = random.Random(file), (folder / file).read_bytes()
    for _ in range(12):
        damaged = bytearray(sound)
        for _ in range(stream.choice((1, 5))):
            damaged[stream.randrange(len(damaged))] = stream.randrange(256)
        (folder / file).write_bytes(damaged[: stream.choice((len(damaged), len(damaged) // 2))])
        read_by(READERS[file], folder)


def test_every_value_of_a_report_of_the_driver_is_checked(folder: Path) -> None:
    value = json.loads((folder / STATUS_FILE).read_bytes())
    for path, other in changes(value):
        report = DriverReport.from_bytes(json.dumps(changed(value, path, other)).encode())
        if report is not None:
            (folder / STATUS_FILE).write_text(report.to_text())
            snapshot = SweepStatus.at(folder).snapshot()
            assert all(line.isprintable() for line in str(snapshot).split("\n"))


TABLE_VALUES: dict[str, Any] = {
    "config_id": "../*",
    "error": HOSTILE[:-1],
    "host": HOSTILE[:-1],
    "device": HOSTILE[:-1],
    "diverged_stage": "</script><script>",
    "diverged_epoch": 2**62,
    "attempt": -(2**62),
    "duration_s": math.inf,
    "average_accuracy": math.nan,
    "started_at": datetime(9999, 12, 31, tzinfo=UTC),
    "ended_at": datetime(1, 1, 1, tzinfo=UTC),
    "config/replay": HOSTILE[:-1],
    "config/encoder_widths": "9" * 5000,
    "config/seed": -(2**62),
    "config/lr": math.inf,
}
"""Values that a table's types allow."""


@pytest.mark.parametrize("column", TABLE_VALUES)
def test_a_strange_value_in_a_table_is_one_line_at_most(tmp_path: Path, column: str) -> None:
    trial, epochs = rows_of(Config(lr=0.01, replay="none", seed=0), False)
    other, _ = rows_of(Config(lr=0.02, replay="none", seed=0), False)
    for status in ("finished", "diverged", "failed", "running"):
        folder = tmp_path / status
        strange = {**other, "status": status, column: TABLE_VALUES[column]}
        write_sweep(folder, [(trial, epochs), (strange, [])])
        (folder / "sweep.yaml").write_text(SPACE)
        found = read_by((read_status, read_report, read_results, read_left), folder)
        expected = "expected the statuses finished, diverged, stopped, failed in trials"
        assert status != "running" or any(expected in line for line in found)


def test_a_logger_looks_for_no_id_that_is_a_pattern(tmp_path: Path) -> None:
    folder, said = tmp_path / "loggers", []
    kept = [folder / "tensorboard" / name for name in ("a run 0123", "another")]
    for run in kept:
        run.mkdir(parents=True)
    trial, epochs = rows_of(Config(), False)
    sweep = write_sweep(tmp_path / "sweep", [({**trial, "config_id": "*"}, epochs)])
    LogWriter(["tensorboard"], ResultsPath.of(sweep), folder, said.append).close()
    assert all(run.is_dir() for run in kept) and not said


def test_everything_damaged_at_once_is_one_line_at_most(folder: Path) -> None:
    for content in (b"", b"[" * DEEP, json.dumps({HOSTILE: HOSTILE}).encode()):
        for file in (*JSON_FILES, ".lock", "sweep.yaml", "logs/driver.log"):
            (folder / file).write_bytes(content)
        read_by(EVERYTHING, folder)
