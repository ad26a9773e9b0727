"""The experiments: which tasks are learned in what order, and what they set by default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """An experiment; ``defaults`` has the settings whose defaults are others than declared.

    With ``is_joint`` all tasks are learned at once, else one after another. Which models it trains
    is said by the models. ``most_tasks`` is the largest number of tasks (None: any).
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
