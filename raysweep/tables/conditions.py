"""An object of a store that is written on a condition: that it is still what was last read.

Stores check the condition and write in one step (``If-None-Match`` and ``If-Match`` of S3, the
generation of Google's), which pyarrow can't ask for, so these requests go through obstore. Each
has a time limit, too: a store that never answers blocks pyarrow's for Google for minutes.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from raysweep.tables import object_store
from raysweep.tables.credentials import (
    CredentialsError,
    aws_provider,
    google_provider,
    has_google_credentials,
)
from raysweep.tables.object_store import (
    Endpoint,
    StoreError,
    endpoint_of,
    explained,
    patiently,
    take_apart,
)
from raysweep.tables.paths import ResultsPath

_SETTLE_S = 1.0
"""How long to wait, in a store without conditions, before looking who wrote last."""
_LEAST_S = 60.0
"""Time limit of a request that writes a table."""
_NEVER = {"e_tag": '"00000000000000000000000000000000"', "version": "1"}
"""A version that no object has."""


class Version(NamedTuple):
    """What an object held when it was read or written, and the store's name for that."""

    content: bytes
    tag: dict[str, str] | None = None


class ConditionsError(StoreError):
    """A store that cannot write on a condition."""


class StoreObject(Protocol):
    """An object that is replaced only if it is still as it was last seen."""

    def read(self) -> Version | None:
        """Return the object, None if it does not exist. Raise ``StoreError``."""

    def write(self, content: bytes, over: Version | None) -> Version | None:
        """Replace a version, None for no object; return None if there is another by now.

        ``content`` must differ from all earlier ones. Raise ``StoreError``, after which the object
        may be written or not.
        """


def open_object(path: ResultsPath) -> tuple[StoreObject, str | None]:
    """Return an object of a store, and why it can't be written on a condition, if that is known.

    Raise ``StoreError`` if the store cannot be reached.
    """
    try:
        found = ConditionalObject(path)
        patiently(found.read)
    except ImportError:
        return PlainObject(path), "the package obstore is not installed"
    except (CredentialsError, ConditionsError) as error:
        return PlainObject(path), str(error)
    return found, None


class ConditionalObject:
    """An object in a store that checks conditions."""

    def __init__(self, path: ResultsPath, limit_s: float | None = None) -> None:
        import obstore  # takes 0.2 s, and most sweeps are in local folders

        found = take_apart(path.address)
        self._scheme, self._bucket, self._key = found.scheme, found.bucket, found.key
        self._library = obstore
        try:
            endpoint = endpoint_of(found.scheme, found.bucket, path.query)
        except OSError as error:
            raise explained(found.scheme, found.bucket, error) from None
        self._limit_s = limit_s or object_store.ANSWER_S
        with self._asking():
            self._store = _store(found.scheme, found.bucket, endpoint, self._limit_s)

    def read(self) -> Version | None:
        """Return the object, None if it does not exist. Raise ``StoreError``."""
        with self._asking():
            try:
                found = self._library.get(self._store, self._key)
                return Version(bytes(found.bytes()), _tag(found.meta))
            except FileNotFoundError as error:
                if _is_bucket_missing(error):
                    raise
                return None

    def look(self) -> Version | None:
        """Return the object's version without its content. Raise ``StoreError``."""
        with self._asking():
            try:
                return Version(b"", _tag(self._library.head(self._store, self._key)))
            except FileNotFoundError:
                return None

    def write(self, content: bytes, over: Version | None) -> Version | None:
        """Replace a version; see ``StoreObject``. Raise ``ConditionsError`` if it is not able to.

        If the answer to an earlier attempt was lost, its write is found and counts.
        """
        errors = self._library.exceptions
        with self._asking():
            mode: Any = "create" if over is None else over.tag
            try:
                written = self._library.put(self._store, self._key, content, mode=mode)
                return Version(content, _tag(written))
            except (errors.AlreadyExistsError, errors.PreconditionError):
                pass
            except FileNotFoundError as error:
                if over is None or _is_bucket_missing(error):
                    raise
        found = self.read()
        return found if found and found.content == content else None

    def checks_conditions(self, content: bytes) -> bool:
        """Return whether the store refuses to write where a condition does not hold.

        The object must exist. A store that ignores conditions writes ``content``.
        """
        never = Version(b"", _NEVER)
        try:
            return not any(self.write(content, over) for over in (None, never))
        except ConditionsError:
            return False

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Convert errors to ``StoreError``."""
        try:
            yield
        except StoreError:
            raise
        except (OSError, ValueError, self._library.exceptions.BaseError) as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> StoreError:
        text = str(error)
        if _is_bucket_missing(error) or isinstance(error, FileNotFoundError):
            return object_store.no_bucket(self._scheme, self._bucket)
        if code := re.search(r"status code: (\d+)", text):
            words = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
            reason = f"HTTP status {code[1]}" + (f": {words[1]}" if words else "")
        elif re.search(r"kind: (Connect|Timeout|Request|Interrupted)", text):
            is_late = "kind: Timeout" in text
            why = f"no answer within {self._limit_s:g} s" if is_late else "it is refused"
            return StoreError(f"no connection to the store ({why})", is_passing=True)
        else:
            reason = text.partition("\n\nDebug source")[0]
        unable = isinstance(error, self._library.exceptions.NotSupportedError)
        if unable or re.search(r"code: 501|NotImplemented", text):
            return ConditionsError(reason)
        return explained(self._scheme, self._bucket, OSError(reason))


def replacer(path: ResultsPath) -> Callable[[bytes], bool]:
    """Return what writes a file if no one has written it since, or else returns False.

    The store must check conditions. Raise ``StoreError``, then and now.
    """
    before = patiently(ConditionalObject(path).look)

    def replace(content: bytes) -> bool:
        # At a megabyte per second; few different limits, since each has its own connections.
        limit_s = _LEAST_S
        while limit_s < len(content) / 1e6:
            limit_s *= 4
        target = ConditionalObject(path, limit_s)
        return patiently(lambda: target.write(content, before)) is not None

    return replace


class PlainObject:
    """An object in a store that ignores conditions: the last one to write has it.

    Two that write in the same second are told apart a second later, by whose content stayed.
    """

    def __init__(self, path: ResultsPath) -> None:
        self._path = path

    def read(self) -> Version | None:
        """Return the object, None if it does not exist. Raise ``StoreError``."""
        try:
            return Version(self._path.read_bytes())
        except FileNotFoundError:
            return None

    def write(self, content: bytes, over: Version | None) -> Version | None:
        """Replace a version; see ``StoreObject``."""
        now = self.read()
        if (now and now.content) != (over and over.content):
            return None
        self._path.write_bytes(content)
        time.sleep(_SETTLE_S)
        found = self.read()
        return found if found and found.content == content else None


def _is_bucket_missing(error: Exception) -> bool:
    return "NoSuchBucket" in str(error)


def _tag(result: Any) -> dict[str, str]:
    """Return the names of a version that the store gave; obstore takes no None for them."""
    return {key: result[key] for key in ("e_tag", "version") if result[key]}


@lru_cache(maxsize=64)
def _store(scheme: str, bucket: str, endpoint: Endpoint, limit_s: float) -> Any:
    from obstore import store

    library: Any = store  # its types would have every option spelled out

    url = f"{endpoint.scheme or 'https'}://{endpoint.host}" if endpoint.host else None
    client: dict[str, Any] = {
        "allow_http": url is not None and url.startswith("http:"),
        "connect_timeout": timedelta(seconds=object_store.CONNECT_S),
        "timeout": timedelta(seconds=limit_s),
    }
    if endpoint.tls_ca_file_path:
        try:
            client["root_certificate"] = Path(endpoint.tls_ca_file_path).read_bytes()
        except OSError as error:
            raise StoreError(f"tls_ca_file_path: expected to read it, got: {error}") from None
    common: dict[str, Any] = {
        "client_options": client,
        "retry_config": {
            "max_retries": object_store.ATTEMPTS - 1,
            "retry_timeout": timedelta(seconds=object_store.ATTEMPTS * limit_s),
        },
    }
    if scheme == "gs":
        # As pyarrow does: without credentials to a server without encryption.
        is_open = bool(url and url.startswith("http:")) and not has_google_credentials()
        places = {"base_url": url} if url else {}
        provider = None if is_open else google_provider()
        return library.GCSStore(
            bucket, skip_signature=is_open, credential_provider=provider, **places, **common
        )
    options: dict[str, Any] = {"conditional_put": "etag"}
    named = (os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))
    region = endpoint.region or next(filter(None, named), "")
    if not url and region.startswith("cn-"):
        url = f"https://s3.{region}.amazonaws.com.cn"
    if url:
        # The second name would win if it were set in the environment.
        options |= {"endpoint": url, "aws_endpoint_url_s3": url}
    if region:
        options["region"] = region
    return library.S3Store(bucket, credential_provider=aws_provider(), **options, **common)
