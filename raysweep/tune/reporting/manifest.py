"""Provenance of a run: versions, code, command, hosts, start and end."""

import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raysweep.tables.folder import ResultsFolder
from raysweep.tables.writer import now
from raysweep.tune.reporting.progress import Progress
from raysweep.versions import versions_of

_PACKAGES = ("torch", "torchvision", "ray", "numpy", "pandas", "pyarrow")


def _git() -> dict[str, Any]:
    """Return the commit of the code and whether it was changed; nulls outside a checkout.

    A package installed in an environment inside a user's repository does not count as a checkout.
    """

    def ask(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    if ask("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None, "is_dirty": None}
    commit = ask("rev-parse", "HEAD")
    changes = ask("status", "--porcelain")
    return {"commit": commit, "is_dirty": None if commit is None else bool(changes)}


class Manifest:
    """The entry of one run in ``manifest.json``, written at its start and at its end."""

    def __init__(self, folder: ResultsFolder, command: Iterable[str]) -> None:
        self._folder = folder
        self._run: dict[str, Any] = {
            "command": list(command),
            "start": now(),
            "end": None,
            "driver": platform.node(),
            "hosts": [],
            "versions": versions_of(_PACKAGES),
            "git": _git(),
        }
        folder.add_run(self._run)

    def end(self, progress: Progress) -> None:
        """Complete the entry: configurations by status, hosts, and how long the run took."""
        self._run |= {
            "end": now(),
            "counts": dict(progress.counts),
            "hosts": sorted(progress.hosts),
            "train_s": round(progress.train_s, 3),
            "train_cpu_s": round(progress.train_cpu_s, 3),
        }
        self._folder.add_run(self._run)
