"""Search spaces with distributions: drawn values and their reproducibility."""

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from sweep_runs import write

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.settings.sampling import Domain, Search, points
from raysweep.settings.sweep import Sweep, load_sweep
from raysweep.settings.yaml_text import dump_yaml

SPACE = """
experiment: replay_vib
search: {{method: random, n_samples: {n}{more}}}
space:
  lr: {{loguniform: [1e-4, 1e-1]}}
  beta_2: {{uniform: [0, 0.5]}}
  n_bottleneck: {{choice: [4, 8, 16]}}
  n_replay: {{qrandint: [100, 500, 100]}}
  weight_decay: 1e-4
"""


def load(folder: Path, text: str, *overrides: str) -> Sweep:
    return load_sweep(write(folder, text), overrides)


def space(n: int, more: str = "") -> str:
    return SPACE.format(n=n, more=more)


def domain(kind: str, *numbers: float, is_whole: bool = False) -> Domain:
    lower, upper, step = (*numbers, 0.0)[:3]
    return Domain(kind, lower, upper, step, (), is_whole, "space.x")


@pytest.mark.parametrize(
    ("kind", "numbers", "cdf"),
    [
        ("uniform", (-1.0, 3.0), stats.uniform(-1, 4).cdf),
        ("loguniform", (1e-5, 1e-1), stats.loguniform(1e-5, 1e-1).cdf),
    ],
)
def test_ranges_have_the_distribution_that_scipy_gives_them(
    kind: str, numbers: tuple[float, float], cdf: Any
) -> None:
    for u in (0.0, 0.1, 0.25, 0.5, 0.9, 0.999):
        assert cdf(domain(kind, *numbers).at(u)) == pytest.approx(u, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "numbers", "values"),
    [
        ("quniform", (0.0, 1.0, 0.25), [0, 0.25, 0.5, 0.75, 1]),
        ("quniform", (0.1, 0.3, 0.1), [0.1, 0.2, 0.3]),
        ("randint", (2, 5), [2, 3, 4]),
        ("qrandint", (10, 30, 10), [10, 20, 30]),
    ],
)
def test_steps_are_equally_likely_and_reach_both_ends(
    kind: str, numbers: tuple[float, ...], values: list[float]
) -> None:
    n = 60 * len(values)
    drawn = Counter(domain(kind, *numbers).at((i + 0.5) / n) for i in range(n))
    assert drawn == dict.fromkeys(values, 60)


def test_whole_numbers_on_a_log_scale_follow_their_logarithms() -> None:
    drawn = [domain("lograndint", 1, 1000, is_whole=True).at(i / 3000) for i in range(3000)]
    assert min(drawn) == 1
    assert 990 < max(drawn) < 1000
    for low in (1, 10, 100):  # a third each
        assert sum(low <= value < 10 * low for value in drawn) == pytest.approx(1000, abs=2)
    assert all(isinstance(value, int) for value in drawn)


def test_the_last_draw_of_every_kind_stays_in_its_range() -> None:
    last = math.nextafter(1.0, 0.0)
    for kind, numbers in {
        "uniform": (0.0, 1.0),
        "loguniform": (1e-3, 1.0),
        "qloguniform": (1e-3, 1.0, 1e-3),
        "quniform": (0.0, 1.0, 0.3),
        "randint": (0, 7),
        "lograndint": (1, 7),
    }.items():
        for u in (0.0, last):
            assert numbers[0] <= domain(kind, *numbers).at(u) <= numbers[1], kind


@pytest.mark.parametrize("sequence", ["random", "sobol"])
def test_equal_seeds_draw_equal_configurations_and_more_keep_the_first(
    tmp_path: Path, sequence: str
) -> None:
    more = f", sequence: {sequence}"
    few, again = (load(tmp_path, space(10, more)).configs for _ in range(2))
    many = load(tmp_path, space(25, more)).configs
    other = load(tmp_path, space(10, f"{more}, seed: 1")).configs
    assert [c.id for c in few] == [c.id for c in again] == [c.id for c in many[:10]]
    assert len({c.id for c in many}) == 25
    assert not {c.id for c in few} & {c.id for c in other}
    for config in many:
        assert 1e-4 <= config.lr < 1e-1
        assert 0 <= config.beta_2 < 0.5
        assert config.n_bottleneck in (4, 8, 16)
        assert config.n_replay in range(100, 501, 100)
        assert config.weight_decay == 1e-4


def test_sobol_points_fill_each_box_once() -> None:
    # The first 2^m points of a Sobol sequence in base 2: one in each half-open dyadic interval.
    drawn = list(points(Search("random", 16, 3, "sobol"), 2, 16))
    for axis in range(2):
        assert sorted(int(16 * point[axis]) for point in drawn) == list(range(16))
    plain = list(points(Search("random", 16, 3), 2, 16))
    assert len({int(16 * point[0]) for point in plain}) < 16


def test_seeds_and_grids_cross_with_every_sample(tmp_path: Path) -> None:
    text = space(6).replace("1e-4\n", "{grid_search: [0, 1e-4]}\n") + "seeds: [3, 4]\n"
    configs = load(tmp_path, text).configs
    assert len(configs) == 6 * 2 * 2
    drawn = {(c.lr, c.beta_2, c.n_bottleneck, c.n_replay) for c in configs}
    assert len(drawn) == 6
    whole = {(*d, w, s) for d, w, s in itertools.product(drawn, (0, 1e-4), (3, 4))}
    assert whole == {
        (c.lr, c.beta_2, c.n_bottleneck, c.n_replay, c.weight_decay, c.seed) for c in configs
    }


def test_conditional_settings_are_drawn_in_their_branch_only(tmp_path: Path) -> None:
    text = """
search: {method: random, n_samples: 400, sequence: sobol}
space:
  lr: {loguniform: [1e-4, 1e-2]}
  any_of:
    - model: vib
      beta_1: {uniform: [-1, -0.5]}
    - model: comparison
"""
    by_model: dict[str, list[Config]] = {"vib": [], "comparison": []}
    for config in load(tmp_path, text).configs:
        by_model[config.model].append(config)
    assert len(by_model["vib"]) == pytest.approx(200, abs=8)
    assert len(by_model["vib"]) + len(by_model["comparison"]) == 400
    assert all(-1 <= config.beta_1 < -0.5 for config in by_model["vib"])
    assert len({config.beta_1 for config in by_model["comparison"]}) == 1


def test_excluded_samples_are_drawn_again(tmp_path: Path) -> None:
    text = space(40) + "  exclude: [{n_bottleneck: 8}]\n"
    configs = load(tmp_path, text).configs
    assert len(configs) == 40
    assert {config.n_bottleneck for config in configs} == {4, 16}


def test_what_is_resolved_draws_the_same(tmp_path: Path) -> None:
    sweep = load(tmp_path, space(8, ", sequence: sobol, seed: 5"))
    again = load(tmp_path, dump_yaml(sweep.resolved))
    assert [c.id for c in again.configs] == [c.id for c in sweep.configs]


def test_an_override_may_be_a_distribution(tmp_path: Path) -> None:
    text = space(5)
    configs = load(tmp_path, text, "space.lr={uniform: [0.5, 0.6]}", "search.n_samples=7").configs
    assert len(configs) == 7
    assert all(0.5 <= config.lr < 0.6 for config in configs)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1e-4, 1e-1]", "[1e-1, 1e-4]", "space.lr.loguniform: expected lower < upper"),
        ("[1e-4, 1e-1]", "[0, 1e-1]", "space.lr.loguniform[0]: expected a number > 0"),
        ("[1e-4, 1e-1]", "[1e-4]", "space.lr.loguniform: expected [lower, upper], got"),
        ("[1e-4, 1e-1]", "[1e-4, fast]", "space.lr.loguniform[1]: expected a number, got"),
        ("[1e-4, 1e-1]", "[1e-4, .inf]", "space.lr.loguniform[1]: expected a number, got"),
        ("[0, 0.5]", "[-0.5, 0.5]", "space.beta_2.uniform[0]: expected"),
        ("choice: [4, 8, 16]", "choice: []", "space.n_bottleneck.choice: expected a list"),
        ("choice: [4, 8, 16]", "choice: [4, x]", "space.n_bottleneck.choice[1]: expected"),
        ("choice: [4, 8, 16]", "uniform: [4, 8]", "expected whole numbers for n_bottleneck"),
        ("choice: [4, 8, 16]", "chioce: [4, 8]", "did you mean choice?"),
        ("[100, 500, 100]", "[100, 500, 0]", "space.n_replay.qrandint[2]: expected a step > 0"),
        ("[100, 500, 100]", "[100, 500, 1.5]", "space.n_replay.qrandint: expected whole numbers"),
        ("method: random", "method: rnadom", "search.method: expected grid or random"),
        (", n_samples: 5", "", "search.n_samples: expected the number of samples"),
        ("n_samples: 5", "n_samples: 0", "search.n_samples: expected a whole number from 1"),
        ("n_samples: 5", "n_samples: 5, sequence: halton", "search.sequence: expected random or"),
        ("n_samples: 5", "n_samples: 5, sed: 1", "did you mean seed?"),
        ("search: {method: random, n_samples: 5}", "", "to draw from it, write search:"),
        ("n_samples: 5", "n_samples: 1000001", "search.n_samples: expected a whole number"),
    ],
)
def test_mistakes_are_one_line_with_their_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = space(5)
    assert old in text
    with pytest.raises(InputError) as caught:
        load(tmp_path, text.replace(old, new))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("small.yaml: ")


def test_samples_without_anything_to_draw_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected something to draw"):
        load(tmp_path, "search: {method: random, n_samples: 5}\nspace: {lr: 1e-3}\n")


def test_an_exclusion_that_leaves_too_few_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected to leave 5 samples, got 0 after drawing 100"):
        load(tmp_path, space(5) + "  exclude: [{weight_decay: 1e-4}]\n")
    with pytest.raises(InputError, match="got a distribution"):
        load(tmp_path, space(5) + "  exclude: [{lr: {uniform: [0.1, 1]}}]\n")


def test_too_many_samples_are_counted_not_drawn(tmp_path: Path) -> None:
    file = write(tmp_path, space(900_000) + "seeds: [0, 1]\n")
    with pytest.raises(
        InputError, match="expected at most 1,000,000 configurations, got 1,800,000"
    ):
        load_sweep(file)
