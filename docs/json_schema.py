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

# What is text in YAML 1.2 and a number or a flag nevertheless, as raysweep.settings reads it.
# Digits of other scripts, the minus of typeset text and odd spaces: whatever is not ASCII.
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
    "experiment": "What is run; each experiment has defaults of its own.",
    "data": "Settings of the data.",
    "training": "Settings of the training.",
    "space": "What varies: a plain value is fixed, {grid_search: [...]} a grid. Any setting may "
    "stand here. The sweep is the product of all grids, once for each seed.",
    "seeds": "A configuration is run once for each of these.",
    "divergence": "When a configuration counts as diverged.",
    "resources": "What each pack gets.",
    "pack": "The most configurations that train together; auto lets the planner choose. "
    "Changes no number.",
    "stage_cache": "Whether finished stages are kept, in .stages/ of the results folder, for "
    "later packs and sweeps.",
    "max_seconds": "The most that one epoch of a pack may take: seconds, or such as 90s, 30min.",
    "loggers": "Programs that get each configuration as a run of theirs.",
    "search": "How configurations are found: all of the grids, or samples of distributions.",
    "method": "grid: all; random: drawn at once; others: results decide what is tried next.",
    "n_samples": "How many samples to draw; each takes the product of its grids, for each seed.",
    "seed": "Seed of what is drawn.",
    "sequence": "Random numbers, or a Sobol sequence that fills the space more evenly.",
    "sampler": "What suggests the next samples.",
    "metric": "What is to be best; a list for several aims.",
    "mode": "max or min, for each metric; without it what is usual.",
    "early_stopping": "Which configurations stop early: those that fall behind the others.",
    "early_stopping.method": "The rule, as in Ray Tune: ASHA, asynchronous HyperBand, median.",
    "early_stopping.metric": "What is compared, as measured after an epoch.",
    "grace_period": "Epochs of the classifier, over all tasks, before which none stops.",
    "reduction_factor": "One in so many goes on at a rung; rungs lie apart by this factor.",
    "brackets": "Sets of rungs, of which each configuration gets one.",
    "min_samples_required": "How many others there must be to compare with.",
    "time_budget": "The most wall time of one run: seconds, or such as 90s, 30min, 1h30m, 2d.",
    "max_configs": "The most configurations that one run starts.",
    "max_gpu_hours": "The most hours of whole GPUs that the packs of one run take.",
    "any_of": "A list of settings: the sweep is the union of their products, each with the "
    "settings beside any_of.",
    "exclude": "A list of settings: a configuration that agrees with all of an entry is left out.",
    "cpu": "CPUs of each pack, a thread each.",
    "gpu": "GPUs of each pack, or a fraction of one; auto lets the driver choose it.",
    "max_gb": "The most that kept stages may take, in GB (10^9 bytes).",
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
