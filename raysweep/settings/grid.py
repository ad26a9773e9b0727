"""The grids of a search space: check settings and values, form products, apply exclusions."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from raysweep.errors import InputError, all_of, together
from raysweep.learning.config import Config, defaults_of, expected_of
from raysweep.learning.declare import words_of
from raysweep.settings.foreign import ours_in_place_of
from raysweep.settings.names import known_setting
from raysweep.settings.sampling import KINDS, Domain, Search, domain_of, draw
from raysweep.user_text.values import near, reading, show

_TRIES = 20
"""With exclusions, at most this many times the requested number of samples is drawn."""


class Choices(NamedTuple):
    """The checked values of one setting, fixed (one value) or a grid, and their place in a file."""

    values: tuple[Any, ...]
    is_grid: bool
    place: str

    def place_of(self, value: Any) -> str:
        """Return the place of one of the values."""
        return f"{self.place}.grid_search[{self.values.index(value)}]" * self.is_grid or self.place


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(Config.model_fields[name].rebuild_annotation())


def check_value(name: str, value: Any, where: str, *, method: str | None = None) -> Any:
    """Return a setting's value in its type, or raise an ``InputError`` that names ``where``.

    ``method`` is the search method, given where a grid or a distribution is also allowed.
    """
    try:
        return _adapter(name).validate_python(value)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except (ValidationError, ValueError, OverflowError):
        hint = _hint_at_value(name, value, method)
        others = f", or a distribution such as {example_of(name)}" if is_drawn(method) else ""
        raise InputError(
            f"{where}: expected {expected_of(name)}{others}, got {show(value)}{hint}"
        ) from None


def is_drawn(method: str | None) -> bool:
    """Return whether a search method allows distributions in the space."""
    return method not in (None, "grid")


def _list_kind(method: str | None) -> str:
    """Return the key for a list of values to try; searchers do not take grids."""
    return "grid_search" if method in ("grid", "random") else "choice" * is_drawn(method)


def _hint_at_value(name: str, value: Any, method: str | None) -> str:
    kind = _kind_of(name)
    hint = _hint_at_foreign(name, value, method) if method is not None else ""
    if hint:
        return hint
    words = words_of(Config.model_fields[name])
    if not words:
        return reading(value, kind, _list_kind(method))
    several = [word.strip() for word in value.split(",")] if isinstance(value, str) else []
    if len(several) > 1 and set(several) <= set(words) and method is not None:
        return f"; write {{{_list_kind(method)}: [{', '.join(several)}]}} to try each"
    return near(value, words)


def _hint_at_foreign(name: str, value: Any, method: str | None) -> str:
    is_whole = _kind_of(name) == "whole"
    ours = ours_in_place_of(value, is_whole=is_whole, is_drawn=is_drawn(method))
    if _list_kind(method) == "choice":  # a searcher, which takes no grids
        ours = ours.replace("{grid_search:", "{choice:", 1)
    is_distribution = ours.startswith("{") and not ours.startswith("{grid_search")
    search = " and `search: {method: random, n_samples: 100}`"
    return f"; write {ours}" + search * (is_distribution and not is_drawn(method)) if ours else ""


def _kind_of(name: str) -> str:
    annotation = Config.model_fields[name].annotation
    kinds: dict[Any, str] = {int: "whole", float: "real", bool: "flag"}
    return kinds.get(annotation, "list")


def example_of(name: str) -> str:
    """Return an example of a distribution for a setting."""
    field = Config.model_fields[name]
    words = words_of(field)
    if words or field.annotation is bool:
        return f"{{choice: [{', '.join(words[:2]) or 'true, false'}]}}"
    if field.annotation not in (int, float):
        return "{choice: [[200], [200, 200]]}"
    limits = {
        key: getattr(part, key)
        for part in field.metadata
        for key in ("ge", "le", "gt", "lt")
        if getattr(part, key, None) is not None
    }
    if field.annotation is int:
        low = max(1, limits.get("ge", 1))
        return f"{{randint: [{low}, {min(100, limits.get('le', 100))}]}}"
    if "gt" in limits:
        return "{loguniform: [1e-4, 1e-1]}"
    return "{uniform: [0, 1]}" if limits.get("lt", 2) > 1 else "{uniform: [0, 0.5]}"


def choices(name: str, raw: Any, where: str, method: str = "grid") -> Choices | Domain:
    """Check the value, grid or distribution of one setting."""
    if isinstance(raw, dict):
        if len(raw) == 1 and set(raw) <= set(KINDS):
            is_whole = Config.model_fields[name].annotation is int
            return domain_of(name, raw, where, check_value, is_whole)
        if set(raw) != {"grid_search"}:
            raise _no_choice(name, raw, where, method)
        grid = raw["grid_search"]
        if not isinstance(grid, list) or not grid:
            got = "an empty list" if grid == [] else show(grid)
            raise InputError(f"{where}.grid_search: expected a list of values, got {got}")
        values = all_of(
            partial(check_value, name, value, f"{where}.grid_search[{i}]")
            for i, value in enumerate(grid)
        )
        return Choices(tuple(values), is_grid=True, place=where)
    if isinstance(raw, list) and not name.endswith("_widths"):
        kind = _list_kind(method)
        raise InputError(
            f"{where}: expected one value, got the list {show(raw)}; "
            f"to try each, write {{{kind}: {show(raw)}}}"
        )
    return Choices((check_value(name, raw, where, method=method),), is_grid=False, place=where)


def _no_choice(name: str, raw: dict[Any, Any], where: str, method: str) -> InputError:
    """Return the error for settings in place of a value."""
    keys = [str(key) for key in raw]
    hint = _hint_at_foreign(name, raw, method)
    if not hint and "normal" in str(raw.get("distribution", "")):
        hint = f"; raysweep has no normal distribution: write {example_of(name)}"
    if not hint and keys:
        hint = near(keys[0], ["grid_search", *KINDS]) or near(keys[-1], ["grid_search", *KINDS])
    forms = "{grid_search: [...]}" if _list_kind(method) == "grid_search" else ""
    if is_drawn(method):
        forms = " or ".join(filter(None, [f"a distribution such as {example_of(name)}", forms]))
    word = "a value," if " or " in forms else "a value or"
    return InputError(f"{where}: expected {word} {forms}, got {show(raw)}{hint}")


def section_of_file(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the settings under a key of the file; none if the key is absent or empty."""
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
"""Settings with their place in the file."""


def settings_at(raw: Mapping[str, Any], section: str, where: str, method: str = "grid") -> Branch:
    """Check the settings at ``where``; ``section`` determines which are allowed there."""

    def check(name: Any, value: Any) -> tuple[str, Choices | Domain]:
        known = known_setting(name, section, where)
        return known, choices(known, value, f"{where}.{name}", method)

    return dict(all_of(partial(check, name, value) for name, value in raw.items()))


def merge(parts: Places) -> Branch:
    """Merge settings from several places; setting one in two places is an error."""
    merged: Branch = {}
    places: dict[str, str] = {}
    mistakes: list[InputError] = []
    for place, settings in parts:
        for name, choices in settings.items():
            if name in merged:
                mistakes.append(
                    InputError(
                        f"{place}.{name}: expected to be set once, "
                        f"got it in {places[name]} too; keep one",
                        is_key=True,
                    )
                )
                continue
            merged[name], places[name] = choices, place
    if mistakes:
        raise together(mistakes)
    return merged


def space_parts(raw_space: dict[str, Any], method: str = "grid") -> Places:
    """Check the content of ``space:``: its settings, then those of each entry of ``any_of``."""
    plain = {name: raw for name, raw in raw_space.items() if name not in ("any_of", "exclude")}

    def check(where: str, settings: Any) -> tuple[str, Branch]:
        if not isinstance(settings, dict):
            raise InputError(f"{where}: expected `name: value` settings, got {show(settings)}")
        return where, settings_at(settings, "space", where, method)

    def check_list(entries: Any) -> list[tuple[str, Branch]]:
        if not isinstance(entries, list) or not entries:
            raise InputError(f"space.any_of: expected a list of settings, got {show(entries)}")
        return all_of(
            partial(check, f"space.any_of[{i}]", entry) for i, entry in enumerate(entries)
        )

    checks: list[Callable[[], list[tuple[str, Branch]]]] = [lambda: [check("space", plain)]]
    if "any_of" in raw_space:
        checks.append(lambda: check_list(raw_space["any_of"]))
    return [part for parts in all_of(checks) for part in parts]


def branches_of(fixed: Places, of_space: Places) -> list[Branch]:
    """Return one grid for each entry of ``any_of``, or a single one without ``any_of``."""
    parts = [*fixed, of_space[0]]
    base = merge(parts)
    if len(of_space) == 1:
        return [base]
    return all_of(partial(merge, [*parts, entry]) for entry in of_space[1:])


def exclusions_of(raw_space: dict[str, Any]) -> list[dict[str, tuple[Any, ...]]]:
    """Return the excluded values of each setting, for each entry of ``exclude``."""
    entries = raw_space.get("exclude")
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise InputError(f"space.exclude: expected a list of settings, got {show(entries)}")
    return all_of(
        partial(_exclusion, entry, f"space.exclude[{i}]") for i, entry in enumerate(entries)
    )


def _exclusion(entry: Any, where: str) -> dict[str, tuple[Any, ...]]:
    if not isinstance(entry, dict) or not entry:
        raise InputError(f"{where}: expected `name: value` settings, got {show(entry)}")
    exclusion = {}
    for name, given in settings_at(entry, "space", where).items():
        if isinstance(given, Domain):
            raise InputError(
                f"{given.place}: expected a value or {{grid_search: [...]}} to leave out, "
                f"got a distribution"
            )
        exclusion[name] = given.values
    return exclusion


def sample(
    branches: Sequence[Branch],
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    seeds: Sequence[int],
    experiment: str,
    search: Search,
) -> Iterator[Config]:
    """Yield the configurations of ``search.n_samples`` samples, each with its grids and seeds.

    A sample is drawn again if ``exclusions`` remove all of its configurations.
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
    """Yield the configurations of all products, for each seed, without the excluded ones.

    ``experiment`` applies to branches that do not name one. Incompatible settings raise
    ``InputError``, after some more configurations have been checked.
    """
    mistakes: list[InputError] = []
    n_more = 0
    for config in _expanded(branches, exclusions, seeds, experiment):
        if isinstance(config, InputError):
            mistakes.append(config)
        elif not mistakes:
            yield config
        n_more += bool(mistakes)
        if n_more == _MOST_MORE:
            break
    if mistakes:
        raise together(mistakes)


_MOST_MORE = 1000
"""Number of configurations that are checked from the first with incompatible settings on."""


def _expanded(
    branches: Sequence[dict[str, Choices]],
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    seeds: Sequence[int],
    experiment: str,
) -> Iterator[Config | InputError]:
    for seed in seeds:
        for branch in branches:
            names = list(branch)
            for values in itertools.product(*(branch[name].values for name in names)):
                given = dict(zip(names, values, strict=True))
                kind = given.get("experiment", experiment)
                setting = {**defaults_of(kind), **given, "seed": seed}
                # Exclude first, as exclusions may remove incompatible settings.
                if any(_matches(setting, exclusion) for exclusion in exclusions):
                    continue
                try:
                    config = _checked(setting, branch)
                except InputError as error:
                    yield from error.mistakes
                    continue
                if not any(_matches(config.model_dump(), exclusion) for exclusion in exclusions):
                    yield config


def _checked(setting: dict[str, Any], branch: dict[str, Choices]) -> Config:
    """Check that the settings of a configuration are compatible."""
    try:
        return Config(**setting)
    except InputError as errors:
        raise together([_in_file(error, setting, branch) for error in errors.mistakes]) from None


def _in_file(
    error: InputError, setting: Mapping[str, Any], branch: Mapping[str, Choices]
) -> InputError:
    """Return a rule's error with the place in the file, and with defaults marked as such.

    The rules refer to a setting by its section.
    """
    name = error.place.partition(".")[2]
    is_given = name in branch
    text = name_defaults(str(error), [n for n in setting if n not in (*branch, "experiment")])
    if not is_given and name in setting:
        text = re.sub(r", got [^ ,;)]+", r"\g<0> (the default)", text, count=1)
    return InputError(text, branch[name].place_of(setting[name]) if is_given else error.place)


def name_defaults(text: str, names: Sequence[str]) -> str:
    """Mark values of the named settings as defaults where a rule has ``with NAME VALUE``."""
    pattern = rf"(\b(?:with |\()(?:{'|'.join(names)}) [\w.-]*\w)( \()?"
    return re.sub(pattern, lambda m: f"{m[1]} (the default{'; ' if m[2] else ')'}", text)


def _matches(setting: Mapping[str, Any], exclusion: dict[str, tuple[Any, ...]]) -> bool:
    return all(setting[name] in values for name, values in exclusion.items())


def may_match(branch: Branch, exclusion: dict[str, tuple[Any, ...]], experiment: str) -> bool:
    """Return whether any configuration of a product matches an exclusion."""
    return any(
        all(
            not (has := values_in(branch, name, defaults_of(kind))) or set(has) & set(values)
            for name, values in exclusion.items()
        )
        for kind in kinds_of(branch, experiment)
    )


def values_in(branch: Branch, name: str, defaults: Mapping[str, Any]) -> tuple[Any, ...]:
    """List the values of a setting; empty if drawn from a range, which has too many."""
    return branch[name].values if name in branch else (defaults[name],)


def kinds_of(branch: Branch, experiment: str) -> tuple[str, ...]:
    """List the experiments of a branch; ``experiment`` is used if the branch names none."""
    return branch["experiment"].values if "experiment" in branch else (experiment,)
