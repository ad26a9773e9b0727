"""Logging what has ended, beside the sweep: in a thread, from the tables, each run once.

What is logged is what stands in the tables, so a run that goes on after a killed driver logs what
the killed one did not come to.
"""

import importlib
import importlib.util
import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raysweep.atomic import write_atomically
from raysweep.loggers.runs import Logger, run_of
from raysweep.results import InputError, Place, read_epochs, read_trials

FOLDER = "loggers"
_EVERY_S = 15.0
_BATCH = 50
_RECORD = "logged.json"
_MODULES = {
    "tensorboard": ("raysweep.loggers.tensorboard", "TensorBoardLogger", "tensorboard"),
    "mlflow": ("raysweep.loggers.mlflow", "MlflowLogger", "mlflow"),
    "wandb": ("raysweep.loggers.wandb", "WandbLogger", "wandb"),
}


def check_installed(names: Sequence[str]) -> None:
    """Raise ``InputError`` for a logger whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(_MODULES[name][2]) is None:
            raise InputError(
                f"loggers: expected {name} to be installed, found it is not; "
                f"run pip install 'raysweep[{name}]'"
            )


class _Record:
    """Which runs a logger has written (by attempt), and which it was about to write."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError):
            content = {}
        self.logged: dict[str, int] = dict(content.get("logged", {}))
        self.begun: list[str] = list(content.get("begun", []))

    def write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"logged": self.logged, "begun": self.begun})
        write_atomically(self._file, text.encode())


class LogKeeper:
    """Logs the ended configurations of a sweep in ``folder`` until it is closed.

    A logger that fails is said once, and is left alone for the rest of the run; the next one
    catches up. ``place`` has the tables.
    """

    def __init__(
        self, names: Sequence[str], place: Place, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._names = list(names)
        self._place, self._folder, self._say = place, folder, say
        self._loggers: dict[str, Logger] = {}
        self._records = {name: _Record(folder / name / _RECORD) for name in names}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raysweep-loggers", daemon=True)
        self._thread.start()

    def close(self, within_s: float = 600.0) -> None:
        """Log what is left, for so long at most; what is not done then the next run does."""
        self._is_over.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._say("note: logging takes too long: the next run goes on with it")

    def _run(self) -> None:
        while not self._is_over.wait(_EVERY_S):
            self.catch_up()
        self.catch_up()
        for name, logger in self._loggers.items():
            self._guarded(name, logger.close)

    def catch_up(self) -> None:
        """Log what has ended since the last time."""
        if not self._names:
            return
        try:
            trials = read_trials(self._place)
            left = {
                name: [
                    row
                    for row in trials.to_dict("records")
                    if self._records[name].logged.get(row["config_id"]) != row["attempt"]
                ]
                for name in self._names
            }
            if not any(left.values()):
                return
            wanted = {row["config_id"] for rows in left.values() for row in rows}
            epochs = read_epochs(self._place)
            epochs = epochs[epochs["config_id"].isin(wanted)]
            rows = dict(list(epochs.groupby("config_id")))
        except InputError as error:
            self._say(f"note: nothing is logged for now: {error}")
            return
        for name, trial_rows in left.items():
            for first in range(0, len(trial_rows), _BATCH):
                batch = trial_rows[first : first + _BATCH]
                if not self._guarded(name, partial(self._log, name, batch, rows)):
                    break

    def _log(self, name: str, batch: Sequence[Any], epochs: Any) -> None:
        if name not in self._loggers:
            module, kind, _ = _MODULES[name]
            made = getattr(importlib.import_module(module), kind)
            self._loggers[name] = made(self._folder / name, self._place.name)
        logger, record = self._loggers[name], self._records[name]
        # Of a run that was cut off there may be a part.
        doubtful = set(record.begun) | set(record.logged)
        record.begun = [row["config_id"] for row in batch]
        record.write()
        for row in batch:
            if row["config_id"] in doubtful:
                logger.remove(row["config_id"])
            own = epochs.get(row["config_id"])
            logger.log(run_of(row, [] if own is None else own.to_dict("records")))
            record.logged[row["config_id"]] = int(row["attempt"])
        record.begun = []
        record.write()

    def _guarded(self, name: str, action: Callable[[], None]) -> bool:
        """Run what a logger does; a failure is said, and ends that logger for this run."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 (another project's code: it must not end a sweep)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._say(f"note: {name} can't log: {reason}; the next run catches up")
            self._names = [other for other in self._names if other != name]
            return False
        return True
