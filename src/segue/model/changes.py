"""What a statement does to a schema or its data, one value per thing, in words that fit every database.

A statement is read into several: `ALTER TABLE a ADD x int CHECK (x > 0), DROP y` adds a column, adds a constraint and
drops a column. Names are written as SQL writes them (`orders`, `public.orders`, `"Order"`); columns as they are stored.
"""

from __future__ import annotations

from typing import Literal

from segue.model.values import Value

#: Where a new column's values come from: "constant" and "stable" are one for all rows, "volatile" one for each,
#: "unknown" calls a function that the text does not tell about.
Filling = Literal["", "constant", "stable", "volatile", "unknown"]
DomainAction = Literal[
    "add constraint", "validate constraint", "drop constraint", "set not null", "drop not null", "default"
]
ConstraintKind = Literal["check", "not null", "unique", "primary key", "exclude", "foreign key"]


class Change(Value, kw_only=True):
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


class Constraint(Value, kw_only=True):
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


class Column(Value, kw_only=True):
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


class CreateTable(Change, kw_only=True):
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


class AddColumn(Change, kw_only=True):
    """ALTER TABLE … ADD COLUMN; constraints written with the column follow as changes of their own."""

    column: Column
    if_not_exists: bool = False


class DropColumn(Change, kw_only=True):
    """ALTER TABLE … DROP COLUMN."""

    column: str
    cascade: bool = False
    if_exists: bool = False


class AlterType(Change, kw_only=True):
    """ALTER TABLE … ALTER COLUMN … TYPE. `column.name` is the column; what it was is not in the text."""

    column: Column
    using: bool = False
    collation: str = ""


class SetNotNull(Change, kw_only=True):
    """ALTER TABLE … ALTER COLUMN … SET NOT NULL."""

    column: str


class DropNotNull(Change, kw_only=True):
    """ALTER TABLE … ALTER COLUMN … DROP NOT NULL."""

    column: str


class SetDefault(Change, kw_only=True):
    """ALTER TABLE … ALTER COLUMN … SET DEFAULT, or DROP DEFAULT (`dropped`)."""

    column: str
    dropped: bool = False


class AddConstraint(Change, kw_only=True):
    """ALTER TABLE … ADD CONSTRAINT, or a constraint written with a new column (`inline`)."""

    constraint: Constraint
    inline: bool = False

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the table and the one that a foreign key refers to."""
        other = self.constraint.refers
        return (self.table, other) if other and other != self.table else (self.table,)


class ValidateConstraint(Change, kw_only=True):
    """ALTER TABLE … VALIDATE CONSTRAINT."""

    name: str


class DropConstraint(Change, kw_only=True):
    """ALTER TABLE … DROP CONSTRAINT."""

    name: str
    cascade: bool = False


class AlterTable(Change, kw_only=True):
    """Any other part of ALTER TABLE; `action` is the parser's word for it, such as "SetLogged"."""

    action: str
    name: str = ""  # the column, trigger, rule … that it names
    kind: str = "table"  # of what is altered: "table", "index", "view", "sequence", "type" …
    settings: tuple[str, ...] = ()  # storage parameters


class AttachPartition(Change, kw_only=True):
    """ALTER TABLE (or INDEX) … ATTACH PARTITION."""

    partition: str
    default: bool = False
    index: bool = False


class DetachPartition(Change, kw_only=True):
    """ALTER TABLE … DETACH PARTITION."""

    partition: str
    concurrent: bool = False


class CreateIndex(Change, kw_only=True):
    """CREATE INDEX."""

    name: str
    columns: tuple[str, ...] = ()  # "" for an expression
    method: str = "btree"
    unique: bool = False
    concurrent: bool = False
    if_not_exists: bool = False
    only: bool = False
    partial: bool = False


class Reindex(Change, kw_only=True):
    """REINDEX of an "index", a "table", a "schema", "system" or a "database"."""

    kind: str
    name: str
    concurrent: bool = False


class RenameObject(Change, kw_only=True):
    """… RENAME TO, or of a part: `kind` is "table", "column", "constraint", "index", "schema", "enum value" …."""

    kind: str
    name: str
    new: str


class DropObject(Change, kw_only=True):
    """DROP of one object: `kind` is "table", "index", "view", "schema", "type", "trigger" …."""

    kind: str
    name: str
    cascade: bool = False
    concurrent: bool = False
    if_exists: bool = False


class Truncate(Change, kw_only=True):
    """TRUNCATE of one table."""

    cascade: bool = False


class WriteData(Change, kw_only=True):
    """INSERT, UPDATE, DELETE, MERGE, COPY; `filtered` says whether there is a WHERE, `twice` a column set twice."""

    verb: str
    filtered: bool = False
    twice: str = ""


class SetSetting(Change, kw_only=True):
    """SET, SET LOCAL, RESET (value None); the value is as it was written, without quotes."""

    name: str
    value: str | None
    local: bool = False


class Transaction(Change, kw_only=True):
    """BEGIN, COMMIT, ROLLBACK, SAVEPOINT …: `verb` is "begin", "commit", "rollback", "savepoint" or another."""

    verb: str


class Code(Change, kw_only=True):
    """A DO block (name "") or a new function or procedure, with its language and body."""

    name: str
    language: str
    body: str


class CreateTrigger(Change, kw_only=True):
    """CREATE TRIGGER."""

    name: str
    replace: bool = False


class CreateDomain(Change, kw_only=True):
    """CREATE DOMAIN; `base` is a column of the type that it is of, `constrained` whether by NOT NULL or a CHECK."""

    name: str
    base: Column
    constrained: bool = False


class AlterDomain(Change, kw_only=True):
    """ALTER DOMAIN; `constraint` is the name of the one that is added, validated or dropped."""

    name: str
    action: DomainAction
    constraint: str = ""
    not_valid: bool = False


class AddEnumValue(Change, kw_only=True):
    """ALTER TYPE … ADD VALUE; `placed` says whether BEFORE or AFTER another."""

    type: str
    value: str
    placed: bool = False


class Grant(Change, kw_only=True):
    """GRANT of privileges on one object; `all` of them, to everybody (`public`), or with GRANT OPTION (`passed_on`)."""

    all: bool = False
    public: bool = False
    passed_on: bool = False


class Other(Change, kw_only=True):
    """A kind of statement without a value of its own; `verb` is its name, such as "VACUUM FULL"."""

    verb: str


class End(Change, kw_only=True):
    """The end of a file, after its last statement: for rules about a file as a whole."""


class Changed(Value):
    """One statement of a text: its words, where it begins in characters, and what it does."""

    sql: str
    offset: int
    changes: tuple[Change, ...]
    number: int = 1  # of statements that are so alike that they are one here: rows for the same table
