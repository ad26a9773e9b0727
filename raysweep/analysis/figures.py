"""The style of all figures, and writing them as PNG, SVG or PDF."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import pandas as pd
import typer
from cycler import cycler

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from raysweep.analysis.command import chosen_format, write
from raysweep.tables.schemas import column_of, label_of, unit_of

FORMATS = ("png", "svg", "pdf")
FigureFormat = Annotated[str | None, typer.Option("--format", help=", ".join(FORMATS) + ".")]
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
"""Okabe and Ito's colours (jfly.uni-koeln.de/color), which colour-blind readers can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
COLOR_MAP = "cividis"
"""Increases in lightness, also in grey and for colour-blind readers."""
LOG_SPAN = 100.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
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
    """Draw in the style of this package; ``give_figure`` closes the figures made inside."""
    with mpl.rc_context(_STYLE):
        yield


_SYMBOLS = {"beta_1": "β₁", "beta_2": "β₂", "lr": "learning rate"}


def setting_words(name: str) -> str:
    """Return the name of a setting for an axis or a title: ``β₁``, ``replay weight``."""
    return _SYMBOLS.get(name.removeprefix("config/"), words(name))


def metric_label(name: str) -> str:
    """Return the name of a measure with the unit that its column declares."""
    unit = unit_of(name)
    return f"{words(name)} ({unit})" if unit else words(name)


def with_minus(text: str) -> str:
    """Replace a number's minus sign by the one on matplotlib's axes."""
    return "\N{MINUS SIGN}" + text[1:] if re.match(r"-\d", text) else text


def is_log(name: str, low: float, high: float) -> bool:
    """Return whether a measure from ``low`` to ``high`` is drawn on a logarithmic axis.

    It is if its column declares so and the values are all positive and span two decades.
    """
    column = column_of(name)
    return column is not None and column.is_log and 0 < LOG_SPAN * low < high


def is_log_setting(values: "pd.Series[float]") -> bool:
    """Return whether a numeric setting is drawn on a logarithmic axis, judged by its span alone.

    Only the magnitudes of non-zero values count.
    """
    sizes = values.abs()
    return bool(sizes.max() / sizes[sizes != 0].min() >= LOG_SPAN)


def words(name: str) -> str:
    """Return the name of a column for an axis: ``average accuracy``."""
    return label_of(name)


def give_figure(figure: Figure, out: Path | None, given_format: str | None, default: str) -> None:
    """Write a figure to ``out``, else to ``default`` with the format's extension; close it."""
    name = chosen_format(given_format, out, FORMATS)
    write(rendered(figure, name), out or Path(f"{default}.{name}"))


def rendered(figure: Figure, name: str, dpi: int | None = None) -> bytes:
    """Return a figure in one of ``FORMATS``, and close it. ``dpi`` defaults to the style's."""
    buffer = io.BytesIO()
    # No date, so that the same tables give the same file.
    stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[name]
    with style():
        figure.savefig(buffer, format=name, metadata=stamp, dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()
