"""The JSON Schema of search spaces agrees with ``load_sweep``, as far as a schema can."""

import json
import re
import runpy
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from raysweep.learning.config import Config
from raysweep.settings.names import TOP_KEYS
from raysweep.settings.sweep import sweep_from
from raysweep.settings.yaml_text import parse_yaml
from tests.bad_input_cases import Case, accepted_cases, refused_cases

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "search_spaces" / "schema.json").read_text())
VALIDATOR = Draft7Validator(SCHEMA)
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def problems(text: str) -> list[str]:
    """List the schema's complaints about a search space."""
    errors = VALIDATOR.iter_errors(parse_yaml(text))
    return [f"{error.json_path}: {error.message}" for error in errors]


def test_the_schema_is_up_to_date() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "json_schema.py"))
    stored = (ROOT / "search_spaces" / "schema.json").read_text()
    assert stored == generator["schema_text"](), "run: python docs/generate.py"


def test_the_schema_is_one_and_knows_every_key_and_setting() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert list(SCHEMA["properties"]) == TOP_KEYS
    space = SCHEMA["properties"]["space"]["properties"]
    assert set(space) == set(Config.model_fields) - {"seed"} | {"any_of", "exclude"}
    for name, field in Config.model_fields.items():
        defined = SCHEMA["definitions"][name]
        assert str(field.description) in defined["description"]
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert defined["default"] == default
        VALIDATOR.evolve(schema={**defined, "definitions": SCHEMA["definitions"]}).validate(default)


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.name)
def test_shipped_search_spaces_meet_the_schema_that_their_first_line_names(file: Path) -> None:
    text = file.read_text()
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", text.splitlines()[0])
    assert named and json.loads((file.parent / named[1]).read_text()) == SCHEMA
    assert problems(text) == []


ADDED_BY_PAGES = ("lr_floor", "logistic", "latest", "k_center", "rot_mnist", "[digits,")
"""Words that docs/extending.md and docs/own-data.md add as examples."""


def examples() -> list[tuple[str, str]]:
    """Find the search spaces in the docs: YAML blocks that start with one of their keys."""
    found = []
    for file in DOCS:
        for block in re.findall(r"```ya?ml[^\n]*\n(.*?)```", file.read_text(), re.DOTALL):
            if any(word in block for word in ADDED_BY_PAGES):
                continue  # tests/docs/test_howto.py runs it, on a copy that has the word
            if re.match(rf"(?:\s*#.*\n)*({'|'.join(TOP_KEYS)}):", block):
                found.append((file.name, block))
    return found


@pytest.mark.parametrize(("name", "block"), examples())
def test_search_spaces_in_the_docs_load_and_meet_the_schema(name: str, block: str) -> None:
    own = re.sub(r"source: [\w./-]+\.npz", "source: mnist_5k", block)  # the reader's
    sweep = sweep_from(name, own.encode())
    assert sweep.configs or sweep.examples
    assert problems(block) == []


def test_the_docs_have_search_spaces_to_look_at() -> None:
    assert {"README.md", "search-spaces.md"} <= {name for name, _ in examples()}


@pytest.mark.parametrize("case", accepted_cases().values(), ids=lambda case: case.name)
def test_what_looks_wrong_and_is_accepted_meets_the_schema(case: Case) -> None:
    if not case.arguments:
        assert sweep_from(case.name, case.content).configs
    assert problems(case.content.decode("utf-8-sig")) == []


def refused(*patterns: str) -> list[Case]:
    """Find the cases without arguments whose names match one of several patterns."""
    return [
        case
        for name, case in sorted(refused_cases().items())
        if any(fnmatch(name, pattern) for pattern in patterns) and not case.arguments
    ]


# The mistake in each of these is in a single place, so a schema can detect it.
VISIBLE = [
    "word_experiment*",
    "word_misspelt",
    "word_cyrillic",
    "word_flag*",
    "stage_cache_*",
    "alias_wrong_merged_value",
]


@pytest.mark.parametrize("case", refused(*VISIBLE), ids=lambda case: case.name)
def test_files_with_a_mistake_in_one_place_are_refused(case: Case) -> None:
    assert problems(case.content.decode())


WRONG = [
    ("space: {lerning_rate: 1}", "lerning_rate"),
    ("spase: {lr: 1}", "spase"),
    ("lr: 1e-3", "lr"),
    ("data: {lr: 1e-3}", "lr"),
    ("space: {any_of: [{any_of: [{lr: 1}]}]}", "any_of"),
    ("space: {seed: 1}", "seed"),
    ("space: {lr: 0}", "0"),
    ("space: {lr: [1e-3, 1e-2]}", "lr"),
    ("space: {lr: {grid_search: []}}", "grid_search"),
    ("space: {lr: {grid: [1]}}", "grid"),
    ("space: {lr: {grid_search: [1e-3, fast]}}", "fast"),
    ("space: {lr: 010}", "010"),
    ("space: {model: cnn}", "cnn"),
    ("space: {replay: yes}", "yes"),
    ("space: {encoder_widths: 200}", "200"),
    ("space: {encoder_widths: [0]}", "0"),
    ("space: {freeze_encoder: perhaps}", "perhaps"),
    ("data: {source: cifar.csv}", "cifar.csv"),
    ("data: {n_tasks: 101}", "101"),
    ("training: {epochs: 1.5}", "1.5"),
    ("space: {any_of: []}", "any_of"),
    ("space: {exclude: [{}]}", "exclude"),
    ("seeds: 3", "3"),
    ("seeds: []", "seeds"),
    ("seeds: [-1]", "-1"),
    ("resources: {cpus: 1}", "cpus"),
    ("resources: {cpu: 0}", "0"),
    ("resources: {gpu: some}", "some"),
    ("pack: 0", "0"),
    ("pack: all", "all"),
    ("max_packs: 0", "0"),
    ("stage_cache: hold", "hold"),
    ("stages: keep", "stages"),
    ("stage_cache: {}", "{}"),
    ("stop: {loss_above: 3}", "stop"),
    ("max_seconds: -1", "-1"),
    ("loggers: [tensorbord]", "tensorbord"),
    ("loggers: wandb", "wandb"),
    ("search: {method: bayes, n_samples: 2}", "bayes"),
    ("search: {method: random, n_samples: 0}", "0"),
    ("search: {n_sample: 2}", "n_sample"),
    ("search: {n_samples: 2}\nspace: {lr: {uniform: [1, 2, 3]}}", "uniform"),
    ("search: {n_samples: 2}\nspace: {lr: {uniform: [1]}}", "uniform"),
    ("search: {n_samples: 2}\nspace: {model: {uniform: [1, 2]}}", "uniform"),
    ("search: {n_samples: 2}\nspace: {model: {choice: [vib, cnn]}}", "cnn"),
    ("space: {exclude: [{lr: {uniform: [1, 2]}}]}", "uniform"),
    ("early_stopping: asah", "asah"),
    ("early_stopping: {method: pbt}", "pbt"),
    ("early_stopping: {metric: forgetting}", "forgetting"),
    ("early_stopping: {grace_period: 0}", "0"),
    ("early_stopping: {reduction_factor: 1}", "1"),
    ("early_stopping: {grace: 2}", "grace"),
    ("time_budget: 8 hours", "8 hours"),
    ("time_budget: -1", "-1"),
    ("max_configs: 0.5", "0.5"),
    ("max_gpu_hours: much", "much"),
]


@pytest.mark.parametrize(("text", "named"), WRONG)
def test_both_refuse_what_is_wrong_and_the_schema_names_it(text: str, named: str) -> None:
    with pytest.raises(Exception, match="expected"):
        sweep_from("wrong.yaml", text.encode())
    (first, *_) = problems(text)
    assert named in first


RIGHT = [
    "space: {lr: 1_000e-6}",
    "space: {lr: '1e-3', freeze_encoder: no}",
    "space: {replay: no}",
    "space: {encoder_widths: {grid_search: [[20], [20, 20]]}, class_decoder_widths: []}",
    "training: {epochs: {grid_search: [1, 2]}}",
    "space: {experiment: {grid_search: [joint]}}",
    "space:\n  any_of:\n    - {replay: none}\n    - {}\n  exclude:",
    "seeds: {grid_search: [0, 1]}",
    "loggers: [tensorboard, mlflow, wandb]",
    "search: {n_samples: 2}\nspace: {lr: {loguniform: [1e-4, 0.1]}, n_replay: {randint: [10, 90]}}",
    "search: {method: random, n_samples: 2, sequence: sobol, seed: 3}\n"
    "space: {model: {choice: [vib, comparison]}, beta_2: {quniform: [0, 1, 0.5]}}",
    "search: grid",
    "early_stopping: asha\ntime_budget: 8h\nmax_configs: 10\nmax_gpu_hours: 0.5",
    "early_stopping: {method: hyperband, brackets: 2, reduction_factor: 2}\ntime_budget: 90",
    "early_stopping: {method: median, metric: class_loss, min_samples_required: 5}",
    "early_stopping: none\ntime_budget:\nmax_configs: no",
    "stage_cache: true",
    "stage_cache: yes",
    "data:\nspace:\nseeds:\nresources:\npack:\nstage_cache:\nmax_seconds: none",
    "stage_cache: {max_gb: 2}\nresources: {gpu: auto}\npack: 8\nmax_seconds: 0.5",
]


@pytest.mark.parametrize("text", RIGHT)
def test_both_accept_what_has_one_reading(text: str) -> None:
    assert sweep_from("right.yaml", text.encode()).configs
    assert problems(text) == []


def values_at_the_limits() -> list[tuple[str, Any]]:
    """Return the limits of each number setting, and values just beyond them."""
    found: list[tuple[str, Any]] = []
    for name, field in Config.model_fields.items():
        for part in field.metadata:
            for limit in ("ge", "le", "gt", "lt"):
                value = getattr(part, limit, None)
                if value is not None:
                    step = 1 if field.annotation is int else abs(value) * 1e-3 + 1e-3
                    found += [(name, value - step), (name, value), (name, value + step)]
    return found


def test_limits_are_those_of_the_settings() -> None:
    from raysweep.errors import InputError
    from raysweep.settings.grid import check_value

    values = values_at_the_limits()
    assert len(values) > 90
    for name, value in values:
        try:
            check_value(name, value, "here")
            is_accepted = True
        except InputError:
            is_accepted = False
        schema = {**SCHEMA["definitions"][name], "definitions": SCHEMA["definitions"]}
        assert VALIDATOR.evolve(schema=schema).is_valid(value) == is_accepted, (name, value)
