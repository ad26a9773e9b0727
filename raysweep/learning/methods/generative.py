"""Generative replay (Shin et al. 2017, arXiv 1705.08690): samples are generated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysweep.errors import InputError
from raysweep.learning.declarations import Settings
from raysweep.learning.declare import Part
from raysweep.learning.methods._method import Method
from raysweep.learning.models import MODELS
from raysweep.learning.stages import Stage

if TYPE_CHECKING:
    from raysweep.learning.replay.buffers import Buffer
    from raysweep.learning.training.context import Context, Lane


class Generative(Method):
    """Generates images by a model's own decoder or by separate VAEs; a classifier labels them."""

    part = Part.GENERATED
    generates = True

    def scope(self, config: Settings, generator: str) -> str:
        """Return total for a single generator of all tasks, otherwise per_task."""
        return "total" if generator == "continual" else "per_task"

    def check(self, config: Settings) -> None:
        """Refuse generators and labelers that are incompatible with the model or the tasks."""
        generators = MODELS[config.model].generators
        if config.generator not in generators:
            raise InputError(
                f"space.generator: expected {' or '.join(generators)} with model "
                f"{config.model}, got {config.generator}"
            )
        if config.generator == "frozen" and config.n_tasks > 2:
            raise InputError(
                f"data.n_tasks: expected at most 2 with generator frozen (it learns task 1 only), "
                f"got {config.n_tasks}; use generator continual"
            )
        is_one = config.generator == "continual" and config.n_tasks > 2
        if config.labeler == "per_task" and is_one:
            raise InputError(
                "space.labeler: expected current or at_generation with generator continual (its "
                "images belong to no task), got per_task"
            )

    def parents(
        self, config: Settings, models: Sequence[Stage], generators: Sequence[Stage]
    ) -> dict[str, str]:
        """Return the stages that generate and label: the last task's, or those of each task."""
        parents: dict[str, str] = {}
        numbered: dict[str, str] = {}
        if generators and config.generator == "per_task":
            shown = generators[-1:] if self.keeps_earlier(config) else generators
            numbered = {f"generator_{s.task}": s.fingerprint for s in shown}
        elif generators:
            parents["generator"] = generators[-1].fingerprint
        if config.labeler == "per_task":
            numbered |= {f"model_{s.task}": s.fingerprint for s in models}
        else:
            parents["model"] = models[-1].fingerprint
        return parents | numbered

    def keeps_earlier(self, config: Settings) -> bool:
        """Return whether images are generated and labelled once, after their task."""
        return config.labeler == "at_generation"

    def is_by_task(self, config: Settings) -> bool:
        """Return whether images are generated once and kept, or by one VAE per task."""
        return self.keeps_earlier(config) or config.generator == "per_task"

    def fill(self, context: "Context", lanes: "Sequence[Lane]") -> "list[Buffer]":
        """Generate and label images."""
        from raysweep.learning.replay.filling import generate

        return generate(context, lanes)


METHOD = Generative()
