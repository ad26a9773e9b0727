"""A space to search in: from what a searcher suggests to configurations, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raysweep.errors import InputError
from raysweep.learning.config import Config
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
        """Give the distributions of each branch by the name of their setting."""
        return tuple(
            {name: c for name, c in branch.items() if isinstance(c, Domain)}
            for branch in self.branches
        )

    def configs(self, parameters: Parameters) -> tuple[Config, ...]:
        """Make the configurations of a suggestion, one for each seed; none if it is excluded.

        Raises ``InputError`` where settings do not go together.
        """
        branch = self.branches[parameters.get(BRANCH, 0)]
        fixed = {
            name: Choices((check_value(name, parameters[name], c.place),), False, c.place)
            if isinstance(c, Domain)
            else c
            for name, c in branch.items()
        }
        return tuple(expand([fixed], self.exclusions, self.seeds, self.experiment))

    def fits(self, parameters: Parameters) -> bool:
        """Tell whether parameters are a suggestion of this space as it is now."""
        branch = parameters.get(BRANCH, 0)
        if (BRANCH in parameters) != (len(self.branches) > 1) or not isinstance(branch, int):
            return False
        if not 0 <= branch < len(self.branches):
            return False
        domains = self.domains[branch]
        given = set(parameters) - {BRANCH}
        return given == set(domains) and all(domains[n].has(parameters[n]) for n in domains)

    def parameters_of(self, config: Config) -> dict[str, Any] | None:
        """Give the suggestion that a configuration comes from; None if it is not of this space."""
        for i, domains in enumerate(self.domains):
            given = {name: getattr(config, name) for name in domains}
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
