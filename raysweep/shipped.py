"""The search spaces shipped with raysweep: list them, find them by name, copy them."""

import re
import sys
from pathlib import Path

from raysweep.errors import InputError
from raysweep.user_text.values import near, printable

_PACKAGE = Path(__file__).parent
_SUFFIX = ".yaml"
_SCHEMA = "schema.json"
"""Schema file next to the search spaces; their first line names it, for editors to validate."""


def shipped_folder() -> Path:
    """Return the search spaces' folder: in an installed package, or at the root of a checkout."""
    inside = _PACKAGE / "search_spaces"
    return inside if inside.is_dir() else _PACKAGE.parent / "search_spaces"


def shipped_names() -> list[str]:
    """Return the names of the shipped search spaces in alphabetical order."""
    return sorted(file.stem for file in shipped_folder().glob(f"*{_SUFFIX}"))


def summary_of(name: str) -> str:
    """Return the first sentence of the comment at the top of a shipped search space."""
    lines = shipped_file(name).read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        if "$schema=" not in line:
            comment.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[.?!])\s+(?=[A-Z0-9`])", " ".join(comment), maxsplit=1)[0]


def shipped_file(name: str) -> Path:
    """Return the file of a shipped search space; raise ``InputError`` for an unknown name."""
    names = shipped_names()
    if name.removesuffix(_SUFFIX) not in names:
        raise InputError(
            f"spaces: expected the name of a shipped search space, got {name!r}"
            f"{near(name, names)}; `raysweep spaces` lists them"
        )
    return shipped_folder() / f"{name.removesuffix(_SUFFIX)}{_SUFFIX}"


def copy_space(name: str, target: Path | None = None) -> list[Path]:
    """Copy a shipped search space to a file or into a folder; return the written files.

    Also copies the schema named in the first line, unless it is already there. Never overwrites a
    file: raises ``InputError`` if the target exists.
    """
    source = shipped_file(name)
    target = target or Path(source.name)
    if target.is_dir():
        target /= source.name
    try:
        with target.open("xb") as file:
            file.write(source.read_bytes())
    except FileExistsError:
        raise InputError(
            f"{target}: expected the name of a new file, got an existing file, which is unchanged; "
            f"choose another name: raysweep spaces {source.stem} FILE"
        ) from None
    schema = target.with_name(_SCHEMA)
    if schema.exists():
        return [target]
    schema.write_bytes((source.parent / _SCHEMA).read_bytes())
    return [target, schema]


def find_space(file: Path, *, is_quiet: bool = False) -> Path:
    """Return the search-space file that a command's FILE argument refers to.

    ``vib`` is the file of that name, else ``vib.yaml``, else the search space ``vib`` shipped with
    raysweep; the last case prints a line to stderr unless ``is_quiet``. Anything but a bare name
    (``vib.yaml``, ``spaces/vib``) is returned unchanged, whether it exists or not. Raises
    ``InputError`` for a bare name that matches none of these.
    """
    if file.name != str(file) or file.suffix:
        return file
    beside = file.with_name(f"{file.name}{_SUFFIX}")
    try:
        if file.is_file():
            return file
        if beside.is_file():
            return beside
    except OSError:  # a name that is too long
        return file
    names = shipped_names()
    if file.name not in names:
        here = sorted(path.stem for path in Path().glob(f"*{_SUFFIX}"))
        raise InputError(
            f"{file}: expected a search-space file or the name of a shipped one, found "
            f"neither{near(file.name, [*names, *here])}; `raysweep spaces` lists the shipped ones"
        )
    if not is_quiet:
        line = f"{file}: using the search space shipped with raysweep (to change it, copy it here: "
        print(printable(f"{line}raysweep spaces {file})", sys.stderr), file=sys.stderr)
    return shipped_folder() / beside.name
