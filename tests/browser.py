"""Headless Chromium without a network, for the report and the docs' site."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")
_SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
)
needs_browser = pytest.mark.skipif(
    not (_BROWSER and _DRIVER), reason="needs Chromium and its driver (Debian: chromium-driver)"
)


@contextmanager
def opened_browser() -> Iterator[webdriver.Chrome]:
    """Open a browser that keeps its console's messages; close it at the end."""
    options = Options()
    options.binary_location = _BROWSER or ""
    for switch in _SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
