"""A search-space file: read, checked, overridden and expanded into configurations."""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from raysweep.settings.config import (
    Config,
    InputError,
    check_value,
    near,
    plain_number,
    section_of,
    show,
)
from raysweep.settings.yaml_text import parse_yaml

MAX_CONFIGS = 1_000_000
_TOP_KEYS = [
    "experiment",
    "data",
    "training",
    "space",
    "seeds",
    "stop",
    "resources",
    "pack",
]


@dataclass(frozen=True)
class Resources:
    """What one pack is given: CPUs (each a thread) and GPUs, possibly a fraction of one."""

    cpu: float = 1
    gpu: float = 0


@dataclass(frozen=True)
class Sweep:
    """A checked search space with its distinct configurations in the file's order.

    ``notes`` are lines for the user about what may be a slip; ``resolved`` is the search space
    after overrides with every default written out; ``pack`` is the largest number of configurations in a pack, or None for the planner's choice.
    """

    file: str
    configs: tuple[Config, ...]
    n_duplicates: int
    notes: tuple[str, ...]
    resources: Resources
    pack: int | None
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


class _Choices(NamedTuple):
    """The checked values of one setting, fixed (one value) or a grid."""

    values: tuple[Any, ...]
    is_grid: bool


def _choices(name: str, raw: Any, where: str) -> _Choices:
    if isinstance(raw, dict):
        if set(raw) != {"grid_search"}:
            keys = [str(key) for key in raw]
            hint = near(keys[0], ["grid_search"]) if keys else ""
            raise InputError(
                f"{where}: expected a value or {{grid_search: [...]}}, got {show(raw)}{hint}"
            )
        grid = raw["grid_search"]
        if not isinstance(grid, list) or not grid:
            got = "an empty list" if grid == [] else show(grid)
            raise InputError(f"{where}.grid_search: expected a list of values, got {got}")
        values = tuple(
            check_value(name, value, f"{where}.grid_search[{i}]") for i, value in enumerate(grid)
        )
        return _Choices(values, is_grid=True)
    if isinstance(raw, list) and not name.endswith("_widths"):
        raise InputError(
            f"{where}: expected one value, got the list {show(raw)}; "
            f"to try each, write {{grid_search: {show(raw)}}}"
        )
    return _Choices((check_value(name, raw, where),), is_grid=False)


def _section(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{key}: expected settings such as `name: value`, got {show(value)}")
    return value


_Places = Sequence[tuple[str, dict[str, _Choices]]]
"""Settings by the place in the file where they stand."""


def _known_setting(name: Any, section: str, where: str) -> str:
    fields = Config.model_fields
    if name not in fields or section_of(name) in ("top", "seeds"):
        hint = _misplaced(str(name))
        if not hint:
            sections = ("data", "training", "stop", "space") if section == "space" else (section,)
            known = [field for field in fields if section_of(field) in sections]
            hint = near(name, known) or near(name, list(fields)) or f"; known: {', '.join(known)}"
        raise InputError(f"{where}: expected a known setting, got {str(name)!r}{hint}")
    if section not in ("space", section_of(name)):
        raise InputError(
            f"{where}: expected a setting of `{section}:`, got {name!r}; "
            f"write it under `{section_of(name)}:`"
        )
    return str(name)


def _misplaced(name: str) -> str:
    if name == "seed":
        return "; write `seeds: [0, 1]` at the top of the file"
    if name in _TOP_KEYS:
        return f"; write `{name}:` at the top of the file"
    return ""


def _settings(raw: Mapping[str, Any], section: str, where: str) -> dict[str, _Choices]:
    return {
        _known_setting(name, section, where): _choices(str(name), value, f"{where}.{name}")
        for name, value in raw.items()
    }


def _merge(parts: _Places) -> dict[str, _Choices]:
    """Unite settings of several places; one set in two places is an error."""
    merged: dict[str, _Choices] = {}
    places: dict[str, str] = {}
    for place, settings in parts:
        for name, choices in settings.items():
            if name in merged:
                raise InputError(
                    f"{place}.{name}: expected to be set once, "
                    f"got it in {places[name]} too; keep one"
                )
            merged[name], places[name] = choices, place
    return merged


def _branches(raw_space: dict[str, Any], fixed: _Places) -> list[dict[str, _Choices]]:
    """Give one grid for each entry of ``any_of`` (one in all without it)."""
    plain = {name: raw for name, raw in raw_space.items() if name not in ("any_of", "exclude")}
    parts = [*fixed, ("space", _settings(plain, "space", "space"))]
    base = _merge(parts)
    if "any_of" not in raw_space:
        return [base]
    entries = raw_space["any_of"]
    if not isinstance(entries, list) or not entries:
        raise InputError(f"space.any_of: expected a list of settings, got {show(entries)}")
    branches = []
    for i, entry in enumerate(entries):
        where = f"space.any_of[{i}]"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: expected `name: value` settings, got {show(entry)}")
        branches.append(_merge([*parts, (where, _settings(entry, "space", where))]))
    return branches


def _exclusions(raw_space: dict[str, Any]) -> list[dict[str, tuple[Any, ...]]]:
    entries = raw_space.get("exclude")
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise InputError(f"space.exclude: expected a list of settings, got {show(entries)}")
    exclusions = []
    for i, entry in enumerate(entries):
        where = f"space.exclude[{i}]"
        if not isinstance(entry, dict) or not entry:
            raise InputError(f"{where}: expected `name: value` settings, got {show(entry)}")
        settings = _settings(entry, "space", where)
        exclusions.append({name: choices.values for name, choices in settings.items()})
    return exclusions


def _expand(
    branches: Sequence[dict[str, _Choices]],
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    seeds: Sequence[int],
) -> Iterator[Config]:
    defaults = {name: field.default for name, field in Config.model_fields.items()}
    for seed in seeds:
        for branch in branches:
            names = list(branch)
            for values in itertools.product(*(branch[name].values for name in names)):
                setting = {**defaults, **dict(zip(names, values, strict=True)), "seed": seed}
                # Before the settings are held against each other: exclude removes bad pairs.
                if any(_matches(setting, exclusion) for exclusion in exclusions):
                    continue
                config = Config(**setting)
                if not any(_matches(config.model_dump(), exclusion) for exclusion in exclusions):
                    yield config


def _matches(setting: Mapping[str, Any], exclusion: dict[str, tuple[Any, ...]]) -> bool:
    return all(setting[name] in values for name, values in exclusion.items())


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


def _build(file: str, raw: dict[str, Any]) -> Sweep:
    for key in raw:
        if key not in _TOP_KEYS:
            fields = Config.model_fields
            hint = f"; write it under `{section_of(key)}:`" if key in fields else ""
            hint = hint or near(key, _TOP_KEYS) or f"; known: {', '.join(_TOP_KEYS)}"
            raise InputError(f"expected a known key, got {str(key)!r}{hint}")
    experiment = check_value("experiment", raw.get("experiment", "replay_vib"), "experiment")
    fixed = [
        (name, _settings(_section(raw, name), name, name)) for name in ("data", "training", "stop")
    ]
    raw_space = _section(raw, "space")
    branches = _branches(raw_space, fixed)
    exclusions = _exclusions(raw_space)
    seeds = _seeds(raw.get("seeds"))
    n_configs = len(seeds) * sum(math.prod(len(c.values) for c in b.values()) for b in branches)
    if n_configs > MAX_CONFIGS:
        raise InputError(
            f"space: expected at most {MAX_CONFIGS:,} configurations, got {n_configs:,}"
        )
    expanded = list(_expand(branches, exclusions, seeds))
    distinct = tuple({config.id: config for config in expanded}.values())
    if not distinct:
        raise InputError("space.exclude: expected to leave some configurations, got none left")
    resources = _resources(_section(raw, "resources"))
    return Sweep(
        file=file,
        configs=distinct,
        n_duplicates=len(expanded) - len(distinct),
        notes=_notes(len(expanded) - len(distinct), exclusions, branches),
        resources=resources,
        pack=_pack(raw.get("pack")),
        resolved=_resolved(raw, experiment, branches, seeds, resources),
    )


def _notes(
    n_duplicates: int,
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    branches: Sequence[dict[str, _Choices]],
) -> tuple[str, ...]:
    notes = []
    if n_duplicates:
        notes.append(f"{n_duplicates} configurations come out equal to another: merged")
    for i, exclusion in enumerate(exclusions):
        if not any(_may_match(branch, exclusion) for branch in branches):
            notes.append(f"space.exclude[{i}] matches no configuration")
    return tuple(notes)


def _may_match(branch: dict[str, _Choices], exclusion: dict[str, tuple[Any, ...]]) -> bool:
    """Tell whether some configuration of a product agrees with an exclusion."""
    return all(
        set(branch[name].values if name in branch else (Config.model_fields[name].default,))
        & set(values)
        for name, values in exclusion.items()
    )


def _resolved(
    raw: dict[str, Any],
    experiment: str,
    branches: Sequence[dict[str, _Choices]],
    seeds: list[int],
    resources: Resources,
) -> dict[str, Any]:
    """Write the search space out with its defaults, in the file's own form."""
    resolved: dict[str, Any] = {"experiment": experiment}
    set_somewhere = {name for branch in branches for name in branch}
    for section in ("data", "training", "space", "stop"):
        given = copy.deepcopy(_section(raw, section))
        defaults = {
            name: list(field.default) if isinstance(field.default, tuple) else field.default
            for name, field in Config.model_fields.items()
            if section_of(name) == section and name not in set_somewhere
        }
        resolved[section] = {**given, **defaults}
    if "any_of" in resolved["space"]:
        entries = [dict(entry) for entry in resolved["space"]["any_of"]]  # may be shared anchors
        for entry, branch in zip(entries, branches, strict=True):
            for name in sorted(set_somewhere - set(branch)):
                default = Config.model_fields[name].default
                entry[name] = list(default) if isinstance(default, tuple) else default
        resolved["space"]["any_of"] = entries
    resolved["seeds"] = seeds
    resolved["resources"] = {"cpu": resources.cpu, "gpu": resources.gpu}
    resolved["pack"] = raw.get("pack") or "auto"
    return resolved
