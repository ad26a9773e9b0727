"""The JSON Schema of a search space, which editors complete and check from."""

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

# Texts in YAML 1.2 that raysweep.settings nevertheless reads as a number or a flag. Non-ASCII
# characters stand for digits of other scripts, typographic minus signs and unusual spaces.
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
    "experiment": "The experiment to run; each has its own defaults.",
    "data": "Data settings.",
    "training": "Training settings.",
    "space": "The search space: a plain value is fixed, {grid_search: [...]} is a grid. Any "
    "setting is allowed here. The sweep is the product of all grids, repeated for each seed.",
    "seeds": "Each configuration is run once with each of these seeds.",
    "divergence": "When a configuration counts as diverged.",
    "resources": "CPUs and GPUs of each pack.",
    "pack": "Maximum number of configurations that train together; auto lets the planner choose. "
    "Does not affect results.",
    "stage_cache": "Whether to keep finished stages, in .stages/ of the results folder, for "
    "later packs and sweeps.",
    "max_seconds": "Time limit for one epoch of a pack: seconds, or e.g. 90s, 30min.",
    "loggers": "Experiment trackers that record each configuration as a run.",
    "search": "How configurations are chosen: all combinations of the grids, or samples.",
    "method": "grid: all combinations; random: drawn up front; others: results guide what is tried "
    "next.",
    "n_samples": "Number of samples to draw; each is combined with all grids and seeds.",
    "seed": "Seed of the sampling.",
    "sequence": "Random numbers, or a Sobol sequence, which fills the space more evenly.",
    "sampler": "The algorithm that suggests the next samples.",
    "metric": "The metric to optimise; a list for several objectives.",
    "mode": "max or min, for each metric; by default the metric's usual direction.",
    "early_stopping": "Stops configurations early that fall behind the others.",
    "early_stopping.method": "The rule, as in Ray Tune: ASHA, asynchronous HyperBand, median.",
    "early_stopping.metric": "The metric to compare, measured after each epoch.",
    "grace_period": "No configuration stops before this many classifier epochs, over all tasks.",
    "reduction_factor": "1/reduction_factor of the configurations continue past a rung, and each "
    "rung is this factor later than the previous one.",
    "brackets": "Number of sets of rungs; each configuration is assigned to one.",
    "min_samples_required": "Minimum number of other configurations to compare with.",
    "time_budget": "Maximum wall time of one run: seconds, or e.g. 90s, 30min, 1h30m, 2d.",
    "max_configs": "Maximum number of configurations that one run starts.",
    "max_gpu_hours": "Maximum GPU hours (of whole GPUs) that the packs of one run use.",
    "any_of": "A list of settings: the sweep is the union of their products, each with the "
    "settings beside any_of.",
    "exclude": "A list of settings: a configuration that matches every setting of an entry is "
    "left out.",
    "cpu": "CPUs per pack, with one thread each.",
    "gpu": "GPUs per pack, or a fraction of one; auto lets the driver choose the fraction.",
    "max_gb": "Maximum size of the kept stages, in GB (10^9 bytes).",
}


def search_space_schema() -> dict[str, Any]:
    """Make the JSON Schema (draft 7) of a search-space file from the settings' types."""
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
        raise SystemExit(f"docs/json_schema.py: no schema of {set(properties) ^ set(TOP_KEYS)}")
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
    """Return the schema of one value of a setting, by its type and limits."""
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
    """Return the schema of a value of a setting, or of what stands for several."""
    value = _value(name)
    shown = {key: value[key] for key in ("description", "default")}
    return {**shown, "anyOf": [{"$ref": f"#/definitions/{name}"}, *others]}


def _drawn(name: str) -> list[dict[str, Any]]:
    """Return the schemas of the distributions of a setting: a choice, or a range of numbers."""
    has_range = Config.model_fields[name].annotation in (int, float)
    values = {"type": "array", "items": {"$ref": f"#/definitions/{name}"}, "minItems": 1}
    choice = {"choice": {"description": "One of these values, drawn.", **values}}
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
    """Return the schema of an object that has just one of some properties."""
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
    """Return the schemas of what is no setting of a configuration: how the sweep is run."""
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
"""Such as 90s, 30min, 1h30m: as ``user_text.values.seconds_in`` reads it."""


def _limits() -> dict[str, Any]:
    """Return the schemas of what ends lanes and runs early."""
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
    """Write the JSON Schema as it is stored."""
    return json.dumps(search_space_schema(), indent=1, ensure_ascii=True) + "\n"
