"""Logging of ended configurations during a sweep: in a thread, from the tables, each run once.

As logging reads the tables, a run that resumes after a killed driver also logs what that driver
had not logged yet.
"""

import importlib
import importlib.util
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raysweep.errors import InputError
from raysweep.monitor.loggers.logged_run import Logger, run_of
from raysweep.tables.json_files import read_json
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_epochs, read_trials

FOLDER = "loggers"
_EVERY_S = 15.0
_READING_SHARE = 0.05
"""Share of the time spent reading the tables, which takes longer as more configurations end."""
_PATIENCE_S = 3.0
_BATCH = 50
_RECORD = "logged.json"
_ID = re.compile(r"\w{1,64}", re.ASCII)
"""Loggers look for runs by their ids, in names of folders and in queries: others are left out."""
_MODULES = {
    "tensorboard": ("raysweep.monitor.loggers.tensorboard", "TensorBoardLogger", "tensorboard"),
    "mlflow": ("raysweep.monitor.loggers.mlflow", "MlflowLogger", "mlflow"),
    "wandb": ("raysweep.monitor.loggers.wandb", "WandbLogger", "wandb"),
}


def check_installed(names: Sequence[str]) -> None:
    """Raise ``InputError`` for a logger whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(_MODULES[name][2]) is None:
            raise InputError(
                f"loggers: expected {name} to be installed, but it is not; "
                f"run pip install 'raysweep[{name}]'"
            )


class _Record:
    """The runs a logger has written (by attempt), and those it was about to write.

    ``is_lost`` is set if the record was missing or damaged although the logger has files: any run
    that is not in it may have been written.
    """

    def __init__(self, folder: ResultsPath) -> None:
        self._folder = folder
        self.logged: dict[str, int] = {}
        self.begun: list[str] = []
        self.is_lost = False
        try:
            content = read_json(folder / _RECORD)
            self.logged = {str(name): int(attempt) for name, attempt in content["logged"].items()}
            self.begun = [str(name) for name in content["begun"]]
            self.is_lost = bool(content.get("is_lost", False))
        except FileNotFoundError:
            self.is_lost = bool(folder.names())
        except (OSError, ValueError, AttributeError, KeyError, TypeError, OverflowError):
            self.logged, self.begun, self.is_lost = {}, [], True

    def write(self) -> None:
        self._folder.make_folder()
        content = {"logged": self.logged, "begun": self.begun, "is_lost": self.is_lost}
        (self._folder / _RECORD).write_bytes(json.dumps(content).encode())


class LogWriter:
    """Logs the ended configurations of a sweep in ``folder`` until it is closed.

    The failure of a logger is reported once, and the logger is off for the rest of the run; the
    next run catches up. ``location`` has the tables.
    """

    def __init__(
        self, names: Sequence[str], location: ResultsPath, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._names = list(names)
        self._location, self._folder, self._say = location, folder, say
        below = location.local is not None and folder == location.local / FOLDER
        self._place = location / FOLDER if below else ResultsPath.of(folder)
        self._loggers: dict[str, Logger] = {}
        self._records: dict[str, _Record] = {}
        self._has_complained = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raysweep-loggers", daemon=True)
        if names:
            self._thread.start()

    def close(self, within_s: float = 600.0) -> None:
        """Log what is left, within a time limit; the next run logs the rest."""
        self._is_over.set()
        if self._thread.ident is None:  # there are no loggers
            return
        self._thread.join(min(within_s, _PATIENCE_S))
        if self._thread.is_alive():
            self._say("logging ended configurations; ctrl-c leaves the rest to the next run")
            self._thread.join(max(0.0, within_s - _PATIENCE_S))
        if self._thread.is_alive():
            self._say("note: logging takes too long; the next run will continue it")

    def _run(self) -> None:
        for name in list(self._names):
            self._guarded(name, partial(self._open, name))
        pause_s = _EVERY_S
        while self._names and not self._is_over.wait(pause_s):
            tick = time.monotonic()
            rows = self._read()
            pause_s = max(_EVERY_S, (time.monotonic() - tick) / _READING_SHARE)
            self._log_rows(*rows)
        if self._names:
            self._log_rows(*self._read())
        for name in list(self._names):
            if name in self._loggers:
                self._guarded(name, self._loggers[name].close)

    def _open(self, name: str) -> None:
        self._records[name] = _Record(self._place / name)

    def _read(self) -> tuple[dict[str, list[Any]], dict[Any, Any]]:
        """Return the rows of ``trials`` that each logger lacks, and their epochs by id."""
        try:
            trials = read_trials(self._location)
            keys = list(zip(trials["config_id"], trials["attempt"], strict=True))
            left = {}
            for name in self._names:
                logged = self._records[name].logged
                is_left = [
                    logged.get(config_id) != attempt and _ID.fullmatch(config_id) is not None
                    for config_id, attempt in keys
                ]
                left[name] = trials[is_left].to_dict("records")
            wanted = {row["config_id"] for rows in left.values() for row in rows}
            if not wanted:
                return {}, {}
            epochs = read_epochs(self._location)
            return left, dict(list(epochs[epochs["config_id"].isin(wanted)].groupby("config_id")))
        except Exception as error:  # noqa: BLE001 (in a thread, no other code would report it)
            if not self._has_complained:
                self._say(f"note: logging is suspended: {_in_a_line(error)}")
            self._has_complained = True
            return {}, {}

    def _log_rows(self, left: dict[str, list[Any]], epochs: dict[Any, Any]) -> None:
        for name, rows in left.items():
            for first in range(0, len(rows), _BATCH):
                batch = rows[first : first + _BATCH]
                if not self._guarded(name, partial(self._log, name, batch, epochs)):
                    break

    def _log(self, name: str, batch: Sequence[Any], epochs: Any) -> None:
        record = self._records[name]
        (self._place / name).make_folder()  # loggers would follow a link
        if name not in self._loggers:
            module, kind, _ = _MODULES[name]
            made = getattr(importlib.import_module(module), kind)
            self._loggers[name] = made(self._folder / name, self._location.name)
        logger = self._loggers[name]
        # A run that was interrupted may have been written in part.
        doubtful = set(record.begun) | set(record.logged)
        record.begun = [*record.begun, *(row["config_id"] for row in batch)]
        record.write()
        for row in batch:
            config_id = row["config_id"]
            if record.is_lost or config_id in doubtful:
                logger.remove(config_id)
            own = epochs.get(config_id)
            logger.log(run_of(row, [] if own is None else own.to_dict("records")))
            record.logged[config_id] = int(row["attempt"])
        done = {row["config_id"] for row in batch}
        record.begun = [config_id for config_id in record.begun if config_id not in done]
        record.write()

    def _guarded(self, name: str, action: Callable[[], None]) -> bool:
        """Run an action of a logger; a failure is reported and turns it off for this run."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 (another project's code: it must not end a sweep)
            self._say(f"note: {name} can't log: {_in_a_line(error)}; the next run catches up")
            self._names = [other for other in self._names if other != name]
            return False
        return True


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
