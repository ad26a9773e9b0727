"""Weights & Biases: one run per configuration; offline unless its settings say otherwise."""

import os
import shutil
from pathlib import Path
from typing import Any

from raysweep.monitor.loggers.logged_run import LoggedRun
from raysweep.statuses import Status


class WandbLogger:
    """Writes with wandb's client: to its server with WANDB_API_KEY or WANDB_MODE, or to files.

    ``wandb sync`` uploads the files later.
    """

    def __init__(self, folder: Path, sweep: str) -> None:
        # A driver must not send anything that its user did not request.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._wandb: Any = wandb
        self._folder, self._sweep = folder, sweep
        has_key = "WANDB_API_KEY" in os.environ
        self._mode = os.environ.get("WANDB_MODE", "online" if has_key else "offline")

    def log(self, run: LoggedRun) -> None:
        """Write a run; steps are epochs counted over all stages."""
        made = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", self._sweep),
            id=run.config_id,
            name=run.name,
            config=dict(run.settings),
            dir=str(self._folder),
            mode=self._mode,
            reinit="create_new",
            resume="allow" if self._mode == "online" else None,
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        try:
            for step, values in enumerate(run.epochs, 1):
                made.log(dict(values), step=step)
            made.summary.update({**run.metrics, **run.texts})
        finally:
            made.finish(exit_code=1 if run.texts.get("status") == Status.FAILED else 0)

    def remove(self, config_id: str) -> None:
        """Delete a run's files; on a server, the run is resumed instead."""
        for folder in (self._folder / "wandb").glob(f"*-{config_id}"):
            shutil.rmtree(folder)

    def close(self) -> None:
        """Do nothing, as each run is already closed."""
