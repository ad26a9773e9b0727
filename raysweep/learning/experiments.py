"""The experiments: how many tasks, in which order, and with which defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """An experiment; ``defaults`` overrides the declared defaults of some settings.

    With ``is_joint`` all tasks are learned at once, otherwise one after another. ``most_tasks`` is
    the largest number of tasks (None: any number). Each model lists the experiments that train it.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_joint: bool = False
    most_tasks: int | None = None

    @property
    def has_sequence(self) -> bool:
        """Whether one task may follow another."""
        return not self.is_joint and self.most_tasks != 1


EXPERIMENTS: dict[str, Experiment] = {
    "replay_vib": Experiment(),
    "replay": Experiment({"model": "mlp"}),
    "vib": Experiment({"n_tasks": 1, "replay": "none"}, most_tasks=1),
    "joint": Experiment({"model": "mlp", "replay": "none"}, is_joint=True),
}
