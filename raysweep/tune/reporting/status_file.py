"""Telling others what the driver does: ``status.json``, written now and then, best effort."""

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor

from raysweep.monitor.driver_report import STATUS_FILE, DriverReport
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tune.reporting.progress import Progress

_EVERY_S = 5.0


class StatusFile:
    """The file of a driver that holds the folder. No failure to write it stops anything.

    A thread writes it: a store may take its time. What a killed driver has left goes at the start.
    """

    def __init__(self, folder: ResultsFolder, dashboard: str | None = None) -> None:
        self._folder = folder
        self._dashboard = dashboard
        self._pool = ThreadPoolExecutor(1, "raysweep-status")
        self._written = time.monotonic() - _EVERY_S
        self._writing: Future[None] = self._pool.submit(self._remove)

    def update(self, progress: Progress) -> None:
        """Write the file if it is time to, and the last write is over."""
        if time.monotonic() - self._written < _EVERY_S or not self._writing.done():
            return
        self._written = time.monotonic()
        text = DriverReport.of(progress.snapshot(), self._dashboard).to_text()
        self._writing = self._pool.submit(self._write, text)

    def close(self) -> None:
        """Take the file away."""
        with contextlib.suppress(RuntimeError):  # closed before, or the interpreter ends
            self._pool.submit(self._remove)
        self._pool.shutdown()

    def _write(self, text: str) -> None:
        with contextlib.suppress(WriteError):
            self._folder.write_text(STATUS_FILE, text)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            (self._folder.location / STATUS_FILE).delete()
