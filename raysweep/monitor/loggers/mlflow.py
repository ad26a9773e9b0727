"""MLflow: an experiment a sweep, a run a configuration, by its own client."""

import logging
import os
from pathlib import Path
from typing import Any

from raysweep.monitor.loggers.logged_run import LoggedRun
from raysweep.statuses import Status

_MOST = 1000
"""Metrics that MLflow takes at once; of parameters it takes a hundred, of letters 6,000."""
_HOME = "logged_from"
"""Tag: the folder of the logger whose record knows of the run."""
_DEFAULTS = {
    # A driver sends nothing that its user did not ask for.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # With a server two lines for each run, among those of the driver.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The end of a sweep waits: 4 min for a server that is down, by MLflow's own 7.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


class MlflowLogger:
    """Writes to the server that MLFLOW_TRACKING_URI names, else to an SQLite file."""

    def __init__(self, folder: Path, sweep: str) -> None:
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):  # after the import, which sets a level of its own
            logging.getLogger(name).setLevel(logging.ERROR)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        # Others' runs may be there, of the same configurations in a sweep of the same name.
        self._is_shared, self._home = bool(uri), str(folder.absolute())
        if not uri:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        self._client: Any = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(sweep)
        self._experiment = found.experiment_id if found else self._client.create_experiment(sweep)

    def log(self, run: LoggedRun) -> None:
        """Write a run; steps count epochs over all stages."""
        from mlflow.entities import Metric, Param, RunTag

        start, end = (round(1000 * seconds) for seconds in (run.started_s, run.ended_s))
        tags = {"config_id": run.config_id, _HOME: self._home, **run.texts}
        made = self._client.create_run(self._experiment, start_time=start, run_name=run.name)
        run_id = made.info.run_id
        metrics = [
            Metric(name, value, end, step)
            for step, values in enumerate(run.epochs, 1)
            for name, value in values.items()
        ]
        metrics += [Metric(name, value, end, 0) for name, value in run.metrics.items()]
        parameters = [Param(name, str(value)) for name, value in run.settings.items()]
        self._client.log_batch(
            run_id, params=parameters[:100], tags=[RunTag(n, t[:5000]) for n, t in tags.items()]
        )
        for first in range(0, len(metrics), _MOST):
            self._client.log_batch(run_id, metrics=metrics[first : first + _MOST])
        is_well = run.texts.get("status") != Status.FAILED
        self._client.set_terminated(run_id, "FINISHED" if is_well else "FAILED", end)

    def remove(self, config_id: str) -> None:
        """Delete the runs of a configuration; on a server, those that this folder's sweep wrote."""
        where = f"tags.config_id = '{config_id}'"
        for run in self._client.search_runs([self._experiment], where):
            if not self._is_shared or run.data.tags.get(_HOME) == self._home:
                self._client.delete_run(run.info.run_id)

    def close(self) -> None:
        """Do nothing: each run is closed."""
