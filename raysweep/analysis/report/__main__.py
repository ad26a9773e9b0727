"""Write a report of a sweep: one self-contained HTML file that opens offline.

    raysweep report results/vib [results/other ...] [--out vib.html]

Without ``--out`` the file is named after the (first) sweep, in the current folder. Images of the
best configurations need the data; if it is missing, the report says so.
"""

from pathlib import Path
from typing import Annotated

import typer

from raysweep.analysis.command import Folders, Where, run, write
from raysweep.analysis.report.page import report_page
from raysweep.analysis.sweeps import Sweeps


def report(
    folders: Folders,
    where: Where = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: NAME.html in this folder).")
    ] = None,
    metric_name: Annotated[
        str, typer.Option("--metric", help="The metric to show first.")
    ] = "average_accuracy",
    samples: Annotated[
        int, typer.Option(min=0, help="Show images of this many of the best; 0 for none.")
    ] = 3,
    data: Annotated[
        Path | None, typer.Option(help="Data folder, for images (default: RAYSWEEP_DATA or data).")
    ] = None,
) -> None:
    """Write a report of sweeps, finished or running, as one self-contained HTML file."""
    sweeps = Sweeps(folders, where)
    text = report_page(sweeps, metric_name, samples, data)
    write(text, out or Path(f"{sweeps.places[0].name}.html"))


if __name__ == "__main__":
    run(report)
