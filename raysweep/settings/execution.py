"""Execution settings of a search space: seeds, resources, packs, stages, time, loggers."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from raysweep.errors import InputError, all_of
from raysweep.settings.grid import check_value
from raysweep.user_text.values import (
    check_whole,
    is_off,
    near,
    number_of,
    reading,
    seconds_of,
    show,
)

_MOST_GB = 1e9
_MOST_PACKS = 10**6
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
LOGGERS = ("tensorboard", "mlflow", "wandb")
"""Loggers that a sweep can use in addition to its tables."""


@dataclass(frozen=True)
class Resources:
    """Resources of one pack: CPUs (one thread each) and GPUs, possibly a fraction of one.

    With ``is_gpu_auto`` the driver chooses the fraction; ``gpu`` is 1 until then.
    """

    cpu: float = 1
    gpu: float = 0
    is_gpu_auto: bool = False


@dataclass(frozen=True)
class StageCaching:
    """Whether finished stages are kept on disk for reuse, and the limit in GB (10^9 bytes)."""

    is_on: bool = False
    max_gb: float = 10

    def to_plain(self) -> bool | dict[str, float]:
        """Return the value of ``stage_cache:`` in a file."""
        return {"max_gb": self.max_gb} if self.is_on else False


def seeds_of(raw: Any) -> list[int]:
    """Check ``seeds:``, a list or a grid; return [0] if absent."""
    if raw is None:
        return [0]
    where = "seeds"
    if isinstance(raw, dict) and set(raw) == {"grid_search"}:
        raw, where = raw["grid_search"], "seeds.grid_search"
    if not isinstance(raw, list) or not raw:
        hint = _hint_at_seeds(raw) if type(raw) is int else reading(raw, "list")
        raise InputError(f"seeds: expected a list such as [0, 1, 2], got {show(raw)}{hint}")
    return all_of(partial(check_value, "seed", seed, f"{where}[{i}]") for i, seed in enumerate(raw))


def _hint_at_seeds(raw: int) -> str:
    """Return a hint at the list for a single number, which may be a seed or their number."""
    if not 1 <= raw <= _MOST_COUNTED:
        return f"; write [{raw}]"
    seeds = f"[{', '.join(map(str, range(raw)))}]"
    several = "1 seed" if raw == 1 else f"{raw} seeds"
    return f"; write {seeds} for {several}, or [{raw}] for seed {raw} alone"


_MOST_COUNTED = 20
"""Larger numbers are seeds rather than numbers of seeds."""


def resources_of(raw: dict[str, Any]) -> Resources:
    """Check ``resources:``."""
    amounts = dict(all_of(partial(_amount, name, value) for name, value in raw.items()))
    is_gpu_auto = raw.get("gpu") == "auto"
    return Resources(**{"cpu": 1.0, "gpu": 0.0, **amounts}, is_gpu_auto=is_gpu_auto)


def _amount(name: Any, value: Any) -> tuple[str, float]:
    where = f"resources.{name}"
    if name not in ("cpu", "gpu"):
        hint = near(name, ["cpu", "gpu"])
        raise InputError(
            f"{where[:60]}: expected cpu or gpu, got {show(name)}{hint}", where, is_key=True
        )
    if name == "gpu" and value == "auto":
        return name, 1.0
    number = number_of(value)
    is_amount = 0 <= number < 1e6 and (number <= 1 or number == int(number))
    if not is_amount or (name == "cpu" and number == 0):
        what = "a number > 0" if name == "cpu" else "auto or a number >= 0"
        raise InputError(
            f"{where}: expected {what}, whole or below 1, got {show(value)}{reading(value)}"
        )
    return name, number


def pack_of(raw: Any) -> int | None:
    """Check ``pack:``; return None for the planner's choice."""
    if raw is None or raw == "auto":
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 1:
        hint = near(raw, ["auto"]) or reading(raw, "whole")
        raise InputError(f"pack: expected auto or a whole number > 0, got {show(raw)}{hint}")
    return raw


def max_packs_of(raw: Any) -> int | None:
    """Check ``max_packs:``, how many packs may run at once; None for as many as there is room."""
    return None if is_off(raw) else check_whole(raw, "max_packs", 1, _MOST_PACKS)


def stage_cache_of(raw: Any) -> StageCaching:
    """Check ``stage_cache:``; it is off if absent."""
    if raw is None:
        return StageCaching()
    if isinstance(raw, bool | str):
        is_on = _FLAGS.get(str(raw).lower())
        if is_on is not None:
            return StageCaching(is_on)
    if not isinstance(raw, dict) or not raw:
        raise InputError(
            f"stage_cache: expected true, false or {{max_gb: 10}}, got {show(raw)}"
            f"{near(raw, ['true', 'false']) if isinstance(raw, str) else ''}"
        )
    for name in raw:
        if name != "max_gb":
            hint = near(name, ["max_gb"])
            where = f"stage_cache.{name}"
            raise InputError(
                f"{where[:60]}: expected max_gb, got {show(name)}{hint}", where, is_key=True
            )
    number = number_of(raw["max_gb"])
    if not 0 < number <= _MOST_GB:
        raise InputError(
            f"stage_cache.max_gb: expected a number > 0, at most {_MOST_GB:.0e}, "
            f"got {show(raw['max_gb'])}"
        )
    return StageCaching(True, number)


def max_seconds_of(raw: Any) -> float | None:
    """Check ``max_seconds:``, the time limit for one epoch of a pack; None for no limit."""
    if is_off(raw):
        return None
    return seconds_of(raw, "max_seconds", ", or none for no limit")


def loggers_of(raw: Any) -> tuple[str, ...]:
    """Check ``loggers:``; return an empty tuple if absent."""
    if raw is None:
        return ()
    if not isinstance(raw, list):
        hint = f"; write [{raw}]" if raw in LOGGERS else ""
        raise InputError(f"loggers: expected a list such as [tensorboard], got {show(raw)}{hint}")

    def check(i: int, name: Any) -> str:
        if name not in LOGGERS:
            hint = near(name, list(LOGGERS)) if isinstance(name, str) else ""
            raise InputError(
                f"loggers[{i}]: expected {', '.join(LOGGERS[:-1])} or {LOGGERS[-1]}, "
                f"got {show(name)}{hint}"
            )
        return str(name)

    return tuple(dict.fromkeys(all_of(partial(check, i, name) for i, name in enumerate(raw))))
