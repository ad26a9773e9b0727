"""TensorBoard: event files with scalars and hyper-parameters, one folder a configuration."""

import shutil
from pathlib import Path

from raysweep.loggers.runs import LoggedRun


class TensorBoardLogger:
    """Writes event files with tensorboardX, which comes with Ray Tune."""

    def __init__(self, folder: Path, sweep: str) -> None:
        import tensorboard  # noqa: F401 (it is what shows them)
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        self._folder = folder
        self._writer, self._hparams = SummaryWriter, hparams

    def log(self, run: LoggedRun) -> None:
        """Write a run; steps count epochs over all stages."""
        writer = self._writer(str(self._folder / run.config_id))
        for step, values in enumerate(run.epochs, 1):
            for name, value in values.items():
                writer.add_scalar(name, value, step, walltime=run.ended_s or None)
        settings = {
            n: v for n, v in run.settings.items() if isinstance(v, bool | int | float | str)
        }
        # Not add_hparams, whose second writer takes the name of this one's file.
        for summary in self._hparams(settings, dict(run.metrics)):
            writer.file_writer.add_summary(summary)
        for name, value in run.metrics.items():
            writer.add_scalar(name, value, 0, walltime=run.ended_s or None)
        for name, text in run.texts.items():
            writer.add_text(name, text)
        writer.close()

    def remove(self, config_id: str) -> None:
        """Delete a run's folder."""
        shutil.rmtree(self._folder / config_id, ignore_errors=True)

    def close(self) -> None:
        """Do nothing: each run is closed."""
