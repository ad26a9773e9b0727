"""Ray Tune's searchers: what they suggest and learn, without a cluster."""

import importlib.util
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sweep_runs import space_of, write

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.settings.space import Parameters, Space
from raysweep.settings.sweep import load_sweep
from raysweep.tune.search import suggestions
from raysweep.tune.search.ray_search import RaySearcher, make_searcher
from raysweep.tune.search.search_queue import SearchQueue

METRIC = "average_accuracy"
SMOOTH = "space: {lr: {loguniform: [1e-4, 1e-1]}, beta_2: {uniform: [0, 1]}}"
KINDS = """
space:
  lr: {loguniform: [1e-4, 1e-1]}
  beta_1: {uniform: [-1, 0.5]}
  beta_2: {quniform: [0.1, 0.9, 0.25]}
  weight_decay: {qloguniform: [1e-3, 1, 2e-3]}
  n_bottleneck: {randint: [4, 9]}
  batch_size: {lograndint: [10, 200]}
  n_replay: {qrandint: [150, 420, 100]}
  optimizer: {choice: [adam, sgd]}
  encoder_widths: {choice: [[8], [16, 16]]}
  epochs: {choice: [2]}
  loss_patience: {randint: [3, 4]}
"""


@pytest.fixture(params=["hyperopt"])
def method(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return str(request.param)


def space_by(folder: Path, text: str, method: str) -> Space:
    return space_of(folder, f"search: {{method: {method}, n_samples: 40}}\n{text}")


def searcher_of(method: str, space: Space, seed: int = 0, mode: str = "max") -> RaySearcher:
    return make_searcher(method, space, seed=seed, metric=METRIC, mode=mode)


def value(lr: float, beta_2: float) -> float:
    """Return a smooth optimum far from the middle, at lr 0.05, beta_2 0.85."""
    return -((math.log10(lr) + 1.3) ** 2) - (beta_2 - 0.85) ** 2


def ask_and_tell(searcher: RaySearcher, n: int, sign: int = 1) -> list[float]:
    """Return the value of each of ``n`` suggestions, asked for four at a time."""
    values = []
    for i in range(0, n, 4):
        asked = {f"s{i + j}": searcher.suggest(f"s{i + j}") for j in range(4)}
        for name, parameters in asked.items():
            values.append(value(**parameters))
            searcher.on_trial_complete(name, {METRIC: sign * values[-1]})
    return values


def test_later_suggestions_are_better_and_the_seed_decides_them(
    tmp_path: Path, method: str
) -> None:
    space = space_by(tmp_path, SMOOTH, method)
    values = ask_and_tell(searcher_of(method, space), 100)
    assert statistics.median(values[-30:]) > statistics.median(values[:20])
    assert max(values[20:]) > max(values[:20])
    assert ask_and_tell(searcher_of(method, space), 20) == values[:20]
    assert ask_and_tell(searcher_of(method, space, seed=1), 20) != values[:20]
    # A metric that is to be small is the same search with the other sign.
    assert ask_and_tell(searcher_of(method, space, mode="min"), 100, sign=-1) == values


def grid(n: int) -> list[Parameters]:
    """Return ``n`` points spread over the space, the best of them near its optimum."""
    side = round(math.sqrt(n))
    lrs = [float(f"{10 ** (-4 + 3 * (i + 0.5) / side):.6g}") for i in range(side)]
    return [{"lr": lr, "beta_2": round((i + 0.5) / side, 6)} for lr in lrs for i in range(side)]


def test_what_earlier_runs_left_is_knowledge(tmp_path: Path, method: str) -> None:
    space = space_by(tmp_path, SMOOTH, method)

    def suggested(known: list[Parameters], seed: int) -> float:
        searcher = searcher_of(method, space, seed)
        for parameters in known:
            searcher.learn(parameters, {METRIC: value(**parameters)})
        return statistics.median(value(**searcher.suggest(f"s{i}")) for i in range(16))

    known = grid(36)
    with_them = [suggested(known, seed) for seed in range(5)]
    without = [suggested([], seed) for seed in range(5)]
    assert statistics.median(with_them) > statistics.median(without) / 2, (with_them, without)


def test_every_kind_of_distribution_gives_its_own_values(tmp_path: Path, method: str) -> None:
    space = space_by(tmp_path, KINDS, method)
    (domains,) = space.domains
    searcher = searcher_of(method, space)
    found: dict[str, set[Any]] = {name: set() for name in domains}
    for i in range(60):
        parameters = searcher.suggest(f"s{i}")
        assert space.fits(parameters), parameters
        assert set(parameters) == set(domains)
        for name, chosen in parameters.items():
            found[name].add(chosen)
        searcher.on_trial_complete(f"s{i}", {METRIC: -parameters["beta_1"]})
    assert found["beta_2"] == {0.25, 0.5, 0.75}
    assert found["n_replay"] == {200, 300, 400}
    assert found["n_bottleneck"] == {4, 5, 6, 7, 8}
    assert found["encoder_widths"] == {(8,), (16, 16)}
    assert found["epochs"] == {2} and found["loss_patience"] == {3}
    assert all(
        round(v / 2e-3) * 2e-3 == pytest.approx(v) or v == 1e-3 for v in found["weight_decay"]
    )
    # As many of 10 to 45 as of 45 to 200, on a log scale.
    assert 0.2 < statistics.mean(v < 45 for v in found["batch_size"]) < 0.8


def test_points_that_are_told_come_back_as_they_were(tmp_path: Path, method: str) -> None:
    # A searcher that is made anew suggests what it is told of: each kind has to survive the way.
    space = space_by(tmp_path, KINDS, method)
    source = searcher_of(method, space)
    given = [source.suggest(f"s{i}") for i in range(20)]
    ends = {"beta_1": 0.5, "lr": 1e-4, "weight_decay": 1.0, "batch_size": 199, "n_replay": 400}
    given.append({**given[0], **ends})
    searcher = searcher_of(method, space)
    points = [searcher._point(parameters) for parameters in given]
    names = [f"x{i}" for i in range(len(space.domains[0]) - 2)]  # two have one value only
    assert all(list(point) == names for point in points)
    made = searcher._make(searcher._space(), points, 5)
    assert [searcher._parameters(made.suggest(f"s{i}")) for i in range(21)] == given


def test_repeated_suggestions_come_first_and_are_learned_from(tmp_path: Path, method: str) -> None:
    space = space_by(tmp_path, SMOOTH, method)
    searcher = searcher_of(method, space)
    best, other = {"lr": 0.05, "beta_2": 0.85}, {"lr": 2e-4, "beta_2": 0.1}
    for name, parameters in (("a", best), ("b", other)):
        searcher.repeat(parameters)
        assert searcher.suggest(name) == parameters
    searcher.on_trial_complete("b", {METRIC: value(**other)})  # before the searcher was made
    new = searcher.suggest("c")
    assert new not in (best, other)
    made = searcher._searcher
    assert made is not None
    searcher.on_trial_complete("a", {METRIC: value(**best)})  # by the searcher that knew it as open
    searcher.on_trial_complete("c", {METRIC: value(**new)})
    assert searcher._searcher is made
    searcher.repeat({"lr": 0.01, "beta_2": 0.5})  # in the middle: it has to hear of this, too
    assert searcher.suggest("d") == {"lr": 0.01, "beta_2": 0.5}
    searcher.on_trial_complete("d", {METRIC: -1.0})
    assert isinstance(searcher.suggest("e"), dict)
    assert searcher._searcher is not made


class Told:
    """Stands for a searcher of Ray Tune and notes what it is told."""

    def __init__(self, space: Any, points: Any, seed: int) -> None:
        self.points, self.seed = [dict(p) for p in points], seed
        self.told: list[tuple[str, Any, bool]] = []
        self.n_asked = 0

    def suggest(self, name: str) -> dict[str, Any]:
        self.n_asked += 1
        if self.n_asked <= len(self.points):
            return self.points[self.n_asked - 1]
        return {"x0": -5.0, "x1": 0.01 * self.n_asked}

    def on_trial_complete(self, name: str, result: Any = None, error: bool = False) -> None:
        self.told.append((name, result and result[METRIC], error))


@pytest.mark.parametrize(("mode", "worst"), [("max", 0.25), ("min", 0.75)])
def test_what_was_given_up_counts_as_the_worst_so_far(
    tmp_path: Path, mode: str, worst: float
) -> None:
    made: list[Told] = []

    def make(space: Any, points: Any, seed: int) -> Any:
        made.append(Told(space, points, seed))
        return made[-1]

    space = space_by(tmp_path, SMOOTH, "hyperopt")
    searcher = RaySearcher(space, make, 7, METRIC, mode)
    for name in "abcde":
        searcher.suggest(name)
    searcher.on_trial_complete("a")  # nothing is known that it could be as bad as
    searcher.on_trial_complete("b", None, error=True)  # nothing can be said of it
    assert made[-1].told == [("a", None, True), ("b", None, True)]
    searcher.on_trial_complete("c", {METRIC: 0.25})
    searcher.on_trial_complete("d", {METRIC: 0.75})
    searcher.suggest("f")
    assert len(made) == 2, "made anew, as the first one counts from now on"
    told = [("known0", worst, False), ("known1", 0.25, False), ("known2", 0.75, False)]
    assert made[-1].told == told
    assert len(made[-1].points) == 4, "three that ended and the one that is open; not the unknown"
    assert made[-1].seed != made[0].seed
    searcher.on_trial_complete("e")
    assert made[-1].told[-1] == ("e", worst, False)


def test_a_queue_takes_each_suggestion_once_and_fills_packs(tmp_path: Path, method: str) -> None:
    text = SMOOTH.replace("}}", "}, n_bottleneck: {choice: [4, 8]}}")
    space = space_by(tmp_path, text + "\nseeds: [0, 1]\n", method)
    kept: list[list[Parameters]] = []
    queue = SearchQueue(
        searcher_of(method, space), space, metrics=[METRIC], n_samples=24, pack=8, keep=kept.append
    )
    packs: list[tuple[Config, ...]] = []
    while job := queue.next():
        packs.append(job.pack.configs)
        for c in job.pack.configs:
            row = {"config_id": c.id, "status": "finished", METRIC: value(c.lr, c.beta_2)}
            diverged = {**row, "status": "diverged", METRIC: None}
            queue.tell(row if c.lr < 0.08 else diverged)
        queue.leave(job)
    counts = Counter(config.id for pack in packs for config in pack)
    assert len(counts) == 48 and set(counts.values()) == {1}
    assert all(len({c.n_bottleneck for c in pack}) == 1 for pack in packs)
    assert sum(len(pack) == 8 for pack in packs) >= 3  # of four keys
    assert all(kept[0])


@pytest.mark.parametrize("values", [[4, 8, 16], [4]])
def test_a_small_space_is_used_up_and_ends(tmp_path: Path, method: str, values: list[int]) -> None:
    space = space_by(tmp_path, f"space: {{n_bottleneck: {{choice: {values}}}}}", method)
    queue = SearchQueue(
        searcher_of(method, space),
        space,
        metrics=[METRIC],
        n_samples=40,
        pack=4,
        keep=lambda _: None,
    )
    while job := queue.next():
        for config in job.pack.configs:
            queue.tell({"config_id": config.id, "status": "finished", METRIC: 0.5})
        queue.leave(job)
    assert {config.n_bottleneck for config in queue.configs.values()} == set(values)
    assert len(queue) == 0


BRANCHES = "space: {any_of: [{lr: {uniform: [1e-3, 1]}}, {lr: 1e-3}]}"


@pytest.mark.parametrize(
    ("search", "text", "message"),
    [
        (
            "sampler: tpe",
            SMOOTH,
            "search.sampler: expected a key of method hyperopt, got 'sampler'",
        ),
        (f"metric: [{METRIC}, forgetting]", SMOOTH, "search.metric: expected one metric for"),
        ("seed: 1", BRANCHES, "space.any_of: expected no conditional settings for method hyperopt"),
        ("seed: 1", "space: {lr: {grid_search: [1, 2]}, beta_2: {uniform: [0, 1]}}", "got a grid"),
    ],
)
def test_what_only_optuna_takes_is_refused_in_one_line(
    tmp_path: Path, search: str, text: str, message: str
) -> None:
    file = write(tmp_path, f"search: {{method: hyperopt, n_samples: 9, {search}}}\n{text}\n")
    with pytest.raises(InputError) as caught:
        load_sweep(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "line " in str(caught.value)


@pytest.mark.parametrize("name", ["bohb", "nevergrad"])
def test_an_unknown_method_is_told_all_methods(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, f"search: {{method: {name}, n_samples: 9}}\n{SMOOTH}\n")
    expected = f"expected grid or random or optuna or hyperopt, got '{name}'"
    with pytest.raises(InputError, match=expected):
        load_sweep(file)


def test_a_library_that_is_missing_is_told_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, f"search: {{method: hyperopt, n_samples: 9}}\n{SMOOTH}\n")
    search = load_sweep(file).search
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        suggestions.modes_of(search)
    assert str(caught.value) == (
        "search.method: hyperopt is not installed; run pip install 'raysweep[hyperopt]'"
    )


def test_a_search_without_a_sampler_is_resolved_without_one(tmp_path: Path) -> None:
    file = write(tmp_path, f"search: {{method: hyperopt, n_samples: 9, seed: 4}}\n{SMOOTH}\n")
    assert load_sweep(file).resolved["search"] == {
        "method": "hyperopt",
        "n_samples": 9,
        "seed": 4,
        "metric": [METRIC],
    }
