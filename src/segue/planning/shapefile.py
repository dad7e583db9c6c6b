"""Reads a shape file: what the tables of a move become in the other database. Problems with line and column."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from segue.errors import InvalidInput
from segue.model.shapes import Lookup, Part, Shape, Term
from segue.planning.yamlnodes import Node, Problem, Tree, UnreadableError
from segue.planning.yamlnodes import read as read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEYS = {"tables", "way_back"}
_PART_KEYS = {"from", "where", "columns", "drop", "lookup", "reverse"}
_LOOKUP_KEYS = {"table", "on"}
#: How expressions call the row of the source and that of the target.
TAKEN = {"s", "t", "k"}


class InvalidShape(InvalidInput):
    """A shape file is wrong, or does not fit the databases; `problems` has all that was found."""

    def __init__(self, file: str, problems: Iterable[Problem], tree: Tree | None = None) -> None:
        self.problems = sorted(set(problems), key=lambda problem: (problem.line, problem.column))
        lines = [f"{file}:{one.line}:{one.column}: {one.message}" for one in self.problems]
        details: list[str] = []
        for number, (line, one) in enumerate(zip(lines, self.problems, strict=True)):
            details += [line] if number else []
            details += tree.excerpt(one.line, one.column) if tree else []
        super().__init__(lines[0], hint="docs/move.md shows a shape file", details=details)


def read(text: str, *, file: str) -> Shape:
    """Read a shape file. Raises InvalidShape with every problem that it has."""
    try:
        tree = read_tree(text)
    except UnreadableError as error:
        raise InvalidShape(file, [error.problem]) from error
    return _Reader(tree, file).shape()


class _Reader:
    """One pass over a file, which goes on after a problem."""

    def __init__(self, tree: Tree, file: str) -> None:
        self._tree = tree
        self._file = file
        self._problems = list(tree.problems)

    def shape(self) -> Shape:
        root = self._tree.root
        if root.entries is None:
            self._at(root, "a shape file is a mapping with `tables`")
            raise InvalidShape(self._file, self._problems, self._tree)
        self._known(root, _KEYS)
        parts = self._parts(root)
        back = root.get("way_back")
        if back is not None and not isinstance(back.value, bool):
            self._at(back, "`way_back` is true or false")
        if self._problems:
            raise InvalidShape(self._file, self._problems, self._tree)
        return Shape(file=self._file, parts=tuple(parts), way_back=back is None or back.value)

    def _parts(self, root: Node) -> list[Part]:
        node = root.get("tables")
        if node is None or not node.entries:
            self._at(node or root, "`tables` maps each target table to where its rows come from")
            return []
        found: list[Part] = []
        for name, entry in node.entries.items():
            target = Term(text=name, line=entry.key.line + 1, column=entry.key.column + 1)
            several = entry.value.items
            for one in several if several is not None else [entry.value]:
                part = self._part(target, one)
                if part is not None and any((p.target.text, p.source.text) == (name, part.source.text) for p in found):
                    self._at(one, f'"{name}" has rows from "{part.source.text}" already')
                elif part is not None:
                    found.append(part)
            if several == []:
                self._at(entry.value, f'"{name}" comes from nowhere')
        return found

    def _part(self, target: Term, node: Node) -> Part | None:
        if node.entries is None:
            self._at(node, "a table is a mapping that begins with `from`")
            return None
        self._known(node, _PART_KEYS)
        source = self._text(node, "from")
        where = self._text(node, "where") if node.get("where") else None
        drop = node.get("drop")
        if drop is not None and drop.items is None:
            self._at(drop, "`drop` is a list of columns of the source")
        return Part(
            target=target,
            source=source,
            where=where,
            columns=self._texts(node, "columns"),
            drop=tuple(self._term(item) for item in (drop.items if drop else None) or ()),
            lookups=tuple(self._lookups(node)),
            reverse=self._texts(node, "reverse"),
        )

    def _lookups(self, node: Node) -> list[Lookup]:
        listed = node.get("lookup")
        if listed is None:
            return []
        if not listed.entries:
            self._at(listed, "`lookup` maps an alias to `table` and `on`")
            return []
        found = []
        for alias, entry in listed.entries.items():
            if not re.fullmatch(r"[a-z_][a-z0-9_]*", alias) or alias in TAKEN or alias.startswith("segue"):
                self._at(entry.key, f'"{alias}" cannot be an alias: lower-case letters, digits and _; not s, t or k')
            if entry.value.entries is None:
                self._at(entry.value, "a lookup is a mapping with `table` and `on`")
                continue
            if entry.value.get("watch") is not None:
                self._at(
                    entry.value.entries["watch"].key,
                    "`watch` is not supported: what changes in a lookup's table during the move is not followed",
                )
                continue
            self._known(entry.value, _LOOKUP_KEYS)
            found.append(Lookup(alias=alias, table=self._text(entry.value, "table"), on=self._text(entry.value, "on")))
        return found

    def _texts(self, node: Node, key: str) -> dict[str, Term]:
        mapping = node.get(key)
        if mapping is None:
            return {}
        if mapping.entries is None:
            self._at(mapping, f"`{key}` maps columns to SQL expressions")
            return {}
        return {name: self._term(entry.value) for name, entry in mapping.entries.items()}

    def _text(self, node: Node, key: str) -> Term:
        value = node.get(key)
        if value is None:
            self._at(node, f'"{key}" is missing')
            return Term(text="", line=1, column=1)
        return self._term(value)

    def _term(self, node: Node) -> Term:
        # A number or a truth value is the same in SQL.
        if isinstance(node.value, bool) or not isinstance(node.value, str | int) or not str(node.value).strip():
            self._at(node, "a text with SQL belongs here")
            return Term(text="null", line=1, column=1)
        return Term(text=str(node.value).strip(), line=node.line + 1, column=node.column + 1)

    def _known(self, node: Node, keys: set[str]) -> None:
        for key, entry in (node.entries or {}).items():
            if key not in keys:
                self._at(entry.key, f'unknown key "{key}": there are {", ".join(sorted(keys))}')

    def _at(self, node: Node, message: str) -> None:
        self._problems.append(Problem(node.line + 1, node.column + 1, message))
