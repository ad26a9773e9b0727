"""Data sets in files of the user's own: named by what is in them, checked before Ray starts."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.source_files import find_file, source_name
from raysweep.learning.data.sources import Source, check_fit, is_local, load_source
from raysweep.learning.data.task_sequences import make_tasks
from raysweep.packs.planning.packing import make_plan
from raysweep.settings.sweep import Sweep, load_sweep
from tests.sweep_runs import run, write

N_CLASSES = 5


def arrays(seed: int = 0, **changed: Any) -> dict[str, Any]:
    """Make 60 training and 25 test images of 4 x 3 pixels in five classes."""
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "x_train": random.integers(0, 256, (60, 4, 3), dtype=np.uint8),
        "y_train": np.arange(60) % N_CLASSES,
        "x_test": random.integers(0, 256, (25, 4, 3), dtype=np.uint8),
        "y_test": np.arange(25) % N_CLASSES,
    }
    return {name: changed.get(name, value) for name, value in made.items()}


def save(path: Path, content: dict[str, Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays() if content is None else content))
    return path


def load(file: Path, *overrides: str) -> Sweep:
    """Load a small search space over a file of data."""
    text = f"data: {{source: '{file}'}}\ntraining: {{batch_size: 10}}\nspace: {{n_replay: 20}}\n"
    return load_sweep(write(file.parent, text), overrides)


def config_of(file: Path) -> Config:
    return load(file).configs[0]


def test_id_is_of_the_content_not_of_the_file(tmp_path: Path) -> None:
    made = arrays()
    one = config_of(save(tmp_path / "letters.npz", made))
    medmnist = {
        "train_images": made["x_train"].reshape(60, 12),
        "train_labels": made["y_train"][:, None].astype(np.uint8),
        "val_images": made["x_test"],
        "test_images": made["x_test"].reshape(25, 12),
        "test_labels": made["y_test"][:, None].astype(np.int32),
    }
    np.savez_compressed(tmp_path / "other name.npz", **medmnist)
    other = config_of(tmp_path / "other name.npz")
    assert one.source.startswith("letters@60-25-12-5-")
    assert other.source == one.source.replace("letters", "other_name")
    assert one.id == other.id
    pixel = made["x_train"].copy()
    pixel[59, 3, 2] ^= 1
    label = made["y_train"].copy()
    label[[0, 1]] = label[[1, 0]]
    for changed in (arrays(x_train=pixel), arrays(y_train=label), arrays(x_test=pixel[:25])):
        assert config_of(save(tmp_path / "letters.npz", changed)).id != one.id


def test_a_worker_knows_the_sizes_without_the_file(tmp_path: Path) -> None:
    file = save(tmp_path / "letters.npz")
    config = config_of(file)
    file.unlink()
    text = json.dumps(config.model_dump(mode="json"))
    again = Config(**json.loads(text))
    assert again == config and again.id == config.id
    assert (again.n_inputs, again.n_classes) == (12, N_CLASSES)
    assert len(make_plan([again], 1).packs) == 1


def test_loaded_arrays_are_those_of_the_file(tmp_path: Path) -> None:
    made = arrays()
    config = config_of(save(tmp_path / "letters.npz", made))
    assert is_local(config.source, tmp_path)
    source = load_source(config.source, tmp_path / "nowhere")
    np.testing.assert_array_equal(source.train_images, made["x_train"].reshape(60, 12))
    np.testing.assert_array_equal(source.train_labels, made["y_train"])
    np.testing.assert_array_equal(source.test_images, made["x_test"].reshape(25, 12))
    np.testing.assert_array_equal(source.test_labels, made["y_test"])
    pixels = made["x_train"] / 255
    np.testing.assert_allclose((source.mean, source.sd), (pixels.mean(), pixels.std()), rtol=1e-12)


def test_file_is_found_by_its_content_in_the_data_folder(tmp_path: Path) -> None:
    file = save(tmp_path / "letters.npz")
    config = config_of(file)
    save(tmp_path / "data" / "a.npz", arrays(seed=1))
    (tmp_path / "data" / "b.npz").write_bytes(b"no archive")
    file.rename(tmp_path / "data" / "c.npz")
    assert load_source(config.source, tmp_path / "data").train_images.shape == (60, 12)
    (tmp_path / "data" / "c.npz").unlink()
    with pytest.raises(InputError, match=r"data\.source: expected the \.npz file of letters@60-25"):
        load_source(config.source, tmp_path / "data")
    save(file, arrays(seed=2))  # another data set under the old name
    with pytest.raises(InputError, match="none with this content"):
        load_source(config.source, tmp_path)


def test_an_odd_number_of_classes_leaves_one_out_of_split_tasks(tmp_path: Path) -> None:
    file = save(tmp_path / "letters.npz")
    space = ("data.tasks=split_mnist", "space.replay=simple")
    for shuffle in ("false", "true"):
        (config,) = load(file, *space, f"data.shuffle_tasks={shuffle}").configs
        source: Source = load_source(config.source, tmp_path)
        check_fit([config], source)
        tasks = make_tasks(config, source, torch.device("cpu"))
        assert [len(task.train) for task in tasks] == [24, 24]
        assert all(set(task.train.labels.tolist()) == {0, 1} for task in tasks)
    with pytest.raises(InputError, match=r"data\.n_tasks: expected at most 2 tasks"):
        load(file, *space, "data.n_tasks=3")


def test_sizes_are_checked_before_anything_starts(tmp_path: Path) -> None:
    file = save(tmp_path / "letters.npz")
    with pytest.raises(InputError, match="expected at most the 60 training samples of letters@60"):
        load(file, "training.batch_size=61")
    done = run(write(tmp_path, f"data: {{source: '{file}', tasks: split_mnist}}\n"))
    assert done.returncode == 2 and "Ray" not in done.stderr
    assert not (tmp_path / "results").exists()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"x_train": np.zeros((60, 12))}, "expected x_train of uint8 pixels, 0 to 255, with shape"),
    ({"x_test": np.zeros(25, dtype=np.uint8)}, r"expected x_test of .* got uint8 \(25,\)"),
    ({"x_test": np.zeros((25, 13), dtype=np.uint8)}, "expected x_test with 12 pixels per image"),
    ({"x_train": np.zeros((0, 12), dtype=np.uint8)}, r"got uint8 \(0, 12\)"),
    ({"y_train": np.arange(59) % 5}, r"expected y_train of 60 whole numbers, .* got int64 \(59,\)"),
    ({"y_train": np.zeros(60)}, r"whole numbers, one for each image, got float64 \(60,\)"),
    ({"y_train": np.arange(60) % 5 - 1}, "expected y_train from 0 to 255, got -1 to 3"),
    ({"y_test": np.full(25, 300)}, "expected y_test from 0 to 255, got 300 to 300"),
    ({"y_train": np.zeros(60, dtype=int)}, "class from 0 to 1 in y_train, got none of class 1"),
    ({"y_train": 2 * (np.arange(60) % 3)}, "class from 0 to 4 in y_train, got none of class 1"),
    ({"y_test": np.arange(25) % 4}, "class from 0 to 4 in y_test, got none of class 4"),
    ({"y_test": np.arange(25) % 6}, "class from 0 to 4 in y_test, got class 5"),
    ({"y_test": np.full(25, None)}, "as numpy.savez writes it, got: Object arrays"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_a_file_of_the_wrong_kind_is_one_line(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    file = save(tmp_path / "letters.npz", arrays(**changed))
    with pytest.raises(InputError, match=message) as caught:
        load(file)
    text = str(caught.value)
    assert text.startswith(f"small.yaml: data.source: {file}: expected ") and text.isprintable()
    assert text.endswith("(line 1, column 16)")


def test_what_is_no_npz_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "letters.npz"
    whole = save(tmp_path / "whole.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 255
    for content in (b"", b"text", whole[:500], bytes(damaged)):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"expected an \.npz file, as numpy\.savez writes it"):
            load(file)
    np.savez(file, a=np.zeros(3))
    with pytest.raises(InputError, match=r"expected the arrays x_train, .*, got a "):
        load(file)
    file.unlink()
    with pytest.raises(InputError, match=r"expected an \.npz file of images and labels, found no"):
        load(file)
    file.mkdir()
    with pytest.raises(InputError, match=r"expected an \.npz file, .* got: .*directory"):
        load(file)


def test_what_is_no_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    pipe, device, sound = (tmp_path / f"{name}.npz" for name in ("pipe", "device", "sound"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for file in (pipe, device):
        with pytest.raises(InputError, match=r"got: a directory, pipe or device"):
            load(file)
    name = source_name(str(save(sound)))  # a search by content in the same folder ends, too
    sound.rename(tmp_path / "moved.npz")
    assert find_file(name, tmp_path) == tmp_path / "moved.npz"


def test_a_source_that_is_neither_known_nor_a_file_is_refused(tmp_path: Path) -> None:
    for text in ("letters", "data.csv", "x@1-2", "7", "[a]"):
        with pytest.raises(InputError, match=r"expected one|expected .* or a file such as"):
            load_sweep(write(tmp_path, f"data: {{source: {text}}}\n"))
