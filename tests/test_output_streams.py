"""Standard streams that break: full, closed, without a reader."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest
from report_sweeps import configs, rows_of, write_sweep
from rich.console import Console

from raysweep.errors import OutputError
from raysweep.output_streams import guarded_output, tolerant, without_output_errors
from raysweep.tune.reporting.screen import Screen

ROOT = Path(__file__).parents[1]
FULL = Path("/dev/full")


def in_shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``$raysweep`` is the command, as a failing part of a pipe."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "COLUMNS": "200"}
        | {"raysweep": f"{sys.executable} -m raysweep"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a search space and results that take more than a pipe's 64 KiB."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_sweep(folder / "results" / "mine", [rows_of(c, False) for c in configs(100, 3, 1)])
    (folder / "mine.yaml").write_text("experiment: replay_vib\nseeds: [0, 1]\n")
    return folder


PRINTING = [
    "--help",
    "spaces",
    "status results/mine",
    pytest.param("status --help", marks=pytest.mark.slow),
    pytest.param("leaderboard results/mine --format csv", marks=pytest.mark.slow),
    pytest.param("run mine.yaml --dry-run", marks=pytest.mark.slow),
]


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", PRINTING)
def test_a_full_disk_under_the_output_is_one_line_and_code_2(words: str, sweeps: Path) -> None:
    done = in_shell(f"$raysweep {words} > /dev/full", sweeps)
    assert done.returncode == 2, done.stderr
    # A dry run says on stderr what it is doing.
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: standard output: expected room for all lines, got: No space left on device"
    )


@pytest.mark.parametrize("words", PRINTING)
def test_a_reader_that_leaves_is_no_error(words: str, sweeps: Path) -> None:
    # Its end is awaited: all that is printed finds the pipe closed.
    done = in_shell(f"(sleep 0.2; $raysweep {words}) | true", sweeps)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", PRINTING)
def test_closed_streams_are_no_error(words: str, sweeps: Path) -> None:
    whole = in_shell(f"$raysweep {words}", sweeps).stdout
    assert whole
    for closed in ("<&-", "2>&-", "<&- 2>&-"):
        done = in_shell(f"$raysweep {words} {closed}", sweeps)
        assert done.returncode == 0
        if "dry-run" not in words:  # which measures a time
            assert done.stdout == whole
    done = in_shell(f"$raysweep {words} <&- >&- 2>&-", sweeps)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_mistake_keeps_its_code_where_nothing_can_be_printed(sweeps: Path) -> None:
    for to in ("2> /dev/full", "2>&-", "> /dev/full 2>&1"):
        assert in_shell(f"$raysweep status nowhere {to}", sweeps).returncode == 2


class Failing(io.StringIO):
    """A stream that fails as told."""

    error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    "error",
    [
        *(BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")),
        *(OSError(28, "No space"), BlockingIOError(11, "Try again")),
        ValueError("I/O operation on closed file"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.args[0]}",
)
def test_what_a_stream_can_not_take_is_dropped_until_it_can(error: Exception) -> None:
    stream = Failing()
    console = Console(file=tolerant(stream))
    console.print("one")
    stream.error = error
    console.print("two")
    print("three", file=tolerant(stream), flush=True)
    stream.error = None
    console.print("four")
    assert stream.getvalue() == "one\nfour\n"


def test_letters_that_a_stream_does_not_know_are_no_broken_stream() -> None:
    with pytest.raises(UnicodeEncodeError):
        print("\N{GREEK SMALL LETTER BETA}", file=tolerant(ascii_only()), flush=True)


def ascii_only() -> TextIO:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def test_a_screen_without_a_stream_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    screen = Screen(1)
    screen.say("hello")
    screen.close()
    stream = Failing()
    stream.error = BrokenPipeError(32, "Broken pipe")
    monkeypatch.setattr(sys, "stderr", stream)
    Screen(1).say("hello")


def test_only_where_asked_is_a_broken_output_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Failing()
    stream.error = OSError(28, "No space left on device")
    monkeypatch.setattr(sys, "stdout", stream)
    with guarded_output():
        with without_output_errors():
            print("dropped")
        with pytest.raises(OutputError, match="No space left on device"):
            print("missed")
    assert sys.stdout is stream


def test_files_do_not_get_the_number_of_a_closed_stream(sweeps: Path) -> None:
    code = (
        "import os, sys\nfrom raysweep.output_streams import guarded_output\n"
        "with guarded_output():\n    file = open('table', 'wb')\n"
        "    os.write(2, b'printed by a library')\n    sys.exit(file.fileno() < 3)"
    )
    done = subprocess.run(
        ["bash", "-c", f'exec {sys.executable} -c "$0" <&- >&- 2>&-', code],
        cwd=sweeps,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0
    assert (sweeps / "table").read_bytes() == b""
