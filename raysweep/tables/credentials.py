"""Credentials for conditional writes, from the places where pyarrow finds its own.

Both libraries read the environment and ask the machine (a role of EC2, of a container, of a
service account). Only pyarrow reads Amazon's profiles, and some kinds of Google's files.
"""

import configparser
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_LIFE = timedelta(minutes=5)
"""After which a profile is read again: other tools write new keys into it."""
_NATIVE = ("service_account", "authorized_user")
_ELSEWHERE = ("role_arn", "sso_session", "sso_start_url", "credential_process", "login_session")

Provider = Callable[[], Any]


class CredentialsError(Exception):
    """Credentials that need a package which is not installed; the message says which."""


def aws_provider() -> Provider | None:
    """Return what reads the credentials of a profile; None if there is none.

    Raise ``CredentialsError`` if a profile names a source that only Amazon's own package can ask.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    if _profile_keys(name):
        return lambda: _profile_keys(name)
    if not any(key in _profile(name) for key in _ELSEWHERE):
        return None
    try:
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise CredentialsError(
            f"the profile {name} of ~/.aws needs the package boto3: pip install boto3"
        ) from None
    try:
        provider: Provider = Boto3CredentialProvider()
    except (BotoCoreError, ValueError) as error:
        raise CredentialsError(f"the profile {name} of ~/.aws: {_line(error)}") from None
    return provider


def _profile_keys(name: str) -> dict[str, Any]:
    profile = _profile(name)
    try:
        key, secret = profile["aws_access_key_id"], profile["aws_secret_access_key"]
    except KeyError:
        return {}
    return {
        "access_key_id": key,
        "secret_access_key": secret,
        "token": profile.get("aws_session_token"),
        "expires_at": datetime.now(UTC) + _LIFE,
    }


def _profile(name: str) -> dict[str, str]:
    """Return a profile's settings; those of ``credentials`` win over those of ``config``."""
    profile: dict[str, str] = {}
    for variable, file, prefix in (
        ("AWS_CONFIG_FILE", "~/.aws/config", "" if name == "default" else "profile "),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", ""),
    ):
        # A "%" in a secret is no interpolation.
        parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="")
        try:
            parser.read(Path(os.environ.get(variable) or file).expanduser(), encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        if parser.has_section(prefix + name):
            profile.update(parser[prefix + name])
    return profile


def google_provider() -> Provider | None:
    """Return what asks for Google's credentials; None if obstore finds them itself.

    Raise ``CredentialsError`` if the file with credentials is of a kind that only Google's own
    package can use.
    """
    file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    try:
        kind = json.loads(Path(file).read_bytes()).get("type") if file else None
    except (OSError, ValueError, AttributeError):
        return None
    if kind is None or kind in _NATIVE:
        return None
    try:
        from google.auth.exceptions import GoogleAuthError
        from obstore.auth.google import GoogleCredentialProvider

        provider: Provider = GoogleCredentialProvider()
    except ImportError:
        raise CredentialsError(
            f"credentials of type {kind} need the package google-auth: "
            f"pip install google-auth requests"
        ) from None
    except (GoogleAuthError, ValueError) as error:
        raise CredentialsError(f"credentials of type {kind}: {_line(error)}") from None
    return provider


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def has_google_credentials() -> bool:
    """Return whether there is a file with credentials of Google."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    usual = Path("~/.config/gcloud/application_default_credentials.json").expanduser()
    return bool(named) or usual.exists()
