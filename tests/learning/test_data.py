"""Real digits, task sequences made of them, and batches that miss nobody."""

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.source_shapes import SOURCES
from raysweep.learning.data.sources import Source, check_fit, data_folder, load_source
from raysweep.learning.data.task_sequences import (
    Task,
    batch_order,
    cycled_order,
    make_tasks,
    n_batches,
    scaled,
)
from raysweep.learning.streams import generator

CPU = torch.device("cpu")
N_PIXELS = 784
DIGESTS = ["a4de8aef91b3", "38718e25dbf2", "fb8e189a3c37", "19cab774765c"]
FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]


def config(**setting: Any) -> Config:
    return Config.model_validate({"replay": "none", **setting})


@pytest.fixture(scope="module")
def numbered() -> Source:
    """Return two images a set whose pixels number themselves: 256 * first + second."""
    number = np.arange(N_PIXELS)
    images = np.stack([number // 256, number % 256]).astype(np.uint8)
    labels = np.array([3, 8], dtype=np.uint8)
    return Source("mnist_5k", images, labels, images[::-1].copy(), labels[::-1].copy(), 0.1, 0.3)


def permutation(images: torch.Tensor) -> list[int]:
    """Read the permutation off two permuted images that number their pixels."""
    first, second = images.long()
    order: list[int] = (256 * first + second).tolist()
    return order


def orders(source: Source, **setting: Any) -> list[list[int]]:
    return [permutation(t.train.images) for t in make_tasks(config(**setting), source, CPU)]


@pytest.fixture(scope="module")
def labelled(source: Source) -> Source:
    """Return the real labels of mnist_5k with images whose first pixel is the digit."""

    def mark(labels: np.ndarray) -> np.ndarray:
        images = np.zeros((len(labels), N_PIXELS), dtype=np.uint8)
        images[:, 0] = labels
        images[:, 1], images[:, 2] = np.divmod(np.arange(len(labels)), 256)
        return images

    train, test = source.train_labels, source.test_labels
    return Source("mnist_5k", mark(train), train, mark(test), test, 0.1, 0.3)


def split_tasks(samples: Source, **setting: Any) -> list[Task]:
    return make_tasks(config(tasks="split_mnist", **{"n_tasks": 5, **setting}), samples, CPU)


def pairs(tasks: list[Task]) -> list[tuple[int, int]]:
    """Return each task's two digits, that of target 0 first; fail if a target has several."""
    found = []
    for task in tasks:
        digits = [
            {int(d) for samples in (task.train, task.test) for d in samples.images[at(samples), 0]}
            for at in (lambda s: s.labels == 0, lambda s: s.labels == 1)
        ]
        assert [len(d) for d in digits] == [1, 1]
        found.append((digits[0].pop(), digits[1].pop()))
    return found


# mnist_5k


def test_mnist_5k_is_4000_and_1000_real_digits(source: Source) -> None:
    shape = SOURCES["mnist_5k"]
    for images, n in ((source.train_images, shape.n_train), (source.test_images, shape.n_test)):
        assert images.shape == (n, shape.n_inputs)
        assert images.dtype == np.uint8
        assert (images.min(), images.max()) == (0, 255)
        assert len(np.unique(images)) > 200  # grey, not black and white
        assert images.any(axis=1).all()
    assert (shape.n_train, shape.n_test) == (4000, 1000)
    assert source.n_bytes == 5000 * N_PIXELS


def test_mnist_5k_is_stratified(source: Source) -> None:
    assert np.bincount(source.train_labels).tolist() == [400] * 10
    assert np.bincount(source.test_labels).tolist() == [100] * 10


def test_mnist_5k_is_the_same_wherever_and_whenever_it_is_loaded(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSWEEP_DATA", str(tmp_path / "elsewhere"))
    again = load_source("mnist_5k", tmp_path / "no_such_folder")
    digests = []
    for one in (source, again):
        parts = (one.train_images, one.train_labels, one.test_images, one.test_labels)
        digests.append([hashlib.sha256(part.tobytes()).hexdigest()[:12] for part in parts])
    # Published results rest on this split: a change of it is a change of every number.
    assert digests == [DIGESTS] * 2


def test_no_training_image_of_mnist_5k_is_tested(source: Source) -> None:
    train = {image.tobytes() for image in source.train_images}
    assert not any(image.tobytes() in train for image in source.test_images)


def test_every_digit_of_mnist_5k_looks_like_itself(source: Source) -> None:
    # A wrong pairing of images and labels would leave one in ten.
    means = np.stack(
        [source.train_images[source.train_labels == digit].mean(axis=0) for digit in range(10)]
    )
    distance = ((source.test_images[:, None].astype(float) - means) ** 2).sum(axis=2)
    assert (distance.argmin(axis=1) == source.test_labels).mean() > 0.75


def test_normalising_statistics_are_those_of_the_training_pixels(source: Source) -> None:
    pixels = source.train_images / 255
    assert source.mean == pytest.approx(pixels.mean(), abs=1e-3)
    assert source.sd == pytest.approx(pixels.std(), abs=1e-3)


# Permuted tasks


def test_a_permuted_task_permutes_training_and_test_alike(numbered: Source) -> None:
    for task in make_tasks(config(n_tasks=3), numbered, CPU):
        order = permutation(task.train.images)
        assert sorted(order) == list(range(N_PIXELS))
        assert permutation(task.test.images.flip(0)) == order


def test_a_permuted_task_keeps_the_labels(source: Source) -> None:
    for task in make_tasks(config(n_tasks=3), source, CPU):
        assert task.train.labels.tolist() == source.train_labels.tolist()
        assert task.test.labels.tolist() == source.test_labels.tolist()
        assert task.train.labels.dtype == torch.int64
        assert task.train.images.dtype == torch.uint8


def test_the_first_task_is_permuted_unless_it_is_asked_not_to_be(numbered: Source) -> None:
    identity = list(range(N_PIXELS))
    permuted = orders(numbered, n_tasks=3)
    kept = orders(numbered, n_tasks=3, first_task_identity=True)
    assert permuted[0] != identity
    assert kept[0] == identity
    assert kept[1:] == permuted[1:]


def test_permutations_differ_between_tasks_and_seeds(numbered: Source) -> None:
    drawn = [order for seed in range(4) for order in orders(numbered, n_tasks=3, seed=seed)]
    assert len({tuple(order) for order in drawn}) == 12
    # Far apart, too: a shared part would make one task easy after another.
    for one, other in itertools.combinations(drawn, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 20


def test_permutations_depend_on_the_seed_alone(numbered: Source) -> None:
    expected = orders(numbered, n_tasks=2, seed=5)
    others = {"lr": 0.5, "model": "comparison", "n_bottleneck": 3, "normalize": True, "epochs": 1}
    assert orders(numbered, n_tasks=2, seed=5, **others) == expected
    assert orders(numbered, n_tasks=7, seed=5)[:2] == expected  # so a longer sequence extends it


def test_tasks_are_made_of_read_only_arrays_without_changing_them(source: Source) -> None:
    # Ray's object store maps arrays read-only; a warning would fail this test.
    parts = (source.train_images, source.train_labels, source.test_images, source.test_labels)
    copies = [part.copy() for part in parts]
    for copy in copies:
        copy.flags.writeable = False
    frozen = Source("mnist_5k", *copies, source.mean, source.sd)
    for tasks in ("perm_mnist", "split_mnist"):
        made = make_tasks(config(tasks=tasks, first_task_identity=True), frozen, CPU)
        assert len(made) == 2
    assert all((copy == part).all() for copy, part in zip(copies, parts, strict=True))


# Split tasks


def test_split_tasks_are_pairs_of_digits_told_apart_by_parity(labelled: Source) -> None:
    tasks = split_tasks(labelled)
    assert pairs(tasks) == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    for task in tasks:
        for samples in (task.train, task.test):
            assert (samples.labels == samples.images[:, 0] % 2).all()
            assert samples.labels.dtype == torch.int64


def test_split_tasks_have_each_sample_once(labelled: Source) -> None:
    tasks = split_tasks(labelled)
    assert [len(task.train) for task in tasks] == [800] * 5
    assert [len(task.test) for task in tasks] == [200] * 5
    for whole, parts in (
        (labelled.train_images, [task.train for task in tasks]),
        (labelled.test_images, [task.test for task in tasks]),
    ):
        rows = [bytes(row.tolist()) for part in parts for row in part.images]
        assert sorted(rows) == sorted(row.tobytes() for row in whole)


def test_fewer_split_tasks_are_the_first_of_them(labelled: Source) -> None:
    assert pairs(split_tasks(labelled, n_tasks=2)) == [(0, 1), (2, 3)]


def test_shuffled_split_tasks_pair_all_digits_by_the_seed(labelled: Source) -> None:
    drawn = [tuple(pairs(split_tasks(labelled, shuffle_tasks=True, seed=s))) for s in range(6)]
    for found in drawn:
        assert sorted(digit for pair in found for digit in pair) == list(range(10))
    assert len(set(drawn)) == 6
    again = pairs(split_tasks(labelled, shuffle_tasks=True, seed=3, lr=0.5, n_tasks=3))
    assert tuple(again) == drawn[3][:3]


def test_unshuffled_split_tasks_are_the_same_for_every_seed(labelled: Source) -> None:
    assert pairs(split_tasks(labelled, seed=0)) == pairs(split_tasks(labelled, seed=1))


# Batches

SIZES = [(12, 4), (13, 4), (3, 4), (4, 4), (1, 1), (7, 1)]


@pytest.mark.parametrize(("n", "batch_size"), SIZES)
def test_an_epoch_has_every_sample_once(n: int, batch_size: int) -> None:
    batches = list(batch_order(n, batch_size, False, generator(0, "order")))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 0 < len(batches[-1]) <= batch_size
    assert len(batches) == n_batches(n, batch_size, drop_last=False)


@pytest.mark.parametrize(("n", "batch_size"), SIZES)
def test_drop_last_drops_the_batch_that_is_not_full_and_nothing_else(
    n: int, batch_size: int
) -> None:
    dropped = list(batch_order(n, batch_size, True, generator(0, "order")))
    kept = list(batch_order(n, batch_size, False, generator(0, "order")))
    assert [len(batch) for batch in dropped] == [batch_size] * (n // batch_size)
    assert len(dropped) == n_batches(n, batch_size, drop_last=True)
    assert all(torch.equal(a, b) for a, b in zip(dropped, kept, strict=False))
    assert len(kept) - len(dropped) == (n % batch_size > 0)


def test_batch_order_depends_on_the_stream_alone() -> None:
    def order(*purpose: str | int) -> list[int]:
        return torch.cat(list(batch_order(100, 10, False, generator(1, *purpose)))).tolist()

    assert order("order", 1) == order("order", 1)
    assert order("order", 1) != order("order", 2)
    assert order("order", 1) != list(range(100))


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (13, 4), (3, 4), (5, 1)])
def test_replayed_batches_go_round_and_round_dropping_none(n: int, batch_size: int) -> None:
    endless = cycled_order(n, batch_size, generator(0, "replay"))
    a_pass = n_batches(n, batch_size, drop_last=False)
    passes = [[next(endless).tolist() for _ in range(a_pass)] for _ in range(8)]
    for batches in passes:
        assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert len({str(batches) for batches in passes}) > 1  # shuffled anew


def test_scaled_pixels_lie_from_0_to_1() -> None:
    images = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        numbers = scaled(images, dtype)
        assert numbers.dtype == dtype
        assert torch.equal(numbers, torch.tensor([[0, 51 / 255, 1]], dtype=dtype))
    assert images.tolist() == [[0, 51, 255]]


# Settings against the data

MIR = {"tasks": "split_mnist", "n_tasks": 5, "replay": "simple", "retrieval": "mir"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"tasks": "split_mnist", "batch_size": 801},
            "training.batch_size: expected at most 800, the samples of the smallest task, got 801; "
            "lower it or set data.drop_last false",
        ),
        (
            {"tasks": "split_mnist", "batch_size": 801, "shuffle_tasks": True},
            "training.batch_size: expected at most 800, the samples of the smallest task, got 801; "
            "lower it or set data.drop_last false",
        ),
        (
            {"tasks": "split_mnist", "replay": "simple", "n_replay": 801},
            "space.n_replay: expected at most 800, the samples of the smallest task, with "
            "selection random, got 801",
        ),
        (
            {"replay": "simple", "n_replay": 4001},
            "space.n_replay: expected at most 4000, the samples of the smallest task, with "
            "selection random, got 4001",
        ),
        (
            {"tasks": "split_mnist", "replay": "simple", "n_replay": 801, "n_replay_scope": "total"}
            | {"n_tasks": 5},
            "space.n_replay: expected at most 800, the samples of the smallest task, with "
            "selection random, got 801",
        ),
        (
            {"replay": "simple", "n_replay": 4001, "selection": "reservoir", "n_tasks": 5},
            "space.n_replay: expected at most 4000, the samples of the smallest task, with "
            "selection reservoir, got 4001",
        ),
        (
            {"replay": "simple", "task_samples": 300, "n_replay": 301},
            "space.n_replay: expected at most 300, the samples of the smallest task, with "
            "selection random, got 301",
        ),
        (
            {"tasks": "split_mnist", "task_samples": 801},
            "data.task_samples: expected at most 800, the samples of the smallest task, got 801; "
            "lower it, or 0 takes all",
        ),
        (
            {"tasks": "split_mnist", "n_tasks": 3, "batch_size": 2401, "experiment": "joint"}
            | {"model": "mlp"},
            "training.batch_size: expected at most 2400, the samples of all tasks, got 2401; "
            "lower it or set data.drop_last false",
        ),
        (
            MIR | {"selection": "class_balanced", "n_replay": 2000, "n_candidates": 801},
            "space.n_candidates: expected at most 800, the samples that selection "
            "class_balanced keeps of task 1, got 801",
        ),
        (
            MIR
            | {"selection": "herding", "shuffle_tasks": True, "n_replay": 2000}
            | {"n_candidates": 801},
            "space.n_candidates: expected at most 800, the samples that selection "
            "herding keeps of task 1, got 801",
        ),
        (
            MIR
            | {"selection": "kmeans", "task_samples": 150, "n_replay": 400}
            | {"n_candidates": 151},
            "space.n_candidates: expected at most 150, the samples that selection "
            "kmeans keeps of task 1, got 151",
        ),
    ],
)
def test_what_the_samples_cannot_meet_is_refused_in_one_line(
    source: Source, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_fit([config(), config(**setting)], source)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "setting",
    [
        {"tasks": "split_mnist", "batch_size": 800},
        {"tasks": "split_mnist", "batch_size": 801, "drop_last": False},
        {"tasks": "split_mnist", "replay": "simple", "n_replay": 800, "n_tasks": 5},
        {"replay": "simple", "n_replay": 4000},
        {"replay": "generative", "n_replay": 4001},  # drawn, not taken
        {"replay": "none", "n_replay": 4001},
        {"batch_size": 4000},
        {"replay": "simple", "n_replay": 4001, "n_tasks": 1},  # nothing is stored
        {"replay": "simple", "n_replay": 4000, "selection": "reservoir", "n_tasks": 5},
        {"replay": "simple", "n_replay": 300, "task_samples": 300},
        # by class: what a task has not is not taken
        {"replay": "simple", "n_replay": 4010, "selection": "ring"},
        {"replay": "simple", "n_replay": 4010, "selection": "herding", "n_replay_scope": "total"},
        {"tasks": "split_mnist", "task_samples": 800},
        {"tasks": "split_mnist", "n_tasks": 3, "batch_size": 2400, "experiment": "joint"}
        | {"model": "mlp"},
        {"n_tasks": 2, "batch_size": 8000, "experiment": "joint", "model": "mlp"},
        {"tasks": "split_mnist", "n_tasks": 5, "batch_size": 4000, "experiment": "joint"}
        | {"model": "mlp", "shuffle_tasks": True},
        MIR | {"selection": "class_balanced", "n_replay": 2000, "n_candidates": 800},
        MIR | {"selection": "kmeans", "task_samples": 150, "n_candidates": 150},
        MIR | {"replay": "generative", "n_replay": 5000, "n_candidates": 5000, "n_tasks": 2},
    ],
)
def test_what_the_samples_just_meet_is_accepted(source: Source, setting: dict[str, Any]) -> None:
    check_fit([config(**setting)], source)


def test_a_rare_class_limits_the_candidates_by_what_it_has(source: Source) -> None:
    # Keep 20 of the zeros: a ring of 100 a class has 120 samples after task 1.
    few = np.flatnonzero(source.train_labels == 0)[20:]
    images = np.delete(source.train_images, few, axis=0)
    labels = np.delete(source.train_labels, few)
    cut = Source("mnist_5k", images, labels, source.test_images, source.test_labels, 0.1, 0.3)
    ring = MIR | {"selection": "ring", "n_replay": 200}
    check_fit([config(**ring, n_candidates=120)], cut)
    with pytest.raises(InputError, match=r"n_candidates: expected at most 120, .* got 121"):
        check_fit([config(**ring, n_candidates=121)], cut)


def test_the_smallest_task_in_use_sets_the_limit(source: Source) -> None:
    # Keep 20 of the sevens: only the fourth pair of digits is small.
    few = np.flatnonzero(source.train_labels == 7)[20:]
    images = np.delete(source.train_images, few, axis=0)
    labels = np.delete(source.train_labels, few)
    cut = Source("mnist_5k", images, labels, source.test_images, source.test_labels, 0.1, 0.3)
    check_fit([config(tasks="split_mnist", n_tasks=3, batch_size=800)], cut)
    with pytest.raises(InputError, match=r"expected at most 420, .* got 800"):
        check_fit([config(tasks="split_mnist", n_tasks=4, batch_size=800)], cut)
    with pytest.raises(InputError, match=r"expected at most 420, .* got 800"):
        # Which pairs a seed makes is not worked out: 20 sevens and 400 others may be one.
        check_fit([config(tasks="split_mnist", shuffle_tasks=True, batch_size=800)], cut)


# Data that has to be found


def test_the_data_folder_is_the_given_one_then_the_variable_then_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAYSWEEP_DATA", "/from/the/variable")
    assert data_folder(Path("given")) == Path("given")
    assert data_folder(None) == Path("/from/the/variable")
    monkeypatch.setenv("RAYSWEEP_DATA", "")
    assert data_folder(None) == Path("data")
    monkeypatch.delenv("RAYSWEEP_DATA")
    assert data_folder(None) == Path("data")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's data sets look for their files on a port that nobody answers."""
    from torchvision import datasets

    for data_set in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST):
        monkeypatch.setattr(data_set, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")],
)
def test_missing_files_are_one_line_that_names_them_their_folder_and_the_way_out(
    name: str, folder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as caught:
        load_source(name, tmp_path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"data.source {name}: expected {', '.join(FILES)} in ")
    assert f" in {tmp_path / folder / 'raw'} (set by --data or RAYSWEEP_DATA)" in message
    assert message.endswith("; data.source=mnist_5k needs no download")
    assert len(message) < 500 + len(str(tmp_path))
    assert capfd.readouterr() == ("", "")  # no download bar


@pytest.mark.usefixtures("no_network")
def test_a_damaged_file_is_one_line_too(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FILES:
        (raw / file).write_bytes(b"cut off while it was copied")
    with pytest.raises(InputError) as caught:
        load_source("mnist", tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(raw) in str(caught.value)


def test_pipes_in_place_of_its_files_are_refused_without_reading_them(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FILES:
        os.mkfifo(raw / file)
    with pytest.raises(InputError, match=r"expected a file at .*, got a directory, pipe or device"):
        load_source("mnist", tmp_path)


@pytest.fixture(scope="module")
def full_mnist(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return all of MNIST from the four .gz files in ``RAYSWEEP_DATA``/MNIST/raw."""
    given = os.environ.get("RAYSWEEP_DATA")
    if not given:
        pytest.skip("RAYSWEEP_DATA is not set: it names the folder that has MNIST/raw/*.gz")
    raw = Path(given).resolve() / "MNIST" / "raw"
    missing = [file for file in FILES if not (raw / file).is_file()]
    if missing:
        pytest.skip(f"{raw} has no {', '.join(missing)}")
    # Links: torchvision unpacks beside the files, and theirs may be a read-only folder.
    folder = tmp_path_factory.mktemp("mnist")
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for file in FILES:
        (folder / "MNIST" / "raw" / file).symlink_to(raw / file)
    return load_source("mnist", folder)


def test_full_mnist_has_its_published_sizes_and_range(full_mnist: Source) -> None:
    assert full_mnist.train_images.shape == (60_000, N_PIXELS)
    assert full_mnist.test_images.shape == (10_000, N_PIXELS)
    for part in (full_mnist.train_images, full_mnist.test_images):
        assert part.dtype == np.uint8
        assert (part.min(), part.max()) == (0, 255)
    assert full_mnist.train_labels.dtype == full_mnist.test_labels.dtype == np.uint8
    assert np.bincount(full_mnist.test_labels).tolist() == [
        *(980, 1135, 1032, 1010, 982),
        *(892, 958, 1028, 974, 1009),
    ]
    counts = np.bincount(full_mnist.train_images.ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = np.average(levels, weights=counts)
    assert full_mnist.mean == pytest.approx(mean, abs=1e-4)
    sd = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
    assert full_mnist.sd == pytest.approx(sd, abs=1e-4)


def test_full_split_mnist_has_its_published_sizes(full_mnist: Source) -> None:
    tasks = split_tasks(full_mnist, source="mnist")
    assert [len(task.train) for task in tasks] == [12665, 12089, 11263, 12183, 11800]
    assert [len(task.train) // 100 for task in tasks] == [126, 120, 112, 121, 118]
    check_fit(
        [config(tasks="split_mnist", n_tasks=5, source="mnist", batch_size=11263)], full_mnist
    )
    with pytest.raises(InputError, match="at most 11263"):
        check_fit(
            [config(tasks="split_mnist", n_tasks=5, source="mnist", batch_size=11264)], full_mnist
        )
