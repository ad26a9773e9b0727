"""Rules across the settings of a configuration: the meaning of `auto`, and what excludes what."""

from functools import partial
from typing import Any

from raysweep.errors import InputError, all_of
from raysweep.learning.data.source_shapes import SOURCES
from raysweep.learning.data.task_kinds import TASK_KINDS, n_classes
from raysweep.learning.declarations import Settings
from raysweep.learning.experiments import EXPERIMENTS
from raysweep.learning.methods import METHODS, has_total
from raysweep.learning.models import MODELS


def meanings_of_auto(settings: Settings) -> dict[str, Any]:
    """Return the value that `auto` stands for, for each setting that accepts it."""
    model, method = MODELS[settings.model], METHODS[settings.replay]
    auto = model.default_generator(settings)
    generator = auto if settings.generator == "auto" else settings.generator
    return {
        "optimizer_state": model.optimizer_state,
        "reduction": model.reduction,
        "generator": auto,
        "generator_optimizer": settings.optimizer,
        "n_replay_scope": method.scope(settings, generator),
    }


def check_together(settings: Settings) -> None:
    """Refuse settings that exclude each other."""
    _check_experiment(settings)
    all_of(partial(check, settings) for check in (_check_tasks, _check_samples, _check_divergence))
    method = METHODS[settings.replay]
    if settings.n_stored_tasks and method.part:
        method.check(settings)
        _check_budget(settings)
    if settings.retrieval != "cycle" and EXPERIMENTS[settings.experiment].has_sequence:
        _check_retrieval(settings)


def _check_experiment(settings: Settings) -> None:
    name, experiment = settings.experiment, EXPERIMENTS[settings.experiment]
    models = [word for word, model in MODELS.items() if name in model.experiments]
    if settings.model not in models:
        others = MODELS[settings.model].experiments
        raise InputError(
            f"space.model: expected {' or '.join(models)} with experiment {name}, "
            f"got {settings.model}, a model of experiment {' or '.join(others)}"
        )
    if experiment.most_tasks is not None and settings.n_tasks > experiment.most_tasks:
        raise InputError(
            f"data.n_tasks: expected {experiment.most_tasks} with experiment {name}, got "
            f"{settings.n_tasks}; for more tasks use experiment {next(iter(EXPERIMENTS))}"
        )


def _check_tasks(settings: Settings) -> None:
    shape, kind = SOURCES[settings.source], TASK_KINDS[settings.tasks]
    kind.check(settings)
    most = kind.most_tasks(shape)
    if most is not None and settings.n_tasks > most:
        raise InputError(
            f"data.n_tasks: expected at most {most} tasks of {kind.class_words} with "
            f"{settings.tasks}, got {settings.n_tasks}"
        )


def _check_samples(settings: Settings) -> None:
    shape = SOURCES[settings.source]
    most = TASK_KINDS[settings.tasks].most_tasks(shape)
    if settings.task_samples > shape.n_train:
        raise InputError(
            f"data.task_samples: expected at most the {shape.n_train} training samples of "
            f"{settings.source}, got {settings.task_samples}; 0 takes all"
        )
    n_samples, of = settings.task_samples or shape.n_train, f"of {settings.source}"
    if settings.task_samples:
        of = "of a task (data.task_samples)"
    if settings.is_joint and (settings.task_samples or most is None):
        n_samples, of = n_samples * settings.n_tasks, "of all tasks"
    if settings.drop_last and settings.batch_size > n_samples:
        raise InputError(
            f"training.batch_size: expected at most the {n_samples} training"
            f" samples {of}, got {settings.batch_size}; lower it or set drop_last false"
        )


def _check_divergence(settings: Settings) -> None:
    if 0 < settings.loss_factor <= 1:
        raise InputError(
            f"divergence.loss_factor: expected 0 (no such limit) or a number > 1, "
            f"got {settings.loss_factor}"
        )


def is_by_class(settings: Settings) -> bool:
    """Return whether the samples of a buffer are chosen class by class."""
    return METHODS[settings.replay].is_by_class(settings)


def shares_of_first_task(settings: Settings) -> list[int]:
    """Return how many samples of each class the buffer holds after task 1, if there are enough.

    If the selection ignores classes, the list has one number for all of them.
    """
    n, c = settings.n_replay, n_classes(settings)
    if not is_by_class(settings):
        return [n]
    if settings.selection == "ring":  # a ring keeps its size to the end
        return [n // (c * (settings.n_stored_tasks if has_total(settings) else 1))] * c
    return [n // c + (label < n % c) for label in range(c)]


def _check_budget(settings: Settings) -> None:
    """Refuse a buffer too small for one sample of each of its groups."""
    n_tasks = settings.n_stored_tasks
    has_one_budget = has_total(settings)
    n_groups, groups = 1, []
    if is_by_class(settings):
        n_groups *= n_classes(settings)
        groups.append(f"{n_classes(settings)} classes")
    if has_one_budget and METHODS[settings.replay].is_by_task(settings):
        n_groups *= n_tasks
        groups.append(f"{n_tasks} stored task{'s' if n_tasks > 1 else ''}")
    if settings.n_replay < n_groups:
        raise InputError(
            f"space.n_replay: expected at least {n_groups}, one sample for each of "
            f"{' of '.join(groups)}, got {settings.n_replay}"
            + ("; raise it or set n_replay_scope per_task" if has_one_budget else "")
        )


def _check_retrieval(settings: Settings) -> None:
    kind, method = settings.retrieval, METHODS[settings.replay]
    if method.part is None or not settings.n_stored_tasks:
        why = "without replay" if method.part is None else "with one task"
        raise InputError(
            f"space.retrieval: expected cycle, as {kind} has no candidates to choose from {why}, "
            f"got {kind}"
        )
    if kind == "generative_mir":
        if not method.generates:
            raise InputError(
                f"space.retrieval: expected cycle or mir with replay {settings.replay}, got "
                f"{kind}; it needs replay generative"
            )
        if settings.generator == "per_task" and settings.n_tasks > 2:
            raise InputError(
                f"space.retrieval: expected cycle or mir with generator per_task, got {kind}; "
                f"it needs one generator: set generator continual"
            )
        return
    n_most = sum(shares_of_first_task(settings))
    if n_most < settings.batch_size:
        raise InputError(
            f"space.n_replay: expected a buffer of at least {settings.batch_size} samples (one "
            f"batch) after task 1 with retrieval mir, got {n_most} (n_replay {settings.n_replay}); "
            f"raise it or lower training.batch_size"
        )
    if not settings.batch_size <= settings.n_candidates <= n_most:
        raise InputError(
            f"space.n_candidates: expected from {settings.batch_size} (mir chooses a batch from "
            f"them) to {n_most} (the buffer after task 1), got {settings.n_candidates}"
        )
