"""The HTML report in a real browser, held against the tables."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import needs_browser, opened_browser
from report_sweeps import configs, rows_of, write_sweep
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from raysweep.tables.ranking import leaderboard, mean_over_seeds
from raysweep.tables.reader import read_epochs, read_trials

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>bold</b> \' & \u2028'
SHOWN = HOSTILE.replace("\u2028", r"\u2028")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "analysis.report", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def write_report(folder: Path, *more: object) -> Path:
    out = folder.parent / f"{folder.name}.html"
    done = command(folder, *more, "--samples", 0, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep of 96 configurations: the highest rate diverges, one other diverges, too."""
    folder = tmp_path_factory.mktemp("report") / "demo"
    all_configs = list(configs(n_lrs=4, n_betas=2, n_seeds=3))
    odd = all_configs[0].id
    made = [rows_of(c, diverges=c.lr > 7e-4 or c.id == odd) for c in all_configs]
    failed = next(trial for trial, _ in made if trial["status"] == "finished")
    kept = ("config_id", "status", "error", "host", "attempt")
    failed |= {"status": "failed", "error": HOSTILE}
    for name in list(failed):
        if name not in kept and not name.startswith("config/"):
            del failed[name]
    return write_sweep(folder, made)


class Page:
    """A report that is open in the browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, file: Path, width: int = 1366, height: int = 768, scheme: str = "light") -> None:
        is_mobile = width < 600
        self.driver.get_log("browser")  # of pages before
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(file.as_uri())
        self.wait(lambda: self.js("return document.documentElement.dataset.ready") == "yes")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, is_so: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 30, poll_frequency=0.05).until(lambda _: is_so())

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def choose(self, name: str, value: str) -> None:
        Select(self.one(f"#{name}")).select_by_value(value)

    def show(self, name: str) -> None:
        """Scroll to a chart and wait until it is drawn."""
        how = "{block: 'center', behavior: 'instant'}"
        self.js(f"document.getElementById(arguments[0]).scrollIntoView({how})", name)
        drawn = "return !!document.querySelector(`#${arguments[0]}.js-plotly-plot .main-svg`)"
        self.wait(lambda: self.js(drawn, name))

    def data(self, chart: str) -> list[dict[str, Any]]:
        """Return the traces of a chart."""
        script = "return JSON.stringify(document.getElementById(arguments[0]).data)"
        traces: list[dict[str, Any]] = json.loads(self.js(script, chart))
        return traces

    def board(self) -> pd.DataFrame:
        """Read the leaderboard as shown."""
        script = """
            const rows = [...document.querySelectorAll('#board tr')];
            return rows.map((row) => [...row.cells].map((cell) => cell.textContent))"""
        head, *rows = self.js(script)
        return pd.DataFrame(rows, columns=[name.rstrip(" ▲▼") for name in head])

    def errors(self) -> list[str]:
        log = self.driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def hover_label(self) -> str:
        labels = self.wait(
            lambda: self.js(
                "return [...document.querySelectorAll('.hoverlayer .hovertext')]"
                ".map((label) => label.textContent).join(' ')"
            )
        )
        return str(labels)

    def point_at(self, chart: str, x: float, y: float) -> None:
        """Move the mouse to a place in a chart's data coordinates."""
        script = """
            const place = document.getElementById(arguments[0]);
            const {xaxis, yaxis} = place._fullLayout;
            const box = place.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.d2p(arguments[1]),
                    box.top + yaxis._offset + yaxis.d2p(arguments[2])]"""
        left, top = self.js(script, chart, x, y)
        moves = ActionChains(self.driver, duration=50)
        for step in (12, 4, 0):  # a mouse comes from somewhere
            moves.w3c_actions.pointer_action.move_to_location(int(left) + step, int(top))
        moves.perform()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened_browser() as driver:
        yield Page(driver)


@pytest.fixture(scope="module")
def file(sweep: Path) -> Path:
    return write_report(sweep)


CHARTS = ("curves", "heatmap-chart", "tradeoff-chart", "parallel-chart", "time-chart")


@needs_browser
def test_it_opens_whole_without_an_error(page: Page, file: Path) -> None:
    page.open(file)
    for chart in CHARTS:
        page.show(chart)
    assert page.errors() == []
    counts = page.one("#counts").text.split("\n")
    assert counts == ["70 finished", "25 diverged", "1 failed"]
    assert page.one("h1").text == "demo"
    assert page.one(".command").text == "python -m raysweep.tune 'search spaces/demo.yaml'"
    assert "node-1" in page.one("#hosts").text


@needs_browser
def test_the_leaderboard_is_that_of_the_tables(page: Page, file: Path, sweep: Path) -> None:
    page.open(file)
    shown = page.board()
    expected = leaderboard(read_trials(sweep), n=len(shown))
    means = shown["average accuracy"].astype(float)
    assert means.tolist() == pytest.approx(expected["mean"].tolist(), rel=1e-3)
    assert shown["seeds"].tolist()[:10] == expected["seeds"].tolist()[:10]
    halves = pd.to_numeric(shown["± 95 %"], errors="coerce")
    assert halves.tolist()[:10] == pytest.approx(expected["ci95"].tolist()[:10], rel=0.06)
    for name in ("lr", "beta_1", "beta_2"):
        assert shown[name].astype(float).tolist()[:10] == expected[name].tolist()[:10]


@needs_browser
@pytest.mark.parametrize(("column", "setting"), [("s-lr", "lr"), ("s-beta_1", "beta_1")])
def test_a_click_on_a_head_sorts_by_it_and_another_turns_it(
    page: Page, file: Path, column: str, setting: str
) -> None:
    page.open(file)
    head = f'#board th[data-column="{column}"]'
    page.one(f"{head} button").click()
    values = page.board()[setting].astype(float).tolist()
    assert values == sorted(values)
    assert page.one(head).get_attribute("aria-sort") == "ascending"
    page.one(f"{head} button").send_keys("\n")  # the keyboard does, too
    turned = page.board()[setting].astype(float).tolist()
    assert turned == sorted(turned, reverse=True)
    assert turned[0] > values[0]
    assert page.one(head).get_attribute("aria-sort") == "descending"


@needs_browser
def test_filters_hold_for_table_and_charts(page: Page, file: Path, sweep: Path) -> None:
    page.open(file)
    names = [option.text for option in Select(page.one("#only-replay")).options]
    page.choose("only-replay", str(names.index("simple") - 1))
    assert set(page.board()["replay"]) == {"simple"}
    assert page.one("#shown").text == "48 of 96 configurations in 16 settings"
    page.show("tradeoff-chart")
    named = {trace["name"] for trace in page.data("tradeoff-chart")}
    assert named == {"simple", "Pareto front"}
    page.choose("status", "1")
    trials = read_trials(sweep)
    gone = (trials["status"] == "diverged") & (trials["config/replay"] == "simple")
    assert page.one("#shown").text.startswith(f"{gone.sum()} of 96")
    page.choose("status", "")
    page.choose("only-replay", "")
    page.one("#text").send_keys("onerror")  # of the one that failed
    assert page.one("#shown").text == "1 of 96 configurations in 1 setting"
    page.one("#text").send_keys(" nowhere")
    assert page.one("#shown").text == "0 of 96 configurations in 0 settings"
    assert page.one("#curves").text == "No setting selected."
    assert page.errors() == []


@needs_browser
def test_a_click_on_a_row_shows_its_curves(page: Page, file: Path, sweep: Path) -> None:
    page.open(file)
    line = page.driver.find_elements(By.CSS_SELECTOR, "#board tbody tr")[4]
    line.click()
    assert line.get_attribute("aria-selected") == "true"
    shown = page.board().iloc[4]
    trials, epochs = read_trials(sweep), read_epochs(sweep)
    own = trials
    for name in ("lr", "beta_1", "beta_2"):
        own = own[own[f"config/{name}"] == float(shown[name])]
    own = own[own["config/replay"] == shown["replay"]]
    assert len(own) == 3
    traces = {trace["name"]: trace for trace in page.data("curves")}
    for _, trial in own.iterrows():
        rows = epochs[epochs["config_id"] == trial["config_id"]].sort_values(["task", "epoch"])
        trace = traces[f"seed {trial['config/seed']}"]
        assert trace["x"] == [1, 2, 3, 4, 5, 6]
        assert trace["y"] == pytest.approx(rows["test_accuracy"].tolist(), rel=1e-3)
    page.choose("curve", "loss")
    losses = [t for t in page.data("curves") if t["name"].startswith("seed")]
    assert losses[0]["y"] == pytest.approx([1, 0.5, 1 / 3] * 2, rel=1e-3)


@needs_browser
def test_a_diverged_curve_says_where_it_went(page: Page, file: Path) -> None:
    page.open(file)
    page.choose("status", "1")
    texts = [text for trace in page.data("curves") for text in trace.get("text", ())]
    assert "diverged in epoch 1" in texts


@needs_browser
def test_the_heatmap_shows_means_and_marks_divergence(page: Page, file: Path, sweep: Path) -> None:
    page.open(file)
    page.choose("heat-x", "lr")
    page.choose("heat-y", "beta_1")
    page.show("heatmap-chart")
    trials = read_trials(sweep)
    for metric in ("average_accuracy", "forgetting"):
        page.choose("metric", metric)
        grey, values = page.data("heatmap-chart")
        means = mean_over_seeds(trials, metric, ["config/beta_1", "config/lr"])
        means = means.sort_values(["config/beta_1", "config/lr"])
        expected = means["mean"].tolist()
        found = [value for line in values["z"] for value in line]
        for value, wanted in zip(found, expected, strict=True):
            assert (value is None) == pd.isna(wanted)
            assert value is None or value == pytest.approx(wanted, rel=1e-4)
        # All of the highest rate diverged: grey, with the epoch, not blank.
        assert [[cell is not None for cell in line] for line in grey["z"]] == [
            [False, False, False, True]
        ] * 2
    notes = page.js(
        "return document.getElementById('heatmap-chart').layout.annotations.map((a) => a.text)"
    )
    assert sum(text == "✕ 12, ep. 1" for text in notes) == 2
    assert sum("✕ 1, ep. 1" in text for text in notes) == 1  # the odd one, beside a mean


@needs_browser
def test_hovering_tells_the_values(page: Page, file: Path, sweep: Path) -> None:
    page.open(file)
    page.choose("heat-x", "lr")
    page.choose("heat-y", "beta_1")
    page.show("heatmap-chart")
    page.point_at("heatmap-chart", 1, 0)
    trials = read_trials(sweep)
    lr, beta = sorted(trials["config/lr"].unique())[1], trials["config/beta_1"].min()
    own = trials[(trials["config/lr"] == lr) & (trials["config/beta_1"] == beta)]
    label = page.hover_label()
    assert f"lr {lr:g}, beta_1 {beta:g}" in label
    value = re.search(r"average accuracy ([\d.]+)", label)
    assert value and float(value[1]) == pytest.approx(own["average_accuracy"].mean(), rel=1e-3)
    page.point_at("heatmap-chart", 3, 0)
    page.wait(lambda: "12 diverged: train_task_1, epoch 1" in page.hover_label())

    page.show("tradeoff-chart")
    trace = page.data("tradeoff-chart")[0]
    x, y = max(zip(trace["x"], trace["y"], strict=True))  # the rightmost has no close neighbour
    page.point_at("tradeoff-chart", x, y)
    page.wait(lambda: f"forgetting {x:.4f}" in page.hover_label())
    assert f"average accuracy {y:.4f}" in page.hover_label()


@needs_browser
def test_the_front_is_what_no_other_setting_beats(page: Page, file: Path, sweep: Path) -> None:
    page.open(file)
    page.show("tradeoff-chart")
    for axis, metric in (("x", "forgetting"), ("y", "average_accuracy")):  # as `raysweep tradeoff`
        assert Select(page.one(f"#trade-{axis}")).first_selected_option.get_attribute("value") == (
            metric
        )
        assert f"{axis} axis" in page.one("#tradeoff-choices").text
    *points, front = page.data("tradeoff-chart")
    assert front["name"] == "Pareto front"
    every = [pair for trace in points for pair in zip(trace["x"], trace["y"], strict=True)]
    best = {
        (x, y)
        for x, y in every
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in every)
    }
    assert set(zip(front["x"], front["y"], strict=True)) == best


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
def test_it_fits_the_screen(page: Page, file: Path, width: int, height: int) -> None:
    page.open(file, width, height)
    for chart in CHARTS:
        page.show(chart)
    assert page.js("return document.documentElement.scrollWidth") <= width
    outside = page.js(
        """
        return [...document.querySelectorAll('h1,h2,h3,p,li,select,input,.pages,figure,.chart')]
          .filter((e) => !e.closest('.scroll,nav') && e.getClientRects().length
                         && e.getBoundingClientRect().right > innerWidth + 1)
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    page.open(file)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(page: Page, file: Path, scheme: str) -> None:
    page.open(file, scheme=scheme)
    for chart in CHARTS:
        page.show(chart)
    texts = page.js(
        """
        const found = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          const e = walker.currentNode.parentElement;
          if (!walker.currentNode.textContent.trim() || e.closest('script,style,option,.hoverlayer')
              || !e.getClientRects().length || e.closest(':disabled, .modebar')) continue;
          const style = getComputedStyle(e);
          let ground = null;
          for (let p = e; p && !ground; p = p.parentElement) {
            const color = getComputedStyle(p).backgroundColor;
            if (!/, 0\\)|transparent/.test(color)) ground = color;
          }
          const isDrawn = e instanceof SVGElement;
          // Text on a coloured cell or bar: its ground is not the page's.
          if (isDrawn && e.closest('.annotation, .bars')) continue;
          found.push([isDrawn ? style.fill : style.color, ground ?? 'rgb(255, 255, 255)',
                      parseFloat(style.fontSize), walker.currentNode.textContent.trim()]);
        }
        return found"""
    )
    assert len(texts) > 200
    for color, ground, size, text in texts:
        least = 3.0 if size >= 24 else 4.5
        assert contrast(color, ground) >= least, (text, color, ground)


def contrast(one: str, other: str) -> float:
    """Compute the contrast of two colours (WCAG 2.2, relative luminance)."""

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)


@needs_browser
def test_text_of_a_sweep_stays_text(page: Page, sweep: Path) -> None:
    hostile = sweep.parent / "<b>x<img src=x onerror=alert(1)>"
    if not hostile.exists():
        shutil.copytree(sweep, hostile)
        (hostile / "sweep.yaml").write_text(f"# {HOSTILE}\n")
    out = sweep.parent / "hostile.html"
    done = command(hostile, sweep, "--samples", 0, "--out", out)
    assert done.returncode == 0, done.stderr
    page.open(out)
    for chart in CHARTS:
        page.show(chart)
    assert page.js("return window.hacked === undefined")
    assert page.js("return document.querySelectorAll('img, b').length") == 0
    assert page.one("h1").text == "<b>x<img src=x onerror=alert(1)>, demo"
    assert page.errors() == []
    data = json.loads(page.js("return document.getElementById('data').textContent"))
    assert list(data["errors"].values()) == [SHOWN] * 2
    assert SHOWN in data["sweeps"][0]["resolved"]


@needs_browser
def test_several_sweeps_stand_side_by_side(page: Page, sweep: Path, tmp_path: Path) -> None:
    other = write_sweep(
        tmp_path / "other", [rows_of(c, False) for c in configs(2, 2, 2) if c.replay == "none"]
    )
    out = tmp_path / "both.html"
    done = command(sweep, other, "--samples", 0, "--out", out, "--where", "replay == 'none'")
    assert done.returncode == 0, done.stderr
    page.open(out)
    assert "sweep" in page.board().columns
    names = [option.text for option in Select(page.one("#only-sweep")).options]
    assert names == ["all", "demo", "other"]
    page.choose("only-sweep", "1")
    assert page.one("#shown").text.startswith("16 of 64")
    assert page.errors() == []


@needs_browser
@pytest.mark.parametrize("kind", ["running", "all diverged", "one row", "no epochs"])
def test_unusual_sweeps_open_without_an_error(page: Page, tmp_path: Path, kind: str) -> None:
    made = [rows_of(c, diverges=kind == "all diverged") for c in configs(2, 2, 2)]
    if kind == "one row":
        made = made[:1]
    if kind == "no epochs":
        made = [(trial, []) for trial, _ in made]
    out = write_report(write_sweep(tmp_path / "odd", made, is_over=kind != "running"))
    page.open(out)
    for chart in CHARTS:
        page.js(
            "document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant'})", chart
        )
        page.wait(
            lambda chart=chart: page.js(
                "return document.getElementById(arguments[0]).childElementCount", chart
            )
        )
    assert page.errors() == []
    assert len(page.board()) >= 1
    if kind == "running":
        assert "still running, or killed" in page.one("#origins").text
    if kind == "all diverged":
        assert "32 diverged" in page.one("#counts").text


@needs_browser
def test_images_of_the_best_are_in_it(page: Page, sweep: Path) -> None:
    out = sweep.parent / "images.html"
    done = command(sweep, "--samples", 1, "--out", out, "--where", "replay == 'simple'")
    assert done.returncode == 0, done.stderr
    page.open(out)
    (image,) = page.driver.find_elements(By.CSS_SELECTOR, "#images img")
    page.js("arguments[0].scrollIntoView()", image)
    page.wait(lambda: page.js("return arguments[0].naturalWidth", image) > 300)
    assert "beta_1" in page.one("#images figcaption").text


def test_ten_thousand_configurations_stay_under_25_mb(tmp_path: Path) -> None:
    made = [rows_of(c, c.lr > 0.01, n_epochs=8) for c in configs(10, 13, 3)][:10_000]
    assert len(made) == 10_000
    out = write_report(write_sweep(tmp_path / "large", made))
    assert out.stat().st_size < 25e6


def test_it_names_no_address_to_load_from(file: Path) -> None:
    head = file.read_text().partition('<script type="application/json"')[0]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", head)
    assert "@import" not in head


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "expected a sweep's folder"),
        (("SWEEP", "--metric", "average_acuracy"), "did you mean average_accuracy?"),
        (("SWEEP", "--where", "lr >"), "--where: expected a condition"),
        (("SWEEP", "--where", "lr > 5"), "no row of 96 meets"),
        (("SWEEP", "--out", "SWEEP"), "Is a directory"),
    ],
)
def test_mistakes_are_one_line(sweep: Path, arguments: tuple[str, ...], message: str) -> None:
    words = [str(sweep) if word == "SWEEP" else word for word in arguments]
    done = command(*words, "--samples", "0")
    assert done.returncode == 2
    assert message in done.stderr
    lines = [line for line in done.stderr.splitlines() if " lack rows: " not in line]
    assert len(lines) == 1
