"""Draw the accuracy matrix: test accuracy on each task after each task."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from raysweep.analysis.heatmap_grid import Axis, Cell, State, color_scale, draw_grid
from raysweep.analysis.panels import averaged_over, layout
from raysweep.errors import InputError
from raysweep.statuses import Status

_MEANINGS: dict[State, str] = {"diverged": "all runs diverged", "absent": "not measured"}


def matrix(accuracy: pd.DataFrame, trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Compute the mean accuracy of each group's finished runs, by task learned and task tested.

    Columns: those in ``by`` (of ``trials``), ``after_task``, ``on_task``, ``accuracy`` and ``n``.
    """
    finished = trials.loc[trials["status"] == Status.FINISHED, _unique("sweep", "config_id", *by)]
    rows = accuracy.merge(finished, on=["sweep", "config_id"])
    return (
        rows.groupby([*by, "after_task", "on_task"], dropna=False)["accuracy"]
        .agg(accuracy="mean", n="count")
        .reset_index()
    )


def _unique(*names: str) -> list[str]:
    return list(dict.fromkeys(names))


def figure(accuracy: pd.DataFrame, trials: pd.DataFrame, by: Sequence[str]) -> Figure:
    """Draw the accuracy matrix of each group: a row after each task, a column for each task tested.

    Frames mark the accuracy on a task right after learning it. Raises ``InputError`` for too many
    groups to see, and if no run has finished.
    """
    table = matrix(accuracy, trials, by)
    values = table["accuracy"].dropna().tolist()
    if not values:
        raise InputError("expected finished configurations with accuracies by task, found none")
    after, tested = (sorted(table[name].unique()) for name in ("after_task", "on_task"))
    plan = layout(trials, by)
    over = averaged_over(trials, by)
    drawn = draw_grid(
        plan,
        [_cells(panel.of(table), panel.of(trials), (tested, after[::-1])) for panel in plan.panels],
        (
            Axis("tested on task", [str(task) for task in tested]),
            Axis("after task", [str(task) if task else "before any" for task in after[::-1]]),
        ),
        color_scale(values),
        (
            "Accuracy by task; frames: right after learning it",
            f"Finished runs, mean over {over}" if over else "One run per panel",
            "test accuracy",
        ),
        _MEANINGS,
    )
    for panel, ax in zip(plan.panels, drawn.axes, strict=False):
        measured = set(panel.of(table).dropna(subset=["accuracy"])["after_task"])
        # Joint training has rows only before and after all tasks, and learns none of them last.
        if not measured.issuperset(task for task in after if task > 0):
            continue
        for task in measured & set(tested):
            corner = tested.index(task) - 0.46, after[::-1].index(task) - 0.46
            ax.add_patch(
                Rectangle(corner, 0.92, 0.92, fc="none", ec="black", lw=1.2, gid="learned")
            )
    return drawn


def _cells(
    table: pd.DataFrame, trials: pd.DataFrame, sides: tuple[list[int], list[int]]
) -> list[Cell]:
    tested, after = sides
    found = {
        (tested.index(on), after.index(task)): value
        for on, task, value in zip(
            table["on_task"], table["after_task"], table["accuracy"], strict=True
        )
        if not pd.isna(value)
    }
    none: State = (
        "diverged" if not found and (trials["status"] == Status.DIVERGED).any() else "absent"
    )
    return [
        Cell(i, j, "value", found[i, j], (f"{found[i, j]:.3f}", f"{found[i, j]:.2f}"))
        if (i, j) in found
        else Cell(i, j, none)
        for i in range(len(tested))
        for j in range(len(after))
    ]
