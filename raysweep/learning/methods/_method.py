"""What a way of not forgetting is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from raysweep.learning.declarations import Settings
from raysweep.learning.declare import Part
from raysweep.learning.stages import Stage

if TYPE_CHECKING:
    from raysweep.learning.replay.buffers import Buffer
    from raysweep.learning.training.context import Context, Lane


class Method:
    """What a configuration keeps between tasks; a subclass a file, its word in ``replay:``.

    The defaults are those of one that keeps nothing.
    """

    part: ClassVar[Part | None] = None
    """The part of a stage that fills the buffer; None where there is no such stage."""
    generates: ClassVar[bool] = False
    """Whether what is replayed is generated, and not real samples."""

    def scope(self, config: Settings, generator: str) -> str:
        """Return what ``n_replay_scope: auto`` stands for, with what ``generator`` stands for."""
        return "per_task"

    def check(self, config: Settings) -> None:
        """Raise ``InputError`` for settings that do not go with it."""

    def parents(
        self, config: Settings, models: Sequence[Stage], generators: Sequence[Stage]
    ) -> dict[str, str]:
        """Return what a filled buffer depends on: roles to fingerprints of stages so far."""
        return {}

    def keeps_earlier(self, config: Settings) -> bool:
        """Return whether a buffer takes up the one of the tasks before."""
        return True

    def is_by_task(self, config: Settings) -> bool:
        """Return whether a buffer has a budget for each task."""
        return True

    def is_by_class(self, config: Settings) -> bool:
        """Return whether the samples of a buffer are chosen class by class."""
        return False

    def size(self, config: Settings, n_tasks: int) -> list[object]:
        """Return what tells whether two buffers of ``n_tasks`` tasks have equal sizes."""
        return [buffer_rows(config, n_tasks)]

    def fill(self, context: "Context", lanes: "Sequence[Lane]") -> "list[Buffer]":
        """Make the samples of a task for the buffer of each lane, one group of stages."""
        raise NotImplementedError


def has_total(config: Settings) -> bool:
    """Return whether ``n_replay`` is the budget of all tasks together."""
    return config.n_replay_scope == "total"


def buffer_rows(config: Settings, n_tasks: int) -> int:
    """Return the most samples that a buffer has after ``n_tasks`` tasks."""
    return config.n_replay * (1 if has_total(config) else n_tasks)
