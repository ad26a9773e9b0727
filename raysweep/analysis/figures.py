"""How the figures here look, and how they are written: PNG, SVG or PDF."""

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
"""Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by colour-blind readers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
COLOR_MAP = "cividis"
"""Rises in lightness, also in grey and for colour-blind readers."""
LOG_SPAN = 100.0
"""From this ratio of the largest to the least value on an axis is logarithmic."""
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


_SYMBOLS = {"beta_1": "β₁", "beta_2": "β₂", "lr": "learning rate"}


def setting_words(name: str) -> str:
    """Write the name of a setting for an axis or a title: ``β₁``, ``replay weight``."""
    return _SYMBOLS.get(name.removeprefix("config/"), words(name))


def metric_label(name: str) -> str:
    """Write the name of a measure with its unit, as its column declares it."""
    unit = unit_of(name)
    return f"{words(name)} ({unit})" if unit else words(name)


def with_minus(text: str) -> str:
    """Write a number's sign as the axes of matplotlib do."""
    return "\N{MINUS SIGN}" + text[1:] if re.match(r"-\d", text) else text


def is_log(name: str, low: float, high: float) -> bool:
    """Return whether a measure from ``low`` to ``high`` is drawn on a logarithmic axis.

    It is if its column declares it and the values, all positive, span two decades.
    """
    column = column_of(name)
    return column is not None and column.is_log and 0 < LOG_SPAN * low < high


def is_log_setting(values: "pd.Series[float]") -> bool:
    """Return whether a setting of numbers is drawn on a logarithmic axis: by their span alone.

    The magnitudes of the values other than 0 count.
    """
    sizes = values.abs()
    return bool(sizes.max() / sizes[sizes != 0].min() >= LOG_SPAN)


def words(name: str) -> str:
    """Write the name of a column for an axis: ``average accuracy``."""
    return label_of(name)


def give_figure(figure: Figure, out: Path | None, given_format: str | None, default: str) -> None:
    """Write a figure to ``out``, else to ``default`` with the format as its ending; close it."""
    name = chosen_format(given_format, out, FORMATS)
    write(rendered(figure, name), out or Path(f"{default}.{name}"))


def rendered(figure: Figure, name: str, dpi: int | None = None) -> bytes:
    """Return a figure in one of ``FORMATS``; close it. ``dpi`` is the style's unless given."""
    buffer = io.BytesIO()
    # No date: the same tables give the same file.
    stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[name]
    with style():
        figure.savefig(buffer, format=name, metadata=stamp, dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()
