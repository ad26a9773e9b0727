"""MLflow: one experiment per sweep and one run per configuration, through its own client."""

import logging
import os
from pathlib import Path
from typing import Any

from raysweep.monitor.loggers.logged_run import LoggedRun
from raysweep.statuses import Status

_MOST = 1000
"""MLflow's limit on metrics per call; the limits are 100 for parameters, 6,000 for characters."""
_HOME = "logged_from"
"""Tag with the folder of the logger whose record has the run."""
_DEFAULTS = {
    # A driver must not send anything that its user did not request.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # With a server, MLflow prints two lines per run among the driver's own.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A sweep waits for logging at its end: 4 min if the server is down, with MLflow's default of 7.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


class MlflowLogger:
    """Writes to the server in MLFLOW_TRACKING_URI, or to an SQLite file without one."""

    def __init__(self, folder: Path, sweep: str) -> None:
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):  # after the import, which sets its own level
            logging.getLogger(name).setLevel(logging.ERROR)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        # A server may have other users' runs of the same configurations under the same sweep name.
        self._is_shared, self._home = bool(uri), str(folder.absolute())
        if not uri:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        self._client: Any = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(sweep)
        self._experiment = found.experiment_id if found else self._client.create_experiment(sweep)

    def log(self, run: LoggedRun) -> None:
        """Write a run; steps are epochs counted over all stages."""
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
        """Delete a configuration's runs; on a server, only those that this folder's sweep wrote."""
        where = f"tags.config_id = '{config_id}'"
        for run in self._client.search_runs([self._experiment], where):
            if not self._is_shared or run.data.tags.get(_HOME) == self._home:
                self._client.delete_run(run.info.run_id)

    def close(self) -> None:
        """Do nothing, as each run is already closed."""
