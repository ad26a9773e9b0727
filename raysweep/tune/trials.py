"""Running packs as Ray Tune trials, and carrying their rows into the tables."""

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from raysweep.data.sources import Source
from raysweep.plan import Pack, Plan, cost
from raysweep.results import Writer, config_columns
from raysweep.settings import Resources
from raysweep.trainable import TRIAL, PackTrainable, trial_config
from raysweep.tune.progress import Progress, Screen

_FLUSH_EVERY_S = 1.0
_OVER = (Trial.TERMINATED, Trial.ERROR)
_LOST_WORKERS = 3
"""How often a pack's worker may be lost before its configurations have failed."""


class Collector(tune.Callback):
    """Take rows from Tune's results into the tables, and keep the progress.

    Tune pickles its callbacks for a restore that is never used: none of the state goes along.
    """

    def __init__(
        self,
        plan: Plan,
        attempts: Mapping[str, int],
        writer: Writer,
        progress: Progress,
        screen: Screen,
    ) -> None:
        self._configs = {config.id: config for pack in plan.packs for config in pack.configs}
        self._attempts = attempts
        self._writer = writer
        self._progress = progress
        self._screen = screen
        self._flushed = time.monotonic()
        self._packs = {_key(pack): pack for pack in plan.packs}
        self._n_epochs = {_key(pack): _n_epochs(pack) for pack in plan.packs}
        self._ended: set[str] = set()
        self.failure: OSError | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take the rows of one epoch of a pack."""
        key = _trial_key(trial)
        pack = self._packs[key]
        if "error" in result:
            self._fail(pack, trial, result["error"], result["traceback"])
            return
        self._progress.train_s += result["train_s"]
        self._progress.prepare_s += result["prepare_s"]
        share = 1.0 if result["done"] else result["training_iteration"] / self._n_epochs[key]
        self._progress.work_done[key] = cost(pack) * share
        rows = json.loads(result["rows"])
        self._writer.add("epochs", rows["epochs"])
        self._writer.add("accuracy", rows["accuracy"])
        for row in rows["trials"]:
            self._end(row, trial)

    def _end(self, row: dict[str, Any], trial: Trial) -> None:
        config_id = row["config_id"]
        for name in ("started_at", "ended_at"):
            if row.get(name) is not None:
                row[name] = datetime.fromtimestamp(row[name], UTC)
        row["attempt"] = self._attempts[config_id] + trial.num_failures + 1
        self._writer.add("trials", [{**config_columns(self._configs[config_id]), **row}])
        if config_id not in self._ended:  # a repeated epoch reports its ends again
            self._ended.add(config_id)
            self._progress.note_trial(row)

    def _fail(self, pack: Pack, trial: Trial, error: str, trace: str) -> None:
        missing = [config for config in pack.configs if config.id not in self._ended]
        if not missing:
            return
        log = self._writer.folder.write_log(f"{missing[0].id}.log", trace)
        self._progress.work_done[_trial_key(trial)] = cost(pack)
        self._screen.say(f"{len(missing)} configurations failed: {error} (see {log})")
        for config in missing:
            self._end({"config_id": config.id, "status": "failed", "error": error}, trial)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Let go of the trial's last rows and write what is collected."""
        if trial.last_result:
            trial.last_result.pop("rows", None)
        self._flush()

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Say that a worker was lost and its pack goes on."""
        self._screen.say(
            f"a worker was lost ({trial.num_failures} of {_LOST_WORKERS} times for its pack); "
            f"the pack goes on from its last checkpoint"
        )

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Record the configurations of a pack whose workers were lost too often."""
        if trial.num_failures > _LOST_WORKERS:
            error = f"worker lost {trial.num_failures} times"
            text = ""
            if trial.error_file and Path(trial.error_file).exists():
                text = Path(trial.error_file).read_text()
            self._fail(self._packs[_trial_key(trial)], trial, error, text or error)
            self._flush()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Write and show, now and then."""
        running = [trial for trial in trials if trial.status == Trial.RUNNING]
        n_configs = sum(
            config.id not in self._ended
            for trial in running
            for config in self._packs[_trial_key(trial)].configs
        )
        self._progress.note_running(sum(trial.status not in _OVER for trial in trials), n_configs)
        if time.monotonic() - self._flushed > _FLUSH_EVERY_S:
            self._flush()
        self._screen.update(self._progress)

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        try:
            self._writer.flush()
        except OSError as error:
            self.failure = error
            raise


def _key(pack: Pack) -> str:
    return pack.configs[0].id


def _trial_key(trial: Trial) -> str:
    key: str = trial.config[TRIAL]["key"]
    return key


def _n_epochs(pack: Pack) -> int:
    n_trained = sum(group[0].kind != "fill_buffer" for group in pack.groups)
    return n_trained * pack.configs[0].epochs


def fit(
    plan: Plan,
    resources: Resources,
    sources: Mapping[str, Source],
    collector: Collector,
    storage: Path,
) -> None:
    """Run every pack as a trial; return at the end or on an interrupt.

    Raises ``OSError`` where the tables could not be written.
    """
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    amount = {"cpu": resources.cpu, "gpu": resources.gpu}
    trainable = tune.with_resources(
        tune.with_parameters(PackTrainable, sources=dict(sources)), amount
    )
    configs = [
        trial_config(_key(pack), pack.configs, resources.cpu, resources.gpu) for pack in plan.packs
    ]
    tuner = tune.Tuner(
        trainable,
        param_space={TRIAL: tune.grid_search(configs)},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_name_creator=lambda trial: f"pack_{trial.trial_id}",
            trial_dirname_creator=lambda trial: f"pack_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="packs",
            storage_path=str(storage),
            verbose=0,
            callbacks=[collector],
            failure_config=tune.FailureConfig(max_failures=_LOST_WORKERS),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except TuneError:
        if collector.failure is None:
            raise
    if collector.failure is not None:
        raise collector.failure
