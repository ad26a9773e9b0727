"""How far a sweep is, from its folder alone: ``python -m raysweep.status results/NAME``."""

from raysweep.status.driver_report import STATUS_FILE, DriverReport
from raysweep.status.look import Look

__all__ = ["STATUS_FILE", "DriverReport", "Look"]
