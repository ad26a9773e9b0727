"""``PackRun`` against a slow, plain program of the two-task experiment, written with torch.nn.

The program below follows REFERENCE.md section 3 one sample batch after the other, for one
configuration, in float64. It shares nothing with the product but its random streams.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from small_configs import configure
from torch import Tensor, nn
from torch.nn import functional

from raysweep.data.sources import Source
from raysweep.models import classifier_layout, vae_layout
from raysweep.pack import PackRun
from raysweep.settings import Config
from raysweep.stacked import Layout
from raysweep.streams import generator

F64 = torch.float64
NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


class Mlp(nn.Module):
    """Linear layers with a nonlinearity between them."""

    def __init__(self, config: Config, prefix: str, widths: list[int], nonlinearity: str) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.layers = nn.ModuleList(
            seeded_linear(config, f"{prefix}.{i}", n_in, n_out)
            for i, (n_in, n_out) in enumerate(pairs)
        )
        self.activate = NONLINEARITIES[nonlinearity]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers; the last one's output stays linear."""
        for layer in self.layers[:-1]:
            x = self.activate(layer(x))
        return self.layers[-1](x)


class Encoder(nn.Module):
    """Hidden layers and two heads, mu and logvar."""

    def __init__(self, config: Config, prefix: str, widths: list[int], nonlinearity: str) -> None:
        super().__init__()
        self.activate = NONLINEARITIES[nonlinearity]
        self.layers = nn.ModuleList(
            seeded_linear(config, f"{prefix}.{i}", n_in, n_out)
            for i, (n_in, n_out) in enumerate(itertools.pairwise(widths))
        )
        self.mu = seeded_linear(config, f"{prefix}.mu", widths[-1], config.n_bottleneck)
        self.logvar = seeded_linear(config, f"{prefix}.logvar", widths[-1], config.n_bottleneck)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give mu and logvar."""
        for layer in self.layers:
            x = self.activate(layer(x))
        return self.mu(x), self.logvar(x)


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


@dataclass
class Data:
    """One task's samples: images in [0, 1] and labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass
class Trace:
    """What the program records: rows of losses, accuracies, parameters, loss of each step."""

    epochs: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    matrix: dict[tuple[int, int], float] = field(default_factory=dict)
    parameters: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict)
    step_losses: dict[str, list[float]] = field(default_factory=dict)
    reconstruction_loss: float | None = None
    label_entropy: float | None = None


def make_data(config: Config, source: Source, task: int) -> Data:
    """Make one task (from 1): permuted pixels, or a pair of digits."""
    arrays = (source.train_images, source.train_labels, source.test_images, source.test_labels)
    train_x, train_y, test_x, test_y = map(torch.from_numpy, arrays)
    train_x, test_x = train_x.to(F64) / 255, test_x.to(F64) / 255
    train_y, test_y = train_y.long(), test_y.long()
    if config.tasks == "split_mnist":
        digits = torch.tensor([2 * task - 2, 2 * task - 1])
        train, test = torch.isin(train_y, digits), torch.isin(test_y, digits)
        return Data(train_x[train], train_y[train] % 2, test_x[test], test_y[test] % 2)
    order = torch.randperm(784, generator=generator(config.seed, "permutation", task))
    if task == 1 and config.first_task_identity:
        order = torch.arange(784)
    return Data(train_x[:, order], train_y, test_x[:, order], test_y)


class Experiment:
    """One configuration's two tasks, from the first step to the last."""

    def __init__(self, config: Config, source: Source) -> None:
        self.config = config
        self.mean, self.sd = source.mean, source.sd
        self.tasks = [make_data(config, source, task) for task in (1, 2)]
        self.trace = Trace()
        z, act = config.n_bottleneck, config.nonlinearity
        rec = list(config.rec_decoder_widths)
        self.encoder = Encoder(config, "encoder", [784, *config.encoder_widths], act)
        widths = [z, *config.class_decoder_widths, config.n_classes]
        self.class_decoder = Mlp(config, "class_decoder", widths, act)
        if config.model == "vib":
            self.rec_decoder = Mlp(config, "rec_decoder", [z, *rec, 784], act)
        else:
            self.vae_encoder = Encoder(config, "vae_encoder", [784, *reversed(rec)], "relu")
            self.vae_decoder = Mlp(config, "vae_decoder", [z, *rec, 784], "relu")

    def run(self) -> Trace:
        """Train task 1, make the buffer, train task 2."""
        config = self.config
        modules: list[nn.Module] = [self.encoder, self.class_decoder]
        if config.model == "vib":
            modules.append(self.rec_decoder)
        optimizer = self.optimizer(modules)
        self.train("train_task_1", 1, optimizer, self.first_task_loss)
        buffer = None
        if config.replay == "generative" and config.model == "comparison":
            vae_optimizer = self.optimizer([self.vae_encoder, self.vae_decoder])
            self.train("train_generator_1", 1, vae_optimizer, self.vae_loss)
        if config.replay != "none":
            buffer = self.make_buffer()
            self.trace.label_entropy = float(torch.special.entr(buffer[1]).sum(1).mean())
        if config.freeze_encoder:
            optimizer = self.optimizer([self.class_decoder])
        elif config.optimizer_state == "reset":
            optimizer = self.optimizer([self.encoder, self.class_decoder])
        self.train("train_task_2", 2, optimizer, self.second_task_loss, buffer)
        return self.trace

    def optimizer(self, modules: list[nn.Module]) -> torch.optim.Optimizer:
        parameters = [p for module in modules for p in module.parameters()]
        config = self.config
        return OPTIMISERS[config.optimizer](
            parameters, lr=config.lr, weight_decay=config.weight_decay
        )

    # Losses: sums over the batch, as in the scripts.

    def see(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.sd if self.config.normalize else images

    def classify(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give z, the class logits and the summed KL."""
        mu, logvar = self.encoder(self.see(images))
        z = mu + torch.exp(logvar / 2) * noise
        return z, self.class_decoder(z), summed_kl(mu, logvar)

    def first_task_loss(
        self, x: Tensor, y: Tensor, noise: Tensor, parts: dict[str, Tensor]
    ) -> Tensor:
        config = self.config
        z, logits, kl = self.classify(x, noise)
        parts["class"] = functional.cross_entropy(logits, y, reduction="sum")
        parts["kl"] = kl
        parts["n_correct"] = (logits.argmax(1) == y).sum()
        if config.model == "comparison":
            return parts["class"] + config.beta_2 * kl
        if config.beta_1 > 0:
            return parts["class"] + (config.beta_1 + config.beta_2) * kl
        image = torch.sigmoid(self.rec_decoder(z))
        rec = functional.binary_cross_entropy(image, x, reduction="sum")
        if config.beta_1 != 0:
            parts["rec"] = rec
        return parts["class"] - config.beta_1 * rec + config.beta_2 * kl

    def second_task_loss(
        self, x: Tensor, y: Tensor, noise: Tensor, parts: dict[str, Tensor]
    ) -> Tensor:
        _, logits, kl = self.classify(x, noise)
        parts["class"] = functional.cross_entropy(logits, y, reduction="sum")
        parts["kl"] = kl
        parts["n_correct"] = (logits.argmax(1) == y).sum()
        return parts["class"] + self.config.beta_2 * kl

    def replay_loss(
        self, x: Tensor, targets: Tensor, noise: Tensor, parts: dict[str, Tensor]
    ) -> Tensor:
        _, logits, kl = self.classify(x, noise)
        log_p = functional.log_softmax(logits, 1)
        parts["replay_class"] = -(targets * log_p).sum()
        parts["replay_kl"] = kl
        return parts["replay_class"] + self.config.beta_2 * kl

    def vae_loss(self, x: Tensor, y: Tensor, noise: Tensor, parts: dict[str, Tensor]) -> Tensor:
        del y
        mu, logvar = self.vae_encoder(x)
        image = torch.sigmoid(self.vae_decoder(mu + torch.exp(logvar / 2) * noise))
        parts["rec"] = functional.binary_cross_entropy(image, x, reduction="sum")
        parts["kl"] = summed_kl(mu, logvar)
        return parts["rec"] + parts["kl"]

    # Training.

    def train(
        self,
        stage: str,
        task: int,
        optimizer: torch.optim.Optimizer,
        loss: Callable[..., Tensor],
        buffer: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.trace.step_losses[stage] = []
        for epoch in range(1, self.config.epochs + 1):
            self.train_epoch(stage, task, epoch, optimizer, loss, buffer)
            row = self.trace.epochs[stage, epoch]
            if stage != "train_generator_1":
                row["test_accuracy"] = self.accuracy(stage, epoch, task)
            if "rec_loss" in row:
                self.trace.reconstruction_loss = row["rec_loss"]
            self.trace.parameters[stage, epoch] = self.named_parameters(stage)
        if stage != "train_generator_1":
            for on in (1, 2):
                accuracy = self.accuracy(stage, self.config.epochs, on)
                self.trace.matrix[task, on] = accuracy

    def train_epoch(
        self,
        stage: str,
        task: int,
        epoch: int,
        optimizer: torch.optim.Optimizer,
        loss: Callable[..., Tensor],
        buffer: tuple[Tensor, Tensor] | None,
    ) -> None:
        config, data = self.config, self.tasks[task - 1]
        streams = {
            name: generator(config.seed, name, stage, epoch)
            for name in ("batch_order", "noise", "replay_order", "replay_noise")
        }
        sums: dict[str, float] = {}
        n_steps, n_new, n_replay = 0, 0, 0
        replay = replay_batches(buffer, config.batch_size, streams["replay_order"])
        w = config.replay_weight
        for chosen in self.batches(len(data.train_y), streams["batch_order"]):
            parts: dict[str, Tensor] = {}
            x, y, n = data.train_x[chosen], data.train_y[chosen], len(chosen)
            total = loss(x, y, self.noise(n, streams["noise"]), parts)
            mean = total / n
            if buffer is not None:
                replay_x, replay_y = next(replay)
                m = len(replay_x)
                noise = self.noise(m, streams["replay_noise"])
                replay_total = self.replay_loss(replay_x, replay_y, noise, parts)
                mean = (1 - w) * mean + w * replay_total / m
                total = (1 - w) * total + w * replay_total
                n_replay += m
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            self.trace.step_losses[stage].append(float(mean.detach()))
            n_steps, n_new = n_steps + 1, n_new + n
            sums["loss"] = sums.get("loss", 0.0) + float(mean.detach()) * n
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        row = {"n_steps": n_steps, "n_samples": n_new, "loss": sums.pop("loss") / n_new}
        if "n_correct" in sums:
            row["train_accuracy"] = sums.pop("n_correct") / n_new
        for name, value in sums.items():
            row[f"{name}_loss"] = value / (n_replay if name.startswith("replay") else n_new)
        self.trace.epochs[stage, epoch] = row

    def batches(self, n: int, stream: torch.Generator) -> Iterator[Tensor]:
        size = self.config.batch_size
        for chosen in torch.randperm(n, generator=stream).split(size):
            if len(chosen) == size or not self.config.drop_last:
                yield chosen

    def noise(self, n: int, stream: torch.Generator) -> Tensor:
        return torch.randn(n, self.config.n_bottleneck, generator=stream, dtype=F64)

    # Buffer and evaluation.

    @torch.no_grad()
    def make_buffer(self) -> tuple[Tensor, Tensor]:
        config, first = self.config, self.tasks[0]
        if config.replay == "simple":
            stream = generator(config.seed, "replay_choice", 1)
            chosen = torch.randperm(len(first.train_y), generator=stream)[: config.n_replay]
            return first.train_x[chosen], one_hot(first.train_y[chosen], config.n_classes)
        z = self.noise(config.n_replay, generator(config.seed, "replay_z", 1))
        if config.model == "vib":
            images, logits = torch.sigmoid(self.rec_decoder(z)), self.class_decoder(z)
        else:
            images = torch.sigmoid(self.vae_decoder(z))
            noise = self.noise(config.n_replay, generator(config.seed, "replay_labels", 1))
            _, logits, _ = self.classify(images, noise)
        if config.replay_labels == "hard":
            return images, one_hot(logits.argmax(1), config.n_classes)
        return images, torch.softmax(logits, 1)

    @torch.no_grad()
    def accuracy(self, stage: str, epoch: int, task: int) -> float:
        """Test with mean z (``eval_samples`` 0) or the mean softmax of so many samples of z."""
        config, data = self.config, self.tasks[task - 1]
        mu, logvar = self.encoder(self.see(data.test_x))
        if config.eval_samples == 0:
            scores = self.class_decoder(mu)
        else:
            stream = generator(config.seed, "evaluation", stage, epoch, task)
            scores = torch.stack(
                [
                    self.class_decoder(
                        mu + torch.exp(logvar / 2) * self.noise(len(mu), stream)
                    ).softmax(1)
                    for _ in range(config.eval_samples)
                ]
            ).mean(0)
        return float((scores.argmax(1) == data.test_y).double().mean())

    def named_parameters(self, stage: str) -> dict[str, Tensor]:
        """Give a stage's parameters by the product's names, weights as (in, out)."""
        names = ["encoder", "class_decoder"]
        if stage == "train_generator_1":
            names = ["vae_encoder", "vae_decoder"]
        elif stage == "train_task_1" and self.config.model == "vib":
            names.append("rec_decoder")
        named = {}
        for name in names:
            for key, value in getattr(self, name).named_parameters():
                own = f"{name}.{key}".replace(".layers.", ".")
                named[own] = (
                    value.detach().T.clone() if value.dim() == 2 else value.detach().clone()
                )
        return named


def summed_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Compute KL(q || N(0, 1)) summed over dimensions and batch."""
    own = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return torch.distributions.kl_divergence(own, prior).sum()


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    return functional.one_hot(labels, n_classes).to(F64)


def replay_batches(
    buffer: tuple[Tensor, Tensor] | None, size: int, stream: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled passes over the buffer, one after the other, the last batch as it is."""
    while buffer is not None:
        for chosen in torch.randperm(len(buffer[0]), generator=stream).split(size):
            yield buffer[0][chosen], buffer[1][chosen]


# --- the product, seen through its public rows ---------------------------------------------------


def run_product(config: Config, source: Source) -> Trace:
    """Run ``PackRun`` on one configuration; record what ``Experiment`` records."""
    run, trace = PackRun([config], source, dtype=F64), Trace()
    while not run.is_done:
        report = run.advance()
        for row in report.epochs:
            dropped = ("config_id", "stage", "epoch", "task", "duration_s")
            values = {k: v for k, v in row.items() if k not in dropped and v is not None}
            trace.epochs[row["stage"], row["epoch"]] = values
            group = run.state()["group"]
            if group:  # between the epochs of a stage; afterwards the stage's model is handed on
                views = stage_layout(config, row["stage"]).views(group["flat"])
                trace.parameters[row["stage"], row["epoch"]] = {
                    name: view[0].clone() for name, view in views.items()
                }
        for row in report.accuracy:
            trace.matrix[row["after_task"], row["on_task"]] = row["accuracy"]
        for row in report.trials:
            assert row["status"] == "finished"
            trace.reconstruction_loss = row["reconstruction_loss"]
            trace.label_entropy = row["replay_label_entropy"]
    return trace


def stage_layout(config: Config, stage: str) -> Layout:
    """Give the layout of a training stage's parameters."""
    if stage == "train_generator_1":
        return vae_layout(config)
    return classifier_layout(config, with_reconstruction=stage == "train_task_1" and is_vib(config))


def is_vib(config: Config) -> bool:
    return config.model == "vib"


VIB = {"model": "vib", "beta_1": -0.02, "beta_2": 0.01}
COMPARISON = {"model": "comparison", "beta_2": 0.01}
CASES: dict[str, dict[str, Any]] = {
    "vib": VIB,
    "vib without reconstruction weight": VIB | {"beta_1": 0.0},
    "vib with beta_1 > 0": VIB | {"beta_1": 0.02},
    "vib with simple replay": VIB | {"replay": "simple"},
    "vib without replay": VIB | {"replay": "none"},
    "vib frozen": VIB | {"freeze_encoder": True},
    "vib with weight decay": VIB | {"weight_decay": 0.3},
    "vib with hard labels": VIB | {"replay_labels": "hard"},
    "vib that keeps its optimiser": VIB | {"optimizer_state": "keep"},
    "vib with adagrad": VIB | {"optimizer": "adagrad", "lr": 0.02, "weight_decay": 0.3},
    "vib with adagrad kept": VIB | {"optimizer": "adagrad", "optimizer_state": "keep"},
    "vib with sgd": VIB | {"optimizer": "sgd", "lr": 3e-4, "weight_decay": 0.3},
    "vib with a rest of a batch": VIB | {"batch_size": 64, "drop_last": False, "n_replay": 90},
    "vib that drops the rest": VIB | {"batch_size": 64, "n_replay": 30},
    "vib with sampled evaluation": VIB | {"eval_samples": 1},
    "vib normalised": VIB | {"normalize": True, "nonlinearity": "tanh", "eval_samples": 3},
    "vib on split digits": VIB | {"tasks": "split_mnist", "batch_size": 16, "drop_last": False},
    "vib with deep decoder": VIB | {"class_decoder_widths": (9,), "nonlinearity": "leaky_relu"},
    "comparison": COMPARISON,
    "comparison ignores beta_1": COMPARISON | {"beta_1": 0.5},
    "comparison with simple replay": COMPARISON | {"replay": "simple"},
    "comparison without replay": COMPARISON | {"replay": "none"},
    "comparison frozen": COMPARISON | {"freeze_encoder": True},
    "comparison with weight decay": COMPARISON | {"weight_decay": 0.3},
    "comparison with hard labels": COMPARISON | {"replay_labels": "hard"},
    "comparison that resets": COMPARISON | {"optimizer_state": "reset"},
    "comparison with sampled evaluation": COMPARISON | {"eval_samples": 2, "nonlinearity": "elu"},
    "comparison normalised": COMPARISON | {"normalize": True, "nonlinearity": "sigmoid"},
    "comparison from unpermuted": COMPARISON | {"first_task_identity": True, "replay_weight": 1},
}


@pytest.fixture(scope="module")
def product(small: Source) -> Callable[[str], Trace]:
    """Give a function that runs the product on a case, once."""
    return cache(lambda name: run_product(configure(**CASES[name]), small))


@pytest.mark.parametrize("case", CASES)
def test_run_equals_the_plain_program(
    case: str, product: Callable[[str], Trace], small: Source
) -> None:
    expected, actual = Experiment(configure(**CASES[case]), small).run(), product(case)
    assert list(actual.epochs) == list(expected.epochs)
    for key, row in expected.epochs.items():
        assert actual.epochs[key] == pytest.approx(row, rel=1e-9, abs=1e-12), key
    assert actual.matrix == expected.matrix
    for name in ("reconstruction_loss", "label_entropy"):
        value = getattr(expected, name)
        wanted = value if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)
        assert getattr(actual, name) == wanted, name
    assert actual.parameters
    for key, parameters in actual.parameters.items():
        assert parameters.keys() == expected.parameters[key].keys()
        for name, value in parameters.items():
            torch.testing.assert_close(
                value, expected.parameters[key][name], rtol=1e-8, atol=1e-10, msg=f"{key} {name}"
            )


def test_settings_of_the_cases_change_the_result(product: Callable[[str], Trace]) -> None:
    # Without this the comparison above could pass with a setting that neither program reads.
    losses = {name: product(name).epochs["train_task_2", 2]["loss"] for name in CASES}
    assert losses.pop("comparison ignores beta_1") == losses["comparison"]
    assert losses.pop("vib with sampled evaluation") == losses["vib"]
    assert len(set(losses.values())) == len(losses)


def lone_peak(steps: dict[str, list[float]], stage: str) -> tuple[int, float] | None:
    """Give the step of a stage's largest loss and a threshold that no earlier loss passes.

    None where the peak is in the first epoch, or at an epoch's first step, or not the first.
    """
    losses = steps[stage]
    second, largest = sorted(losses)[-2:]
    threshold, step = (second + largest) / 2, losses.index(largest) + 1
    earlier = [x for name in list(steps)[: list(steps).index(stage)] for x in steps[name]]
    n_per_epoch = len(losses) // 2
    if step <= n_per_epoch + 1 or max(earlier, default=0.0) > threshold:
        return None
    return step, threshold


@pytest.mark.parametrize("stage", ["train_task_1", "train_generator_1", "train_task_2"])
def test_divergence_is_reported_at_the_step_whose_loss_passes_the_threshold(
    stage: str, small: Source
) -> None:
    # At a tiny learning rate the loss goes up and down with the batches. A threshold between a
    # stage's two largest losses is passed at one step, which the plain program knows.
    replay = "generative" if stage == "train_generator_1" else "simple"
    settings = COMPARISON | {"batch_size": 50, "lr": 1e-9, "replay": replay}
    for seed in range(30):
        steps = Experiment(configure(**settings, seed=seed), small).run().step_losses
        if peak := lone_peak(steps, stage):
            break
    assert peak is not None, "no seed has its largest loss inside the second epoch"
    step, threshold = peak
    limited = configure(**settings, seed=seed, loss_above=threshold)
    run, trials, epochs = PackRun([limited], small, dtype=F64), [], []
    while not run.is_done:
        report = run.advance()
        trials += report.trials
        epochs += report.epochs
    (trial,) = trials
    assert trial["status"] == "diverged"
    assert trial["diverged_stage"] == stage
    assert (trial["diverged_epoch"], trial["diverged_step"]) == (2, step)
    assert trial["last_finite_loss"] == pytest.approx(max(steps[stage]), rel=1e-9)
    assert (epochs[-1]["stage"], epochs[-1]["epoch"]) == (stage, 2)
    assert epochs[-1].get("loss") is None
