"""From the text of a search space to configurations; each mistake gives one helpful line."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.experiments import EXPERIMENTS
from raysweep.settings.execution import Resources
from raysweep.settings.sweep import Sweep, load_sweep
from raysweep.settings.yaml_text import dump_yaml, parse_yaml
from tests.draws import draw_of, some_of

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "search_spaces").glob("*.yaml"))

EXAMPLE = """
experiment: replay_vib
data: {tasks: perm_mnist, n_tasks: 2, source: mnist_5k}
training: {epochs: 1, batch_size: 50}
space:
  lr: {grid_search: [1e-3, 1e-4]}
  n_bottleneck: 8
  any_of:
    - model: vib
      beta_1: {grid_search: [-1, 1]}
    - model: comparison
      replay: {grid_search: [generative, no]}
    - {model: vib, beta_1: -1.0}
  exclude:
    - {model: vib, beta_1: 1, lr: 1e-4}
seeds: [3, 1]
divergence: {loss_above: 1e5}
resources: {cpu: 2, gpu: 0.5}
pack: 4
"""

Load = Callable[..., Sweep]
Fail = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads the text of vib.yaml, with overrides, as a sweep."""

    def load(text: str, *overrides: str) -> Sweep:
        file = tmp_path / "vib.yaml"
        file.write_text(text, encoding="utf-8")
        return load_sweep(file, overrides)

    return load


@pytest.fixture
def fail(fail_at: Fail) -> Fail:
    """Return a function that loads vib.yaml, with overrides, and returns the error's one line.

    Without its place in the file, such as `` (line 7, column 12)``.
    """

    def fail(text: str, *overrides: str) -> str:
        return re.sub(r" \(line \d+, column \d+\)$", "", fail_at(text, *overrides))

    return fail


@pytest.fixture
def fail_at(load: Load) -> Fail:
    """Return a function like ``fail`` for messages that end with the place in the file."""

    def fail_at(text: str, *overrides: str) -> str:
        with pytest.raises(InputError) as caught:
            load(text, *overrides)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        return message

    return fail_at


def only(sweep: Sweep) -> Config:
    assert len(sweep.configs) == 1
    return sweep.configs[0]


def ids(sweep: Sweep) -> list[str]:
    return [config.id for config in sweep.configs]


# The shape of a sweep


def test_a_sweep_is_seeds_times_branches_times_grids_in_the_files_order(load: Load) -> None:
    sweep = load(EXAMPLE)
    rows = [(c.seed, c.model, c.lr, c.beta_1, c.replay) for c in sweep.configs]
    one_seed = [
        ("vib", 1e-3, -1.0, "generative"),
        ("vib", 1e-3, 1.0, "generative"),
        ("vib", 1e-4, -1.0, "generative"),  # (1e-4, 1) is excluded
        ("comparison", 1e-3, 0.0, "generative"),
        ("comparison", 1e-3, 0.0, "none"),
        ("comparison", 1e-4, 0.0, "generative"),
        ("comparison", 1e-4, 0.0, "none"),
    ]
    assert rows == [(seed, *row) for seed in (3, 1) for row in one_seed]
    assert sweep.n_duplicates == 4  # the third branch repeats two of the first, for each seed
    assert {(c.n_bottleneck, c.epochs, c.batch_size, c.loss_above) for c in sweep.configs} == {
        (8, 1, 50, 1e5)
    }
    assert sweep.resources == Resources(cpu=2, gpu=0.5)
    assert sweep.pack == 4
    assert sweep.file == "vib.yaml"


def test_a_file_that_sets_nothing_is_one_config_of_defaults(load: Load) -> None:
    sweep = load("experiment: replay_vib")
    assert sweep.configs == (Config(),)
    assert (sweep.n_duplicates, sweep.resources, sweep.pack) == (0, Resources(1, 0), None)


def test_sections_left_empty_are_as_if_left_out(load: Load) -> None:
    text = "data:\ntraining:\nspace:\nseeds:\ndivergence:\nresources:\npack:\n"
    assert load(text).configs == (Config(),)


def test_every_setting_may_stand_under_space(load: Load) -> None:
    apart = load("data: {source: mnist}\ntraining: {epochs: 2}\ndivergence: {loss_above: 9}")
    together = load("space: {source: mnist, epochs: 2, loss_above: 9}")
    assert ids(apart) == ids(together)


def test_a_grid_may_stand_in_any_section(load: Load) -> None:
    sweep = load("data: {normalize: {grid_search: [no, yes]}}\nseeds: {grid_search: [5, 6]}")
    assert [(c.seed, c.normalize) for c in sweep.configs] == [
        (5, False),
        (5, True),
        (6, False),
        (6, True),
    ]


def test_equal_values_in_other_spellings_are_merged_and_counted(load: Load) -> None:
    sweep = load("space: {lr: {grid_search: [1e-3, 0.001, '1e-3', .001, 2]}}\nseeds: [0, 0.0]")
    assert [c.lr for c in sweep.configs] == [1e-3, 2.0]
    assert sweep.n_duplicates == 8


def test_a_list_of_widths_is_one_value(load: Load) -> None:
    config = only(load("space: {encoder_widths: [30, 20], class_decoder_widths: []}"))
    assert (config.encoder_widths, config.class_decoder_widths) == ((30, 20), ())
    grid = load("space: {encoder_widths: {grid_search: [[30, 20], [10], []]}}")
    assert [c.encoder_widths for c in grid.configs] == [(30, 20), (10,), ()]


def test_anchors_and_merge_keys_share_settings_between_branches(load: Load) -> None:
    sweep = load("space: {any_of: [&a {model: vib, lr: 2}, {<<: *a, lr: 3}]}")
    assert [(c.model, c.lr) for c in sweep.configs] == [("vib", 2.0), ("vib", 3.0)]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("[{lr: 1}]", [(2, 0), (2, 5)]),
        ("[{lr: '1.0', beta_2: 0}]", [(1, 5), (2, 0), (2, 5)]),
        ("[{lr: 1, beta_2: 0}, {lr: 2, beta_2: 5}]", [(1, 5), (2, 0)]),
        ("[{lr: {grid_search: [1, 2]}, beta_2: 5}]", [(1, 0), (2, 0)]),
        ("[{lr: 3}]", [(1, 0), (1, 5), (2, 0), (2, 5)]),
        ("[{model: comparison}]", [(1, 0), (1, 5), (2, 0), (2, 5)]),
        ("[{optimizer_state: reset, beta_2: 0}]", [(1, 5), (2, 5)]),  # what auto became
        ("[]", [(1, 0), (1, 5), (2, 0), (2, 5)]),
    ],
)
def test_exclude_drops_what_matches_all_of_an_entry(
    load: Load, exclude: str, left: list[tuple[int, int]]
) -> None:
    grid = "lr: {grid_search: [1, 2]}, beta_2: {grid_search: [0, 5]}"
    sweep = load(f"space: {{{grid}, exclude: {exclude}}}")
    assert [(c.lr, c.beta_2) for c in sweep.configs] == left
    assert sweep.n_duplicates == 0


def test_exclude_drops_pairs_that_would_be_refused(load: Load, fail: Fail) -> None:
    grid = "n_tasks: {grid_search: [2, 3]}, replay: {grid_search: [generative, simple]}"
    grid += ", generator: frozen"
    assert "generator frozen" in fail(f"space: {{{grid}}}")
    sweep = load(f"space: {{{grid}, exclude: [{{n_tasks: 3, replay: generative}}]}}")
    assert [(c.n_tasks, c.replay) for c in sweep.configs] == [
        (2, "generative"),
        (2, "simple"),
        (3, "simple"),
    ]


def test_auto_optimizer_state_is_resolved_by_the_model() -> None:
    assert Config(model="vib").optimizer_state == "reset"
    assert Config(model="comparison").optimizer_state == "keep"
    assert Config(model="vib", optimizer_state="keep").optimizer_state == "keep"


@pytest.mark.parametrize("file", SHIPPED, ids=[file.name for file in SHIPPED])
def test_each_shipped_search_space_loads_without_duplicates(file: Path) -> None:
    sweep = load_sweep(file)
    assert (len(sweep.configs) == 1) == (file.name == "vib_deep.yaml")
    assert sweep.n_duplicates == 0


# YAML as its author meant it


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("1.e-4", 1e-4),
        ("1e4", 1e4),
        (".5", 0.5),
        ("5.", 5.0),
        ("+1", 1.0),
        ("0.10", 0.1),
        ("1", 1.0),
        ("'1e-4'", 1e-4),
    ],
)
def test_a_number_may_be_spelled_in_any_usual_way(load: Load, text: str, number: float) -> None:
    value = only(load(f"space: {{lr: {text}}}")).lr
    assert value == number
    assert isinstance(value, float)
    assert only(load("space: {}", f"space.lr={text}")).lr == number


@pytest.mark.parametrize("text", ["100", "1e2", "100.0", "'100'", "+100"])
def test_a_whole_number_may_be_spelled_in_any_usual_way(load: Load, text: str) -> None:
    value = only(load(f"space: {{n_bottleneck: {text}}}")).n_bottleneck
    assert value == 100
    assert isinstance(value, int)


@pytest.mark.parametrize("text", ["no", "No", "NO", "off", "Off", "false", "False", "'no'"])
def test_no_reads_as_false_for_a_flag(load: Load, text: str) -> None:
    assert only(load(f"space: {{freeze_encoder: {text}}}")).freeze_encoder is False


@pytest.mark.parametrize("text", ["yes", "Yes", "on", "ON", "true", "TRUE"])
def test_on_reads_as_true_for_a_flag(load: Load, text: str) -> None:
    assert only(load(f"space: {{freeze_encoder: {text}}}")).freeze_encoder is True


@pytest.mark.parametrize(
    "text", ["no", "No", "NO", "off", "Off", "false", "False", "null", "~", "", "none"]
)
def test_no_reads_as_none_for_replay(load: Load, text: str) -> None:
    assert only(load(f"space: {{replay: {text}}}")).replay == "none"
    assert only(load("space: {}", f"space.replay={text}")).replay == "none"


@pytest.mark.parametrize("text", ["010", "-010", "00", "'010'", "0777", "0o10", "0x10", "0b1"])
@pytest.mark.parametrize(
    "place",
    [
        "space: {{beta_1: {}}}",
        "space: {{n_replay: {}}}",
        "space: {{encoder_widths: [{}]}}",
        "space: {{lr: {{grid_search: [{}]}}}}",
        "seeds: [{}]",
        "resources: {{cpu: {}}}",
        "pack: {}",
    ],
)
def test_octal_looking_numbers_are_refused(fail: Fail, place: str, text: str) -> None:
    message = fail(place.format(text))
    assert text.strip("'") in message
    assert "expected a" in message


@pytest.mark.parametrize(
    "text", ["2001-01-01", "2001-01-01 10:00:00", "1:30", "190:20:30", "1 2", "1,5", "1e", "e3"]
)
@pytest.mark.parametrize("name", ["beta_1", "n_replay"])
def test_dates_and_times_are_no_numbers(fail: Fail, name: str, text: str) -> None:
    message = fail(f"space:\n  {name}: {text}\n")
    assert message.startswith(f"vib.yaml: space.{name}: expected a")
    assert message.partition(", got ")[2].startswith(repr(text))


def test_on_and_no_stay_text_as_keys(fail: Fail) -> None:
    assert "got 'on'; known: experiment, data" in fail("on: 1")
    assert "space: expected a known setting, got 'no'" in fail("space: {no: 1}")


@pytest.mark.parametrize(
    ("text", "first", "second", "key"),
    [
        ("space:\n  lr: 1\n  beta_1: 2\n  lr: 1\n", (2, 3), (4, 3), "lr"),
        ("seeds: [0]\nspace: {}\nseeds: [1]\n", (1, 1), (3, 1), "seeds"),
        ("space:\n  any_of:\n    - {lr: 1,\n       lr: 2}\n", (3, 8), (4, 8), "lr"),
        ("space: {lr: 1, 'lr': 1}", (1, 9), (1, 16), "lr"),
    ],
)
def test_a_key_given_twice_is_refused_with_both_places(
    fail: Fail, text: str, first: tuple[int, int], second: tuple[int, int], key: str
) -> None:
    assert fail(text) == (
        f"vib.yaml: line {second[0]}, column {second[1]}: expected each key once, got {key!r} "
        f"twice, first at line {first[0]}, column {first[1]}; remove one"
    )


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("space: {lr: 1", ("line 1", "expected YAML")),
        ("space:\n\tlr: 1", ("line 2", "expected YAML", "\\t")),
        ("space: lr: 1", ("line 1, column 10", "expected YAML", "mapping values")),
        ("space: {lr: *x}", ("line 1", "undefined alias 'x'")),
        ("space: {? [a] : 1}", ("line 1", "expected a word as a key")),
        ("space: {lr: !!python/name:os.system x}", ("line 1", "tag")),
        ("space: {lr: \x00}", ("expected YAML", "#x0000")),
        ("space: {lr: 1}\n---\nspace: {lr: 2}\n", ("line 2", "single YAML document")),
        ("space: {freeze_encoder: !!bool maybe}", ("expected YAML", "maybe")),
        ("space: {lr: !!timestamp soon}", ("expected YAML",)),
        ("space: {lr: !!int soon}", ("expected YAML", "soon")),
        ("space: {lr: " + "9" * 5000 + "}", ("expected YAML", "digits")),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_what_is_no_yaml_is_one_line_with_its_place(
    fail: Fail, text: str, fragments: tuple[str, ...]
) -> None:
    message = fail(text)
    assert message.startswith("vib.yaml: ")
    assert [part for part in fragments if part not in message] == []
    assert len(message) < 300


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, -1e-05, 1e22, True, None, "text"]},
        *("no", "on", "null", "~", "", "010", "1:30", "2001-01-01", "<<", "=", "a: b", "# c"),
        *("1e-4", "1.5e3", "-1E4", "1", ".5", "true"),
        *(1e-4, 5e-324, 1.7976931348623157e308, math.inf, 0.1 + 0.2, 10**20),
    ],
    ids=repr,
)
def test_dumped_values_read_back_as_themselves(value: Any) -> None:
    back = parse_yaml(dump_yaml(value))
    assert back == value
    assert type(back) is type(value)


# Overrides


BASE = """
space:
  lr: 0.1
  any_of:
    - {model: vib, beta_1: {grid_search: [-1, -2]}}
    - {model: comparison}
"""


@pytest.mark.parametrize(
    ("override", "name", "values"),
    [
        ("space.lr=1e-3", "lr", [1e-3] * 3),
        (" space.lr =1e-3", "lr", [1e-3] * 3),
        ("space.lr={grid_search: [1, 2]}", "lr", [1, 1, 2, 2, 1, 2]),
        ("training.epochs=3", "epochs", [3] * 3),
        ("training.epochs.grid_search=[3, 4]", "epochs", [3, 3, 4, 4, 3, 4]),
        ("space.any_of.0.beta_1=-7", "beta_1", [-7, 0]),
        ("space.any_of.0.beta_1.grid_search.1=-7", "beta_1", [-1, -7, 0]),
        ("space.any_of.1.model=vib", "model", ["vib"] * 3),
        ("space.any_of.1={model: vib}", "model", ["vib"] * 3),
        ("space.any_of.1.replay=no", "replay", ["generative", "generative", "none"]),
        ("space.exclude=[{model: vib}]", "model", ["comparison"]),
        ("space.freeze_encoder=no", "freeze_encoder", [False] * 3),
        ("space.encoder_widths=[5, 6]", "encoder_widths", [(5, 6)] * 3),
        ("seeds=[8, 9]", "seed", [8, 8, 8, 9, 9, 9]),
        ("space.lr=2 # tried first", "lr", [2] * 3),
    ],
)
def test_an_override_replaces_one_value(
    load: Load, override: str, name: str, values: list[Any]
) -> None:
    assert [getattr(c, name) for c in load(BASE, override).configs] == values


def test_overrides_apply_in_turn(load: Load) -> None:
    sweep = load(BASE, "space.lr=2", "pack=3", "resources.cpu=4", "space.lr=3")
    assert {c.lr for c in sweep.configs} == {3.0}
    assert (sweep.pack, sweep.resources) == (3, Resources(cpu=4))


def test_an_override_equals_the_edited_file(load: Load) -> None:
    edited = load(BASE.replace("lr: 0.1", "lr: 0.2"))
    overridden = load(BASE, "space.lr=0.2")
    assert edited.configs == overridden.configs
    assert edited.resolved == overridden.resolved


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("space.lr", "expected KEY=VALUE such as space.lr=1e-3, got 'space.lr'"),
        ("=3", "expected KEY=VALUE such as space.lr=1e-3, got '=3'"),
        ("space..lr=3", "expected KEY=VALUE such as space.lr=1e-3, got 'space..lr=3'"),
        ("spcae.lr=1", "expected a known key, got 'spcae'; write space.lr=1"),
        ("lr=1", "expected a known key, got 'lr'; write space.lr=1"),
        ("epochs=1", "expected a known key, got 'epochs'; write training.epochs=1"),
        ("space.lrr=1", "space: expected a known setting, got 'lrr'; write space.lr=1"),
        ("space.lr.x=1", "space.lr.x: expected a section to set 'x' in, got 0.1"),
        ("space.lr=-1", "space.lr: expected a number > 0, got -1"),
        (
            "space.lr=[1, 2]",
            "space.lr: expected one value, got the list [1, 2]; to try each, "
            "write {grid_search: [1, 2]}",
        ),
        (
            "space.any_of.2.lr=1",
            "space.any_of.2: expected an index below 2, got '2'",
        ),
        ("space.any_of.x.lr=1", "space.any_of.x: expected an index below 2, got 'x'"),
        ("space.any_of.-1.lr=1", "space.any_of.-1: expected an index below 2, got '-1'"),
        (
            "space.any_of.².lr=1",
            "space.any_of.²: expected an index below 2, got '²' with U+00B2 SUPERSCRIPT TWO",
        ),
        (
            "space.any_of.0.modle=vib",
            "space.any_of[0]: expected a known setting, got 'modle' (did you mean model?)",
        ),
        (
            "space.any_of.1.lr=1",
            "space.any_of[1].lr: expected to be set once, got it in space too; keep one",
        ),
        ("data=3", "data: expected settings such as `name: value`, got 3"),
    ],
)
def test_a_bad_override_is_one_line_that_names_its_path(
    fail: Fail, override: str, message: str
) -> None:
    assert fail(BASE, override) == f"vib.yaml: {message}"


@pytest.mark.parametrize("override", ["space.lr=[1,", "space.lr=a: b: c", 'space.lr="x'])
def test_an_override_that_is_no_yaml_is_named(fail: Fail, override: str) -> None:
    # A bare `line 1, column 4` would look like a place in the file.
    message = fail(BASE, override)
    assert "space.lr" in message
    assert "expected YAML" in message


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # the file as a whole
        ("", "expected keys such as `experiment:` and `space:`, got an empty file"),
        ("# nothing", "expected keys such as `experiment:` and `space:`, got an empty file"),
        ("7", "expected keys such as `experiment:` and `space:`, got 7"),
        ("space", "expected keys such as `experiment:` and `space:`, got 'space'"),
        ("[space]", "expected keys such as `experiment:` and `space:`, got ['space']"),
        ("spcae: {}", "expected a known key, got 'spcae' (did you mean space?)"),
        ("n_tasks: 2", "expected a known key, got 'n_tasks'; write it under `data:`"),
        ("lr: 2", "expected a known key, got 'lr'; write it under `space:`"),
        (
            "zzz: 1",
            "expected a known key, got 'zzz'; known: experiment, data, training, space, seeds "
            "and others (see page 'Search spaces' of the docs)",
        ),
        (
            "experiment: reply",
            "experiment: expected one of replay_vib, replay, vib, joint, got 'reply' "
            "(did you mean replay?)",
        ),
        ("space: 3", "space: expected settings such as `name: value`, got 3"),
        ("data: [1]", "data: expected settings such as `name: value`, got [1]"),
        # numbers
        ("space: {lr: .nan}", "space.lr: expected a number > 0, got NaN"),
        ("space: {lr: nan}", "space.lr: expected a number > 0, got 'nan'"),
        ("space: {lr: .inf}", "space.lr: expected a number > 0, got infinity"),
        ("space: {beta_1: -.inf}", "space.beta_1: expected a number, got -infinity"),
        ("space: {lr: 1e400}", "space.lr: expected a number > 0, got infinity"),
        ("space: {lr: -0.1}", "space.lr: expected a number > 0, got -0.1"),
        ("space: {lr: 0}", "space.lr: expected a number > 0, got 0"),
        ("space: {lr: ''}", "space.lr: expected a number > 0, got ''"),
        ("space: {lr: small}", "space.lr: expected a number > 0, got 'small'"),
        ("space: {beta_2: -1}", "space.beta_2: expected a number >= 0, got -1"),
        ("space: {weight_decay: -1e-9}", "space.weight_decay: expected a number >= 0, got -1e-09"),
        (
            "space: {replay_weight: 1.1}",
            "space.replay_weight: expected a number from 0 to 1, got 1.1",
        ),
        ("divergence: {loss_above: 0}", "divergence.loss_above: expected a number > 0, got 0"),
        (
            "space: {n_replay: 0.5}",
            "space.n_replay: expected a whole number from 1 to 1000000, got 0.5",
        ),
        (
            "space: {n_replay: .nan}",
            "space.n_replay: expected a whole number from 1 to 1000000, got NaN",
        ),
        (
            "space: {n_replay: 1e400}",
            "space.n_replay: expected a whole number from 1 to 1000000, got infinity",
        ),
        (
            "training: {epochs: 0}",
            "training.epochs: expected a whole number from 1 to 100000, got 0",
        ),
        (
            "training: {eval_samples: -1}",
            "training.eval_samples: expected a whole number from 0 to 1000, got -1",
        ),
        # words and flags
        (
            "space: {optimizer: adm}",
            "space.optimizer: expected one of adam, adamw, adagrad, rmsprop, sgd, got 'adm' "
            "(did you mean adam?)",
        ),
        ("space: {model: 3}", "space.model: expected one of comparison, mlp, vib, got 3"),
        (
            "space: {replay: generativ}",
            "space.replay: expected one of generative, none, simple, got 'generativ' "
            "(did you mean generative?)",
        ),
        # `on` asks for replay, so `none` would be the opposite
        ("space: {replay: on}", "space.replay: expected one of generative, none, simple, got 'on'"),
        (
            "data: {source: mnist5k}",
            "data.source: expected one of mnist_5k, mnist, fashion_mnist, kmnist, or a file such "
            "as data/letters.npz, got 'mnist5k' (did you mean mnist_5k?)",
        ),
        (
            "space: {freeze_encoder: 1}",
            "space.freeze_encoder: expected true or false, got 1; write true",
        ),
        (
            "space: {freeze_encoder: maybe}",
            "space.freeze_encoder: expected true or false, got 'maybe'",
        ),
        # lists and grids
        (
            "space: {lr: [1, 2]}",
            "space.lr: expected one value, got the list [1, 2]; to try each, "
            "write {grid_search: [1, 2]}",
        ),
        (
            "space: {lr: {grid_search: []}}",
            "space.lr.grid_search: expected a list of values, got an empty list",
        ),
        (
            "space: {lr: {grid_search: 1}}",
            "space.lr.grid_search: expected a list of values, got 1",
        ),
        (
            "space: {lr: {grid_serch: [1]}}",
            "space.lr: expected a value or {grid_search: [...]}, got {'grid_serch': [1]} "
            "(did you mean grid_search?)",
        ),
        (
            "space: {lr: {grid_search: [1, -1]}}",
            "space.lr.grid_search[1]: expected a number > 0, got -1",
        ),
        (
            "space: {lr: {grid_search: [[1, 2]]}}",
            "space.lr.grid_search[0]: expected a number > 0, got [1, 2]",
        ),
        # widths
        (
            "space: {encoder_widths: 200}",
            "space.encoder_widths: expected a list of whole numbers > 0, got 200; write [200]",
        ),
        (
            "space: {encoder_widths: [200, 0]}",
            "space.encoder_widths: expected a list of whole numbers > 0, got [200, 0]",
        ),
        (
            "space: {rec_decoder_widths: [-5]}",
            "space.rec_decoder_widths: expected a list of whole numbers > 0, got [-5]",
        ),
        (
            "space: {class_decoder_widths: [1.5]}",
            "space.class_decoder_widths: expected a list of whole numbers > 0, got [1.5]",
        ),
        (
            "space: {encoder_widths: [[200]]}",
            "space.encoder_widths: expected a list of whole numbers > 0, got [[200]]",
        ),
        (
            "space: {encoder_widths: {grid_search: [200]}}",
            "space.encoder_widths.grid_search[0]: expected a list of whole numbers > 0, got 200; "
            "write [200]",
        ),
        (
            "space: {n_bottleneck: 0}",
            "space.n_bottleneck: expected a whole number from 1 to 100000, got 0",
        ),
        # any_of and exclude
        ("space: {any_of: []}", "space.any_of: expected a list of settings, got []"),
        ("space: {any_of: {lr: 1}}", "space.any_of: expected a list of settings, got {'lr': 1}"),
        ("space: {any_of: [lr]}", "space.any_of[0]: expected `name: value` settings, got 'lr'"),
        (
            "space: {any_of: [{lr: 1}, {lr: 0}]}",
            "space.any_of[1].lr: expected a number > 0, got 0",
        ),
        ("space: {exclude: {lr: 1}}", "space.exclude: expected a list of settings, got {'lr': 1}"),
        ("space: {exclude: [{}]}", "space.exclude[0]: expected `name: value` settings, got {}"),
        (
            "space: {exclude: [{bta_1: 1}]}",
            "space.exclude[0]: expected a known setting, got 'bta_1' (did you mean beta_1?)",
        ),
        (
            "space: {exclude: [{model: vib}]}",
            "space.exclude: expected to leave some configurations, got none; exclude less",
        ),
        # places
        (
            "training: {lr: 1}",
            "training: expected a setting of `training:`, got 'lr'; write it under `space:`",
        ),
        (
            "data: {epochs: 3}",
            "data: expected a setting of `data:`, got 'epochs'; write it under `training:`",
        ),
        (
            "space: {seed: 3}",
            "space: expected a known setting, got 'seed'; write `seeds: [0, 1]` at the top of "
            "the file",
        ),
        (
            "space: {pack: 3}",
            "space: expected a known setting, got 'pack'; write `pack:` at the top of the file",
        ),
        (
            "divergence: {loss: 3}",
            "divergence: expected a known setting, got 'loss'; known: loss_above, loss_factor, "
            "loss_patience",
        ),
        (
            "training: {n_epochs: 3}",
            "training: expected a known setting, got 'n_epochs'; write `epochs:`",
        ),
        (
            "space: {lr: 1, any_of: [{model: vib}, {lr: 1}]}",
            "space.any_of[1].lr: expected to be set once, got it in space too; keep one",
        ),
        (
            "data: {n_tasks: 2}\nspace: {n_tasks: 2}",
            "space.n_tasks: expected to be set once, got it in data too; keep one",
        ),
        (
            "training: {epochs: 2}\nspace: {any_of: [{epochs: 2}]}",
            "space.any_of[0].epochs: expected to be set once, got it in training too; keep one",
        ),
        # seeds, pack, resources
        (
            "seeds: 3",
            "seeds: expected a list such as [0, 1, 2], got 3; "
            "write [0, 1, 2] for 3 seeds, or [3] for seed 3 alone",
        ),
        ("seeds: 0", "seeds: expected a list such as [0, 1, 2], got 0; write [0]"),
        ("seeds: 21", "seeds: expected a list such as [0, 1, 2], got 21; write [21]"),
        (
            "seeds: 1",
            "seeds: expected a list such as [0, 1, 2], got 1; "
            "write [0] for 1 seed, or [1] for seed 1 alone",
        ),
        ("seeds: []", "seeds: expected a list such as [0, 1, 2], got []"),
        ("seeds: [0, -1]", "seeds[1]: expected a whole number from 0 to 4294967295, got -1"),
        (
            "seeds: [4294967296]",
            "seeds[0]: expected a whole number from 0 to 4294967295, got 4294967296",
        ),
        ("pack: 0", "pack: expected auto or a whole number > 0, got 0"),
        ("pack: 1.5", "pack: expected auto or a whole number > 0, got 1.5"),
        ("pack: all", "pack: expected auto or a whole number > 0, got 'all'"),
        ("resources: {cpu: 0}", "resources.cpu: expected a number > 0, whole or below 1, got 0"),
        (
            "resources: {gpu: -1}",
            "resources.gpu: expected auto or a number >= 0, whole or below 1, got -1",
        ),
        (
            "resources: {gpu: 1.5}",
            "resources.gpu: expected auto or a number >= 0, whole or below 1, got 1.5",
        ),
        (
            "resources: {cpu: two}",
            "resources.cpu: expected a number > 0, whole or below 1, got 'two'",
        ),
        (
            "resources: {cpu: .nan}",
            "resources.cpu: expected a number > 0, whole or below 1, got NaN",
        ),
        (
            "resources: {cpu: .inf}",
            "resources.cpu: expected a number > 0, whole or below 1, got infinity",
        ),
        (
            "resources: {gpus: 1}",
            "resources.gpus: expected cpu or gpu, got 'gpus' (did you mean gpu?)",
        ),
        ("resources: 2", "resources: expected settings such as `name: value`, got 2"),
        # combinations of settings, and settings that do not fit the data
        (
            "data: {tasks: split_mnist, n_tasks: 6}\nspace: {replay: none}",
            "data.n_tasks: expected at most 5 tasks of two classes with split_mnist, got 6",
        ),
        (
            "data: {n_tasks: 3}\nspace: {generator: frozen}",
            "data.n_tasks: expected at most 2 with generator frozen (it learns task 1 only), "
            "got 3; use generator continual",
        ),
        (
            "data: {n_tasks: 101}\nspace: {replay: none}",
            "data.n_tasks: expected a whole number from 1 to 100, got 101",
        ),
        (
            "training: {batch_size: 4001}",
            "training.batch_size: expected at most the 4000 training samples of mnist_5k, "
            "got 4001; lower it or set drop_last false",
        ),
    ],
    ids=lambda value: value[:60],
)
def test_a_mistake_is_one_line_with_file_key_expected_and_got(
    fail: Fail, text: str, message: str
) -> None:
    assert fail(text) == f"vib.yaml: {message}"


@pytest.mark.parametrize(
    "place",
    [
        "space: {{lr: {}}}",
        "space: {{n_replay: {}}}",
        "space: {{encoder_widths: [{}]}}",
        "space: {{model: {}}}",
        "seeds: [{}]",
        "resources: {{cpu: {}}}",
    ],
)
@pytest.mark.parametrize("value", ["true", "null"])
def test_neither_true_nor_null_is_a_number_or_a_word(fail: Fail, place: str, value: str) -> None:
    message = fail(place.format(value))
    section = place.split(":", 1)[0]
    assert message.startswith(f"vib.yaml: {section}")
    assert ": expected" in message
    assert ", got " in message


def test_true_is_no_pack_size(fail: Fail) -> None:
    assert fail("pack: true").startswith("vib.yaml: pack: expected auto or a whole number > 0, got")


@pytest.mark.parametrize("section", ["data", "training", "space", "divergence"])
def test_a_name_offered_as_known_is_accepted_there(fail: Fail, section: str) -> None:
    listed = fail(f"{section}: {{zzzzzz: 1}}").partition("; known: ")[2].partition(" and ")[0]
    assert 1 < len(listed.split(", ")) <= 5
    for name in listed.split(", "):
        # An empty mapping is not a value of any setting, so the complaint must be about the value.
        assert fail(f"{section}: {{{name}: {{}}}}").startswith(f"vib.yaml: {section}.{name}: ")


def test_too_many_configurations_are_refused_before_they_are_made(fail: Fail) -> None:
    grid = ", ".join(map(str, range(1, 1002)))
    text = f"space: {{lr: {{grid_search: [{grid}]}}, beta_2: {{grid_search: [{grid}]}}}}"
    assert fail(text) == (
        "vib.yaml: space: expected at most 1,000,000 configurations, got 1,002,001; cut the grid "
        "or raise --max-configs"
    )


def test_a_long_value_is_cut_in_the_message(fail: Fail) -> None:
    message = fail(f"space: {{lr: {'x' * 5000}}}")
    assert message.startswith("vib.yaml: space.lr: expected a number > 0, got 'xxx")
    assert len(message) < 200


def test_a_batch_may_exceed_the_data_when_none_is_dropped(load: Load) -> None:
    assert only(load("space: {batch_size: 4001, drop_last: no}")).batch_size == 4001
    assert only(load("space: {batch_size: 4000}")).batch_size == 4000
    assert only(load("space: {batch_size: 4001, source: mnist}")).batch_size == 4001


def test_as_many_tasks_as_the_data_has_are_accepted(load: Load) -> None:
    assert only(load("space: {tasks: split_mnist, n_tasks: 5, replay: no}")).n_classes == 2
    assert only(load("space: {n_tasks: 100, replay: simple}")).n_classes == 10


def test_a_missing_file_is_one_line_with_the_nearest_or_all_names(tmp_path: Path) -> None:
    missing = tmp_path / "vbi.yaml"
    with pytest.raises(InputError) as caught:
        load_sweep(missing)
    assert str(caught.value) == f"{missing}: expected a search-space file, found none"
    (tmp_path / "vib.yaml").touch()
    with pytest.raises(InputError) as caught:
        load_sweep(missing)
    assert str(caught.value) == (
        f"{missing}: expected a search-space file, found none "
        f"(did you mean {tmp_path / 'vib.yaml'}?)"
    )
    with pytest.raises(InputError, match=r"no_such_folder.*found none$"):
        load_sweep(tmp_path / "no_such_folder" / "vib.yaml")


def test_a_folder_is_no_search_space(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: expected a readable file, got: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"space: {lr: \xff}",
            "line 1, column 13: expected UTF-8 text, got the byte 0xff at offset 12; "
            "save it as UTF-8",
        ),
        (
            "space: {}".encode("utf-16"),
            "expected UTF-8 text, got UTF-16 (byte 0xff at offset 0); save it as UTF-8",
        ),
    ],
)
def test_text_that_is_not_utf_8_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "vib.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_sweep(file)
    assert str(caught.value) == f"vib.yaml: {message}"


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "vib.yaml"
    file.write_bytes("\ufeffspace:\r\n  lr: 2\r\n".encode())
    assert only(load_sweep(file)).lr == 2


# Loss weights


@pytest.mark.parametrize(
    ("model", "beta_1", "beta_2", "w_rec", "w_kl"),
    [
        ("vib", -10, 0, 10, 0),
        ("vib", -0.25, 0.5, 0.25, 0.5),
        ("vib", 0, 0.5, 0, 0.5),
        ("vib", -0.0, 0.5, 0, 0.5),
        ("vib", 0.25, 0.5, 0, 0.75),
        ("vib", 10, 0, 0, 10),
        ("comparison", -10, 0.5, 0, 0.5),
        ("comparison", 0, 0.5, 0, 0.5),
        ("comparison", 10, 0.5, 0, 0.5),
    ],
)
def test_the_sign_of_beta_1_chooses_what_it_weighs(
    model: str, beta_1: float, beta_2: float, w_rec: float, w_kl: float
) -> None:
    setting = {"model": model, "beta_1": beta_1, "beta_2": beta_2}
    weights = Config.model_validate(setting).loss_weights
    assert weights == (w_rec, w_kl)
    assert all(math.copysign(1, weight) == 1 for weight in weights)  # never -0.0


# Identity

CHANGED: dict[str, Any] = {
    "experiment": "vib",
    "tasks": "split_mnist",
    "n_tasks": 1,
    "source": "mnist",
    "task_samples": 3999,
    "normalize": True,
    "shuffle_tasks": True,
    "first_task_identity": True,
    "drop_last": False,
    "epochs": 11,
    "generator_epochs": 10,
    "batch_size": 99,
    "eval_samples": 1,
    "reduction": "mean",
    "label_smoothing": 0.1,
    "ema_decay": 0.5,
    "tf32": True,
    "model": "comparison",
    "n_bottleneck": 99,
    "encoder_widths": (200,),
    "class_decoder_widths": (200,),
    "rec_decoder_widths": (200,),
    "nonlinearity": "tanh",
    "dropout": 0.2,
    "variance": "softplus",
    "optimizer": "sgd",
    "lr": 1.0000001e-3,
    "lr_schedule": "exponential",
    "lr_decay": 0.96,
    "weight_decay": 1e-12,
    "momentum": 0.9,
    "clip_norm": 1e6,
    "optimizer_state": "keep",
    "beta_1": -1e-12,
    "beta_2": 1e-12,
    "replay": "simple",
    "n_replay": 999,
    "n_replay_scope": "total",
    "selection": "ring",
    "selection_features": "encoder",
    "retrieval": "generative_mir",
    "n_candidates": 51,
    "mir_steps": 4,
    "mir_interference": 0.2,
    "mir_entropy": 0.5,
    "mir_shell": 0.5,
    "replay_weight": 0.25,
    "replay_schedule": "1-1/t",
    "replay_decay": 0.8,
    "replay_labels": "hard",
    "label_temperature": 2.0,
    "labeler": "at_generation",
    "generator": "continual",
    "generator_optimizer": "sgd",
    "generator_lr": 1e-3,
    "generator_replay_weight": 0.25,
    "freeze_encoder": True,
    "loss_above": 999.0,
    "loss_factor": 2.0,
    "loss_patience": 2,
    "seed": 1,
}


def test_every_setting_has_a_changed_value_here() -> None:
    assert set(CHANGED) == set(Config.model_fields)


APPLIES_WITH: dict[str, dict[str, Any]] = {
    "shuffle_tasks": {"tasks": "split_mnist"},
    "generator_epochs": {"model": "comparison", "epochs": 9},
    "lr_decay": {"lr_schedule": "exponential"},
    "momentum": {"optimizer": "rmsprop"},
    "selection": {"replay": "simple"},
    "selection_features": {"replay": "simple", "selection": "herding"},
    "n_candidates": {"replay": "simple", "retrieval": "mir", "batch_size": 50, "n_replay": 500},
    "mir_steps": {"retrieval": "generative_mir"},
    "mir_interference": {"retrieval": "generative_mir"},
    "mir_entropy": {"retrieval": "generative_mir"},
    "mir_shell": {"retrieval": "generative_mir"},
    "replay_decay": {"replay_schedule": "exponential"},
    "generator_optimizer": {"model": "comparison"},
    "generator_lr": {"model": "comparison"},
    "generator_replay_weight": {"model": "comparison", "generator": "continual", "n_tasks": 3},
}
"""Settings that do not apply to the default configuration, with what makes them apply."""


def test_ids_differ_for_each_changed_setting() -> None:
    for name, value in CHANGED.items():
        base = APPLIES_WITH.get(name, {})
        plain, changed = (Config.model_validate(base | more) for more in ({}, {name: value}))
        assert plain.id != changed.id, name
        assert len(changed.id) == 16 and int(changed.id, 16) >= 0
        if name in APPLIES_WITH:  # the same experiment, so the same configuration
            other = Config.model_validate({name: value})
            assert (other.id == Config().id) == (name not in other.applicable), name


@pytest.mark.parametrize(
    ("setting", "config_id"),
    [
        # a promise since version 0.2.0: changing one of these retrains finished sweeps
        ({}, "44136fa355b3678a"),
        ({"lr": 2.5, "replay": "none"}, "7f0f8811c25a9b11"),
        ({"model": "comparison"}, "7b5e7f7b11a020f6"),
        ({"replay": "simple", "n_tasks": 3}, "4b34a6f06a5ce5e5"),
        ({"tasks": "split_mnist", "tf32": True}, "4367f443f78f3c52"),
        ({"experiment": "joint"}, "64421014bd3a3a23"),
    ],
)
def test_the_id_of_a_configuration_stays(setting: dict[str, Any], config_id: str) -> None:
    assert Config(**setting).id == config_id


DEFAULTS_OF_0_2_0: dict[str, Any] = {
    "experiment": "replay_vib",
    "tasks": "perm_mnist",
    "n_tasks": 2,
    "source": "mnist_5k",
    "task_samples": 0,
    "normalize": False,
    "shuffle_tasks": False,
    "first_task_identity": False,
    "drop_last": True,
    "epochs": 10,
    "generator_epochs": 0,
    "batch_size": 100,
    "eval_samples": 0,
    "reduction": "auto",
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
    "tf32": False,
    "model": "vib",
    "n_bottleneck": 100,
    "encoder_widths": (200, 200),
    "class_decoder_widths": (),
    "rec_decoder_widths": (200, 200),
    "nonlinearity": "relu",
    "dropout": 0.0,
    "variance": "exp",
    "optimizer": "adam",
    "lr": 0.001,
    "lr_schedule": "constant",
    "lr_decay": 0.97,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "clip_norm": 0.0,
    "optimizer_state": "auto",
    "beta_1": 0.0,
    "beta_2": 0.0,
    "replay": "generative",
    "n_replay": 1000,
    "n_replay_scope": "auto",
    "selection": "random",
    "selection_features": "pixels",
    "retrieval": "cycle",
    "n_candidates": 50,
    "mir_steps": 3,
    "mir_interference": 0.1,
    "mir_entropy": 1.0,
    "mir_shell": 0.0,
    "replay_weight": 0.5,
    "replay_schedule": "constant",
    "replay_decay": 0.9,
    "replay_labels": "soft",
    "label_temperature": 1.0,
    "labeler": "current",
    "generator": "auto",
    "generator_optimizer": "auto",
    "generator_lr": 0.0,
    "generator_replay_weight": 0.5,
    "freeze_encoder": False,
    "loss_above": 1000000.0,
    "loss_factor": 0.0,
    "loss_patience": 1,
    "seed": 0,
}


def test_a_default_that_was_released_stays() -> None:
    # Ids leave out defaults: a changed default would change the meaning of finished sweeps.
    defaults = {name: field.default for name, field in Config.model_fields.items()}
    assert {name: defaults[name] for name in DEFAULTS_OF_0_2_0} == DEFAULTS_OF_0_2_0


def test_only_settings_that_are_not_at_their_defaults_make_an_id() -> None:
    assert Config().canonical == "{}"
    assert Config(lr=2.5, replay="none").canonical == '{"lr":2.5,"replay":"none"}'
    # The value that auto stands for gives the same setting as auto.
    assert Config(model="comparison", reduction="sum").canonical == '{"model":"comparison"}'
    assert Config(reduction="mean").canonical == '{"reduction":"mean"}'


@pytest.mark.parametrize(
    "text",
    [
        "space: {lr: 1, n_replay: 100, beta_1: 0, encoder_widths: [200], freeze_encoder: no}",
        "space: {lr: 1.0, n_replay: 1e2, beta_1: -0.0, encoder_widths: [200.0], model: vib}",
        "space: {lr: '1', n_replay: '100', beta_1: -0, encoder_widths: ['200']}",
        "space: {encoder_widths: [2e2], beta_1: 0.0, n_replay: 100.0, lr: 1e0}\nseeds: [0.0]",
        "seeds: ['0']\ndivergence: {loss_above: 1e6}\nspace: {n_replay: 100, lr: +1, any_of: "
        "[{encoder_widths: [200], optimizer_state: reset}]}\ndata: {n_tasks: '2'}",
    ],
)
def test_ids_do_not_depend_on_spelling_order_or_place(load: Load, text: str) -> None:
    expected = Config(lr=1.0, n_replay=100, encoder_widths=(200,))
    assert only(load(text)).id == expected.id


def test_ids_are_equal_in_another_process() -> None:
    code = "from raysweep.learning.config import Config; print(Config(lr=2.5, replay='none').id)"
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == Config(lr=2.5, replay="none").id


def test_a_config_cannot_change_once_made() -> None:
    with pytest.raises(ValidationError):
        Config().lr = 2.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Config.model_validate({"learning_rate": 2.0})


# The resolved search space

RESOLVABLE = {
    "example": (EXAMPLE, ()),
    "defaults": ("experiment: replay_vib", ()),
    "overrides": (BASE, ("space.lr={grid_search: [1e-5, 3e22]}", "seeds=[4, 2]", "pack=2")),
    "spellings": ("space: {lr: '1e-4', replay: no, freeze_encoder: 'on', beta_1: -0.0}", ()),
    "widths": ("space: {encoder_widths: {grid_search: [[], [9], [9, 8]]}}", ()),
    "elsewhere": ("space: {any_of: [{epochs: 3, n_tasks: 1}, {batch_size: 7}]}", ()),
    "anchors": ("space: {any_of: [&a {beta_1: 2, lr: &b 2}, {<<: *a, beta_2: *b}]}", ()),
    "exclude": ("space: {lr: {grid_search: [1, 2]}, exclude: [{lr: 2, n_replay: 1000}]}", ()),
    "joint": ("experiment: joint\nspace: {model: comparison}", ()),
    "vib": ("experiment: vib", ()),
    "experiment in space": ("experiment: replay\nspace: {experiment: joint, lr: 2}", ()),
    "bounds": (
        "experiment: replay\ndata: {tasks: split_mnist, n_tasks: 5}\nspace: {any_of: "
        "[{replay: none}, {replay: simple}, {generator: continual}, {experiment: joint}]}",
        (),
    ),
    "all experiments": (
        "space: {any_of: [{experiment: vib}, {experiment: joint, model: vib}, {lr: 2}, "
        "{experiment: replay, replay: none}, {experiment: joint}, {experiment: replay_vib}]}",
        (),
    ),
    "shared anchors with vib": (
        "space: {any_of: [&a {experiment: vib, beta_2: {grid_search: [1, 2]}}, "
        "{<<: *a, experiment: replay_vib, n_tasks: 1}, *a]}",
        (),
    ),
}
WITH_A_GRID_OF_EXPERIMENTS = {
    "grid": ("space: {experiment: {grid_search: [replay, joint]}, n_tasks: 3}", ()),
    "grid with vib": (
        "space: {experiment: {grid_search: [vib, joint, replay_vib]}, model: vib, "
        "beta_2: {grid_search: [0, 1]}, exclude: [{experiment: replay_vib, replay: generative}, "
        "{experiment: joint, beta_2: 0}]}",
        ("space.exclude=[{experiment: joint, beta_2: 0}]",),
    ),
    "grid in any_of": (
        "experiment: joint\nspace: {any_of: [{experiment: {grid_search: [vib, replay_vib]}}, "
        "{lr: 2}, {experiment: {grid_search: [joint, replay]}, replay: simple}]}",
        (),
    ),
}


@pytest.mark.parametrize("name", [*RESOLVABLE, *WITH_A_GRID_OF_EXPERIMENTS])
def test_the_resolved_search_space_gives_the_same_sweep(load: Load, name: str) -> None:
    text, overrides = (RESOLVABLE | WITH_A_GRID_OF_EXPERIMENTS)[name]
    sweep = load(text, *overrides)
    again = load(dump_yaml(sweep.resolved))
    assert ids(again) == ids(sweep)
    assert again.n_duplicates == sweep.n_duplicates
    assert (again.resources, again.pack) == (sweep.resources, sweep.pack)
    assert again.resolved == sweep.resolved


@pytest.mark.parametrize("file", SHIPPED, ids=[file.name for file in SHIPPED])
def test_a_shipped_search_space_resolves_to_itself(load: Load, file: Path) -> None:
    sweep = load_sweep(file)
    assert ids(load(dump_yaml(sweep.resolved))) == ids(sweep)


@pytest.mark.parametrize("name", RESOLVABLE)
def test_the_resolved_search_space_states_every_setting_of_every_branch(
    load: Load, name: str
) -> None:
    # Otherwise a later change of a default would change what the stored file means.
    text, overrides = RESOLVABLE[name]
    resolved = load(text, *overrides).resolved
    base = {key for part in ("data", "training", "space", "divergence") for key in resolved[part]}
    for branch in resolved["space"].get("any_of", [{}]):
        assert set(CHANGED) - {"seed", "experiment"} - base - set(branch) == set()
    assert "experiment" in resolved


@pytest.mark.parametrize("name", WITH_A_GRID_OF_EXPERIMENTS)
def test_only_what_differs_between_a_grids_experiments_is_left_unstated(
    load: Load, name: str
) -> None:
    text, overrides = WITH_A_GRID_OF_EXPERIMENTS[name]
    resolved = load(text, *overrides).resolved
    base = {key for part in ("data", "training", "space", "divergence") for key in resolved[part]}
    own = {name for experiment in EXPERIMENTS.values() for name in experiment.defaults}
    for branch in resolved["space"].get("any_of", [{}]):
        assert set(CHANGED) - {"seed", "experiment"} - base - set(branch) <= own


def test_the_resolved_forms_of_random_search_spaces_give_the_same_sweeps(load: Load) -> None:
    def space(key: str, names: Sequence[str]) -> dict[str, Any]:
        n_most = draw_of(key, "how many").randint(0, min(4, len(names)))
        draws = {name: draw_of(key, name) for name in some_of(names, n_most, key)}
        return {
            name: draw.choice(pool[name])
            if draw.random() < 0.6
            else {"grid_search": draw.sample(pool[name], 2)}
            for name, draw in draws.items()
        }

    pool: dict[str, list[Any]] = {
        "experiment": ["replay", "joint", "replay_vib", "vib"],
        "model": ["vib", "comparison", "mlp"],
        "replay": ["none", "simple", "generative"],
        "n_tasks": [1, 2, 3],
        "lr": [1, 2],
        "encoder_widths": [[3], []],
        "freeze_encoder": [True, False],
        "n_replay": [1000, 500],
    }
    n_loaded = 0
    for number in range(200):
        beside = some_of(pool, 3, number)
        others = [n for n in pool if n not in beside]
        entries = [space(f"{number}/{entry}", others) for entry in range(3)]
        raw = {"space": space(f"{number}/beside", beside) | {"any_of": entries}}
        raw["space"] |= {"exclude": [{"lr": 2, "replay": "generative"}]}
        if (draw := draw_of(number, "experiment")).random() < 0.7:
            raw["experiment"] = draw.choice(pool["experiment"])
        try:
            sweep = load(dump_yaml(raw))
        except InputError:
            continue
        again = load(dump_yaml(sweep.resolved))
        assert ids(again) == ids(sweep), raw
        assert (again.n_duplicates, again.resolved) == (sweep.n_duplicates, sweep.resolved)
        n_loaded += 1
    assert n_loaded > 30


def test_loading_leaves_no_trace_of_an_override_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "vib.yaml"
    file.write_text(EXAMPLE, encoding="utf-8")
    load_sweep(file, ["space.n_bottleneck=9"])
    assert file.read_text(encoding="utf-8") == EXAMPLE
