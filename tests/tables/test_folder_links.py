"""Links, pipes and devices in a sweep's folder: nothing outside is written, emptied or deleted."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from table_rows import accuracy_rows, trial_row

from raysweep.atomic import write_atomically
from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.monitor.loggers.log_writer import FOLDER, LogWriter
from raysweep.monitor.snapshot import SweepStatus
from raysweep.packs.stage_cache.entries import Entry, StageCache, stored_stages
from raysweep.tables.folder import ResultsFolder, WriteError, read_runs
from raysweep.tables.paths import ResultsPath
from raysweep.tables.paused import partly_trained
from raysweep.tables.reader import read_accuracy, read_trials
from raysweep.tables.writer import Writer
from raysweep.tune.scheduling.resume import keep_states, paused_jobs

_FILES = (".lock", "sweep.yaml", "manifest.json", "status.json", "suggestions.json")
_TABLES = ("trials.parquet", "epochs.parquet", "accuracy.parquet", "pareto.parquet")
_FOLDERS = (".tune", "parts", "parts/trials", "paused", "logs", "loggers")
RUN = {"start": "2026-01-01", "command": ["raysweep"]}


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Fail a test that waits for the other end of a pipe."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a folder outside of the sweep's, with files that nobody may touch."""
    folder = tmp_path / "victim"
    (folder / "below").mkdir(parents=True)
    for name in ("notes.txt", "model.pt", "part-1-1.parquet", "below/x.txt"):
        (folder / name).write_text("precious")
    return folder


def _content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def _sweep(tmp_path: Path, n_rows: int = 3) -> ResultsFolder:
    """Make a sweep's folder with rows, of which some are in parts; it is not open."""
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, n_rows))
    writer.flush()
    folder.close()
    return folder


def _replace_by_link(path: Path, target: Path) -> None:
    if path.exists():
        path.rename(path.with_name(f"old-{path.name}"))
    path.symlink_to(target)


@pytest.mark.parametrize("name", [*_FILES, *_TABLES, "paused/packs.json"])
def test_a_link_for_a_file_of_ours_is_refused_in_one_line(
    tmp_path: Path, victim: Path, name: str
) -> None:
    folder = _sweep(tmp_path)
    before = _content(victim)
    link = folder.path / name
    link.parent.mkdir(exist_ok=True)
    _replace_by_link(link, victim / "notes.txt")
    with pytest.raises(InputError) as refused:
        folder.open()
    (line,) = str(refused.value).splitlines()
    assert line == (
        f"{link} is a link to {victim}/notes.txt, not a file; "
        f"delete the link: nothing in a sweep's folder may be one"
    )
    folder.close()
    assert _content(victim) == before
    link.unlink()
    folder.open()
    folder.close()


@pytest.mark.parametrize("name", _FOLDERS)
def test_a_link_for_a_folder_of_ours_is_refused_in_one_line(
    tmp_path: Path, victim: Path, name: str
) -> None:
    folder = _sweep(tmp_path)
    before = _content(victim)
    _replace_by_link(folder.path / name, victim)
    with pytest.raises(InputError, match=rf"{name} is a link to {victim}, not a folder; delete"):
        folder.open()
    folder.close()
    assert _content(victim) == before


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _make_device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: reading it never ends


def _make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has at most 107 letters
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize("name", [".lock", "manifest.json", "sweep.yaml", "trials.parquet"])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_make_pipe, "pipe"),
        (_make_device, "device"),
        (_make_socket, "socket"),
        (Path.mkdir, "folder"),
    ],
)
def test_what_is_no_file_hangs_neither_a_run_nor_a_look(
    tmp_path: Path, make: Callable[[Path], None], kind: str, name: str
) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    folder = _sweep(tmp_path)
    (folder.path / name).unlink(missing_ok=True)
    try:
        make(folder.path / name)
    except PermissionError:
        pytest.skip(f"can't make a {kind} here")
    with pytest.raises(InputError, match=rf"{name} is a {kind}, not a file; remove it"):
        folder.open()
    read_runs(folder.location)
    if name in (".lock", "sweep.yaml", "trials.parquet"):
        with pytest.raises(InputError, match=rf"sweep: expected .*{name} is a {kind}"):
            SweepStatus.at(folder.location).snapshot()


def test_a_hard_link_for_the_lock_leaves_the_other_file_as_it_is(
    tmp_path: Path, victim: Path
) -> None:
    folder = _sweep(tmp_path)
    before = _content(victim)
    (folder.path / ".lock").unlink()
    (folder.path / ".lock").hardlink_to(victim / "notes.txt")
    folder.open()
    assert _content(victim) == before
    folder.close()
    assert _content(victim) == before


def test_the_folder_itself_and_those_above_may_be_links(tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "vib"
    disk.mkdir(parents=True)
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "linked").symlink_to(disk)
    folder = ResultsFolder(ResultsPath.of(tmp_path / "results") / "linked")
    folder.open()
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 3))
    writer.fold()
    folder.add_run(RUN)
    folder.close()
    assert len(read_accuracy(disk)) == len(read_accuracy(tmp_path / "results" / "linked")) == 3
    assert read_runs(folder.location) == [RUN]


def test_a_part_folder_that_becomes_another_sweeps_is_not_folded_away(tmp_path: Path) -> None:
    other = ResultsFolder(tmp_path / "other")
    other.open()
    writer = Writer(other)
    writer.add("trials", [trial_row(Config())])
    writer.flush()
    before = _content(other.path)
    folder = _sweep(tmp_path)
    folder.open()
    writer = Writer(folder)
    (folder.path / "parts" / "trials").rmdir()
    (folder.path / "parts" / "trials").symlink_to(other.path / "parts" / "trials")
    writer.add("trials", [trial_row(Config(lr=0.5))])
    reason = "parts/trials is a link to .*, not a folder; delete the link"
    with pytest.raises(WriteError, match=reason):
        writer.flush()
    with pytest.raises(WriteError, match=reason):
        writer.fold()
    with pytest.raises(InputError, match=reason):
        read_trials(folder.path)
    folder.close()
    assert _content(other.path) == before


@pytest.mark.parametrize("name", ["manifest.json", "sweep.yaml", "logs", ".tune", "parts"])
def test_a_link_put_there_during_the_run_is_not_followed(
    tmp_path: Path, victim: Path, name: str
) -> None:
    folder = _sweep(tmp_path)
    folder.open()
    writer = Writer(folder)
    before = _content(victim)
    is_file = "." in name[1:]
    _replace_by_link(folder.path / name, victim / "notes.txt" if is_file else victim)
    for action in (
        lambda: folder.add_run(RUN),
        lambda: folder.write_text("sweep.yaml", "space: {}"),
        lambda: folder.write_log("x.log", "text"),
        lambda: folder.remove_tree(str(folder.path.absolute() / ".tune" / "below")),
        (folder.location / ".tune" / "below" / "x.txt").delete,
        lambda: (folder.location / ".tune" / "seen-by-nodes").write_bytes(b"x"),
        (folder.location / "logs" / "notes.txt").delete,
        lambda: (writer.add("accuracy", accuracy_rows(3, 3)), writer.fold()),
        (folder.location / name).delete_tree,
        folder.close,
    ):
        try:
            action()
        except (OSError, WriteError) as error:
            assert name in str(error) or "No such file" in str(error), error
    assert _content(victim) == before


def test_a_temporary_name_that_was_guessed_leads_nowhere(tmp_path: Path, victim: Path) -> None:
    folder = _sweep(tmp_path)
    folder.open()
    before = _content(victim)
    guess = f".tmp-{socket.gethostname()}-{os.getpid()}-"
    for name in ("sweep.yaml", "manifest.json", "x"):
        (folder.path / f"{guess}{name}").symlink_to(victim / "notes.txt")
    folder.write_text("sweep.yaml", "space: {}")
    folder.add_run(RUN)
    write_atomically(folder.path / "x", b"content")
    assert (folder.path / "x").read_bytes() == b"content"
    folder.close()
    assert _content(victim) == before
    folder.open()  # clears temporary files, but these are not ours
    folder.close()
    assert _content(victim) == before
    assert (folder.path / f"{guess}x").is_symlink()


def test_files_of_the_user_survive(tmp_path: Path, victim: Path) -> None:
    folder = _sweep(tmp_path)
    paused = folder.path / "paused"
    paused.mkdir()
    kept = [paused / "mine.pt", folder.path / ".tmp-notes", folder.path / "parts" / ".tmp-x.txt"]
    for file in kept:
        file.write_text("precious")
    link = folder.path / "notes.txt"
    link.symlink_to(victim / "notes.txt")
    folder.open()
    keep_states(folder.location, [])
    folder.close()
    assert all(file.read_text() == "precious" for file in [*kept, link])
    moved = folder.open(is_fresh=True)
    folder.close()
    assert moved is not None and moved.local is not None
    assert (moved.local / "notes.txt").read_text() == "precious"


def test_paused_that_is_a_link_loses_nothing(tmp_path: Path, victim: Path) -> None:
    folder = _sweep(tmp_path)
    state = victim / f"{'0' * 32}.safetensors"
    state.write_text("precious")
    (victim / "packs.json").write_text(f'[{{"configs": ["a"], "files": ["{state.name}"]}}]')
    before = _content(victim)
    (folder.path / "paused").symlink_to(victim)
    keep_states(folder.location, [])
    assert paused_jobs(folder.location, [Config()]) == []
    assert partly_trained(folder.location) == frozenset()
    assert _content(victim) == before


def test_loggers_do_not_follow_a_link(tmp_path: Path, victim: Path) -> None:
    folder = _sweep(tmp_path)
    folder.open()
    writer = Writer(folder)
    writer.add("trials", [trial_row(Config())])
    writer.flush()
    before = _content(victim)
    loggers = folder.path / FOLDER
    loggers.mkdir()
    (loggers / "tensorboard").symlink_to(victim)
    said: list[str] = []
    LogWriter(["tensorboard"], folder.location, loggers, said.append).close()
    (note,) = said
    assert "loggers/tensorboard is a link to" in note
    assert _content(victim) == before


_SWAPPER = """
import os, sys
place, real, link = sys.argv[1:]
print("on", flush=True)
while True:
    os.rename(place, real); os.rename(link, place)
    os.rename(place, link); os.rename(real, place)
"""


def test_a_link_swapped_in_at_any_moment_gets_no_file(tmp_path: Path, victim: Path) -> None:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    writer = Writer(folder)
    before = _content(victim)
    place, real, link = (folder.path / "parts" / n for n in ("accuracy", "real", "link"))
    link.symlink_to(victim)
    words = [sys.executable, "-c", _SWAPPER, str(place), str(real), str(link)]
    swapper = subprocess.Popen(words, stdout=subprocess.PIPE)
    n_refused = n_written = 0
    try:
        assert swapper.stdout and swapper.stdout.readline()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            writer.add("accuracy", accuracy_rows(n_written, 1))
            try:
                writer.flush()
                n_written += 1
            except WriteError:
                n_refused += 1
    finally:
        swapper.kill()
        swapper.wait()
    assert n_refused > 5 and n_written > 5, (n_refused, n_written)
    assert _content(victim) == before


def test_the_stage_cache_follows_no_link_and_deletes_only_entries(
    tmp_path: Path, victim: Path
) -> None:
    cache = StageCache(tmp_path / ".stages", max_bytes=1)
    cache.folder.mkdir()
    stage, entry = "0" * 64, Entry({}, {})
    link = cache.path(stage, {})
    (victim / "notes.txt").write_text("not an entry")
    before = _content(victim)
    link.symlink_to(victim / "notes.txt")
    mine = cache.folder / "model.safetensors"
    mine.write_bytes(b"precious")
    old = cache.folder / f"{'1' * 64}-{'0' * 16}.safetensors"
    old.write_bytes(b"an entry")
    assert cache.read(stage, {}) is None
    assert stored_stages(cache.folder) == {stage, "1" * 64}
    cache.max_bytes = 1000
    cache.write(stage, {}, entry, replaces=True)  # replaces the link
    assert not link.is_symlink() and cache.read(stage, {}) is not None
    cache.max_bytes = 450
    cache.write("2" * 64, {}, entry)
    assert cache.failure is None
    assert mine.read_bytes() == b"precious" and not old.exists()
    assert _content(victim) == before
