"""A search-space file: read, checked, overridden and expanded into configurations."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep.settings.config import Config, defaults_of, section_of
from raysweep.settings.fields import InputError, near, plain_number, show
from raysweep.settings.grid import (
    TOP_KEYS,
    Choices,
    branches_of,
    check_value,
    exclusions_of,
    expand,
    may_match,
    section_of_file,
    settings_at,
)
from raysweep.settings.yaml_text import parse_yaml

MAX_CONFIGS = 1_000_000


@dataclass(frozen=True)
class Resources:
    """What one pack is given: CPUs (each a thread) and GPUs, possibly a fraction of one."""

    cpu: float = 1
    gpu: float = 0


@dataclass(frozen=True)
class StageKeeping:
    """Whether what stages give is kept on disk for later, and its limit in GB (10^9 bytes)."""

    keep: bool = False
    max_gb: float = 10


@dataclass(frozen=True)
class Sweep:
    """A checked search space with its distinct configurations in the file's order.

    ``notes`` are lines for the user about what may be a slip; ``resolved`` is the search space
    after overrides with every default written out; ``pack`` is the largest number of
    configurations in a pack, or None for the planner's choice.
    """

    file: str
    configs: tuple[Config, ...]
    n_duplicates: int
    notes: tuple[str, ...]
    resources: Resources
    pack: int | None
    stages: StageKeeping
    resolved: dict[str, Any]


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a search space and apply ``KEY=VALUE`` overrides.

    Raises ``InputError``, one line that starts with the file's name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(_missing_file(path)) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, got another byte at {error.start}"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got: {error.strerror}") from None
    try:
        raw = parse_yaml(text)
        if not isinstance(raw, dict):
            what = "an empty file" if raw is None else show(raw)
            raise InputError(f"expected `experiment:`, `space:` and so on as keys, got {what}")
        for override in overrides:
            _apply_override(raw, override)
        return _build(path.name, raw)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def _missing_file(path: Path) -> str:
    folder = path.parent
    names = sorted(str(file) for file in folder.glob("*.y*ml")) if folder.is_dir() else []
    hint = near(path, names) or (f"; there are {', '.join(names[:5])}" if names else "")
    return f"{path}: expected a search-space file, found none{hint}"


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"expected KEY=VALUE such as space.lr=1e-3, got {override!r}")
    node: Any = raw
    for depth, part in enumerate(parts):
        where = ".".join(parts[: depth + 1])
        is_last = depth == len(parts) - 1
        if isinstance(node, list):
            if not (part.isascii() and part.isdigit()) or int(part) >= len(node):
                raise InputError(f"{where}: expected an index below {len(node)}, got {part!r}")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if not is_last and node.get(index) is None:
                node[index] = {}
        else:
            raise InputError(f"{where}: expected a section to set {part!r} in, got {show(node)}")
        if is_last:
            try:
                node[index] = parse_yaml(text)
            except InputError as error:
                raise InputError(f"{where}={text}: {error}") from None
        node = node[index]


def _seeds(raw: Any) -> list[int]:
    if raw is None:
        return [0]
    if isinstance(raw, dict) and set(raw) == {"grid_search"}:
        raw = raw["grid_search"]
    if not isinstance(raw, list) or not raw:
        raise InputError(f"seeds: expected a list such as [0, 1, 2], got {show(raw)}")
    return [check_value("seed", seed, f"seeds[{i}]") for i, seed in enumerate(raw)]


def _resources(raw: dict[str, Any]) -> Resources:
    values = {"cpu": 1.0, "gpu": 0.0}
    for name, value in raw.items():
        where = f"resources.{name}"
        if name not in values:
            raise InputError(
                f"{where}: expected cpu or gpu, got {name!r}{near(name, ['cpu', 'gpu'])}"
            )
        try:
            number = float(plain_number(value))
        except (TypeError, ValueError):
            number = math.nan
        is_amount = 0 <= number < 1e6 and (number <= 1 or number == int(number))
        if not is_amount or (name == "cpu" and number == 0):
            least = "> 0" if name == "cpu" else ">= 0"
            raise InputError(
                f"{where}: expected a number {least}, whole or below 1, got {show(value)}"
            )
        values[name] = number
    return Resources(**values)


def _pack(raw: Any) -> int | None:
    if raw is None or raw == "auto":
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 1:
        raise InputError(f"pack: expected auto or a whole number > 0, got {show(raw)}")
    return raw


_MOST_GB = 1e9
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _stages(raw: Any) -> StageKeeping:
    if raw in (None, {}, "forget"):
        return StageKeeping()
    if raw == "keep":
        return StageKeeping(keep=True)
    if not isinstance(raw, dict):
        raise InputError(
            f"stages: expected keep, forget or {{keep: true, max_gb: 10}}, got {show(raw)}"
            f"{near(raw, ['keep', 'forget']) if isinstance(raw, str) else ''}"
        )
    for name in raw:
        if name not in ("keep", "max_gb"):
            hint = near(name, ["keep", "max_gb"])
            raise InputError(f"stages.{name}: expected keep or max_gb, got {name!r}{hint}")
    keep = _FLAGS.get(str(raw.get("keep", True)).lower())
    if keep is None:
        raise InputError(f"stages.keep: expected true or false, got {show(raw['keep'])}")
    max_gb = raw.get("max_gb", StageKeeping.max_gb)
    try:
        number = float(plain_number(max_gb))
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= _MOST_GB:
        raise InputError(
            f"stages.max_gb: expected a number > 0, at most {_MOST_GB:.0e}, got {show(max_gb)}"
        )
    return StageKeeping(keep, number)


def _build(file: str, raw: dict[str, Any]) -> Sweep:
    for key in raw:
        if key not in TOP_KEYS:
            fields = Config.model_fields
            hint = f"; write it under `{section_of(key)}:`" if key in fields else ""
            hint = hint or near(key, TOP_KEYS) or f"; known: {', '.join(TOP_KEYS)}"
            raise InputError(f"expected a known key, got {str(key)!r}{hint}")
    experiment = check_value("experiment", raw.get("experiment", "replay_vib"), "experiment")
    fixed = [
        (name, settings_at(section_of_file(raw, name), name, name))
        for name in ("data", "training", "stop")
    ]
    raw_space = section_of_file(raw, "space")
    branches = branches_of(raw_space, fixed)
    exclusions = exclusions_of(raw_space)
    seeds = _seeds(raw.get("seeds"))
    n_configs = len(seeds) * sum(math.prod(len(c.values) for c in b.values()) for b in branches)
    if n_configs > MAX_CONFIGS:
        raise InputError(
            f"space: expected at most {MAX_CONFIGS:,} configurations, got {n_configs:,}"
        )
    expanded = list(expand(branches, exclusions, seeds, experiment))
    distinct = tuple({config.id: config for config in expanded}.values())
    if not distinct:
        raise InputError("space.exclude: expected to leave some configurations, got none left")
    resources = _resources(section_of_file(raw, "resources"))
    stages = _stages(raw.get("stages"))
    return Sweep(
        file=file,
        configs=distinct,
        n_duplicates=len(expanded) - len(distinct),
        notes=_notes(len(expanded) - len(distinct), exclusions, branches, experiment),
        resources=resources,
        pack=_pack(raw.get("pack")),
        stages=stages,
        resolved=_resolved(raw, experiment, branches, seeds, resources)
        | {"stages": {"keep": stages.keep, "max_gb": stages.max_gb}},
    )


def _notes(
    n_duplicates: int,
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    branches: Sequence[dict[str, Choices]],
    experiment: str,
) -> tuple[str, ...]:
    notes = []
    if n_duplicates:
        notes.append(f"{n_duplicates} configurations come out equal to another: merged")
    for i, exclusion in enumerate(exclusions):
        if not any(may_match(branch, exclusion, experiment) for branch in branches):
            notes.append(f"space.exclude[{i}] matches no configuration")
    return tuple(notes)


def _resolved(
    raw: dict[str, Any],
    experiment: str,
    branches: Sequence[dict[str, Choices]],
    seeds: list[int],
    resources: Resources,
) -> dict[str, Any]:
    """Write the search space out with its defaults, in the file's own form.

    A default that all branches take stands in its section, any other in its entry of ``any_of``.
    """
    of_branch = [_unset(branch, experiment) for branch in branches]
    first = of_branch[0].items()
    shared = {n: v for n, v in first if all(n in o and o[n] == v for o in of_branch)}
    resolved: dict[str, Any] = {"experiment": experiment}
    for section in ("data", "training", "space", "stop"):
        given = copy.deepcopy(section_of_file(raw, section))
        resolved[section] = given | {n: v for n, v in shared.items() if section_of(n) == section}
    if "any_of" in resolved["space"]:
        resolved["space"]["any_of"] = [
            {**entry, **{n: v for n, v in unset.items() if n not in shared}}
            for entry, unset in zip(resolved["space"]["any_of"], of_branch, strict=True)
        ]
    resolved["seeds"] = seeds
    resolved["resources"] = {"cpu": resources.cpu, "gpu": resources.gpu}
    resolved["pack"] = raw.get("pack") or "auto"
    return resolved


def _unset(branch: dict[str, Choices], experiment: str) -> dict[str, Any]:
    """Give the defaults that a branch takes, as plain values.

    Where it has several experiments, those that differ between them can't be written down.
    """
    kinds = branch["experiment"].values if "experiment" in branch else (experiment,)
    first, *others = map(defaults_of, kinds)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in first.items()
        if section_of(name) in ("data", "training", "space", "stop")
        and name not in branch
        and all(other[name] == value for other in others)
    }
