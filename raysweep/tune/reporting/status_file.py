"""``status.json``: what the driver is doing, written from time to time, best effort."""

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor

from raysweep.monitor.driver_report import STATUS_FILE, DriverReport
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tune.reporting.progress import Progress

_EVERY_S = 5.0


class StatusFile:
    """The status file of the driver that holds the folder. A failed write stops nothing.

    A thread writes it, since an object store may be slow. A file that a killed driver left is
    removed at the start.
    """

    def __init__(self, folder: ResultsFolder, dashboard: str | None = None) -> None:
        self._folder = folder
        self._dashboard = dashboard
        self._pool = ThreadPoolExecutor(1, "raysweep-status")
        self._written = time.monotonic() - _EVERY_S
        self._writing: Future[None] = self._pool.submit(self._remove)

    def update(self, progress: Progress) -> None:
        """Write the file if a write is due and the last one is over."""
        if time.monotonic() - self._written < _EVERY_S or not self._writing.done():
            return
        self._written = time.monotonic()
        text = DriverReport.of(progress.snapshot(), self._dashboard).to_text()
        self._writing = self._pool.submit(self._write, text)

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(RuntimeError):  # already closed, or the interpreter is exiting
            self._pool.submit(self._remove)
        self._pool.shutdown()

    def _write(self, text: str) -> None:
        with contextlib.suppress(WriteError):
            self._folder.write_text(STATUS_FILE, text)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            (self._folder.location / STATUS_FILE).delete()
