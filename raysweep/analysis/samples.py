"""Show the replayed images of configurations with their labels, and reconstructions.

    raysweep samples results/vib [--config ID ...] [--n 10] [--out samples.png]

Tables hold no images, so each configuration is trained again. That takes as long as training it
alone on a CPU (less with stages kept by ``stage_cache: true``); the figure says whether its numbers
match those of the table. Without ``--config`` it shows the best configurations that have images:
the best of each model with each kind of replay, then the best of the others.

Pixels of permuted tasks are put back in place. Below a replayed image is its label: the most likely
class, for soft labels with its probability, and the next if it has 5 % or more.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import pandas as pd
import typer
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from raysweep.analysis.command import Folders, Out, Where, chosen_format, run
from raysweep.analysis.figures import (
    FORMATS,
    FigureFormat,
    give_figure,
    setting_words,
    style,
    words,
)
from raysweep.analysis.sweeps import Sweeps, metric
from raysweep.errors import InputError
from raysweep.statuses import Status
from raysweep.tables.columns import SETTING
from raysweep.tables.paths import ResultsPath
from raysweep.tables.ranking import ranked, varied_settings
from raysweep.tables.schemas import config_of, unit_of
from raysweep.user_text.values import near, printable, show_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from raysweep.packs.examples import Examples, Reconstructed, Replayed

_Item = TypeVar("_Item")
_TITLE = ("model", "replay", "lr", "beta_1", "beta_2")
_METRICS = ("average_accuracy", "forgetting", "replay_label_entropy", "reconstruction_loss")
_MOST_TASKS = 5
_SECOND = 0.05
"""Probability from which the second class of a soft label is shown."""
_LABEL_IN, _CAPTION_IN, _LINE_IN, _PAD_IN = 1.45, 0.34, 0.19, 0.12
_TITLE_CHARS = 94
_NO_BREAK = "\N{NO-BREAK SPACE}"
_WIDTH_IN, _MOST_IN = 7.6, 0.76
_GAP = 0.12
"""Space between images, as a share of their width."""


@dataclass
class _Strip:
    """A row of images (n, height, width[, 3]), the text beside it and the captions below each."""

    beside: str
    images: NDArray[np.float64]
    captions: list[str] = field(default_factory=list)
    seconds: list[str] = field(default_factory=list)


@dataclass
class _Block:
    """What is shown for one configuration: lines of text, then strips."""

    title: str
    lines: list[str]
    strips: list[_Strip]


def choose(
    trials: pd.DataFrame, ids: Sequence[str], n_configs: int, metric: str = "average_accuracy"
) -> pd.DataFrame:
    """Choose rows of ``trials`` to show: those with ``ids`` (or prefixes of ids), else the best.

    The best are settings with images, ranked by the metric's mean over seeds: first the best of
    each model with each kind of replay, then the best of the others. Each is represented by the row
    of its lowest finished seed. Raises ``InputError`` for an unknown id, for a prefix of several,
    and if no configuration has images to show.
    """
    if ids:
        return trials.loc[list(dict.fromkeys(_row_of(trials, given) for given in ids))]
    shown = trials[(trials["status"] == Status.FINISHED) & _has_images(trials)]
    if shown.empty:
        raise InputError(
            "samples: expected finished configurations with replay or a learned reconstruction "
            "(model vib with beta_1 < 0), found none: there are no images to show"
        )
    kinds = [f"{SETTING}model", f"{SETTING}replay"]
    by = list(dict.fromkeys([*varied_settings(trials), *kinds]))
    by = ["sweep", *by] if "sweep" in trials else by
    board = ranked(shown, metric, by)
    board = board[board["n_finished"] > 0]
    if board.empty:
        raise InputError(f"samples: expected finished configurations with {metric}, found none")
    order = (
        board.groupby(kinds, sort=False, dropna=False).cumcount().sort_values(kind="stable").index
    )
    best = board.loc[order[:n_configs], by].reset_index(names="_rank")
    rows = shown.reset_index(names="_row").merge(best, on=by)
    first = rows.sort_values(["_rank", f"{SETTING}seed"]).drop_duplicates("_rank")
    chosen: pd.DataFrame = trials.loc[first.set_index("_rank").loc[best["_rank"], "_row"]]
    return chosen


def sample_figure(
    row: "pd.Series[Any]",
    n: int = 10,
    data: Path | None = None,
    store_of: ResultsPath | None = None,
    settings: Sequence[str] = _TITLE,
) -> "Figure":
    """Draw what the configuration of one row of ``trials`` replays and reconstructs.

    It is trained again. ``n`` is the number of images in a row; ``data`` is the data folder;
    ``store_of`` is the sweep whose stage cache is read; ``settings`` go in the title. Raises
    ``InputError`` if there is nothing to show, or the row has no configuration or no data.
    """
    block = _block(row, n, data, store_of, settings)
    if not block.strips:
        raise InputError(f"configuration {row['config_id']}: {_nothing(row)}")
    return _draw([block])


def _row_of(trials: pd.DataFrame, given: str) -> Any:
    found = trials[trials["config_id"].str.startswith(given or " ")]
    known = found["config_id"].unique()
    if len(known) == 1:
        return found.index[0]
    if len(known) > 1:
        raise InputError(
            f"--config: expected the id of one configuration, got {given!r}, a prefix of "
            f"{len(known)}: {', '.join(known[:3])}; use a longer one"
        )
    hint = near(given, trials["config_id"].tolist()) or "; see the column config_id of trials"
    raise InputError(f"--config: expected the id of a configuration, got {given!r}{hint}")


def _has_images(trials: pd.DataFrame) -> "pd.Series[bool]":
    # The buffer size applies only if there is a buffer.
    return trials[f"{SETTING}n_replay"].notna() | (trials["weight_rec"] > 0)


def _nothing(row: "pd.Series[Any]") -> str:
    if row["status"] == Status.DIVERGED:
        return f"expected images, found none: it diverged in {row['diverged_stage']}"
    return "expected images, found none: it has no replay and learns no reconstruction"


def _block(
    row: "pd.Series[Any]",
    n: int,
    data: Path | None,
    store_of: ResultsPath | None,
    settings: Sequence[str],
) -> _Block:
    from raysweep.packs import examples  # torch takes seconds to import

    values = row.to_dict()
    config = config_of(values)
    title = ", ".join(
        f"{setting_words(name)} {show_value(row[SETTING + name])}".replace(" ", _NO_BREAK)
        for name in dict.fromkeys([*settings, "seed"])
        if SETTING + name in row
    )
    sweep = store_of.local if store_of else None
    shown = examples.examples(config, data, sweep, n)
    measured = [
        f"{words(name)} {row[name]:.4g} {unit_of(name)}".rstrip()
        for name in _METRICS
        if name in row and pd.notna(row[name])
    ]
    status = [] if row["status"] == Status.FINISHED else [str(row["status"])]
    lines = [
        ", ".join([*status, *measured]),
        _said(row, examples.differences(values, shown.outcome)),
    ]
    strips: list[_Strip] = []
    if shown.replayed is not None:
        strips += _replay_strips(shown, shown.replayed, n)
    for pair in _spread(shown.reconstructed):
        strips += _pair(shown, pair)
    generates_itself = config.of_replay.generates and config.of_model.decodes_images
    if shown.replayed is not None and generates_itself and config.loss_weights[0] == 0:
        lines.append("No weight on reconstruction (β₁ at least 0): its decoder was never trained.")
    title = fill(f"{row['config_id']}: {title}", _TITLE_CHARS, break_on_hyphens=False)
    return _Block(title, lines, strips)


def _said(row: "pd.Series[Any]", differences: dict[str, tuple[Any, Any]]) -> str:
    """Describe whether training again reproduced the numbers of the table."""
    if not differences:
        return "Trained again for this figure; its numbers are those of the table."
    first = next((name for name in _METRICS if name in differences), next(iter(differences)))
    table, here = (f"{v:.6g}" if isinstance(v, float) else str(v) for v in differences[first])
    origin = ", ".join(str(row[name]) for name in ("host", "device") if pd.notna(row.get(name)))
    return (
        f"Trained again for this figure, with different numbers from the table: {words(first)} "
        f"{here}, in the table {table}" + (f" ({origin})." if origin else ".")
    )


def _spread(items: Sequence[_Item]) -> list[_Item]:
    """Return at most ``_MOST_TASKS`` items, including the first and the last."""
    if len(items) <= _MOST_TASKS:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, _MOST_TASKS)]


def _replay_strips(shown: "Examples", replayed: "Replayed", n: int) -> list[_Strip]:
    from raysweep.packs.examples import in_turn

    made = "generated" if shown.config.of_replay.generates else "kept"
    strips = []
    for task in _spread(np.unique(replayed.tasks).tolist()):
        members = np.flatnonzero(replayed.tasks == task)
        labels = replayed.labels[members]
        chosen = in_turn(labels.argmax(1), n)
        which = f"task {task}" if task else "all tasks so far"
        beside = f"{made} for replay,\n{which}\n"
        beside += f"{len(chosen)} of {len(members):,}"
        if replayed.is_guessed:
            beside += "\n(task guessed: smoothest)"
        captions, seconds = _captions(labels[chosen], _class_word(shown))
        images = replayed.images[members[chosen]].reshape(-1, *shown.shape)
        strips.append(_Strip(beside, images, captions, seconds))
    return strips


def _class_word(shown: "Examples") -> str:
    """Return the word before labels that are not digits, such as 0 and 1 in split tasks."""
    return "class " * shown.has_own_classes


def _captions(labels: NDArray[np.float64], word: str) -> tuple[list[str], list[str]]:
    """Format label probabilities (n, C): the most likely class, and the second if it is shown."""
    if (labels.max(1) == 1).all():
        return [f"{word}{label}" for label in labels.argmax(1)], []
    first, second = np.argsort(-labels, axis=1, kind="stable")[:, :2].T
    rows = np.arange(len(labels))
    texts = [f"{word}{c}  {p:.0%}" for c, p in zip(first, labels[rows, first], strict=True)]
    others = [
        f"{word}{c}  {p:.0%}" if p >= _SECOND else ""
        for c, p in zip(second, labels[rows, second], strict=True)
    ]
    return texts, others


def _pair(shown: "Examples", pair: "Reconstructed") -> list[_Strip]:
    captions = [f"{_class_word(shown)}{label}" for label in pair.labels]
    decoder = f"VAE of task {pair.of_task}" if shown.config.has_vae else "VIB"
    if not shown.config.has_vae and not shown.config.is_joint:
        decoder += f" after task {pair.of_task}"
    originals, images = (part.reshape(-1, *shown.shape) for part in (pair.originals, pair.images))
    return [
        _Strip(f"test images,\ntask {pair.task}", originals),
        _Strip(f"reconstructed\nby the {decoder}", images, captions),
    ]


def _draw(blocks: Sequence[_Block]) -> "Figure":
    """Draw blocks below each other, with axes for each strip (for each image would be slow)."""
    n = max(len(strip.images) for block in blocks for strip in block.strips)
    size = min(_MOST_IN, (_WIDTH_IN - _LABEL_IN) / (n * (1 + _GAP)))
    width = _LABEL_IN + max(n * size * (1 + _GAP), _WIDTH_IN - _LABEL_IN)
    heights = [_height(block, size) for block in blocks]
    height = sum(heights) + _PAD_IN * (len(blocks) + 1)
    with style():
        figure = plt.figure(figsize=(width, height), layout="none")
        top = height - _PAD_IN
        for block, of_block in zip(blocks, heights, strict=True):
            _draw_block(figure, block, top, size, (width, height))
            top -= of_block + _PAD_IN
    return figure


def _height(block: _Block, size: float) -> float:
    strips: float = sum(_strip_height(strip, size) for strip in block.strips)
    return _LINE_IN * (block.title.count("\n") + 1 + len(block.lines)) + _PAD_IN / 2 + strips


def _strip_height(strip: _Strip, size: float) -> float:
    image = strip.images.shape
    under = (_CAPTION_IN if strip.seconds else 0.6 * _CAPTION_IN) if strip.captions else 0.0
    return size * float(image[1] / image[2]) + under + _PAD_IN / 2


def _draw_block(
    figure: "Figure", block: _Block, top: float, size: float, extent: tuple[float, float]
) -> None:
    width, height = extent
    lines = [(block.title, "black", "bold"), *((line, "#444444", "normal") for line in block.lines)]
    for text, color, weight in lines:
        figure.text(0.08 / width, top / height, text, va="top", color=color, weight=weight)
        top -= _LINE_IN * (text.count("\n") + 1)
    top -= _PAD_IN / 2
    for strip in block.strips:
        of_image = size * strip.images.shape[1] / strip.images.shape[2]
        n = len(strip.images)
        box = (
            _LABEL_IN / width,
            (top - of_image) / height,
            n * size * (1 + _GAP) / width,
            of_image / height,
        )
        axes = figure.add_axes(box)
        _draw_strip(axes, strip)
        axes.text(
            -0.1 / (n * size * (1 + _GAP)), 0.5, strip.beside, transform=axes.transAxes,
            ha="right", va="center", fontsize=8, linespacing=1.2,
        )  # fmt: skip
        top -= _strip_height(strip, size)


def _draw_strip(axes: Any, strip: _Strip) -> None:
    """Draw images from 0 on, each one unit and a gap wide, black on white to save ink."""
    axes.axis("off")
    aspect = strip.images.shape[1] / strip.images.shape[2]
    for i, image in enumerate(strip.images):
        left = i * (1 + _GAP)
        axes.imshow(
            image, cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest",
            extent=(left, left + 1, 0, aspect),
        )  # fmt: skip
        frame = Rectangle((left, 0), 1, aspect, fill=False, edgecolor="#bbbbbb", linewidth=0.6)
        frame.set_clip_on(False)
        axes.add_patch(frame)
        for texts, offset, color in ((strip.captions, 3, "black"), (strip.seconds, 12, "#666666")):
            if texts:
                axes.annotate(
                    texts[i], (left + 0.5, 0), (0, -offset), textcoords="offset points",
                    ha="center", va="top", fontsize=7.5, color=color,
                )  # fmt: skip
    axes.set_xlim(0, len(strip.images) * (1 + _GAP))
    axes.set_ylim(0, aspect)


def show(
    folders: Folders,
    config: Annotated[
        list[str] | None, typer.Option(help="Id of a configuration, or its first characters.")
    ] = None,
    n_configs: Annotated[
        int, typer.Option(min=1, help="Number of configurations without --config.")
    ] = 3,
    metric_name: Annotated[
        str, typer.Option("--metric", help="Metric that ranks configurations.")
    ] = ("average_accuracy"),
    n: Annotated[int, typer.Option("--n", min=1, max=40, help="Images per row.")] = 10,
    data: Annotated[
        Path | None, typer.Option(help="Data folder (default: RAYSWEEP_DATA or data).")
    ] = None,
    where: Where = None,
    figure_format: FigureFormat = None,
    out: Out = None,
) -> None:
    """Draw replayed images with their labels, and reconstructions, to samples.png or --out."""
    chosen_format(figure_format, out, FORMATS)  # report a mistake before training
    sweeps = Sweeps(folders, where)
    chosen = choose(sweeps.trials, config or [], n_configs, metric(sweeps.trials, metric_name))
    varied = [name.removeprefix(SETTING) for name in varied_settings(sweeps.trials)]
    places = dict(zip(sweeps.names, sweeps.places, strict=True))
    blocks = []
    for _, row in chosen.iterrows():
        location = places[str(row["sweep"])]
        print(printable(f"training {row['config_id']} again"), file=sys.stderr)
        block = _block(row, n, data, location, [*_TITLE, *varied])
        lines = [block.title, *block.lines, *([] if block.strips else [_nothing(row)])]
        print(printable("\n  ".join(lines)))
        blocks.append(block)
    shown = [block for block in blocks if block.strips]
    if not shown:
        raise InputError("samples: expected images to show, found none; see above")
    give_figure(_draw(shown), out, figure_format, "samples")


if __name__ == "__main__":
    run(show)
