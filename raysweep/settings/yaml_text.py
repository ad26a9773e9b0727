"""YAML as its author meant it: the core schema of YAML 1.2 on top of PyYAML.

PyYAML follows YAML 1.1, where ``1e-4`` is text, ``no`` is false, ``on:`` is a key named
True, ``010`` is eight and ``1:30`` is ninety. Here a scalar is a number, true, false or
null only if it can be nothing else; all other scalars stay text, and the type of the
setting decides (so ``freeze_encoder: no`` is false and ``replay: no`` is none).
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from raysweep.settings.fields import InputError


class _CoreLoader(yaml.SafeLoader):
    """Load the YAML 1.2 core schema and refuse duplicate keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (the base class declares it so)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                line = key_node.start_mark.line + 1
                raise InputError(
                    f"line {line}: expected each key once, got {key!r} twice; remove one"
                )
            seen.add(key if isinstance(key, Hashable) else id(key_node))
        return super().construct_mapping(node, deep=deep)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))


def _add_resolver(tag: str, pattern: str, first: str) -> None:
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


_add_resolver("null", r"^(~|null|Null|NULL|)$", "~nN")
_CoreLoader.yaml_implicit_resolvers.setdefault("", []).append(
    ("tag:yaml.org,2002:null", re.compile(r"^$"))
)
_add_resolver("bool", r"^(true|True|TRUE|false|False|FALSE)$", "tTfF")
_add_resolver("int", r"^[-+]?(0|[1-9][0-9]*)$", "-+0123456789")
_add_resolver(
    "float",
    r"^([-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
    "-+.0123456789",
)
_add_resolver("merge", r"^<<$", "<")
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str) -> Any:
    """Parse one YAML document by the YAML 1.2 core schema.

    Raises ``InputError`` with the line and column of a syntax error or a duplicate key.
    """
    try:
        return yaml.load(text, Loader=_CoreLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise InputError(f"{where}expected YAML, got: {problem}") from None
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError) as error:
        summary = " ".join(str(error).split())[:200]
        raise InputError(f"expected YAML, got: {summary}") from None


def dump_yaml(value: Any) -> str:
    """Write plain values (dicts, lists, numbers, text) so that ``parse_yaml`` reads them back."""
    return yaml.dump(value, Dumper=_CoreDumper, sort_keys=False, default_flow_style=None, width=100)


class _CoreDumper(yaml.SafeDumper):
    """Quote exactly what ``parse_yaml`` would not read back as text."""

    yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers
