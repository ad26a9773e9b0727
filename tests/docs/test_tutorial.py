"""Run the tutorial and the notebook on one small sweep that the tutorial makes."""

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from raysweep.tables.reader import read_trials
from tests.doc_blocks import ROOT, blocks_of, carry_out, difference, environment

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = ROOT / "docs" / "analysis.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the tutorial, and compare the outputs that it shows."""
    folder = tmp_path_factory.mktemp("tutorial")
    runnable = [block for block in blocks_of(PAGE) if block.language in ("bash", "python")]
    assert carry_out(PAGE, folder) == len(runnable) > 12
    return folder


def test_tutorial_trains_each_configuration_once(folder: Path) -> None:
    trials = read_trials(folder / "results" / "first")
    assert len(trials) == 24 and (trials["status"] == "finished").all()
    assert (trials["attempt"] == 1).all()
    ends = trials.groupby("config/replay")["ended_at"].agg(["min", "max"])
    others = ends.drop(index="simple")
    assert ends.loc["simple", "min"] > others["max"].max(), "the extension trains only new ones"


def test_finding_of_the_tutorial_holds(folder: Path) -> None:
    trials = read_trials(folder / "results" / "first")
    forgetting = trials.groupby("config/replay")["forgetting"].mean()
    assert forgetting["simple"] < forgetting["generative"] < forgetting["none"]
    assert 0.4 < forgetting["generative"] / forgetting["none"] < 0.7, "a little more than half"


def test_tutorial_leaves_the_pictures_that_it_shows(folder: Path) -> None:
    shown = [block for block in blocks_of(PAGE) if "--out" in block.text]
    names = [block.text.split("--out ")[1].split()[0] for block in shown]
    assert len(names) == 5
    for name in names:
        content = (folder / name).read_bytes()
        is_page = name.endswith(".html")
        assert content.startswith(b"\x89PNG") or (is_page and b"<html" in content[:500].lower())
        assert is_page or (ROOT / "docs" / "images" / name).exists(), "the page shows one like it"


@pytest.fixture
def kernel_environment() -> Iterator[None]:
    """Make the notebook's kernel find the packages of this checkout, as in the tutorial."""
    before = dict(os.environ)
    os.environ.update(environment(ROOT))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("kernel_environment")
def test_notebook_runs_from_top_to_bottom(folder: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    cells = {cell["id"]: cell for cell in notebook.cells}
    outputs = {name: cell.get("outputs", []) for name, cell in cells.items()}
    assert "24" in outputs["read"][0]["text"], "all have finished"
    for name in ("heatmap", "tradeoff", "curves", "plot"):
        kinds = [kind for output in outputs[name] for kind in output.get("data", {})]
        assert kinds.count("image/png") == 1, name
    for name in ("best", "pairs", "join"):
        assert any("text/html" in output.get("data", {}) for output in outputs[name]), name
    streams = [o for cell in outputs.values() for o in cell if o.get("name") == "stderr"]
    assert streams == [], "no warnings"


def test_stored_notebook_is_clean() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell["id"]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata["kernelspec"]["name"] == "python3"


def test_outputs_are_compared_by_words_and_to_a_tolerance() -> None:
    printed = "all 16 are done\n\na 0.93 1e-3\nb 0.50 1e-3\n"
    for shown in (printed, "...\n", "all 16 are done\n...\nb  0.51 1e-3\n", "...\na 0.9 1e-3\n..."):
        assert difference(shown.replace("0.9 ", "0.90 "), printed) == ""
    for shown in ("all 17 are done\n...", "all 16 are done\n", "...\na 0.80 1e-3\n...", "b\n"):
        assert difference(shown, printed) != ""
