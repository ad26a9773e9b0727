"""Names in a search space: which are valid where, and suggestions for unknown ones."""

from collections.abc import Sequence
from typing import Any

from raysweep.errors import InputError
from raysweep.learning.config import Config, section_of
from raysweep.settings.foreign import FOREIGN_WORDS, NOT_HERE, OWN_NAMES, ours_for
from raysweep.settings.sampling import METHODS
from raysweep.user_text.secret_names import secret_within
from raysweep.user_text.values import near, nearest, show, some_of

TOP_KEYS = [
    "experiment",
    "data",
    "training",
    "space",
    "seeds",
    "divergence",
    "resources",
    "pack",
    "max_packs",
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
"""Keys of earlier versions and their current names."""
SECTIONS = ("data", "training", "divergence", "space")
"""Keys that hold settings; the last may hold any setting."""
_PAGE = "Search spaces"


def known_setting(name: Any, section: str, where: str) -> str:
    """Return the name of a setting allowed in ``section``; raise ``InputError`` otherwise."""
    fields = Config.model_fields
    is_top = section_of(name) in ("top", "seeds") if name in fields else True
    if is_top and not (name == "experiment" and section == "space"):
        hint = _misplaced(str(name)) or _hint_at_setting(name, section)
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


def _hint_at_setting(name: Any, section: str) -> str:
    if isinstance(name, int | float):  # {lr: 1,5} has the keys lr and 5
        return "; write numbers without commas, and lists in [ ]"
    fields = Config.model_fields
    sections = SECTIONS if section == "space" else (section,)
    known = [field for field in fields if section_of(field) in sections]
    known.sort(key=lambda field: section_of(field) != section)
    ours = ours_for(name)
    if ours in fields:
        is_here = ours in known
        return f"; write `{ours}:`" + ("" if is_here else f" under `{section_of(ours)}:`")
    if ours.partition(":")[0] in TOP_KEYS:
        return f"; write `{ours}` at the top of the file"
    if ours.startswith("{"):
        return f"; write `{ours}` after a setting's name"
    meant = near(name, known) or near(name, list(fields))
    misspelt = "" if meant else _setting_meant(str(name), list(fields))
    if misspelt:
        meant = f" (did you mean {misspelt}, under `{section_of(misspelt)}:`?)"
    return meant or some_of(known, _PAGE)


def _misplaced(name: str) -> str:
    if name == "seed":
        return "; write `seeds: [0, 1]` at the top of the file"
    if name in ("any_of", "exclude"):
        return f"; write `{name}:` directly under `space:`"
    name = RENAMED_KEYS.get(name, name)
    if name in TOP_KEYS:
        return f"; write `{name}:` at the top of the file"
    return ""


def check_key(key: Any, value: Any) -> None:
    """Raise ``InputError`` for an unknown key at the top of the file."""
    if key not in TOP_KEYS:
        hint = _hint_at_key(key, value)
        raise InputError(f"expected a known key, got {show(key)}{hint}", str(key), is_key=True)


def _hint_at_key(key: Any, value: Any) -> str:
    """Return a hint at the key that an unknown one may mean."""
    if key in RENAMED_KEYS:
        takes = " with true, false or {max_gb: 10}" if key == "stages" else ""
        return f"; write `{RENAMED_KEYS[key]}:`{takes}"
    if key == "seed":
        return f"; write `seeds: [{value if isinstance(value, int) else 0}]`"
    if key in Config.model_fields:
        return f"; write it under `{section_of(key)}:`"
    return _foreign_hint_at_key(key, value) or _near_key(key) or some_of(TOP_KEYS, _PAGE)


def _foreign_hint_at_key(key: Any, value: Any) -> str:
    if key in OWN_NAMES:
        return f"; it is a command-line option: {OWN_NAMES[key]}"
    if key in NOT_HERE:
        return f"; remove it: {NOT_HERE[key]}"
    if key == "method" and value == "grid":
        return "; remove it: without `search:` the whole grid is run"
    if key == "value" and not isinstance(value, dict):  # W&B's `lr: {value: 0.1}`, dedented
        return f"; write {show(value)} itself after a setting's name"
    ours = ours_for(key)
    if key == "method" and value in METHODS:
        ours = f"search: {{method: {value}, n_samples: 100}}"
    if ours in Config.model_fields:
        return f"; write `{ours}:` under `{section_of(ours)}:`"
    return f"; write `{ours}`" if ours else ""


def _near_key(key: Any) -> str:
    settings = [name for name in Config.model_fields if section_of(name) in SECTIONS]
    name = nearest(key, settings)
    if name and not nearest(key, TOP_KEYS):
        return f" (did you mean {name}, under `{section_of(name)}:`?)"
    return near(key, TOP_KEYS)


def hint_at_path(parts: Sequence[str], text: str) -> str:
    """Return a hint at the correct override if a path starts with an unknown or wrong key.

    ``lr=1e-3`` and ``training.lr=1e-3`` give ``space.lr=1e-3``; '' if the path may be right.
    """
    first, rest = parts[0].lstrip("+~"), list(parts[1:])
    shown = text if len(text) <= 60 and text.isprintable() and not secret_within(text) else "..."
    fields = [name for name in Config.model_fields if section_of(name) in SECTIONS]
    meant = ""
    if first in SECTIONS and rest:
        is_known = rest[0] in fields and (first == "space" or section_of(rest[0]) == first)
        if not is_known and rest[0] not in ("any_of", "exclude", "experiment"):
            meant, *rest = _setting_meant(rest[0], fields), *rest[1:]
    elif first not in TOP_KEYS:
        meant = _setting_meant(first, fields)
        key = nearest(first, TOP_KEYS)
        if key and (rest or not meant):
            return f"; write {'.'.join([key, *rest])}={shown}"
    if not meant and first in TOP_KEYS and first != parts[0]:  # Hydra's +space.lr=1
        return f"; write {'.'.join([first, *rest])}={shown}"
    if not meant:
        return ""
    return f"; write {'.'.join([section_of(meant), meant, *rest])}={shown}"


def change_meant(name: str) -> str:
    """Return a hint at what was meant by a keyword argument in Python that is no key.

    ``lr=1e-3`` is ``space={'lr': ...}``; '' where no setting or key of earlier versions is meant.
    """
    if name == "seed":
        return "; write seeds=[0, 1]"
    if name in RENAMED_KEYS:
        return f"; write {RENAMED_KEYS[name]}="
    fields = [field for field in Config.model_fields if section_of(field) in SECTIONS]
    is_near_key = name not in fields and bool(nearest(name, TOP_KEYS))
    meant = "" if is_near_key else _setting_meant(name, fields)
    return f"; write {section_of(meant)}={{{meant!r}: ...}}" if meant else ""


def _setting_meant(name: str, fields: Sequence[str]) -> str:
    """Return the setting that a word names or resembles, also as a word of other programs."""
    if name in fields:
        return name
    ours = ours_for(name)
    if ours in fields:
        return ours
    elsewhere = [word for word, ours in FOREIGN_WORDS.items() if ours in fields]
    return nearest(name, fields) or ours_for(nearest(name, elsewhere))
