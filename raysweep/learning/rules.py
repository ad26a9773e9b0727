"""How settings of one configuration go together: what `auto` means, what excludes what."""

from typing import TYPE_CHECKING, Any

from raysweep.errors import InputError
from raysweep.learning.data.source_shapes import SOURCES

if TYPE_CHECKING:
    from raysweep.learning.config import Config

ADDED = (
    "tf32",
    "task_samples",
    "generator_epochs",
    "reduction",
    "ema_decay",
    "variance",
    "lr_schedule",
    "lr_decay",
    "n_replay_scope",
    "selection",
    "selection_features",
    "retrieval",
    "n_candidates",
    "mir_steps",
    "mir_interference",
    "mir_entropy",
    "mir_shell",
    "replay_schedule",
    "replay_decay",
    "label_temperature",
    "labeler",
    "generator",
    "generator_optimizer",
    "generator_lr",
    "generator_replay_weight",
    "loss_factor",
    "loss_patience",
)
"""Settings that came after the first rows were written: at their defaults they leave ids alone."""

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "replay_vib": {},
    "replay": {"model": "mlp"},
    "vib": {"n_tasks": 1, "replay": "none"},
    "joint": {"model": "mlp", "replay": "none"},
}
"""The experiments, with the settings whose defaults are others than the fields'."""

REPLAY_SETTINGS: dict[str, Any] = {
    "replay": "none",
    "n_replay": 1000,
    "n_replay_scope": "auto",
    "selection": "random",
    "selection_features": "pixels",
    "retrieval": "cycle",
    "n_candidates": 50,
    "mir_steps": 3,
    "mir_interference": 0.1,
    "mir_entropy": 1.0,
    "mir_shell": 0.0,
    "replay_weight": 0.5,
    "replay_schedule": "constant",
    "replay_decay": 0.9,
    "replay_labels": "soft",
    "label_temperature": 1.0,
    "labeler": "current",
    "generator": "auto",
    "generator_epochs": 0,
    "generator_optimizer": "auto",
    "generator_lr": 0.0,
    "generator_replay_weight": 0.5,
    "freeze_encoder": False,
    "optimizer_state": "auto",
}
"""Settings that mean nothing where no task follows another, with what they are then."""

MODELS = {
    "replay_vib": ("vib", "comparison"),
    "replay": ("mlp",),
    "vib": ("vib",),
    "joint": ("vib", "comparison", "mlp"),
}
"""The models that an experiment trains."""
_GENERATORS = {"vib": ("frozen", "continual"), "vae": ("per_task", "continual")}


def resolved(config: Any) -> dict[str, Any]:
    """Give the values that stand for `auto`, and defaults for what an experiment has no use for."""
    values: dict[str, Any] = {}
    if config.experiment in ("vib", "joint"):
        values = {**REPLAY_SETTINGS}

    def value(name: str) -> Any:
        return values.get(name, getattr(config, name))

    if value("optimizer_state") == "auto":
        values["optimizer_state"] = "reset" if config.model == "vib" else "keep"
    if config.reduction == "auto":
        values["reduction"] = "mean" if config.model == "mlp" else "sum"
    if value("generator") == "auto":
        vib = "frozen" if config.n_tasks <= 2 else "continual"
        values["generator"] = vib if config.model == "vib" else "per_task"
    if value("n_replay_scope") == "auto":
        is_one = value("replay") == "generative" and value("generator") == "continual"
        is_total = is_one or (value("replay") == "simple" and value("selection") == "reservoir")
        values["n_replay_scope"] = "total" if is_total else "per_task"
    if value("generator_optimizer") == "auto":
        values["generator_optimizer"] = config.optimizer
    return values


def check_together(config: "Config") -> None:
    """Refuse settings that exclude each other."""
    _check_experiment(config)
    _check_data(config)
    _check_stop(config)
    if config.replay == "generative":
        _check_generator(config)
    if config.replay == "simple":
        _check_selection(config)
    if config.replay != "none" and config.n_tasks > 1:
        _check_budget(config)
    if config.retrieval != "cycle":
        _check_retrieval(config)


def _check_experiment(config: "Config") -> None:
    models = MODELS[config.experiment]
    if config.model not in models:
        others = [name for name in EXPERIMENTS if config.model in MODELS[name]]
        raise InputError(
            f"space.model: expected {' or '.join(models)} with experiment {config.experiment}, "
            f"got {config.model}, which experiment {' or '.join(others)} has"
        )
    if config.experiment == "vib" and config.n_tasks != 1:
        raise InputError(
            f"data.n_tasks: expected 1 with experiment vib, got {config.n_tasks}; "
            f"experiment replay_vib has more"
        )


def _check_data(config: "Config") -> None:
    shape = SOURCES[config.source]
    if config.tasks == "split_mnist" and config.n_tasks > shape.n_classes // 2:
        raise InputError(
            f"data.n_tasks: expected at most {shape.n_classes // 2} tasks of "
            f"two classes with split_mnist, got {config.n_tasks}"
        )
    if config.task_samples > shape.n_train:
        raise InputError(
            f"data.task_samples: expected at most the {shape.n_train} training samples of "
            f"{config.source}, got {config.task_samples}; 0 takes all"
        )
    n_samples, of = config.task_samples or shape.n_train, f"of {config.source}"
    if config.task_samples:
        of = "of a task (data.task_samples)"
    if config.experiment == "joint" and (config.task_samples or config.tasks == "perm_mnist"):
        n_samples, of = n_samples * config.n_tasks, "of all tasks"
    if config.drop_last and config.batch_size > n_samples:
        raise InputError(
            f"training.batch_size: expected at most the {n_samples} training"
            f" samples {of}, got {config.batch_size}; lower it or set drop_last false"
        )


def _check_stop(config: "Config") -> None:
    if 0 < config.loss_factor <= 1:
        raise InputError(
            f"divergence.loss_factor: expected 0 (no such limit) or a number > 1, "
            f"got {config.loss_factor}"
        )


def _check_generator(config: "Config") -> None:
    kind = "vib" if config.model == "vib" else "vae"
    if config.generator not in _GENERATORS[kind]:
        raise InputError(
            f"space.generator: expected {' or '.join(_GENERATORS[kind])} with model "
            f"{config.model}, got {config.generator}"
        )
    if config.generator == "frozen" and config.n_tasks > 2:
        raise InputError(
            f"data.n_tasks: expected at most 2 with generator frozen (it learns task 1 only), "
            f"got {config.n_tasks}; use generator continual"
        )
    if config.labeler == "per_task" and config.generator == "continual" and config.n_tasks > 2:
        raise InputError(
            "space.labeler: expected current or at_generation with generator continual (its images "
            "belong to no task), got per_task"
        )


def _check_selection(config: "Config") -> None:
    if config.selection == "reservoir" and config.n_replay_scope == "per_task":
        raise InputError(
            "space.n_replay_scope: expected total with selection reservoir (it samples the whole "
            "stream), got per_task; selection random draws the same from each task"
        )


def is_by_class(config: "Config") -> bool:
    """Tell whether the samples of a buffer are chosen class by class."""
    return config.replay == "simple" and config.selection not in ("random", "reservoir")


def shares_of_first_task(config: "Config") -> list[int]:
    """Give how many samples of each class the buffer has after task 1, where there are as many.

    One number for all classes where they are not told apart.
    """
    n, n_classes = config.n_replay, config.n_classes
    if not is_by_class(config):
        return [n]
    if config.selection == "ring":  # of the size that it has to the end
        is_total = config.n_replay_scope == "total"
        return [n // (n_classes * (config.n_tasks - 1 if is_total else 1))] * n_classes
    return [n // n_classes + (label < n % n_classes) for label in range(n_classes)]


def _check_budget(config: "Config") -> None:
    """Refuse a buffer that has not even one sample for each of its groups."""
    n_tasks = config.n_tasks - 1  # the last is not stored
    if config.replay == "simple":
        is_by_task = config.selection != "reservoir"
    else:  # generated once and kept, or generated by each task's own VAE
        is_by_task = config.labeler == "at_generation" or config.generator == "per_task"
    has_one_budget = config.n_replay_scope == "total"
    n_groups, groups = 1, []
    if is_by_class(config):
        n_groups *= config.n_classes
        groups.append(f"{config.n_classes} classes")
    if is_by_task and has_one_budget:
        n_groups *= n_tasks
        groups.append(f"{n_tasks} stored task{'s' if n_tasks > 1 else ''}")
    if config.n_replay < n_groups:
        raise InputError(
            f"space.n_replay: expected at least {n_groups}, one sample for each of "
            f"{' of '.join(groups)}, got {config.n_replay}"
            + ("; raise it or set n_replay_scope per_task" if has_one_budget else "")
        )


def _check_retrieval(config: "Config") -> None:
    kind = config.retrieval
    where = f"space.retrieval: expected cycle, as there are no candidates for {kind}"
    if config.replay == "none" or config.n_tasks < 2:
        why = "without replay" if config.replay == "none" else "with one task"
        raise InputError(f"{where} {why}, got {kind}")
    if kind == "generative_mir":
        if config.replay != "generative":
            raise InputError(
                f"space.retrieval: expected cycle or mir with replay {config.replay}, got {kind}; "
                f"it needs replay generative"
            )
        if config.generator == "per_task" and config.n_tasks > 2:
            raise InputError(
                f"space.retrieval: expected cycle or mir with generator per_task, got {kind}; "
                f"it needs one generator: set generator continual"
            )
        return
    n_most = sum(shares_of_first_task(config))
    if n_most < config.batch_size:
        raise InputError(
            f"space.n_replay: expected a buffer of at least {config.batch_size} samples, a batch, "
            f"after task 1 with retrieval mir, got {n_most} (n_replay {config.n_replay}); raise it "
            f"or lower training.batch_size"
        )
    if not config.batch_size <= config.n_candidates <= n_most:
        raise InputError(
            f"space.n_candidates: expected from {config.batch_size}, the batch size that mir "
            f"chooses of them, to {n_most}, the buffer after task 1, got {config.n_candidates}"
        )


def loss_weights(config: "Config") -> tuple[float, float]:
    """Convert beta_1 and beta_2 into the weights (reconstruction, KL) of task 1.

    The sign of beta_1 chooses: up to 0, -beta_1 weighs the reconstruction and beta_2 the KL;
    above 0 there is no reconstruction and beta_1 + beta_2 weighs the KL. The comparison model
    has no reconstruction and ignores beta_1, an MLP both. From task 2 on the KL has beta_2, but
    where a VIB's decoder goes on learning: there the weights of task 1 stay.
    """
    if config.model == "mlp":
        return 0.0, 0.0
    if config.model == "comparison":
        return 0.0, config.beta_2
    if config.beta_1 > 0:
        return 0.0, config.beta_1 + config.beta_2
    return abs(config.beta_1), config.beta_2
