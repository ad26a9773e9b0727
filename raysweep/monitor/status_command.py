"""The command line of ``raysweep status`` and ``python -m raysweep.status``."""

import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from raysweep.monitor.snapshot import SweepStatus
from raysweep.monitor.terminal import TALLEST, WIDEST, Display, Snapshot, lines_of, show_status
from raysweep.printing_command import run_as_command


def status(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A sweep's folder, or its address (s3://...).")
    ],
    watch: Annotated[
        float | None,
        typer.Option(min=0.5, metavar="SECONDS", help="Refresh at this interval until ctrl-c."),
    ] = None,
) -> None:
    """Show the progress of a sweep, during or after its run; needs only its folder.

    Exit codes: 0, or 2 if FOLDER is not a sweep's folder.
    """
    try:
        look = SweepStatus.at(folder)
        snapshot = look.snapshot()
        console = Console(highlight=False)
        if watch is None:
            _print(console, snapshot)
        else:
            _watch(console, look, snapshot, watch)
    except KeyboardInterrupt:
        sys.exit(0)


def _print(console: Console, snapshot: Snapshot) -> None:
    if not sys.stdout.isatty():
        console.width = WIDEST
    is_ascii = console.options.ascii_only
    for line in lines_of(snapshot, min(WIDEST, console.width), TALLEST, is_ascii):
        console.print(line, soft_wrap=True)


def _watch(console: Console, look: SweepStatus, snapshot: Snapshot, every_s: float) -> None:
    if not sys.stdout.isatty():  # print one line each time
        while True:
            print(show_status(snapshot), flush=True)
            time.sleep(every_s)
            snapshot = look.snapshot()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Display(snapshot), refresh=True)
            time.sleep(every_s)
            snapshot = look.snapshot()


def main(called_as: str | None = None) -> None:
    """Run the command line, under another name in its help if one is given."""
    run_as_command(status, called_as)


if __name__ == "__main__":
    main()
