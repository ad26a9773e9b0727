"""Settings that apply to some configurations, or to none: what a search does with them."""

from pathlib import Path
from typing import Any

import pytest
from sweep_runs import space_of, write

from raysweep.errors import InputError
from raysweep.learning import stage_parts
from raysweep.learning.config import Config
from raysweep.learning.declarations import DECLARATIONS
from raysweep.learning.stage_parts import BY_DEPENDENCE, applicable
from raysweep.settings.space import Space
from raysweep.settings.sweep import load_sweep
from raysweep.tune.search.optuna_search import OptunaSearcher

TEXT = """
search: {method: optuna, n_samples: 40}
data: {n_tasks: 3}
space:
  lr: {loguniform: [1e-4, 1e-1]}
  model: {choice: [vib, comparison]}
  beta_1: {uniform: [-1, 0]}
  replay: {choice: [none, simple, generative]}
  replay_weight: {uniform: [0, 1]}
  selection: {choice: [random, herding]}
  selection_features: {choice: [pixels, encoder]}
  generator_replay_weight: {uniform: [0, 1]}
  generator: continual
"""


def searcher_of(space: Space, sampler: str = "tpe") -> OptunaSearcher:
    return OptunaSearcher(space, sampler, 0, ["average_accuracy"], ["max"])


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_only_settings_that_apply_are_suggested(tmp_path: Path, sampler: str) -> None:
    space = space_of(tmp_path, TEXT)
    searcher = searcher_of(space, sampler)
    assert space.has_conditions
    groups = set()
    for i in range(60):
        parameters = searcher.suggest(f"s{i}")
        (config,) = space.configs(parameters)
        assert set(parameters) == set(space.domains[0]) & set(config.applicable)
        assert {name: getattr(config, name) for name in parameters} == parameters
        # What is told, and what a later run makes of the tables, is the same.
        assert space.fits(parameters) and space.parameters_of(config) == parameters
        searcher.on_trial_complete(f"s{i}", {"average_accuracy": float(i)})
        groups.add(frozenset(parameters))
    assert len(groups) > 4


def test_a_suggestion_with_conditions_comes_back_from_what_was_kept(tmp_path: Path) -> None:
    space = space_of(tmp_path, TEXT)
    first, later = searcher_of(space), searcher_of(space)
    for i in range(12):
        parameters = first.suggest(f"s{i}")
        if i % 2:
            later.learn(parameters, {"average_accuracy": 0.5})
        later.repeat(parameters)
        assert later.suggest(f"s{i}") == parameters


def test_too_many_or_too_few_parameters_are_of_another_space(tmp_path: Path) -> None:
    space = space_of(tmp_path, TEXT)
    given: dict[str, Any] = {"lr": 1e-2, "model": "comparison", "replay": "none"}
    assert space.fits(given)
    assert not space.fits(given | {"beta_1": -0.5})
    assert not space.fits(given | {"model": "vib"})  # beta_1 applies and is missing


def test_a_space_without_conditions_has_none(tmp_path: Path) -> None:
    text = "search: {method: optuna, n_samples: 4}\nspace: {lr: {uniform: [0.1, 1]}}"
    assert not space_of(tmp_path, text).has_conditions


@pytest.mark.parametrize("method", ["optuna", "hyperopt", "random"])
@pytest.mark.parametrize(
    ("space", "name"),
    [
        ("{model: comparison, beta_1: {uniform: [-1, 0]}}", "beta_1"),
        ("{replay: none, n_replay: {randint: [100, 200]}}", "n_replay"),
        ("{replay: none, replay_weight: {uniform: [0, 1]}}", "replay_weight"),
        ("{replay: simple, labeler: {choice: [current, per_task]}}", "labeler"),
        ("{replay: generative, selection: {choice: [ring, random]}}", "selection"),
        ("{lr: {uniform: [0.1, 1]}, lr_decay: {uniform: [0.1, 1]}}", "lr_decay"),
        ("{optimizer: {choice: [adam, adamw]}, momentum: {uniform: [0, 0.9]}}", "momentum"),
        ("{shuffle_tasks: {choice: [true, false]}}", "shuffle_tasks"),
        ("{any_of: [{beta_2: {uniform: [0, 1]}}, {model: comparison, beta_1: {uniform: [0, 1]}}]}",
         "beta_1"),
    ],
)  # fmt: skip
def test_a_setting_that_never_applies_is_refused(
    tmp_path: Path, method: str, space: str, name: str
) -> None:
    file = write(tmp_path, f"search: {{method: {method}, n_samples: 4}}\nspace: {space}")
    with pytest.raises(InputError) as caught:
        load_sweep(file)
    message = str(caught.value)
    assert f"got {name}, which applies to none; remove it" in message
    assert " (line 2, column " in message and len(message.splitlines()) == 1


def test_an_mlp_has_no_betas_and_no_bottleneck_to_search(tmp_path: Path) -> None:
    for name in ("beta_1: {uniform: [-1, 0]}", "n_bottleneck: {randint: [1, 9]}"):
        text = (
            "experiment: replay\nsearch: {method: optuna, n_samples: 4}\n"
            f"space: {{replay: simple, {name}}}"
        )
        with pytest.raises(InputError, match="applies to none"):
            load_sweep(write(tmp_path, text))


def test_hyperopt_which_knows_no_conditions_is_refused_them(tmp_path: Path) -> None:
    text = (
        "search: {method: hyperopt, n_samples: 4}\n"
        "space: {replay: {choice: [none, simple]}, replay_weight: {uniform: [0, 1]}}"
    )
    with pytest.raises(InputError) as caught:
        load_sweep(write(tmp_path, text))
    assert "got replay_weight, which applies to some configurations only" in str(caught.value)
    assert "write search: {method: optuna}" in str(caught.value)


class Recorded:
    """Settings that note what is asked of them."""

    def __init__(self, config: Config) -> None:
        self.config, self.asked = config, set[str]()

    def __getattr__(self, name: str) -> Any:
        if name in DECLARATIONS:
            self.asked.add(name)
            return getattr(self.config, name)
        if name == "n_stored_tasks":  # of two settings
            self.asked |= {"experiment", "n_tasks"}
        return getattr(self.config, name)


def test_whether_a_setting_applies_is_decided_by_those_that_come_before_it() -> None:
    decided_by: dict[str, set[str]] = {}
    for values in ({}, {"replay": "simple"}, {"model": "comparison", "generator": "continual"}):
        for n_tasks in (1, 3):
            recorded: Any = Recorded(Config.model_validate({"n_tasks": n_tasks, **values}))
            stage_parts.stage_parts(recorded)
            assert recorded.asked <= set(stage_parts._DECIDE)
            decided_by.setdefault("parts", set()).update(recorded.asked)
            assert applicable(recorded) == applicable(recorded.config)
    assert decided_by["parts"] == set(stage_parts._DECIDE)
    assert set(BY_DEPENDENCE) == set(DECLARATIONS)
    place = {name: i for i, name in enumerate(BY_DEPENDENCE)}
    for name, declared in DECLARATIONS.items():
        is_one_of_them = name in stage_parts.DECIDING  # and applies together with the other
        assert is_one_of_them or all(place[other] < place[name] for other in declared.conditions)
