"""Carry out what a page of the docs shows: its files, its commands, its Python, in order.

A block with a title, such as ``yaml title="small.yaml"``, is a file; other ``bash`` and ``python``
is run where the files lie, and ``text`` right after one of these is what it prints.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    """A fenced block of a page; ``title`` is the name of the file that it is, or empty."""

    language: str
    title: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """List the fenced blocks of a page."""
    content = page.read_text()
    pattern = r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$'
    found = re.finditer(pattern, content, re.MULTILINE | re.DOTALL)
    return [
        Block(match[1], match[2] or "", match[3], content[: match.start()].count("\n") + 1)
        for match in found
    ]


def environment(package: Path) -> dict[str, str]:
    """Return the environment of an activated virtual environment that finds ``package``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(package), "NO_COLOR": "1"}


def run_block(block: Block, folder: Path, package: Path) -> str:
    """Run one block in ``folder``; give what it printed."""
    shell = ["bash", "-euo", "pipefail", "-c", block.text]
    command = shell if block.language == "bash" else [sys.executable, "-c", block.text]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(package),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"line {block.line}: {block.text}\n{done.stdout}"
    return done.stdout


def run_python(text: str, folder: Path) -> str:
    """Run Python in a folder that has a copy of the package in it; return what it printed."""
    return run_block(Block("python", "", text, 0), folder, folder)


def carry_out(page: Path, folder: Path, package: Path = ROOT) -> int:
    """Write the files of a page and run its blocks in ``folder``; count those that ran.

    Output that the page shows is compared with what came.
    """
    n_run = 0
    printed: str | None = None
    for block in blocks_of(page):
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language in ("bash", "python"):
            printed = run_block(block, folder, package)
            n_run += 1
        elif block.language == "text" and printed is not None:
            problem = difference(block.text, printed)
            assert not problem, f"{page.name}, line {block.line}: {problem}\n{printed}"
            printed = None
    return n_run


def difference(shown: str, printed: str, tolerance: float = 0.05) -> str:
    """Say how what a page shows differs from what was printed; nothing where it does not.

    A line ``...`` stands for any lines. Whole numbers are equal, others to ``tolerance``: another
    processor rounds otherwise. Spaces do not count.
    """
    wanted = [line for line in shown.splitlines() if line.strip()]
    got = [line for line in printed.splitlines() if line.strip()]
    i, is_free = 0, False
    for line in wanted:
        if line.strip() == "...":
            is_free = True
            continue
        while is_free and i < len(got) and _line_differs(line, got[i], tolerance):
            i += 1
        if i == len(got) or _line_differs(line, got[i], tolerance):
            return f"expected {line!r}, got {got[i] if i < len(got) else 'the end'!r}"
        i, is_free = i + 1, False
    return "" if is_free or i == len(got) else f"expected the end, got {got[i]!r}"


_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")


def _line_differs(one: str, other: str, tolerance: float) -> bool:
    if _NUMBER.sub("#", " ".join(one.split())) != _NUMBER.sub("#", " ".join(other.split())):
        return True
    for a, b in zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True):
        x, y = float(a.replace(",", "")), float(b.replace(",", ""))
        if abs(x - y) > (tolerance if "." in a else 0):
            return True
    return False
