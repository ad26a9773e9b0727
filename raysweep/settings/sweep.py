"""Read a search-space file, apply overrides, check it and expand it into configurations."""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raysweep.clean_text import clean_line
from raysweep.errors import CombinedInputError, InputError, together
from raysweep.learning.config import Config, defaults_of, section_of
from raysweep.settings.execution import Resources, StageCaching
from raysweep.settings.grid import (
    Branch,
    Choices,
    branches_of,
    expand,
    kinds_of,
    may_match,
    name_defaults,
    sample,
    section_of_file,
)
from raysweep.settings.overrides import Overrides, apply_overrides, read_without_secrets
from raysweep.settings.parts import BUDGETS, checked_parts
from raysweep.settings.plain_values import plain_space
from raysweep.settings.sampling import RAY_SEARCHERS, Domain, Search
from raysweep.settings.space import Space, applying_in, check_applying, space_of
from raysweep.settings.stopping import (
    Budget,
    EarlyStopping,
    check_epochs,
)
from raysweep.settings.yaml_nodes import MAX_BYTES, Mark, Node, locate, mark_after
from raysweep.settings.yaml_text import construct
from raysweep.user_text.values import near, show

MAX_CONFIGS = 1_000_000
_TRIED = 20
_MAX_COMPARISONS = 100_000_000  # configurations x entries of exclude: about a minute


@dataclass(frozen=True)
class Sweep:
    """A checked search space with its distinct configurations in the file's order.

    ``notes`` are lines for the user about possible slips; ``resolved`` is the search space after
    overrides with every default written out; ``pack`` is the largest number of configurations in a
    pack, or None for the planner's choice; at most ``max_packs`` run at once (None: as many as
    there is room for); ``max_seconds`` is the limit in wall-clock seconds for one epoch of a pack,
    or None for no limit. If results determine what is tried next
    (``search.is_adaptive``), there are no configurations, but a ``space`` to find them in and some
    ``examples`` from it. ``loggers`` are the loggers used in addition to the tables.
    ``early_stopping`` is the rule that stops configurations early (None: none stop), ``budget``
    the limits of one run.
    """

    file: str
    configs: tuple[Config, ...]
    n_duplicates: int
    notes: tuple[str, ...]
    resources: Resources
    pack: int | None
    max_packs: int | None
    stage_cache: StageCaching
    max_seconds: float | None
    resolved: dict[str, Any]
    search: Search = field(default_factory=Search)
    loggers: tuple[str, ...] = ()
    space: Space | None = None
    examples: tuple[Config, ...] = ()
    early_stopping: EarlyStopping | None = None
    budget: Budget = field(default_factory=Budget)


def load_sweep(path: Path, overrides: Overrides = (), *, max_configs: int = MAX_CONFIGS) -> Sweep:
    """Read a search space and apply ``KEY=VALUE`` overrides, or changes as ``apply_overrides``.

    Raises ``InputError`` with one line that starts with the file's name. A search space of more
    than ``max_configs`` configurations, including excluded and equal ones, is refused by its count
    without expanding it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(_missing_file(path)) from None
    except (OSError, ValueError) as error:  # ValueError: the name has a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: expected a readable file, got: {reason}") from None
    return sweep_from(path.name, content, overrides, max_configs=max_configs)


def sweep_from(
    name: str, content: bytes, overrides: Overrides = (), *, max_configs: int = MAX_CONFIGS
) -> Sweep:
    """Return the sweep for the content of a search-space file, as ``load_sweep`` does."""
    located: Node | None = None  # overrides have no place in the file
    paths: list[str] = []
    try:
        if len(content) > MAX_BYTES:
            raise InputError(f"expected at most {MAX_BYTES:,} bytes, got more; cut the file")
        root = read_without_secrets(_decoded(content))
        raw = None if root is None else construct(root)
        if not isinstance(raw, dict):
            what = "an empty file" if raw is None else show(raw)
            raise InputError(f"expected keys such as `experiment:` and `space:`, got {what}")
        paths = apply_overrides(raw, overrides)
        located = root
        return _build(name, raw, max_configs)
    except InputError as error:
        raise _named(error, name, located, paths) from None


def sweep_of(
    name: str,
    raw: Mapping[str, Any],
    overrides: Overrides = (),
    *,
    max_configs: int = MAX_CONFIGS,
) -> Sweep:
    """Return the sweep for a search space given as a dict, as ``load_sweep`` does.

    Values may be NumPy or pandas values and Ray Tune or Optuna distributions (``plain_space``
    converts them to a file's form). Messages start with ``name`` and have no line and column.
    """
    try:
        plain = plain_space(raw)
        apply_overrides(plain, overrides)
        return _build(name, plain, max_configs)
    except InputError as error:
        raise _named(error, name) from None


def _named(
    errors: InputError, name: str, root: Node | None = None, overridden: Sequence[str] = ()
) -> InputError:
    """Return mistakes with the file's name and their line and column, in the file's order."""
    marked = []
    for error in errors.mistakes:
        mark = _position(error, root, overridden)
        text = f"{name}: {error}{f' ({mark})' if mark else ''}"
        marked.append((mark or Mark(0, 0), InputError(text, error.place, is_key=error.is_key)))
    marked.sort(key=lambda pair: pair[0])
    has_more = isinstance(errors, CombinedInputError) and errors.has_more
    return together([error for _, error in marked], clean_line(name), has_more)


def _decoded(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"expected UTF-8 text, got UTF-16 (byte 0x{content[0]:02x} at offset 0); "
            "save it as UTF-8"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        raise InputError(
            f"{mark_after(before)}: expected UTF-8 text, got the byte "
            f"0x{content[error.start]:02x} at offset {error.start}; save it as UTF-8"
        ) from None


def _position(error: InputError, root: Node | None, overridden: Sequence[str]) -> Mark | None:
    """Return the line and column of a mistake, None if it is not in the file."""
    path = re.sub(r"\[(\d+)\]", r".\1", error.place)
    if any(f"{path}.".startswith(f"{other}.") for other in overridden):
        return None
    return locate(root, error.place, is_key=error.is_key)


def _missing_file(path: Path) -> str:
    folder = path.parent
    names = sorted(str(file) for file in folder.glob("*.y*ml")) if folder.is_dir() else []
    elsewhere = _same_name_below(path)
    hint = f"; did you mean {', '.join(elsewhere[:5])}?" if elsewhere else near(path, names)
    hint = hint or (f"; available: {', '.join(names[:5])}" if names else "")
    return f"{path}: expected a search-space file, found none{hint}"


def _same_name_below(path: Path) -> list[str]:
    """List files with a missing file's name, in the folder where it should be and one below."""
    names = {path.name} if path.suffix else {f"{path.name}.yaml", f"{path.name}.yml"}
    folder = path.parent
    try:
        folders = sorted(below for below in folder.iterdir() if below.is_dir())[:_MOST_FOLDERS]
        in_order = sorted(folders, key=lambda below: below.name != "search_spaces")
        found = [below / name for below in (folder, *in_order) for name in sorted(names)]
        return [str(file) for file in found if file.is_file()]
    except (OSError, ValueError):
        return []


_MOST_FOLDERS = 200
"""Home directories can have thousands, on slow disks."""


def _build(file: str, raw: dict[str, Any], max_configs: int) -> Sweep:
    parts = checked_parts(raw)
    experiment, seeds, search = parts.experiment, parts.seeds, parts.search
    exclusions = parts.exclusions
    branches = branches_of(parts.fixed, parts.of_space)
    _check_method(search, branches, experiment)
    _check_size(search, _count(search, branches, seeds), max_configs, len(exclusions))
    distinct_seeds = list(dict.fromkeys(seeds))
    space = (
        space_of(branches, exclusions, distinct_seeds, experiment) if search.is_adaptive else None
    )
    drawn = replace(search, n_samples=min(_TRIED, search.n_samples)) if space else search
    try:
        if search.method == "grid":
            expanded = list(expand(_grids(branches), exclusions, seeds, experiment))
        else:
            # For an adaptive search, draw a few to check that settings are compatible.
            expanded = list(sample(branches, exclusions, seeds, experiment, drawn))
    except InputError as errors:
        if "experiment" in raw or any("experiment" in branch for branch in branches):
            raise
        raise _with_default_experiment(errors) from None
    distinct = () if space else tuple({config.id: config for config in expanded}.values())
    if not distinct and not space:
        raise InputError(
            "space.exclude: expected to leave some configurations, got none; exclude less"
        )
    n_duplicates = 0 if space else len(expanded) - len(distinct)
    if parts.early_stopping:
        check_epochs(parts.early_stopping, expanded)
    return Sweep(
        file=file,
        configs=distinct,
        n_duplicates=n_duplicates,
        notes=_notes(n_duplicates, exclusions, branches, experiment),
        resources=parts.resources,
        pack=parts.pack,
        max_packs=parts.max_packs,
        stage_cache=parts.stage_cache,
        max_seconds=parts.max_seconds,
        loggers=parts.loggers,
        resolved=_resolved(raw, experiment, branches, seeds, parts.resources)
        | {"stage_cache": parts.stage_cache.to_plain(), "max_seconds": parts.max_seconds}
        | {"loggers": list(parts.loggers), "max_packs": parts.max_packs}
        | {"early_stopping": parts.early_stopping.to_plain() if parts.early_stopping else None}
        | {key: raw.get(key) for key in BUDGETS}
        | _resolved_search(search),
        search=search,
        space=space,
        examples=tuple(expanded) if space else (),
        early_stopping=parts.early_stopping,
        budget=parts.budget,
    )


def _with_default_experiment(errors: InputError) -> InputError:
    """Return the mistakes with the experiment, which the file does not name, marked as default."""
    return together(
        [InputError(name_defaults(str(e), ["experiment"]), e.place) for e in errors.mistakes]
    )


def _check_method(search: Search, branches: Sequence[Branch], experiment: str) -> None:
    """Check that the search method supports the distributions and conditions of a space."""
    domains = [c for branch in branches for c in branch.values() if isinstance(c, Domain)]
    if search.method == "grid" and domains:
        raise InputError(
            f"{domains[0].place}: expected a value or {{grid_search: [...]}} in a grid, got a "
            f"distribution; to draw from it, write search: {{method: random, n_samples: 100}}"
        )
    if search.method != "grid" and not domains and len(branches) == 1:
        raise InputError(
            "search: expected something to draw in space:, such as "
            "lr: {loguniform: [1e-4, 1e-1]}, got only values and grids",
            "search",
        )
    check_applying(branches, experiment)
    if search.method in RAY_SEARCHERS and len(branches) > 1:
        raise InputError(
            f"space.any_of: expected no conditional settings for method {search.method}, got "
            f"{len(branches)} entries; write search: {{method: optuna}}, which supports them"
        )
    if search.method in RAY_SEARCHERS and len(found := applying_in(branches[0], experiment)) > 1:
        name = min(frozenset().union(*found) - frozenset.intersection(*found))
        raise InputError(
            f"{branches[0][name].place}: expected no conditional settings for method "
            f"{search.method}, got {name}, which applies to some configurations only; write "
            f"search: {{method: optuna}}, which supports them"
        )


def _count(search: Search, branches: Sequence[Branch], seeds: Sequence[int]) -> int:
    """Count the configurations before making any; for samples, return an upper bound."""
    grids = [
        math.prod(len(c.values) for c in branch.values() if not isinstance(c, Domain))
        for branch in branches
    ]
    n = sum(grids) if search.method == "grid" else search.n_samples * max(grids)
    return len(seeds) * n


def _check_size(search: Search, n_configs: int, max_configs: int, n_exclusions: int) -> None:
    """Check that a search space is not too large to expand."""
    if n_configs > max_configs:
        what = "cut the grid" if search.method == "grid" else "draw fewer samples"
        raise InputError(
            f"space: expected at most {max_configs:,} configurations, got {n_configs:,}; "
            f"{what} or raise --max-configs"
        )
    n_most = _MAX_COMPARISONS // n_configs
    if n_exclusions > n_most:
        raise InputError(
            f"space.exclude: expected at most {n_most:,} entries with {n_configs:,} "
            f"configurations, got {n_exclusions:,}; cut the grid instead"
        )


def _grids(branches: Sequence[Branch]) -> list[dict[str, Choices]]:
    return [
        {name: c for name, c in branch.items() if not isinstance(c, Domain)} for branch in branches
    ]


def _notes(
    n_duplicates: int,
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    branches: Sequence[Branch],
    experiment: str,
) -> tuple[str, ...]:
    notes = []
    if n_duplicates:
        notes.append(f"{n_duplicates} configurations are equal to others and were merged")
    for i, exclusion in enumerate(exclusions):
        if not any(may_match(branch, exclusion, experiment) for branch in branches):
            notes.append(f"space.exclude[{i}] matches no configuration")
    return tuple(notes)


def _resolved_search(search: Search) -> dict[str, Any]:
    plain = search.to_plain()
    return {"search": plain} if plain else {}


def _resolved(
    raw: dict[str, Any],
    experiment: str,
    branches: Sequence[Branch],
    seeds: list[int],
    resources: Resources,
) -> dict[str, Any]:
    """Return the search space with its defaults, in the form of a file.

    Defaults shared by all branches are in their section, others in their entry of ``any_of``.
    """
    of_branch = [_unset(branch, experiment) for branch in branches]
    first = of_branch[0].items()
    shared = {n: v for n, v in first if all(n in o and o[n] == v for o in of_branch)}
    resolved: dict[str, Any] = {"experiment": experiment}
    for section in ("data", "training", "space", "divergence"):
        given = copy.deepcopy(section_of_file(raw, section))
        resolved[section] = given | {n: v for n, v in shared.items() if section_of(n) == section}
    if "any_of" in resolved["space"]:
        resolved["space"]["any_of"] = [
            {**entry, **{n: v for n, v in unset.items() if n not in shared}}
            for entry, unset in zip(resolved["space"]["any_of"], of_branch, strict=True)
        ]
    resolved["seeds"] = seeds
    resolved["resources"] = {
        "cpu": resources.cpu,
        "gpu": "auto" if resources.is_gpu_auto else resources.gpu,
    }
    resolved["pack"] = raw.get("pack") or "auto"
    return resolved


def _unset(branch: Branch, experiment: str) -> dict[str, Any]:
    """Return the defaults of a branch as plain values.

    Leaves out defaults that differ between the experiments of a branch with several.
    """
    first, *others = map(defaults_of, kinds_of(branch, experiment))
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in first.items()
        if section_of(name) in ("data", "training", "space", "divergence")
        and name not in branch
        and all(other[name] == value for other in others)
    }
