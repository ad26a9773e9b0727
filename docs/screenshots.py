"""Take the pictures of the report that the README shows, in headless Chromium.

    PYTHONPATH=. python docs/screenshots.py results/beta_map

Needs Chromium and its driver. Writes docs/images/report.png (a laptop) and report-phone.png.
"""

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from raysweep.analysis.report.collect import collect
from raysweep.analysis.report.page import page
from raysweep.analysis.sweeps import Sweeps

IMAGES = Path(__file__).parent / "images"
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
PARTS = ("title", "heatmap", "tradeoff")


def take(file: Path, width: int, height: int, parts: Sequence[str]) -> list[Image.Image]:
    """Take a picture of each part of a report."""
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for switch in (*SWITCHES, "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(file.as_uri())
        shots = []
        for part in parts:
            how = "{behavior: 'instant'}"
            driver.execute_script(f"document.getElementById('{part}').scrollIntoView({how})")
            time.sleep(2)  # charts draw when they are seen
            shots.append(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB"))
        return shots
    finally:
        driver.quit()


def main(folder: str) -> None:
    """Write both pictures."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "report.html"
        file.write_text(page(collect(Sweeps([folder]), "average_accuracy")))
        laptop, phone = take(file, 1366, 700, PARTS), take(file, 390, 700, PARTS)
    for shots, out, is_row in ((laptop, "report.png", False), (phone, "report-phone.png", True)):
        width, height = shots[0].size
        n = len(shots)
        whole = Image.new("RGB", (width * n, height) if is_row else (width, height * n))
        for i, shot in enumerate(shots):
            whole.paste(shot, (width * i, 0) if is_row else (0, height * i))
        whole.quantize(128).save(IMAGES / out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
