"""The peer: the two-task experiment as a plain torch script, one configuration at a time.

``Config`` serves as its record of settings; nothing else of raysweep is used.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset, TensorDataset

from raysweep.learning.config import Config


class Encoder(nn.Module):
    """Two hidden layers, then mean and log variance of z."""

    def __init__(self, n_bottleneck: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU())
        self.mu = nn.Linear(200, n_bottleneck)
        self.logvar = nn.Linear(200, n_bottleneck)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a sample of z, mu and logvar."""
        hidden = self.hidden(x)
        mu, logvar = self.mu(hidden), self.logvar(hidden)
        return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar), mu, logvar


def make_decoder(n_bottleneck: int) -> nn.Sequential:
    """Make the decoder from z to pixels in [0, 1]."""
    return nn.Sequential(
        nn.Linear(n_bottleneck, 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, 784),
        nn.Sigmoid(),
    )


class Classifier(nn.Module):
    """Encoder and class decoder: the comparison model, and most of VIB."""

    def __init__(self, n_bottleneck: int) -> None:
        super().__init__()
        self.encoder = Encoder(n_bottleneck)
        self.class_decoder = nn.Linear(n_bottleneck, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return class logits, z, mu and logvar."""
        z, mu, logvar = self.encoder(x)
        return self.class_decoder(z), z, mu, logvar


class Vae(nn.Module):
    """The comparison model's generator."""

    def __init__(self, n_bottleneck: int) -> None:
        super().__init__()
        self.encoder = Encoder(n_bottleneck)
        self.decoder = make_decoder(n_bottleneck)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction, mu and logvar."""
        z, mu, logvar = self.encoder(x)
        return self.decoder(z), mu, logvar


def kl_loss(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


@dataclass
class PeerTask:
    """The loaders of one task."""

    train: DataLoader[Any]
    test: DataLoader[Any]


class Peer:
    """One configuration from first step to last, as a plain script has it."""

    def __init__(self, config: Config, tasks: Sequence[PeerTask]) -> None:
        self.config = config
        self.tasks = tasks
        self.model = Classifier(config.n_bottleneck)
        self.rec_decoder = make_decoder(config.n_bottleneck) if config.model == "vib" else None
        self.vae = Vae(config.n_bottleneck) if config.model == "comparison" else None
        self.n_steps = 0
        self.history: list[dict[str, float]] = []

    def run(self) -> dict[str, float]:
        """Train task 1, fill the replay buffer, train task 2; return its columns of ``trials``."""
        parameters = list(self.model.parameters())
        if self.rec_decoder is not None:
            parameters += list(self.rec_decoder.parameters())
        optimizer = torch.optim.Adam(parameters, lr=self.config.lr)
        for _ in range(self.config.epochs):
            self.train_first(optimizer)
            self.history[-1]["test_accuracy"] = self.accuracy(0)
        first, _ = self.accuracy(0), self.accuracy(1)
        if self.vae is not None:
            self.train_vae(self.vae)
        else:
            optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config.lr)
        replay = self.make_buffer()
        for _ in range(self.config.epochs):
            self.train_second(optimizer, replay)
            self.history[-1]["test_accuracy"] = self.accuracy(1)
        rec_losses = [epoch["rec"] for epoch in self.history if "rec" in epoch]
        return {
            "first_task_accuracy_initial": first,
            "first_task_accuracy_final": self.accuracy(0),
            "last_task_accuracy": self.accuracy(1),
            "reconstruction_loss": rec_losses[-1],
        }

    def train_first(self, optimizer: torch.optim.Optimizer) -> None:
        """Train one epoch of task 1: class, reconstruction (VIB only) and KL."""
        self.model.train()
        sums: dict[str, float] = defaultdict(float)
        for images, labels in self.tasks[0].train:
            logits, z, mu, logvar = self.model(images)
            class_loss = functional.cross_entropy(logits, labels, reduction="sum")
            kl = kl_loss(mu, logvar)
            loss = class_loss + self.config.beta_2 * kl
            if self.rec_decoder is not None:
                reconstruction = self.rec_decoder(z)
                rec = functional.binary_cross_entropy(reconstruction, images, reduction="sum")
                loss = loss - self.config.beta_1 * rec
                sums["rec"] += rec.item()
            self.update(optimizer, loss)
            sums["loss"] += loss.item()
            sums["class"] += class_loss.item()
            sums["kl"] += kl.item()
            sums["correct"] += (logits.argmax(1) == labels).sum().item()
        self.log(sums)

    def train_vae(self, vae: Vae) -> None:
        """Train the generator on task 1 for as many epochs."""
        optimizer = torch.optim.Adam(vae.parameters(), lr=self.config.lr)
        vae.train()
        for _ in range(self.config.epochs):
            sums: dict[str, float] = defaultdict(float)
            for images, _ in self.tasks[0].train:
                reconstruction, mu, logvar = vae(images)
                rec = functional.binary_cross_entropy(reconstruction, images, reduction="sum")
                kl = kl_loss(mu, logvar)
                loss = rec + kl
                self.update(optimizer, loss)
                sums["loss"] += loss.item()
                sums["rec"] += rec.item()
                sums["kl"] += kl.item()
            self.log(sums)

    def train_second(
        self, optimizer: torch.optim.Optimizer, replay: DataLoader[tuple[Tensor, ...]]
    ) -> None:
        """Train one epoch of task 2, a replay batch beside each new one."""
        self.model.train()
        w, beta_2 = self.config.replay_weight, self.config.beta_2
        sums: dict[str, float] = defaultdict(float)
        replay_batches = iter(replay)
        for images, labels in self.tasks[1].train:
            try:
                old_images, old_labels = next(replay_batches)
            except StopIteration:
                replay_batches = iter(replay)
                old_images, old_labels = next(replay_batches)
            logits, _, mu, logvar = self.model(images)
            class_loss = functional.cross_entropy(logits, labels, reduction="sum")
            new = class_loss + beta_2 * kl_loss(mu, logvar)
            old_logits, _, mu, logvar = self.model(old_images)
            old_class_loss = functional.cross_entropy(old_logits, old_labels, reduction="sum")
            old = old_class_loss + beta_2 * kl_loss(mu, logvar)
            loss = (1 - w) * new + w * old
            self.update(optimizer, loss)
            sums["loss"] += loss.item()
            sums["class"] += class_loss.item()
            sums["replay_class"] += old_class_loss.item()
            sums["correct"] += (logits.argmax(1) == labels).sum().item()
        self.log(sums)

    def update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Go one step down the loss."""
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self.n_steps += 1

    def log(self, sums: Mapping[str, float]) -> None:
        """Note an epoch's means per sample."""
        n = len(self.tasks[0].train) * self.config.batch_size
        self.history.append({name: total / n for name, total in sums.items()})

    @torch.no_grad()
    def make_buffer(self) -> DataLoader[tuple[Tensor, ...]]:
        """Generate the replay samples with soft labels."""
        self.model.eval()
        z = torch.randn(self.config.n_replay, self.config.n_bottleneck)
        if self.vae is not None:
            images = self.vae.decoder(z)
            logits = self.model(images)[0]
        else:
            assert self.rec_decoder is not None
            images, logits = self.rec_decoder(z), self.model.class_decoder(z)
        dataset = TensorDataset(images, functional.softmax(logits, dim=1))
        return DataLoader(dataset, batch_size=self.config.batch_size, shuffle=True)

    @torch.no_grad()
    def accuracy(self, task: int) -> float:
        """Test with one sample of z."""
        self.model.eval()
        n_correct, n = 0, 0
        for images, labels in self.tasks[task].test:
            logits = self.model(images)[0]
            n_correct += int((logits.argmax(1) == labels).sum().item())
            n += len(labels)
        return n_correct / n


def open_tasks(
    folder: Path, n_train: int, n_test: int, batch_size: int, n_tasks: int
) -> list[PeerTask]:
    """Open permuted MNIST; each task has the first ``n_train`` and ``n_test`` samples."""
    from torchvision import datasets, transforms  # 5 s to import: only where it is used

    tasks = []
    for _ in range(n_tasks):
        order = torch.randperm(784)
        transform = transforms.Compose(
            [
                transforms.ToTensor(),
                # Bound as a default: the name changes with the loop.
                transforms.Lambda(lambda image, order=order: image.view(-1)[order]),
            ]
        )
        train = Subset(datasets.MNIST(folder, train=True, transform=transform), range(n_train))
        test = Subset(datasets.MNIST(folder, train=False, transform=transform), range(n_test))
        tasks.append(
            PeerTask(
                DataLoader(train, batch_size=batch_size, shuffle=True, drop_last=True),
                DataLoader(test, batch_size=batch_size),
            )
        )
    return tasks
