"""HyperOpt as wrapped by Ray Tune: an ask-and-tell searcher that learns from one metric.

A ``Searcher`` of Ray Tune can't learn a configuration that it did not suggest. So a new one is made
whenever there are some to learn: it gets the known points as those to evaluate first, suggests them
in that order, and is given their results at once.

Ray Tune's other searchers do not fit: BayesOpt and ZOOpt suggest nothing between a first batch and
its results, when a pack may have to be filled, and ZOOpt has no seed; BOHB needs its own scheduler.
Nevergrad is unmaintained and pins an old version (1.0.12 requires bayesian-optimization 1.4.0).
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.search import Searcher, create_searcher

from raysweep.settings.sampling import Domain
from raysweep.settings.space import Parameters, Space

Points = Sequence[dict[str, Any]]
Maker = Callable[[dict[str, Any], Points, int], Searcher]
"""Makes a searcher from distributions by name, points to suggest first, and a seed."""


class RaySearcher:
    """Suggest settings of a space without conditions, using a ``Searcher`` made by ``make``.

    ``on_trial_complete`` takes ``metric`` by name; ``mode`` (``max`` or ``min``) is which values
    are good. A suggestion that failed counts as the worst value so far.
    """

    def __init__(self, space: Space, make: Maker, seed: int, metric: str, mode: str) -> None:
        (domains,) = space.domains
        # A setting with only one value is not a coordinate.
        self._fixed = {n: d.at(0) for n, d in domains.items() if _is_single(d)}
        self._domains = {n: d for n, d in domains.items() if n not in self._fixed}
        self._make, self._seed = make, seed
        self._metric = metric
        self._worse = min if mode == "max" else max
        self._worst: float | None = None
        self._ended: list[tuple[Parameters, float | None]] = []
        self._open: dict[str, Parameters] = {}
        self._repeats: deque[Parameters] = deque()
        self._searcher: Searcher | None = None

    def suggest(self, trial_id: str) -> Any:
        """Return the parameters of the next suggestion, or whatever else the searcher returns."""
        if self._repeats:
            self._open[trial_id] = parameters = self._repeats.popleft()
            self._searcher = None
            return dict(parameters)
        if not self._domains:
            self._open[trial_id] = self._fixed
            return dict(self._fixed)
        if self._searcher is None:
            self._searcher = self._restated()
        found = self._searcher.suggest(trial_id)
        if not isinstance(found, dict):
            return found
        self._open[trial_id] = parameters = self._parameters(found)
        return dict(parameters)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the result of a suggestion; with ``error``, that there is none."""
        parameters = self._open.pop(trial_id)
        is_unknown = error and result is None
        if not is_unknown:
            self._note(parameters, result)
        if self._searcher is not None:
            value = None if result is None else result[self._metric]
            self._tell(self._searcher, trial_id, value, is_unknown)

    def learn(self, parameters: Parameters, result: Mapping[str, float] | None) -> None:
        """Learn the result of a suggestion of an earlier run; None if it failed."""
        self._note(parameters, result)
        self._searcher = None

    def repeat(self, parameters: Parameters) -> None:
        """Make the next ``suggest`` return these parameters."""
        self._repeats.append(parameters)

    def _note(self, parameters: Parameters, result: Mapping[str, float] | None) -> None:
        value = None if result is None else result[self._metric]
        self._ended.append((parameters, value))
        if value is None:
            return
        if self._worst is None and len(self._ended) > 1:
            self._searcher = None  # earlier failures have a value from now on
        self._worst = value if self._worst is None else self._worse(self._worst, value)

    def _tell(
        self, searcher: Searcher, trial_id: str, value: float | None, is_unknown: bool = False
    ) -> None:
        value = self._worst if value is None else value
        if is_unknown or value is None:
            searcher.on_trial_complete(trial_id, None, error=True)
        else:
            searcher.on_trial_complete(trial_id, {self._metric: value})

    def _restated(self) -> Searcher:
        """Make a searcher that has learned all ended and open suggestions.

        Its seed differs from its predecessors', with which it would suggest the same again.
        """
        known = [parameters for parameters, _ in self._ended] + list(self._open.values())
        points = [self._point(parameters) for parameters in known]
        searcher = self._make(self._space(), points, (self._seed + len(points)) % 2**32)
        for i, (_, value) in enumerate(self._ended):
            searcher.suggest(f"known{i}")
            self._tell(searcher, f"known{i}", value)
        for trial_id in self._open:
            searcher.suggest(trial_id)
        return searcher

    def _space(self) -> dict[str, Any]:
        found = zip(self._names, self._domains.values(), strict=True)
        return {name: _distribution(domain) for name, domain in found}

    @property
    def _names(self) -> list[str]:
        """Names without a slash, which Ray Tune would take for nested dictionaries."""
        return [f"x{i}" for i in range(len(self._domains))]

    def _parameters(self, point: Mapping[str, Any]) -> dict[str, Any]:
        found = zip(self._domains.items(), self._names, strict=True)
        drawn = {setting: _value(domain, point[name]) for (setting, domain), name in found}
        return {**self._fixed, **drawn}

    def _point(self, parameters: Parameters) -> dict[str, Any]:
        found = zip(self._domains.items(), self._names, strict=True)
        return {name: _coordinate(domain, parameters[s]) for (s, domain), name in found}


_COUNTED = ("randint", "quniform", "qrandint")

# Every searcher supports ranges, integers and choices. Steps and logarithms are built from these
# here: Ray Tune's own translations drop the steps for some, and leave the range for others.


def _distribution(domain: Domain) -> Any:
    lower, upper = domain.lower, domain.upper
    if domain.kind == "choice":
        return tune.choice(list(range(len(domain.values))))
    if domain.kind in _COUNTED:
        first, last = _whole_numbers(domain)
        return tune.randint(first, last + 1)
    if "log" in domain.kind:
        return tune.uniform(math.log(lower), math.log(upper))
    return tune.uniform(lower, upper)


def _value(domain: Domain, coordinate: Any) -> Any:
    if domain.kind == "choice":
        return domain.values[int(coordinate)]
    if domain.kind in _COUNTED:
        first, last = _whole_numbers(domain)
        number = min(max(round(coordinate), first), last)
        return number if domain.kind == "randint" else domain.near(number * domain.step)
    value = math.exp(coordinate) if "log" in domain.kind else float(coordinate)
    value = min(max(value, domain.lower), domain.upper)
    if domain.kind == "lograndint":
        return min(int(value + 1e-9), int(domain.upper) - 1)
    return domain.near(value)


def _coordinate(domain: Domain, value: Any) -> Any:
    if domain.kind == "choice":
        return domain.values.index(value)
    if domain.kind == "randint":
        return int(value)
    if domain.kind in ("quniform", "qrandint"):
        return round(value / domain.step)
    # An integer stands for all coordinates up to the next.
    middle = value + 0.5 if domain.kind == "lograndint" else value
    middle = min(max(middle, domain.lower), domain.upper)
    return math.log(middle) if "log" in domain.kind else float(middle)


def _is_single(domain: Domain) -> bool:
    if domain.kind == "choice":
        return len(domain.values) == 1
    first, last = _whole_numbers(domain) if domain.kind in _COUNTED else (0, 1)
    return first == last


def _whole_numbers(domain: Domain) -> tuple[int, int]:
    """Return the first and last integer; for a range with steps, multiples of the step."""
    if domain.kind == "randint":
        return int(domain.lower), int(domain.upper) - 1
    return domain.multiples


def make_searcher(method: str, space: Space, *, seed: int, metric: str, mode: str) -> RaySearcher:
    """Make a searcher of Ray Tune by its name in ``search.method``."""

    def hyperopt(space: dict[str, Any], points: Points, seed: int) -> Searcher:
        made: Searcher = create_searcher(
            "hyperopt", points_to_evaluate=list(points) or None, random_state_seed=seed
        )
        made.set_search_properties(metric, mode, space)
        return made

    logging.getLogger("hyperopt").setLevel(logging.ERROR)  # otherwise a line per suggestion
    makers: dict[str, Maker] = {"hyperopt": hyperopt}
    return RaySearcher(space, makers[method], seed, metric, mode)
