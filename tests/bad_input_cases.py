"""Read the catalogue of tests/settings/bad_input: search spaces that are refused or accepted."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CATALOGUE = Path(__file__).parent / "settings" / "bad_input"
FILES = CATALOGUE / "files"
ACCEPTED_TABLE = "accepted"
_KEYS = {"name", "text", "file", "args", "args_file"}


@dataclass(frozen=True)
class Case:
    """A search space to the byte, its arguments, and what must come of it."""

    name: str
    table: str
    content: bytes
    arguments: tuple[str, ...]
    message: str  # of a case that is refused
    expected: dict[str, Any]  # of one that is accepted

    def write(self, folder: Path) -> Path:
        """Write the search space under the name that its message begins with."""
        file = folder / f"{self.name}.yaml"
        file.write_bytes(self.content)
        return file


def _case(table: str, row: dict[str, Any]) -> Case:
    wanted = "expected" if table == ACCEPTED_TABLE else "message"
    assert row.keys() <= _KEYS | {wanted}, f"{table}: unknown keys in {row['name']}"
    assert ("text" in row) != ("file" in row), f"{row['name']}: either text or file"
    assert not ("args" in row and "args_file" in row), f"{row['name']}: args or args_file"
    is_file = "file" in row
    arguments = row.get("args", [])
    if "args_file" in row:
        arguments = (FILES / row["args_file"]).read_text(encoding="utf-8").splitlines()
    return Case(
        name=row["name"],
        table=table,
        content=(FILES / row["file"]).read_bytes() if is_file else row["text"].encode(),
        arguments=tuple(arguments),
        message=row.get("message", ""),
        expected=row.get("expected", {}),
    )


@cache
def cases_of(table: str) -> dict[str, Case]:
    """Read the cases of a table, by name."""
    rows = yaml.safe_load((CATALOGUE / f"{table}.yaml").read_text(encoding="utf-8"))
    cases = {row["name"]: _case(table, row) for row in rows}
    assert len(cases) == len(rows), f"{table}: a name stands there twice"
    return cases


def refused_cases() -> dict[str, Case]:
    """Read the cases of all tables but that of accepted ones, by name."""
    tables = sorted(file.stem for file in CATALOGUE.glob("*.yaml"))
    return {
        name: case
        for table in tables
        if table != ACCEPTED_TABLE
        for name, case in cases_of(table).items()
    }


def accepted_cases() -> dict[str, Case]:
    """Read the cases that look like mistakes and have one reading, by name."""
    return cases_of(ACCEPTED_TABLE)
