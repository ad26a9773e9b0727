"""Convert a search space written in Python to the plain values that a file would hold.

NumPy and pandas values, tuples, ranges and paths become numbers, text and lists; distributions of
Ray Tune and Optuna become ours where they are equivalent. None of these packages is imported.
"""

import enum
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raysweep.errors import InputError
from raysweep.settings.yaml_nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES
from raysweep.settings.yaml_text import MAX_DIGITS
from raysweep.user_text.secret_names import looks_secret, why_no_secret
from raysweep.user_text.values import show

_FORMS = "{uniform: [0, 1]}, {loguniform: [1e-4, 1e-1]}, {randint: [1, 10]} or {choice: [1, 2]}"
_ARRAYS = ("numpy", "pandas", "torch")
"""Packages whose arrays have ``tolist`` and whose scalars have ``item``."""


def plain_space(raw: Any) -> dict[Any, Any]:
    """Return a search space as plain values, a deep copy of those given.

    Raises ``InputError`` for keys that look like secrets, for values that a file cannot hold and
    for anything over the limits of a file.
    """
    if not isinstance(raw, Mapping):
        raise InputError(
            f"expected a dict such as {{'space': {{'lr': 1e-3}}}}, got {_what(raw)}", "."
        )
    plain: dict[Any, Any] = _Copier().plain(raw, "", 0)
    return plain


class _Copier:
    """Copies values and counts them; an object used in many places counts each time."""

    def __init__(self) -> None:
        self.n_values = 0
        self.n_characters = 0

    def plain(self, value: Any, where: str, depth: int) -> Any:
        self._count(1, where)
        value = _translated(value, where)
        if isinstance(value, enum.Enum):
            value = value.value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            return self._text(str(value), where)
        if isinstance(value, numbers.Real):
            return _number(value, where)
        if depth >= MAX_DEPTH:
            raise InputError(
                f"{_at(where)}expected at most {MAX_DEPTH} levels, got more; nest less", where
            )
        if isinstance(value, Mapping):
            return {
                self._key(key, where): self.plain(inner, _join(where, key), depth + 1)
                for key, inner in value.items()
            }
        if not _is_list(value):
            raise _refused(value, where)
        self._count(len(value), where, is_ahead=True)
        items = _shortest(value.tolist(), value) if _is_array(value) else value
        return [self.plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(items)]

    def _key(self, key: Any, where: str) -> Any:
        if isinstance(key, str):
            if looks_secret(key):
                raise InputError(f"{_at(where)}{why_no_secret(key)}", where or ".")
            return self._text(str(key), where)
        if key is None or isinstance(key, bool | int | float):
            return key
        raise InputError(f"{_at(where)}expected a word as a key, got {_what(key)}", where or ".")

    def _text(self, text: str, where: str) -> str:
        self.n_characters += len(text)
        if self.n_characters > MAX_BYTES:
            raise InputError(
                f"{_at(where)}expected at most {MAX_BYTES:,} characters of text, got more; cut it",
                where,
            )
        return text

    def _count(self, n: int, where: str, *, is_ahead: bool = False) -> None:
        """Count values; with ``is_ahead``, only check the limit before copying a list's items."""
        if self.n_values + n > MAX_NODES:
            raise InputError(
                f"{_at(where)}expected at most {MAX_NODES:,} values, got more; write fewer", where
            )
        self.n_values += 0 if is_ahead else n


def _at(where: str) -> str:
    return f"{where if len(where) <= 80 else where[:77] + '...'}: " if where else ""


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _number(value: Any, where: str) -> int | float:
    if isinstance(value, numbers.Integral):
        whole = int(value)
        if whole.bit_length() > MAX_DIGITS * math.log2(10):
            raise InputError(f"{_at(where)}expected at most {MAX_DIGITS:,} digits, got more")
        return whole
    shortest: float = _shortest(float(value), value)
    return shortest


def _shortest(values: Any, source: Any) -> Any:
    """Return numbers of an array or scalar of less than 64 bits as the user wrote them.

    A 32-bit 0.1 is 0.10000000149 in 64 bits; its shortest form is what the user wrote.
    """
    dtype = getattr(source, "dtype", None)
    n_bytes = getattr(dtype, "itemsize", 8)
    if n_bytes >= 8 or "float" not in str(dtype):
        return values
    if isinstance(values, list):
        return [_shortest(value, source) for value in values]
    is_half = n_bytes == 2 and "bfloat" not in str(dtype)
    return float(str((np.float16 if is_half else np.float32)(values)))


def _is_array(value: Any) -> bool:
    package = type(value).__module__.partition(".")[0]
    return package in _ARRAYS and hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _is_list(value: Any) -> bool:
    is_sequence = isinstance(value, Sequence) and not isinstance(value, bytes | bytearray)
    return is_sequence or _is_array(value)


def _what(value: Any) -> str:
    """Return the kind of a value, without its content, which may be unfit for a message."""
    if value is None or isinstance(value, bool | int | float | str):
        return show(value)
    kind = type(value)
    if kind.__module__ in ("builtins", "__main__"):
        return "a function" if kind.__name__ == "function" else f"a {kind.__name__}"
    return f"a {kind.__module__.partition('.')[0]} {kind.__name__}"


def _refused(value: Any, where: str) -> InputError:
    hint = ""
    if isinstance(value, set | frozenset):
        hint = "; write sorted(...), as a set has no order"
    elif hasattr(value, "__iter__") and not hasattr(value, "columns"):
        hint = "; write list(...)" if not isinstance(value, bytes | bytearray) else ""
    elif callable(value):
        hint = f"; write a value, a list or a distribution such as {_FORMS}"
    return InputError(
        f"{_at(where)}expected a number, text, a list or a dict, got {_what(value)}{hint}",
        where or ".",
    )


def _translated(value: Any, where: str) -> Any:
    """Return another library's distribution in our form, or an array scalar as a number.

    Anything else is returned unchanged.
    """
    for kind in type(value).__mro__:
        if kind.__module__.startswith("ray.tune.search.sample"):
            return _of_ray(value, where)
        if kind.__module__ == "optuna.distributions":
            return _of_optuna(value, where)
        if kind.__module__.startswith("scipy.stats"):
            raise _unknown_distribution(where, "a distribution of SciPy")
    package = type(value).__module__.partition(".")[0]
    is_scalar = package in _ARRAYS and getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    is_real = isinstance(value, numbers.Real)
    return _shortest(value.item(), value) if is_scalar and not is_real else value


def _unknown_distribution(where: str, what: str) -> InputError:
    return InputError(f"{_at(where)}expected a value or a distribution, got {what}; write {_FORMS}")


def _of_ray(domain: Any, where: str) -> dict[str, Any]:
    """Return a Ray Tune domain, such as ``tune.loguniform(1e-4, 1e-1)``, in our form."""
    kind, sampler = type(domain).__name__, domain.get_sampler()
    step = getattr(sampler, "q", None)
    inner = getattr(sampler, "sampler", None) or sampler
    shape = type(inner).__name__.strip("_")
    if kind == "Categorical" and shape == "Uniform":
        return {"choice": list(domain.categories)}
    names = {
        ("Float", "Uniform"): "uniform",
        ("Float", "LogUniform"): "loguniform",
        ("Integer", "Uniform"): "randint",
        ("Integer", "LogUniform"): "lograndint",
    }
    name = names.get((kind, shape))
    if name is None or (name == "lograndint" and step not in (None, 1)):
        word = {"Normal": "tune.randn", "CallSampler": "tune.sample_from"}.get(shape)
        raise _unknown_distribution(where, word or f"a Ray Tune distribution ({kind}, {shape})")
    # With a step of 1, as without a step, Ray Tune excludes the upper end of whole numbers.
    if step is None or (kind == "Integer" and step == 1):
        return {name: [domain.lower, domain.upper]}
    return {f"q{name}": [domain.lower, domain.upper, step]}


def _of_optuna(distribution: Any, where: str) -> dict[str, Any]:
    """Return an Optuna distribution, which includes its upper end, in our form."""
    bases = {base.__name__ for base in type(distribution).__mro__}
    if "CategoricalDistribution" in bases:
        return {"choice": list(distribution.choices)}
    is_whole = "IntDistribution" in bases
    if not is_whole and "FloatDistribution" not in bases:
        raise _unknown_distribution(where, f"Optuna's {type(distribution).__name__}")
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None and not (is_whole and step == 1):
        n_steps = low / step
        if abs(n_steps - round(n_steps)) > 1e-6:
            raise InputError(
                f"{_at(where)}expected steps that begin at a multiple of {step:g}, got Optuna's "
                f"with lower end {low:g}; write {{choice: [...]}} with the values"
            )
        return {"qrandint" if is_whole else "quniform": [low, high, step]}
    if is_whole:
        return {"lograndint" if distribution.log else "randint": [low, high + 1]}
    return {"loguniform" if distribution.log else "uniform": [low, high]}
