"""The docs as a site: it builds, links resolve, nothing is fetched, search works."""

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from re import DOTALL, MULTILINE, findall

import pytest
from browser import needs_browser, opened_browser
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site in strict mode: a broken link or anchor between its pages is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    return folder


class _Page(HTMLParser):
    """A page's links, loaded resources and anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.add(given.get("id") or "")
        target = given.get("href" if tag in ("a", "link") else "src")
        if target is not None:
            (self.links if tag == "a" else self.loads).append(target)


def test_every_page_is_in_the_site_and_leads_somewhere(site: Path) -> None:
    pages = {file.name: _Page(file.read_text()) for file in site.glob("*.html")}
    assert {f"{file.stem}.html" for file in (ROOT / "docs").glob("*.md")} <= set(pages)
    for name, page in pages.items():
        if name == "404.html":
            continue
        for link in page.links:
            if link.startswith(("http", "mailto:")):
                continue
            target, _, anchor = link.partition("#")
            assert not target or (site / target).exists(), (name, link)
            if anchor and (not target or target in pages):
                assert anchor in pages[target or name].anchors, (name, link)


def test_no_list_has_become_part_of_a_paragraph(site: Path) -> None:
    for file in site.glob("*.html"):
        for paragraph in findall(r"<p>.*?</p>", file.read_text(), DOTALL):
            lines = findall(r"^ *(?:[-*]|\d+\.) \S.*", paragraph.removeprefix("<p>"), MULTILINE)
            assert not lines, file.name


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for file in site.glob("*.html"):
        page = _Page(file.read_text())
        loads = [target for target in page.loads if "://" in target or target.startswith("//")]
        assert loads == [], file.name
        # Mermaid's script would come from another site, only on pages with a diagram.
        assert 'class="mermaid"' not in file.read_text()
    for file in site.rglob("*.css"):
        assert not findall(r"(?:url\(|@import)[\"' ]*(?:https?:)?//", file.read_text()), file.name


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    with opened_browser() as driver:
        yield driver


def search(driver: webdriver.Chrome, words: str) -> list[tuple[str, str]]:
    """Search for words on the open page; return the titles and addresses of the results."""
    driver.execute_script("document.querySelector('[data-md-toggle=search]').click()")
    field = driver.find_element(By.CSS_SELECTOR, "input.md-search__input")
    WebDriverWait(driver, 10).until(lambda _: field.is_displayed())
    field.send_keys(words)

    def found(_: object) -> list[tuple[str, str]]:
        links = driver.find_elements(By.CSS_SELECTOR, "a.md-search-result__link")
        return [(link.text, link.get_attribute("href") or "") for link in links]

    return WebDriverWait(driver, 10).until(found)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    ("page", "words", "target"),
    [
        ("index.html", "reservoir", "search-spaces.html"),
        ("tutorial.html", "checkpoint", "design.html"),
    ],
)
def test_search_works_from_a_disk(
    site: Path, driver: webdriver.Chrome, page: str, words: str, target: str
) -> None:
    driver.get((site / page).as_uri())
    results = search(driver, words)
    assert any(words in text.lower() for text, _ in results)
    addresses = [address.partition("?")[0].partition("#")[0] for _, address in results]
    assert (site / target).as_uri() in addresses
    driver.get(next(address for _, address in results if target in address))
    assert words in driver.find_element(By.TAG_NAME, "article").text.lower()
    log = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert log == []
