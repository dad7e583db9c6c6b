"""Lets the server change empty clones of tables, in transactions that are rolled back, and reads what they became."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psycopg

from segue.databases.postgresql.online import altering, reading, writing
from segue.databases.postgresql.online.blueprint import Index, Place
from segue.databases.postgresql.online.writing import name as quoted
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.databases.postgresql.online.reading import Column, Definition
    from segue.databases.postgresql.online.site import Connection
    from segue.model.online import TableChange

#: "cannot alter column because it is part of the partition key"
_OF_PARTITION_KEY = "42P16"


@dataclass(slots=True)
class Drawn:
    """One table as it is drawn up: `root` is the new table at the top of its family, of which it may be the whole."""

    change: TableChange
    old: Definition
    new: Definition
    root: Definition
    alteration: altering.Alteration
    #: Where a partition goes that the change itself makes, by its name.
    homes: dict[str, str] = field(default_factory=dict)


def schemas(change_id: str) -> tuple[str, str]:
    """Return the schemas of a change: of the shadows, and of what they replace."""
    return f"segue_{change_id}_new", f"segue_{change_id}_old"


def draw(connection: Connection, change: TableChange, old: Definition, schema: str) -> list[Drawn]:
    """Clone a table and what inherits from it, have the server alter the clone, and read it back.

    Within a transaction that is rolled back. Raises StepFailed for what the server or an online change refuses.
    """
    at = writing.place(old, schema)
    send(connection, clone(old, schema), f"a clone of {change.table} cannot be made")
    unlike = writing.differences(old, reading.read(connection, str(at)))
    if unlike:
        raise StepFailed(
            f"no exact clone of {change.table} can be made, and its shadow would be another table",
            details=unlike,
            hint="change what is named here beforehand, or change the table by a `sql` step",
        )
    family = [old] if old.kind == "p" else list({one.name: one for one in old.everything()}.values())
    try:
        with connection.transaction():
            alterations = _alter(connection, change, family, at)
    except StepFailed as error:
        if old.kind != "p" or getattr(error.__cause__, "sqlstate", None) != _OF_PARTITION_KEY:
            raise
        new, alterations = _alter_flat(connection, change, old, at, error)
    else:
        new = reading.read(connection, str(at))
    homes: dict[str, str] = {}
    if change.columns or change.partition_by:
        if len(family) > 1:
            raise StepFailed(f"{change.table}: tables that others inherit from keep their columns' order and kind")
        new, homes = _rebuild(connection, change, old, new, at)
    made = {one.name: one for one in new.everything()}
    drawn = [
        Drawn(
            change if one is old else replace(change, table=str(Place(schema_name=one.schema_name, name=one.name))),
            one,
            made[one.name],
            new,
            alterations[one.name],
            homes,
        )
        for one in family
    ]
    connection.execute(f"drop table {at} cascade".encode())
    return drawn


def _alter(
    connection: Connection, change: TableChange, family: Sequence[Definition], at: Place
) -> dict[str, altering.Alteration]:
    """Alter a clone; return what was followed, for the table and whatever inherits from it."""
    alterations = {
        one.name: altering.Alteration(one, lambda name: _resolve(connection, name), heir=one is not family[0])
        for one in family
    }
    for text in change.alter:
        for one in family[1:]:
            alterations[one.name].read(text, at)
        statements = alterations[family[0].name].read(text, at)
        send(connection, statements, f"{change.table}: the server refuses {text}")
    return alterations


def _alter_flat(
    connection: Connection, change: TableChange, old: Definition, at: Place, refusal: StepFailed
) -> tuple[Definition, dict[str, altering.Alteration]]:
    """Alter a partitioned table as if it were plain, and partition it again: the server leaves partition keys alone."""
    plain = old.model_copy(update={"kind": "r", "partition_key": None, "below": ()})
    connection.execute(f"drop table {at} cascade".encode())
    send(connection, clone(plain, at.schema_name), f"a clone of {change.table} cannot be made")
    alterations = _alter(connection, change, [plain], at)
    new = reading.read(connection, str(at))
    parts = tuple(_again(part, old, new, alterations[old.name]) for part in old.below)
    wanted = new.model_copy(update={"kind": "p", "partition_key": old.partition_key, "below": parts})
    connection.execute(f"drop table {at} cascade".encode())
    try:
        send(connection, clone(wanted, at.schema_name), f"{change.table} cannot be partitioned again")
    except StepFailed as error:
        raise StepFailed(refusal.message, details=[*refusal.details, error.message], hint=refusal.hint) from error
    return reading.read(connection, str(at)), alterations


def _again(part: Definition, old: Definition, new: Definition, alteration: altering.Alteration) -> Definition:
    """Return a partition of an altered table: what it had of its own, and of the table whatever that is now."""
    columns = tuple(_of_its_own(part, old, column, alteration) for column in new.columns)
    changed = {index.before for index in old.indexes} - {index.before for index in new.indexes}
    indexes = tuple(index for index in part.indexes if not (index.part and index.before in changed))
    kept = {index.name for index in indexes}
    above = {rule.name for rule in old.constraints}
    rules = tuple(rule for rule in part.constraints if (rule.index in kept if rule.index else rule.name not in above))
    found = part.model_copy(update={"columns": columns, "indexes": indexes, "constraints": rules, "below": ()})
    return found.model_copy(update={"below": tuple(_again(one, part, found, alteration) for one in part.below)})


def _of_its_own(part: Definition, old: Definition, column: Column, alteration: altering.Alteration) -> Column:
    value = alteration.values.get(column.name)
    mine = part.column(value.follows) if value is not None else None
    theirs = old.column(value.follows) if value is not None else None
    if mine is None or theirs is None:
        return column
    own = {
        name: getattr(mine, name)
        for name in ("default", "storage", "compression")
        if getattr(mine, name) != getattr(theirs, name)
    }
    own |= {"statistics": mine.statistics, "options": mine.options, "not_null": mine.not_null or column.not_null}
    return column.model_copy(update=own)


def rehearse(connection: Connection, change: TableChange) -> None:
    """Have the server try a table's ALTERs on an empty clone, of which nothing stays.

    Raises StepFailed for what it refuses. What cannot be tried on a clone, such as OWNER TO, is not tried.
    """
    table = reading.read(connection, change.table)
    if table.kind not in ("r", "p") or table.parents or table.of_type:
        return
    schema, _ = schemas("rehearsed")
    alteration = altering.Alteration(table, lambda name: _resolve(connection, name))
    at = writing.place(table, schema)
    with connection.transaction(force_rollback=True):
        try:
            make_schema(connection, schema)
            send(connection, clone(table, schema), "no clone")
        except StepFailed:
            return  # it may be possible all the same: it only cannot be tried
        for text in change.alter:
            if alteration.tries(text):
                send(connection, alteration.read(text, at), f"{change.table}: the server refuses {text}")


def make_schema(connection: Connection, schema: str) -> None:
    """Make a schema; raises StepFailed where the role may not."""
    try:
        connection.execute(f"create schema {quoted(schema)}".encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise StepFailed(
            "this role may not create schemas in the database",
            hint="GRANT CREATE ON DATABASE to it: shadows are made in a schema of their own",
        ) from error


def _resolve(connection: Connection, name: str) -> Place:
    row = connection.execute(
        "select n.nspname, c.relname from pg_catalog.pg_class as c "
        "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where c.oid = %s",
        [reading.find(connection, name)],
    ).fetchone()
    if row is None:
        raise StepFailed(f'there is no table "{name}" any more')
    return Place(schema_name=row[0], name=row[1])


def clone(table: Definition, schema: str) -> list[str]:
    """Return the statements that make a table anew, with everything but foreign keys."""
    made = [statement for group in writing.tables(table, schema) for statement in group]
    for index in writing.indexes(table, schema):
        made += writing.build(index, index.table or writing.place(table, schema))
    return made


def send(connection: Connection, statements: Sequence[str], what: str) -> None:
    """Send statements of a trial; raises StepFailed that says what cannot be done, and why."""
    for statement in statements:
        try:
            with connection.transaction():
                connection.execute(statement.encode())
        except psycopg.Error as error:
            if connection.closed:
                raise
            raise StepFailed(
                f"{what}: {error.diag.message_primary} (SQLSTATE {error.sqlstate})",
                details=[error.diag.message_detail] if error.diag.message_detail else [],
                hint=error.diag.message_hint or _hint(error),
            ) from error


def _hint(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.OutOfMemory):
        return "the server has too few lock slots for so many partitions: raise `max_locks_per_transaction`"
    return "nothing was changed; correct the change and run again"


# -- another order of columns, or partitions


def _rebuild(
    connection: Connection, change: TableChange, old: Definition, new: Definition, at: Place
) -> tuple[Definition, dict[str, str]]:
    columns = _ordered(change, new)
    update: dict[str, Any] = {"columns": columns}
    homes: dict[str, str] = {}
    statements: list[str] = []
    if change.partition_by:
        if old.kind == "p":
            raise StepFailed(f"{change.table} is partitioned already", hint="leave `partition_by` out")
        statements, homes = altering.partitions(change, old, at)
        _check_homes(connection, homes)
        update |= {
            "kind": "p",
            "partition_key": change.partition_by,
            "options": (),
            "toast_options": (),
            "tablespace": new.tablespace,
        }
    wanted = new.model_copy(update=update)
    connection.execute(f"drop table {at} cascade".encode())
    what = f"{change.table} cannot be made anew"
    if change.partition_by:
        what = f"{change.table} cannot be partitioned by {change.partition_by}"
    send(connection, [text for group in writing.tables(wanted, at.schema_name) for text in group], what)
    for statement in statements:
        send(connection, [statement], f"{change.table}: the server refuses the partitions")
    if change.partition_by:
        _dress(connection, reading.read(connection, str(at)), new, at)
    for index in writing.indexes(wanted, at.schema_name):
        try:
            send(connection, writing.build(index, index.table or at), what)
        except StepFailed as error:
            if not index.unique or not change.partition_by:
                raise
            raise StepFailed(
                error.message,
                details=[
                    *error.details,
                    f'"{index.name}" is unique over ({", ".join(each.name or each.text for each in _of(new, index))})',
                ],
                hint="a unique index of a partitioned table has the partition key in it: change it along, as in "
                f'"DROP CONSTRAINT {index.name}, ADD PRIMARY KEY (id, …)"',
            ) from error
    found = reading.read(connection, str(at))
    if change.partition_by and not found.below:
        raise StepFailed(
            f"{change.table} would have no partition",
            hint="give statements that create some; CREATE TABLE … PARTITION OF … DEFAULT takes every other row",
        )
    return found, homes


def _check_homes(connection: Connection, homes: dict[str, str]) -> None:
    """Refuse partitions that would go to a schema that is not there, or under a name that is taken."""
    for name, schema in homes.items():
        row = connection.execute(
            "select c.oid from pg_catalog.pg_namespace as n "
            "left join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = %s where n.nspname = %s",
            [name, schema],
        ).fetchone()
        if row is None:
            raise StepFailed(
                f'the partition "{name}" is to be in the schema "{schema}", which does not exist',
                hint="CREATE SCHEMA first",
            )
        if row[0] is not None:
            raise StepFailed(
                f'the schema "{schema}" has a relation "{name}" already', hint="give the partition another name"
            )


def _of(table: Definition, index: Index) -> tuple[reading.IndexColumn, ...]:
    return next((each.columns for each in table.indexes if each.name == index.name), ())


def _ordered(change: TableChange, new: Definition) -> tuple[reading.Column, ...]:
    known = {column.name: column for column in new.columns}
    for name in change.columns:
        if name not in known:
            raise StepFailed(
                f'{change.table} has no column "{name}" after the change', hint=f"its columns are {', '.join(known)}"
            )
    if len(set(change.columns)) != len(change.columns):
        raise StepFailed(f"{change.table}: a column stands twice in `columns`", hint="name each column once")
    rest = [column for column in new.columns if column.name not in change.columns]
    return (*(known[name] for name in change.columns), *rest)


def _dress(connection: Connection, found: Definition, plain: Definition, at: Place) -> None:
    """Give partitions what the plain table had, where their own statements say nothing."""
    for part in found.everything():
        if part.kind == "p":
            continue
        words = [*(writing.option(each) for each in plain.options if not part.options)]
        words += [f"toast.{writing.option(each)}" for each in plain.toast_options if not part.toast_options]
        if words:
            send(connection, [f"ALTER TABLE {writing.place(part, at.schema_name)} SET ({', '.join(words)})"], str(at))
