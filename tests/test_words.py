"""What a model, a method, an experiment or a kind of tasks does is said in its own file."""

import ast
from pathlib import Path

from raysweep.learning.data.task_kinds import TASK_KINDS
from raysweep.learning.experiments import EXPERIMENTS
from raysweep.learning.methods import METHODS
from raysweep.learning.models import MODELS

ROOT = Path(__file__).parents[1] / "raysweep"
WORDS = {*EXPERIMENTS, *MODELS, *METHODS, *TASK_KINDS}
OWN = ("learning/models/", "learning/methods/", "learning/data/task_kinds/")
OTHER = {"user_text/values.py"}
"""Has `none` for limits that are switched off."""


def compared_words(source: str) -> list[str]:
    """List the comparisons of a source with one of the words."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and any(isinstance(of, ast.Constant) and of.value in WORDS for of in ast.walk(node))
    ]


def test_nothing_is_compared_with_a_word_outside_of_its_file() -> None:
    for file in ROOT.rglob("*.py"):
        path = str(file.relative_to(ROOT))
        if not path.startswith(OWN) and path not in OTHER:
            assert not compared_words(file.read_text()), path


def test_such_comparisons_are_found() -> None:
    assert compared_words("if config.model == 'vib': pass") == ["config.model == 'vib'"]
    assert compared_words("x = config.replay in ('simple', 'generative')")
    assert not compared_words("x = config.generator == 'continual'")
