"""How the figures here look, and how they are written: PNG, SVG or PDF."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from cycler import cycler

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from raysweep.analysis.command import chosen_format, write
from raysweep.tables.schemas import TABLES

FORMATS = ("png", "svg", "pdf")
FigureFormat = Annotated[str | None, typer.Option("--format", help=", ".join(FORMATS) + ".")]
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


_SYMBOLS = {"beta_1": "β₁", "beta_2": "β₂", "lr": "learning rate"}


def setting_words(name: str) -> str:
    """Write the name of a setting for an axis or a title: ``β₁``, ``replay weight``."""
    return _SYMBOLS.get(name.removeprefix("config/"), words(name))


def metric_label(name: str) -> str:
    """Write the name of a measure with its unit, as the tables' schemas state it."""
    columns = [column for table in TABLES.values() for column in table.columns]
    description = next((column.description for column in columns if column.name == name), "")
    if name.endswith("_s"):
        return f"{words(name.removesuffix('_s'))} (s)"
    return f"{words(name)} (nats)" if "nats" in description else words(name)


def with_minus(text: str) -> str:
    """Write a number's sign as the axes of matplotlib do."""
    return "\N{MINUS SIGN}" + text[1:] if re.match(r"-\d", text) else text


def is_log(name: str, low: float, high: float) -> bool:
    """Tell whether a measure from ``low`` to ``high`` is drawn on a logarithmic axis.

    So are losses and durations that span two decades; measures that can be negative never are.
    """
    return name.endswith(("loss", "_s")) and 0 < 100 * low < high


def words(name: str) -> str:
    """Write the name of a column for an axis: ``average accuracy``."""
    return name.removeprefix("config/").replace("_", " ")


def give_figure(figure: Figure, out: Path | None, given_format: str | None, default: str) -> None:
    """Write a figure to ``out``, else to ``default`` with the format as its ending; close it."""
    name = chosen_format(given_format, out, FORMATS)
    write(rendered(figure, name), out or Path(f"{default}.{name}"))


def rendered(figure: Figure, name: str, dpi: int | None = None) -> bytes:
    """Give a figure in one of ``FORMATS``; close it. ``dpi`` is the style's unless given."""
    buffer = io.BytesIO()
    # No date: the same tables give the same file.
    stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[name]
    with style():
        figure.savefig(buffer, format=name, metadata=stamp, dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()
