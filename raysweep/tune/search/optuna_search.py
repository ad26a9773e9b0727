"""Optuna as a searcher of Ray Tune, by ask and tell (Akiba et al. 2019, arXiv 1907.10902).

Ray Tune's own Optuna searcher can't learn earlier results in a space with conditions.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from ray.tune.search import Searcher

from raysweep.settings.sampling import Domain
from raysweep.settings.space import BRANCH, Parameters, Space


class OptunaSearcher(Searcher):
    """Suggest settings of a space for ``metrics``, each with its mode, ``max`` or ``min``.

    ``on_trial_complete`` takes the metrics by name; without them the suggestion counts as failed,
    which Optuna's samplers rank below all others.
    """

    def __init__(
        self, space: Space, sampler: str, seed: int, metrics: Sequence[str], modes: Sequence[str]
    ) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        kinds = optuna.study.StudyDirection
        directions = [kinds.MAXIMIZE if mode == "max" else kinds.MINIMIZE for mode in modes]
        self._metrics = tuple(metrics)
        made = _sampler(sampler, seed, has_conditions=space.has_conditions)
        self._study = optuna.create_study(directions=directions, sampler=made)
        self._space = space
        self._asked: dict[str, Any] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the parameters of the next suggestion."""
        trial = self._asked[trial_id] = self._study.ask()
        branch = trial.suggest_categorical(BRANCH, self._branches) if self._many else 0
        names = {setting: name for name, (setting, _) in self._names(branch).items()}

        def ask(setting: str, domain: Domain) -> Any:
            return _value(domain, _suggest(trial, names[setting], _distribution(domain)))

        parameters = self._space.draw(branch, ask)
        return {**parameters, BRANCH: branch} if self._many else parameters

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the result of a suggestion."""
        trial = self._asked.pop(trial_id)
        states = optuna.trial.TrialState
        if result is None:
            self._study.tell(trial, state=states.FAIL if error else states.PRUNED)
        else:
            self._study.tell(trial, [result[name] for name in self._metrics])

    def learn(self, parameters: Parameters, result: Mapping[str, float] | None) -> None:
        """Learn the result of a suggestion of an earlier run; None if it failed."""
        given = self._to_optuna(parameters)
        states = optuna.trial.TrialState
        self._study.add_trial(
            optuna.trial.create_trial(
                state=states.PRUNED if result is None else states.COMPLETE,
                params=given,
                distributions={name: self._distribution_of(name, parameters) for name in given},
                values=None if result is None else [result[name] for name in self._metrics],
            )
        )

    def repeat(self, parameters: Parameters) -> None:
        """Make the next ``suggest`` return these parameters."""
        self._study.enqueue_trial(self._to_optuna(parameters))

    def _to_optuna(self, parameters: Parameters) -> dict[str, Any]:
        given: dict[str, Any] = {BRANCH: parameters[BRANCH]} if self._many else {}
        for name, (setting, domain) in self._names(parameters.get(BRANCH, 0)).items():
            if setting in parameters:  # others do not apply
                value = parameters[setting]
                given[name] = domain.values.index(value) if domain.kind == "choice" else value
        return given

    def _distribution_of(self, name: str, parameters: Parameters) -> Any:
        if name == BRANCH:
            return optuna.distributions.CategoricalDistribution(self._branches)
        _, domain = self._names(parameters.get(BRANCH, 0))[name]
        return _distribution(domain)

    @property
    def _many(self) -> bool:
        return len(self._space.branches) > 1

    @property
    def _branches(self) -> list[int]:
        return list(range(len(self._space.branches)))

    def _names(self, branch: int) -> dict[str, tuple[str, Domain]]:
        """Return Optuna's name for each setting drawn in a branch.

        One whose distribution differs between branches has a name in each, as Optuna needs.
        """
        names = {}
        for setting, domain in self._space.domains[branch].items():
            forms = {
                other[setting]._replace(place="")
                for other in self._space.domains
                if setting in other
            }
            name = setting if len(forms) == 1 else f"{BRANCH}[{branch}].{setting}"
            names[name] = (setting, domain)
        return names

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the tables record what was learned."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, as ``save`` does."""


def _sampler(name: str, seed: int, has_conditions: bool) -> Any:
    """Make a sampler that can suggest more while earlier results are open (constant liar)."""
    samplers: Any = optuna.samplers
    # With conditions, each group of settings that occur together gets its own model.
    grouped: dict[str, Any] = {"multivariate": True, "group": True} if has_conditions else {}
    makers: dict[str, Any] = {
        "tpe": lambda: samplers.TPESampler(seed=seed, constant_liar=True, **grouped),
        "cmaes": lambda: samplers.CmaEsSampler(seed=seed),
        "gp": lambda: samplers.GPSampler(seed=seed),
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return makers[name]()


def _distribution(domain: Domain) -> Any:
    """Convert a domain to Optuna's: the upper ends of Ray Tune's integer ranges are exclusive."""
    kinds = optuna.distributions
    lower, upper, step = domain.lower, domain.upper, domain.step
    if domain.kind == "choice":
        return kinds.CategoricalDistribution(list(range(len(domain.values))))
    if domain.kind == "randint":
        return kinds.IntDistribution(int(lower), int(upper) - 1)
    if domain.kind == "lograndint":
        return kinds.IntDistribution(int(lower), int(upper) - 1, log=True)
    if domain.kind in ("qrandint", "quniform"):
        first, last = (multiple * step for multiple in domain.multiples)  # as in random search
        if domain.kind == "qrandint":
            return kinds.IntDistribution(round(first), round(last), step=round(step))
        return kinds.FloatDistribution(domain.near(first), domain.near(last), step=step)
    return kinds.FloatDistribution(lower, upper, log="log" in domain.kind)


def _suggest(trial: Any, name: str, distribution: Any) -> Any:
    """Return a trial's value of a distribution."""
    kinds = optuna.distributions
    if isinstance(distribution, kinds.CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    is_whole = isinstance(distribution, kinds.IntDistribution)
    suggest = trial.suggest_int if is_whole else trial.suggest_float
    ends = distribution.low, distribution.high
    return suggest(name, *ends, step=distribution.step, log=distribution.log)


def _value(domain: Domain, value: Any) -> Any:
    return domain.values[value] if domain.kind == "choice" else domain.near(value)
