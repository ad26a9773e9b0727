"""Take the README's screenshots of the report in headless Chromium.

    PYTHONPATH=.:tests python docs/screenshots.py results/beta_map

Needs Chromium and its driver. Writes docs/images/report.png (laptop) and report-phone.png.
"""

import base64
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from browser import opened_browser
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from raysweep.analysis.report.collect import collect
from raysweep.analysis.report.page import page
from raysweep.analysis.sweeps import Sweeps

IMAGES = Path(__file__).parent / "images"
N_ROWS = 8
"""Number of leaderboard rows in the laptop screenshot."""
GAP = 16
"""Pixels between vertically stacked parts."""


def show_report(driver: webdriver.Chrome, file: Path, width: int) -> None:
    """Show a report in a window of the given width and wait until its charts are drawn."""
    size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(file.as_uri())
    for chart in (
        "curves",
        "heatmap-chart",
        "tradeoff-chart",
    ):  # charts are drawn when they become visible
        show = f"document.getElementById('{chart}').scrollIntoView({{behavior: 'instant'}})"
        driver.execute_script(show)
        drawn = f"return !!document.querySelector('#{chart}.js-plotly-plot .main-svg')"
        WebDriverWait(driver, 30).until(lambda _, drawn=drawn: driver.execute_script(drawn))
    driver.execute_script("scrollTo({top: 0, behavior: 'instant'})")
    time.sleep(1)  # until the text of the last chart is drawn


def shot(driver: webdriver.Chrome, begin: str, end: str = "", height: int = 0) -> Image.Image:
    """Capture the page from the top of one element to the bottom of another, or a fixed height.

    The navigation usually stays at the top of the window; here it only shows in pictures that begin
    above it.
    """
    script = """
        const [begin, end, height] = arguments;
        const first = document.querySelector(begin).getBoundingClientRect();
        document.querySelector('nav').style.position = 'static';
        const bottom = end && document.querySelector(end).getBoundingClientRect().bottom;
        const y = first.top + scrollY;
        return {x: 0, y, width: innerWidth, height: height || bottom + scrollY - y, scale: 1};"""
    clip = driver.execute_script(script, begin, end, height)
    how = {"captureBeyondViewport": True, "clip": clip}
    data = driver.execute_cdp_cmd("Page.captureScreenshot", how)["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def stitched(shots: Sequence[Image.Image], is_row: bool) -> Image.Image:
    """Combine pictures into a row or a column."""
    widths, heights = [shot.width for shot in shots], [shot.height for shot in shots]
    gaps = GAP * (len(shots) - 1)
    size = (sum(widths), max(heights)) if is_row else (max(widths), sum(heights) + gaps)
    whole = Image.new("RGB", size, "white")
    place = 0
    for shot in shots:
        whole.paste(shot, (place, 0) if is_row else (0, place))
        place += shot.width if is_row else shot.height + GAP
    return whole


def main(folder: str) -> None:
    """Write both screenshots."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "report.html"
        file.write_text(page(collect(Sweeps([folder]), "average_accuracy")))
        with opened_browser() as laptop:
            show_report(laptop, file, 1366)
            row = f"#board tbody tr:nth-child({N_ROWS})"
            parts = [
                shot(laptop, "header", row),
                *(shot(laptop, part, part) for part in ("#heatmap", "#tradeoff")),
            ]
        with opened_browser() as phone:
            show_report(phone, file, 390)
            columns = [
                shot(phone, "header", height=690),
                *(shot(phone, part, part) for part in ("#heatmap", "#tradeoff")),
            ]
    for shots, out, is_row in ((parts, "report.png", False), (columns, "report-phone.png", True)):
        stitched(shots, is_row).quantize(128).save(IMAGES / out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
