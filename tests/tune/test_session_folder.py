"""The private folder of Ray's sockets and logs."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raysweep.errors import NothingRunsError
from raysweep.tune.cluster.session_folder import session_folder


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with a short name that Ray's files are to go to."""
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def silent(text: str) -> None:
    raise AssertionError(text)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_private_and_goes_with_all_that_is_in_it(base: Path) -> None:
    for error in (None, RuntimeError, KeyboardInterrupt):
        try:
            with session_folder(silent) as folder:
                folder.mkdir(mode=0o777)  # as Ray does
                (folder / "socket").touch()
                (folder / "session_latest").symlink_to(base)
                (private,) = base.iterdir()
                assert private == folder.parent and mode_of(private) == 0o700
                if error:
                    raise error
        except (RuntimeError, KeyboardInterrupt):
            pass
        assert list(base.iterdir()) == []


def test_ray_s_sockets_fit_into_a_path(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    with session_folder(silent) as folder:
        session = folder / f"session_2026-11-27_20-52-17_123456_{2**22}"
        room = 107 - len(str(session / "sockets" / "plasma_store"))
    assert room >= 0
    longest = base / ("x" * (room - 1))
    monkeypatch.setenv("RAY_TMPDIR", str(longest))
    with session_folder(silent) as folder:
        assert folder.is_relative_to(longest)
    monkeypatch.setenv("RAY_TMPDIR", f"{longest}x")
    said: list[str] = []
    with session_folder(said.append) as folder:
        assert said and not folder.is_relative_to(base)


@pytest.mark.parametrize("why", ["too long", "a file"])
def test_a_folder_that_will_not_do_is_named_and_another_one_taken(
    why: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = base / ("x" * 90)
    if why == "a file":
        given = base / "file"
        given.touch()
    monkeypatch.setenv("RAY_TMPDIR", str(given))
    for name, value in (("TMPDIR", str(base)), ("TMPDIR", str(tmp_path / ("y" * 90)))):
        monkeypatch.setenv(name, value)
        said: list[str] = []
        with session_folder(said.append) as folder:
            assert folder.parents[1] == (base if value == str(base) else Path("/tmp"))
        (note,) = said
        assert note.startswith(f"note: RAY_TMPDIR is not used for Ray's sockets and logs: {given} ")


def test_where_no_folder_can_be_made_it_is_said_in_one_line(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    monkeypatch.delenv("TMPDIR", raising=False)
    with (
        pytest.raises(NothingRunsError, match="/tmp: No space left on device; make room"),
        session_folder(lambda _: None),
    ):
        pass


KILLED = """
import os, signal
from raysweep.tune.cluster.session_folder import session_folder
with session_folder(print) as folder:
    folder.mkdir()
    (folder / "session_1").mkdir()
    print(folder.parent, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed() -> Path:
    """Return the folder of a run that was killed."""
    words = [sys.executable, "-c", KILLED]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    return Path(done.stdout.strip())


def test_the_folder_of_a_killed_run_is_removed_by_the_next(base: Path) -> None:
    left = killed()
    assert (left / "r" / "session_1").is_dir()
    with session_folder(silent) as folder:
        assert list(base.iterdir()) == [folder.parent]
        with session_folder(silent) as other:  # one that is in use stays
            assert {folder.parent, other.parent} == set(base.iterdir())


def test_what_is_not_surely_ours_stays(base: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "raysweep-session").touch()
    (base / "raysweep.abcdefgh").symlink_to(precious)
    kept = [base / "raysweep.abcdefgh", precious / "raysweep-session"]
    for name, mode, mark in (
        ("raysweep.abcdefg1", 0o755, "raysweep-session"),  # another mode
        ("raysweep.abcdefg2", 0o700, "data"),  # no mark
        ("raysweep.results", 0o700, "raysweep-session"),  # another name
        ("raysweep-12345678", 0o700, "raysweep-session"),  # that of clusters/slurm.sh
    ):
        folder = base / name
        folder.mkdir()
        (folder / mark).touch()
        folder.chmod(mode)
        kept.append(folder / mark)
    linked = base / "raysweep.abcdefg3"
    linked.mkdir(mode=0o700)
    (linked / "raysweep-session").symlink_to(precious)
    kept.append(linked)
    (base / "raysweep.abcdefg4").write_text("a file")
    kept.append(base / "raysweep.abcdefg4")
    if os.geteuid() == 0:
        foreign = base / "raysweep.abcdefg5"
        foreign.mkdir(mode=0o700)
        (foreign / "raysweep-session").touch()
        os.chown(foreign, 12345, 12345)
        kept.append(foreign / "raysweep-session")
    locked = base / "raysweep.abcdefg6"
    locked.mkdir(mode=0o700)
    (locked / "raysweep-session").touch()
    kept.append(locked / "raysweep-session")
    lock = os.open(locked, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (base / "raysweep.abcdefg7").mkdir(mode=0o700)  # killed before the mark
    with session_folder(silent):
        pass
    os.close(lock)
    assert all(os.path.lexists(path) for path in kept)
    assert not (base / "raysweep.abcdefg7").exists()


def test_links_in_a_folder_that_is_removed_lead_nowhere(base: Path, tmp_path: Path) -> None:
    left = killed()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    (left / "r" / "link").symlink_to(victim)
    with session_folder(silent):
        pass
    assert not left.exists() and (victim / "file").exists()
