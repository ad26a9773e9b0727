"""The lock of a folder in an object store."""

import contextlib
import json
import threading
import time
import uuid
from datetime import UTC, datetime

from raysweep.errors import InputError
from raysweep.tables.conditions import (
    ConditionalObject,
    ConditionsError,
    PlainObject,
    StoreObject,
    Version,
    open_object,
)
from raysweep.tables.locks import (
    LOCK,
    Say,
    field_of,
    held_error,
    is_released,
    name_of,
    this_process,
)
from raysweep.tables.object_store import patiently
from raysweep.tables.paths import ResultsPath
from raysweep.tables.processes import identity, is_gone

RENEW_S = 15.0
"""How often a driver renews its lease."""
STALE_S = 60.0
"""A lease that was watched for this long without being renewed may be taken."""
_LOOK_S = 2.0


class Lease:
    """A lock in an object store: an object that a thread renews, and that goes stale otherwise.

    Each write replaces the version that was last seen, or nothing, so of several drivers that take
    a lease at the same moment one has it. No clock is read: whether a lease is renewed is seen by
    watching it. A driver that sleeps between checking its lease and writing may still write once,
    so tables are replaced on a condition, too (``ResultsFolder.replacer``).
    """

    def __init__(self, folder: ResultsPath) -> None:
        self._folder = folder
        self._token = uuid.uuid4().hex
        self._n_written = 0
        self._object: StoreObject = PlainObject(folder / LOCK)
        self._version: Version | None = None
        self._winner: str | None = None
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, say: Say | None = None) -> None:
        """Take the lease; watch an existing one for a minute, unless its driver is surely gone.

        Report through ``say`` that it is waiting, or that the store can't tell drivers apart for
        certain. Raise ``InputError`` if another driver has the lease, ``OSError`` if the store
        cannot be reached.
        """
        self._object, reason = open_object(self._folder / LOCK)
        left = self._await_free(say)
        try:
            reason = self._take_over(left, reason)
            if reason and say:
                say(
                    f"{self._folder}: a second driver that starts in the same second may not be "
                    f"refused, since the store can't be asked to ({reason}); start one at a time"
                )
        except BaseException:
            self._give_back()
            raise
        self._thread = threading.Thread(target=self._renew, name="raysweep-lease", daemon=True)
        self._thread.start()

    def _await_free(self, say: Say | None) -> Version | None:
        """Return the lease to replace, or None, once no driver renews it."""
        held = patiently(self._object.read)
        if held is None or _is_free(held):
            return held
        if say:
            say(
                f"{self._folder}: {name_of(held.content)} holds it; waiting {STALE_S:.0f} s for "
                f"its lease to expire unless it is still alive"
            )
        until = time.monotonic() + STALE_S
        while (rest := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, rest))
            now = patiently(self._object.read)
            if now is None or _is_free(now):
                return now
            if now.content != held.content:
                more = " and has just renewed its lease"
                raise held_error(self._folder, name_of(now.content), more)
        return held

    def _take_over(self, left: Version | None, reason: str | None) -> str | None:
        """Write the lease over what is left; return why the store's conditions can't be used."""
        if isinstance(self._object, ConditionalObject):
            conditional = self._object
            try:
                self._expect_written(left)
                probe = self._content()
                if patiently(lambda: conditional.checks_conditions(probe)):
                    return None
                reason, left = "it ignores conditions", patiently(conditional.read)
                if left is None or not self._is_ours(left):
                    raise self._lost_to(left)
            except ConditionsError as error:
                reason = str(error)
            self._object = PlainObject(self._folder / LOCK)
        self._expect_written(left)
        return reason

    def _expect_written(self, over: Version | None) -> None:
        content = self._content()
        self._version = patiently(lambda: self._object.write(content, over))
        if self._version is None:
            raise self._lost_to(patiently(self._object.read))

    def _lost_to(self, now: Version | None) -> InputError:
        return held_error(self._folder, name_of(now.content) if now else "another process")

    def _content(self) -> bytes:
        """Return what no lease has held before: stores name versions by their content."""
        self._n_written += 1
        lease = {
            "holder": this_process(),
            "token": self._token,
            "process": identity(),
            "number": self._n_written,
            "time": datetime.now(UTC).isoformat(),
        }
        return json.dumps(lease).encode()

    def _is_ours(self, held: Version) -> bool:
        return field_of(held.content, "token") == self._token

    def _renew(self) -> None:
        pause = RENEW_S
        while not self._is_over.wait(pause):
            # Ignore errors: writing rows would show them, and a later renewal may be in time.
            pause = RENEW_S / 5
            with contextlib.suppress(OSError):
                if not self._is_renewed():
                    return
                pause = RENEW_S

    def _is_renewed(self) -> bool:
        """Renew the lease; return False if another driver has it."""
        renewed = self._object.write(self._content(), self._version)
        if renewed is None:
            now = self._object.read()
            if now is None or not self._is_ours(now):
                self._winner = name_of(now.content) if now else "no driver"
                return False
            # The answer to an earlier renewal was lost.
            renewed = self._object.write(self._content(), now) or now
        self._version = renewed
        return True

    @property
    def is_certain(self) -> bool:
        """Whether the store checks conditions."""
        return isinstance(self._object, ConditionalObject)

    def holder(self) -> str | None:
        """Return the name of another holder, read from the store, or None."""
        if self._winner:
            return self._winner
        held = self._object.read()
        if held is None:
            return "no driver"
        return None if self._is_ours(held) else name_of(held.content)

    def release(self) -> None:
        """Release the lease if this driver still holds it; a lease left behind goes stale."""
        self._is_over.set()
        if self._thread:
            self._thread.join()
            self._thread = None
            self._give_back()

    def _give_back(self) -> None:
        """Mark the lease as free. Deleting it could delete that of a driver that has just begun."""
        with contextlib.suppress(OSError):
            held = self._object.read()
            if held and self._is_ours(held):
                self._object.write(json.dumps({"released_by": self._token}).encode(), held)


def _is_free(held: Version) -> bool:
    """Return whether the driver of a lease gave it back, or has provably ended."""
    return is_released(held.content) or is_gone(field_of(held.content, "process"))
