"""Every setting of an experiment, declared once.

``rules`` has the meaning of ``auto`` and the checks across settings, ``stage_graph`` the stages of
a configuration.
"""

from raysweep.learning.declarations.replay import ReplaySettings
from raysweep.learning.declare import (
    Count,
    Declaration,
    Part,
    Real,
    Varies,
    declaration_of,
    setting,
)


class Settings(ReplaySettings):
    """All settings, in the order of the ``config/<name>`` columns.

    Each names its section of the search-space file; any of them may also be written under
    ``space:``.
    """

    loss_above: Real = setting(
        1_000_000.0,
        "divergence",
        "A configuration has diverged when its total loss (mean per sample) exceeds this.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        gt=0,
    )
    loss_factor: Real = setting(
        0.0,
        "divergence",
        "A configuration has also diverged when its loss exceeds this factor (> 1) times the "
        "lowest loss of the stage so far, if that is > 0; 0: no such limit.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        ge=0,
    )
    loss_patience: Count = setting(
        1,
        "divergence",
        "Number of consecutive steps above either limit after which a configuration counts as "
        "diverged; a single NaN or infinite loss is enough.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        ge=1,
        le=1_000_000,
    )
    seed: Count = setting(0, "seeds", "Seed of every random draw.", Part.EVERY, ge=0, le=2**32 - 1)


DECLARATIONS: dict[str, Declaration] = {
    name: declaration_of(field) for name, field in Settings.model_fields.items()
}
"""The declaration of each setting, in the order of the columns."""
