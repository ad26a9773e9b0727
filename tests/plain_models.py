"""Networks and tasks of the plain program (``plain_program``): torch.nn, one configuration."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.streams import generator

F64 = torch.float64
NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def seeded_linear(config: Config, name: str, n_in: int, n_out: int) -> nn.Linear:
    """Make a linear layer with the initial values that the product's stream gives."""
    layer = nn.Linear(n_in, n_out, dtype=F64)
    bound = 1 / math.sqrt(n_in)
    with torch.no_grad():
        for kind, shape in (("weight", (n_in, n_out)), ("bias", (n_out,))):
            stream = generator(config.seed, "initial", f"{name}.{kind}")
            draw = torch.rand(shape, generator=stream, dtype=F64) * 2 * bound - bound
            getattr(layer, kind).copy_(draw.T if kind == "weight" else draw)
    return layer


def seeded_layers(config: Config, prefix: str, widths: list[int]) -> nn.ModuleList:
    """Make a linear layer between each two of the widths."""
    return nn.ModuleList(
        seeded_linear(config, f"{prefix}.{i}", n_in, n_out)
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths))
    )


class Mlp(nn.Module):
    """Linear layers with a nonlinearity between them."""

    def __init__(self, config: Config, prefix: str, widths: list[int], nonlinearity: str) -> None:
        super().__init__()
        self.layers = seeded_layers(config, prefix, widths)
        self.activate = NONLINEARITIES[nonlinearity]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers; the last one's output stays linear."""
        for layer in self.layers[:-1]:
            x = self.activate(layer(x))
        return self.layers[-1](x)


class SeededDropout(nn.Module):
    """What torch.nn.Dropout does, with the uniform numbers (n, width) that ``uniform`` holds."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.uniform: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Leave out a share ``p`` of the units and scale the others up; in tests give x."""
        if not self.training or self.p == 0:
            return x
        assert self.uniform is not None and self.uniform.shape == x.shape
        return x.masked_fill(self.uniform < self.p, 0) / (1 - self.p)


class Encoder(nn.Module):
    """Hidden layers and, unless ``n_z`` is 0, two heads: the mean of z and s, of its spread."""

    def __init__(
        self,
        config: Config,
        prefix: str,
        widths: list[int],
        n_z: int,
        nonlinearity: str = "relu",
        variance: str = "exp",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.activate, self.variance, self.n_z = NONLINEARITIES[nonlinearity], variance, n_z
        self.layers = seeded_layers(config, prefix, widths)
        self.dropouts = nn.ModuleList(SeededDropout(dropout) for _ in self.layers)
        if n_z:
            self.mu = seeded_linear(config, f"{prefix}.mu", widths[-1], n_z)
            self.logvar = seeded_linear(config, f"{prefix}.logvar", widths[-1], n_z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of z; of an MLP its hidden layer and None."""
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            x = dropout(self.activate(layer(x)))
        if not self.n_z:
            return x, None
        s = self.logvar(x)
        return self.mu(x), functional.softplus(s - 5) if self.variance == "softplus" else (
            torch.exp(s / 2)
        )

    def draw_dropout(self, n: int, stream: torch.Generator) -> None:
        """Draw what a training step on ``n`` samples leaves out: a row a sample, layer by layer."""
        widths = [layer.out_features for layer in self.layers]
        drawn = torch.rand(n, sum(widths), generator=stream, dtype=F64)
        for dropout, part in zip(
            self.dropouts, drawn.split(widths, 1) if widths else (), strict=True
        ):
            dropout.uniform = part


def draw(mu: Tensor, sd: Tensor | None, noise: Tensor | None) -> Tensor:
    """Draw z; without noise, or without a spread, it is the mean."""
    return mu if sd is None or noise is None else mu + sd * noise


class Classifier(nn.Module):
    """Encoder, class decoder and, of a VIB, the reconstruction decoder."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        act, hidden = config.nonlinearity, [784, *config.encoder_widths]
        n_z = 0 if config.model == "mlp" else config.n_bottleneck
        z = n_z or hidden[-1]
        self.encoder = Encoder(config, "encoder", hidden, n_z, act, config.variance, config.dropout)
        widths = [z, *config.class_decoder_widths, config.n_classes]
        self.class_decoder = Mlp(config, "class_decoder", widths, act)
        if config.model == "vib":
            widths = [z, *config.rec_decoder_widths, 784]
            self.rec_decoder = Mlp(config, "rec_decoder", widths, act)
        self.eval()  # but in a step's losses

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the class logits, from the mean of z where there is no noise."""
        return self.class_decoder(draw(*self.encoder(x), noise))


class Vae(nn.Module):
    """The VAE that stands beside a classifier."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        z, widths = config.n_bottleneck, list(config.rec_decoder_widths)
        self.vae_encoder = Encoder(config, "vae_encoder", [784, *reversed(widths)], z)
        self.vae_decoder = Mlp(config, "vae_decoder", [z, *widths, 784], "relu")


def summed_kl(mu: Tensor, sd: Tensor) -> Tensor:
    """Compute KL(q || N(0, 1)) summed over dimensions and batch."""
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return torch.distributions.kl_divergence(torch.distributions.Normal(mu, sd), prior).sum()


def summed_bce(logits: Tensor, images: Tensor) -> Tensor:
    """Compute the binary cross-entropy of pixels, summed over pixels and batch."""
    return functional.binary_cross_entropy(torch.sigmoid(logits), images, reduction="sum")


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Turn labels into probabilities."""
    return functional.one_hot(labels, n_classes).to(F64)


@dataclass
class Data:
    """One task's samples: images in [0, 1] and labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def make_data(config: Config, source: Source, task: int) -> Data:
    """Make one task (from 1): permuted pixels, or a pair of digits."""
    arrays = (source.train_images, source.train_labels, source.test_images, source.test_labels)
    train_x, train_y, test_x, test_y = map(torch.from_numpy, arrays)
    train_x, test_x = train_x.to(F64) / 255, test_x.to(F64) / 255
    train_y, test_y = train_y.long(), test_y.long()
    if config.tasks == "split_mnist":
        rank = torch.arange(10)
        if config.shuffle_tasks:
            rank = torch.randperm(10, generator=generator(config.seed, "class_order"))
        train_y, test_y = rank[train_y], rank[test_y]
        pair = torch.tensor([2 * task - 2, 2 * task - 1])
        train, test = torch.isin(train_y, pair), torch.isin(test_y, pair)
        data = Data(train_x[train], train_y[train] % 2, test_x[test], test_y[test] % 2)
    else:
        order = torch.randperm(784, generator=generator(config.seed, "permutation", task))
        if task == 1 and config.first_task_identity:
            order = torch.arange(784)
        data = Data(train_x[:, order], train_y, test_x[:, order], test_y)
    if config.task_samples:
        stream = generator(config.seed, "task_samples", task)
        chosen = torch.randperm(len(data.train_y), generator=stream)[: config.task_samples]
        data.train_x, data.train_y = data.train_x[chosen], data.train_y[chosen]
    return data
