"""Figures of several panels, one for each value of some settings, and what they average over.

The first facet runs from left to right, the others from top to bottom. A single facet is wrapped,
and so are several if few of their combinations occur.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raysweep.analysis.figures import setting_words, with_minus
from raysweep.analysis.sweeps import levels, setting
from raysweep.errors import InputError
from raysweep.tables.columns import SETTING
from raysweep.tables.ranking import varied_settings
from raysweep.user_text.values import show_value

MOST_PANELS = 48
_IN_A_ROW = 4
_SPARSE = 0.7
_SEED = SETTING + "seed"


@dataclass(frozen=True)
class Panel:
    """A panel: its position, the texts above and right of it, and the rows that it shows."""

    row: int
    column: int
    top: str
    right: str
    keys: dict[str, object]

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the panel's rows of a table with the facets' columns."""
        kept = np.ones(len(frame), dtype=bool)
        for column, value in self.keys.items():
            kept &= has_value(frame[column], value).to_numpy(dtype=bool)
        return frame[kept]


@dataclass(frozen=True)
class Layout:
    """Panels in rows and columns."""

    n_rows: int
    n_columns: int
    panels: list[Panel]


def facet_columns(trials: pd.DataFrame, names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Find the columns of facets by their names, adding ``sweep`` if there are several.

    ``taken`` are columns that the figure uses elsewhere: naming one again is an ``InputError``.
    """
    columns = [setting(trials, name) for name in names]
    for i, column in enumerate(columns):
        if column in [*taken, *columns[:i]]:
            raise InputError(
                f"{column.removeprefix(SETTING)}: expected each setting once in the figure,"
                " got it twice; leave one out"
            )
    if "sweep" not in [*taken, *columns] and trials["sweep"].nunique() > 1:
        columns.append("sweep")
    return columns


def has_value(values: "pd.Series[Any]", value: object) -> "pd.Series[bool]":
    """Return where a column has a value from ``levels``, in which None is null."""
    return values.isna() if value is None else values == value


def layout(frame: pd.DataFrame, facets: Sequence[str]) -> Layout:
    """Lay out a panel for each combination of the facets' values that occurs in a table."""
    if not facets:
        return Layout(1, 1, [Panel(0, 0, "", "", {})])
    across, down = combinations(frame, facets[:1]), combinations(frame, facets[1:])
    found = combinations(frame, facets)
    is_wrapped = len(facets) == 1 or len(found) <= _SPARSE * len(across) * len(down)
    n_panels = len(found) if is_wrapped else len(across) * len(down)
    if n_panels > MOST_PANELS:
        raise InputError(
            f"expected at most {MOST_PANELS} panels, got {n_panels} ({_names(facets)}); "
            "name fewer facets, or take fewer rows with --where"
        )
    if is_wrapped:
        n_rows = math.ceil(n_panels / _IN_A_ROW)
        n_columns = math.ceil(n_panels / n_rows)
        wrapped = [
            Panel(*divmod(i, n_columns), show_keys(keys), "", keys) for i, keys in enumerate(found)
        ]
        return Layout(n_rows, n_columns, wrapped)
    panels = [
        Panel(
            row,
            column,
            show_keys(top) if row == 0 else "",
            show_keys(right) if column == len(across) - 1 else "",
            {**top, **right},
        )
        for row, right in enumerate(down)
        for column, top in enumerate(across)
    ]
    return Layout(len(down), len(across), panels)


def combinations(frame: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, object]]:
    """List the combinations of some columns' values that occur in a table, in ascending order."""
    if not columns:
        return [{}]
    if len(columns) == 1:
        return [{columns[0]: value} for value in levels(frame, columns[0])]
    rows = frame[[*columns]].drop_duplicates().sort_values([*columns])
    return [
        {name: None if pd.isna(value) else value for name, value in zip(columns, row, strict=True)}
        for row in rows.itertuples(index=False)
    ]


def show_keys(keys: dict[str, Any]) -> str:
    """Format settings for a title: ``replay simple, learning rate 0.001``."""
    texts = {column: with_minus(show_value(value)) for column, value in keys.items()}
    return ", ".join(
        text if column == "sweep" else f"{setting_words(column)} {text}"
        for column, text in texts.items()
    )


def _names(columns: Sequence[str]) -> str:
    return ", ".join(column.removeprefix(SETTING) for column in columns)


def averaged_over(trials: pd.DataFrame, named: Sequence[str]) -> str:
    """Describe what means of groups by ``named`` are over: ``replay (3 values) and 3 seeds``.

    A setting counts if it takes several values within a group. Empty if each group has one
    configuration.
    """
    columns = [name for name in [*varied_settings(trials), _SEED] if name not in named]
    if named and columns:
        each = trials.groupby([*named], dropna=False)[columns].nunique()
        most, least = each.max(), each.min()
    else:
        most = least = trials[columns].nunique()
    counts = {
        name: f"{'up to ' if least[name] < most[name] else ''}{most[name]}"
        for name in columns
        if most[name] > 1
    }
    parts = [f"{setting_words(name)} ({n} values)" for name, n in counts.items() if name != _SEED]
    if _SEED in counts:
        parts.append(f"{counts[_SEED]} seeds")
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def new_figure(
    plan: Layout, panel_size: tuple[float, float], margins: tuple[float, float], **subplots: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of ``plan`` with panels of a size (width, height, in inches) and their titles.

    Returns the axes in the order of ``plan.panels``; positions without a panel stay empty.
    """
    import matplotlib.pyplot as plt

    width = plan.n_columns * panel_size[0] + margins[0]
    height = plan.n_rows * panel_size[1] + margins[1]
    figure, grid = plt.subplots(
        plan.n_rows,
        plan.n_columns,
        figsize=(max(width, 3.6), height),
        squeeze=False,
        **subplots,
    )
    used = {(panel.row, panel.column) for panel in plan.panels}
    for location in np.ndindex(grid.shape):
        if location not in used:
            grid[location].remove()
    axes: list[Axes] = [grid[panel.row, panel.column] for panel in plan.panels]
    for panel, ax in zip(plan.panels, axes, strict=True):
        if panel.top:
            ax.set_title(panel.top)
        if panel.right:
            ax.text(
                1.03, 0.5, panel.right, transform=ax.transAxes, rotation=-90, va="center", ha="left"
            )
    return figure, axes


def is_lowest(plan: Layout, panel: Panel) -> bool:
    """Return whether there is no panel below this one."""
    return not any(other.row > panel.row and other.column == panel.column for other in plan.panels)


def set_title(figure: Figure, title: str, note: str = "") -> None:
    """Add a title above a figure and a note below the title, both wrapped to its width."""
    width = int(figure.get_figwidth() * 72 / (9 * 0.53))
    lines = [*textwrap.wrap(title, width), *textwrap.wrap(note, width)]
    figure.suptitle("\n".join(lines), fontsize=9, x=0.01, ha="left")
