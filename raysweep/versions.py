"""The versions of the packages that results depend on, found without importing them."""

import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata

from raysweep import __version__

NUMBERS = ("torch", "numpy", "ray")
"""Packages that must have the driver's version on every node."""


def versions_of(packages: Iterable[str] = NUMBERS) -> dict[str, str]:
    """Map raysweep, python and the installed ones of some packages to their versions."""
    found = {name: version for name in packages if (version := _version(name))}
    return {"raysweep": __version__, "python": platform.python_version(), **found}


@cache  # called for each pack, and it reads files
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def difference(wanted: Mapping[str, str], found: Mapping[str, str], host: str) -> str | None:
    """Describe in one line how a host's versions differ from the driver's; None if they match.

    Only the first two numbers of the Python version count.
    """
    for name, version in wanted.items():
        got = found.get(name, "none")
        if name == "python":
            version, got = (".".join(v.split(".")[:2]) for v in (version, got))  # noqa: PLW2901
        if version != got:
            return (
                f"expected {name} {version} on every node, as on the driver's, but {host} has "
                f"{got}; install the same version on all (in a checkout bin/setup does)"
            )
    return None
