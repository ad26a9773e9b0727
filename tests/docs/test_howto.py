"""Follow docs/own-data.md and docs/extending.md on copies of the package."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raysweep.tables.reader import read_accuracy, read_epochs, read_trials
from tests.doc_blocks import ROOT, blocks_of, carry_out, run_python

pytestmark = pytest.mark.slow

DATA, EXTENDING = (ROOT / "docs" / name for name in ("own-data.md", "extending.md"))
METRICS = ["average_accuracy", "forgetting", "first_task_accuracy_final", "loss"]


def copy_of_package(folder: Path) -> Path:
    """Copy the files that the pages change into a folder."""
    for name in ("raysweep", "docs", "search_spaces"):
        ignore = shutil.ignore_patterns("__pycache__", "images")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    return folder


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the page on data, and compare the outputs that it shows."""
    folder = copy_of_package(tmp_path_factory.mktemp("data"))
    assert carry_out(DATA, folder, package=folder) == 5
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the page on extensions, all in one copy."""
    folder = copy_of_package(tmp_path_factory.mktemp("extended"))
    assert carry_out(EXTENDING, folder, package=folder) == 9
    return folder


def trials_of(folder: Path, name: str, n: int) -> pd.DataFrame:
    """Read the ``n`` trials of a page's sweep, each with the ``loss`` of its last epoch."""
    trials = read_trials(folder / "results" / name)
    assert (trials["status"] == "finished").all() and len(trials) == n
    epochs = read_epochs(folder / "results" / name).sort_values(["task", "stage", "epoch"])
    return trials.assign(loss=trials["config_id"].map(epochs.groupby("config_id")["loss"].last()))


def test_own_images_are_trained_on(data_folder: Path) -> None:
    trials = trials_of(data_folder, "digits", 2)
    assert trials["config/source"].str.match(r"digits@1438-359-64-10-[0-9a-f]{16}$").all()
    by_replay = trials.set_index("config/replay")["average_accuracy"]
    assert by_replay["simple"] > by_replay["none"] + 0.05
    with np.load(data_folder / "data" / "digits.npz") as file:
        assert file["x_train"].max() == 255 and file["x_test"].shape == (359, 8, 8)


def test_own_word_stands_for_the_same_images_as_the_file(data_folder: Path) -> None:
    trials = trials_of(data_folder, "words", 2).set_index("config/source")
    assert trials.index[0] != trials.index[1] and "digits" in trials.index
    assert trials["average_accuracy"].nunique() == trials["loss"].nunique() == 1
    printed = run_python(
        "from pathlib import Path\n"
        "from raysweep.learning.data.source_shapes import NAMED_SOURCES\n"
        "from raysweep.learning.data.sources import load_source\n"
        "from raysweep.learning.data.source_files import source_name\n"
        "word, file = (load_source(n, Path('data')) for n in ('digits', "
        "source_name('data/digits.npz')))\n"
        "print(abs(word.mean - file.mean) < 1e-4, abs(word.sd - file.sd) < 1e-4)\n"
        "print(all((getattr(word, n) == getattr(file, n)).all() for n in "
        "('train_images', 'train_labels', 'test_images', 'test_labels')))\n",
        data_folder,
    )
    assert printed == "True True\nTrue\n"


def test_own_kind_of_tasks_turns_images(data_folder: Path) -> None:
    trials = trials_of(data_folder, "rotated", 2).set_index("config/replay")
    assert trials["config/shuffle_tasks"].isna().all()
    assert trials["config/first_task_identity"].isna().all()
    assert trials.loc["none", "forgetting"] > trials.loc["simple", "forgetting"] + 0.05 > 0.05
    printed = run_python(
        "import torch\n"
        "from pathlib import Path\n"
        "from raysweep.learning.config import Config\n"
        "from raysweep.learning.data.sources import load_source\n"
        "from raysweep.learning.data.task_sequences import make_tasks\n"
        "config = Config(experiment='replay', source='digits', tasks='rot_mnist', n_tasks=2)\n"
        "source = load_source('digits', Path('data'))\n"
        "first, second = make_tasks(config, source, torch.device('cpu'))\n"
        "images = torch.as_tensor(source.train_images)\n"
        "turned = torch.rot90(images.view(-1, 8, 8), 1, (1, 2)).reshape(len(images), -1)\n"
        "print(torch.equal(first.train.images, images))\n"
        "print((second.train.images.int() - turned.int()).abs().max().item() <= 1)\n",
        data_folder,
    )
    assert printed == "True\nTrue\n"


def test_own_kind_of_tasks_refuses_what_it_can_not_turn(data_folder: Path) -> None:
    printed = run_python(
        "import numpy as np\n"
        "from raysweep.errors import InputError\n"
        "from raysweep.learning.config import Config\n"
        "x, y = np.zeros((4, 3, 2), np.uint8), np.array([0, 1, 0, 1])\n"
        "np.savez('data/flat.npz', x_train=x, y_train=y, x_test=x, y_test=y)\n"
        "try:\n"
        "    Config(experiment='replay', source='data/flat.npz', tasks='rot_mnist')\n"
        "except InputError as error:\n"
        "    print(error)\n",
        data_folder,
    )
    assert "data.tasks: expected perm_mnist or split_mnist with images of 6 pixels" in printed


def test_own_setting_is_null_where_it_does_not_apply_and_merges(folder: Path) -> None:
    trials = trials_of(folder, "floor", 4)
    by_schedule = trials.set_index("config/lr_schedule")["config/lr_floor"]
    assert pd.isna(by_schedule["constant"])
    assert sorted(by_schedule["cosine"]) == [0, 0.1, 1]


def test_own_setting_does_what_its_sentence_says(folder: Path) -> None:
    rows = trials_of(folder, "floor", 4).set_index("config/lr_floor")[METRICS]
    constant = rows[rows.index.isna()]
    pd.testing.assert_series_equal(
        rows.loc[1.0], constant.iloc[0], check_exact=True, check_names=False
    )
    assert rows["loss"].nunique() == 3


def test_own_setting_reaches_docs_and_schema(folder: Path) -> None:
    row = "| `lr_floor` | `space:` | 0.0 | a number from 0 to 1 | Share of lr"
    assert row in (folder / "docs" / "search-spaces.md").read_text()
    assert "| `config/lr_floor` | float |" in (folder / "docs" / "tables.md").read_text()
    assert '"lr_floor_or_drawn"' in (folder / "search_spaces" / "schema.json").read_text()


def test_own_model_is_the_one_it_should_equal(folder: Path) -> None:
    trials = trials_of(folder, "logistic", 6)
    rows = trials.set_index(["config/model", "config/replay"])
    assert rows.loc["logistic", "config/encoder_widths"].isna().all()
    mlps = rows.loc["mlp"]
    plain, deep = (mlps[mlps["config/encoder_widths"] == widths] for widths in ("", "64"))
    pd.testing.assert_frame_equal(
        rows.loc["logistic"][METRICS].sort_index(), plain[METRICS].sort_index(), check_exact=True
    )
    assert (deep["config/nonlinearity"] == "softsign").all()
    assert (deep["loss"] != plain["loss"]).all()


def test_own_method_forgets_the_tasks_before_the_last(folder: Path) -> None:
    trials = trials_of(folder, "latest", 3).set_index("config/replay")
    accuracy = read_accuracy(folder / "results" / "latest")
    keys = ["after_task", "on_task"]
    of = {
        replay: accuracy[accuracy["config_id"] == trials.loc[replay, "config_id"]]
        .set_index(keys)["accuracy"]
        .sort_index()
        for replay in ("simple", "latest")
    }
    pd.testing.assert_series_equal(of["simple"].loc[:2], of["latest"].loc[:2], check_exact=True)
    assert not of["simple"].loc[4].equals(of["latest"].loc[4])
    forgetting = trials["forgetting"]
    assert forgetting["simple"] < forgetting["latest"] < forgetting["none"]


def test_own_method_refuses_a_budget_of_all_tasks(folder: Path) -> None:
    printed = run_python(
        "from raysweep.errors import InputError\n"
        "from raysweep.learning.config import Config\n"
        "try:\n"
        "    Config(experiment='replay', replay='latest', n_replay_scope='total')\n"
        "except InputError as error:\n"
        "    print(error)\n",
        folder,
    )
    assert printed.startswith("space.n_replay_scope: expected per_task with replay latest")


def test_own_selection_keeps_samples_that_lie_apart(folder: Path) -> None:
    trials = trials_of(folder, "k_center", 5).set_index("config/selection")
    assert pd.isna(trials.loc["random", "config/selection_features"])
    assert set(trials.loc["k_center", "config/selection_features"]) == {"pixels", "encoder"}
    printed = run_python(
        "import torch\n"
        "from raysweep.learning.replay.selection import quotas, select\n"
        "x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))\n"
        "labels = torch.zeros(40, dtype=torch.int64)\n"
        "images = torch.arange(40, dtype=torch.uint8)[:, None]\n"
        "share = quotas('k_center', 9, is_total=False, task=1, n_tasks=1, n_classes=1)\n"
        "chosen = select('k_center', share, images=images, labels=labels, n_classes=1, task=1, "
        "features=x, order=None, stream=torch.Generator(), dtype=torch.float64)\n"
        "got = (chosen.images[:, 0] * 255).round().int().tolist()\n"
        "points = x.tolist()\n"
        "mean = [sum(c) / 40 for c in zip(*points)]\n"
        "d = lambda a, b: sum((p - q) ** 2 for p, q in zip(a, b))\n"
        "want = [min(range(40), key=lambda i: d(points[i], mean))]\n"
        "while len(want) < 9:\n"
        "    far = lambda i: min(d(points[i], points[j]) for j in want)\n"
        "    want.append(max(range(40), key=far))\n"
        "print(got == want)\n",
        folder,
    )
    assert printed == "True\n"


@pytest.mark.parametrize(
    ("page", "files"),
    [
        (DATA, {"digits.diff": 2}),
        (EXTENDING, {"lr_floor.diff": 2, "softsign.diff": 3, "k_center.diff": 2}),
    ],
    ids=["own-data", "extending"],
)
def test_changes_are_as_small_as_the_pages_say(page: Path, files: dict[str, int]) -> None:
    blocks = blocks_of(page)
    diffs = {b.title: len(re.findall(r"^\+\+\+ ", b.text, re.M)) for b in blocks if b.title}
    assert {title: n for title, n in diffs.items() if title.endswith(".diff")} == files
    sources = [block.title for block in blocks if block.title.startswith("raysweep/")]
    assert not [title for title in sources if (ROOT / title).exists()], "a new file each"
    assert len(sources) == (1 if page == DATA else 2)


@pytest.mark.parametrize("page", [DATA, EXTENDING], ids=["own-data", "extending"])
def test_places_that_the_pages_name_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    named = re.findall(r"`((?:raysweep|tests)/[\w/.]+)`", text)
    assert len(named) >= 3
    for path in named:
        assert (ROOT / path).exists(), path
    pairs = re.findall(r"`(\w+)`\s+(?:in|of)\s+`(raysweep/[\w/]+\.py)`", text)
    pairs += re.findall(r"`(\w+)` \(`(raysweep/[\w/]+\.py)`\)", text)
    assert pairs
    for name, file in pairs:
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), (name, file)
