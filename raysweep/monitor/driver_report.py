"""``status.json``, which a running driver writes beside its tables from time to time."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from raysweep.monitor.terminal import Snapshot, WorkerState
from raysweep.tables.locks import this_process

STATUS_FILE = "status.json"
_FIELDS = {field.name for field in fields(WorkerState)}


@dataclass(frozen=True)
class DriverReport:
    """Information that only the driver has: its name, its workers' progress, the time left.

    ``driver`` is the name in the folder's lock; if they differ, the report is from an old driver.
    """

    driver: str
    n_running: int
    left_s: float | None
    workers: Sequence[WorkerState]
    dashboard: str | None = None

    @classmethod
    def of(cls, snapshot: Snapshot, dashboard: str | None) -> "DriverReport":
        """Return the report of this process."""
        return cls(
            this_process(), snapshot.n_running, snapshot.left_s, list(snapshot.workers), dashboard
        )

    def to_text(self) -> str:
        """Encode the report as the content of the file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> "DriverReport | None":
        """Decode the content of the file; return None if invalid, e.g. from another version."""
        try:
            raw: dict[str, Any] = json.loads(content)
            workers = [
                WorkerState(**{name: value for name, value in work.items() if name in _FIELDS})
                for work in raw["workers"]
            ]
            left_s = None if raw["left_s"] is None else float(raw["left_s"])
            n_running = int(raw["n_running"])
            return cls(str(raw["driver"]), n_running, left_s, workers, raw.get("dashboard"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
