"""Reads a split file: which tables of a database get a database of their own. Problems with line and column."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from segue.errors import InvalidInput
from segue.model.splits import Domain, Routing, Split
from segue.planning.yamlnodes import Node, Problem, Tree, UnreadableError
from segue.planning.yamlnodes import read as read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEYS = {"split", "from", "domains", "shared", "routing"}
_ROUTING_KEYS = {"switch", "reverse"}
_DOMAIN_KEYS = {"to", "tables", "reads"}
#: A domain's name is its move's too, and part of names in the databases.
_NAME = r"[a-z0-9]{1,16}"


class InvalidSplit(InvalidInput):
    """A split file is wrong; `problems` has all that was found."""

    def __init__(self, source: str, problems: Iterable[Problem], tree: Tree | None) -> None:
        self.problems = sorted(set(problems), key=lambda problem: (problem.line, problem.column))
        lines = [f"{source}:{one.line}:{one.column}: {one.message}" for one in self.problems]
        details: list[str] = []
        for number, (line, one) in enumerate(zip(lines, self.problems, strict=True)):
            details += [line] if number else []
            details += tree.excerpt(one.line, one.column) if tree else []
        super().__init__(lines[0], hint="docs/move.md shows a split file", details=details)


def read(text: str, *, source: str) -> Split:
    """Read a split file. Raises InvalidSplit with every problem that it has."""
    try:
        tree = read_tree(text)
    except UnreadableError as error:
        raise InvalidSplit(source, [error.problem], None) from error
    return _Reader(tree, source).split()


class _Reader:
    """One pass over a file, which goes on after a problem."""

    def __init__(self, tree: Tree, source: str) -> None:
        self._tree = tree
        self._source = source
        self._problems = list(tree.problems)
        self._homes: dict[str, Node] = {}
        self._shared: dict[str, Node] = {}

    def split(self) -> Split:
        root = self._tree.root
        if root.entries is None:
            self._at(root, "a split file is a mapping that begins with `split: NAME`")
            raise InvalidSplit(self._source, self._problems, self._tree)
        self._known(root, _KEYS)
        name, origin = self._text(root, "split"), self._text(root, "from")
        listed = root.get("shared")
        shared = self._tables(listed, self._shared) if listed is not None else ()
        domains = self._domains(root, origin)
        routing = self._routing(root.get("routing"))
        if self._problems:
            raise InvalidSplit(self._source, self._problems, self._tree)
        return Split(name, origin, tuple(domains), shared, routing)

    def _routing(self, node: Node | None) -> Routing | None:
        if node is None:
            return None
        if node.entries is None:
            self._at(node, "`routing` is a mapping with `switch` and `reverse`, each a statement")
            return None
        self._known(node, _ROUTING_KEYS)
        return Routing(self._text(node, "switch"), self._text(node, "reverse"))

    def _domains(self, root: Node, origin: str) -> list[Domain]:
        node = root.get("domains")
        if node is None or not node.entries:
            self._at(node or root, "`domains` maps each domain's name to its database and tables")
            return []
        found = []
        places: dict[str, str] = {}
        for name, entry in node.entries.items():
            if not re.fullmatch(_NAME, name):
                self._at(entry.key, f'"{name}" cannot name a domain: at most 16 lower-case letters and digits')
            if name == "shared":
                self._at(entry.key, '"shared" stands for the tables that are shared, and cannot name a domain')
            if entry.value.entries is None:
                self._at(entry.value, "a domain is a mapping with `to` and `tables`")
                continue
            self._known(entry.value, _DOMAIN_KEYS)
            to = self._text(entry.value, "to")
            if to and to in places:
                self._at(entry.value.get("to") or entry.key, f'"{to}" is the database of "{places[to]}" already')
            places.setdefault(to, name)
            tables = self._tables(entry.value.get("tables") or entry.value, self._homes)
            found.append(Domain(name, to, tables, self._reads(entry.value.get("reads"), tables, stays=to == origin)))
        return found

    def _reads(self, node: Node | None, own: tuple[str, ...], *, stays: bool) -> tuple[str, ...]:
        if node is None:
            return ()
        if stays:
            self._at(node, "a domain that stays needs no copies: the source keeps following what has moved")
            return ()
        seen: dict[str, Node] = {}
        found = self._tables(node, seen)
        for name in found:
            if name not in self._shared:
                self._at(seen[name], f'"{name}" is not among the `shared` tables')
            elif name in own:
                self._at(seen[name], f'"{name}" has its home in this domain, which needs no copy of it')
        return found

    def _tables(self, node: Node, places: dict[str, Node]) -> tuple[str, ...]:
        if not node.items:
            self._at(node, "`tables`, `reads` and `shared` are lists of at least one table")
            return ()
        found = []
        for item in node.items:
            if not isinstance(item.value, str) or not item.value.strip():
                self._at(item, "a table is named by a text, as SQL writes it")
                continue
            if item.value in places:
                first = places[item.value].line + 1
                self._at(
                    item,
                    f'"{item.value}" has a home already, in line {first}: each table has exactly one'
                    if places is self._homes
                    else f'"{item.value}" is here already, in line {first}',
                )
                continue
            places[item.value] = item
            found.append(item.value)
        return tuple(found)

    def _text(self, node: Node, key: str) -> str:
        value = node.get(key)
        if value is None or not isinstance(value.value, str) or not value.value:
            self._at(value or node, f'"{key}" is missing, or no text')
            return ""
        return value.value

    def _known(self, node: Node, keys: set[str]) -> None:
        for key, entry in (node.entries or {}).items():
            if key not in keys:
                self._at(entry.key, f'unknown key "{key}": there are {", ".join(sorted(keys))}')

    def _at(self, node: Node, message: str) -> None:
        self._problems.append(Problem(node.line + 1, node.column + 1, message))
