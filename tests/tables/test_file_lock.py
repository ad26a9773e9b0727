"""One driver at a time in a local folder, also if its lock is deleted or there are no locks."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_runs import ROOT
from table_rows import accuracy_rows

from raysweep.errors import InputError
from raysweep.tables import file_lease
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tables.holders import find_holder
from raysweep.tables.locks import this_process
from raysweep.tables.reader import read_accuracy
from raysweep.tables.writer import Writer

NO_LOCKS = {"RAYSWEEP_NO_LOCKS": "ENOLCK", "RAYSWEEP_STALE_S": "2"}


class Racer(subprocess.Popen[str]):
    """A process of ``lock_racer.py``, or several behind one."""

    def __init__(
        self, what: str, folder: Path, mark: Path, n: int = 1, rounds: int = 1, **env: str
    ) -> None:
        words = [sys.executable, str(Path(__file__).with_name("lock_racer.py"))]
        super().__init__(
            [*words, what, str(folder), str(mark), str(n), str(rounds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        )
        if n > 1:
            assert [self.line() for _ in range(n)] == ["ready"] * n

    def line(self) -> str:
        assert self.stdout is not None
        return self.stdout.readline().strip()


@pytest.fixture
def racers() -> Iterator[list[Racer]]:
    started: list[Racer] = []
    yield started
    for racer in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(racer.pid, signal.SIGKILL)
        racer.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ResultsFolder]:
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    yield folder
    folder.close()


@pytest.fixture
def leased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResultsFolder]:
    """Return a folder, held by a lease on a file system that seems to have no locks."""
    _without_locks(monkeypatch)
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    yield folder
    folder.close()


def _without_locks(monkeypatch: pytest.MonkeyPatch, number: int | None = None) -> None:
    def fail(*_: object) -> None:
        import errno

        raise OSError(number or errno.ENOSYS, os.strerror(number or errno.ENOSYS))

    monkeypatch.setattr("raysweep.tables.file_lock.fcntl.flock", fail)


def _writer(folder: ResultsFolder, n_rows: int = 3) -> Writer:
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, n_rows))
    writer.flush()
    writer.add("accuracy", accuracy_rows(n_rows, 1))
    return writer


@pytest.mark.parametrize("kind", ["folder", "leased"])
def test_a_lock_that_is_deleted_ends_writing_in_one_line(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder: ResultsFolder = request.getfixturevalue(kind)
    writer = _writer(folder)
    for lock in folder.path.glob(".lock*"):
        lock.unlink()
    for write in (
        writer.flush,
        writer.fold,
        lambda: folder.write_text("sweep.yaml", "x"),
        lambda: folder.add_run({"start": "2026"}),
    ):
        with pytest.raises(WriteError) as error:
            write()
        (line,) = str(error.value).splitlines()
        assert re.search(
            r"sweep: expected to write results, got: its (lock|lease) \.lock[-0-9]* was deleted .*"
            r"git clean and rsync --delete do\), so another driver may use the folder",
            line,
        )
    assert len(read_accuracy(folder.path)) == 3
    assert list((folder.path / "parts" / "accuracy").iterdir())


def test_a_lock_that_another_driver_holds_by_now_names_it(folder: ResultsFolder) -> None:
    writer = _writer(folder)
    (folder.path / ".lock").unlink()
    (folder.path / ".lock").write_text("process 7 on another-host")
    with pytest.raises(WriteError, match="process 7 on another-host holds the folder now"):
        writer.flush()


@pytest.mark.parametrize("kind", ["folder", "leased"])
def test_a_folder_that_is_moved_gets_nothing_more_and_its_new_place_is_named(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder: ResultsFolder = request.getfixturevalue(kind)
    writer = _writer(folder)
    moved = folder.path.with_name("moved")
    folder.path.rename(moved)
    for is_replaced in (False, True):
        if is_replaced:
            shutil.copytree(moved, folder.path)
            kept = sorted(folder.path.rglob("*"))
        with pytest.raises(WriteError, match=rf"was moved to {moved} during the run; move it back"):
            writer.flush()
    folder.close()
    assert len(read_accuracy(moved)) == 3
    assert sorted(folder.path.rglob("*")) == kept  # nothing of it was touched


def test_what_workers_make_at_the_old_place_is_removed(folder: ResultsFolder) -> None:
    moved = folder.path.with_name("moved")
    folder.path.rename(moved)
    (folder.path / ".tune" / "packs").mkdir(parents=True)
    folder.close()
    assert not folder.path.exists()
    moved.rename(folder.path)
    folder.open()
    assert not (folder.path / ".tune").exists()


@pytest.mark.parametrize("kind", ["folder", "leased"])
def test_a_folder_that_is_deleted_is_one_line(kind: str, request: pytest.FixtureRequest) -> None:
    folder: ResultsFolder = request.getfixturevalue(kind)
    writer = _writer(folder)
    shutil.rmtree(folder.path)
    with pytest.raises(WriteError, match="the folder was deleted or replaced during the run"):
        writer.flush()
    folder.close()
    assert not folder.path.exists()


def test_a_folder_whose_lock_was_deleted_is_still_held(
    folder: ResultsFolder, racers: list[Racer], tmp_path: Path
) -> None:
    (folder.path / ".lock").unlink()
    mark = tmp_path / "mark"
    mark.touch()
    racers.append(Racer("hold", folder.path, mark))
    assert "another process holds it" in racers[0].line()


def test_a_lock_that_was_left_is_neither_written_nor_in_the_way(folder: ResultsFolder) -> None:
    lock = folder.path / ".lock"
    assert lock.read_text() == this_process()
    folder.close()
    assert lock.read_text() == ""
    lock.write_text("process 1 on gone")  # as 0.3.0 left it when it was killed
    kept = folder.path.with_name("kept")
    kept.hardlink_to(lock)
    folder.open()
    assert lock.read_text() == this_process()
    folder.close()
    assert kept.read_text() == "process 1 on gone"


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_without_locks_a_lease_is_used_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import errno

    _without_locks(monkeypatch, getattr(errno, name))
    folder = ResultsFolder(tmp_path / "sweep")
    said: list[str] = []
    folder.open(say=said.append)
    (note,) = said
    assert note.startswith(f"note: the file system of {folder.path} has no locks (")
    holder = find_holder(folder.location)
    assert holder is not None and holder.is_alive and holder.name == this_process()
    _writer(folder).fold()
    assert len(read_accuracy(folder.path)) == 4
    folder.close()
    assert find_holder(folder.location) is None
    again = ResultsFolder(tmp_path / "sweep")
    again.open()  # at once
    assert [path.name for path in folder.path.glob(".lock-*")] == [".lock-00000002"]
    again.close()


def test_a_lease_is_renewed_and_not_taken_while_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, racers: list[Racer]
) -> None:
    monkeypatch.setattr(file_lease, "RENEW_S", 0.5)
    _without_locks(monkeypatch)
    folder = ResultsFolder(tmp_path / "sweep")
    folder.open()
    mark = tmp_path / "mark"
    mark.touch()
    racers.append(Racer("hold", folder.path, mark, **NO_LOCKS))
    line = racers[0].line()
    assert f"but {this_process()} holds it and has just renewed its lease" in line
    _writer(folder).fold()
    folder.close()


def test_a_lease_that_another_driver_took_ends_writing(leased: ResultsFolder) -> None:
    writer = _writer(leased)
    newer = b'{"holder": "process 7 on another-host", "token": "x"}'
    (leased.path / ".lock-00000002").write_bytes(newer)
    with pytest.raises(WriteError, match="process 7 on another-host holds the folder now"):
        writer.flush()
    leased.close()
    assert (leased.path / ".lock-00000002").read_bytes() == newer


def test_drivers_that_see_locks_and_those_that_do_not_exclude_each_other(
    tmp_path: Path, racers: list[Racer]
) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    for first, second in (({}, NO_LOCKS), (NO_LOCKS, {"RAYSWEEP_STALE_S": "2"})):
        folder = tmp_path / f"sweep-{len(racers)}"
        racers.append(Racer("hold", folder, mark, **first))
        assert racers[-1].line() == "holds"
        racers.append(Racer("hold", folder, mark, **second))
        assert f"process {racers[-2].pid} on " in (line := racers[-1].line()), line
        assert line.startswith("refused")


def _winners(racer: Racer, n: int) -> int:
    lines = [racer.line() for _ in range(n)]
    assert all(line == "holds" or line.startswith("refused") for line in lines), lines
    assert all("expected no other driver" in line for line in lines if line != "holds"), lines
    return lines.count("holds")


@pytest.mark.parametrize(
    "env",
    [{}, NO_LOCKS, {**NO_LOCKS, "RAYSWEEP_NO_LINKS": "1"}],
    ids=["lock", "lease", "lease_without_hard_links"],
)
@pytest.mark.parametrize("is_killed", [False, True], ids=["first", "after_a_killed_driver"])
def test_of_many_drivers_at_once_exactly_one_wins(
    tmp_path: Path, racers: list[Racer], env: dict[str, str], is_killed: bool
) -> None:
    n, rounds = 12, 5
    if is_killed:
        env = {**env, "RAYSWEEP_KILLED": "1"}
    racers.append(racer := Racer("race", tmp_path / "sweep", tmp_path / "mark", n, rounds, **env))
    for i in range(rounds):
        mark = tmp_path / f"mark{i}"
        mark.touch()
        assert _winners(racer, n) == 1
        mark.unlink()


@pytest.mark.parametrize("env", [{}, NO_LOCKS], ids=["lock", "lease"])
def test_locks_deleted_again_and_again_lose_no_acknowledged_row(
    tmp_path: Path, racers: list[Racer], env: dict[str, str]
) -> None:
    folder, mark = tmp_path / "sweep", tmp_path / "mark"
    racers.append(racer := Racer("write", folder, mark, 5, **env))
    mark.touch()
    until = time.monotonic() + 8
    n_deleted = 0
    while time.monotonic() < until:
        time.sleep(0.15)
        for lock in folder.glob(".lock*"):
            with contextlib.suppress(FileNotFoundError):
                lock.unlink()
                n_deleted += 1
    mark.unlink()
    output, errors = racer.communicate(timeout=60)
    assert "Traceback" not in errors, errors
    lines = output.splitlines()
    rows = {line.partition(" ")[2] for line in lines if line.startswith("row")}
    lost = [line for line in lines if line.startswith("lost")]
    assert n_deleted > 20 and len(rows) > 50 and len(lost) > 5, (n_deleted, len(rows), len(lost))
    found = set(read_accuracy(folder)["config_id"])
    assert not rows - found, f"{len(rows - found)} of {len(rows)} acknowledged rows are lost"


def test_a_lock_is_refused_before_anything_is_touched(
    folder: ResultsFolder, racers: list[Racer], tmp_path: Path
) -> None:
    stray = folder.path / f".tmp-{'0' * 16}-part-1.parquet"
    stray.write_bytes(b"being written")
    with pytest.raises(InputError, match=f"but {this_process()} holds it; wait for it"):
        ResultsFolder(folder.path).open()
    assert stray.exists()
