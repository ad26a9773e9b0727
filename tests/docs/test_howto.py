"""docs/own-data-and-models.md does what it says: on a copy of the package, changes included."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raysweep.tables.reader import read_trials
from tests.doc_blocks import ROOT, carry_out

PAGE = ROOT / "docs" / "own-data-and-models.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Carry out the page, in a folder that has a copy of the package in it."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(
        ROOT / "raysweep", folder / "raysweep", ignore=shutil.ignore_patterns("__pycache__")
    )
    assert carry_out(PAGE, folder, package=folder) == 6
    return folder


def test_own_images_are_trained_on(folder: Path) -> None:
    trials = read_trials(folder / "results" / "digits")
    assert (trials["status"] == "finished").all() and len(trials) == 2
    assert trials["config/source"].str.match(r"digits@1438-359-64-10-[0-9a-f]{16}$").all()
    by_replay = trials.set_index("config/replay")["average_accuracy"]
    assert by_replay["simple"] > by_replay["none"] + 0.05
    with np.load(folder / "data" / "digits.npz") as file:
        assert file["x_train"].max() == 255 and file["x_test"].shape == (359, 8, 8)


def test_own_model_is_the_one_it_should_equal(folder: Path) -> None:
    trials = read_trials(folder / "results" / "logistic")
    assert (trials["status"] == "finished").all() and len(trials) == 6
    keys = ["config/model", "config/encoder_widths", "config/replay"]
    rows = trials.set_index(keys).sort_index()
    metrics = ["average_accuracy", "forgetting", "final_accuracy_task_1", "class_loss"]
    metrics = [name for name in metrics if name in rows]
    own = rows.xs("logistic", level=0).droplevel(0)[metrics]
    plain = rows.xs(("mlp", ""), level=(0, 1))[metrics]
    assert len(own) == 2
    pd.testing.assert_frame_equal(own, plain, check_exact=True)
    deep = rows.xs("64", level=1)
    assert (deep["config/nonlinearity"] == "softsign").all()


def test_places_that_the_page_names_exist() -> None:
    text = PAGE.read_text()
    cells = re.findall(r"^\| ((?:`[^|]*` in `raysweep|`\w+`, )[^|]*) \|", text, re.MULTILINE)
    rows = [row for row in cells if "raysweep/" in row]
    assert len(rows) == 7
    for row in rows:
        names = re.findall(r"`([\w.]+)`", row)
        files = re.findall(r"`(raysweep/[\w/.]+\.py)`", row)
        source = "".join((ROOT / file).read_text() for file in files)
        for name in names:
            last = name.rpartition(".")[2]
            assert re.search(rf"\b(def|class) {last}\b|^\s*{last}\b.*[:=]", source, re.M), name
    for name, file in re.findall(r"`(\w+)`\s+(?:in|of)\s+`(raysweep/[\w/.]+\.py)`", text):
        assert name in (ROOT / file).read_text(), (name, file)
