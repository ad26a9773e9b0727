"""YAML as a tree with lines and columns, within limits that are checked while building it.

PyYAML's composer recurses, follows aliases and does not keep the place of a value. Here its
parser's events are read one by one, so that any text gives either a tree or a one-line error:
depth, size and the targets of aliases are counted before anything is expanded.
"""

import re
import unicodedata
from typing import Any, NamedTuple

import yaml

from raysweep.errors import InputError
from raysweep.user_text.values import show

MAX_BYTES = 1_000_000
"""PyYAML reads about 100 kB per second, and search spaces are a few kB."""
MAX_NODES = 200_000
"""Maximum number of values in a file, including those of aliases."""
MAX_DEPTH = 50


class Mark(NamedTuple):
    """A place in a file, counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


def mark_after(text: str) -> Mark:
    """Return the place right after a text that starts a file."""
    lines = re.split(r"\r\n|\r|\n", text)
    return Mark(len(lines), len(lines[-1]) + 1)


class Scalar(NamedTuple):
    """A number, word or text as written."""

    tag: str | None
    text: str
    is_plain: bool
    mark: Mark


class Items(NamedTuple):
    """A list."""

    tag: str | None
    items: list["Node"]
    mark: Mark


class Pairs(NamedTuple):
    """Keys with their values in the file's order, merge keys (``<<``) included."""

    tag: str | None
    pairs: list[tuple["Node", "Node"]]
    mark: Mark


Node = Scalar | Items | Pairs


def read_nodes(text: str) -> Node | None:
    """Read the single document of a YAML text; return None if it is empty.

    Raises ``InputError`` with line and column for invalid YAML or an exceeded limit.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"expected at most {MAX_BYTES:,} characters, got {len(text):,}; cut it")
    _check_characters(text)
    return _Builder(text).document()


def is_merge(key: Node) -> bool:
    """Return whether a key is ``<<``, which merges in the settings of an alias."""
    return isinstance(key, Scalar) and key.is_plain and key.tag is None and key.text == "<<"


def locate(root: Node | None, place: str, *, is_key: bool) -> Mark | None:
    """Return the mark of ``place``, such as ``space.lr.grid_search[2]``, None if not found.

    The mark is that of the value, or of the key for lists, settings and with ``is_key``.
    """
    node, mark, rest = root, None, place
    while rest:
        if isinstance(node, Pairs):
            found = _pair_at(node, rest)
            if found is None:
                return None
            key, value = found
            rest = rest[len(key.text) :]
            is_at_key = not isinstance(value, Scalar) or (is_key and not rest)
            node, mark = value, key.mark if is_at_key else value.mark
        elif isinstance(node, Items):
            index = re.match(r"\[(\d{1,9})\]", rest)
            if index is None or int(index[1]) >= len(node.items):
                return None
            rest = rest[index.end() :]
            node = node.items[int(index[1])]
            mark = node.mark
        else:
            return None
        rest = rest.removeprefix(".")
    return mark


def _pair_at(node: Pairs, place: str) -> tuple[Scalar, Node] | None:
    """Find the longest key that ``place`` begins with, first here, then in merged settings."""
    found: tuple[Scalar, Node] | None = None
    for key, value in node.pairs:
        if not isinstance(key, Scalar) or is_merge(key) or not place.startswith(key.text):
            continue
        is_whole = place[len(key.text) :][:1] in ("", ".", "[")
        if is_whole and (found is None or len(key.text) > len(found[0].text)):
            found = (key, value)
    if found is not None:
        return found
    for key, value in node.pairs:
        for merged in (value.items if isinstance(value, Items) else [value]) * is_merge(key):
            found = _pair_at(merged, place) if isinstance(merged, Pairs) else None
            if found is not None:
                return found
    return None


def _check_characters(text: str) -> None:
    """Refuse characters that YAML forbids, and line ends that exist only in YAML 1.1."""
    match = re.search("[\x85\u2028\u2029]", text) or yaml.reader.Reader.NON_PRINTABLE.search(text)
    if match is None:
        return
    char = match[0]
    name = unicodedata.name(char, "NUL" if char == "\0" else "")
    what = f"the character #x{ord(char):04x} {name}".rstrip()
    raise InputError(f"{mark_after(text[: match.start()])}: expected YAML, got: {what}; remove it")


class _Builder:
    """Builds the tree of one document from the events of the parser."""

    def __init__(self, text: str) -> None:
        self.loader = yaml.SafeLoader(text)
        self.anchors: dict[str, tuple[Node, int]] = {}  # node and its number of values
        self.open: set[str] = set()
        self.n_nodes = 0

    def document(self) -> Node | None:
        """Read from the first event to the last."""
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        root = self._node(0)
        self._next()  # the document's end
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise InputError(
                f"{_mark(after.start_mark)}: expected a single YAML document, got another one; "
                "write two files"
            )
        return root

    def _next(self) -> yaml.Event:
        try:
            event: yaml.Event = self.loader.get_event()  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as error:
            raise InputError(_problem_of(error)) from None
        except (ValueError, OverflowError):  # "\U99999999", %YAML with 5,000 digits
            mark = _mark(self.loader.get_mark())
            raise InputError(
                f"{mark}: expected YAML, got: a number out of range; write a smaller one"
            ) from None
        return event

    def _node(self, depth: int) -> Node:
        event = self._next()
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), mark)
        if depth >= MAX_DEPTH:
            raise InputError(f"{mark}: expected at most {MAX_DEPTH} levels, got more; nest less")
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        anchor = event.anchor
        if anchor is not None:
            if anchor in self.anchors or anchor in self.open:
                raise InputError(
                    f"{mark}: expected each anchor once, got &{_cut(anchor)} twice; rename one"
                )
            self.open.add(anchor)
        before = self.n_nodes
        self._count(1, mark)
        node = self._collection(event, mark, depth)
        if anchor is not None:
            self.open.remove(anchor)
            self.anchors[anchor] = (node, self.n_nodes - before)
        return node

    def _collection(self, event: yaml.Event, mark: Mark, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.tag, event.value, event.style is None, mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not self._ends(yaml.SequenceEndEvent):
                items.append(self._node(depth + 1))
            return Items(event.tag, items, mark)
        assert isinstance(event, yaml.MappingStartEvent)
        pairs: list[tuple[Node, Node]] = []
        while not self._ends(yaml.MappingEndEvent):
            key = self._node(depth + 1)
            pairs.append((key, self._node(depth + 1)))
        return Pairs(event.tag, pairs, mark)

    def _ends(self, kind: type[yaml.Event]) -> bool:
        """Return whether a collection ends here; if so, consume its end."""
        if self.loader.current_event is None:
            self.loader.current_event = self._next()
        if isinstance(self.loader.current_event, kind):
            self._next()
            return True
        return False

    def _alias(self, name: str, mark: Mark) -> Node:
        if name in self.open:
            raise InputError(
                f"{mark}: expected an alias outside the value of its anchor, got "
                f"*{_cut(name)} inside &{_cut(name)}; write the values out"
            )
        if name not in self.anchors:
            raise InputError(
                f"{mark}: expected YAML, got: found undefined alias {show(name)}; "
                f"define &{_cut(name)} before it"
            )
        node, size = self.anchors[name]
        self._count(size, mark)
        return node._replace(mark=mark)

    def _count(self, n: int, mark: Mark) -> None:
        self.n_nodes += n
        if self.n_nodes > MAX_NODES:
            raise InputError(
                f"{mark}: expected at most {MAX_NODES:,} values, including those of aliases, "
                f"got more; write fewer"
            )


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _cut(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."


def _problem_of(error: yaml.MarkedYAMLError) -> str:
    """Return a one-line message with where PyYAML stopped and where its context began."""
    mark, start = error.problem_mark, error.context_mark
    problem = " ".join(str(error.problem or error.context).split())[:200]
    context = f"{error.context} " if error.context and error.problem else ""
    has_start = mark and start and (mark.line, mark.column) != (start.line, start.column)
    began = f"(from {_mark(start)}) " if has_start and start else ""
    hint = next(hint for part, hint in _HINTS.items() if part in problem)
    where = f"{_mark(mark)}: " if mark else ""
    return f"{where}expected YAML, got: {context}{began}{problem}; {hint}"


_HINTS = {
    "'\\t'": "indent with spaces",
    "cannot start": "put it in quotes",
    "mapping values": "write one `key: value` per line, or { }, and check the indentation",
    "end of stream": "close the quote",
    "expected ','": "close the bracket first, or add a comma",
    "<block end>": "check the indentation and the brackets",
    "escape": "write it in single quotes",
    "expected the node content": "write a value there, or close the bracket",
    "tag": "remove the tag",
    "YAML document": "remove the line with %",
    "directive": "remove the line with %",
    "": "fix it, or put the text in quotes",
}
"""What to do about PyYAML's problems, by a part of their text; the first match is used."""
