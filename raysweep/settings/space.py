"""A space to search in: from what a searcher suggests to configurations, and back."""

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
"""Name of the parameter that chooses among the entries of ``any_of``."""

Parameters = Mapping[str, Any]
"""A suggestion: settings by name, and ``BRANCH`` where there are several branches."""


@dataclass(frozen=True)
class Space:
    """The branches of a search space whose settings are values or distributions."""

    branches: tuple[Branch, ...]
    exclusions: tuple[dict[str, tuple[Any, ...]], ...]
    seeds: tuple[int, ...]
    experiment: str

    @cached_property
    def domains(self) -> tuple[dict[str, Domain], ...]:
        """Return the distributions of each branch by the name of their setting."""
        return tuple(
            {name: c for name, c in branch.items() if isinstance(c, Domain)}
            for branch in self.branches
        )

    def draw(self, branch: int, ask: Callable[[str, Domain], Any]) -> dict[str, Any]:
        """Ask for a value of each setting that is drawn in a branch and applies.

        Settings come in an order in which it is known of each whether it applies: where
        experience is replayed nobody asks for the labels of a generator.
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
        """Whether it depends on what is drawn, which settings are."""
        return len(self.branches) > 1 or any(
            len(applying_in(branch, self.experiment)) > 1 for branch in self.branches
        )

    def configs(self, parameters: Parameters) -> tuple[Config, ...]:
        """Make the configurations of a suggestion, one for each seed; none if it is excluded.

        Settings that do not apply have their defaults. Raises ``InputError`` where settings do not
        go together.
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
        """Return whether parameters are a suggestion of this space as it is now."""
        branch = parameters.get(BRANCH, 0)
        if (BRANCH in parameters) != (len(self.branches) > 1) or not isinstance(branch, int):
            return False
        if not 0 <= branch < len(self.branches):
            return False
        domains = self.domains[branch]
        given = set(parameters) - {BRANCH}
        if not given <= set(domains) or not all(domains[n].has(parameters[n]) for n in given):
            return False
        # One that applies and is missing takes a value here that is told below.
        return set(self.draw(branch, lambda n, domain: parameters.get(n, domain.at(0)))) == given

    def parameters_of(self, config: Config) -> dict[str, Any] | None:
        """Return the suggestion a configuration comes from, None if it is not of this space."""
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
    """Return the sets of drawn settings that apply, over what a branch may be.

    Of a range its ends are tried, of many combinations the first.
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
    """Refuse to draw a setting that no configuration of its branch reads."""
    for branch in branches:
        applying = frozenset().union(*applying_in(branch, experiment))
        for name, domain in branch.items():
            if isinstance(domain, Domain) and name not in applying:
                raise InputError(
                    f"{domain.place}: expected a setting that some configuration of the search "
                    f"reads, got {name}, which applies to none of them; leave it out"
                )


def space_of(
    branches: Sequence[Branch],
    exclusions: Sequence[dict[str, tuple[Any, ...]]],
    seeds: Sequence[int],
    experiment: str,
) -> Space:
    """Make a space; raise ``InputError`` for a grid in it, which no searcher could take."""
    for branch in branches:
        for choices in branch.values():
            if isinstance(choices, Choices) and choices.is_grid:
                raise InputError(
                    f"{choices.place}.grid_search: expected a value or a distribution in a space "
                    f"that is searched, got a grid; write {{choice: [...]}}"
                )
    return Space(tuple(branches), tuple(exclusions), tuple(seeds), experiment)
