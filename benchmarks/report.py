"""Measure the report of 10,000 configurations: writing it, its size, opening it in Chromium.

    python -m benchmarks.report [--configs N]

Opening is from the start of loading to the leaderboard and the first curves on the screen, by the
browser's own clock, with a window of 1366 x 768 and no graphics card. Rows are made from real
configurations with 16 epochs each, without training. About a minute; needs Chromium and its driver.

Prints figures as JSON lines to stdout and a table to stderr; exit code 1 if a goal is missed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from benchmarks.figures import Table
from raysweep.analysis.report.collect import collect
from raysweep.analysis.report.page import page
from raysweep.analysis.sweeps import Sweeps

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from report_sweeps import configs, rows_of, write_sweep

OPEN_GOAL_S, SIZE_GOAL_MB, WRITE_GOAL_S, FILTER_GOAL_S = 3.0, 25.0, 30.0, 1.0
_READY = """
    const ready = () => document.documentElement.dataset.ready === "yes";
    const done = arguments[0];
    const look = () => (ready() ? requestAnimationFrame(() => setTimeout(() =>
        done(performance.now() / 1000))) : setTimeout(look, 20));
    look()"""
_FILTER = """
    const done = arguments[0], start = performance.now();
    const select = document.getElementById("only-replay");
    select.value = select.value === "1" ? "0" : "1";
    select.dispatchEvent(new Event("change"));
    requestAnimationFrame(() => setTimeout(() => done((performance.now() - start) / 1000)))"""


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(switch)
    options.add_argument("--window-size=1366,768")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print all figures."""
    parser = argparse.ArgumentParser(
        "benchmarks.report", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--configs", type=int, default=10_000)
    n_configs = parser.parse_args(arguments).configs
    with tempfile.TemporaryDirectory(prefix="report-") as name:
        n_betas = max(2, round((n_configs / 60) ** 0.5) + 1)
        made = [rows_of(c, c.lr > 0.03, n_epochs=8) for c in configs(10, n_betas, 3)][:n_configs]
        folder = write_sweep(Path(name) / "large", made)
        start = time.perf_counter()
        content = page(collect(Sweeps([str(folder)]), "average_accuracy"))
        write_s = time.perf_counter() - start
        file = Path(name) / "report.html"
        file.write_text(content)
        opened, filtered = [], []
        for _ in range(5):
            with browser() as driver:  # a new one: nothing is warm
                driver.get(file.as_uri())
                opened.append(driver.execute_async_script(_READY))
                filtered.append(driver.execute_async_script(_FILTER))
        size = file.stat().st_size / 1e6
    table = Table()
    sizes: dict[str, object] = {"n_configs": len(made)}
    table.add("report opens", opened, OPEN_GOAL_S, "lower", unit="s", **sizes)
    table.add("a filter is applied", filtered, FILTER_GOAL_S, "lower", unit="s", **sizes)
    table.add("report is written", [write_s], WRITE_GOAL_S, "lower", unit="s", **sizes)
    table.add("report's size", [size], SIZE_GOAL_MB, "lower", unit="MB", **sizes)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
