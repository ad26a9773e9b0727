"""States of packs on disk, from which training resumes: of a lost worker, set aside, or paused.

Each file is sealed (``raysweep/sealed.py``) and says what it holds: its configurations, the rows
that each of them had by then, and the terms under which it was made. The driver compares the rows
with the tables, workers the rest; a state that does not match is not used.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from raysweep.sealed import SUFFIX, DamagedError, read_plain, seal, unseal, verify

if TYPE_CHECKING:
    import torch

STATE_FILE = f"pack{SUFFIX}"
"""Name of the state in a checkpoint's folder."""

_HARDWARE = ("processor", "capability", "device")
"""Terms in which the nodes of one run may differ, as they may from pack to pack."""

RowsBehind = dict[str, Any]
"""The rows of a configuration that a state stands behind: ``epochs`` maps a stage to the number of
its epochs and the digest of their rows, ``accuracy`` a number of tasks to the accuracies."""


_OTHER = "holds something else"


class StateError(Exception):
    """A state can't be used; the message says why, after its name."""


@dataclass(frozen=True)
class PackState:
    """A pack's state after an epoch.

    ``pack`` is ``PackRun.state``, ``rows`` ``PackRun.rows_behind``: of each configuration that has
    not ended. ``started_at`` (seconds since 1970) and ``n_steps`` count from the pack's start;
    ``made_with`` is what its numbers depend on besides its settings.
    """

    pack: dict[str, Any]
    rows: dict[str, RowsBehind]
    started_at: float
    n_steps: int
    made_with: dict[str, Any]

    def encode(self) -> bytes:
        """Return the content of the state's file."""
        return seal(vars(self))

    @classmethod
    def decode(cls, content: bytes, device: "torch.device | str") -> "PackState":
        """Return the state in a file's content, with its tensors on a device.

        Raise ``StateError`` if it is not whole.
        """
        try:
            return cls(**unseal(content, device))
        except (DamagedError, TypeError) as error:
            raise StateError(_why(error)) from None

    def expect_terms(self, terms: Mapping[str, Any], is_other_run: bool) -> None:
        """Raise ``StateError`` if the numbers under these terms might differ from those so far."""
        for name in dict.fromkeys((*terms, *self.made_with)):
            if name in _HARDWARE and not is_other_run:
                continue
            if self.made_with.get(name) != terms.get(name):
                raise StateError(
                    f"was made with different {_TERMS.get(name, name.replace('_', ' '))}"
                )


_TERMS = {
    "code": "code of raysweep",
    "n_threads": "numbers of threads",
    "keeps": "options (stage cache or early stopping)",
    "capability": "processor features",
    "format": "formats",
    "mkl": "MKL settings",
}


def expect_configs(states: Sequence[PackState], ids: Collection[str]) -> None:
    """Raise ``StateError`` unless each of the configurations (ids) continues in some state."""
    if not set(ids) <= {config_id for state in states for config_id in state.rows}:
        raise StateError("holds other configurations")


def rows_in(file: IO[bytes]) -> dict[str, RowsBehind]:
    """Return what a state stands behind, by configuration, without reading or verifying the rest.

    Raise ``StateError`` if that can't be read.
    """
    try:
        rows = read_plain(file)["rows"]
    except (DamagedError, KeyError, TypeError) as error:
        raise StateError(_why(error)) from None
    if not isinstance(rows, dict):
        raise StateError(_OTHER)
    return rows


def expect_whole(file: IO[bytes]) -> None:
    """Raise ``StateError`` unless every byte of a state is as it was written."""
    try:
        verify(file)
    except DamagedError as error:
        raise StateError(_why(error)) from None


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, DamagedError) else _OTHER
