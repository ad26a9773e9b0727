"""The docs, docstrings, comments and messages read as plain English, at least by these rules.

Each pattern is a phrase that once occurred here in number, with a better wording. Patterns are few
and strict: a sentence that one of them catches wrongly should be rare, and can be reworded.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

TO_DO: tuple[str, ...] = ()
"""Files and folders that have not been revised yet; remove each once it has."""


class Pattern(NamedTuple):
    """A phrase to avoid: a regular expression, a better wording, one text it finds and one not."""

    name: str
    regex: str
    better: str
    bad: str
    good: str


PATTERNS = (
    Pattern(
        "so many",
        r"\b(?:in|of|after|takes?|for) so (?:many|long|much)\b(?! factors)|so-manieth",
        "1/n of, every n-th, this many",
        "one in so many goes on",
        "so many rows that it matters",
    ),
    Pattern(
        "of its own",
        r"\bof (?:its|their) own\b",
        "its own X, a separate X",
        "a file of its own name, of its own",
        "its own file",
    ),
    Pattern("nobody", r"\bnobody\b", "no one, or say who does", "nobody asks", "no other process"),
    Pattern("for ever", r"\bfor ever\b", "endlessly, indefinitely", "waits for ever", "for every"),
    Pattern(
        "go on",
        r"\b(?:goes|go|going|gone|went) on\b(?! the\b)",
        "continue, resume, keep",
        "the sweep goes on",
        "a row can go on the front; it continues",
    ),
    Pattern(
        "anew", r"\banew\b", "again, rewrite, retrain", "it writes the file anew", "a new file"
    ),
    Pattern(
        "midst", r"\bin the midst\b", "during, within", "stops in the midst of it", "in the middle"
    ),
    Pattern(
        "to be had",
        r"\b(?:to be had|can be had|can't be had)\b",
        "available",
        "the data is not to be had",
        "the data is not available",
    ),
    Pattern(
        "by way of", r"\bby way of\b", "through, with", "by way of a test", "by the way a test runs"
    ),
    Pattern(
        "hold against",
        r"\b(?:hold|held|holds) (?:\w+ )?against\b",
        "compare with, check against",
        "the loss is held against it",
        "compared with it",
    ),
    Pattern(
        "come to",
        r"\bcomes? to (?:the|a|an|nothing|what)\b",
        "equals, is",
        "which comes to the same",
        "which is the same",
    ),
    Pattern(
        "what is wrong there",
        r"\bis wrong there\b",
        "the error, the wrong part",
        "what is wrong there",
        "what is wrong",
    ),
    Pattern(
        "at hand", r"\b(?:is|was) at hand\b", "available", "no GPU was at hand", "written by hand"
    ),
    Pattern(
        "mend", r"\bmend(?:s|ed|ing)?\b", "fix, correct", "mend the address", "recommended, amend"
    ),
    Pattern(
        "there are as many",
        r"\bas many (?:a|an) \w+",
        "n per X",
        "as many a slot",
        "as many as there are",
    ),
    Pattern(
        "whatever becomes of it",
        r"\b(?:became|become|becomes|came|comes) of (?:it|them)\b",
        "the outcome, its result",
        "what came of it",
        "the outcome",
    ),
    Pattern(
        "stand for are",
        r"\b(?:stands?|standing) (?:in|beside|behind|before|below|above|there|under) "
        r"(?:the|a|an|its|this|each|it)\b",
        "is in, appears in, is beside",
        "what stands in the tables",
        "what is in the tables; stands for it",
    ),
    Pattern(
        "is no X",
        r"\b(?:is|are) no (?:setting|column|folder|file|part|number|name|word|metric|words)\b"
        r"(?! (?:that|which|to|of|in|for|left))",
        "is not a X",
        "what is no setting",
        "there are no other settings",
    ),
    Pattern(
        "a unit a unit",
        r"\b(?:one|a|an) (?:run|row|line|file|folder|part|pack|test|group|number|buffer) "
        r"a (?:run|row|line|file|folder|table|lane|task|sweep|configuration|trial|step)\b",
        "one X per Y",
        "a run a configuration",
        "one run per configuration",
    ),
    Pattern(
        "the present",
        r"\bthe present (?:one|batch|step|size|epoch|task)\b",
        "the current X",
        "the present batch",
        "the current batch",
    ),
    Pattern(
        "where none",
        r"\b[Nn]one does\b|\bif none does\b",
        "repeat the verb",
        "where none does",
        "if none has it",
    ),
    Pattern(
        "is said",
        r"\bis said (?:once|in|there|by|so)\b",
        "is reported",
        "a failure is said once",
        "a failure is reported once",
    ),
    Pattern(
        "way of not",
        r"\b[Ww]ays? of not\b",
        "method against",
        "a way of not forgetting",
        "a method against forgetting",
    ),
)

DENIED_VERBS = frozenset(
    (
        *(
            "Give",
            "Gives",
            "Tell",
            "Tells",
            "Say",
            "Says",
            "Hear",
            "Know",
            "Ask",
            "Asks",
            "Go",
            "Goes",
            "Have",
            "Has",
        ),
        *(
            "Let",
            "Lets",
            "Tries",
            "Raises",
            "Returns",
            "Yields",
            "Writes",
            "Reads",
            "Computes",
            "Checks",
            "Makes",
            "Takes",
            "Keeps",
        ),
    )
)
"""First words of a function's docstring that are not an ordinary verb in the imperative."""


class Text(NamedTuple):
    """A piece of prose, by where it starts."""

    path: str
    line: int
    text: str


def is_to_do(path: str) -> bool:
    """Return whether a file has not been revised yet."""
    return any(path == entry or (entry[-1] == "/" and path.startswith(entry)) for entry in TO_DO)


def prose_of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a page by line, without code blocks and code spans."""
    hidden = re.sub(r"^( *```).*?^ *```", _blank, text, flags=re.MULTILINE | re.DOTALL)
    hidden = re.sub(r"`[^`\n]*`", "`code`", hidden)
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", hidden):
        if paragraph.strip():
            yield line, " ".join(paragraph.split())
        line += paragraph.count("\n")


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def prose_of_code(source: str) -> Iterator[tuple[int, str]]:
    """Yield docstrings and other strings, and blocks of comments, by line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, _plain(node.value)
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and line != last + 1:
            yield last, _plain(" ".join(block))
            block = []
        block.append(token.string.lstrip("# "))
        last = line
    if block:
        yield last, _plain(" ".join(block))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"``?[^`]*``?", "`code`", text).split())


def all_texts() -> Iterator[Text]:
    """Yield the prose of the docs and of the packages that have been revised."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    code = [
        file for name in ("raysweep", "analysis") for file in sorted((ROOT / name).rglob("*.py"))
    ]
    for file in [*pages, *code]:
        path = file.relative_to(ROOT).as_posix()
        if is_to_do(path):
            continue
        read = prose_of_markdown if file.suffix == ".md" else prose_of_code
        for line, text in read(file.read_text()):
            yield Text(path, line, text)


def test_no_text_has_one_of_the_worst_phrases() -> None:
    compiled = [(pattern, re.compile(pattern.regex)) for pattern in PATTERNS]
    found = [
        f"{text.path}:{text.line}: '{match[0]}' (better: {pattern.better}) in: {text.text[:120]}"
        for text in all_texts()
        for pattern, regex in compiled
        if (match := regex.search(text.text))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("pattern", PATTERNS, ids=[pattern.name for pattern in PATTERNS])
def test_a_pattern_finds_its_example_only(pattern: Pattern) -> None:
    assert re.search(pattern.regex, pattern.bad)
    assert not re.search(pattern.regex, pattern.good)


def first_words(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first word of each docstring of a function that is not a property, by line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {
            ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list
        }
        text = ast.get_docstring(node)
        if text and not decorators & {"property", "cached_property"}:
            yield node.lineno, text.split()[0].rstrip(":,.")


def test_docstrings_of_functions_begin_with_an_ordinary_verb() -> None:
    found = []
    for name in ("raysweep", "analysis"):
        for file in sorted((ROOT / name).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if not is_to_do(path):
                found += [
                    f"{path}:{line}: {word}"
                    for line, word in first_words(file.read_text())
                    if word in DENIED_VERBS or not word[0].isupper()
                ]
    assert not found, "\n".join(found)


def test_first_words_are_found() -> None:
    assert list(first_words('def f():\n    """Give it."""\n')) == [(1, "Give")]
    assert not list(first_words('@property\ndef f():\n    """The name."""\n'))


def test_prose_is_found() -> None:
    code = '"""A module."""\n# one\n# two\nx = f"got {x} anew"  # three\n'
    assert [text for _, text in prose_of_code(code)][:2] == ["A module.", "got"]
    assert "one two three" in [text for _, text in prose_of_code(code)]
    page = "# A page\n\n```\nanew\n```\n\nSome `anew` text\nhere.\n"
    assert list(prose_of_markdown(page)) == [(1, "# A page"), (7, "Some `code` text here.")]


def test_what_is_left_to_do_exists() -> None:
    assert [entry for entry in TO_DO if not (ROOT / entry).exists()] == []
