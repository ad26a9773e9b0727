"""TensorBoard: event files with scalars and hyper-parameters, one folder per configuration."""

import glob
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raysweep.monitor.loggers.logged_run import METRIC_NAMES, SETTING_NAMES, LoggedRun
from raysweep.statuses import Status


class TensorBoardLogger:
    """Writes event files with TensorBoard's own writer, which needs no torch in the driver."""

    def __init__(self, folder: Path, sweep: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = folder
        self._writer, self._event = EventFileWriter, Event

    def log(self, run: LoggedRun) -> None:
        """Write a run; steps are epochs counted over all stages."""
        name = run.name.replace("/", "_")  # the folder's name, shown as the run's in TensorBoard
        writer = self._writer(str(self._folder / name))
        try:
            for step, summary in _summaries(run):
                writer.add_event(self._event(wall_time=run.ended_s, step=step, summary=summary))
        finally:
            writer.close()

    def remove(self, config_id: str) -> None:
        """Delete a run's folder."""
        for folder in self._folder.glob(f"*{glob.escape(config_id)}"):
            shutil.rmtree(folder)

    def close(self) -> None:
        """Do nothing, as each run is already closed."""


def _summaries(run: LoggedRun) -> Iterator[tuple[int, Any]]:
    """Yield the summaries of a run's file with their steps."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import summary_v2 as hparams

    # TensorBoard's page shows the columns of the first run it finds, which may have diverged, so
    # each run also lists the columns that it lacks.
    yield (
        0,
        hparams.hparams_config_pb(
            [hparams.HParam(name) for name in SETTING_NAMES],
            [hparams.Metric(name) for name in METRIC_NAMES],
        ),
    )
    yield (
        0,
        hparams.hparams_pb(dict(run.settings), trial_id=run.name, start_time_secs=run.started_s),
    )
    for step, values in enumerate(run.epochs, 1):
        yield step, Summary(value=[_scalar(name, value) for name, value in values.items()])
    yield 0, Summary(value=[_scalar(name, value) for name, value in run.metrics.items()])
    yield 0, Summary(value=[_text(name, value) for name, value in run.texts.items()])
    yield 0, _end(run)


def _scalar(name: str, value: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=name, simple_value=value)


def _text(name: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    return Summary.Value(
        tag=name,
        metadata=create_summary_metadata(display_name=None, description=None),
        tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()]),
    )


def _end(run: LoggedRun) -> Any:
    """Return the summary that ends a run on the hyper-parameter page: success unless it failed."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    is_failed = run.texts.get("status") == Status.FAILED
    status = api_pb2.STATUS_FAILURE if is_failed else api_pb2.STATUS_SUCCESS
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=run.ended_s)
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    return Summary(
        value=[
            Summary.Value(
                tag=metadata.SESSION_END_INFO_TAG,
                metadata=metadata.create_summary_metadata(data),
                tensor=metadata.NULL_TENSOR,
            )
        ]
    )
