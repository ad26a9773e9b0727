"""The picture of a sweep on terminals of any size, and lines elsewhere."""

import fcntl
import io
import math
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweep_runs import ROOT, SMALL, command, run, write

from raysweep.monitor.terminal import (
    Display,
    Snapshot,
    WorkerState,
    cells_of,
    lines_of,
    show_clock,
    show_duration,
    show_status,
    sparkline,
)
from raysweep.tune.reporting.progress import Progress

FULL = Snapshot(
    title="a_sweep_with_a_rather_long_name_that_no_narrow_terminal_can_show",
    n_total=12_345,
    counts={"finished": 4_000, "diverged": 321, "stopped": 7, "failed": 1},
    n_running=24,
    elapsed_s=4321.0,
    per_min=61.25,
    left_s=7654.0,
    best=0.97531,
    history=[(0.0, 0.1), (100.0, 0.5), (4000.0, 0.97531)],
    workers=[
        WorkerState(
            8, f"node-{i}.cluster.example.org", "train_task_2", 3, 10, 0.4, 0.1 + 70 * (i == 2)
        )
        for i in range(30)
    ],
    notes=["a note"],
)


def rendered(snapshot: Snapshot, width: int, height: int) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(Display(snapshot))
    return file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("height", [2, 5, 15, 24, 60])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_no_line_wraps_and_no_picture_outgrows_the_terminal(width: int, height: int) -> None:
    lines = rendered(FULL, width, height)
    assert len(lines) < height or height == 2
    assert all(len(line) < width for line in lines)


def test_what_matters_most_is_on_a_narrow_terminal() -> None:
    text = "\n".join(rendered(FULL, 40, 15))
    for expected in (
        "4,000 finished",
        "321 diverged",
        "61.2 per minute",
        "2 h 07 min left",
        "0.9753",
    ):
        assert expected in text, text


def test_workers_without_room_are_counted() -> None:
    text = "\n".join(rendered(FULL, 100, 24))
    shown = text.count("train_task_2")
    assert 0 < shown < 30
    assert f"and {30 - shown} more workers on {30 - shown} hosts" in text
    assert "heard 1 min 10 s ago" in text
    assert "epoch 3/10" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_workers_stand_in_columns(width: int) -> None:
    workers = [
        WorkerState(12, "node-1", "train_generator_1", 10, 10, 1.0),
        WorkerState(8, "node-20.cluster.example.org", "train_task_1", 2, 10, 0.05),
        WorkerState(1),
        WorkerState(8, "node-3", "train_joint", 1, 10, 0.5, heard_s=3600.0),
    ]
    snapshot = replace(FULL, workers=workers, notes=[])
    lines = [line for line in rendered(snapshot, width, 24) if re.search(r"\d %", line)][1:]
    assert len(lines) == len(workers)
    assert [int(re.findall(r"(\d+) %", line)[0]) for line in lines] == [100, 5, 0, 50]
    assert len({line.index(" %") for line in lines}) == 1, lines


def test_what_several_steps_at_once_began_with_is_drawn() -> None:
    assert sparkline([(0.0, 0.1), (1.0, 0.9)], 100.0, 5) == "▁████"


@pytest.mark.parametrize("amounts", [[1, 0, 0], [1, 1, 998], [500, 500], [3, 0, 5, 1, 0, 7], [0]])
@pytest.mark.parametrize("n_cells", [10, 39, 100])
def test_cells_add_up_and_what_is_there_is_seen(amounts: list[int], n_cells: int) -> None:
    cells = cells_of(amounts, n_cells)
    assert sum(cells) == (n_cells if sum(amounts) else 0)
    for n, cell in zip(amounts, cells, strict=True):
        assert (cell > 0) == (n > 0)
        assert abs(cell - n * n_cells / max(1, sum(amounts))) <= len(amounts)


def test_a_sparkline_rises_with_the_best_so_far() -> None:
    line = sparkline([(0.0, 0.0), (50.0, 1.0)], 100.0, 10)
    assert len(line) == 10
    assert line[0] == "▁"
    assert line[-1] == "█"
    assert line == "".join(sorted(line))
    assert sparkline([], 10.0, 5) == ""
    assert len(set(sparkline([(0.0, 0.3)], 10.0, 5))) == 1


def test_a_sparkline_falls_where_lower_is_better() -> None:
    rising = sparkline([(0.0, 0.0), (20.0, 0.5), (50.0, 1.0)], 100.0, 10)
    falling = sparkline([(0.0, 1.0), (20.0, 0.5), (50.0, 0.0)], 100.0, 10)
    assert falling == falling[0] + "".join(sorted(falling[1:], reverse=True))
    assert (falling[0], falling[-1]) == (rising[-1], rising[0]) == ("█", "▁")


def test_the_best_of_another_metric_has_its_name() -> None:
    snapshot = replace(FULL, metric="forgetting", best=0.0125, history=[(0.0, 0.5), (9.0, 0.0125)])
    assert "best forgetting 0.0125" in show_status(snapshot)
    assert any("best forgetting 0.0125  from 0.5" in line for line in rendered(snapshot, 100, 24))
    assert "best 0.9753" in show_status(FULL)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    for line in lines_of(FULL, 80, 24, is_ascii=True):
        line.plain.encode("ascii")


def test_a_host_that_is_not_known_is_a_dash_and_a_hyphen_in_ascii() -> None:
    unknown = replace(FULL, workers=[WorkerState(8, None)], notes=["beta_1 \N{EN DASH} failed"])
    for is_ascii, dash in ((False, "\N{EN DASH}"), (True, "-")):
        lines = [line.plain for line in lines_of(unknown, 80, 24, is_ascii)]
        assert f"beta_1 {dash} failed" in lines
        assert lines[-1].startswith(f"{dash} 8 configs")


def test_durations_and_clocks_are_for_people() -> None:
    assert [show_duration(s) for s in (5, 65, 3660, 5 * 86400)] == [
        "5 s",
        "1 min 05 s",
        "1 h 01 min",
        "5 d 0 h",
    ]
    noon = datetime(2026, 1, 5, 12, 0).astimezone()  # a Monday
    assert show_clock(3600, noon) == "13:00"
    assert show_clock(86400, noon) == "Tue 12:00"
    assert show_clock(30 * 86400, noon) == "2026-02-04"


def test_progress_keeps_what_the_picture_shows() -> None:
    progress = Progress(n_total=4, n_slots=2, total_work=8.0, title="x", before={"finished": 3})
    progress.note_start("a", 2)
    progress.note_start("b", 2)
    progress.note_epoch("a", "node", "train_task_1", 1, 5)
    progress.note_share("a", 0.5, 4.0)
    progress.note_trial({"status": "finished", "average_accuracy": 0.5, "host": "node"})
    progress.note_trial({"status": "diverged", "average_accuracy": None, "host": "node"})
    progress.note_end("a")
    progress.note_start("c", 1)
    snapshot = progress.snapshot()
    assert snapshot.n_total == 7
    assert dict(snapshot.counts) == {"finished": 4, "diverged": 1}
    assert [work.n_configs for work in snapshot.workers] == [1, 2]  # c took the slot of a
    assert snapshot.best == 0.5
    assert "5/7 done" in show_status(snapshot)
    assert progress.left_s == pytest.approx(3 * progress.elapsed_s, rel=0.1)


@pytest.mark.parametrize(
    ("metric", "mode", "best"),
    [("forgetting", None, 0.1), ("forgetting", "max", 0.3), ("average_accuracy", None, 0.9)],
)
def test_progress_follows_the_metric_of_the_search(
    metric: str, mode: str | None, best: float
) -> None:
    progress = Progress(n_total=9, n_slots=1, total_work=1.0, metric=metric, mode=mode)
    rows: list[dict[str, Any]] = [
        {"status": "finished", "forgetting": math.nan, "average_accuracy": 0.5},
        {"status": "finished", "forgetting": 0.3, "average_accuracy": 0.9},
        {"status": "finished", "forgetting": 0.1, "average_accuracy": 0.8},
        {"status": "diverged", "forgetting": None, "average_accuracy": None},
        {"status": "finished", "forgetting": 0.2, "average_accuracy": 0.7},
    ]
    for row in rows:
        progress.note_trial(row)
    snapshot = progress.snapshot()
    assert (snapshot.metric, snapshot.best, snapshot.history[-1][1]) == (metric, best, best)


def in_terminal(words: list[str], columns: int, rows: int) -> tuple[int, str]:
    """Run a command in a pseudo-terminal of a size; give its exit code and all that it wrote."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {n: v for n, v in os.environ.items() if n not in ("COLUMNS", "LINES")}
    env["TERM"] = "xterm-256color"
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=follower, stdout=follower, stderr=follower, env=env
    )
    os.close(follower)
    content = b""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                content += os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
    code = process.wait(timeout=30)
    os.close(leader)
    return code, content.decode(errors="replace")


@pytest.mark.slow
def test_a_sweep_in_a_narrow_terminal_shows_its_display_and_leaves_the_outcome(
    tmp_path: Path,
) -> None:
    text = SMALL.replace("epochs: 2", "epochs: 12")
    words = command(write(tmp_path, text), "--results", str(tmp_path / "results"))
    code, output = in_terminal(words, 40, 12)
    assert code == 0, output
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert "finished" in plain
    assert "to do" in plain
    assert re.search(r"\d+ of 12 done", plain), plain
    assert "12 configurations: 12 finished" in plain


@pytest.mark.slow
def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    done = run(write(tmp_path))
    assert "\x1b" not in done.stderr + done.stdout
    assert "█" not in done.stderr
    assert "12 of 12 configurations to train; starting Ray" in done.stderr
