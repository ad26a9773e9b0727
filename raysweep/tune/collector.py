"""Carrying rows from Tune's results into the tables, and keeping the progress."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from raysweep.plan import Pack, cost
from raysweep.results import WriteError, Writer, config_columns
from raysweep.settings import Config
from raysweep.trainable import TRIAL
from raysweep.tune.progress import Progress, Screen

LOST_WORKERS = 3
"""How often a pack's worker may be lost before its configurations have failed."""
_FLUSH_EVERY_S = 1.0
_FLUSH_SHARE = 0.05
"""Rows of an ended pack are written at once if writing takes no larger share of the time."""


class Collector(tune.Callback):
    """Take rows from Tune's results into the tables, and keep the progress.

    Tune pickles its callbacks for a restore that is never used: none of the state goes along.
    After a run ``is_interrupted`` tells whether trials were left over, ``failure`` why rows could
    not be written, and ``unsettled`` maps packs that Tune gave up on, without having lost their
    worker too often, to the reason.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        attempts: Mapping[str, int],
        writer: Writer,
        progress: Progress,
        screen: Screen,
    ) -> None:
        self._configs = {config.id: config for pack in packs for config in pack.configs}
        self._attempts = attempts
        self._writer = writer
        self._progress = progress
        self._screen = screen
        self._flushed = time.monotonic()
        self._flush_s = 0.0
        self._has_ended_pack = False
        self._packs = {pack_name(pack): pack for pack in packs}
        self._costs = {pack_name(pack): cost(pack) for pack in packs}
        self._n_epochs = {pack_name(pack): pack.n_epochs for pack in packs}
        self._pack_of = {c.id: pack_name(pack) for pack in packs for c in pack.configs}
        self._n_open = {pack_name(pack): len(pack.configs) for pack in packs}
        self._ended: set[str] = set()
        self._noted: set[str] = set()
        # Kept here: to look through Tune's trials at each step takes the square of their number.
        self._left: set[str] = set()
        self._running: set[str] = set()
        self._checkpoints: dict[str, Path] = {}
        self.is_interrupted = False
        self.failure: WriteError | None = None
        self.unsettled: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def begin(self, packs: Sequence[Pack]) -> None:
        """Expect these packs to be run now."""
        self._left = {pack_name(pack) for pack in packs}
        self._running = set()

    def open_configs(self, name: str) -> list[Config]:
        """List the configurations of a pack that have not ended."""
        return [c for c in self._packs[name].configs if c.id not in self._ended]

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take the rows of one epoch of a pack."""
        name = trial_name(trial)
        if "error" in result:
            self.fail(
                name,
                result["error"],
                result["traceback"],
                result["circumstances"],
                trial.num_failures,
            )
            return
        self._progress.train_s += result["train_s"]
        self._progress.train_cpu_s += result["train_cpu_s"]
        self._progress.prepare_s += result["prepare_s"]
        self._note(result.get("notes", []))
        # Less than is done where stages come from the store: they take no steps of their own.
        share = 1.0 if result["done"] else result["training_iteration"] / self._n_epochs[name]
        share = min(1.0, share)
        self._progress.work_done[name] = self._costs[name] * share
        rows = json.loads(result.pop("rows"))  # Tune keeps the last result of every trial
        self._writer.add("epochs", rows["epochs"])
        self._writer.add("accuracy", rows["accuracy"])
        for row in rows["trials"]:
            self._end(row, trial.num_failures)

    def _note(self, texts: Sequence[str]) -> None:
        """Say what a worker has to say, once a run."""
        for text in texts:
            if text not in self._noted:
                self._noted.add(text)
                self._screen.say(f"note: {text}")

    def _end(self, row: dict[str, Any], n_failures: int) -> None:
        config_id = row["config_id"]
        for name in ("started_at", "ended_at"):
            if row.get(name) is not None:
                row[name] = datetime.fromtimestamp(row[name], UTC)
        row["attempt"] = self._attempts[config_id] + n_failures + 1
        self._writer.add("trials", [{**config_columns(self._configs[config_id]), **row}])
        if config_id not in self._ended:  # a repeated epoch reports its ends again
            self._ended.add(config_id)
            self._n_open[self._pack_of[config_id]] -= 1
            self._progress.note_trial(row)

    def fail(
        self,
        name: str,
        error: str,
        trace: str,
        circumstances: Mapping[str, Any] | None = None,
        n_failures: int = 0,
    ) -> None:
        """Record the configurations of a pack that have not ended as failed, with a log."""
        missing = self.open_configs(name)
        if not missing:
            return
        log = self._writer.folder.write_log(f"{missing[0].id}.log", trace)
        self._progress.work_done[name] = self._costs[name]
        self._screen.say(f"{len(missing)} configurations failed: {error} (see {log})")
        for config in missing:
            row = {"config_id": config.id, "status": "failed", "error": error}
            self._end({**row, **(circumstances or {})}, n_failures)

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Note that a pack runs."""
        self._running.add(trial_name(trial))

    def on_checkpoint(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        checkpoint: tune.Checkpoint,
        **info: Any,
    ) -> None:
        """Remove the pack's last checkpoint but this one."""
        name = trial_name(trial)
        older = self._checkpoints.get(name)
        self._checkpoints[name] = path = Path(checkpoint.path)
        if older is not None and older != path:
            shutil.rmtree(older, ignore_errors=True)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Say that a worker was lost and its pack goes on."""
        self._running.discard(trial_name(trial))
        self._screen.say(
            f"a worker was lost ({trial.num_failures} of {LOST_WORKERS} times for its pack); "
            f"the pack goes on from its last checkpoint"
        )

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Note that Tune has given a pack up."""
        name = trial_name(trial)
        text = ""
        if trial.error_file and Path(trial.error_file).exists():
            text = Path(trial.error_file).read_text().strip()
        reason = text.splitlines()[-1] if text else "no reason given"
        if trial.num_failures > LOST_WORKERS:
            error = f"worker lost {trial.num_failures} times: {reason}"
            self.fail(name, error, text or error, n_failures=trial.num_failures)
        else:
            # A worker lost while it changed packs: Tune does not try these again.
            self.unsettled[name] = text or reason
        self._note_end(trial)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Let go of the trial's checkpoints."""
        if trial.path:
            shutil.rmtree(trial.path, ignore_errors=True)
        self._note_end(trial)

    def _note_end(self, trial: Trial) -> None:
        name = trial_name(trial)
        self._left.discard(name)
        self._running.discard(name)
        self._checkpoints.pop(name, None)
        # Not written here: Tune would take a failed write for a failed trial.
        self._has_ended_pack = True

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Write and show, now and then."""
        n_configs = sum(self._n_open[name] for name in self._running)
        self._progress.note_running(len(self._left), n_configs)
        since = time.monotonic() - self._flushed
        is_soon = self._has_ended_pack and self._flush_s <= _FLUSH_SHARE * since
        if is_soon or since > _FLUSH_EVERY_S:
            self._flush()
        self._screen.update(self._progress)

    def _flush(self) -> None:
        start = time.monotonic()
        try:
            self._writer.flush()
        except WriteError as error:
            self.failure = error
            raise
        self._flushed = time.monotonic()
        self._flush_s = self._flushed - start
        self._has_ended_pack = False

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Note whether anything was left over."""
        self.is_interrupted = bool(self._left)


def pack_name(pack: Pack) -> str:
    """Name a pack by its first configuration."""
    return pack.configs[0].id


def trial_name(trial: Trial) -> str:
    """Give the name of the pack that a trial runs."""
    name: str = trial.config[TRIAL]["key"]
    return name
