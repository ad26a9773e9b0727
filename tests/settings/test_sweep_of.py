"""A search space given as a dict: the checks and messages of a file, without line and column."""

import datetime
import enum
import json
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import yaml
from ray import tune

from raysweep.errors import InputError
from raysweep.settings.plain_values import plain_space
from raysweep.settings.sampling import Domain
from raysweep.settings.sweep import load_sweep, sweep_from, sweep_of
from raysweep.settings.yaml_nodes import MAX_NODES
from raysweep.settings.yaml_text import dump_yaml, parse_yaml
from tests.bad_input_cases import refused_cases

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))


def refusal(raw: Any, overrides: list[str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        sweep_of("search space", raw, overrides or [])
    message = str(caught.value)
    assert message.isprintable() and message.startswith("search space: ")
    return message


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_dict_gives_what_its_file_gives(file: Path) -> None:
    raw = yaml.safe_load(file.read_bytes())
    made, read = sweep_of(file.name, raw), load_sweep(file)
    assert [config.id for config in made.configs] == [config.id for config in read.configs]
    assert made.search == read.search and made.resources == read.resources
    assert made.resolved.keys() == read.resolved.keys()


def test_a_dict_is_left_as_it_was() -> None:
    raw = {"space": {"lr": (1e-3, 1e-2)}, "seeds": [0]}
    text = repr(raw)
    sweep_of("x", {"space": {"lr": {"grid_search": [1e-3]}}}, ["space.lr=1"])
    refusal(raw, ["seeds=[1, 2]"])
    assert repr(raw) == text


class Colour(enum.Enum):
    RED = "mlp"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.001), 0.001),
        (np.float32(0.001), 0.001),
        (np.float16(0.1), 0.1),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("mlp"), "mlp"),
        (np.array(0.5), 0.5),
        (np.array([1, 2]), [1, 2]),
        (np.logspace(-4, -1, 4), [1e-4, 1e-3, 1e-2, 1e-1]),
        (np.array([[400], [200]]), [[400], [200]]),
        (pd.Series([1, 2]), [1, 2]),
        (pd.Index([0.1, 0.2]), [0.1, 0.2]),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.tensor(0.5), 0.5),
        (range(3), [0, 1, 2]),
        ((1, (2, 3)), [1, [2, 3]]),
        (Path("data/a.npz"), "data/a.npz"),
        (Colour.RED, "mlp"),
        (OrderedDict(a=1), {"a": 1}),
        (None, None),
        (-0.0, -0.0),
        (10**400, 10**400),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_python_become_plain(value: Any, plain: Any) -> None:
    made = plain_space({"x": value})["x"]
    assert made == plain
    assert type(made) is type(plain)
    if isinstance(made, list):
        assert json.loads(json.dumps(made)) == plain


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (tune.uniform(0, 1), {"uniform": [0, 1]}),
        (tune.loguniform(1e-4, 1e-1), {"loguniform": [1e-4, 1e-1]}),
        (tune.quniform(0, 1, 0.1), {"quniform": [0, 1, 0.1]}),
        (tune.qloguniform(1e-3, 1, 1e-3), {"qloguniform": [1e-3, 1, 1e-3]}),
        (tune.randint(1, 10), {"randint": [1, 10]}),
        (tune.lograndint(1, 10), {"lograndint": [1, 10]}),
        (tune.qrandint(2, 10, 2), {"qrandint": [2, 10, 2]}),
        (tune.qrandint(2, 10, 1), {"randint": [2, 10]}),
        (tune.choice(["mlp", "vib"]), {"choice": ["mlp", "vib"]}),
        (tune.choice([np.int64(1), 2]), {"choice": [1, 2]}),
        (tune.grid_search([1, 2]), {"grid_search": [1, 2]}),
        (optuna.distributions.FloatDistribution(0, 1), {"uniform": [0, 1]}),
        (optuna.distributions.FloatDistribution(0.1, 1, log=True), {"loguniform": [0.1, 1]}),
        (optuna.distributions.FloatDistribution(0, 1, step=0.1), {"quniform": [0, 1, 0.1]}),
        (optuna.distributions.IntDistribution(1, 9), {"randint": [1, 10]}),
        (optuna.distributions.IntDistribution(1, 9, log=True), {"lograndint": [1, 10]}),
        (optuna.distributions.IntDistribution(2, 8, step=2), {"qrandint": [2, 8, 2]}),
        (optuna.distributions.CategoricalDistribution([1, 2]), {"choice": [1, 2]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_distributions_of_others_become_ours(value: Any, plain: Any) -> None:
    made = plain_space({"x": value})["x"]
    assert made == plain and sweep_from("x", dump_yaml({"seeds": [0]}).encode())


def test_what_ray_tune_draws_comes_of_its_translation() -> None:
    rng = np.random.default_rng(0)
    spaces = [tune.qrandint(2, 11, 3), tune.randint(1, 4), tune.lograndint(1, 4)]
    for domain in (*spaces, tune.qrandint(2, 5, 1), tune.quniform(0.2, 0.8, 0.2)):
        (kind, ends), *_ = plain_space({"x": domain})["x"].items()
        lower, upper, step = (*ends, 0)[:3]
        ours = Domain(kind, lower, upper, step, (), True, "x")
        if "uniform" in kind:
            ours = ours._replace(is_whole=False)
        drawn = {round(float(v), 6) for v in domain.sample(size=500, random_state=rng)}
        assert drawn == {round(float(ours.at(u)), 6) for u in np.linspace(0, 0.9999, 500)}


def test_a_sweep_of_distributions() -> None:
    space = {"lr": tune.loguniform(1e-4, 1e-1), "n_replay": tune.randint(100, 200)}
    search = {"method": "random", "n_samples": np.int64(5)}
    sweep = sweep_of("search space", {"space": space, "search": search})
    assert len(sweep.configs) == 5


def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"space": {"lr": -1}}, "space.lr: expected a number > 0, got -1"),
        ({"space": {"lr": np.nan}}, "space.lr: expected a number > 0, got NaN"),
        (
            {"space": {"lr": {"grid_search": np.array([0.1, math.inf])}}},
            "space.lr.grid_search[1]: expected a number > 0, got infinity",
        ),
        (
            {"space": {"lr": lambda: 1}},
            "space.lr: expected a number, text, a list or a dict, got a function; write a value, "
            "a list or a distribution such as {uniform: [0, 1]}, {loguniform: [1e-4, 1e-1]}, "
            "{randint: [1, 10]} or {choice: [1, 2]}",
        ),
        (
            {"space": {"lr": {"grid_search": [0.1, SimpleNamespace(key="hunter2")]}}},
            "space.lr.grid_search[1]: expected a number, text, a list or a dict, got a types "
            "SimpleNamespace",
        ),
        (
            {"seeds": {1, 2}},
            "seeds: expected a number, text, a list or a dict, got a set; write sorted(...), as "
            "a set has no order",
        ),
        (
            {"seeds": generator()},
            "seeds: expected a number, text, a list or a dict, got a generator; write list(...)",
        ),
        (
            {"seeds": pd.DataFrame({"a": [1]})},
            "seeds: expected a number, text, a list or a dict, got a pandas DataFrame",
        ),
        (
            {"time_budget": datetime.timedelta(hours=1)},
            "time_budget: expected a number, text, a list or a dict, got a datetime timedelta",
        ),
        ({"seeds": 1j}, "seeds: expected a number, text, a list or a dict, got a complex"),
        ({"space": {("a", "b"): 1}}, "space: expected a word as a key, got a tuple"),
        (
            {"seeds": tune.randn()},
            "seeds: expected a value or a distribution, got tune.randn; write",
        ),
        (
            {"space": {"lr": tune.sample_from(lambda _: 1)}},
            "space.lr: expected a value or a distribution, got tune.sample_from",
        ),
        (
            {"space": {"n_replay": optuna.distributions.IntDistribution(1, 9, step=2)}},
            "space.n_replay: expected steps that begin at a multiple of 2, got Optuna's "
            "with lower end 1; write {choice: [...]} with the values",
        ),
        ([1], "expected a dict such as {'space': {'lr': 1e-3}}, got a list"),
        ("vib.yaml", "expected a dict such as {'space': {'lr': 1e-3}}, got 'vib.yaml'"),
    ],
)
def test_what_no_file_could_hold_is_one_line(raw: Any, message: str) -> None:
    assert refusal(raw).startswith(f"search space: {message}")
    assert "hunter2" not in refusal(raw)


def test_secrets_have_no_place_in_a_dict() -> None:
    for raw in (
        {"wandb_api_key": "hunter2"},
        {"space": {"lr": {"grid_search": [{"token": "hunter2"}]}}},
        {"space": {"hunter2": 1, "password": "hunter2"}},
    ):
        message = refusal(raw)
        assert "looks like a secret" in message and "hunter2" not in message
    assert "looks like a secret" in refusal({}, ["space.token=hunter2"])


def test_limits_hold_before_anything_is_expanded() -> None:
    assert "expected at most 200,000 values" in refusal({"seeds": range(10**12)})
    assert "expected at most 200,000 values" in refusal({"seeds": np.zeros(MAX_NODES)})
    assert "characters of text" in refusal({"x": "a" * 1_000_001})
    assert "expected at most 1,000 digits" in refusal({"seeds": [10**1001]})
    nested: Any = []
    nested.append(nested)
    assert "expected at most 50 levels" in refusal({"seeds": nested})
    bomb: Any = [1] * 10
    for _ in range(20):
        bomb = [bomb] * 10
    assert "expected at most 200,000 values" in refusal({"seeds": bomb})
    grids = {name: {"grid_search": list(range(1, 200))} for name in ("n_replay", "n_bottleneck")}
    assert "got 39,601; cut the grid" in str(too_many({"space": grids}))


def too_many(raw: Mapping[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        sweep_of("search space", raw, max_configs=1000)
    return caught.value


def test_a_refused_file_is_refused_as_a_dict_with_the_same_words() -> None:
    n = 0
    for case in refused_cases().values():
        if case.table not in ("word", "rule", "key") or case.arguments:
            continue
        if re.match(r"\w+\.yaml: line", case.message):  # invalid YAML, or a duplicate key
            continue
        raw = parse_yaml(case.content.decode())
        if not isinstance(raw, dict) or "(line" not in case.message:
            continue
        n += 1
        with pytest.raises(InputError) as caught:
            sweep_of(f"{case.name}.yaml", raw)
        without = re.sub(r" \(line \d+, column \d+\)$", "", case.message, flags=re.M)
        assert sorted(str(caught.value).splitlines()) == sorted(without.splitlines()), case.name
    assert n > 20


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.float16(0.1),
        np.array([0.1], np.float32),
        np.array([[0.1]], np.float16),
        np.array(0.1, np.float32),
        pd.Series([0.1], dtype="float32"),
        torch.tensor(0.1),
        torch.tensor([0.1]),
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}",
)
def test_numbers_of_fewer_bits_are_what_was_written(value: Any) -> None:
    assert str(plain_space({"x": value})["x"]).strip("[]") == "0.1"
