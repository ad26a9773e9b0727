"""Words and forms of Ray Tune, W&B Sweeps, Optuna and Hydra, and our equivalents.

Files pasted from these programs are never guessed at: the error shows our form to copy.
"""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from raysweep.user_text.values import number_of

FOREIGN_WORDS: dict[str, str] = {
    # settings
    "learning_rate": "lr",
    "learningrate": "lr",
    "eta": "lr",
    "base_lr": "lr",
    "init_lr": "lr",
    "latent_dim": "n_bottleneck",
    "latent_size": "n_bottleneck",
    "z_dim": "n_bottleneck",
    "n_latent": "n_bottleneck",
    "bottleneck": "n_bottleneck",
    "hidden_size": "encoder_widths",
    "hidden_sizes": "encoder_widths",
    "hidden_dim": "encoder_widths",
    "hidden_dims": "encoder_widths",
    "hidden_units": "encoder_widths",
    "n_hidden": "encoder_widths",
    "layers": "encoder_widths",
    "decoder_widths": "rec_decoder_widths",
    "batch": "batch_size",
    "bs": "batch_size",
    "batchsize": "batch_size",
    "train_batch_size": "batch_size",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "training_iteration": "epochs",
    "beta": "beta_1",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "grad_clip": "clip_norm",
    "gradient_clip_val": "clip_norm",
    "max_grad_norm": "clip_norm",
    "activation": "nonlinearity",
    "act": "nonlinearity",
    "dropout_rate": "dropout",
    "p_drop": "dropout",
    "optim": "optimizer",
    "opt": "optimizer",
    "scheduler_type": "lr_schedule",
    "lr_scheduler": "lr_schedule",
    "gamma": "lr_decay",
    "dataset": "source",
    "benchmark": "tasks",
    "num_tasks": "n_tasks",
    "n_experiences": "n_tasks",
    "buffer_size": "n_replay",
    "memory_size": "n_replay",
    "mem_size": "n_replay",
    "temperature": "label_temperature",
    "ema": "ema_decay",
    # parts of the file
    "parameters": "space:",
    "param_space": "space:",
    "params": "space:",
    "search_space": "space:",
    "hyperparameters": "space:",
    "config": "space:",
    "sweeper": "search:",
    "search_alg": "search:",
    "tune_config": "search:",
    "study": "search:",
    "num_samples": "search: {method: random, n_samples: 100}",
    "n_trials": "search: {method: optuna, n_samples: 100}",
    "run_cap": "search: {method: random, n_samples: 100}",
    "max_trials": "search: {method: optuna, n_samples: 100}",
    "method": "search: {method: optuna, n_samples: 100}",
    "sampler": "search: {method: optuna, n_samples: 100, sampler: tpe}",
    "metric": "search: {method: optuna, n_samples: 100, metric: average_accuracy}",
    "metrics": "search: {method: optuna, n_samples: 100, metric: [average_accuracy]}",
    "mode": "search: {method: optuna, n_samples: 100, metric: average_accuracy, mode: max}",
    "goal": "mode: max",
    "direction": "search: {method: optuna, n_samples: 100, metric: average_accuracy, mode: max}",
    "directions": "search: {method: optuna, n_samples: 100, metric: [average_accuracy], "
    "mode: [max]}",
    "scheduler": "early_stopping: asha",
    "pruner": "early_stopping: asha",
    # W&B's only rule is hyperband with a min_iter; ASHA, without brackets, needs no such setting.
    "early_terminate": "early_stopping: {method: asha}",
    "max_t": "epochs",
    "min_iter": "early_stopping: {grace_period: 1}",
    "time_budget_s": "time_budget: 8h",
    "timeout": "time_budget: 8h",
    "resources_per_trial": "resources: {cpu: 1, gpu: 0.25}",
    "max_concurrent_trials": "max_packs: 2",
    "n_jobs": "max_packs: 2",
    "conditions": "space: {any_of: [...]}",
    # values of a setting
    "values": "{grid_search: [1, 2]}",
    "grid": "{grid_search: [1, 2]}",
    "list": "{grid_search: [1, 2]}",
    "distribution": "{loguniform: [1e-4, 1e-1]}",
    "min": "{uniform: [0, 1]}",
    "max": "{uniform: [0, 1]}",
    "low": "{uniform: [0, 1]}",
    "high": "{uniform: [0, 1]}",
    "log": "{loguniform: [1e-4, 1e-1]}",
    "suggest_float": "{uniform: [0, 1]}",
    "suggest_int": "{randint: [1, 10]}",
    "suggest_categorical": "{choice: [a, b]}",
    "log_uniform_values": "{loguniform: [1e-4, 1e-1]}",
    "q_uniform": "{quniform: [0, 1, 0.1]}",
    "int_uniform": "{randint: [1, 10]}",
    "categorical": "{choice: [a, b]}",
    "interval": "{uniform: [0, 1]}",
    # methods and modes
    "bayes": "optuna",
    "bayesian": "optuna",
    "tpe": "optuna",
    "hyperopt_search": "hyperopt",
    "maximize": "max",
    "minimize": "min",
}
"""Words of other programs and what to write instead: a setting's name, a part of the file or the
form of a value."""
OWN_NAMES = {"name": "--name", "study_name": "--name", "storage": "--results"}
"""Keys that are command-line options here."""
NOT_HERE = {
    "program": "raysweep trains its own experiments: choose one with `experiment:`",
    "entrypoint": "raysweep trains its own experiments: choose one with `experiment:`",
    "trainable": "raysweep trains its own experiments: choose one with `experiment:`",
    "command": "raysweep trains its own experiments: choose one with `experiment:`",
    "project": "for W&B, write `loggers: [wandb]` and set WANDB_PROJECT",
    "entity": "for W&B, write `loggers: [wandb]` and set WANDB_ENTITY",
    "hydra": "use one file, with settings under `space:` and the sweeper's under `search:`",
    "defaults": "use one file, with the settings under `space:`",
    "run_config": "results and name are command-line options: --results, --name",
}
"""Keys of other programs without a counterpart in our files, and what to do."""
SPACES = tuple(word for word, ours in FOREIGN_WORDS.items() if ours == "space:")
"""Keys of other programs that correspond to our ``space:``."""

_KEYS_OF: dict[str, dict[str, str]] = {
    "search": dict.fromkeys(("num_samples", "n_trials", "max_trials", "run_cap"), "n_samples")
    | dict.fromkeys(("goal", "direction", "directions", "modes"), "mode")
    | dict.fromkeys(("type", "algorithm", "search_alg", "name"), "method")
    | {"n_startup_trials": "n_samples", "metrics": "metric", "objective": "metric"},
    "early_stopping": dict.fromkeys(("type", "scheduler", "pruner"), "method")
    | dict.fromkeys(("min_iter", "min_resource", "n_warmup_steps", "min_t"), "grace_period")
    | {"eta": "reduction_factor", "s": "brackets", "n_startup_trials": "min_samples_required"},
}
"""Keys of other programs and the corresponding key here, by section."""
_MOST_CHARACTERS = 160


def ours_for(word: object, section: str = "") -> str:
    """Return our equivalent of another program's word, '' if there is none.

    ``section`` is ``search`` or ``early_stopping`` for a key of that section.
    """
    if section:
        return _KEYS_OF[section].get(str(word), "")
    text = str(word)[:60].strip().removeprefix("--").removeprefix("tune.")
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()
    return FOREIGN_WORDS.get(re.sub(r"[\s-]+", "_", snake), "")


def ours_in_place_of(raw: Any, *, is_whole: bool, is_drawn: bool) -> str:
    """Return our form of a value that is in another program's form, '' if there is none.

    ``is_whole``: the setting is a whole number; ``is_drawn``: values may be drawn at random.
    """
    list_kind = "choice" if is_drawn else "grid_search"
    if isinstance(raw, Mapping):
        ours = _of_mapping(raw, list_kind, is_whole)
    elif isinstance(raw, str) and "(" in raw and len(raw) < 500:
        ours = _of_call(raw, list_kind, is_whole)
    else:
        return ""
    return "" if ours is None else _written(ours)


def _written(ours: Any) -> str:
    """Return a value as one line of YAML, short enough for a message."""
    if not isinstance(ours, dict):
        return _scalar(ours)
    (kind, arguments), *_ = ours.items()
    text = ", ".join(map(_scalar, arguments[:20] if isinstance(arguments, list) else []))
    is_long = len(arguments) > 20 or len(text) > _MOST_CHARACTERS
    return f"{{{kind}: [{'...' if is_long else text}]}}"


def _scalar(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _of_mapping(raw: Mapping[Any, Any], list_kind: str, is_whole: bool) -> Any:
    """Read the forms of W&B (``values``, ``min``), Optuna (``low``) and NNI (``_type``)."""
    for key in ("values", "choices", "categories"):
        if isinstance(raw.get(key), list) and raw[key]:
            return {list_kind: raw[key]}
    for key in ("grid", "list"):
        if isinstance(raw.get(key), list) and raw[key]:
            return {"grid_search": raw[key]}
    if "value" in raw and not isinstance(raw["value"], Mapping):
        return raw["value"]
    if isinstance(raw.get("_value"), list) and isinstance(raw.get("_type"), str):
        return _of_name(raw["_type"], raw["_value"], list_kind)
    return _of_ends(raw, is_whole)


def _of_ends(raw: Mapping[Any, Any], is_whole: bool) -> Any:
    lower = raw.get("min", raw.get("low", raw.get("lower")))
    upper = raw.get("max", raw.get("high", raw.get("upper")))
    low, high = number_of(lower), number_of(upper)
    if not low < high:
        return None
    word = str(raw.get("distribution", raw.get("type", ""))).lower()
    step = raw.get("q", raw.get("step"))
    if word in ("log_uniform", "q_log_uniform"):  # in W&B these bounds are exponents of e
        if max(abs(low), abs(high)) > 700:
            return None
        low, high = math.exp(low), math.exp(high)
    elif "normal" in word or "beta" in word:
        return None
    is_log = "log" in word or raw.get("log") in (True, "true") or raw.get("scaling") == "log"
    return _range(low, high, step, is_log=is_log, is_whole=is_whole)


def _range(low: float, high: float, step: Any, *, is_log: bool, is_whole: bool) -> Any:
    """Return a distribution that includes its upper end, as in W&B, Optuna and Hydra."""
    if is_log and low <= 0:
        return None
    if step not in (None, 1) and 0 < number_of(step) < high - low:
        kind = "qloguniform" if is_log else "qrandint" if is_whole else "quniform"
        return {kind: [_number(low), _number(high), step]}
    if is_whole:
        kind = "lograndint" if is_log else "randint"
        return {kind: [math.ceil(low), math.floor(high) + 1]}
    return {"loguniform" if is_log else "uniform": [_number(low), _number(high)]}


def _number(value: float) -> int | float:
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def _of_call(text: str, list_kind: str, is_whole: bool) -> Any:
    """Read a call as text, such as ``tune.loguniform(1e-4, 1e-1)`` or ``choice(1, 2)``."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(call, ast.Call):
        return None
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "tag":
        return _of_tag(call, is_whole)
    arguments = _arguments(call)
    if arguments is None:
        return None
    if name.startswith("suggest_"):
        return _of_suggestion(name, call, arguments[1:], is_whole)
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "hp":  # Hyperopt
        arguments = arguments[1:]  # after the label
        if name == "loguniform" and all(number_of(a) < 700 for a in arguments):
            arguments = [math.exp(number_of(a)) for a in arguments]  # bounds are exponents of e
    return _of_name(name, arguments, list_kind)


def _of_tag(call: ast.Call, is_whole: bool) -> Any:
    """Read Hydra's ``tag(log, interval(1e-4, 1e-1))``."""
    if not call.args:
        return None
    *tags, inner = call.args
    is_log = any(isinstance(tag, ast.Name) and tag.id == "log" for tag in tags)
    arguments = _arguments(inner) if isinstance(inner, ast.Call) else None
    if not is_log or arguments is None or len(arguments) != 2:
        return None
    low, high = map(number_of, arguments)
    if not low < high:
        return None
    return _range(low, high, None, is_log=True, is_whole=is_whole)


def _of_name(name: str, arguments: list[Any], list_kind: str) -> Any:
    if name in ("choice", "grid_search") and arguments:
        values = arguments[0] if isinstance(arguments[0], list) else arguments
        return {"grid_search" if name == "grid_search" else list_kind: values}
    if name == "range" and all(isinstance(a, int) for a in arguments) and 0 < len(arguments) < 4:
        numbers = range(*arguments) if 0 not in arguments[2:] else range(0)
        return {list_kind: list(numbers[:21])} if numbers else None
    if name == "interval" and len(arguments) == 2:
        return {"uniform": arguments}
    n = {"uniform": 2, "loguniform": 2, "randint": 2, "lograndint": 2}
    n |= {"quniform": 3, "qloguniform": 3, "qrandint": 3}
    return {name: arguments} if len(arguments) == n.get(name) else None


def _of_suggestion(name: str, call: ast.Call, arguments: list[Any], is_whole: bool) -> Any:
    """Read a call of an Optuna trial, such as ``suggest_float("lr", 1e-4, 1e-1, log=True)``."""
    options = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    if name == "suggest_categorical" and arguments and isinstance(arguments[0], list):
        return {"choice": arguments[0]}
    if len(arguments) < 2:
        arguments = [*arguments, *(options[k] for k in ("low", "high") if k in options)]
    if len(arguments) < 2 or not number_of(arguments[0]) < number_of(arguments[1]):
        return None
    return _range(
        number_of(arguments[0]),
        number_of(arguments[1]),
        options.get("step"),
        is_log=options.get("log") is True or name == "suggest_loguniform",
        is_whole=is_whole or name == "suggest_int",
    )


def _arguments(call: ast.Call) -> list[Any] | None:
    values: list[Any] = []
    for node in call.args:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError):
            if not isinstance(node, ast.Name):
                return None
            value = node.id  # Hydra's choice(mlp, vib)
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        values.append(list(value) if is_list else value)
    return values
