"""A slow, plain program of every experiment, for one configuration: what ``PackRun`` must compute.

It follows REFERENCE.md and the settings' descriptions one batch after the other, in float64, with
torch.nn, torch.optim and autograd. It shares with the product its random streams and, but for
random ones, which real samples are kept.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean

import torch
from plain_models import (
    Classifier,
    Data,
    Vae,
    draw,
    make_data,
    one_hot,
    summed_bce,
    summed_kl,
)
from plain_replay import (
    Buffer,
    after_virtual_step,
    climbed_samples,
    generated_samples,
    group_sizes,
    joined,
    most_interfered,
    noise,
    real_samples,
)
from plain_results import Trace, metrics, named_parameters
from torch import Tensor, nn
from torch.nn import functional

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.streams import generator

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
Loss = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor], str], Tensor]


@dataclass
class Phase:
    """One stage of training; ``tested`` are the tasks whose mean accuracy an epoch has."""

    stage: str
    data: Data
    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    loss: Loss
    n_epochs: int
    tested: list[int] = field(default_factory=list)
    is_mean: bool = False
    buffer: Buffer | None = None
    replay_weight: float = 0.0
    kl_weight: float = 0.0
    frozen: tuple[str, ...] = ()


class Experiment:
    """One configuration, from the first step to the last."""

    def __init__(self, config: Config, source: Source) -> None:
        self.config = config
        self.mean, self.sd = source.mean, source.sd
        self.task_numbers = list(range(1, config.n_tasks + 1))
        self.tasks = [make_data(config, source, task) for task in self.task_numbers]
        self.trace = Trace()
        self.model = Classifier(config)
        self.average: Classifier | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.dropout_streams: dict[str, torch.Generator] = {}
        self.buffer: Buffer | None = None
        self.models: list[Classifier] = []  # as each task left it
        self.vaes: list[Vae] = []
        self.vae_optimizer: torch.optim.Optimizer | None = None

    def run(self) -> Trace:
        """Learn the tasks, one after the other with replay, or at once."""
        config = self.config
        for task in self.task_numbers:
            self.trace.matrix[0, task] = self.accuracy(("initial", task), task)
        if config.experiment == "joint":
            parts = [(task.train_x, task.train_y) for task in self.tasks]
            x, y = (torch.cat(part) for part in zip(*parts, strict=True))
            data = Data(x, y, self.tasks[0].test_x, self.tasks[0].test_y)
            self.learn("train_joint", config.n_tasks, data, self.task_numbers, is_first=True)
        for task in self.task_numbers if config.experiment != "joint" else []:
            self.learn(f"train_task_{task}", task, self.tasks[task - 1], [task], task == 1)
            if config.replay == "none" or task == config.n_tasks:
                continue
            if config.replay == "generative" and config.model != "vib":
                self.train_vae(task)
            self.fill(task)
        n_train = sum(len(data.train_y) for data in self.tasks)
        n_test = sum(len(data.test_y) for data in self.tasks)
        self.trace.trial |= {"n_train_samples": n_train, "n_test_samples": n_test}
        self.trace.trial |= metrics(self.trace, config)
        return self.trace

    # What is learnt when.

    def learn(self, stage: str, task: int, data: Data, tested: list[int], is_first: bool) -> None:
        """Train the classifier on a task, or on all."""
        config = self.config
        # A VIB's decoder learns with the first task and, where it is the continual generator, on.
        goes_on = config.replay == "generative" and config.generator == "continual"
        has_images = config.model == "vib" and (is_first or goes_on)
        w_rec, w_kl = 0.0, config.beta_2
        if has_images:
            w_rec, w_kl = max(-config.beta_1, 0), config.beta_2 + max(config.beta_1, 0)
        modules: dict[str, nn.Module] = {
            "encoder": self.model.encoder,
            "class_decoder": self.model.class_decoder,
        }
        if has_images:
            modules["rec_decoder"] = self.model.rec_decoder
        is_frozen = config.freeze_encoder and not is_first
        if self.optimizer is None or is_frozen or config.optimizer_state == "reset":
            trained = [m for name, m in modules.items() if not (is_frozen and name == "encoder")]
            self.optimizer = self.make_optimizer(config.optimizer, trained, config.lr)
        if config.ema_decay:
            self.average = copy.deepcopy(self.model)
        phase = Phase(
            stage,
            data,
            modules,
            self.optimizer,
            self.classifier_loss(has_images, w_rec, w_kl),
            config.epochs,
            tested,
            is_mean=config.reduction == "mean",
            buffer=self.buffer,
            replay_weight=self.replay_weight(task),
            kl_weight=w_kl,
            frozen=("encoder",) if is_frozen else (),
        )
        self.train(phase)
        for on in self.task_numbers:
            self.trace.matrix[task, on] = self.accuracy((stage, config.epochs, on), on)
        self.average = None
        self.models.append(copy.deepcopy(self.model))

    def train_vae(self, task: int) -> None:
        """Train a VAE of the task's own, or the one VAE with its own replay."""
        config, buffer = self.config, None
        if config.generator == "continual" and task > 1:
            vae, optimizer, buffer = self.vaes[-1], self.vae_optimizer, self.buffer
            assert optimizer is not None
        else:
            vae = Vae(config)
            lr = config.generator_lr or config.lr
            optimizer = self.make_optimizer(config.generator_optimizer, [vae], lr)
        phase = Phase(
            f"train_generator_{task}",
            self.tasks[task - 1],
            {"vae_encoder": vae.vae_encoder, "vae_decoder": vae.vae_decoder},
            optimizer,
            self.vae_loss(vae),
            config.generator_epochs or config.epochs,
            buffer=buffer,
            replay_weight=config.generator_replay_weight,
        )
        self.train(phase)
        self.vaes.append(vae)
        self.vae_optimizer = optimizer

    def fill(self, task: int) -> None:
        """Make the buffer anew or add to it."""
        config = self.config
        if config.replay == "simple":
            new = real_samples(config, self.tasks[task - 1], task, self.model, self.see)
        else:
            new = generated_samples(config, task, self.model, self.models, self.vaes, self.see)
        is_kept = config.replay == "simple" or config.labeler == "at_generation"
        earlier = self.buffer if is_kept else None
        self.buffer = joined(earlier, new, group_sizes(config, task))
        entropy = torch.special.entr(self.buffer.labels).sum(1).mean()
        self.trace.trial["replay_label_entropy"] = float(entropy)

    def make_optimizer(
        self, kind: str, modules: list[nn.Module], lr: float
    ) -> torch.optim.Optimizer:
        parameters = [p for module in modules for p in module.parameters()]
        own = {"momentum": self.config.momentum} if kind in ("rmsprop", "sgd") else {}
        return OPTIMISERS[kind](parameters, lr=lr, weight_decay=self.config.weight_decay, **own)

    def replay_weight(self, task: int) -> float:
        config = self.config
        if config.replay_schedule == "1-1/t":
            return (task - 1) / task
        if config.replay_schedule == "exponential":
            return config.replay_weight * config.replay_decay ** (task - 2)
        return config.replay_weight

    # Losses: sums over a batch; parts are noted under their names with a prefix.

    def see(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.sd if self.config.normalize else images

    def classifier_loss(self, has_images: bool, w_rec: float, w_kl: float) -> Loss:
        smoothing = self.config.label_smoothing
        smoothed = nn.CrossEntropyLoss(reduction="sum", label_smoothing=smoothing)

        def loss(
            x: Tensor, targets: Tensor, step_noise: Tensor, parts: dict[str, Tensor], prefix: str
        ) -> Tensor:
            self.model.encoder.draw_dropout(len(x), self.dropout_streams[prefix])
            self.model.train()
            mu, sd = self.model.encoder(self.see(x))
            self.model.eval()
            z = draw(mu, sd, step_noise)
            logits = self.model.class_decoder(z)
            if prefix:  # labels in the buffer are taken as they are
                total = functional.cross_entropy(logits, targets, reduction="sum")
            else:
                total = smoothed(logits, targets.argmax(1))
            parts[f"{prefix}class"] = total
            if not prefix:
                parts["n_correct"] = (logits.argmax(1) == targets.argmax(1)).sum()
            if sd is not None:
                parts[f"{prefix}kl"] = summed_kl(mu, sd)
                total = total + w_kl * parts[f"{prefix}kl"]
            if has_images:  # even without weight: weight decay concerns all that a stage has
                rec = summed_bce(self.model.rec_decoder(z), x)
                total = total + w_rec * rec
                if w_rec:
                    parts[f"{prefix}rec"] = rec
            return total

        return loss

    def vae_loss(self, vae: Vae) -> Loss:
        def loss(
            x: Tensor, targets: Tensor, step_noise: Tensor, parts: dict[str, Tensor], prefix: str
        ) -> Tensor:
            del targets
            mu, sd = vae.vae_encoder(x)
            parts[f"{prefix}rec"] = summed_bce(vae.vae_decoder(draw(mu, sd, step_noise)), x)
            parts[f"{prefix}kl"] = summed_kl(mu, sd)
            return parts[f"{prefix}rec"] + parts[f"{prefix}kl"]

        return loss

    # Training.

    def train(self, phase: Phase) -> None:
        self.trace.step_losses[phase.stage] = []
        schedule = self.schedule_of(phase)
        for epoch in range(1, phase.n_epochs + 1):
            row = self.train_epoch(phase, epoch)
            if schedule is not None:
                schedule.step()
            if phase.tested:
                row["test_accuracy"] = fmean(
                    self.accuracy((phase.stage, epoch, on), on) for on in phase.tested
                )
            self.trace.epochs[phase.stage, epoch] = row
            self.trace.parameters[phase.stage, epoch] = named_parameters(phase.modules)
            if phase.tested and self.average is not None:
                averages = {name: getattr(self.average, name) for name in phase.modules}
                named = named_parameters(averages)
                self.trace.averages[phase.stage, epoch] = named

    def schedule_of(self, phase: Phase) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Make the schedule of a classifier's learning rate, which begins anew in each task."""
        config, (group,) = self.config, phase.optimizer.param_groups
        if not phase.tested or config.lr_schedule == "constant":
            return None
        group["lr"] = config.lr
        group.pop("initial_lr", None)
        if config.lr_schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(phase.optimizer, T_max=config.epochs)
        return torch.optim.lr_scheduler.ExponentialLR(phase.optimizer, config.lr_decay)

    def train_epoch(self, phase: Phase, epoch: int) -> dict[str, float]:
        config, data, w = self.config, phase.data, phase.replay_weight
        streams = {
            name: generator(config.seed, name, phase.stage, epoch)
            for name in ("batch_order", "noise", "replay_order", "replay_noise", "mir_z")
        }
        self.dropout_streams = {
            prefix: generator(config.seed, f"{prefix}dropout", phase.stage, epoch)
            for prefix in ("", "replay_")
        }
        # Candidates are drawn anew in each step, from the whole buffer.
        is_mir = config.retrieval == "mir" and phase.tested
        n_rows = len(phase.buffer or ()) if is_mir else config.batch_size
        shuffled = replay_order(phase.buffer, n_rows, streams["replay_order"])
        sums: dict[str, float] = {}
        n_steps, n_new, n_replay = 0, 0, 0
        for chosen in self.batches(len(data.train_y), streams["batch_order"]):
            x, n = data.train_x[chosen], len(chosen)
            targets = one_hot(data.train_y[chosen], config.n_classes)
            step_noise = noise(config, n, streams["noise"])
            parts: dict[str, Tensor] = {}
            new = phase.loss(x, targets, step_noise, parts, "")
            mean = new / n
            objective = mean if phase.is_mean else new
            if phase.buffer is not None:
                batch = self.replayed(phase, (x, targets, step_noise), next(shuffled), streams)
                m = len(batch[0])
                replay_noise = noise(config, m, streams["replay_noise"])
                old = phase.loss(*batch, replay_noise, parts, "replay_")
                mean = (1 - w) * mean + w * old / m
                objective = mean if phase.is_mean else (1 - w) * new + w * old
                n_replay += m
            phase.optimizer.zero_grad()
            objective.backward()
            if config.clip_norm:
                trained = phase.optimizer.param_groups[0]["params"]
                nn.utils.clip_grad_norm_(trained, config.clip_norm)
            phase.optimizer.step()
            self.move_average()
            self.trace.step_losses[phase.stage].append(float(mean.detach()))
            n_steps, n_new = n_steps + 1, n_new + n
            sums["loss"] = sums.get("loss", 0.0) + float(mean.detach()) * n
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        row = {"n_steps": n_steps, "n_samples": n_new, "loss": sums.pop("loss") / n_new}
        if "n_correct" in sums:
            row["train_accuracy"] = sums.pop("n_correct") / n_new
        for name, value in sums.items():
            row[f"{name}_loss"] = value / (n_replay if name.startswith("replay") else n_new)
        return row

    def batches(self, n: int, stream: torch.Generator) -> Iterator[Tensor]:
        size = self.config.batch_size
        for chosen in torch.randperm(n, generator=stream).split(size):
            if len(chosen) == size or not self.config.drop_last:
                yield chosen

    def replayed(
        self,
        phase: Phase,
        new: tuple[Tensor, Tensor, Tensor],
        rows: Tensor,
        streams: dict[str, torch.Generator],
    ) -> tuple[Tensor, Tensor]:
        """Return a step's replayed images and labels; ``rows`` are next in the buffer's order."""
        config, buffer, size = self.config, phase.buffer, self.config.batch_size
        assert buffer is not None
        if config.retrieval == "cycle" or not phase.tested:
            return buffer.images[rows], buffer.labels[rows]
        x, targets, step_noise = new
        lr = phase.optimizer.param_groups[0]["lr"]
        moved = after_virtual_step(
            self.model,
            phase.frozen,
            self.see(x),
            targets,
            step_noise,
            phase.kl_weight,
            lr,
            config.label_smoothing,
        )
        if config.retrieval == "generative_mir":
            before = self.models[-1]
            decoder = before.rec_decoder if config.model == "vib" else self.vaes[-1].vae_decoder
            return climbed_samples(
                config, len(rows), streams["mir_z"], before, moved, decoder, self.see
            )
        candidates = rows[: config.n_candidates]
        images, labels = buffer.images[candidates], buffer.labels[candidates]
        worst = most_interfered(self.model, moved, self.see(images), labels, size)
        return images[worst], labels[worst]

    @torch.no_grad()
    def move_average(self) -> None:
        """Move the average of the classifier's weights, where there is one."""
        if self.average is None:
            return
        decay = self.config.ema_decay
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for average, weights in pairs:
            average.copy_(decay * average + (1 - decay) * weights)

    # Evaluation.

    @torch.no_grad()
    def accuracy(self, purpose: tuple[str | int, ...], task: int) -> float:
        """Test with mean z (``eval_samples`` 0) or the mean softmax of so many samples of z."""
        config, data = self.config, self.tasks[task - 1]
        model = self.average or self.model
        x = self.see(data.test_x)
        if config.eval_samples == 0 or config.model == "mlp":
            scores = model(x)
        else:
            stream = generator(config.seed, "evaluation", *purpose)
            draws = [
                model(x, noise(config, len(x), stream)).softmax(1)
                for _ in range(config.eval_samples)
            ]
            scores = torch.stack(draws).mean(0)
        return float((scores.argmax(1) == data.test_y).double().mean())


def replay_order(buffer: Buffer | None, size: int, stream: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled passes over the buffer, one after the other, the last batch as it is."""
    while buffer is not None:
        yield from torch.randperm(len(buffer), generator=stream).split(size)
