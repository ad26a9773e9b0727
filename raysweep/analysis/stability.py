"""Map where training diverges: over the learning rate and the betas, or any other settings.

    raysweep stability results/vib [--x lr] [--y beta_1] [--facet beta_2] [--out map.pdf]
    raysweep stability results/vib --format text

A cell shows the share of runs that diverged, and the stage and epoch in which they did. With
``--format`` text, csv, json or markdown, print the table behind the map (or write it to --out); a
figure is written to --out, else to stability.png.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
import typer
from matplotlib.figure import Figure

from raysweep.analysis.command import (
    TABLE_FORMATS,
    Folders,
    Out,
    Where,
    chosen_format,
    give_table,
    run,
)
from raysweep.analysis.figures import FORMATS, give_figure
from raysweep.analysis.heatmap_grid import (
    State,
    color_scale,
    draw_grid,
    grid_columns,
    place_cells,
    side,
)
from raysweep.analysis.panels import averaged_over, layout
from raysweep.analysis.stage_names import stage_order, stage_words
from raysweep.analysis.sweeps import Sweeps, setting, with_short_names
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING


def divergence(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Count the runs of each group that diverged, with the stages and epochs in which they did.

    Columns: those in ``by`` (of ``trials``), sorted; the number ``n`` of runs, ``n_diverged`` of
    them and their ``share``; ``first_stage``, ``first_epoch``, ``last_stage`` and ``last_epoch`` of
    the divergences in the order of training; and ``where``, all of them: ``task 1 ep. 2: 3 runs``.
    Stages, epochs and ``where`` are null if none diverged.
    """
    groups = [*by]
    is_diverged = trials["status"] == Status.DIVERGED
    counts = (
        trials[groups]
        .assign(_is_diverged=is_diverged)
        .groupby(groups, dropna=False, sort=True)["_is_diverged"]
        .agg(n="size", n_diverged="sum")
        .reset_index()
    )
    counts["share"] = counts["n_diverged"] / counts["n"]
    places = _places(trials[is_diverged], groups)
    return counts.merge(places, on=groups, how="left")


def _places(diverged: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    stages = sorted(diverged["diverged_stage"].dropna().unique(), key=stage_order)
    each = (
        diverged[[*groups, "diverged_stage", "diverged_epoch"]]
        .dropna(subset=["diverged_stage", "diverged_epoch"])
        .assign(
            _order=lambda frame: frame["diverged_stage"].map({s: i for i, s in enumerate(stages)})
        )
        .groupby([*groups, "_order", "diverged_stage", "diverged_epoch"], dropna=False)
        .size()
        .rename("_n")
        .reset_index()
        .sort_values(["_order", "diverged_epoch"], kind="stable")
    )
    each["diverged_epoch"] = each["diverged_epoch"].astype("Int64")
    each["_text"] = [
        f"{stage_words(stage)} ep. {epoch}: {n} run{'s' if n > 1 else ''}"
        for stage, epoch, n in zip(
            each["diverged_stage"], each["diverged_epoch"], each["_n"], strict=True
        )
    ]
    return (
        each.groupby(groups, dropna=False)
        .agg(
            first_stage=("diverged_stage", "first"),
            first_epoch=("diverged_epoch", "first"),
            last_stage=("diverged_stage", "last"),
            last_epoch=("diverged_epoch", "last"),
            where=("_text", ", ".join),
        )
        .reset_index()
    )


def mark(row: "pd.Series[Any]") -> str:
    """Format where a group's runs diverged: ``task 2, ep. 3``, ``ep. 1-3``, or ``ep. 1+``.

    ``+`` means that others diverged in a later stage. Empty if the place is unknown.
    """
    if pd.isna(row["first_stage"]):
        return ""
    text = f"{stage_words(str(row['first_stage']))}, ep. {row['first_epoch']}"
    if row["first_stage"] != row["last_stage"]:
        return f"{text}+"
    if row["first_epoch"] != row["last_epoch"]:
        return f"{text}-{row['last_epoch']}"
    return text


def mark_texts(text: str) -> tuple[str, ...]:
    """Return a mark in two lines, and a shorter form: ``t2 e3``."""
    if not text:
        return ("", "")
    stage, _, epoch = text.partition(", ")
    kind, _, task = stage.partition(" ")
    return f"{stage}\n{epoch}", f"{kind[0]}{task}\ne{epoch.removeprefix('ep. ')}"


def figure(
    trials: pd.DataFrame, x: str = "lr", y: str = "beta_1", facets: Sequence[str] | None = None
) -> Figure:
    """Draw the share of runs that diverged over two settings, faceted by others.

    Without ``facets``, beta_2 is the facet if it varies. Raises ``InputError`` for an unknown
    setting, one that is named twice, and too many panels to see.
    """
    x, y, columns = grid_columns(trials, x, y, _default_facets(trials, x, y, facets))
    by = [*columns, y, x]
    table = divergence(trials, by)
    plan = layout(trials, columns)
    sides = side(trials, x), side(trials, y)
    cells = [place_cells(panel.of(table), trials, (x, y), _cell_of) for panel in plan.panels]
    n, n_diverged = int(table["n"].sum()), int(table["n_diverged"].sum())
    over = averaged_over(trials, by)
    return draw_grid(
        plan,
        cells,
        sides,
        color_scale([0, 1], "Blues"),
        (
            f"Divergence: {n_diverged} of {n} runs" + (f"; a cell covers {over}" if over else ""),
            "In a cell: diverged/all runs; stage and epoch in which they diverged"
            " (+: others in a later stage)",
            "share of runs that diverged",
        ),
        {"absent": "not run"},
    )


def _default_facets(
    trials: pd.DataFrame, x: str, y: str, facets: Sequence[str] | None
) -> Sequence[str]:
    if facets is not None:
        return facets
    column = SETTING + "beta_2"
    is_free = column not in (setting(trials, x), setting(trials, y))
    return [column] if is_free and trials[column].nunique() > 1 else []


def _cell_of(row: "pd.Series[Any]") -> tuple[State, float, tuple[str, ...]]:
    share = f"{row['n_diverged']}/{row['n']}"
    long, brief = (f"{share}\n{text}" if text else share for text in mark_texts(mark(row)))
    return "value", float(row["share"]), (long, brief, share)


def show(
    folders: Folders,
    x: Annotated[str, typer.Option(help="Setting from left to right.")] = "lr",
    y: Annotated[str, typer.Option(help="Setting from bottom to top.")] = "beta_1",
    facet: Annotated[
        list[str] | None,
        typer.Option(help="Setting with a panel for each value (repeatable; default: beta_2)."),
    ] = None,
    where: Where = None,
    out: Out = None,
    given_format: Annotated[
        str | None, typer.Option("--format", help=", ".join(FORMATS + TABLE_FORMATS) + ".")
    ] = None,
) -> None:
    """Map where training diverges; without --out, write it to stability.png."""
    name = chosen_format(given_format, out, FORMATS + TABLE_FORMATS)
    trials = Sweeps(folders, where).trials
    if name in FORMATS:
        give_figure(figure(trials, x, y, facet), out, name, "stability")
        return
    x, y, columns = grid_columns(trials, x, y, _default_facets(trials, x, y, facet))
    give_table(with_short_names(divergence(trials, [*columns, y, x])), out, name)


if __name__ == "__main__":
    run(show)
