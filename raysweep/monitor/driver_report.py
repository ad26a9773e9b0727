"""``status.json``, which a running driver writes beside its tables from time to time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raysweep.monitor.terminal import Snapshot, WorkerState
from raysweep.tables.json_files import decode_json, is_amount, is_count, is_text
from raysweep.tables.locks import this_process

STATUS_FILE = "status.json"


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
            raw = decode_json(content)
            are_valid = all(is_valid(raw[name]) for name, is_valid in _REPORT.items())
            workers = [_worker(work) for work in raw["workers"]] if are_valid else []
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if not are_valid:
            return None
        dashboard = raw.get("dashboard")
        return cls(
            raw["driver"],
            raw["n_running"],
            raw["left_s"],
            workers,
            dashboard if is_text(dashboard) else None,
        )


_REPORT: Mapping[str, Callable[[Any], bool]] = {
    "driver": is_text,
    "n_running": is_count,
    "left_s": lambda value: value is None or is_amount(value),
    "workers": lambda value: isinstance(value, list),
}
_WORKER: Mapping[str, Callable[[Any], bool]] = {
    "n_configs": is_count,
    "host": lambda value: value is None or is_text(value),
    "stage": lambda value: value is None or is_text(value),
    "epoch": is_count,
    "n_epochs": is_count,
    "share": lambda value: is_amount(value) and value <= 1,
    "heard_s": is_amount,
}


def _worker(work: Mapping[str, Any]) -> WorkerState:
    known = {name: value for name, value in work.items() if name in _WORKER}
    if not all(_WORKER[name](value) for name, value in known.items()):
        raise ValueError("a worker's state has values of a wrong type")
    return WorkerState(**known)
