"""A catalogue of refused input, each case with its full message, and of accepted input."""

import re
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.source_shapes import SOURCES
from raysweep.learning.data.sources import Source, check_fit
from raysweep.settings.names import TOP_KEYS
from raysweep.settings.sweep import Sweep, load_sweep
from raysweep.settings.yaml_nodes import MAX_BYTES
from raysweep.settings.yaml_text import parse_yaml
from raysweep.user_text.secret_names import looks_secret
from tests.bad_input_cases import CATALOGUE, FILES, Case, accepted_cases, refused_cases

REFUSED = refused_cases()
ACCEPTED = accepted_cases()


def load(file: Path, arguments: Sequence[str] = ()) -> Sweep:
    """Load a search space with overrides and ``--max-configs=N``."""
    overrides = [word for word in arguments if not word.startswith("--max-configs=")]
    limits = [int(word.partition("=")[2]) for word in arguments if word not in overrides]
    return load_sweep(file, overrides, **({"max_configs": limits[0]} if limits else {}))


def refusal(file: Path, arguments: Sequence[str] = ()) -> str:
    with pytest.raises(InputError) as caught:
        load(file, arguments)
    return str(caught.value)


def refusal_of(case: Case, folder: Path) -> str:
    return refusal(case.write(folder), case.arguments)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_this_one_line(name: str, tmp_path: Path) -> None:
    case = REFUSED[name]
    start = time.process_time()
    message = refusal_of(case, tmp_path)
    assert message == case.message
    lines = message.splitlines()
    assert all(line.isprintable() and len(line) < 1200 for line in lines)
    n_more = re.fullmatch(r"  and (?:at least )?(\d+) more", lines[-1])
    n = len(lines) - 1 if n_more is None else len(lines) - 2 + int(n_more[1])
    assert len(lines) == 1 or lines[0].endswith(f" {n} mistakes")
    assert message.startswith(f"{name}.yaml: ")
    assert re.search(r"expected .*, got.", message), "says what was expected and what came"
    is_about_the_file = re.fullmatch("file_.*", name)
    has_place = re.search(r"\bline \d+, column \d+", message)
    names_a_key = re.match(rf"[\w.]+: ({'|'.join(TOP_KEYS)})[\w.\[\]-]*: ", message)
    is_override = case.arguments
    assert has_place or names_a_key or is_about_the_file or is_override, "says where"
    assert "hunter2" not in message, "a secret is never shown"
    assert time.process_time() - start < 5, "counted, not expanded"


def test_every_case_has_a_message_and_every_file_a_case() -> None:
    assert len(REFUSED) > 200
    assert len(ACCEPTED) > 30
    assert all(case.message for case in REFUSED.values())
    assert all(case.expected for case in ACCEPTED.values())
    for case in REFUSED.values():
        assert case.name.startswith(f"{case.table}_"), "stands in the table of its theme"
    rows = [row for file in CATALOGUE.glob("*.yaml") for row in yaml.safe_load(file.read_bytes())]
    assert len(rows) == len(REFUSED) + len(ACCEPTED)
    named = [row[key] for row in rows for key in ("file", "args_file") if key in row]
    assert sorted(named) == sorted(file.name for file in FILES.iterdir())


def seen_of(sweep: Sweep, key: str) -> Any:
    """Return the part of a sweep that an accepted case has an expectation for."""
    if key in Config.model_fields:
        values = [getattr(config, key) for config in sweep.configs]
        return [list(value) if isinstance(value, tuple) else value for value in values]
    if key == "n_configs":
        return len(sweep.configs)
    if key == "resources":
        return [sweep.resources.cpu, sweep.resources.gpu, sweep.resources.is_gpu_auto]
    if key == "stage_cache":
        return [sweep.stage_cache.is_on, sweep.stage_cache.max_gb]
    if key.startswith("resolved."):
        return sweep.resolved[key.partition(".")[2]]
    value = getattr(sweep, key)
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_as_this(name: str, tmp_path: Path) -> None:
    case = ACCEPTED[name]
    sweep = load(case.write(tmp_path), case.arguments)
    assert case.expected
    for key, value in case.expected.items():
        assert seen_of(sweep, key) == value, key


# Each rule on combinations of settings has a case


def test_every_rule_has_a_case() -> None:
    learning = Path(__file__).parents[2] / "raysweep" / "learning"
    files = [learning / "rules.py", *sorted((learning / "methods").glob("*.py"))]
    source = "".join(file.read_text() for file in files)
    messages = " ".join(case.message for case in REFUSED.values() if case.table == "rule")
    wanted = [
        "a model of experiment",
        "with experiment vib",
        "tasks of two classes",
        "training samples of mnist_5k, got 4001; 0 takes all",
        "training samples of mnist_5k, got 4001; lower it",
        "of a task (data.task_samples)",
        "of all tasks",
        "with model vib",
        "with model comparison",
        "with generator frozen",
        "with generator continual",
        "with selection reservoir",
        "classes of 4 stored tasks",
        "without replay",
        "with one task",
        "it needs replay generative",
        "it needs one generator",
        "a buffer of at least",
        "(mir chooses a batch from",
        "(no such limit) or a number > 1",
    ]
    assert [part for part in wanted if part not in messages] == []
    # A new rule in the module needs a case here.
    assert source.count("raise InputError(") == 16


def test_what_the_data_do_not_have_is_one_line_too() -> None:
    shape = SOURCES["mnist_5k"]
    labels = np.repeat(np.arange(10, dtype=np.uint8), 400)
    labels[:390] = 9  # leaves ten samples of class 0
    images = np.zeros((len(labels), 1), dtype=np.uint8)
    source = Source("mnist_5k", images, labels, images, labels, 0.0, 1.0)
    assert shape.n_train == len(labels)
    split = {"experiment": "replay", "tasks": "split_mnist", "n_tasks": 5}
    refused = {
        "data.task_samples: expected at most 410, the samples of the smallest task, got 411; "
        "lower it, or 0 takes all": {"task_samples": 411},
        "training.batch_size: expected at most 410, the samples of the smallest task, got 411; "
        "lower it or set data.drop_last false": {"batch_size": 411},
        "space.n_replay: expected at most 410, the samples of the smallest task, with selection "
        "random, got 411": {"replay": "simple", "n_replay": 411},
        "space.n_candidates: expected at most 210, the samples that selection ring keeps of "
        "task 1, got 211": {
            "replay": "simple",
            "selection": "ring",
            "n_replay": 400,
            "retrieval": "mir",
            "n_candidates": 211,
        },
    }
    for message, settings in refused.items():
        with pytest.raises(InputError) as caught:
            check_fit([Config.model_validate(split | settings)], source)
        assert str(caught.value) == message
    check_fit([Config.model_validate(split | {"batch_size": 410, "task_samples": 410})], source)


# Limits


def test_a_file_that_is_too_long_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_bytes(b"# " + b"x" * (MAX_BYTES - 2))
    assert "got an empty file" in refusal(file)
    file.write_bytes(b"# " + b"x" * (MAX_BYTES - 1))
    assert refusal(file) == "long.yaml: expected at most 1,000,000 bytes, got more; cut the file"
    with pytest.raises(InputError, match="expected at most 1,000,000 bytes"):
        load_sweep(Path("/dev/zero"))


def test_an_override_that_is_too_long_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "vib.yaml"
    file.write_text("space: {lr: 1}\n")
    with pytest.raises(InputError) as caught:
        load_sweep(file, ["space.lr=" + "x" * (MAX_BYTES + 1)])
    assert "space.lr: expected at most 1,000,000 characters, got 1,000,001" in str(caught.value)


def test_as_many_values_as_the_limit_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.settings.yaml_nodes.MAX_NODES", 1000)
    n = 1000 - 2  # the list and the first value also count
    assert len(parse_yaml(f"[x{', x' * n}]")) == n + 1
    with pytest.raises(InputError, match="expected at most 1,000 values"):
        parse_yaml(f"[x{', x' * (n + 1)}]")


@pytest.mark.parametrize("name", ["alias_billion_laughs", "alias_quadratic"])
def test_an_alias_bomb_takes_neither_time_nor_memory(name: str, tmp_path: Path) -> None:
    file = REFUSED[name].write(tmp_path)
    tracemalloc.start()
    start = time.process_time()
    refusal(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < 3
    assert peak < 20e6


@pytest.mark.parametrize("name", ["size_grid_of_a_billion", "size_any_of_with_exclude"])
def test_a_billion_configurations_are_counted_not_made(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def expand(*_: object) -> None:
        pytest.fail("expanded")

    monkeypatch.setattr("raysweep.settings.sweep.expand", expand)
    message = refusal_of(REFUSED[name], tmp_path)
    assert "got 1,000,000,000; cut the grid or raise --max-configs" in message


def test_the_limit_of_configurations_is_the_most_that_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "vib.yaml"
    file.write_text("space: {lr: {grid_search: [1, 2, 3]}}\nseeds: [0, 1]\n")
    assert len(load_sweep(file, max_configs=6).configs) == 6
    with pytest.raises(InputError, match="at most 5 configurations, got 6"):
        load_sweep(file, max_configs=5)
    with pytest.raises(InputError, match="at most 6 configurations, got 12"):
        load_sweep(file, ["space.beta_2={grid_search: [1, 2]}"], max_configs=6)


@pytest.mark.parametrize("name", ["encoder_widths", "class_decoder_widths", "rec_decoder_widths"])
def test_a_network_of_very_many_layers_is_refused_at_once(tmp_path: Path, name: str) -> None:
    file = tmp_path / "deep.yaml"
    for given in ("{}", "{{grid_search: [{}]}}"):
        file.write_text(f"space: {{{name}: {given.format(['10'] * 20_000)}}}\n".replace("'", ""))
        tick = time.process_time()
        message = refusal(file)
        assert time.process_time() - tick < 10
        assert "expected at most 100 layers, got 20,000; write fewer" in message
    file.write_text(f"space: {{{name}: {['10'] * 100}}}\n".replace("'", ""))
    assert load_sweep(file).configs


@pytest.mark.parametrize("name", ["a\nb.yaml", "a\x1b[31m.yaml", "\u202ea.yaml", "a\udcffb.yaml"])
def test_a_strange_file_name_is_still_one_printable_line(tmp_path: Path, name: str) -> None:
    missing = refusal(tmp_path / name)
    assert missing.isprintable() and "found none" in missing
    (tmp_path / name).write_text("7")
    assert refusal(tmp_path / name).isprintable()


def test_a_name_that_no_file_can_have_is_one_line() -> None:
    for name in ("a\0b.yaml", "x" * 5000):
        with pytest.raises(InputError, match="expected a readable file") as caught:
            load_sweep(Path(name))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "override", ["a\nb=1", "space.a\u2028b.c.d=1", "data\x1b.x=1", "space.lr=\udcff"]
)
def test_a_strange_override_is_still_one_printable_line(tmp_path: Path, override: str) -> None:
    file = tmp_path / "vib.yaml"
    file.write_text("space: {lr: 1}\ndata: 3\n")
    with pytest.raises(InputError) as caught:
        load_sweep(file, [override])
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


# Secrets


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "HF_TOKEN",
        "wandb-api-key",
        "apiKey",
        "API.KEY",
        "password",
        "db_passwd",
        "pwd",
        "client_secret",
        "aws_secret_access_key",
        "accessKey",
        "credentials",
        "google.credential",
        "private_key",
        "ssh-private-key",
        "auth",
        "authToken",
        "AUTHORIZATION",
        "wandbtoken",
    ],
)
def test_a_name_of_a_secret_is_known(name: str) -> None:
    assert looks_secret(name)


def test_no_setting_looks_like_a_secret() -> None:
    for name in [*Config.model_fields, *TOP_KEYS, "grid_search", "any_of", "exclude", "author"]:
        assert not looks_secret(name), name
    assert not looks_secret("key") and not looks_secret("n_tokens")


def test_a_comment_on_a_secret_does_not_hide_another_mistake(tmp_path: Path) -> None:
    file = tmp_path / "vib.yaml"
    file.write_text("# token: see the wiki\nspace: {lr: [1  # password: none\n")
    assert "expected ',' or ']'" in refusal(file)


# Places


@pytest.mark.parametrize(
    ("text", "overrides", "place"),
    [
        ("space:\n  lr: -1\n", [], "line 2, column 7"),
        ("space:\n  lr:\n    -1\n", [], "line 3, column 5"),
        ("space: {any_of: [{lr: 1},\n {lr: {grid_search: [1,\n  -1]}}]}", [], "line 3, column 3"),
        ("space: {any_of: [&a {lr: -1}, *a]}", [], "line 1, column 26"),
        ("space: {lr: &a -1, any_of: [{beta_1: *a}]}", [], "line 1, column 13"),
        ("space: {lr: &a 1e400, any_of: [{beta_2: *a}]}", ["space.lr=1"], "line 1, column 41"),
        ("space: {lr: 1, lr.x: 2}", [], "line 1, column 16"),
        # an override has no place in the file, but the settings next to it do
        ("space: {lr: 1, beta_2: -1}", ["space.lr=2"], "line 1, column 24"),
        ("space: {lr: -1}", ["space.lr=-2"], None),
        ("space: {lr: -1}", ["space={lr: -2}"], None),
        ("space: {any_of: [{lr: -1}]}", ["space.any_of.0.lr=-2"], None),
        ("space: {any_of: [{lr: 1}]}", ["space.lrx.y=-2"], None),
        ("space: {lr: 1}", ["space.any_of.x=-2", "space.any_of.x.y=1"], None),
        # rules: the place of the setting they name
        ("training: {epochs: 3}\nspace: {batch_size: 4001}", [], "line 2, column 21"),
        ("space: {batch_size: {grid_search: [1, 4001]}}", [], "line 1, column 39"),
        ("data: {task_samples: 99}", [], None),  # names a default
    ],
)
def test_a_message_ends_with_the_place(
    tmp_path: Path, text: str, overrides: list[str], place: str | None
) -> None:
    file = tmp_path / "vib.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_sweep(file, overrides)
    found = re.search(r" \((line \d+, column \d+)\)$", str(caught.value))
    assert (found and found[1]) == place, str(caught.value)
