"""The files of the stage cache: one sealed file per entry, verified on reading.

An entry is named after its stage's fingerprint and everything else that can change a bit of its
result (``environment``). As torch takes seconds to import and the driver only counts entries, only
functions that workers call import it.
"""

import contextlib
import json
import os
import platform
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.atomic import is_temporary
from raysweep.learning.data.sources import Source
from raysweep.local_folder import LocalFolder
from raysweep.sealed import SUFFIX, Sealed, digest_of, seal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STORE = ".stages"
"""Name of the cache's folder in the results folder; sweeps cannot have this name."""

_NAME = re.compile(r"[0-9a-f]+-[0-9a-f]{16}" + re.escape(SUFFIX))
"""Names of entries; other files in the folder are not ours."""
_FORMAT = 2
_ABANDONED_S = 3600.0
_FULL = 0.9
"""Share of the limit left in use after a clean-up, so that most writes need not check the size."""
_LOOK_AFTER = 1 / 64
"""Share of the free room to write before checking again, as other processes write too."""
_COMPUTING = (
    "sealed.py",
    "learning",
    "packs/run.py",
    "packs/records.py",
    "packs/rows.py",
    "packs/merging.py",
    "packs/states.py",
    "packs/stage_cache/pack_cache.py",
    "tune/scheduling/trainable.py",
)
"""The code that determines a stage's numbers, and the formats of its entry and of states."""


@dataclass(frozen=True)
class Entry:
    """A stage's results: ``record``, plain values for the tables, and ``tensors`` by name (CPU)."""

    record: dict[str, Any]
    tensors: "dict[str, Tensor]"


class StageCache:
    """The entries in one folder, shared by any number of processes.

    ``max_bytes`` limits the folder; the least recently used entries are removed first. A write
    error is stored in ``failure`` as one line, and nothing more is written: stages that cannot be
    kept are simply computed again.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._files = LocalFolder(folder)
        self.max_bytes = max_bytes
        self.failure: str | None = None
        self._n_room = 0
        self._n_written = 0

    def path(self, stage: str, environment: Mapping[str, Any]) -> Path:
        """Return the path of a stage's entry, given the stage's fingerprint."""
        text = json.dumps(environment, sort_keys=True)
        return self.folder / f"{stage}-{digest_of(text.encode())[:16]}{SUFFIX}"

    def read(self, stage: str, environment: Mapping[str, Any]) -> Entry | None:
        """Read a stage's entry; return None if there is no valid one.

        An entry that is damaged or belongs to another stage is removed.
        """
        path = self.path(stage, environment)
        try:
            data = self._files.read_bytes(path.name)
        except OSError:
            return None
        try:
            sealed = Sealed(data)
            inside = sealed.plain
            if inside["stage"] != stage or inside["environment"] != environment:
                raise ValueError("belongs to another stage")
            entry = Entry(**sealed.value()["entry"])
        except (MemoryError, ImportError):  # not the entry's fault
            return None
        except Exception:  # noqa: BLE001 (whatever is wrong, the stage is computed again)
            with contextlib.suppress(OSError):
                self._files.delete(path.name)
            return None
        with contextlib.suppress(OSError), self._files.opened() as folder:  # a read-only cache
            os.utime(path.name, dir_fd=folder, follow_symlinks=False)
        return entry

    def write(
        self, stage: str, environment: Mapping[str, Any], entry: Entry, replaces: bool = False
    ) -> None:
        """Write a stage's entry; an existing one stays unless the new one ``replaces`` it.

        This never raises ``OSError``; see ``failure``.
        """
        path = self.path(stage, environment)
        if self.failure:
            return
        try:
            if not replaces and self._files.exists(path.name):
                return
            parts = {"record": entry.record, "tensors": entry.tensors}
            inside = {"stage": stage, "environment": dict(environment), "entry": parts}
            data = seal(inside)
            if len(data) > self.max_bytes:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files.write_bytes(data, path.name)
            self._make_room(len(data))
        except OSError as error:
            self.failure = (
                f"{self.folder}: expected to keep stages there, got: {error.strerror or error}; "
                f"training continues without the stage cache"
            )

    def _make_room(self, n_bytes: int) -> None:
        """Remove the least recently used entries above the limit, and abandoned temporary files."""
        self._n_written += n_bytes
        if self._n_written < _LOOK_AFTER * self._n_room:
            return
        now = time.time()
        found: list[tuple[float, int, str]] = []
        with self._files.opened() as folder, os.scandir(folder) as files:
            for file in files:
                is_entry = bool(_NAME.fullmatch(file.name))
                if not is_entry and not is_temporary(file.name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    state = file.stat(follow_symlinks=False)
                    if not stat.S_ISREG(state.st_mode):
                        continue
                    if is_entry:
                        found.append((state.st_mtime, state.st_size, file.name))
                    elif now - state.st_mtime > _ABANDONED_S:
                        os.unlink(file.name, dir_fd=folder)
        total = sum(size for _, size, _ in found)
        if total > self.max_bytes:
            for _, size, name in sorted(found):
                if total <= _FULL * self.max_bytes:
                    break
                self._files.delete(name)
                total -= size
        self._n_room, self._n_written = self.max_bytes - total, 0


def stored_stages(folder: Path) -> set[str]:
    """List the fingerprints of the stages in a cache, whatever their environment."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 (only names are needed)
    except OSError:
        return set()
    return {name.partition("-")[0] for name in names if _NAME.fullmatch(name)}


def environment(source: Source, device: "torch.device", dtype: "torch.dtype") -> dict[str, Any]:
    """Return everything besides settings that can change a bit of a stage's result here.

    Other versions, processors, code or data each get separate entries. The exact text of the code
    counts, because developers do not raise ``STAGE_VERSION`` while experimenting.
    """
    import torch

    is_cuda = device.type == "cuda"
    return {
        "format": _FORMAT,
        "code": _code(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": os.environ.get("MKL_CBWR", ""),
        "n_threads": torch.get_num_threads(),
        "dtype": str(dtype),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "flushes_denormals": float(torch.tensor(1e-40) * 1) == 0,
        "data": digest_of(*_data(source)),
    }


@lru_cache(maxsize=1)  # the code that the process imported, not later edits
def _code() -> str:
    root = Path(__file__).parents[2]
    files = []
    for name in _COMPUTING:
        path = root / name
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return digest_of(
        *(
            part
            for file in files
            for part in (str(file.relative_to(root)).encode(), file.read_bytes())
        )
    )


def _data(source: Source) -> list[bytes]:
    arrays = (source.train_images, source.train_labels, source.test_images, source.test_labels)
    shapes = json.dumps([source.name, source.mean, source.sd, [array.shape for array in arrays]])
    return [shapes.encode(), *(array.tobytes() for array in arrays)]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    # Hypervisors report one name for processors with different features; ARM reports no name.
    telling = ("model name", "flags", "Features", "CPU part")
    found = sorted({line for line in lines if line.startswith(telling)})
    return digest_of(platform.machine().encode(), *(line.encode() for line in found))
