"""The JSON Schema of search spaces, used by editors for completion and validation."""

import json
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter

from raysweep.learning.config import Config, expected_of, section_of
from raysweep.settings import execution, stopping
from raysweep.settings.execution import Resources, StageCaching
from raysweep.settings.names import TOP_KEYS
from raysweep.settings.sampling import KINDS, METHODS, MOST_SAMPLES, SAMPLERS, SEQUENCES, Search
from raysweep.settings.stopping import EarlyStopping

# Text in YAML 1.2 that raysweep.settings reads as a number or a flag. The non-ASCII range covers
# digits of other scripts, typographic minus signs and unusual spaces.
_NUMBER_TEXT = (
    r"^[-+]?(?!0[0-9_])[\u0080-\uffff]*"
    r"([0-9\u0080-\uffff][0-9_\u0080-\uffff]*\.?[0-9_\u0080-\uffff]*|\.[0-9][0-9_]*)"
    r"([eE][-+]?[0-9\u0080-\uffff]+)?$"
)
_FLAG_TEXT = (
    "^([yY]([eE][sS])?|[nN][oO]?|[oO][nN]|[oO][fF][fF]|[tT]([rR][uU][eE])?"
    "|[fF]([aA][lL][sS][eE])?|[01])$"
)
_SWITCH_TEXT = (
    "^([yY][eE][sS]|[nN][oO]|[oO][nN]|[oO][fF][fF]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])$"
)
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_NUMBER = {"type": ["number", "string"], "pattern": _NUMBER_TEXT}

_DESCRIPTIONS = {
    "experiment": "What is run; each experiment has its own defaults.",
    "data": "Settings of the data.",
    "training": "Settings of the training.",
    "space": "What varies: a plain value is fixed, {grid_search: [...]} is a grid. May hold any "
    "setting. The sweep is the product of all grids, once for each seed.",
    "seeds": "Each configuration is run once with each of these.",
    "divergence": "When a configuration counts as diverged.",
    "resources": "What each pack gets.",
    "pack": "Maximum number of configurations that train together; with auto the planner "
    "chooses. Changes no number.",
    "max_packs": "Maximum number of packs that run at once; without it, as many as there is room "
    "for. Changes no number.",
    "stage_cache": "Whether finished stages are kept in .stages/ of the results folder for "
    "later packs and sweeps.",
    "max_seconds": "Time limit for one epoch of a pack: seconds, or text such as 90s, 30min.",
    "loggers": "Programs that log each configuration as a run.",
    "search": "How configurations are found: complete grids, or samples from distributions.",
    "method": "grid: all; random: drawn in advance; others: results determine what is tried next.",
    "n_samples": "Number of samples; each is combined with all grids and seeds.",
    "seed": "Seed of the samples.",
    "sequence": "Random numbers, or a Sobol sequence, which covers the space more evenly.",
    "sampler": "Algorithm that suggests the next samples.",
    "metric": "Metric to optimise; a list for several objectives.",
    "mode": "max or min, for each metric; default: the metric's better direction.",
    "early_stopping": "Rule that stops configurations that fall behind the others.",
    "early_stopping.method": "The rule, as in Ray Tune: ASHA, asynchronous HyperBand, median.",
    "early_stopping.metric": "Metric to compare, measured after each epoch.",
    "grace_period": "Number of classifier epochs, over all tasks, before which none stops.",
    "reduction_factor": "At a rung, one in this many continues; rungs are this factor apart.",
    "brackets": "Number of sets of rungs; each configuration uses one.",
    "min_samples_required": "Minimum number of other configurations to compare with.",
    "time_budget": "Wall-time limit of one run: seconds, or text such as 90s, 30min, 1h30m, 2d.",
    "max_configs": "Maximum number of configurations that one run starts.",
    "max_gpu_hours": "Maximum number of whole-GPU hours that the packs of one run use.",
    "any_of": "A list of settings: the sweep is the union of their products, each combined with "
    "the settings next to any_of.",
    "exclude": "A list of settings: configurations that match a whole entry are left out.",
    "cpu": "CPUs of each pack, one thread each.",
    "gpu": "GPUs of each pack, or a fraction of one; with auto the driver chooses it.",
    "max_gb": "Maximum size of the kept stages in GB (10^9 bytes).",
}


def search_space_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 7) of a search-space file, from the settings' types."""
    names = list(Config.model_fields)
    definitions = {name: _value(name) for name in names}
    definitions["range"] = _range()
    for name in names:
        definitions[f"{name}_or_grid"] = _or(name, [_grid(name)])
        definitions[f"{name}_or_drawn"] = _or(name, [_grid(name), *_drawn(name)])
    varied = [name for name in names if section_of(name) not in ("top", "seeds")]
    varied.insert(0, "experiment")
    for key, ending in (("any_of", "or_drawn"), ("exclude", "or_grid")):
        definitions[f"entry_of_{key}"] = {**_section(varied, ending), "type": "object"}
    of_space = {
        "any_of": _list_of_settings("any_of", minItems=1),
        "exclude": _list_of_settings("exclude"),
    }
    properties: dict[str, Any] = {"experiment": {"$ref": "#/definitions/experiment"}}
    for section in ("data", "training", "divergence"):
        own = [name for name in names if section_of(name) == section]
        properties[section] = _section(own, "or_drawn")
    properties["space"] = _section(varied, "or_drawn", of_space)
    properties |= _of_execution()
    if set(properties) != set(TOP_KEYS):
        raise SystemExit(f"docs/json_schema.py: no schema for {set(properties) ^ set(TOP_KEYS)}")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "raysweep search space",
        "description": "One YAML file is one sweep: docs/search-spaces.md.",
        "type": "object",
        "properties": {key: _described(key, properties[key]) for key in TOP_KEYS},
        "additionalProperties": False,
        "definitions": definitions,
    }


def _described(key: str, schema: dict[str, Any], section: str = "") -> dict[str, Any]:
    text = _DESCRIPTIONS.get(f"{section}.{key}") or _DESCRIPTIONS[key]
    return schema if "$ref" in schema else {"description": text, **schema}


def _plain(name: str) -> dict[str, Any]:
    """Return the schema of one value of a setting, from its type and limits."""
    field = Config.model_fields[name]
    given = TypeAdapter(field.rebuild_annotation()).json_schema()
    kind = given.get("type")
    limits = {key: given[key] for key in _LIMITS if key in given}
    if kind in ("integer", "number"):
        return {"type": [kind, "string"], **limits, "pattern": _NUMBER_TEXT}
    if kind == "boolean":
        return {"type": ["boolean", "string"], "pattern": _FLAG_TEXT}
    if name == "replay":
        no = "^([nN][oO]|[oO][fF][fF]|[fF][aA][lL][sS][eE])$"
        rest = [{"enum": [False, None]}, {"type": "string", "pattern": no}]
        return {"anyOf": [given, {"anyOf": rest, "doNotSuggest": True}]}
    for key in ("title", "description", "default", "section"):
        given.pop(key, None)
    return given


def _value(name: str) -> dict[str, Any]:
    field = Config.model_fields[name]
    default = field.default
    return {
        "description": f"{field.description} Expects {expected_of(name)}.",
        "default": list(default) if isinstance(default, tuple) else default,
        **_plain(name),
    }


def _or(name: str, others: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of a setting's value or of forms that stand for several values."""
    value = _value(name)
    shown = {key: value[key] for key in ("description", "default")}
    return {**shown, "anyOf": [{"$ref": f"#/definitions/{name}"}, *others]}


def _drawn(name: str) -> list[dict[str, Any]]:
    """Return the schemas of the distributions of a setting: a choice, or a range of numbers."""
    has_range = Config.model_fields[name].annotation in (int, float)
    values = {"type": "array", "items": {"$ref": f"#/definitions/{name}"}, "minItems": 1}
    choice = {"choice": {"description": "One of these values, drawn at random.", **values}}
    return [_exactly(choice)] + [{"$ref": "#/definitions/range"}] * has_range


def _range() -> dict[str, Any]:
    found = {}
    for kind in KINDS:
        if kind == "choice":
            continue
        n = 3 if kind.startswith("q") else 2
        ends = "[lower, upper, step]" if n == 3 else "[lower, upper]"
        found[kind] = {
            "description": f"Ray Tune's {kind}: {ends}.",
            "type": "array",
            "items": _NUMBER,
            "minItems": n,
            "maxItems": n,
        }
    return _exactly(found)


def _exactly(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly one of some properties."""
    ends = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
    return {"type": "object", "properties": properties, **ends}


def _grid(name: str) -> dict[str, Any]:
    values = {"type": "array", "items": {"$ref": f"#/definitions/{name}"}, "minItems": 1}
    return _exactly({"grid_search": {"description": "Each of these values.", **values}})


def _section(names: list[str], ending: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = {name: {"$ref": f"#/definitions/{name}_{ending}"} for name in names}
    return {
        "type": ["object", "null"],
        "properties": properties | (more or {}),
        "additionalProperties": False,
    }


def _list_of_settings(key: str, **more: Any) -> dict[str, Any]:
    entry = {"allOf": [{"$ref": f"#/definitions/entry_of_{key}"}]}
    kind: dict[str, Any] = {"type": "array"}
    if key == "exclude":
        entry["minProperties"] = 1
        kind = {"type": ["array", "null"]}
    return _described(key, {**kind, "items": entry, **more})


def _of_execution() -> dict[str, Any]:
    """Return the schemas of the keys that control how a sweep is run."""
    seeds = {"type": "array", "items": {"$ref": "#/definitions/seed"}, "minItems": 1}
    amounts = {
        "cpu": {**_NUMBER, "exclusiveMinimum": 0, "default": Resources.cpu},
        "gpu": {
            "anyOf": [{**_NUMBER, "minimum": 0}, {"enum": ["auto"]}],
            "default": Resources.gpu,
        },
    }
    kept = {
        "max_gb": {
            **_NUMBER,
            "exclusiveMinimum": 0,
            "maximum": execution._MOST_GB,
            "default": StageCaching.max_gb,
        },
    }
    assert {field.name for field in fields(StageCaching)} == {*kept, "is_on"}
    assert {field.name for field in fields(Resources)} == {*amounts, "is_gpu_auto"}
    found = {
        "seeds": {"anyOf": [{"type": "null"}, seeds, _grid("seed")], "default": [0]},
        "resources": _named(amounts),
        "pack": {
            "anyOf": [{"type": "integer", "minimum": 1}, {"enum": ["auto", None]}],
            "default": "auto",
        },
        "stage_cache": {
            "anyOf": [
                {"type": "boolean"},
                {"enum": [None], "doNotSuggest": True},
                {"type": "string", "pattern": _SWITCH_TEXT, "doNotSuggest": True},
                {**_named(kept), "type": "object", "minProperties": 1},
            ],
            "default": False,
        },
        "max_seconds": {
            "anyOf": [
                {**_NUMBER, "exclusiveMinimum": 0},
                _DURATION,
                {"enum": ["none"]},
                {"enum": [None, False, "no", "off", "false"], "doNotSuggest": True},
            ],
            "default": "none",
        },
    }
    words = list(execution.LOGGERS)
    found["loggers"] = {"type": ["array", "null"], "items": {"enum": words}, "default": []}
    found["search"] = {"anyOf": [{"enum": ["grid", None]}, _search()], "default": "grid"}
    return found | _limits()


_PIECES = "".join(
    rf"([0-9.]+([eE][-+]?[0-9]+)?\s*{unit}\s*)?" for unit in ("d", "h", "m(in)?", "s")
)
_DURATION = {"type": "string", "pattern": rf"^\s*(?=[0-9.]){_PIECES}$"}
"""Durations such as 90s, 30min, 1h30m, as read by ``user_text.values.seconds_in``."""


def _limits() -> dict[str, Any]:
    """Return the schemas of early stopping, budgets and the number of packs."""
    default = EarlyStopping()
    whole = {"type": "integer", "minimum": 1, "maximum": stopping.MOST_EPOCHS}
    off = {"enum": [None, False, "none", "no", "off", "false"]}
    positive = {**_NUMBER, "exclusiveMinimum": 0}
    properties = {
        "method": {"enum": list(stopping.STOPPERS), "default": default.method},
        "metric": {"enum": list(stopping.STOP_METRICS), "default": default.metric},
        "grace_period": {**whole, "default": default.grace_period},
        "reduction_factor": {
            **_NUMBER,
            "minimum": stopping.LEAST_FACTOR,
            "maximum": stopping.MOST_EPOCHS,
            "default": default.reduction_factor,
        },
        "brackets": {**whole, "default": default.brackets},
        "min_samples_required": {**whole, "default": default.min_samples_required},
    }
    assert {field.name for field in fields(EarlyStopping)} == set(properties)
    rule = {**_named(properties, "early_stopping"), "type": "object"}
    return {
        "max_packs": {"anyOf": [whole, off]},
        "early_stopping": {"anyOf": [{"enum": list(stopping.STOPPERS)}, rule, off]},
        "time_budget": {"anyOf": [positive, _DURATION, off]},
        "max_configs": {"anyOf": [whole, off]},
        "max_gpu_hours": {"anyOf": [positive, _DURATION, off]},
    }


def _search() -> dict[str, Any]:
    default = Search()
    modes = {"enum": ["max", "min"]}
    metrics = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
    properties = {
        "method": {"enum": list(METHODS), "default": "random"},
        "n_samples": {"type": "integer", "minimum": 1, "maximum": MOST_SAMPLES},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1, "default": default.seed},
        "sequence": {"enum": list(SEQUENCES), "default": default.sequence},
        "sampler": {"enum": list(SAMPLERS), "default": default.sampler},
        "metric": {"anyOf": [{"type": "string"}, metrics], "default": list(default.metrics)},
        "mode": {"anyOf": [modes, {"type": "array", "items": modes}, {"enum": [None]}]},
    }
    assert set(Search.__dataclass_fields__) - {"metrics", "modes"} <= set(properties)
    return {**_named(properties), "type": "object"}


def _named(properties: dict[str, Any], section: str = "") -> dict[str, Any]:
    return {
        "type": ["object", "null"],
        "properties": {key: _described(key, schema, section) for key, schema in properties.items()},
        "additionalProperties": False,
    }


def schema_text() -> str:
    """Return the text of the JSON Schema file."""
    return json.dumps(search_space_schema(), indent=1, ensure_ascii=True) + "\n"
