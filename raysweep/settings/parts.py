"""The parts of a search space, each checked separately."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from raysweep.errors import all_of, checked
from raysweep.settings.execution import (
    Resources,
    StageCaching,
    loggers_of,
    max_packs_of,
    max_seconds_of,
    pack_of,
    resources_of,
    seeds_of,
    stage_cache_of,
)
from raysweep.settings.foreign import SPACES
from raysweep.settings.grid import (
    Branch,
    Places,
    check_value,
    exclusions_of,
    section_of_file,
    settings_at,
    space_parts,
)
from raysweep.settings.names import SECTIONS, check_key
from raysweep.settings.sampling import Search, search_of
from raysweep.settings.stopping import Budget, EarlyStopping, budget_of, early_stopping_of

BUDGETS = ("time_budget", "max_configs", "max_gpu_hours")


@dataclass(frozen=True)
class Parts:
    """The values of the keys of a search space, each checked separately."""

    experiment: str
    fixed: Places
    of_space: Places
    exclusions: list[dict[str, tuple[Any, ...]]]
    seeds: list[int]
    search: Search
    resources: Resources
    pack: int | None
    max_packs: int | None
    stage_cache: StageCaching
    max_seconds: float | None
    loggers: tuple[str, ...]
    early_stopping: EarlyStopping | None
    budget: Budget


def checked_parts(raw: dict[str, Any]) -> Parts:
    """Check each key of a search space; raise all mistakes at once."""
    method = _method_named(raw.get("search"))

    def settings(key: str) -> tuple[str, Branch]:
        return key, settings_at(section_of_file(raw, key), key, key, method)

    checks: dict[str, Callable[[], Any]] = {
        "experiment": lambda: check_value(
            "experiment", raw.get("experiment", "replay_vib"), "experiment"
        ),
        "fixed": lambda: all_of(partial(settings, key) for key in SECTIONS if key != "space"),
        "of_space": lambda: space_parts(section_of_file(raw, "space"), method),
        "exclusions": lambda: exclusions_of(section_of_file(raw, "space")),
        "seeds": lambda: seeds_of(raw.get("seeds")),
        "search": lambda: search_of(raw.get("search")),
        "resources": lambda: resources_of(section_of_file(raw, "resources")),
        "pack": lambda: pack_of(raw.get("pack")),
        "max_packs": lambda: max_packs_of(raw.get("max_packs")),
        "stage_cache": lambda: stage_cache_of(raw.get("stage_cache")),
        "max_seconds": lambda: max_seconds_of(raw.get("max_seconds")),
        "loggers": lambda: loggers_of(raw.get("loggers")),
        "early_stopping": lambda: early_stopping_of(raw.get("early_stopping")),
        "budget": lambda: budget_of(*(raw.get(key) for key in BUDGETS)),
    }
    of_keys = [partial(check_key, key, value) for key, value in raw.items()]
    # Settings under W&B's `parameters:` are checked as if they were under `space:`.
    pasted = [
        partial(settings_at, raw[key], "space", key, method)
        for key in SPACES
        if isinstance(raw.get(key), dict)
    ]
    rest: list[Callable[[], Any]] = [*of_keys, *pasted, partial(checked, checks)]
    *_, found = all_of(rest)
    return Parts(**found)


def _method_named(raw: Any) -> str:
    """Return the search method, still unchecked, to know whether values may be drawn."""
    method = raw.get("method", "random") if isinstance(raw, dict) else "grid"
    return method if isinstance(method, str) else "random"
