"""What a statement does to a schema or its data, one value per thing, in words that fit every database.

A statement is read into several: `ALTER TABLE a ADD x int CHECK (x > 0), DROP y` adds a column, adds a constraint and
drops a column. Names are written as SQL writes them (`orders`, `public.orders`, `"Order"`); columns as they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Where a new column's values come from: "constant" and "stable" are one for all rows, "volatile" one for each,
#: "unknown" calls a function that the text does not tell about.
Filling = Literal["", "constant", "stable", "volatile", "unknown"]
DomainAction = Literal[
    "add constraint", "validate constraint", "drop constraint", "set not null", "drop not null", "default"
]
ConstraintKind = Literal["check", "not null", "unique", "primary key", "exclude", "foreign key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that a statement does: the table it names ("" if none), and where it begins, in characters.

    `form` is the key of what was measured of it (`databases/postgresql/forms`), "" if nothing was.
    """

    offset: int
    table: str = ""
    form: str = ""

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables that the change names, the one it is about first."""
        return (self.table,) if self.table else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A constraint as it is written: of a new table, a new column, or by itself."""

    kind: ConstraintKind
    name: str = ""
    columns: tuple[str, ...] = ()
    refers: str = ""  # the table of a foreign key's parent
    referred: tuple[str, ...] = ()
    not_valid: bool = False
    enforced: bool = True
    using_index: str = ""
    proves: str = ""  # the column of CHECK (column IS NOT NULL)
    default_name: str = ""  # what the server calls it where it has no name, if nothing else is called so


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as it is written. `type` is the server's name (`int4`, `varchar`, `public.mood`), without modifiers."""

    name: str
    type: str
    modifiers: tuple[int, ...] = ()
    array: bool = False
    filling: Filling = ""
    calls: str = ""  # the function that makes the filling volatile or unknown
    not_null: bool = False
    serial: bool = False
    identity: bool = False
    generated: Literal["", "stored", "virtual"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTable(Change):
    """CREATE TABLE, also AS a query (`filled`)."""

    columns: tuple[Column, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    partition_of: str = ""
    partitioned: bool = False
    temporary: bool = False
    if_not_exists: bool = False
    filled: bool = False

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the table, the partitioned one and those it refers to."""
        others = (self.partition_of, *(item.refers for item in self.constraints))
        return (self.table, *dict.fromkeys(name for name in others if name and name != self.table))


@dataclass(frozen=True, slots=True, kw_only=True)
class AddColumn(Change):
    """ALTER TABLE … ADD COLUMN; constraints written with the column follow as changes of their own."""

    column: Column
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropColumn(Change):
    """ALTER TABLE … DROP COLUMN."""

    column: str
    cascade: bool = False
    if_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterType(Change):
    """ALTER TABLE … ALTER COLUMN … TYPE. `column.name` is the column; what it was is not in the text."""

    column: Column
    using: bool = False
    collation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNotNull(Change):
    """ALTER TABLE … ALTER COLUMN … SET NOT NULL."""

    column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropNotNull(Change):
    """ALTER TABLE … ALTER COLUMN … DROP NOT NULL."""

    column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDefault(Change):
    """ALTER TABLE … ALTER COLUMN … SET DEFAULT, or DROP DEFAULT (`dropped`)."""

    column: str
    dropped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AddConstraint(Change):
    """ALTER TABLE … ADD CONSTRAINT, or a constraint written with a new column (`inline`)."""

    constraint: Constraint
    inline: bool = False

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the table and the one that a foreign key refers to."""
        other = self.constraint.refers
        return (self.table, other) if other and other != self.table else (self.table,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateConstraint(Change):
    """ALTER TABLE … VALIDATE CONSTRAINT."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropConstraint(Change):
    """ALTER TABLE … DROP CONSTRAINT."""

    name: str
    cascade: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterTable(Change):
    """Any other part of ALTER TABLE; `action` is the parser's word for it, such as "SetLogged"."""

    action: str
    name: str = ""  # the column, trigger, rule … that it names
    kind: str = "table"  # of what is altered: "table", "index", "view", "sequence", "type" …
    settings: tuple[str, ...] = ()  # storage parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPartition(Change):
    """ALTER TABLE (or INDEX) … ATTACH PARTITION."""

    partition: str
    default: bool = False
    index: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachPartition(Change):
    """ALTER TABLE … DETACH PARTITION."""

    partition: str
    concurrent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateIndex(Change):
    """CREATE INDEX."""

    name: str
    columns: tuple[str, ...] = ()  # "" for an expression
    method: str = "btree"
    unique: bool = False
    concurrent: bool = False
    if_not_exists: bool = False
    only: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reindex(Change):
    """REINDEX of an "index", a "table", a "schema", "system" or a "database"."""

    kind: str
    name: str
    concurrent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameObject(Change):
    """… RENAME TO, or of a part: `kind` is "table", "column", "constraint", "index", "schema", "enum value" …."""

    kind: str
    name: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropObject(Change):
    """DROP of one object: `kind` is "table", "index", "view", "schema", "type", "trigger" …."""

    kind: str
    name: str
    cascade: bool = False
    concurrent: bool = False
    if_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate(Change):
    """TRUNCATE of one table."""

    cascade: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteData(Change):
    """INSERT, UPDATE, DELETE, MERGE, COPY; `filtered` says whether there is a WHERE, `twice` a column set twice."""

    verb: str
    filtered: bool = False
    twice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSetting(Change):
    """SET, SET LOCAL, RESET (value None); the value is as it was written, without quotes."""

    name: str
    value: str | None
    local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction(Change):
    """BEGIN, COMMIT, ROLLBACK, SAVEPOINT …: `verb` is "begin", "commit", "rollback", "savepoint" or another."""

    verb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Code(Change):
    """A DO block (name "") or a new function or procedure, with its language and body."""

    name: str
    language: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTrigger(Change):
    """CREATE TRIGGER."""

    name: str
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateDomain(Change):
    """CREATE DOMAIN; `base` is a column of the type that it is of, `constrained` whether by NOT NULL or a CHECK."""

    name: str
    base: Column
    constrained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterDomain(Change):
    """ALTER DOMAIN; `constraint` is the name of the one that is added, validated or dropped."""

    name: str
    action: DomainAction
    constraint: str = ""
    not_valid: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AddEnumValue(Change):
    """ALTER TYPE … ADD VALUE; `placed` says whether BEFORE or AFTER another."""

    type: str
    value: str
    placed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Change):
    """GRANT of privileges on one object; `all` of them, to everybody (`public`), or with GRANT OPTION (`passed_on`)."""

    all: bool = False
    public: bool = False
    passed_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Other(Change):
    """A kind of statement without a value of its own; `verb` is its name, such as "VACUUM FULL"."""

    verb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Change):
    """The end of a file, after its last statement: for rules about a file as a whole."""


@dataclass(frozen=True, slots=True)
class Changed:
    """One statement of a text: its words, where it begins in characters, and what it does."""

    sql: str
    offset: int
    changes: tuple[Change, ...]
    number: int = 1  # of statements that are so alike that they are one here: rows for the same table
