"""Addresses of object stores, connections to them, and their errors as one line."""

import http.client
import os
import re
import time
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache, wraps
from typing import NamedTuple, ParamSpec, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pyarrow import fs

from raysweep.errors import InputError
from raysweep.user_text.values import near

SCHEMES = ("s3", "gs", "file")
_OPTIONS = {
    "s3": ("endpoint_override", "region", "scheme", "tls_ca_file_path"),
    "gs": ("endpoint_override", "scheme"),
}
_SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or configure a profile in ~/.aws",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a file with credentials",
}
# Three attempts per request, so that a wrong address or a missing network shows within 30 s.
CONNECT_S, ANSWER_S, ATTEMPTS = 5.0, 6.0, 3
_PATIENCE_S = 30.0
_LONGEST_REASON = 200
_GOOGLE = "storage.googleapis.com"
_ANSWERS = r"SLOW_DOWN|THROTTL|INTERNAL|HTTP status (5(?!01)|429)"

P = ParamSpec("P")
T = TypeVar("T")


class Address(NamedTuple):
    """A parsed address; ``key`` is the path in the bucket, ``query`` the text after "?"."""

    scheme: str
    bucket: str
    key: str
    query: str


class StoreError(OSError):
    """A store's error in one line.

    ``is_passing`` if a later attempt may succeed; ``is_answer`` if that is since the store itself
    said so, as by status 500, and not since it can't be reached.
    """

    def __init__(self, text: str, is_passing: bool = False, is_answer: bool = False) -> None:
        super().__init__(text)
        self.is_passing = is_passing
        self.is_answer = is_answer


def take_apart(text: str) -> Address:
    """Parse an address.

    Raise ``InputError`` for an unknown scheme or option, a missing bucket, and for credentials, as
    addresses appear in logs and in the manifest.
    """
    shown = without_secrets(text)
    try:
        split = urlsplit(text)
    except ValueError as error:
        raise InputError(f"{shown}: expected an address, got: {error}") from None
    scheme = split.scheme
    if scheme not in SCHEMES:
        raise InputError(
            f"{shown}: expected a folder, or an address that starts with "
            f"{', '.join(f'{known}://' for known in SCHEMES)}, got {scheme}://"
            f"{near(scheme, list(SCHEMES))}"
        )
    if scheme == "file":
        if split.netloc not in ("", "localhost") or split.query:
            raise InputError(f"{shown}: expected file:///FOLDER; give the folder's absolute path")
        return Address(scheme, "", unquote(split.path), "")
    options = parse_qsl(split.query, keep_blank_values=True)
    is_secret = any(_SECRET.search(name) or "@" in value for name, value in options)
    if "@" in split.path or set("@:") & set(split.netloc) or is_secret:
        raise InputError(
            f"{shown}: expected an address without credentials, since it appears in logs and in "
            f"the manifest; {_CREDENTIALS[scheme]}"
        )
    if not split.netloc or split.fragment:
        raise InputError(f"{shown}: expected {scheme}://BUCKET/FOLDER, without '#'")
    for name, value in options:
        if name not in _OPTIONS[scheme] or not value:
            raise InputError(
                f"{shown}: expected only values of {', '.join(_OPTIONS[scheme])} after '?', "
                f"got {name}{near(name, list(_OPTIONS[scheme]))}"
            )
    return Address(scheme, split.netloc, unquote(split.path).strip("/"), split.query)


def without_secrets(text: str) -> str:
    """Return an address with possible credentials replaced by ``***``."""
    start, mark, query = text.partition("?")
    start = re.sub(r"(?<=://).*@", "***@", start)  # secret keys may contain slashes
    start = re.sub(r"(?<=://)[^/@]*:[^@]*$", "***", start)
    known = {name for names in _OPTIONS.values() for name in names}
    shown = (
        f"{name}={re.sub(r'.*@', '***@', value) if name in known else '***'}"
        for name, value in parse_qsl(query, keep_blank_values=True)
    )
    return start + mark + "&".join(shown)


class Endpoint(NamedTuple):
    """Where a bucket is; None is what the library takes by itself."""

    scheme: str | None
    host: str | None
    region: str | None
    tls_ca_file_path: str | None


def endpoint_of(scheme: str, bucket: str, query: str) -> Endpoint:
    """Return where a bucket is, by the options of its address and the environment.

    Raise ``OSError`` if the bucket's region is needed and the store cannot be reached.
    """
    options = dict(parse_qsl(query))
    host = options.get("endpoint_override")
    if scheme == "s3" and not host:  # like Amazon's own tools
        named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
        host = next(filter(None, named), None)
    if host and "://" in host:
        protocol, _, host = host.partition("://")
        options.setdefault("scheme", protocol)
    host = host.rstrip("/") if host else None
    region = options.get("region")
    if scheme == "s3" and not region:
        region = _region(bucket, host)
    return Endpoint(options.get("scheme"), host, region, options.get("tls_ca_file_path"))


@lru_cache(maxsize=64)
def connect(scheme: str, bucket: str, query: str) -> fs.FileSystem:
    """Return the file system of a bucket, with credentials from the store's usual places.

    Raise ``OSError`` if the bucket's region is needed and the store cannot be reached.
    """
    endpoint = endpoint_of(scheme, bucket, query)
    if scheme == "gs":
        _expect_answer(f"{endpoint.scheme or 'https'}://{endpoint.host or _GOOGLE}")
        return fs.GcsFileSystem(
            endpoint_override=endpoint.host,
            scheme=endpoint.scheme,
            retry_time_limit=timedelta(seconds=CONNECT_S * ATTEMPTS),
        )
    return fs.S3FileSystem(
        endpoint_override=endpoint.host,
        scheme=endpoint.scheme,
        region=endpoint.region,
        tls_ca_file_path=endpoint.tls_ca_file_path,
        connect_timeout=CONNECT_S,
        request_timeout=ANSWER_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,  # otherwise a small object takes three requests instead of one
    )


def _expect_answer(url: str) -> None:
    """Raise ``OSError`` if a server accepts connections, but never answers.

    pyarrow has no time limit for Google's requests: it took two minutes, measured. Everything else
    that may be wrong is left to pyarrow to find out.
    """
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310  # of http or https
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S):  # noqa: S310
                return
        except TimeoutError:
            if attempt == ATTEMPTS - 1:
                text = f"no connection to the store (no answer within {ANSWER_S:g} s)"
                raise StoreError(text, is_passing=True) from None
        except (OSError, ValueError, http.client.HTTPException):
            return


def _region(bucket: str, endpoint: str | None) -> str | None:
    """Return the region of an Amazon bucket, None if the environment sets it."""
    if any(os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")):
        return None
    return "us-east-1" if endpoint else _amazon_region(bucket)


@lru_cache(maxsize=64)
def _amazon_region(bucket: str) -> str:
    return str(fs.resolve_s3_region(bucket))


def explained(scheme: str, bucket: str, error: Exception) -> StoreError:
    """Return a store's error as one line, with advice if the user can fix it."""
    text = " ".join(str(error).split())
    google = re.search(r"with a last message of (.*?)(?: error_info=|$)", text)
    reason = google[1] if google else text.partition(" Details: ")[2] or text
    if "NO_SUCH_BUCKET" in text or "Bucket not found" in text or "not found: Bucket" in text:
        return no_bucket(scheme, bucket)
    if re.search(
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN|"
        r"EXPIRED|UNAUTHORIZED|UNAUTHENTICATED|OAuth2|HTTP status 40[013]|PERMISSION_DENIED|"
        r"credential",
        text,
        re.IGNORECASE,
    ):
        return StoreError(
            f"the store refuses the credentials for bucket {bucket} "
            f"({reason[:_LONGEST_REASON]}); {_CREDENTIALS[scheme]}"
        )
    if re.search(r"NETWORK_CONNECTION|UNAVAILABLE|DEADLINE|Could not (connect|resolve)", text):
        is_answer = "SERVICE_UNAVAILABLE" in text  # Amazon's status 503
        text = f"no connection to the store ({reason[:_LONGEST_REASON]})"
        return StoreError(text, True, is_answer)
    is_answer = bool(re.search(_ANSWERS, text))
    return StoreError(text[:_LONGEST_REASON], is_answer or "TIMEOUT" in text, is_answer)


def no_bucket(scheme: str, bucket: str) -> StoreError:
    """Return the error for a missing bucket."""
    return StoreError(
        f"no bucket {bucket} in the store; create it, or correct the address ({scheme}://BUCKET/…)"
    )


def patiently(action: Callable[[], T]) -> T:
    """Run an action on a store, retrying for half a minute if the store cannot be reached.

    This lets sweeps survive a short loss of the network. Raise the last attempt's error.
    """
    return _retried(action, lambda error: error.is_passing)


def patient(method: Callable[P, T]) -> Callable[P, T]:
    """Retry a request for half a minute if the store answers that it is overloaded or broken.

    A store that cannot be reached is not waited for: at a start, its address is likely to be wrong.
    """

    @wraps(method)
    def retried(*args: P.args, **kwargs: P.kwargs) -> T:
        return _retried(lambda: method(*args, **kwargs), lambda error: error.is_answer)

    return retried


def _retried(action: Callable[[], T], is_worth: Callable[[StoreError], bool]) -> T:
    until, pause = time.monotonic() + _PATIENCE_S, 1.0
    while True:
        try:
            return action()
        except StoreError as error:
            if not is_worth(error) or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause *= 2
