"""Names that look like secrets, as tokens and passwords do not belong in a search space."""

import re
import unicodedata
from typing import NamedTuple

_WORDS = {"token", "pwd", "auth", "authorization", "bearer"}
_PARTS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
)
_NAME = r"(?<![\w.$-])[\w.$-]{1,100}"


class SecretName(NamedTuple):
    """A name that looks like a secret, and its position in the text, counted from 1."""

    name: str
    line: int
    column: int


def looks_secret(name: str) -> bool:
    """Return whether a key names a secret, like ``HF_TOKEN``, ``wandb-api-key``, ``authToken``."""
    name = unicodedata.normalize("NFKC", name)
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = re.split(r"[\W_]+", spaced.lower())
    joined = "".join(words)
    return (
        not _WORDS.isdisjoint(words)
        or joined.endswith("token")
        or any(part in joined for part in _PARTS)
    )


def secret_within(text: str) -> str:
    """Return the first name in ``name: value`` or ``name=value`` that looks secret, or ''."""
    for match in re.finditer(rf"({_NAME})[\"']?\s*[:=]\s*\S", text):
        if looks_secret(match[1]):
            return match[1]
    return ""


def secret_key_in(text: str) -> SecretName | None:
    """Find a key that looks like a secret in text that may not be YAML; ignore comments."""
    for i, line in enumerate(re.split(r"\r\n|\r|\n", text)):
        code = re.split(r"(?:^|\s)#", line, maxsplit=1)[0]
        for match in re.finditer(rf"({_NAME})[\"']?\s*:(?!\S)", code):
            if looks_secret(match[1]):
                return SecretName(match[1], i + 1, match.start(1) + 1)
    return None


def why_no_secret(name: str) -> str:
    """Return what is wrong with a key that looks like a secret, without showing any value.

    For ``password=1234`` or ``password 1234``, a key without its colon, show only the first word.
    """
    word = re.match(_NAME, name)
    shown = f"the key {word[0]!r}, which" if word and looks_secret(word[0]) else "a key that"
    return (
        f"expected settings only, got {shown} looks like a secret; files and overrides are copied "
        "into sweep.yaml, tables and the manifest: pass it through the environment"
    )
