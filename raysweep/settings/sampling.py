"""Distributions of settings, with Ray Tune's names, and points drawn from them.

Points lie in the unit cube, so that random numbers and Sobol sequences share all other code. The
first points do not depend on the number drawn, so a larger sample later keeps the earlier points.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from raysweep.errors import InputError, all_of, checked
from raysweep.settings.foreign import ours_for
from raysweep.user_text.values import check_keys, check_whole, near, number_of, reading, show

_FORMS = {
    "uniform": "[lower, upper]",
    "quniform": "[lower, upper, step]",
    "loguniform": "[lower, upper]",
    "qloguniform": "[lower, upper, step]",
    "randint": "[lower, upper]",
    "qrandint": "[lower, upper, step]",
    "lograndint": "[lower, upper]",
    "choice": "[value, ...]",
}
KINDS = tuple(_FORMS)
RAY_SEARCHERS = ("hyperopt",)
"""Searchers of Ray Tune: they optimise one metric, in a space without conditions."""
METHODS = ("grid", "random", "optuna", *RAY_SEARCHERS)
SAMPLERS = ("tpe", "cmaes", "gp", "nsga2", "random")
SEQUENCES = ("random", "sobol")
MOST_SAMPLES = 1_000_000
_MOST_STEPS = 1e9
_DIGITS = 6
"""Significant digits of a drawn number; processors agree on these, not on the last of 17."""


class Domain(NamedTuple):
    """The distribution of one setting and its place in the file; ``values`` is for a choice."""

    kind: str
    lower: float
    upper: float
    step: float
    values: tuple[Any, ...]
    is_whole: bool
    place: str

    def at(self, u: float) -> Any:
        """Return the value at ``u``, 0 <= u < 1: the quantile function of the distribution.

        As in Ray Tune, only kinds with a step can return ``upper`` itself. Multiples of a step are
        equally likely (in Ray Tune those at the ends are half as likely); ``qloguniform`` takes
        the nearest multiple.
        """
        if self.kind == "choice":
            return self.values[int(u * len(self.values))]
        if self.kind in ("quniform", "qrandint"):
            first, last = self.multiples
            return self._number((first + int(u * (last - first + 1))) * self.step)
        if self.kind == "randint":
            return int(self.lower) + int(u * (int(self.upper) - int(self.lower)))
        if "log" in self.kind:
            low, high = math.log(self.lower), math.log(self.upper)
            value = math.exp(low + u * (high - low))
            if self.kind == "lograndint":
                return min(max(int(value + 1e-9), int(self.lower)), int(self.upper) - 1)
            if self.kind == "qloguniform":
                value = round(value / self.step) * self.step
                value = min(max(value, self.lower), self.upper)
        else:
            value = self.lower + u * (self.upper - self.lower)
        return self._number(value)

    @property
    def multiples(self) -> tuple[int, int]:
        """The first and last multiples of the step within the range."""
        return math.ceil(self.lower / self.step - 1e-9), math.floor(self.upper / self.step + 1e-9)

    def has(self, value: Any) -> bool:
        """Return whether the distribution can produce a value."""
        if self.kind == "choice":
            return value in self.values
        if not isinstance(value, int | float) or not self.lower <= value <= self.upper:
            return False
        if self.kind in ("randint", "lograndint"):
            return value == int(value) and value < self.upper
        if self.kind in ("quniform", "qrandint"):
            steps = value / self.step
            return abs(steps - round(steps)) < 1e-6
        return self.kind != "qloguniform" or self.near(value) == value

    def near(self, value: float) -> float:
        """Round a number within the range as ``at`` does."""
        if self.kind == "qloguniform":
            value = min(max(round(value / self.step) * self.step, self.lower), self.upper)
        return self._number(value)

    def _number(self, value: float) -> float:
        rounded = float(f"{value:.{_DIGITS}g}")
        return round(rounded) if self.is_whole else rounded


def domain_of(
    name: str,
    raw: dict[str, Any],
    where: str,
    check: Callable[[str, Any, str], Any],
    is_whole: bool,
) -> Domain:
    """Check a distribution such as ``{loguniform: [1e-4, 1e-1]}``.

    ``check`` returns a value of the setting in its type or raises ``InputError``; it is also
    called for both ends of the distribution. ``is_whole``: the setting is a whole number.
    """
    (kind, arguments), *_ = raw.items()
    where = f"{where}.{kind}"
    if kind == "choice":
        if not isinstance(arguments, list) or not arguments:
            raise InputError(f"{where}: expected a list of values, got {show(arguments)}")
        values = all_of(
            partial(check, name, value, f"{where}[{i}]") for i, value in enumerate(arguments)
        )
        return Domain(kind, 0, 0, 0, tuple(values), is_whole, where)
    numbers = _numbers(kind, arguments, where)
    lower, upper, step = (*numbers, 0.0)[:3]
    if not lower < upper:
        raise InputError(f"{where}: expected lower < upper, got {show(arguments)}")
    if "log" in kind and lower <= 0:
        raise InputError(f"{where}[0]: expected a number > 0 for a logarithm, got {lower:g}")
    if kind.startswith("q") and not 0 < step <= upper - lower:
        raise InputError(
            f"{where}[2]: expected a step > 0, at most upper - lower, got {show(arguments[2])}"
        )
    if step and (upper - lower) / step > _MOST_STEPS:
        raise InputError(
            f"{where}[2]: expected at most {_MOST_STEPS:.0e} steps, got {show(arguments[2])}"
        )
    if "randint" in kind and any(number != int(number) for number in numbers):
        raise InputError(f"{where}: expected whole numbers, got {show(arguments)}")
    if is_whole and "randint" not in kind and (step == 0 or step != int(step)):
        raise InputError(
            f"{where}: expected whole numbers for {name}, got {show(raw)}; "
            f"write randint, lograndint, or a distribution with a whole step"
        )
    domain = Domain(kind, lower, upper, step, (), is_whole, where)
    ends = enumerate((0.0, math.nextafter(1.0, 0.0)))
    all_of(partial(check, name, domain.at(u), f"{where}[{i}]") for i, u in ends)
    return domain


def _numbers(kind: str, raw: Any, where: str) -> list[float]:
    n = 3 if kind.startswith("q") else 2
    if not isinstance(raw, list) or len(raw) != n:
        raise InputError(f"{where}: expected {_FORMS[kind]}, got {show(raw)}")

    def check(i: int, value: Any) -> float:
        number = number_of(value)
        if not math.isfinite(number):
            raise InputError(f"{where}[{i}]: expected a number, got {show(value)}{reading(value)}")
        return number

    return all_of(partial(check, i, value) for i, value in enumerate(raw))


@dataclass(frozen=True)
class Search:
    """How configurations are found: a whole grid, or ``n_samples`` drawn or suggested ones.

    ``sequence`` is for ``random``, ``sampler`` for ``optuna``; ``metrics`` and ``modes`` (``max``
    or ``min`` for each; None for each metric's usual one) are for methods that learn from results.
    """

    method: str = "grid"
    n_samples: int = 0
    seed: int = 0
    sequence: str = "random"
    sampler: str = "tpe"
    metrics: tuple[str, ...] = ("average_accuracy",)
    modes: tuple[str, ...] | None = None

    @property
    def is_adaptive(self) -> bool:
        """Whether results determine what is tried next."""
        return self.method not in ("grid", "random")

    @property
    def objective(self) -> tuple[str, str | None]:
        """The first metric and its mode (None for the usual one)."""
        return self.metrics[0], self.modes[0] if self.modes else None

    def to_plain(self) -> dict[str, Any]:
        """Return it as in a file, with its defaults; empty for a grid."""
        if self.method == "grid":
            return {}
        plain = {"method": self.method, "n_samples": self.n_samples, "seed": self.seed}
        if not self.is_adaptive:
            return {**plain, "sequence": self.sequence}
        modes = {} if self.modes is None else {"mode": list(self.modes)}
        sampler = {"sampler": self.sampler} if self.method == "optuna" else {}
        return {**plain, **sampler, "metric": list(self.metrics), **modes}


def search_of(raw: Any) -> Search:
    """Check ``search:``; a grid if absent."""
    if raw is None or raw == "grid":
        return Search()
    if not isinstance(raw, dict):
        raise InputError(
            f"search: expected {{method: random, n_samples: 100}}, got {show(raw)}", "search"
        )
    given = raw.get("method", "random")
    # If the method has another program's name, the rest is checked as for ours.
    method = given if given in METHODS else ours_for(given)
    if method not in METHODS:
        _word(given, "method", METHODS)
    check_known = partial(
        check_keys,
        raw,
        "search",
        method=method,
        known=_KEYS[method],
        hint_at=lambda key: _hint_at_key(key, _KEYS[method]),
    )
    if method == "grid":
        check_known()
        return Search()
    search = Search(method)
    checks: dict[str, Callable[[], Any]] = {
        "n_samples": lambda: _n_samples(raw, method),
        "seed": lambda: check_whole(raw.get("seed", 0), "search.seed", 0, 2**32 - 1),
        "sequence": lambda: _word(raw.get("sequence", "random"), "sequence", SEQUENCES),
        "sampler": lambda: _word(raw.get("sampler", "tpe"), "sampler", SAMPLERS),
        "objectives": lambda: _objectives(raw.get("metric", search.metrics[0]), raw.get("mode")),
    }
    check_method = partial(_word, given, "method", METHODS)
    rest: list[Callable[[], Any]] = [check_method, check_known, partial(checked, checks)]
    *_, found = all_of(rest)
    metrics, modes = found.pop("objectives")
    if method in RAY_SEARCHERS and len(metrics) > 1:
        raise InputError(
            f"search.metric: expected one metric for method {method}, got {show(list(metrics))}; "
            f"for several, write method: optuna"
        )
    if found["sampler"] == "cmaes" and len(metrics) > 1:
        raise InputError(
            "search.sampler: expected one that supports several metrics (tpe, gp, nsga2, random), "
            "got 'cmaes'"
        )
    return replace(search, **found, metrics=metrics, modes=modes)


def _n_samples(raw: Mapping[str, Any], method: str) -> int:
    if "n_samples" not in raw:
        raise InputError(
            f"search.n_samples: expected the number of samples to draw, got none; "
            f"write search: {{method: {method}, n_samples: 100}}",
            "search",
        )
    return check_whole(raw["n_samples"], "search.n_samples", 1, MOST_SAMPLES)


def _hint_at_key(key: Any, known: Sequence[str]) -> str:
    ours = ours_for(key, "search")
    return f"; write `{ours}:`" if ours in known else ""


_KEYS = {
    "grid": ("method",),
    "random": ("method", "n_samples", "seed", "sequence"),
    "optuna": ("method", "n_samples", "seed", "sampler", "metric", "mode"),
    **dict.fromkeys(RAY_SEARCHERS, ("method", "n_samples", "seed", "metric", "mode")),
}


def _objectives(raw: Any, raw_mode: Any) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    names = raw if isinstance(raw, list) else [raw]
    if not names or not all(isinstance(name, str) for name in names):
        hint = _hint_at_metric(raw) if isinstance(raw, dict) else ""
        raise InputError(
            f"search.metric: expected a metric or a list of metrics, got {show(raw)}{hint}"
        )
    if len(set(names)) < len(names):
        raise InputError(f"search.metric: expected each metric once, got {show(raw)}")
    if raw_mode is None:
        return tuple(names), None
    modes = raw_mode if isinstance(raw_mode, list) else [raw_mode]
    several = f" for each of {len(names)} metrics" if len(names) > 1 else ""
    if len(modes) != len(names) or any(mode not in ("max", "min") for mode in modes):
        raise InputError(
            f"search.mode: expected max or min{several}, "
            f"got {show(raw_mode)}{_hint_at_modes(modes)}"
        )
    return tuple(names), tuple(modes)


def _hint_at_metric(raw: Mapping[Any, Any]) -> str:
    """Return a hint at our form of W&B Sweeps' ``{name: accuracy, goal: maximize}``."""
    mode = ours_for(raw.get("goal", "maximize"))
    return f"; write metric: average_accuracy, mode: {mode if mode in ('max', 'min') else 'max'}"


def _hint_at_modes(modes: Sequence[Any]) -> str:
    ours = [mode if mode in ("max", "min") else ours_for(mode) for mode in modes]
    if not ours or not set(ours) <= {"max", "min"}:
        return ""
    return f"; write mode: {ours[0] if len(ours) == 1 else '[' + ', '.join(ours) + ']'}"


def _word(raw: Any, key: str, words: Sequence[str]) -> str:
    if raw not in words:
        ours = ours_for(raw)
        hint = f"; write {ours}" if ours in words else near(raw, list(words))
        raise InputError(f"search.{key}: expected {' or '.join(words)}, got {show(raw)}{hint}")
    return str(raw)


def points(search: Search, n_dimensions: int, n: int) -> Iterator[Sequence[float]]:
    """Yield ``n`` points of ``[0, 1)^n_dimensions``, the same for the same ``search.seed``.

    Sobol points are scrambled (Owen 1998, as in ``scipy.stats.qmc``).
    """
    import numpy as np

    if search.sequence == "sobol":
        from scipy.stats import qmc

        sobol = qmc.Sobol(max(1, n_dimensions), scramble=True, seed=search.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # n need not be a power of two
            drawn = sobol.random(n)
        yield from drawn[:, :n_dimensions].tolist()
        return
    bits = np.random.PCG64(search.seed)
    for _ in range(n):
        raw = np.atleast_1d(bits.random_raw(n_dimensions)) if n_dimensions else np.array([])
        yield ((raw >> np.uint64(11)) * 2.0**-53).tolist() if n_dimensions else []


def draw(
    branches: Sequence[Mapping[str, Any]],
    search: Search,
    n: int,
    fixed: Callable[[Domain, float], Any],
) -> Iterator[dict[str, Any]]:
    """Yield ``n`` branches with ``fixed(domain, u)`` in place of each ``Domain``.

    All branches are equally likely. A setting has the same coordinate of the point in every
    branch.
    """
    names = list(
        dict.fromkeys(
            name
            for branch in branches
            for name, choice in branch.items()
            if isinstance(choice, Domain)
        )
    )
    n_branches = len(branches)
    for point in points(search, len(names) + (n_branches > 1), n):
        branch = branches[int(point[-1] * n_branches)] if n_branches > 1 else branches[0]
        drawn = dict(branch)
        for name, u in zip(names, point, strict=False):
            if isinstance(branch.get(name), Domain):
                drawn[name] = fixed(branch[name], u)
        yield drawn
