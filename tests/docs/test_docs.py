"""The docs and the shipped files agree with the code."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from re import DOTALL, MULTILINE, findall, sub
from typing import Any

import pytest
import yaml

from raysweep.packs.planning.packing import make_plan
from raysweep.settings.sweep import load_sweep, sweep_from
from tests.doc_blocks import blocks_of

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))


def test_generated_docs_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def anchors_of(file: Path) -> set[str]:
    """List the anchors of a Markdown page as GitHub and the site make them."""
    titles = findall(r"^#+ (.+)$", file.read_text().replace("`", ""), flags=MULTILINE)
    return {sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(file: Path) -> None:
    text = sub(r"^```.*?^```$", "", file.read_text(), flags=MULTILINE | DOTALL)
    for link in findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        target, _, anchor = link.partition("#")
        path = file.parent / target if target else file
        assert path.exists(), link
        assert not anchor or anchor in anchors_of(path), link


def test_lists_within_lists_are_indented_for_the_site() -> None:
    # GitHub accepts two or three spaces, but Python-Markdown merges such a list into its parent.
    for file in (ROOT / "docs").glob("*.md"):
        text = sub(r"^```.*?^```$", "", file.read_text(), flags=MULTILINE | DOTALL)
        assert not findall(r"^ {1,3}(?:[-*]|\d+\.) .*", text, MULTILINE), file.name


def test_docs_import_what_an_installed_package_has() -> None:
    docs = ROOT / "docs"
    pages = [*docs.glob("*.md"), *docs.glob("*.ipynb")]
    found = [
        page.name for page in pages if findall(r"\b(?:from|import) analysis\b", page.read_text())
    ]
    assert len(pages) > 10 and not found


def test_docs_link_to_docs_only() -> None:
    for file in (ROOT / "docs").glob("*.md"):
        # The site has no other files of the repository, so they are named as code.
        assert not findall(r"\]\(\.\./", file.read_text()), file.name


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.name)
def test_shipped_search_spaces_are_sound(file: Path) -> None:
    sweep = load_sweep(file)
    assert sweep.configs or sweep.examples
    assert not sweep.n_duplicates
    assert sum(len(pack.configs) for pack in make_plan(sweep.configs, 2).packs) == len(
        sweep.configs
    )


def test_the_first_search_space_is_short_and_its_forms_are_accepted() -> None:
    page = ROOT / "docs" / "search-spaces.md"
    file = next(block for block in blocks_of(page) if block.title == "mine.yaml")
    assert len(file.text.splitlines()) <= 10
    assert "= 12 configurations" in page.read_text()
    assert len(sweep_from("mine.yaml", file.text.encode()).configs) == 12
    rows = findall(
        r"^\| .*? \| `(.+?)` \| .+ \|$", page.read_text().split("## Rules")[0], MULTILINE
    )
    assert [n_configs_of(form) for form in rows] == [1, 2, 5, 2, 1, 3, 1]


def n_configs_of(form: str) -> int:
    """Count the configurations that a form gives in a small search space."""
    content: dict[str, Any] = {"data": {"n_tasks": 3}, "space": {"beta_1": -0.1, "replay": "none"}}
    if form.startswith("raysweep run "):
        words = shlex.split(form)[3:]
        return len(sweep_from("row.yaml", yaml.safe_dump(content).encode(), words).configs)
    given = yaml.safe_load(form)
    if "exclude" in given:
        content["space"]["beta_1"] = {"grid_search": [-0.1, -1]}
    (content if "seeds" in given else content["space"]).update(given)
    if "loguniform" in form:
        content["search"] = {"method": "random", "n_samples": 5}
    return len(sweep_from("row.yaml", yaml.safe_dump(content).encode()).configs)


def test_published_search_space_is_the_published_grid() -> None:
    configs = load_sweep(ROOT / "search_spaces" / "vib_published.yaml").configs
    assert len(configs) == 36
    grid = {(c.model, c.beta_2, c.n_bottleneck) for c in configs}
    betas, widths = (0, 0.001, 0.01, 0.1, 1, 10), (10, 100, 1000)
    assert grid == {(m, b, z) for m in ("vib", "comparison") for b in betas for z in widths}
    fixed = {(c.lr, c.beta_1, c.replay, c.n_replay, c.replay_weight, c.epochs) for c in configs}
    assert fixed == {(1e-4, -10.0, "generative", 1000, 0.999, 10)}
    assert {(c.source, c.tasks, c.n_tasks, c.optimizer) for c in configs} == {
        ("mnist", "perm_mnist", 2, "adam")
    }


@pytest.mark.parametrize("script", ["bin/setup", "bin/sweep", "bin/test", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o100
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_readme_commands_name_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for word in findall(r"(?<![/\w])((?:bin|search_spaces|docs|benchmarks)/[\w./-]*\w)", readme):
        assert (ROOT / word).exists(), word
