"""Access to a Ray cluster: its token, and refusing clusters without one."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raysweep._compat import forget_token
from raysweep.errors import InputError

_MODE = "RAY_AUTH_MODE"
_TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 (the name of an environment variable)
_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105


@contextmanager
def token_set(is_local: bool, is_without: bool) -> Iterator[None]:
    """Prepare the token as ``prepare_token`` does, and restore the environment afterwards.

    Leave it by the time that Ray is shut down. If Ray can't forget the token, it stays: all later
    clusters in this process would get another one than its driver has.
    """
    before = {name: os.environ.get(name) for name in (_MODE, _TOKEN)}
    try:
        prepare_token(is_local, is_without)
        yield
    finally:
        if forget_token():
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def prepare_token(is_local: bool, is_without: bool) -> None:
    """Make Ray authenticate by token, in this process and its child processes.

    Call it before Ray is imported. A cluster started here creates a token if there is none.
    ``is_without`` leaves everything as set in the environment. Raises ``InputError`` if
    authentication is switched off, or there is no token for a running cluster.
    """
    if is_without:
        return
    mode = os.environ.get(_MODE)
    if mode is not None and mode.lower() != "token":
        raise InputError(
            f"{_MODE}: expected token or nothing, got {mode!r}: without tokens anyone who "
            f"reaches Ray's ports can run code here; unset it, or pass --without-token"
        )
    _protect(_token_file())
    if is_local and not _has_token():
        # Ray would write a new one to a file that only its own clusters read. One that is not in a
        # file also works if the home folder is read-only.
        os.environ[_TOKEN] = secrets.token_hex(32)
    if not is_local and not _has_token():
        raise InputError(
            f"--address (or RAY_ADDRESS): expected the cluster's token in {_token_file()} or "
            f"{_TOKEN}, found none; copy it from the cluster's head (`ray get-auth-token` prints "
            f"it there), or pass --without-token if the cluster has none"
        )
    os.environ[_MODE] = "token"


def refuse_open(modes: dict[str, bool], address: str) -> None:
    """Raise ``InputError`` if a node (``modes`` by host) does not ask for a token."""
    for host, has_token in modes.items():
        if not has_token:
            raise InputError(
                f"--address (or RAY_ADDRESS): expected a cluster that asks for a token, but "
                f"{host} of {address} lets anyone run code; start its nodes with {_MODE}=token "
                f"(docs/clusters.md), or pass --without-token"
            )


def _token_file() -> Path:
    named = os.environ.get(_TOKEN_PATH)
    if named:
        return Path(named)
    try:
        return Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # no home
        return Path(".ray") / "auth_token"


def _has_token() -> bool:
    try:
        return bool(os.environ.get(_TOKEN)) or bool(_token_file().read_text().strip())
    except OSError:
        return False


def _protect(token: Path) -> None:
    """Make a token readable by its owner only; ``ray get-auth-token`` leaves it world-readable."""
    with contextlib.suppress(OSError):
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)
