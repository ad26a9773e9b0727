"""How the figures here look, and how they are written: PNG, SVG or PDF."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from analysis.command import chosen_format, write

FORMATS = ("png", "svg", "pdf")
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
"""Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by colour-blind readers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
COLOR_MAP = "cividis"
"""Rises in lightness, also in grey and for colour-blind readers."""
_STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLORS),
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "raysweep",
    "pdf.fonttype": 42,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of this package; figures made inside are closed by ``give_figure``."""
    with mpl.rc_context(_STYLE):
        yield


def words(name: str) -> str:
    """Write the name of a column for an axis: ``average accuracy``."""
    return name.removeprefix("config/").replace("_", " ")


def give_figure(figure: Figure, out: Path | None, given_format: str | None, default: str) -> None:
    """Write a figure to ``out``, else to ``default`` with the format as its ending; close it."""
    name = chosen_format(given_format, out, FORMATS)
    buffer = io.BytesIO()
    # No date: the same tables give the same file.
    stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[name]
    with style():
        figure.savefig(buffer, format=name, metadata=stamp)
    plt.close(figure)
    write(buffer.getvalue(), out or Path(f"{default}.{name}"))
