"""Large grids of small continual-learning experiments, trained in stacks on Ray.

import raysweep

sweep = raysweep.run("vib.yaml", space={"lr": 1e-3})
sweep.trials
"""

import os
from typing import TYPE_CHECKING, Any

# MKL reads this at its first product. Without it, the last bit of a product depends on where its
# matrices start in memory, and thus on the other lanes. There is no measurable cost.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.3.0"

if TYPE_CHECKING:
    from raysweep.api import load, plan, run
    from raysweep.errors import InputError, NothingRunsError, RaysweepError, SweepStoppedError
    from raysweep.sweep_results import SweepResults
    from raysweep.tune.preview.sweep_plan import SweepPlan

__all__ = [
    "InputError",
    "NothingRunsError",
    "RaysweepError",
    "SweepPlan",
    "SweepResults",
    "SweepStoppedError",
    "__version__",
    "load",
    "plan",
    "run",
]

_MODULES = {
    "load": "raysweep.api",
    "plan": "raysweep.api",
    "run": "raysweep.api",
    "InputError": "raysweep.errors",
    "NothingRunsError": "raysweep.errors",
    "RaysweepError": "raysweep.errors",
    "SweepStoppedError": "raysweep.errors",
    "SweepResults": "raysweep.sweep_results",
    "SweepPlan": "raysweep.tune.preview.sweep_plan",
}
"""Where the names of the API are: workers and ``raysweep --help`` import none of them."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
