"""YAML (and JSON, its subset) as a tree that remembers where everything stands in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

#: A plan is written by people; what is longer than this is a mistake, or meant to exhaust memory.
MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 32

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})$")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)?(?:\.[0-9]+|\.)?(?:[eE][-+]?[0-9]+)?$")
# JSON writes a character beyond the basic plane as two halves, which YAML does not know.
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
#: Booleans to YAML 1.1, texts to YAML 1.2: what the writer means cannot be known.
_DOUBTFUL = frozenset({"yes", "no", "on", "off"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file. Line and column count from 1."""

    line: int
    column: int
    message: str


class UnreadableError(Exception):
    """A file is not a tree at all: no further problems can be looked for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(slots=True)
class Entry:
    """A key of a mapping, and its value."""

    key: Node
    value: Node


@dataclass(slots=True)
class Node:
    """A value in the file. `value` is a scalar; `items` or `entries` hold what is inside. Counts from 0."""

    line: int
    column: int
    value: Any = None
    style: str | None = None
    start: int = 0
    end: int = 0
    items: list[Node] | None = None
    entries: dict[str, Entry] | None = None

    def plain(self) -> Any:
        """Return the value without positions."""
        if self.entries is not None:
            return {key: entry.value.plain() for key, entry in self.entries.items()}
        if self.items is not None:
            return [item.plain() for item in self.items]
        return self.value

    def get(self, key: str) -> Node | None:
        """Return the value under a key, None when this is no mapping or has no such key."""
        entry = (self.entries or {}).get(key)
        return entry.value if entry else None

    def texts(self) -> list[Node]:
        """Return every text at or below this node."""
        if self.entries is not None:
            return [text for entry in self.entries.values() for text in entry.value.texts()]
        if self.items is not None:
            return [text for item in self.items for text in item.texts()]
        return [self] if isinstance(self.value, str) else []


@dataclass(slots=True)
class Tree:
    """A file read: its root, and what was wrong on the way without making the rest unreadable."""

    text: str
    root: Node
    problems: list[Problem] = field(default_factory=list)

    def place(self, node: Node, offset: int) -> tuple[int, int]:
        """Return line and column, from 1, of the character at `offset` inside a text of the file."""
        if node.style == "|":
            return _place_in_block(self.text, node, offset)
        index = _aligned(self.text, node, offset)
        before = self.text[:index]
        return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1

    def excerpt(self, line: int, column: int) -> list[str]:
        """Return the line of the file with a caret below the column."""
        lines = self.text.splitlines()
        if not 0 < line <= len(lines):
            return []
        shown = lines[line - 1].replace("\t", " ")
        begin = max(0, column - 80)
        mark = f"{line} | "
        return [f"{mark}{shown[begin : begin + 110]}", " " * (len(mark) + column - 1 - begin) + "^"]


def read(text: str) -> Tree:
    """Read one document. Raises UnreadableError with the place of a syntax error.

    Doubled keys, doubtful booleans, aliases and tags are collected as problems.
    """
    import yaml

    if len(text) > MAX_CHARACTERS:
        raise UnreadableError(
            Problem(1, 1, f"the file has {len(text):,} characters; a plan has at most {MAX_CHARACTERS:,}")
        )
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    source = _from_json(text) if text.lstrip().startswith("{") else text
    composer = _Composer(text)
    try:
        for event in yaml.parse(source, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise UnreadableError(Problem(line, column, _said(error, source, line, column))) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise UnreadableError(Problem(line, column, f"unreadable character: {error.reason}")) from error
    if composer.root is None:
        raise UnreadableError(Problem(1, 1, "the file is empty"))
    return Tree(text, composer.root, composer.problems)


def _from_json(text: str) -> str:
    """Return JSON as the parser of YAML takes it."""
    # JSON may be indented by tabs; inside a JSON string a tab cannot stand as itself.
    text = text.replace("\t", " ")
    return _SURROGATES.sub(
        lambda found: f"{found[1]}\\U{0x10000 + (int(found[2], 16) - 0xD800 << 10) + int(found[3], 16) - 0xDC00:08x}",
        text,
    )


def from_value(value: Any) -> Tree:
    """Return the tree of JSON values that come from no file; every place in it is 1:1."""
    return Tree("", _node(value))


def _node(value: Any) -> Node:
    if isinstance(value, Mapping):
        return Node(0, 0, entries={str(key): Entry(Node(0, 0, str(key)), _node(inner)) for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return Node(0, 0, items=[_node(inner) for inner in value])
    return Node(0, 0, value=value)


def _said(error: Any, text: str, line: int, column: int) -> str:
    lines = text.split("\n")
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in here[:column]:
        return "a tab cannot indent in YAML; use spaces"
    words = str(error.problem or error.context or "syntax error")
    hint = ""
    if "mapping values are not allowed" in words:
        hint = "; a text that contains a colon needs quotes, or | and a line of its own"
    return f"not YAML: {words}{hint}"


class _Composer:
    """Builds the tree from the parser's events, so that an alias is never expanded."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._open: list[Node] = []
        self._keys: list[Node | None] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        name = type(event).__name__
        line, column = event.start_mark.line, event.start_mark.column
        if name == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise UnreadableError(
                    Problem(line + 1, column + 1, "a file holds one plan: there is a second document")
                )
        elif name == "AliasEvent":
            self._problem(line, column, f"aliases (*{event.anchor}) are not allowed: write the value out")
            self._add(Node(line, column))
        elif name == "ScalarEvent":
            self._tag(event)
            node = Node(line, column, style=event.style or None, start=event.start_mark.index, end=event.end_mark.index)
            node.value = self._scalar(event)
            self._add(node)
        elif name in ("MappingStartEvent", "SequenceStartEvent"):
            self._tag(event)
            mapping = name == "MappingStartEvent"
            node = Node(line, column, entries={} if mapping else None, items=None if mapping else [])
            self._add(node)
            self._open.append(node)
            self._keys.append(None)
            if len(self._open) > MAX_DEPTH:
                raise UnreadableError(Problem(line + 1, column + 1, f"nested more than {MAX_DEPTH} levels deep"))
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            self._open.pop()
            self._keys.pop()

    def _add(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        holder, key = self._open[-1], self._keys[-1]
        if holder.items is not None:
            holder.items.append(node)
        elif key is None:
            if node.entries is not None or node.items is not None:
                self._problem(node.line, node.column, "a key must be a word, not a list or a mapping")
            self._keys[-1] = node
        else:
            name = self._key_text(key)
            assert holder.entries is not None  # noqa: S101  # nothing else is ever opened
            if name in holder.entries:
                first = holder.entries[name].key.line + 1
                self._problem(key.line, key.column, f'"{name}" is given twice, first in line {first}')
            else:
                holder.entries[name] = Entry(key, node)
            self._keys[-1] = None

    def _key_text(self, key: Node) -> str:
        if isinstance(key.value, str):
            return key.value
        # A number or boolean as a key means the word as it is written.
        return self.text[key.start : key.end].strip() or str(key.value)

    def _scalar(self, event: Any) -> Any:
        value: str = event.value
        if event.style:  # the two parsers say None and "" for a plain scalar
            if "\x00" in value:
                # No PostgreSQL text can hold it, neither the target's nor the store's.
                self._problem(event.start_mark.line, event.start_mark.column, "a text cannot hold a NUL character")
            return value
        is_key = bool(self._open) and self._open[-1].entries is not None and self._keys[-1] is None
        if is_key:
            return value
        if value.lower() in _DOUBTFUL:
            self._problem(
                event.start_mark.line,
                event.start_mark.column,
                f'"{value}" is a boolean to some readers of YAML, a word to others: write true or false, or quote it',
            )
        return _resolved(value)

    def _tag(self, event: Any) -> None:
        tag = event.tag
        if tag is not None and tag not in ("!", "tag:yaml.org,2002:str"):
            self._problem(event.start_mark.line, event.start_mark.column, f"tags ({tag}) are not allowed")

    def _problem(self, line: int, column: int, message: str) -> None:
        self.problems.append(Problem(line + 1, column + 1, message))


def _resolved(value: str) -> Any:
    if value in _NULL:
        return None
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    if _INTEGER.match(value):
        return int(value)
    if value[-1].isdigit() and _FLOAT.match(value) and isfinite(float(value)):
        return float(value)
    return value


def _place_in_block(text: str, node: Node, offset: int) -> tuple[int, int]:
    before = node.value[:offset]
    first = node.line + 1
    written = next((line for line in text.split("\n")[first:] if line.strip()), "")
    shown = next((line for line in node.value.split("\n") if line.strip()), "")
    indent = max(0, (len(written) - len(written.lstrip(" "))) - (len(shown) - len(shown.lstrip(" "))))
    return first + before.count("\n") + 1, indent + len(before) - (before.rfind("\n") + 1) + 1


def _aligned(text: str, node: Node, offset: int) -> int:
    """Return the file's index of a text's character, by walking both: quotes, folds and escapes shift them apart."""
    index, end = node.start, max(node.end, node.start)
    if node.style in ("'", '"'):
        index += 1
    elif node.style == ">":
        index = text.find("\n", index) + 1
    for character in node.value[: offset + 1][:-1]:
        index = _after(text, index, end, character, escapes=node.style == '"')
    while index < end and text[index].isspace() and not node.value[offset : offset + 1].isspace():
        index += 1
    return min(index, end)


def _after(text: str, index: int, end: int, character: str, *, escapes: bool) -> int:
    if escapes and text[index : index + 1] == "\\":
        return index + 2
    if character.isspace():
        while index < end and text[index].isspace():
            index += 1
            if index < end and text[index] not in " \n":
                break
        return index
    while index < end and text[index] != character:
        index += 1
    return index + 1
