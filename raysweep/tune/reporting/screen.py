"""The driver's messages and its progress display."""

import os
import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from raysweep.clean_text import clean_line
from raysweep.monitor.terminal import Display
from raysweep.output_streams import tolerant
from raysweep.tune.reporting.notebook import CellOutput, is_notebook
from raysweep.tune.reporting.progress import Progress

_PLAIN_EVERY_S = 30.0
_LIVE_EVERY_S = 0.25
_CELL_EVERY_S = 1.0
_NOTEBOOK = "JPY_PARENT_PID"
"""Environment variable of processes started in a notebook.

Their output looks like a terminal, but shows only lines.
"""


class Screen:
    """Show a live display on a terminal and in a notebook, a line every 30 s elsewhere.

    ``verbosity`` is -1 (show nothing), 0 or 1.
    """

    def __init__(self, verbosity: int) -> None:
        self._verbosity = verbosity
        stream = tolerant(sys.stderr)  # nothing that happens to it may end a run
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        # The console alone is not enough: FORCE_COLOR makes it take a pipe for a terminal.
        self._is_live = (
            stream.isatty()
            and self._console.is_terminal
            and not self._console.is_dumb_terminal
            and _NOTEBOOK not in os.environ
        )
        self._live: Live | None = None
        self._cell = CellOutput() if verbosity >= 0 and is_notebook() else None
        self._progress: Progress | None = None
        self._shown = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line on what is happening, unless quiet."""
        if self._verbosity >= 0:
            self._print(text)

    def detail(self, text: str) -> None:
        """Print a line only if verbose."""
        if self._verbosity > 0:
            self._print(text)

    def _print(self, text: str) -> None:
        text = clean_line(text)
        if self._cell:
            self._cell.add(text)
        else:
            self._console.print(Text(text))

    def update(self, progress: Progress) -> None:
        """Show the progress if an update is due."""
        if self._verbosity < 0:
            return
        every_s = (
            _LIVE_EVERY_S if self._is_live else _CELL_EVERY_S if self._cell else _PLAIN_EVERY_S
        )
        if time.monotonic() - self._shown < every_s:
            return
        if self._cell:
            self._progress = progress
            self._cell.show(Display(progress.snapshot()))
        elif not self._is_live:
            self._console.print(Text(progress.line()))
        else:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(Display(progress.snapshot()), refresh=True)
        self._shown = time.monotonic()

    def close(self) -> None:
        """Remove the display but keep the lines; in a notebook, add the last state as a line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._cell and self._progress:
            self._cell.show(None)
            self._cell.add(self._progress.line())
            self._progress = None
