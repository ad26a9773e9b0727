"""The grids of a search space: settings and their values, checked, crossed and cut."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from raysweep.errors import InputError
from raysweep.learning.config import Config, defaults_of, expected_of, section_of
from raysweep.learning.declare import words_of
from raysweep.settings.sampling import KINDS, Domain, Search, domain_of, draw
from raysweep.user_text.values import near, reading, show

TOP_KEYS = [
    "experiment",
    "data",
    "training",
    "space",
    "seeds",
    "divergence",
    "resources",
    "pack",
    "stage_cache",
    "max_seconds",
    "loggers",
    "search",
    "early_stopping",
    "time_budget",
    "max_configs",
    "max_gpu_hours",
]
RENAMED_KEYS = {"stages": "stage_cache", "stop": "divergence"}
"""Keys of earlier versions, with what they are called now."""


_TRIES = 20
"""So many times the samples asked for are drawn at most where some are excluded."""


class Choices(NamedTuple):
    """The checked values of one setting, fixed (one value) or a grid, and where they stand."""

    values: tuple[Any, ...]
    is_grid: bool
    place: str

    def place_of(self, value: Any) -> str:
        """Return where one of the values stands."""
        return f"{self.place}.grid_search[{self.values.index(value)}]" * self.is_grid or self.place


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(Config.model_fields[name].rebuild_annotation())


def check_value(name: str, value: Any, where: str) -> Any:
    """Return a setting's value in its type, or raise ``InputError`` that names ``where``."""
    try:
        return _adapter(name).validate_python(value)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except (ValidationError, ValueError, OverflowError):
        words = words_of(Config.model_fields[name])
        hint = near(value, words) if words else reading(value)
        raise InputError(
            f"{where}: expected {expected_of(name)}, got {show(value)}{hint}"
        ) from None


def choices(name: str, raw: Any, where: str) -> Choices | Domain:
    """Check the value, the grid or the distribution of one setting."""
    if isinstance(raw, dict):
        if len(raw) == 1 and set(raw) <= set(KINDS):
            is_whole = Config.model_fields[name].annotation is int
            return domain_of(name, raw, where, check_value, is_whole)
        if set(raw) != {"grid_search"}:
            keys = [str(key) for key in raw]
            hint = near(keys[0], ["grid_search", *KINDS]) if keys else ""
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
        return Choices(values, is_grid=True, place=where)
    if isinstance(raw, list) and not name.endswith("_widths"):
        raise InputError(
            f"{where}: expected one value, got the list {show(raw)}; "
            f"to try each, write {{grid_search: {show(raw)}}}"
        )
    return Choices((check_value(name, raw, where),), is_grid=False, place=where)


def section_of_file(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the settings under a key of the file; none where the key is absent or empty."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        has_colon = isinstance(value, str) and ":" in value[:-1]
        hint = "; put a plain space after the colon" if has_colon else ""
        raise InputError(f"{key}: expected settings such as `name: value`, got {show(value)}{hint}")
    return value


Branch = dict[str, Choices | Domain]
Places = Sequence[tuple[str, Branch]]
"""Settings by the place in the file where they stand."""


def _known_setting(name: Any, section: str, where: str) -> str:
    fields = Config.model_fields
    is_top = section_of(name) in ("top", "seeds") if name in fields else True
    if is_top and not (name == "experiment" and section == "space"):
        hint = _misplaced(str(name))
        if not hint:
            sections = (
                ("data", "training", "divergence", "space") if section == "space" else (section,)
            )
            known = [field for field in fields if section_of(field) in sections]
            hint = near(name, known) or near(name, list(fields)) or f"; known: {', '.join(known)}"
            if isinstance(name, int | float):  # {lr: 1,5} are lr and a key 5
                hint = "; no comma inside a number, and lists in [ ]"
        raise InputError(
            f"{where}: expected a known setting, got {show(name)}{hint}",
            f"{where}.{name}",
            is_key=True,
        )
    if section not in ("space", section_of(name)):
        raise InputError(
            f"{where}: expected a setting of `{section}:`, got {name!r}; "
            f"write it under `{section_of(name)}:`",
            f"{where}.{name}",
            is_key=True,
        )
    return str(name)


def _misplaced(name: str) -> str:
    if name == "seed":
        return "; write `seeds: [0, 1]` at the top of the file"
    if name in ("any_of", "exclude"):
        return f"; `{name}:` stands right under `space:` only"
    name = RENAMED_KEYS.get(name, name)
    if name in TOP_KEYS:
        return f"; write `{name}:` at the top of the file"
    return ""


def settings_at(raw: Mapping[str, Any], section: str, where: str) -> Branch:
    """Check settings that stand at ``where``; ``section`` says which are allowed there."""
    return {
        _known_setting(name, section, where): choices(str(name), value, f"{where}.{name}")
        for name, value in raw.items()
    }


def merge(parts: Places) -> Branch:
    """Unite settings of several places; one set in two places is an error."""
    merged: Branch = {}
    places: dict[str, str] = {}
    for place, settings in parts:
        for name, choices in settings.items():
            if name in merged:
                raise InputError(
                    f"{place}.{name}: expected to be set once, "
                    f"got it in {places[name]} too; keep one",
                    is_key=True,
                )
            merged[name], places[name] = choices, place
    return merged


def branches_of(raw_space: dict[str, Any], fixed: Places) -> list[Branch]:
    """Return one grid for each entry of ``any_of`` (one in all without it)."""
    plain = {name: raw for name, raw in raw_space.items() if name not in ("any_of", "exclude")}
    parts = [*fixed, ("space", settings_at(plain, "space", "space"))]
    base = merge(parts)
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
        branches.append(merge([*parts, (where, settings_at(entry, "space", where))]))
    return branches


def exclusions_of(raw_space: dict[str, Any]) -> list[dict[str, tuple[Any, ...]]]:
    """Return for each entry of ``exclude`` the values that its settings name."""
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
        settings = settings_at(entry, "space", where)
        exclusion = {}
        for name, given in settings.items():
            if isinstance(given, Domain):
                raise InputError(
                    f"{given.place}: expected a value or {{grid_search: [...]}} to leave out, "
                    f"got a distribution"
                )
            exclusion[name] = given.values
        exclusions.append(exclusion)
    return exclusions


def sample(
    branches: Sequence[Branch],
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    seeds: Sequence[int],
    experiment: str,
    search: Search,
) -> Iterator[Config]:
    """Yield the configurations of ``search.n_samples`` samples: each one's grids, for each seed.

    A sample of which ``exclusions`` leave nothing is drawn again.
    """
    n = search.n_samples * (_TRIES if exclusions else 1)
    n_kept = 0
    for branch in draw(branches, search, n, _drawn):
        configs = list(expand([branch], exclusions, seeds, experiment))
        yield from configs
        n_kept += bool(configs)
        if n_kept == search.n_samples:
            return
    raise InputError(
        f"space.exclude: expected to leave {search.n_samples:,} samples, got {n_kept:,} after "
        f"drawing {n:,}; exclude less"
    )


def _drawn(domain: Domain, u: float) -> Choices:
    return Choices((domain.at(u),), is_grid=False, place=domain.place)


def expand(
    branches: Sequence[dict[str, Choices]],
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    seeds: Sequence[int],
    experiment: str,
) -> Iterator[Config]:
    """Yield the configurations of all products, for each seed, less the excluded ones.

    ``experiment`` is that of branches that name none.
    """
    for seed in seeds:
        for branch in branches:
            names = list(branch)
            for values in itertools.product(*(branch[name].values for name in names)):
                given = dict(zip(names, values, strict=True))
                kind = given.get("experiment", experiment)
                setting = {**defaults_of(kind), **given, "seed": seed}
                # Before the settings are held against each other: exclude removes bad pairs.
                if any(_matches(setting, exclusion) for exclusion in exclusions):
                    continue
                config = _checked(setting, branch)
                if not any(_matches(config.model_dump(), exclusion) for exclusion in exclusions):
                    yield config


def _checked(setting: dict[str, Any], branch: dict[str, Choices]) -> Config:
    """Check that the settings of a configuration go together."""
    try:
        return Config(**setting)
    except InputError as error:
        # The rules name a setting by its section; say where it stands in this file.
        name = error.place.partition(".")[2]
        if name in branch:
            error.place = branch[name].place_of(setting[name])
        raise


def _matches(setting: Mapping[str, Any], exclusion: dict[str, tuple[Any, ...]]) -> bool:
    return all(setting[name] in values for name, values in exclusion.items())


def may_match(branch: Branch, exclusion: dict[str, tuple[Any, ...]], experiment: str) -> bool:
    """Return whether some configuration of a product agrees with an exclusion."""
    return any(
        all(
            not (has := values_in(branch, name, defaults_of(kind))) or set(has) & set(values)
            for name, values in exclusion.items()
        )
        for kind in kinds_of(branch, experiment)
    )


def values_in(branch: Branch, name: str, defaults: Mapping[str, Any]) -> tuple[Any, ...]:
    """List the values that a setting takes; none for one drawn from a range: they are too many."""
    return branch[name].values if name in branch else (defaults[name],)


def kinds_of(branch: Branch, experiment: str) -> tuple[str, ...]:
    """List the experiments of a branch; ``experiment`` is that of one that names none."""
    return branch["experiment"].values if "experiment" in branch else (experiment,)
