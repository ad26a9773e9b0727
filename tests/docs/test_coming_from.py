"""The page for people from other tools shows search spaces that load, in words that exist."""

import re

import pytest

from raysweep.errors import InputError
from raysweep.settings.sampling import KINDS, METHODS, SAMPLERS
from raysweep.settings.stopping import STOPPERS
from raysweep.settings.sweep import sweep_from
from tests.doc_blocks import ROOT, Block, blocks_of

PAGE = ROOT / "docs" / "coming-from.md"
BLOCKS = [block for block in blocks_of(PAGE) if block.language == "yaml"]
OURS = [block for block in BLOCKS if block.title]
THEIRS = [block for block in BLOCKS if not block.title]
SIZES = {
    "from_ray_tune.yaml": 40,
    "from_wandb.yaml": 40,
    "from_optuna.yaml": 200,
    "from_hydra.yaml": 12,
}
"""Trials of the code beside each block."""


def test_each_tool_has_its_search_space() -> None:
    assert [block.title for block in OURS] == list(SIZES)
    assert len(THEIRS) == 1


@pytest.mark.parametrize("block", OURS, ids=lambda block: block.title)
def test_our_blocks_load_and_are_as_large_as_theirs(block: Block) -> None:
    sweep = sweep_from(block.title, block.text.encode())
    n = sweep.search.n_samples if sweep.search.method == "optuna" else len(sweep.configs)
    assert n == SIZES[block.title]


def test_blocks_of_others_are_refused_as_the_page_says() -> None:
    with pytest.raises(InputError) as error:
        sweep_from("sweep.yaml", THEIRS[0].text.encode())
    pytest.importorskip("raysweep.settings.foreign", reason="knows the words of other tools")
    shown = [block.text.splitlines() for block in blocks_of(PAGE) if block.language == "text"]
    assert len(shown) == 1 and len(shown[0]) == 2
    assert all(line in str(error.value) for line in shown[0])


def test_words_of_ours_in_the_tables_exist() -> None:
    rows = re.findall(r"^\|.*\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    cells = " ".join(rows)
    found = {
        "kinds": set(re.findall(r"\{(\w+): \[", cells)),
        "methods": set(re.findall(r"method: (\w+)", cells)),
        "samplers": set(re.findall(r"sampler: (\w+)", cells)),
    }
    assert found["kinds"] <= {"grid_search", *KINDS} and len(found["kinds"]) >= 6
    assert found["methods"] <= {*METHODS, *STOPPERS} and len(found["methods"]) >= 4
    assert found["samplers"] <= set(SAMPLERS) and found["samplers"]
