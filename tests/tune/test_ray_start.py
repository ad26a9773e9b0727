"""Ray's start on a machine that is too busy for it, and what is left of it afterwards."""

import contextvars
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import NothingRunsError
from raysweep.tune.cluster import ray_start
from raysweep.tune.cluster.ray_start import start_ray

TIMED_OUT = (
    "The current node timed out during startup. This could happen because some of the raylet "
    "failed to startup or the GCS has become overloaded."
)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "_WAITS_S", (0.0, 0.0, 0.0))


@pytest.fixture
def failing(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[list[BaseException], Callable[[Path], None]], list[Path]]:
    """Return a function that has Ray's first starts fail so; it gives the folders of all tries."""

    def set_up(
        errors: list[BaseException], leave: Callable[[Path], None] = lambda _: None
    ) -> list[Path]:
        folders: list[Path] = []

        def init(options: dict[str, Any], is_verbose: bool) -> None:
            folder = Path(options["_temp_dir"])
            assert not folder.exists(), "left by the try before"
            folders.append(folder)
            (folder / "session").mkdir(parents=True)
            if errors:
                leave(folder)
                raise errors.pop(0)

        monkeypatch.setattr(ray_start, "_init", init)
        return folders

    return set_up


def test_a_start_that_fails_is_tried_again_and_said(failing: Any, tmp_path: Path) -> None:
    # Ray raises a bare one here.
    tries = failing([Exception(TIMED_OUT), RuntimeError("Failed to start GCS.\n\nLast 0 lines")])
    said: list[str] = []
    start_ray({}, tmp_path / "r", said.append, is_verbose=False)
    assert len(tries) == 3
    assert said == [
        f"Ray did not start: {TIMED_OUT}; trying again in 0 s (1 of 3)",
        "Ray did not start: Failed to start GCS. Last 0 lines; trying again in 0 s (2 of 3)",
    ]


def test_a_machine_on_which_ray_never_starts_is_one_line(failing: Any, tmp_path: Path) -> None:
    tries = failing([Exception(TIMED_OUT) for _ in range(9)])
    said: list[str] = []
    with pytest.raises(NothingRunsError) as caught:
        start_ray({}, tmp_path / "x" / "r", said.append, is_verbose=False)
    assert len(tries) == 4 and len(said) == 3
    assert str(caught.value) == (
        f"expected Ray to start on this machine, got: {TIMED_OUT} (tried 4 times); see that it has "
        f"processors, memory and processes to spare and room in {tmp_path} (or set RAY_TMPDIR), "
        f"and run the same command again"
    )
    assert not (tmp_path / "x" / "r").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("bad port")])
def test_what_time_does_not_mend_is_not_tried_again(
    error: Exception, failing: Any, tmp_path: Path
) -> None:
    tries = failing([error])
    with pytest.raises(NothingRunsError, match=r"\(tried once\)"):
        start_ray({}, tmp_path / "r", pytest.fail, is_verbose=False)
    assert len(tries) == 1


def test_processes_and_files_of_a_failed_or_interrupted_start_are_gone(
    failing: Any, tmp_path: Path
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    other = subprocess.Popen(["sleep", "60"])  # does not name the folder

    def leave(folder: Path) -> None:
        code = "import subprocess, sys; subprocess.run(['sleep', '60', *sys.argv[1:]][:2])"
        started.append(subprocess.Popen([sys.executable, "-c", code, str(folder / "raylet")]))

    try:
        failing([Exception(TIMED_OUT)], leave)
        start_ray({}, tmp_path / "r", lambda _: None, is_verbose=False)
        ray_start._clear(tmp_path / "r")
        failing([KeyboardInterrupt()], leave)
        with pytest.raises(KeyboardInterrupt):
            start_ray({}, tmp_path / "r", pytest.fail, is_verbose=False)
        assert not (tmp_path / "r").exists()
        assert [process.wait(10) for process in started] == [-9, -9]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_long_start_is_said_sparsely_and_in_the_context_of_its_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_start, "_NOTES_S", (0.1, 0.2, 60))
    cell = contextvars.ContextVar("cell", default="none")
    cell.set("this one")
    said: list[tuple[str, str]] = []
    with ray_start._notes_on_the_wait(lambda text: said.append((text, cell.get()))):
        pass
    assert not said
    with ray_start._notes_on_the_wait(lambda text: said.append((text, cell.get()))):
        time.sleep(0.5)
    assert said == [
        ("Ray is still starting (0.1 s)", "this one"),
        ("Ray is still starting (0.2 s)", "this one"),
    ]


PROGRAM = """
import os, sys
from pathlib import Path
from raysweep.settings.execution import Resources
from raysweep.tables.paths import ResultsPath
from raysweep.tune.cluster import ray_start
from raysweep.tune.cluster.starting import ClusterOptions, connect

ray_start._WAITS_S = (0.1, 0.1, 0.1)
genuine_init, sessions = ray_start._init, []


def init(options, is_verbose):
    import ray  # not before: its token is in the environment by now
    from ray._private import services

    genuine = services.get_node

    def get_node(*arguments):
        sessions.extend(Path(options["_temp_dir"]).glob("session_2*"))
        services.get_node = genuine
        raise Exception("The current node timed out during startup.")

    if not sessions:
        services.get_node = get_node
    return genuine_init(options, is_verbose)


def named(text):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_zombie = " Z " in (entry / "stat").read_text()
            if text.encode() in (entry / "cmdline").read_bytes() and not is_zombie:
                found.append(entry)
        except OSError:
            continue
    return found


def ours():  # what Ray itself sets is its own matter
    return {k: v for k, v in os.environ.items() if k.startswith(("RAY_AUTH", "RAY_TMP", "TUNE_"))}


ray_start._init = init
said = []
before = ours()
options = ClusterOptions(None, ResultsPath.of(sys.argv[1]), 0, Resources())
for i in range(2):
    with connect(options, said.append) as cluster:
        assert [node.n_cpus > 0 for node in cluster.nodes] == [True]
        (session,) = sessions
        assert not session.exists() and not named(str(session))
        (folder,) = Path(os.environ["RAY_TMPDIR"]).glob("raysweep.*")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(folder.rglob("raylet")), "no socket"
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert not list(Path(os.environ["RAY_TMPDIR"]).iterdir())
    assert ours() == before
said = [text for text in said if "still starting" not in text and "/dev/shm" not in text]
(line,) = said
assert line.startswith("Ray did not start: The current node timed out during startup."), line
import ray

ray.init(address="local", include_dashboard=False, num_cpus=1, object_store_memory=80 * 2**20)
assert ray.get(ray.remote(lambda: 5).remote()) == 5
"""


@pytest.mark.slow
def test_after_a_failed_start_and_runs_nothing_is_left_and_ray_starts_as_ever(
    tmp_path: Path,
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as base:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            env={**environment, "RAY_TMPDIR": base, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stderr
