"""The axis of learning curves: the stages of a run in sequence, and the marks along it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from raysweep.analysis.figures import COLORS, MARKERS
from raysweep.analysis.stage_names import stage_order, stage_words

_CHARACTER_IN = 0.068
"""Width of a character in inches."""
LINE_IN = 0.17
"""Height of a line of counts in inches."""


@dataclass(frozen=True)
class Track:
    """The axis of stages in sequence: each starts after the longest run of the one before."""

    starts: dict[str, int]
    lengths: dict[str, int]

    @classmethod
    def of(cls, epochs: pd.DataFrame) -> "Track":
        """Line up the stages that occur in a table."""
        longest = epochs.groupby("stage")["epoch"].max()
        lengths = {str(stage): int(n) for stage, n in longest.items()}
        stages = sorted(lengths, key=stage_order)
        ends = np.cumsum([0, *(lengths[stage] for stage in stages)]).tolist()
        return cls(dict(zip(stages, ends, strict=False)), lengths)

    def location(self, rows: pd.DataFrame) -> list[float]:
        """Return the positions of rows on the axis, by stage and epoch (from 1)."""
        return (rows["stage"].map(self.starts) + rows["epoch"]).tolist()


def draw_counts(ax: Axes, lost: Sequence[pd.DataFrame], track: Track, share: float) -> None:
    """Mark at the bottom how many runs of each group diverged in each epoch.

    ``share`` is the height of a line of counts, as a share of the panel's.
    """
    shown = [(i, rows) for i, rows in enumerate(lost) if len(rows)]
    location = ax.get_xaxis_transform()
    for line, (i, rows) in enumerate(shown):
        places = rows.rename(columns={"diverged_stage": "stage", "diverged_epoch": "epoch"})
        for x, n in sorted(Counter(track.location(places[["stage", "epoch"]])).items()):
            at = x, (line + 0.3) * share
            look: dict[str, Any] = {"color": COLORS[i], "marker": MARKERS[i], "gid": "lost"}
            ax.plot(*at, ls="", ms=6.5, mew=0, transform=location, **look)
            ax.plot(*at, "x", color="white", ms=3, mew=0.9, transform=location)
            ax.annotate(
                str(n),
                at,
                xycoords=location,
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                size=6,
            )


def _fitting(name: str, room: float) -> str:
    """Shorten a stage's name to fit ``room`` characters if possible: ``gen. 1``, ``g1``."""
    initial = name[0] + name.split(" ")[1] if " " in name else name[0]
    choices = (name, name.replace("generator", "gen."), initial)
    return next((choice for choice in choices if len(choice) <= room), initial)


def draw_stages(ax: Axes, track: Track, has_labels: bool, epoch_in: float) -> None:
    """Separate the stages by lines, write their names above, and number their epochs from 1.

    ``epoch_in`` is the width of an epoch in inches: if it is small, fewer names and numbers fit.
    """
    rooms = {stage: n * epoch_in / _CHARACTER_IN - 1 for stage, n in track.lengths.items()}
    names = {stage: _fitting(stage_words(stage), rooms[stage]) for stage in track.starts}
    every = max(math.ceil(len(name) / max(rooms[s], 0.5)) for s, name in names.items())
    ticks = []
    for i, (stage, start) in enumerate(track.starts.items()):
        n = track.lengths[stage]
        if start:
            line = (0, (4, 3))
            ax.axvline(start + 0.5, color="#777777", lw=0.8, ls=line, gid="boundary", zorder=0)
        if i % every == 0:
            ax.text(
                start + (n + 1) / 2,
                1.01,
                names[stage],
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="bottom",
                size=7.5,
                color="#444444",
                gid="stage",
            )
            has_first = n > 1 and 1.3 * epoch_in > _CHARACTER_IN * (1 + len(str(n))) and every == 1
            ticks += [(start + epoch, epoch) for epoch in ([1, n] if has_first else [n])]
    ax.set_xticks([location for location, _ in ticks], [str(epoch) for _, epoch in ticks])
    ax.set_xlim(0.5, sum(track.lengths.values()) + 0.5)
    if has_labels:
        kinds = {
            stage_words(stage).split(" ")[0]: name[0]
            for stage, name in names.items()
            if len(name) < len("task") < len(stage_words(stage))
        }
        hint = ", ".join(f"{initial}: {kind}" for kind, initial in kinds.items())
        hint = f" ({hint})" if hint else ""
        ax.set_xlabel(f"epoch of the stage{hint}")
        ax.tick_params(labelbottom=True)
