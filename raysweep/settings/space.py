"""The space of a search: turns suggestions into configurations and back."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raysweep.errors import InputError
from raysweep.learning.config import Config, partial
from raysweep.learning.stage_parts import BY_DEPENDENCE, DECIDING, applicable
from raysweep.settings.grid import Branch, Choices, check_value, expand
from raysweep.settings.sampling import Domain

BRANCH = "any_of"
"""Name of the parameter that selects an entry of ``any_of``."""

Parameters = Mapping[str, Any]
"""A suggestion: settings by name, and ``BRANCH`` if there are several branches."""


@dataclass(frozen=True)
class Space:
    """The branches of a search space whose settings are values or distributions."""

    branches: tuple[Branch, ...]
    exclusions: tuple[dict[str, tuple[Any, ...]], ...]
    seeds: tuple[int, ...]
    experiment: str

    @cached_property
    def domains(self) -> tuple[dict[str, Domain], ...]:
        """Return the distributions of each branch by setting."""
        return tuple(
            {name: c for name, c in branch.items() if isinstance(c, Domain)}
            for branch in self.branches
        )

    def draw(self, branch: int, ask: Callable[[str, Domain], Any]) -> dict[str, Any]:
        """Call ``ask`` for each drawn setting of a branch that applies; return their values.

        Settings are ordered so that it is always known whether the next one applies: with
        experience replay, ``ask`` is not called for the labels of a generator.
        """
        domains = self.domains[branch]
        fixed = {"experiment": self.experiment}
        fixed |= {n: c.values[0] for n, c in self.branches[branch].items() if n not in domains}
        given: dict[str, Any] = {}
        for name in sorted(domains, key=BY_DEPENDENCE.index):
            if name in applicable(partial({**fixed, **given, name: domains[name].at(0)})):
                given[name] = ask(name, domains[name])
        return given

    @cached_property
    def has_conditions(self) -> bool:
        """Whether the drawn values determine which settings are drawn."""
        return len(self.branches) > 1 or any(
            len(applying_in(branch, self.experiment)) > 1 for branch in self.branches
        )

    def configs(self, parameters: Parameters) -> tuple[Config, ...]:
        """Return the configurations of a suggestion, one for each seed; none if excluded.

        Settings that do not apply have their defaults. Raises ``InputError`` for incompatible
        settings.
        """
        branch = self.branches[parameters.get(BRANCH, 0)]
        fixed = {
            name: Choices((check_value(name, parameters[name], c.place),), False, c.place)
            if isinstance(c, Domain)
            else c
            for name, c in branch.items()
            if name in parameters or not isinstance(c, Domain)
        }
        return tuple(expand([fixed], self.exclusions, self.seeds, self.experiment))

    def fits(self, parameters: Parameters) -> bool:
        """Return whether parameters are a valid suggestion of this space."""
        branch = parameters.get(BRANCH, 0)
        if (BRANCH in parameters) != (len(self.branches) > 1) or not isinstance(branch, int):
            return False
        if not 0 <= branch < len(self.branches):
            return False
        domains = self.domains[branch]
        given = set(parameters) - {BRANCH}
        if not given <= set(domains) or not all(domains[n].has(parameters[n]) for n in given):
            return False
        # A missing setting that applies gets a value here and thus shows in the comparison.
        return set(self.draw(branch, lambda n, domain: parameters.get(n, domain.at(0)))) == given

    def parameters_of(self, config: Config) -> dict[str, Any] | None:
        """Return the suggestion that gives a configuration, None if it is not in this space."""
        for i, domains in enumerate(self.domains):
            given = {n: getattr(config, n) for n in domains if n in config.applicable}
            if not all(domains[name].has(value) for name, value in given.items()):
                continue
            parameters = {**given, BRANCH: i} if len(self.branches) > 1 else given
            try:
                ids = {made.id for made in self.configs(parameters)}
            except InputError:
                continue
            if config.id in ids:
                return parameters
        return None


_MOST_COMBINATIONS = 4096


def applying_in(branch: Branch, experiment: str) -> set[frozenset[str]]:
    """Return the sets of drawn settings that apply, over the combinations of a branch.

    Tries the ends of ranges, and only the first combinations if there are many.
    """
    drawn = {name for name, c in branch.items() if isinstance(c, Domain)}
    deciding = [n for n in BY_DEPENDENCE if n in branch and n in DECIDING]
    values = [_some_values(branch[name]) for name in deciding]
    found = set()
    for given in itertools.islice(itertools.product(*values), _MOST_COMBINATIONS):
        known = {"experiment": experiment, **dict(zip(deciding, given, strict=True))}
        found.add(frozenset(drawn & set(applicable(partial(known)))))
    return found


def _some_values(choices: Choices | Domain) -> tuple[Any, ...]:
    if isinstance(choices, Domain) and choices.kind != "choice":
        return choices.at(0.0), choices.at(math.nextafter(1.0, 0.0))
    return choices.values


def check_applying(branches: Sequence[Branch], experiment: str) -> None:
    """Refuse to draw a setting that applies to no configuration of its branch."""
    for branch in branches:
        applying = frozenset().union(*applying_in(branch, experiment))
        for name, domain in branch.items():
            if isinstance(domain, Domain) and name not in applying:
                raise InputError(
                    f"{domain.place}: expected a setting that applies to some configuration of "
                    f"the search, got {name}, which applies to none; remove it"
                )


def space_of(
    branches: Sequence[Branch],
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    seeds: Sequence[int],
    experiment: str,
) -> Space:
    """Return a space; raise ``InputError`` for a grid, which searchers do not support."""
    for branch in branches:
        for choices in branch.values():
            if isinstance(choices, Choices) and choices.is_grid:
                raise InputError(
                    f"{choices.place}.grid_search: expected a value or a distribution in a space "
                    f"that is searched, got a grid; write {{choice: [...]}}"
                )
    return Space(tuple(branches), tuple(exclusions), tuple(seeds), experiment)
