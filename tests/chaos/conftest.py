"""The chaos suite: real faults, and what must hold after each.

bin/chaos            the short form
bin/chaos --long     the long one, whose figures stand in docs/reliability.md
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import runs
from checks import Rows
from hosts import why_not
from loads import Load
from runs import Run
from sweep_runs import tables

_FIGURES = pytest.StashKey["list[dict[str, Any]]"]()
_HERE = Path(__file__).parent
T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="chaos: the long form")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("chaos")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = []


@dataclass(frozen=True)
class Form:
    """Which form runs."""

    is_long: bool

    def pick(self, short: T, long: T) -> T:
        """Choose by the form."""
        return long if self.is_long else short


@pytest.fixture(scope="session")
def form(pytestconfig: pytest.Config) -> Form:
    """Return the form that was asked for."""
    is_long = pytestconfig.getoption("--long", default=False)
    return Form(is_long or os.environ.get("RAYSWEEP_CHAOS") == "long")


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    yield
    runs.end_all()


Note = Callable[..., None]


@pytest.fixture
def note(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Note:
    """Return a function that keeps a measured figure; a limit is reported, never asserted."""

    def keep(fault: str, load: Load | str, what: str, value: Any, limit: Any = None) -> None:
        figure = {"fault": fault, "load": str(load), "what": what, "value": value, "limit": limit}
        pytestconfig.stash[_FIGURES].append(figure)
        if path := os.environ.get("RAYSWEEP_CHAOS_FIGURES"):
            with Path(path).open("a") as file:
                file.write(json.dumps(figure) + "\n")

    return keep


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash[_FIGURES]
    if figures and not os.environ.get("RAYSWEEP_CHAOS_FIGURES"):
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(json.dumps(figure))


@pytest.fixture(scope="session")
def undisturbed(form: Form, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Load], Rows]:
    """Return a function that gives the undisturbed tables that a load's are compared with.

    The largest load of as many epochs runs once a session: a configuration's numbers do not
    depend on what else is in the sweep.
    """
    largest = {2: form.pick(4, 40), 20: form.pick(4, 10)}
    done: dict[int, Rows] = {}

    def give(load: Load) -> Rows:
        if load.epochs not in done:
            n_seeds = max(load.n_seeds, largest.get(load.epochs, 0))
            whole = Load(n_seeds, load.epochs, pack=25)
            run = Run(whole, tmp_path_factory.mktemp("undisturbed"))
            assert run.wait(runs.HANG_S * form.pick(1, 10)) == 0, run.output
            done[load.epochs] = tables(run.folder)
            assert len(done[load.epochs]["trials"]) == whole.n_configs
        return done[load.epochs]

    return give


@pytest.fixture
def root_and_namespaces() -> None:
    """Skip a test where no namespaces can be made."""
    if reason := why_not():
        pytest.skip(reason)
