"""The wheel, installed without the checkout and used from a folder that has nothing of it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from raysweep import __version__
from raysweep.cli import COMMANDS
from raysweep.tables.folder import read_runs

ROOT = Path(__file__).parents[1]
SMALL = [
    *("training.epochs=1", "training.batch_size=500", "seeds=[0]"),
    "space={model: vib, beta_2: {grid_search: [0, 0.01]}, replay: simple, encoder_widths: [20], "
    "n_bottleneck: 5, rec_decoder_widths: [20], n_replay: 200}",
]
WHERE = """
import os, sys
from importlib.machinery import PathFinder

class Where:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "raysweep":
            with open(os.environ["WHERE"], "a") as file:
                process = os.path.basename(sys.argv[0])
                file.write(f"{process} {PathFinder.find_spec(name).origin}\\n")

sys.meta_path.insert(0, Where)
"""
"""Writes down, in every process of the environment, where it finds raysweep."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.iterdir()
    return built


def test_wheel_holds_raysweep_alone_and_all_of_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        licence = archive.read(f"raysweep-{__version__}.dist-info/licenses/LICENSE").decode()
        metadata = archive.read(f"raysweep-{__version__}.dist-info/METADATA").decode()
    assert {name.partition("/")[0] for name in names} == {
        "raysweep",
        f"raysweep-{__version__}.dist-info",
    }
    tracked = ROOT / "raysweep"
    wanted = {
        f"raysweep/{file.relative_to(tracked)}"
        for file in tracked.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    spaces = {f"raysweep/search_spaces/{file.name}" for file in (ROOT / "search_spaces").iterdir()}
    assert {name for name in names if name.startswith("raysweep/")} == wanted | spaces
    assert "raysweep/py.typed" in names and "raysweep/search_spaces/schema.json" in names
    assert licence == (ROOT / "LICENSE").read_text()
    assert "License-Expression: Apache-2.0" in metadata.splitlines()


@dataclass
class Installed:
    """An environment with the wheel in it, and a folder with nothing to work in."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "venv" / "bin"

    @property
    def here(self) -> Path:
        return self.folder / "here"

    @property
    def package(self) -> Path:
        return next((self.folder / "venv").glob("lib/python*/site-packages/raysweep"))

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self.here,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "RAY", "VIRTUAL_ENV"))
        }
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return kept | {"PATH": path, "WHERE": str(self.folder / "where")}

    def places(self) -> set[tuple[str, str]]:
        """Return in which programs raysweep was imported, each with the file."""
        lines = (self.folder / "where").read_text().splitlines()
        return {tuple(line.split(" ", 1)) for line in lines}  # type: ignore[misc]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel beside the packages of this environment, without its editable checkout."""
    made = Installed(tmp_path_factory.mktemp("installed"))
    made.here.mkdir()
    venv = made.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(venv), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    packages = made.package.parent
    # Python reads no .pth files of a folder that a .pth file names: no checkout.
    (packages / "others.pth").write_text(
        f"{sysconfig.get_path('purelib')}\nimport where_raysweep\n"
    )
    (packages / "where_raysweep.py").write_text(WHERE)
    return made


@pytest.fixture(scope="module")
def swept(installed: Installed) -> subprocess.CompletedProcess[str]:
    return installed("raysweep", "run", "vib", *SMALL)


@pytest.mark.slow
def test_only_the_wheel_is_there(installed: Installed) -> None:
    code = (
        "import importlib.util as find, raysweep; print(raysweep.__file__, "
        "*map(find.find_spec, ('analysis', 'search_spaces', 'benchmarks')))"
    )
    done = installed(str(installed.bin / "python"), "-c", code)
    assert done.stdout.split() == [str(installed.package / "__init__.py"), *3 * ["None"]]


@pytest.mark.slow
def test_a_shipped_space_runs_by_its_name(
    installed: Installed, swept: subprocess.CompletedProcess[str]
) -> None:
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "vib: using the search space shipped with raysweep" in swept.stderr
    results = installed.here / "results" / "vib"
    assert {file.name for file in installed.here.iterdir()} <= {"results", "data"}
    trials = pd.read_parquet(results / "trials.parquet")
    assert list(trials["status"]) == ["finished", "finished"]
    (run,) = read_runs(results)
    assert run["command"][:3] == ["raysweep", "run", "vib"]
    assert run["git"] == {"commit": None, "is_dirty": None}
    assert run["versions"]["raysweep"] == __version__


@pytest.mark.slow
@pytest.mark.usefixtures("swept")
def test_workers_run_the_code_of_the_wheel(installed: Installed) -> None:
    places = installed.places()
    assert {where for _, where in places} == {str(installed.package / "__init__.py")}
    assert {"raysweep", "default_worker.py"} <= {program for program, _ in places}


@pytest.mark.slow
def test_other_code_in_the_current_folder_is_refused_before_workers_take_it(
    installed: Installed,
) -> None:
    other = installed.here / "raysweep"
    shutil.copytree(installed.package, other, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "learning" / "rules.py").open("a") as file:
        file.write("# an older version\n")
    try:
        done = installed("raysweep", "run", "vib", *SMALL, "--name", "other")
    finally:
        shutil.rmtree(other)
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {other}: expected the code of {installed.package} or none")


@pytest.mark.slow
@pytest.mark.usefixtures("swept")
def test_the_same_command_again_has_nothing_to_train(installed: Installed) -> None:
    done = installed("raysweep", "run", "vib", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pd.read_parquet(installed.here / "results/vib/trials.parquet")) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("swept")
def test_report_scripts_status_and_spaces_work(installed: Installed) -> None:
    done = installed("raysweep", "report", "results/vib", "--samples", "1")
    assert done.returncode == 0, done.stderr
    page = (installed.here / "vib.html").read_text()
    assert len(page) > 1_000_000 and "raysweep run vib" in page
    done = installed("raysweep", "leaderboard", "results/vib", "--format", "csv")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
    done = installed("raysweep", "heatmap", "results/vib", "--out", "map.pdf")
    assert done.returncode == 0 and (installed.here / "map.pdf").exists(), done.stderr
    done = installed("raysweep", "status", "results/vib")
    assert done.returncode == 0 and "2" in done.stdout, done.stderr
    done = installed("raysweep", "spaces")
    assert done.returncode == 0 and done.stdout.startswith("beta_map "), done.stderr
    done = installed("raysweep", "spaces", "vib", "mine.yaml")
    assert done.returncode == 0 and (installed.here / "mine.yaml").exists(), done.stderr
    for file in ("vib.html", "map.pdf", "mine.yaml", "schema.json"):
        (installed.here / file).unlink()


@pytest.mark.slow
@pytest.mark.usefixtures("swept")
def test_a_run_that_is_cut_short_says_how_the_command_goes_on(installed: Installed) -> None:
    words = ["raysweep", "run", "vib", *SMALL, "--name", "cut", "--limit", "1"]
    done = installed(*words)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "continue with: raysweep run vib " in done.stdout
    by_path = installed(str(installed.bin / "raysweep"), "run", "vib", *SMALL, "--name", "cut")
    assert by_path.returncode == 0, by_path.stderr
    shutil.rmtree(installed.here / "results" / "cut")


@pytest.mark.slow
def test_every_command_is_there_in_the_wheel(installed: Installed) -> None:
    for name in COMMANDS:
        done = installed("raysweep", name, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().startswith(f"Usage: raysweep {name} "), done.stdout
