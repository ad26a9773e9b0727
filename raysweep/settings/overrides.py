"""``KEY=VALUE`` on the command line, or changes from Python, applied to a search space."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from raysweep.errors import InputError, all_of
from raysweep.settings.names import TOP_KEYS, hint_at_path
from raysweep.settings.plain_values import plain_space
from raysweep.settings.yaml_nodes import MAX_DEPTH, Items, Node, Scalar, read_nodes
from raysweep.settings.yaml_text import construct
from raysweep.user_text.secret_names import (
    looks_secret,
    secret_key_in,
    secret_within,
    why_no_secret,
)
from raysweep.user_text.values import show

Overrides = Sequence[str] | Mapping[str, Any]


def apply_overrides(raw: dict[str, Any], overrides: Overrides) -> list[str]:
    """Apply overrides to ``raw``; return their paths, such as ``space.any_of.0.lr``.

    A mapping has Python values by key. Where both values are mappings, as with
    ``{"space": {"lr": 1e-3}}``, their settings are merged; any other value is replaced.
    """
    if isinstance(overrides, Mapping):
        return _change(raw, plain_space(overrides))
    for override in overrides:
        _check_secrets(override)
    return all_of(partial(_apply, raw, override) for override in overrides)


def _change(raw: dict[str, Any], changes: Mapping[str, Any]) -> list[str]:
    paths: list[str] = []
    for key, value in changes.items():
        before = {} if raw.get(key) is None else raw[key]
        if not isinstance(value, dict) or not isinstance(before, dict):
            raw[key] = value
            paths.append(key)
        elif value:
            raw[key] = {**before, **value}
            paths += [f"{key}.{name}" for name in value]
    return paths


def read_without_secrets(text: str) -> Node | None:
    """Read YAML; refuse keys that look like secrets, even in text that is not valid YAML.

    The message of a syntax error quotes the text, which may contain a password.
    """
    try:
        root = read_nodes(text)
    except InputError:
        secret = secret_key_in(text)
        if secret is None:
            raise
        name, line, column = secret
        raise InputError(f"line {line}, column {column}: {why_no_secret(name)}") from None
    nodes: list[Node] = [] if root is None else [root]
    seen: set[int] = set()  # visit the target of aliases once
    while nodes:
        node = nodes.pop()
        if isinstance(node, Scalar) or id(node[1]) in seen:
            continue
        seen.add(id(node[1]))
        if isinstance(node, Items):
            nodes += node.items
            continue
        for key, value in node.pairs:
            if isinstance(key, Scalar) and looks_secret(key.text):
                raise InputError(f"{key.mark}: {why_no_secret(key.text)}")
            nodes += (key, value)
    return root


def _check_secrets(override: str) -> None:
    key, equals, text = override.partition("=")
    names = [part for part in key.strip().split(".") if looks_secret(part)]
    name = names[0] if names else ("" if equals else secret_within(key))
    if name:
        raise InputError(why_no_secret(name))
    try:
        read_without_secrets(text)
    except InputError as error:
        if secret_key_in(text) is not None or "looks like a secret" in str(error):
            message = str(error)
            raise InputError(message[message.index("expected") :]) from None


def _apply(raw: dict[str, Any], override: str) -> str:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(
            f"expected KEY=VALUE such as space.lr=1e-3, got {show(override)}{_hint(override)}"
        )
    if len(parts) > MAX_DEPTH:
        raise InputError(
            f"{_shown(parts[:3])}...: expected a key of at most {MAX_DEPTH} parts, got {len(parts)}"
        )
    is_known = parts[0] in TOP_KEYS
    if (is_known or parts[0] not in raw) and (meant := hint_at_path(parts, text)):
        what = f"{parts[0]}: expected a known setting" if is_known else "expected a known key"
        raise InputError(f"{what}, got {show(parts[is_known])}{meant}")
    node: Any = raw
    for depth, part in enumerate(parts):
        where = _shown(parts[: depth + 1])
        is_last = depth == len(parts) - 1
        if isinstance(node, list):
            is_index = part.isascii() and part.isdigit() and len(part) < 10
            if not is_index or int(part) >= len(node):
                raise InputError(f"{where}: expected an index below {len(node)}, got {show(part)}")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if not is_last and node.get(index) is None:
                node[index] = {}
        else:
            raise InputError(
                f"{where}: expected a section to set {show(part)} in, got {show(node)}"
            )
        if is_last:
            try:
                root = read_nodes(text)
                node[index] = None if root is None else construct(root)
            except InputError as error:
                # A bare `line 1, column 4` would look like a place in the file.
                place = re.match(r"(line \d+, column \d+): ", str(error))
                problem = str(error)[place.end() :] if place else str(error)
                at = f" (value {place[1]})" if place else ""
                raise InputError(f"{where}: {problem}{at}") from None
        node = node[index]
    return ".".join(parts)


def _hint(override: str) -> str:
    """Return a hint at the correct form of ``space.lr: 1e-3`` or ``space.lr 1e-3``."""
    match = re.fullmatch(r"([A-Za-z_][\w.]*)\s*[:\s]\s*(\S.*)", override.strip())
    if match is None or len(override) > 80:
        return ""
    path, text = match[1], match[2]
    return hint_at_path(path.split("."), text) or f"; write {path}={text}"


def _shown(parts: Sequence[str]) -> str:
    return ".".join(_cut(part) for part in parts)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
