"""Settings of what is learned: the experiment, its tasks, their data."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict

from raysweep.learning.data.source_files import FileSource
from raysweep.learning.data.source_shapes import NAMED_SOURCES
from raysweep.learning.declare import (
    Choice,
    Count,
    Flag,
    Part,
    setting,
    words_in,
)
from raysweep.learning.experiments import EXPERIMENTS


class TaskSettings(BaseModel):
    """What is learned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Annotated[str, Choice(list(EXPERIMENTS))] = setting(
        "replay_vib",
        "top",
        "Tasks in sequence with replay, learnt by a VIB or comparison model or by an MLP "
        "(replay); one task, VIB (vib); all tasks at once, the upper bound (joint).",
        decides=lambda config: True,
    )
    tasks: Annotated[str, Choice(words_in("data/task_kinds"))] = setting(
        "perm_mnist", "data", "How tasks are made of the source.", Part.EVERY
    )
    n_tasks: Count = setting(2, "data", "Number of tasks in sequence.", Part.EVERY, ge=1, le=100)
    source: Annotated[str, Choice(list(NAMED_SOURCES))] | FileSource = setting(
        "mnist_5k",
        "data",
        "Where the images come from; the path of an .npz file for your own.",
        Part.EVERY,
    )
    task_samples: Count = setting(
        0,
        "data",
        "Training samples of each task, drawn at random (by seed); 0 takes all.",
        Part.EVERY,
        ge=0,
        le=60_000,
    )
    normalize: Flag = setting(
        False, "data", "Whether classifier inputs are (x - mean) / sd of the source.", Part.EVERY
    )
    shuffle_tasks: Flag = setting(
        False, "data", "Whether split tasks pair classes at random (by seed).", Part.SPLIT
    )
    first_task_identity: Flag = setting(
        False, "data", "Whether the first permuted task keeps its pixels in place.", Part.PERMUTED
    )
    drop_last: Flag = setting(
        True, "data", "Whether an epoch drops a last batch that is not full.", Part.EVERY
    )

    @property
    def is_joint(self) -> bool:
        """Whether all tasks are learned at once."""
        return EXPERIMENTS[self.experiment].is_joint

    @property
    def n_stored_tasks(self) -> int:
        """Number of tasks that a buffer is filled after: all but the last of a sequence."""
        return 0 if self.is_joint else self.n_tasks - 1
