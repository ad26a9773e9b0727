"""The terminal display of a sweep, shown by its driver and by ``raysweep.status``."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from raysweep.clean_text import clean_line
from raysweep.statuses import Status
from raysweep.tables.schemas import label_of, unit_of
from raysweep.user_text.values import NULL_TEXT

WIDEST = 100
"""Maximum width of the display."""
TALLEST = 200
"""Height of the display when it is printed once and may scroll."""
_NARROW = 56
_MEDIUM = 80
_TALL = 14
_MOST_CELLS = 40
_BAR_CELLS = 24
_FEW_CELLS = 4
_SILENT_S = 60.0
"""A worker that has been silent for this long is shown with the time since its last report."""
_BARS = "▁▂▃▄▅▆▇█"
_USUAL = "average_accuracy"
"""The metric whose name is omitted if there is little room."""
_ASCII = str.maketrans("█▓▚░·━─…▁▂▃▄▅▆▇" + NULL_TEXT, "#%/-.=-~_..-=+*-")


class Part(NamedTuple):
    """How a share of the configurations is drawn; glyphs distinguish shares without colour.

    With ``is_always`` the legend shows it even if there are none.
    """

    glyph: str
    color: str
    is_always: bool = False


PARTS = {
    Status.FINISHED: Part("█", "green", is_always=True),
    Status.DIVERGED: Part("▓", "yellow"),
    Status.STOPPED: Part("▚", "magenta"),
    Status.FAILED: Part("x", "red"),
    "running": Part("░", "cyan"),
    "to do": Part("·", "bright_black", is_always=True),
}


@dataclass
class WorkerState:
    """A worker's last reported state: ``share`` (0 to 1) of its pack of ``n_configs`` is done.

    ``stage`` and ``epoch`` are the last ones it finished, None and 0 before the first; ``heard_s``
    is the time since that report.
    """

    n_configs: int
    host: str | None = None
    stage: str | None = None
    epoch: int = 0
    n_epochs: int = 0
    share: float = 0.0
    heard_s: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The state of a sweep at one moment.

    ``counts`` has the configurations by status over all runs; ``n_total`` is None if unknown.
    ``best`` is a value of ``metric``; ``history`` has pairs of seconds in the run and the best
    value reached then. ``left_s`` and ``per_min`` are None if unknown. ``notes`` are lines below
    the rest; ``losses``, which are among them, tell of rows that are lost.
    """

    title: str
    n_total: int | None
    counts: Mapping[str, int]
    n_running: int
    elapsed_s: float
    per_min: float | None = None
    left_s: float | None = None
    metric: str = _USUAL
    best: float | None = None
    history: Sequence[tuple[float, float]] = ()
    workers: Sequence[WorkerState] = ()
    notes: Sequence[str] = field(default=())
    losses: Sequence[str] = field(default=())

    def __str__(self) -> str:
        """Return the lines that ``raysweep status`` prints."""
        return "\n".join(line.plain.rstrip() for line in lines_of(self, WIDEST, TALLEST))

    def _repr_html_(self) -> str:
        """Show in a notebook what ``raysweep status`` prints."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def cleaned(self) -> "Snapshot":
        """Return it with clean texts: names, stages and errors come from files and workers."""
        workers = [
            replace(
                work,
                host=None if work.host is None else clean_line(work.host),
                stage=None if work.stage is None else clean_line(work.stage),
            )
            for work in self.workers
        ]
        return replace(
            self,
            title=clean_line(self.title),
            metric=clean_line(self.metric),
            workers=workers,
            notes=[clean_line(note) for note in self.notes],
        )

    @property
    def n_ended(self) -> int:
        """Number of configurations that have ended."""
        return sum(self.counts.values())

    @property
    def parts(self) -> dict[str, int]:
        """Number of configurations of each part of the bar: by status, running, to do."""
        total = max(self.n_ended, self.n_total or 0)
        n_running = min(self.n_running, total - self.n_ended)
        rest = {"running": n_running, "to do": total - self.n_ended - n_running}
        return {name: self.counts.get(name, 0) for name in PARTS if name not in rest} | rest


def show_duration(seconds: float) -> str:
    """Format a duration: ``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 100 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def show_clock(left_s: float, now: datetime | None = None) -> str:
    """Format the local time at which something ends that has ``left_s`` seconds left."""
    now = now or datetime.now().astimezone()
    if left_s > 3650 * 86400:
        return "in years"
    end = now + timedelta(seconds=left_s)
    if end.date() == now.date():
        return f"{end:%H:%M}"
    return f"{end:%a %H:%M}" if left_s < 6 * 86400 else f"{end:%Y-%m-%d}"


def show_status(snapshot: Snapshot) -> str:
    """Describe a snapshot in one plain line."""
    snapshot = snapshot.cleaned()
    parts = [f"{snapshot.n_ended}/{max(snapshot.n_total or 0, snapshot.n_ended)} done"]
    parts.append(f"{snapshot.n_running} running")
    counts = {Status.DIVERGED: 0, Status.FAILED: 0, **snapshot.counts}
    parts += [
        f"{counts[status]} {status}"
        for status in (Status.DIVERGED, Status.STOPPED, Status.FAILED)
        if status in counts
    ]
    if snapshot.per_min is not None:
        parts.append(f"{snapshot.per_min:.1f}/min")
    if snapshot.left_s is not None:
        parts.append(f"{show_duration(snapshot.left_s)} left")
    if snapshot.best is not None:
        metric = "" if snapshot.metric == _USUAL else f"{label_of(snapshot.metric)} "
        parts.append(f"best {metric}{_best_value(snapshot)}")
    return " · ".join(parts)


def cells_of(amounts: Sequence[int], n_cells: int) -> list[int]:
    """Divide cells in proportion to amounts; every amount > 0 gets a cell if there is room."""
    total = sum(amounts)
    if not total:
        return [0] * len(amounts)
    cells = [max(1, n * n_cells // total) if n else 0 for n in amounts]
    exact = [n * n_cells / total for n in amounts]
    while sum(cells) < n_cells:
        short = max(range(len(cells)), key=lambda i: exact[i] - cells[i])
        cells[short] += 1
    while sum(cells) > n_cells:
        # Take from the part that most exceeds its share, but never its last cell.
        over = max(range(len(cells)), key=lambda i: (cells[i] > 1, cells[i] - exact[i]))
        cells[over] -= 1
    return cells


def sparkline(history: Sequence[tuple[float, float]], until_s: float, n_cells: int) -> str:
    """Draw a monotonic step function of time, from its first step to ``until_s``."""
    if not history or n_cells < 1:
        return ""
    (start, first), (_, last) = history[0], history[-1]
    low, high = min(first, last), max(first, last)
    began = _BARS[0 if last > first else -1]
    line, i = began if high > low else "", 0  # the value before any steps in the first cell
    for cell in range(1 + len(line), n_cells + 1):
        end = start + (until_s - start) * cell / n_cells
        while i + 1 < len(history) and (history[i + 1][0] <= end or cell == n_cells):
            i += 1
        height = (history[i][1] - low) / (high - low) if high > low else 0.5
        line += _BARS[round(height * (len(_BARS) - 1))]
    return line


class Display:
    """A snapshot as lines that fit a terminal's width and height without wrapping."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Return the lines for a console's current size."""
        # Some terminals wrap a line that is exactly as wide as they are.
        width = max(1, min(WIDEST, options.max_width - 1))
        for line in lines_of(self.snapshot, width, max(1, console.height - 1), options.ascii_only):
            line.truncate(width, overflow="crop" if options.ascii_only else "ellipsis")
            line.no_wrap, line.overflow = True, "crop"
            yield line


def lines_of(snapshot: Snapshot, width: int, height: int, is_ascii: bool = False) -> list[Text]:
    """Lay out a snapshot; if there is little room, the most important lines stay.

    All lines except ``notes`` fit the width.
    """
    snapshot = snapshot.cleaned()
    lines = [Text(show_status(snapshot))] if height < 4 else _layout(snapshot, width, height)
    if is_ascii:
        for line in lines:
            line.plain = line.plain.translate(_ASCII)
    return lines


def _layout(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    lines = [_head(snapshot, width), _bar(snapshot, width)]
    lines += _flow(_legend(snapshot), width, 2)
    lines += _flow(_rates(snapshot), width, 2)
    if snapshot.best is not None:
        lines.append(_best(snapshot, width))
    lines += [Text(note) for note in snapshot.notes[: max(1, height // 3)]]
    if height > _TALL and snapshot.workers:
        lines.append(Text())
    room = height - len(lines)
    return (lines + _workers(snapshot.workers, width, min(room, max(4, height // 2))))[:height]


def _head(snapshot: Snapshot, width: int) -> Text:
    n_ended, n_total = snapshot.n_ended, sum(snapshot.parts.values())
    what = "configurations" if width >= _NARROW else "done"
    count = f"{n_ended:,} of {n_total:,} {what}" if snapshot.n_total else f"{n_ended:,} {what}"
    if n_total and snapshot.n_total:
        count += f" · {n_ended * 100 // n_total} %"
    elapsed = show_duration(snapshot.elapsed_s) if snapshot.elapsed_s else ""
    title = snapshot.title
    room = width - len(count) - 2
    if room < _FEW_CELLS:
        return Text(count)
    if len(title) > room:
        title = f"{title[: max(0, room - 1)]}…"
    gap = width - len(title) - len(count) - 2 - len(elapsed)
    if gap < 2:
        elapsed, gap = "", 0
    return Text.assemble((title, "bold"), "  ", count, " " * gap, (elapsed, "dim"))


def _bar(snapshot: Snapshot, width: int) -> Text:
    parts = snapshot.parts
    cells = cells_of(list(parts.values()), width)
    return Text.assemble(
        *((PARTS[name].glyph * n, PARTS[name].color) for name, n in zip(parts, cells, strict=True))
    )


def _legend(snapshot: Snapshot) -> list[Text]:
    if snapshot.n_total is None and not snapshot.n_ended:
        return []
    return [
        Text.assemble((PARTS[name].glyph, PARTS[name].color), f" {n:,} {name}")
        for name, n in snapshot.parts.items()
        if n or PARTS[name].is_always
    ]


def _rates(snapshot: Snapshot) -> list[Text]:
    texts = []
    if snapshot.per_min is not None:
        texts.append(f"{snapshot.per_min:.1f} per minute")
    if snapshot.left_s is not None:
        texts.append(f"{show_duration(snapshot.left_s)} left")
        texts.append(f"ends about {show_clock(snapshot.left_s)}")
    return [Text(text) for text in texts]


def _flow(items: Iterable[Text], width: int, gap: int) -> list[Text]:
    """Put items side by side on as few lines as possible."""
    lines: list[Text] = []
    for item in items:
        if lines and len(lines[-1]) + gap + len(item) <= width:
            lines[-1].append(" " * gap).append_text(item)
        else:
            lines.append(item.copy())
    return lines


def _best(snapshot: Snapshot, width: int) -> Text:
    words = f"best {label_of(snapshot.metric)}" if width >= _NARROW else "best"
    line = Text.assemble(f"{words} ", (_best_value(snapshot), "bold"))
    if snapshot.history:
        start = f"from {snapshot.history[0][1]:.4f} " if width >= _NARROW else ""
        n_cells = min(_MOST_CELLS, width - len(line) - len(start) - 2)
        drawn = sparkline(snapshot.history, snapshot.elapsed_s, n_cells)
        line.append(f"  {start}", "dim").append(drawn, "green")
    return line


def _best_value(snapshot: Snapshot) -> str:
    return f"{snapshot.best:.4f} {unit_of(snapshot.metric)}".rstrip()


def _workers(workers: Sequence[WorkerState], width: int, n_lines: int) -> list[Text]:
    """Return a line for each worker; if there are too many, the last line counts the rest."""
    if n_lines < 1 or not workers:
        return []
    shown = workers if len(workers) <= n_lines else workers[: n_lines - 1]
    host_width = max(len(_host(work, width)) for work in shown) if shown else 0
    stage_width = max((len(_stage(work, width)) for work in shown), default=0)
    sizes = max((len(f"{work.n_configs}") for work in shown), default=0)
    lines = [_worker(work, width, (host_width, sizes, stage_width)) for work in shown]
    if len(shown) < len(workers):
        left = workers[len(shown) :]
        hosts = len({work.host for work in left if work.host})
        more = f"and {len(left)} more workers" if shown else f"{len(left)} workers"
        more += f" on {hosts} hosts" if hosts > 1 else ""
        lines.append(Text(more, "dim"))
    return lines


def _host(work: WorkerState, width: int) -> str:
    name = (work.host or NULL_TEXT).partition(".")[0]
    room = 20 if width >= _MEDIUM else 8 if width >= _NARROW else 6
    return name if len(name) <= room else f"{name[: room - 1]}…"


def _stage(work: WorkerState, width: int) -> str:
    name = work.stage or "starting"
    return name if width >= _NARROW else name.removeprefix("train_")


def _worker(work: WorkerState, width: int, widths: tuple[int, int, int]) -> Text:
    host_width, sizes, stage_width = widths
    is_wide = width >= _NARROW
    line = Text(f"{_host(work, width):<{host_width}}", "cyan" if work.host else "dim")
    size = f" {work.n_configs:>{sizes}}"
    size += f" {'config ' if work.n_configs == 1 else 'configs'}" if is_wide else ""
    line = Text.assemble(line, size)
    line.append(f"  {_stage(work, width):<{stage_width}}", "" if work.stage else "dim")
    epoch = f"{'epoch ' if is_wide else ''}{work.epoch}/{work.n_epochs}" if work.stage else ""
    line.append(f" {epoch:<{11 if is_wide else 5}}")
    is_silent = work.heard_s > _SILENT_S
    line.append(f" {work.share:4.0%}".replace("%", " %"), "yellow" if is_silent else "")
    room = min(_BAR_CELLS, width - len(line) - 1)
    if is_silent:
        heard = f"heard {show_duration(work.heard_s)} ago"
        return line.append(f" {heard}", "yellow") if len(heard) <= room else line
    if is_wide and room >= _FEW_CELLS:
        n_done = round(work.share * room)
        line.append(" ").append("━" * n_done, "cyan").append("─" * (room - n_done), "dim")
    return line
