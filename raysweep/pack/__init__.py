"""``PackRun``: train a pack epoch by epoch, each distinct stage once. Knows nothing of Ray."""

from raysweep.pack.joining import joined
from raysweep.pack.rows import Report, accuracy_summary
from raysweep.pack.run import PackRun

__all__ = ["PackRun", "Report", "accuracy_summary", "joined"]
