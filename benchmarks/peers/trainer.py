"""The trainer of every peer: two tasks of permuted MNIST with replay, as a plain torch loop.

It does for one configuration what raysweep does for it, as a careful user would write it: images
in memory as floats, new and replayed samples in one batch, a fused optimiser, nothing read back
inside an epoch. It knows nothing of raysweep.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EPOCHS, BATCH, N_REPLAY, WIDTH = 5, 100, 1000, 200
N_TASKS = 2
Data = dict[str, Tensor]


@cache
def load(file: str | Path = "mnist_5k.npz") -> Data:
    """Load images in [0, 1] and labels, once in a process."""
    with np.load(file) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return {name: t / 255 if name.startswith("x") else t.long() for name, t in tensors.items()}


def train(data: Data, lr: float, replay_weight: float, seed: int = 0) -> dict[str, float]:
    """Train one configuration; raise FloatingPointError once its loss is not finite."""
    torch.manual_seed(seed)
    n_pixels = data["x_train"].shape[1]
    orders = [torch.randperm(n_pixels) for _ in range(N_TASKS)]
    model = nn.Sequential(
        nn.Linear(n_pixels, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
        nn.Linear(WIDTH, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    tests = [data["x_test"][:, order] for order in orders]
    accuracies: list[list[float]] = []
    buffer: tuple[Tensor, Tensor] | None = None
    for task in range(N_TASKS):
        images, labels = data["x_train"][:, orders[task]], data["y_train"]
        replayed: list[Tensor] = []
        for epoch in range(EPOCHS):
            total = torch.zeros(())
            for index in torch.randperm(len(labels)).split(BATCH):
                x, y = images.index_select(0, index), labels.index_select(0, index)
                if buffer is None:
                    loss = functional.cross_entropy(model(x), y)
                else:
                    if not replayed:
                        replayed = list(torch.randperm(N_REPLAY).split(BATCH))
                    old = replayed.pop()
                    logits = model(torch.cat([x, buffer[0].index_select(0, old)]))
                    new_loss = functional.cross_entropy(logits[:BATCH], y)
                    old_labels = buffer[1].index_select(0, old)
                    old_loss = functional.cross_entropy(logits[BATCH:], old_labels)
                    loss = (1 - replay_weight) * new_loss + replay_weight * old_loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
            accuracy(model, tests[task], data["y_test"])
            log_epoch(lr, replay_weight, task, epoch)
            if not torch.isfinite(total):
                raise FloatingPointError(f"the loss of lr={lr} is not finite")
        accuracies.append([accuracy(model, x, data["y_test"]) for x in tests[: task + 1]])
        kept = torch.randperm(len(labels))[:N_REPLAY]
        buffer = images.index_select(0, kept), labels.index_select(0, kept)
    return {
        "average_accuracy": sum(accuracies[-1]) / N_TASKS,
        "forgetting": accuracies[0][0] - accuracies[-1][0],
    }


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of test images that are classified rightly."""
    return float((model(images).argmax(1) == labels).float().mean())


def log_epoch(*what: float) -> None:
    """Add a line to the file that PEERS_LOG names: the benchmark counts what was trained."""
    if file := os.environ.get("PEERS_LOG"):
        with Path(file).open("a") as log:
            log.write(" ".join(map(str, what)) + "\n")
