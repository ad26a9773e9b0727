"""The docs and the shipped files agree with the code."""

import runpy
import subprocess
from pathlib import Path
from re import findall

import pytest

from raysweep.plan import make_plan
from raysweep.settings import load_sweep

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("name", ["search-spaces.md", "tables.md"])
def test_generated_docs_are_up_to_date(name: str) -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    text = (ROOT / "docs" / name).read_text()
    expected = generator["regenerate"](text, generator["GENERATED"][name]())
    assert text == expected, "run: python docs/generate.py"


@pytest.mark.parametrize("file", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(file: Path) -> None:
    for target in findall(r"\]\(([^)#]+)", file.read_text()):
        assert target.startswith("http") or (file.parent / target).exists(), target


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.name)
def test_shipped_search_spaces_are_sound(file: Path) -> None:
    sweep = load_sweep(file)
    assert sweep.configs and not sweep.n_duplicates
    assert sum(len(pack.configs) for pack in make_plan(sweep.configs, 2).packs) == len(
        sweep.configs
    )


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
