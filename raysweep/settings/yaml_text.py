"""YAML as its author meant it: the core schema of YAML 1.2 on top of PyYAML.

PyYAML follows YAML 1.1, where ``1e-4`` is text, ``no`` is false, ``on:`` is a key named
True, ``010`` is eight and ``1:30`` is ninety. Here a scalar is a number, true, false or
null only if it is unambiguous; all other scalars stay text, and the type of the setting
determines their meaning (so ``freeze_encoder: no`` is false and ``replay: no`` is none).
"""

import re
from typing import Any

import yaml

from raysweep.errors import InputError
from raysweep.settings.yaml_nodes import Items, Mark, Node, Pairs, Scalar, is_merge, read_nodes
from raysweep.user_text.values import show

_CORE = "tag:yaml.org,2002:"
MAX_DIGITS = 1000  # Python refuses to convert whole numbers of more than 4,300 digits


class _CoreDumper(yaml.SafeDumper):
    """Quotes exactly the text that ``parse_yaml`` would not read back as text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (declared like this in the base class)


_PATTERNS = {
    "null": re.compile(r"^(~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"^(true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"^[-+]?(0|[1-9][0-9]*)\Z"),
    "float": re.compile(
        r"^([-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
}
for _name, _pattern in {**_PATTERNS, "merge": re.compile(r"^<<\Z")}.items():
    _CoreDumper.add_implicit_resolver(_CORE + _name, _pattern, None)


def parse_yaml(text: str) -> Any:
    """Parse one YAML document by the YAML 1.2 core schema.

    Raises ``InputError`` with the line and column of a syntax error, a duplicate key or a tag.
    """
    root = read_nodes(text)
    return None if root is None else construct(root)


def construct(node: Node) -> Any:
    """Return the plain value of a tree; each alias becomes a separate copy."""
    if isinstance(node, Scalar):
        return _scalar(node)
    kind = "seq" if isinstance(node, Items) else "map"
    if node.tag not in (None, _CORE + kind):
        _refuse_tag(node)
    if isinstance(node, Items):
        return [construct(item) for item in node.items]
    return _mapping(node)


def _mapping(node: Pairs) -> dict[Any, Any]:
    own: dict[Any, Any] = {}
    marks: dict[Any, Mark] = {}
    merged: dict[Any, Any] = {}
    for key_node, value_node in node.pairs:
        if not isinstance(key_node, Scalar):
            raise InputError(f"{key_node.mark}: expected a word as a key, got a list or settings")
        # A merge key is not text, so it differs from a quoted "<<" key.
        key = _Merge if is_merge(key_node) else _scalar(key_node)
        if key in marks:
            name = "'<<'" if key is _Merge else show(key)
            what = "write <<: [*a, *b]" if key is _Merge else "remove one"
            raise InputError(
                f"{key_node.mark}: expected each key once, got {name} twice, "
                f"first at {marks[key]}; {what}"
            )
        marks[key] = key_node.mark
        if key is _Merge:
            merged = _merged(value_node)
        else:
            own[key] = construct(value_node)
    return {**merged, **own}


class _Merge:
    """Represents the key ``<<``."""


def _merged(node: Node) -> dict[Any, Any]:
    parts = node.items if isinstance(node, Items) else [node]
    merged: dict[Any, Any] = {}
    for part in parts:
        if not isinstance(part, Pairs):
            got = show(part.text) if isinstance(part, Scalar) else "a list"
            raise InputError(
                f"{part.mark}: expected settings to merge with <<, such as *a, got {got}"
            )
        merged = {**construct(part), **merged}  # the first of several wins
    return merged


def _scalar(node: Scalar) -> Any:
    kind = _kind(node.text) if node.is_plain else "str"
    if node.tag is not None:
        tagged = node.tag.removeprefix(_CORE)
        if not node.tag.startswith(_CORE) or tagged not in (*_PATTERNS, "str"):
            _refuse_tag(node)
        is_one = _kind(node.text) in (("int", "float") if tagged == "float" else (tagged,))
        if tagged != "str" and not is_one:
            raise InputError(
                f"{node.mark}: expected YAML, got: !!{tagged} of {show(node.text)}; remove the tag"
            )
        kind = tagged
    text = node.text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if kind == "int":
        if len(text) > MAX_DIGITS:
            raise InputError(
                f"{node.mark}: expected YAML with numbers of at most {MAX_DIGITS:,} digits, "
                f"got {len(text):,} digits"
            )
        return int(text)
    return text


def _kind(text: str) -> str:
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.match(text)), "str")


def _refuse_tag(node: Node) -> None:
    tag = str(node.tag).replace(_CORE, "!!")
    raise InputError(
        f"{node.mark}: expected YAML with plain values, got: the tag {show(tag)}; remove it"
    )


def dump_yaml(value: Any) -> str:
    """Write plain values (dicts, lists, numbers, text) so that ``parse_yaml`` reads them back."""
    return yaml.dump(value, Dumper=_CoreDumper, sort_keys=False, default_flow_style=None, width=100)
