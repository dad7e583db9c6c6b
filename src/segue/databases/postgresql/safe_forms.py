"""Safe forms of statements, made from their own words: comments and spelling stay, and nothing is guessed.

Each method returns None where the statement says something that its safe form could not keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import grammar
from segue.databases.postgresql.changes.columns import constraint_of
from segue.databases.postgresql.naming import bare
from segue.databases.postgresql.relations import quoted, table_name
from segue.lint.rule import SafeForms
from segue.model import changes as to
from segue.model.findings import Fix
from segue.model.values import Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segue.model.changes import Changed

_KINDS = (b"index", b"table", b"schema", b"database")


class Forms(SafeForms):
    """See `segue.lint.rule.SafeForms`."""

    def later(self, statement: Changed, change: to.AddConstraint) -> Fix | None:
        """Return the constraint NOT VALID, and its validation for another transaction."""
        found = _Words(statement).constraint(change)
        if found is None:
            return None
        words, name = found.words, quoted(found.name)
        if found.inline is None:
            edits = [(found.end, found.end, " NOT VALID")]
            if not change.constraint.name:
                edits.append((found.begin, found.begin, f"CONSTRAINT {name} "))
            first = [words.edited(edits)]
        else:
            kind = f"FOREIGN KEY ({quoted(found.inline)}) " if change.constraint.refers else ""
            body = words.text(found.begin, found.end)
            first = [
                found.rest,
                f"{words.alter} ADD CONSTRAINT {name} {kind}{body} NOT VALID",
            ]
        return words.fix([*first, f"{words.alter} VALIDATE CONSTRAINT {name}"])

    def by_index(self, statement: Changed, change: to.AddConstraint, nullable: Iterable[str]) -> Fix | None:
        """Return a unique constraint or primary key over an index that is built beforehand.

        `nullable` are those columns of the key that nothing proves NOT NULL; they are made so first.
        """
        found = _Words(statement).constraint(change)
        if (
            found is None
            or found.item.options
            or found.item.indexspace
            or getattr(found.item, "without_overlaps", False)
        ):
            return None
        primary = change.constraint.kind == "primary key"
        # CREATE INDEX has no IF EXISTS for its table.
        if (primary and found.inline is not None) or found.words.node.alter_table_stmt.missing_ok:
            return None
        words, name = found.words, quoted(found.name)
        keys = ", ".join(quoted(column) for column in change.constraint.columns)
        including = ", ".join(quoted(item.string.sval) for item in found.item.including)
        index = f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {words.table} ({keys})"
        index += f" INCLUDE ({including})" if including else ""
        index += " NULLS NOT DISTINCT" if found.item.nulls_not_distinct else ""
        kind = "PRIMARY KEY" if primary else "UNIQUE"
        add = f"{words.alter} ADD CONSTRAINT {name} {kind} USING INDEX {name}"
        if found.inline is None:
            add += " DEFERRABLE" if found.item.deferrable else ""
            add += " INITIALLY DEFERRED" if found.item.initdeferred else ""
            rest = words.without(found.command)
        elif found.attributes:
            return None
        else:
            rest = found.rest
        if rest and any(
            isinstance(item, to.AddConstraint) and bare(item.constraint.refers) == bare(change.table)
            for item in statement.changes
        ):
            return None  # a foreign key on this very key
        proofs = (
            [part for column in nullable for part in proved(words.alter, change.table, column, None)] if primary else []
        )
        return words.fix([*([rest] if rest else []), *proofs, index, add])

    def not_null(self, statement: Changed, change: to.SetNotNull | to.AddConstraint, version: int | None) -> Fix | None:
        """Return SET NOT NULL behind a proof; as a constraint of its own, NOT VALID, from 18 on."""
        if isinstance(change, to.AddConstraint):
            return self.later(statement, change)
        words = _Words(statement)
        if not words.understood or any(
            isinstance(item, to.AddColumn | to.AlterType | to.DropColumn)
            and change.column == (item.column if isinstance(item, to.DropColumn) else item.column.name)
            for item in statement.changes
        ):
            return None
        number = next(
            (
                at
                for at, item in enumerate(words.commands)
                if item.name == change.column and _word(item) == "AT_SetNotNull"
            ),
            None,
        )
        if number is None:
            return None
        rest = words.without(number)
        return words.fix([*([rest] if rest else []), *proved(words.alter, change.table, change.column, version)])

    def proven_key(self, statement: Changed, change: to.AddConstraint, nullable: Iterable[str]) -> Fix | None:
        """Return PRIMARY KEY USING INDEX behind a proof that its columns hold no NULL."""
        words = _Words(statement)
        if not words.understood or len(words.commands) != 1:
            return None
        proofs = [part for column in nullable for part in proved(words.alter, change.table, column, None)]
        return words.fix([*proofs, statement.sql]) if proofs else None

    def concurrently(self, statement: Changed) -> Fix | None:
        """Return CREATE INDEX, DROP INDEX, REINDEX or REFRESH with CONCURRENTLY."""
        words = _Words(statement)
        kind = words.node.WhichOneof("node")
        tokens = [token.lower() for token in words.tokens()]
        outside = True
        if kind == "index_stmt":
            at = tokens.index(b"index")
        elif kind == "drop_stmt":
            node = words.node.drop_stmt
            if b"cascade" in tokens:
                return None
            if len(node.objects) > 1:
                guard = "IF EXISTS " if node.missing_ok else ""
                names = [item.name for item in statement.changes if isinstance(item, to.DropObject)]
                return words.fix([f"DROP INDEX CONCURRENTLY {guard}{name}" for name in names])
            at = tokens.index(b"index")
        elif kind == "reindex_stmt":
            at = tokens.index(b")") + 1 if tokens[1:2] == [b"("] else 1
            if tokens[at] not in _KINDS:
                return None
        elif kind == "refresh_mat_view_stmt" and not words.node.refresh_mat_view_stmt.skip_data:
            at, outside = tokens.index(b"view"), False
        else:
            return None
        end = words.spans[at][1]
        return words.fix([words.edited([(end, end, " CONCURRENTLY")])], outside=outside)

    def named(self, statement: Changed, change: to.AddConstraint) -> Fix | None:
        """Return the constraint under the name that the server would give it."""
        found = _Words(statement).constraint(change)
        if found is None or found.inline is not None or change.constraint.name:
            return None
        name = f"CONSTRAINT {quoted(found.name)} "
        return found.words.fix([found.words.edited([(found.begin, found.begin, name)])], outside=False)

    def attached(self, statement: Changed, change: to.CreateTable) -> Fix | None:
        """Return a partition that is created by itself and then attached."""
        words = _Words(statement)
        node = words.node.create_stmt
        special = node.options or node.constraints or node.table_elts or node.tablespacename or node.access_method
        if special or change.partitioned or change.if_not_exists or change.temporary:
            return None
        tokens = [token.lower() for token in words.tokens()]
        # CREATE TABLE name PARTITION OF parent bounds
        if tokens[:2] != [b"create", b"table"] or tokens.count(b"of") != 1:
            return None
        at = tokens.index(b"of") + 2
        while tokens[at : at + 1] == [b"."]:
            at += 2
        bounds = words.text(words.spans[at][0], words.spans[-1][1])
        table, parent = change.table, change.partition_of
        kept = "DEFAULTS CONSTRAINTS GENERATED STORAGE COMPRESSION".split()
        like = " ".join(f"INCLUDING {word}" for word in kept)
        return words.fix(
            [f"CREATE TABLE {table} (LIKE {parent} {like})", f"ALTER TABLE {parent} ATTACH PARTITION {table} {bounds}"],
            outside=False,
        )


def proved(alter: str, table: str, column: str, version: int | None) -> list[str]:
    """Return the statements that make a column NOT NULL without reading the table under a lock."""
    from segue.databases.postgresql.naming import joined

    name = quoted(joined(bare(table), column, "not_null"))
    column = quoted(column)
    if version is not None and version >= 18:
        return [f"{alter} ADD CONSTRAINT {name} NOT NULL {column} NOT VALID", f"{alter} VALIDATE CONSTRAINT {name}"]
    name = quoted(joined(bare(table), bare(column), "there"))
    return [
        f"{alter} ADD CONSTRAINT {name} CHECK ({column} IS NOT NULL) NOT VALID",
        f"{alter} VALIDATE CONSTRAINT {name}",
        f"{alter} ALTER COLUMN {column} SET NOT NULL",
        f"{alter} DROP CONSTRAINT {name}",
    ]


def _word(command: Any) -> str:
    return grammar.symbol("AlterTableType", command.subtype)


class _Found(Value):
    """A constraint in its statement: where it stands, in bytes, and the column it is written with."""

    words: _Words
    item: Any
    name: str
    begin: int
    end: int
    command: int
    inline: str | None = None
    rest: str = ""  # the statement without it, if it is written with a column
    attributes: bool = False  # DEFERRABLE and the like behind it


class _Words:
    """A statement's text by its tokens and its tree; places count bytes, as the tree's do."""

    def __init__(self, statement: Changed) -> None:
        self.statement = statement
        self.node = grammar.tree(statement.sql).stmts[0].stmt
        self.raw = statement.sql.encode()
        self.spans: list[tuple[int, int]] = []
        self.comments: list[str] = []
        comments = (grammar.number("Token", "SQL_COMMENT"), grammar.number("Token", "C_COMMENT"))
        for token in grammar.tokens(statement.sql):
            if token.token in comments:
                self.comments.append(self.text(token.start, token.end))
            else:
                self.spans.append((token.start, token.end))
        self.commands: list[Any] = []
        self._pieces: list[tuple[int, int]] = []
        self.only = self.alter = self.table = ""
        self.understood = self.node.WhichOneof("node") == "alter_table_stmt" and self._altered()

    def text(self, begin: int, end: int) -> str:
        """Return a part of the text."""
        return self.raw[begin:end].decode()

    def tokens(self) -> list[bytes]:
        """Return the words, without comments."""
        return [self.raw[begin:end] for begin, end in self.spans]

    def before(self, place: int) -> int:
        """Return where the token before a place ends."""
        return max((end for _, end in self.spans if end <= place), default=0)

    def edited(self, edits: list[tuple[int, int, str]]) -> str:
        """Return the text with some parts replaced."""
        raw = self.raw
        for begin, end, words in sorted(edits, reverse=True):
            raw = raw[:begin] + words.encode() + raw[end:]
        return raw.decode()

    def fix(self, statements: list[str], *, outside: bool = True) -> Fix:
        """Return the statements, with the comments that were lost on the way before them."""
        lost = [comment for comment in self.comments if not any(comment in words for words in statements)]
        if lost:
            statements[0] = "\n".join([*lost, statements[0]])
        return Fix(tuple(statements), outside)

    def without(self, number: int) -> str:
        """Return ALTER TABLE without one of its commands, "" if it has no other."""
        if len(self._pieces) == 1:
            return ""
        begin, end = self._pieces[number]
        if number:
            begin = self._pieces[number - 1][1]  # with the comma before it
        else:
            end = self._pieces[1][0]
        return self.edited([(begin, end, "")])

    def constraint(self, change: to.AddConstraint) -> _Found | None:
        """Return where a constraint stands."""
        for number, command in enumerate(self.commands if self.understood else ()):
            word, definition = _word(command), getattr(command, "def")
            end = self._pieces[number][1]
            if word == "AT_AddConstraint" and not change.inline:
                item = definition.constraint
                if constraint_of(item, change.table) == change.constraint:
                    name = change.constraint.name or change.constraint.default_name
                    return _Found(self, item, name, item.location, end, number)
            elif word == "AT_AddColumn" and change.inline and not command.missing_ok:
                found = self._inline(definition.column_def, change, number, end)
                if found:
                    return found
        return None

    def _inline(self, column: Any, change: to.AddConstraint, number: int, end: int) -> _Found | None:
        items = [node.constraint for node in column.constraints]
        kinds = [grammar.symbol("ConstrType", item.contype) for item in items]
        for at, item in enumerate(items):
            if constraint_of(item, change.table, column.colname) != change.constraint:
                continue
            behind = at + 1
            while behind < len(items) and kinds[behind].startswith("CONSTR_ATTR"):
                behind += 1
            ends = [other.location for other in items[behind:]]
            if column.HasField("coll_clause"):
                ends.append(column.coll_clause.location)
            begin = item.location
            stop = self.before(min((place for place in ends if place > begin), default=end))
            name, cut = item.conname or change.constraint.default_name, begin
            if item.conname:  # CONSTRAINT name goes along with it
                first = next(index for index, span in enumerate(self.spans) if span[0] == begin)
                begin = self.spans[first + 2][0]
            rest = self.edited([(self.before(cut), stop, "")])
            return _Found(self, item, name, begin, stop, number, column.colname, rest, behind > at + 1)
        return None

    def _altered(self) -> bool:
        """Find the commands of ALTER TABLE in the text; return whether all were found."""
        node = self.node.alter_table_stmt
        self.table = table_name(node.relation)
        self.only = "" if node.relation.inh else "ONLY "
        self.alter = f"ALTER TABLE {'IF EXISTS ' if node.missing_ok else ''}{self.only}{self.table}"
        self.commands = [item.alter_table_cmd for item in node.cmds]
        place = node.relation.location
        tokens = self.tokens()
        at = next((index for index, span in enumerate(self.spans) if span[0] == place), None)
        if at is None or tokens[0].lower() != b"alter" or tokens[1].lower() != b"table":
            return False
        at += 1
        while tokens[at] == b".":
            at += 2
        at += tokens[at] in (b"*", b")")
        depth, begin = 0, at
        for index in range(at, len(tokens)):
            depth += (tokens[index] in (b"(", b"[")) - (tokens[index] in (b")", b"]"))
            if not depth and tokens[index] == b",":
                self._pieces.append((self.spans[begin][0], self.spans[index - 1][1]))
                begin = index + 1
        self._pieces.append((self.spans[begin][0], self.spans[-1][1]))
        return len(self._pieces) == len(self.commands)
