"""Loading any search space quickly gives either a sweep or a one-line error."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from raysweep.errors import MOST_SHOWN, InputError
from raysweep.learning.config import Config, section_of
from raysweep.learning.declare import words_of
from raysweep.settings.names import TOP_KEYS
from raysweep.settings.sweep import Sweep, sweep_from
from raysweep.settings.yaml_text import dump_yaml, parse_yaml

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAX_CONFIGS = 24

# The same cases in every run, so that failures are reproducible and CI does not fail by chance.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")

texts = st.text(max_size=20) | st.sampled_from(
    [
        *("no", "on", "1e-4", "010", "1:30", "~", "<<", "=", "", " ", "a: b", "# c", "- x", "!x"),
        *("&a", "*a", "\n", "\ufeff", "\u2028", "\x85", "'", '"', "%", "@", "---", "...", ".nan"),
        *("1_0", "?"),
    ]
)
numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.booleans() | st.none()
values = st.recursive(
    numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def outcome(
    content: bytes | str, *overrides: str, max_configs: int = MAX_CONFIGS
) -> Sweep | InputError:
    """Load a search space, and check the guarantees for success and failure."""
    content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    try:
        sweep = sweep_from("vib.yaml", content, overrides, max_configs=max_configs)
    except InputError as error:
        for mistake in error.mistakes:
            assert str(mistake).isprintable() and str(mistake).startswith("vib.yaml: ")
            assert "expected " in str(mistake) and len(str(mistake)) < 1500
        first, *lines = str(error).splitlines()
        assert first.startswith("vib.yaml: ") and len(lines) <= MOST_SHOWN + 1
        assert all(line.startswith("  ") and line.isprintable() for line in lines)
        return error
    assert 1 <= len(sweep.configs) + sweep.n_duplicates <= max_configs
    return sweep


@given(values)
@settings(max_examples=150)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    back = parse_yaml(dump_yaml(value))
    assert back == value
    assert repr(back) == repr(value)  # 1 is not 1.0 is not true, and -0.0 is not 0.0


@given(st.floats(allow_nan=True) | st.integers(-(10**300), 10**300))
def test_every_number_is_read_back(value: float) -> None:
    back = parse_yaml(dump_yaml([value]))[0]
    assert type(back) is type(value)
    assert back == value or (math.isnan(back) and math.isnan(value))


@given(texts)
def test_text_in_quotes_stays_text(text: str) -> None:
    quoted = yaml.dump(text, default_style='"', width=1000)
    assert parse_yaml(quoted) == text


@given(st.text() | st.text(alphabet="ab:-[]{}?,&*!|>'\"%@#\n\t ~<.0e1\r"))
@settings(max_examples=300)
def test_any_text_ends_in_a_sweep_or_one_line(text: str) -> None:
    outcome(text)


@given(st.binary(max_size=60))
@settings(max_examples=150)
def test_any_bytes_end_in_a_sweep_or_one_line(content: bytes) -> None:
    outcome(content)


@given(values)
@settings(max_examples=120)
def test_any_structure_ends_in_a_sweep_or_one_line(value: Any) -> None:
    outcome(dump_yaml(value))


# Search spaces with mistakes

NAMES = [name for name in Config.model_fields if name != "seed"]


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Draw possible values of a setting, some of them beyond its limits, and grids."""
    words = words_of(Config.model_fields[name])
    default = Config.model_fields[name].default
    value: st.SearchStrategy[Any] = st.sampled_from([0, 0.5, 1, "1e-4", -1, 1e-3, ".inf"])
    if words:
        value = st.sampled_from(words)
    elif isinstance(default, bool):
        value = st.sampled_from([True, False, "no", "on"])
    elif isinstance(default, tuple):
        value = st.lists(st.integers(0, 300), max_size=3)
    elif isinstance(default, int):
        value = st.sampled_from([0, 1, 2, 5, 10, 100, 1000, 4000])
    grid = st.lists(value, min_size=1, max_size=3).map(lambda grid: {"grid_search": grid})
    return value | grid


VALUES = {name: values_of(name) for name in NAMES}


@st.composite
def settings_of(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    """Draw settings, including grids."""
    chosen = draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
    return {name: draw(VALUES[name]) for name in chosen}


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a search space with the correct structure."""
    raw: dict[str, Any] = {}
    for section in ("data", "training", "divergence"):
        names = [name for name in NAMES if section_of(name) == section]
        if draw(st.booleans()):
            raw[section] = draw(settings_of(names))
    raw["space"] = draw(settings_of(NAMES))
    for key in ("any_of", "exclude"):
        if draw(st.booleans()):
            raw["space"][key] = draw(st.lists(settings_of(NAMES), min_size=1, max_size=3))
    extras = {
        "experiment": st.sampled_from(["replay_vib", "replay", "vib", "joint"]),
        "seeds": st.lists(st.integers(0, 3), min_size=1, max_size=3),
        "resources": st.fixed_dictionaries({"gpu": st.sampled_from(["auto", 0, 0.5, 1.5])}),
        "pack": st.sampled_from(["auto", 1, 8, 0]),
        "max_packs": st.sampled_from([None, 1, 8, "none"]),
        "stage_cache": st.sampled_from([True, False, {"max_gb": 3}]),
        "max_seconds": st.sampled_from([None, 60, 0.5, 0, "none"]),
    }
    for key, strategy in extras.items():
        if draw(st.booleans()):
            raw[key] = draw(strategy)
    return raw


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """List every container in a structure with each of its keys or indices."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    return [pair for key in keys for pair in [(value, key), *places_in(value[key])]]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a search space, then drop, rename, retype, copy or splice parts of it."""
    raw = draw(spaces())
    for _ in range(draw(st.integers(1, 3))):
        places = places_in(raw)
        if not places:
            break
        node, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["drop", "rename", "retype", "splice", "nest"]))
        if kind == "drop":
            del node[key]
        elif kind == "rename" and isinstance(node, dict):
            known = st.sampled_from([*NAMES, *TOP_KEYS, "any_of", "exclude", "grid_search"])
            node[draw(known | texts)] = node.pop(key)
        elif kind == "retype":
            node[key] = draw(values)
        elif kind == "splice":
            other, name = draw(st.sampled_from(places))
            if isinstance(other, dict) == isinstance(node, dict) and name in places_keys(other):
                node[key] = copy.deepcopy(other[name])
        else:
            node[key] = draw(st.sampled_from([[node[key]], {"grid_search": [node[key]]}]))
    return raw


def places_keys(node: Any) -> Any:
    return node if isinstance(node, dict) else range(len(node))


def test_a_search_space_and_its_resolved_form_are_one_sweep() -> None:
    accepted: list[bool] = []

    @given(spaces())
    @settings(max_examples=120)
    def load(raw: dict[str, Any]) -> None:
        sweep = outcome(dump_yaml(raw))
        accepted.append(isinstance(sweep, Sweep))
        if isinstance(sweep, InputError):
            return
        again = outcome(dump_yaml(sweep.resolved))
        assert isinstance(again, Sweep)
        assert [config.id for config in again.configs] == [config.id for config in sweep.configs]
        assert again.resolved == sweep.resolved
        assert (again.max_seconds, again.resources) == (sweep.max_seconds, sweep.resources)
        # Time limits and resources are not settings.
        for key in ("max_seconds", "resources", "max_packs"):
            raw.pop(key, None)
        without = outcome(dump_yaml(raw))
        assert isinstance(without, Sweep) and without.configs == sweep.configs

    load()
    assert 10 < sum(accepted) < len(accepted) - 10, "both ends are tested"


@given(mutated())
@settings(max_examples=150)
def test_a_search_space_with_mistakes_ends_in_a_sweep_or_one_line(raw: dict[str, Any]) -> None:
    outcome(dump_yaml(raw))


keys = st.lists(
    st.sampled_from([*TOP_KEYS, *NAMES, "any_of", "exclude", "grid_search", "0", "1", "-1"])
    | st.text(max_size=5),
    min_size=1,
    max_size=5,
).map(".".join)
override_texts = st.builds(
    lambda key, value: f"{key}={value}", keys, values.map(dump_yaml) | texts
) | st.text(max_size=15)


@given(spaces(), st.lists(override_texts, min_size=1, max_size=3))
@settings(max_examples=120)
def test_any_override_ends_in_a_sweep_or_one_line(
    raw: dict[str, Any], overrides: list[str]
) -> None:
    outcome(dump_yaml(raw), *overrides)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=60)
def test_no_more_than_the_limit_are_expanded(
    sizes: list[int], n_branches: int, n_seeds: int
) -> None:
    names = ["lr", "beta_1", "beta_2", "n_replay", "weight_decay", "mir_entropy", "mir_shell"]
    grids = {
        name: {"grid_search": list(range(1, size + 1))}
        for name, size in zip([*names, "n_bottleneck"], sizes, strict=False)
    }
    raw = {
        "space": {**grids, "any_of": [{"mir_steps": i + 1} for i in range(n_branches)]},
        "seeds": list(range(n_seeds)),
    }
    n_configs = math.prod(sizes) * n_branches * n_seeds
    end = outcome(dump_yaml(raw))
    if n_configs > MAX_CONFIGS:
        expected = f"expected at most {MAX_CONFIGS} configurations, got {n_configs:,}"
        assert isinstance(end, InputError) and expected in str(end)
    else:
        assert isinstance(end, Sweep) and len(end.configs) + end.n_duplicates == n_configs


@pytest.mark.parametrize(
    "file", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda f: f.name
)
def test_every_prefix_of_a_shipped_file_ends_in_a_sweep_or_one_line(file: Path) -> None:
    content = file.read_bytes()
    for end in range(0, len(content), 7):
        outcome(content[:end], max_configs=1)
