"""Conditions such as ``lr < 0.1 and replay == 'simple'``, given with ``--where``.

They are text from a command line, a script or a page that someone copied, so they are parsed with
``ast`` and evaluated here, node by node: a condition can read columns and compute with them, and
reach nothing else. (pandas' ``query`` follows attributes, and from any of its objects these lead to
modules, files and programs.)
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from raysweep.errors import InputError
from raysweep.user_text.values import near, show

MOST_CHARACTERS = 100_000
MOST_PARTS = 1_000
"""Names, operators and calls of a condition; the values of a list do not count."""
MOST_LEVELS = 50

_ALLOWED = (
    "columns, numbers, texts, lists, comparisons, + - * / // % **, and, or, not, in, abs(x), and "
    "the methods contains, startswith, endswith, lower, upper, isin, isna, notna"
)
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_WORDS = {"true": True, "false": False, "null": None}
"""Words of YAML, where no column has this name."""
_TESTS = {"contains": str.__contains__, "startswith": str.startswith, "endswith": str.endswith}
_CASES = {"lower": str.lower, "upper": str.upper}
_NULL_TESTS = {"isna": True, "isnull": True, "notna": False, "notnull": False}
_ARTICLES = {"text": "a text", "number": "a number", "flag": "true or false", "time": "a time"}
_PARTS = {
    ast.Attribute: "an attribute",
    ast.Call: "a call",
    ast.Subscript: "an index in [ ]",
    ast.Lambda: "a function",
    ast.JoinedStr: "an f-string",
    ast.Dict: "a dict",
    ast.IfExp: "if and else",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a star",
    ast.MatMult: "the operator @",
}


class _Operand(NamedTuple):
    """A column or a single value, and its kind: a key of ``_ARTICLES``, ``null`` or ``list``.

    The kind of a column without values is ``null``, too: it is comparable with anything.
    """

    value: Any
    kind: str

    @property
    def is_column(self) -> bool:
        return isinstance(self.value, pd.Series)


class _ProblemError(Exception):
    """What is wrong with a condition, in a few words."""


def meets(table: pd.DataFrame, text: str) -> "pd.Series[bool]":
    """Return which rows of a table meet a condition; raise ``InputError`` for an invalid one.

    Columns have their names, settings also without ``config/``. A comparison with a null is false,
    but ``!=`` and ``not in`` are true; ``== null`` and ``!= null`` find nulls and other values.
    """
    try:
        tree, names = _parsed(text)
        return _Evaluation(table, names).condition(tree.body)
    except _ProblemError as problem:
        raise InputError(
            f"--where: expected a condition such as \"lr < 0.1 and replay == 'simple'\", "
            f"got {show(text)}: {problem}"
        ) from None


def _parsed(text: str) -> tuple[ast.Expression, dict[str, str]]:
    """Parse a condition; return its tree, and the columns in backquotes by their names in it."""
    if not isinstance(text, str) or not text.strip():
        raise _ProblemError("it is no text" if not isinstance(text, str) else "it is empty")
    if len(text) > MOST_CHARACTERS:
        raise _ProblemError(f"it has more than {MOST_CHARACTERS:,} characters")
    names: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        return names.setdefault(match[1], f"_column_{len(names)}_")

    plain = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|`([^`]*)`", named, text.strip())
    try:
        with warnings.catch_warnings(action="ignore"):  # such as `lr is 3`
            tree = ast.parse(plain, mode="eval")
    except (RecursionError, MemoryError):
        raise _ProblemError(f"it nests more than {MOST_LEVELS} levels") from None
    except (SyntaxError, ValueError):
        raise _ProblemError(f"it can't be read{_hint_at_syntax(plain)}") from None
    return tree, {word: column for column, word in names.items()}


def _hint_at_syntax(text: str) -> str:
    hints = {
        r"@": "write the value in place of @name",
        r"&&": "write and in place of &&",
        r"\|\|": "write or in place of ||",
        r"!(?!=)": "write not in place of !",
        r"(?<![<>=!])=(?!=)": "write == to compare",
        r"[\u2018\u2019\u201c\u201d]": "write plain quotes",
    }
    return next((f"; {hint}" for sign, hint in hints.items() if re.search(sign, text)), "")


class _Evaluation:
    """Evaluates the nodes of one condition over a table."""

    def __init__(self, table: pd.DataFrame, names: Mapping[str, str]) -> None:
        self._names = names
        self._index = table.index
        self._columns = {str(name): table[name] for name in table}
        short = {name.removeprefix("config/"): name for name in self._columns}
        self._columns |= {s: self._columns[n] for s, n in short.items() if s not in self._columns}
        self._n_parts = 0
        self._depth = 0

    def condition(self, node: ast.expr) -> "pd.Series[bool]":
        """Return which rows meet a condition; a null meets none."""
        found = self._operand(node)
        if found.kind not in ("flag", "null"):
            raise _ProblemError(f"expected a comparison, got {_article(found)}")
        if found.is_column:
            is_met: pd.Series[bool] = found.value.notna() & found.value.eq(True)
            return is_met
        return pd.Series(bool(found.value), index=self._index)

    def _operand(self, node: ast.expr) -> _Operand:
        self._n_parts += 1
        if self._n_parts > MOST_PARTS:
            raise _ProblemError(
                f"it has more than {MOST_PARTS:,} parts; write `name in [...]` for many values"
            )
        if self._depth == MOST_LEVELS:
            raise _ProblemError(f"it nests more than {MOST_LEVELS} levels")
        self._depth += 1
        try:
            return self._evaluated(node)
        finally:
            self._depth -= 1

    def _evaluated(self, node: ast.expr) -> _Operand:
        match node:
            case ast.Constant():
                found = _constant(node)
            case ast.Name():
                found = self._column(node.id)
            case ast.List() | ast.Tuple() | ast.Set():
                found = _Operand([_literal(item) for item in node.elts], "list")
            case ast.UnaryOp(op=ast.Not() | ast.Invert()):
                found = _Operand(~self.condition(node.operand), "flag")
            case ast.UnaryOp():
                number = self._number(node.operand)
                found = _Operand(-number if isinstance(node.op, ast.USub) else number, "number")
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                found = self._joined(isinstance(node.op, ast.BitAnd), [node.left, node.right])
            case ast.BoolOp():
                found = self._joined(isinstance(node.op, ast.And), node.values)
            case ast.BinOp():
                found = self._computed(node)
            case ast.Compare():
                found = self._compared(node)
            case ast.Call():
                found = self._called(node)
            case _:
                raise _refused(node)
        return found

    def _column(self, word: str) -> _Operand:
        name = self._names.get(word, word)
        if name in self._columns:
            column = self._columns[name]
            return _Operand(column, _kind_of(column))
        if name in _WORDS:
            return _constant(ast.Constant(_WORDS[name]))
        known = [known for known in self._columns if not known.startswith("config/")]
        raise _ProblemError(f"no column {show(name)}{near(name, known)}")

    def _joined(self, is_and: bool, nodes: list[ast.expr]) -> _Operand:
        found = self.condition(nodes[0])
        for node in nodes[1:]:
            other = self.condition(node)
            found = found & other if is_and else found | other
        return _Operand(found, "flag")

    def _number(self, node: ast.expr) -> Any:
        """Return numbers in 64 bits: whole numbers of any size would take any time and memory."""
        found = self._operand(node)
        if found.kind == "null" and found.is_column:
            return pd.Series(np.nan, index=self._index)
        if found.kind != "number":
            raise _ProblemError(f"expected a number to compute with, got {_article(found)}")
        return found.value.astype(float) if found.is_column else np.float64(found.value)

    def _computed(self, node: ast.BinOp) -> _Operand:
        compute = _ARITHMETIC.get(type(node.op))
        if compute is None:
            raise _refused(node.op)
        left, right = self._number(node.left), self._number(node.right)
        with np.errstate(all="ignore"):  # 1 / 0 is infinite
            return _Operand(compute(left, right), "number")

    def _compared(self, node: ast.Compare) -> _Operand:
        operands = [self._operand(side) for side in (node.left, *node.comparators)]
        found = pd.Series(True, index=self._index)
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            found &= self._pair(left, op, right)
        return _Operand(found, "flag")

    def _pair(self, left: _Operand, op: ast.cmpop, right: _Operand) -> "pd.Series[bool]":
        is_not = isinstance(op, ast.NotEq | ast.NotIn | ast.IsNot)
        if isinstance(op, ast.In | ast.NotIn) or (
            right.kind == "list" and isinstance(op, ast.Eq | ast.NotEq)
        ):
            return self._is_in(left, right) ^ is_not
        is_null = [side.kind == "null" and not side.is_column for side in (left, right)]
        if any(is_null) and isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
            return self._nulls(right if is_null[0] else left) ^ is_not
        if any(is_null) or "list" in (left.kind, right.kind) or type(op) not in _COMPARISONS:
            raise _ProblemError(
                "expected two columns or values around a comparison; "
                "write `== null` for nulls and `in [...]` for lists"
            )
        left, right = _alike(left, right)
        is_order = not isinstance(op, ast.Eq | ast.NotEq)
        kinds = {left.kind, right.kind} - {"null"}
        if len(kinds) > 1 and (is_order or kinds != {"number", "flag"}):
            one, other = (_article(side) for side in (left, right))
            raise _ProblemError(
                f"expected two values of one kind to compare, got {one} and {other}"
            )
        found = pd.Series(is_not, index=self._index)
        valid = ~(self._nulls(left) | self._nulls(right))
        sides = [side.value[valid] if side.is_column else side.value for side in (left, right)]
        if valid.any():
            found[valid] = _COMPARISONS[type(op)](*sides)
        return found

    def _nulls(self, side: _Operand) -> "pd.Series[bool]":
        if side.is_column:
            nulls: pd.Series[bool] = side.value.isna()
            return nulls
        return pd.Series(side.value is None, index=self._index)

    def _is_in(self, left: _Operand, right: _Operand) -> "pd.Series[bool]":
        if right.kind != "list" or left.kind == "list":
            raise _ProblemError("expected `name in [...]`; write name.contains('...') for a part")
        found = pd.Series(False, index=self._index)
        items = [_alike(left, item)[1] for item in right.value]
        kinds = {item.kind for item in items} - {"null"}
        if left.kind != "null" and kinds - {left.kind, "flag"}:
            other = next(item for item in items if item.kind not in (left.kind, "flag", "null"))
            raise _ProblemError(
                f"expected values like {_article(left)} in the list, got {_article(other)}"
            )
        values = [item.value for item in items if item.kind != "null"]
        if left.is_column:
            found |= left.value.isin(values) & ~left.value.isna()
        else:
            found |= left.value in values
        return found | (self._nulls(left) & (len(values) < len(items)))

    def _called(self, node: ast.Call) -> _Operand:
        match node:
            case ast.Call(func=ast.Name(id="abs"), args=[argument], keywords=[]):
                return _Operand(np.abs(self._number(argument)), "number")
            case ast.Call(func=ast.Attribute(attr=name) as method, keywords=[]):
                of = method.value
                if isinstance(of, ast.Attribute) and of.attr == "str":  # as pandas spells it
                    of = of.value
                return self._method(name, of, node.args)
        raise _refused(node)

    def _method(self, name: str, node: ast.expr, given: list[ast.expr]) -> _Operand:
        if name in _NULL_TESTS and not given:
            return _Operand(self._nulls(self._operand(node)) == _NULL_TESTS[name], "flag")
        if name == "isin" and len(given) == 1:
            return _Operand(self._is_in(self._operand(node), self._operand(given[0])), "flag")
        if name not in (_CASES if not given else _TESTS) or len(given) > 1:
            raise _ProblemError(f"the method {show(name)} is not allowed so; allowed: {_ALLOWED}")
        found = self._operand(node)
        if found.kind not in ("text", "null"):
            raise _ProblemError(f"expected a text to search in, got {_article(found)}")
        texts = found.value if found.is_column else pd.Series(found.value, index=self._index)
        if not given:
            return _Operand(texts.map(_CASES[name], na_action="ignore"), found.kind)
        part = _literal(given[0])
        if part.kind != "text":
            raise _ProblemError(f"expected a text to search for, got {_article(part)}")
        test = _TESTS[name]
        is_match = [isinstance(text, str) and test(text, part.value) for text in texts]
        return _Operand(pd.Series(is_match, index=self._index, dtype=bool), "flag")


def _kind_of(column: "pd.Series[Any]") -> str:
    if pd.api.types.is_bool_dtype(column):
        return "flag"
    if pd.api.types.is_numeric_dtype(column):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(column):
        return "time"
    found = column.dropna()
    if found.empty:
        return "null"
    return "flag" if all(isinstance(value, bool) for value in found) else "text"


def _constant(node: ast.Constant) -> _Operand:
    value = node.value
    if value is None or isinstance(value, bool):
        return _Operand(value, "null" if value is None else "flag")
    if isinstance(value, str):
        return _Operand(value, "text")
    if isinstance(value, int | float):
        is_long = isinstance(value, int) and not -(2**63) <= value < 2**63
        try:
            return _Operand(float(value) if is_long else value, "number")
        except OverflowError:
            raise _ProblemError("expected numbers up to 1e308, got a larger one") from None
    raise _ProblemError(f"{type(value).__name__} is not allowed; allowed: {_ALLOWED}")


def _literal(node: ast.expr) -> _Operand:
    """Return a value as written, which may have a sign."""
    match node:
        case ast.Constant():
            return _constant(node)
        case ast.Name(id=word) if word in _WORDS:
            return _constant(ast.Constant(_WORDS[word]))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant() as inner):
            found = _constant(inner)
            if found.kind == "number":
                is_negative = isinstance(node.op, ast.USub)
                return found._replace(value=-found.value if is_negative else found.value)
    raise _ProblemError("expected numbers or texts in a list and in ( )")


def _alike(left: _Operand, right: _Operand) -> tuple[_Operand, _Operand]:
    """Convert a text beside a column of times to a time."""
    if left.kind == "time":
        return left, _as_time(right)
    return (_as_time(left), right) if right.kind == "time" else (left, right)


def _as_time(side: _Operand) -> _Operand:
    if side.kind != "text" or side.is_column:
        return side
    try:
        time = pd.Timestamp(side.value)
        if time.tzinfo is None:
            time = time.tz_localize("UTC")
    except (ValueError, OverflowError, TypeError, AttributeError):  # the last: NaT
        raise _ProblemError(
            f"expected a time such as '2026-01-31 18:00' (UTC), got {show(side.value)}"
        ) from None
    return _Operand(time, "null" if pd.isna(time) else "time")


def _article(side: _Operand) -> str:
    return _ARTICLES.get(side.kind, "null" if side.kind == "null" else "a list")


def _refused(node: ast.AST) -> _ProblemError:
    part = next((what for kind, what in _PARTS.items() if isinstance(node, kind)), "a part of it")
    return _ProblemError(f"{part} is not allowed; allowed: {_ALLOWED}")
