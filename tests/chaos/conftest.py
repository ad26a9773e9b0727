"""The chaos suite: real faults, and what must hold after each.

bin/chaos            the short form
bin/chaos --long     the long one, one by one; its figures stand in docs/reliability.md
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
from session_files import locked, made_once, session_folder
from sweep_runs import tables

_FIGURE = "figure"
_HERE = Path(__file__).parent
T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="chaos: the long form")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("chaos")
    # At the end, so that nothing waits for the machine while there is other work.
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


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


@pytest.fixture(autouse=True)
def _machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Hold the machine, with other tests or, where a test is marked so, alone."""
    is_alone = request.node.get_closest_marker("alone") is not None
    with locked(session_folder(tmp_path_factory) / "machine", is_shared=not is_alone):
        yield


Note = Callable[..., None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Return a function that keeps a measured figure; a limit is reported, never asserted."""

    def keep(fault: str, load: Load | str, what: str, value: Any, limit: Any = None) -> None:
        figure = {"fault": fault, "load": str(load), "what": what, "value": value, "limit": limit}
        request.node.user_properties.append((_FIGURE, figure))
        if path := os.environ.get("RAYSWEEP_CHAOS_FIGURES"):
            with Path(path).open("a") as file:
                file.write(json.dumps(figure) + "\n")

    return keep


def pytest_terminal_summary(terminalreporter: Any) -> None:
    # By way of the tests' reports, which come from other processes, too.
    reports = [report for found in terminalreporter.stats.values() for report in found]
    figures = [
        figure
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, figure in report.user_properties
        if name == _FIGURE
    ]
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

            def train(location: Path) -> None:
                run = Run(whole, location)
                assert run.wait(runs.HANG_S * form.pick(1, 10)) == 0, run.output

            location = made_once(tmp_path_factory, f"undisturbed_{whole.name}", train)
            done[load.epochs] = tables(location / "results" / whole.name)
            assert len(done[load.epochs]["trials"]) == whole.n_configs
        return done[load.epochs]

    return give


@pytest.fixture
def root_and_namespaces() -> None:
    """Skip a test where no namespaces can be made."""
    if reason := why_not():
        pytest.skip(reason)
