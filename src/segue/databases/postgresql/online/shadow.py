"""Draws up what becomes of tables, by letting the server change empty clones of them; and makes the shadows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from segue.databases.postgresql.catalogue import BLOCK, Catalogue
from segue.databases.postgresql.online import altering, flows, preflight, reading, writing
from segue.databases.postgresql.online.blueprint import Index, Member, Place, Relation
from segue.databases.postgresql.online.writing import name as quoted
from segue.databases.postgresql.relations import qualified
from segue.engine import journal
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segue.databases.postgresql.online.blueprint import Blueprint
    from segue.databases.postgresql.online.reading import Definition
    from segue.databases.postgresql.online.site import Connection, Site
    from segue.model.online import ChangeSpec, TableChange


def schemas(change_id: str) -> tuple[str, str]:
    """Return the schemas of a change: of the shadows, and of what they replace."""
    return f"segue_{change_id}_new", f"segue_{change_id}_old"


@dataclass(slots=True)
class _Drawn:
    """One table as it is drawn up."""

    change: TableChange
    old: Definition
    new: Definition
    alteration: altering.Alteration
    #: Where a partition goes that the change itself makes, by its name.
    homes: dict[str, str] = field(default_factory=dict)


def draw_up(site: Site, change_id: str, spec: ChangeSpec, strategy: str) -> tuple[Member, ...]:
    """Work out what becomes of every table; nothing is left behind, and no reader or writer waits.

    The server itself changes empty clones of the tables, in a transaction that is rolled back, and tries everything
    that will be sent later. Raises StepFailed with the reason for what cannot be done.
    """
    connection = site.work
    new_schema, old_schema = schemas(change_id)
    tables = _look_before(connection, spec)
    with connection.transaction(force_rollback=True):
        _make_schema(connection, new_schema)
        drawn = [_draw(connection, change, old, new_schema) for change, old in zip(spec.tables, tables, strict=True)]
        _check_names(drawn)
    members = []
    for number, one in enumerate(drawn, 1):
        with connection.transaction(force_rollback=True):
            member = _member(connection, number, one, change_id, spec, (new_schema, old_schema))
        rows, held = _size(connection, one.old)
        members.append(member.model_copy(update={"rows": rows, "bytes": held}))
    return tuple(members)


def _look_before(connection: Connection, spec: ChangeSpec) -> list[Definition]:
    """Return the tables; refuse with every reason that the catalogue shows, before the server tries anything."""
    # Each in a transaction of its own: since 16 the server locks what it describes, against ALTER TABLE at least.
    tables = [reading.read(connection, change.table) for change in spec.tables]
    refused = preflight.standing(connection, [one.oid for table in tables for one in table.everything()])
    refused += [line for table in tables for line in preflight.shape(table)]
    seen: set[int] = set()
    for table in tables:
        if table.oid in seen:
            refused.append(f'"{table.name}" stands twice in the change: give its ALTERs together')
        seen.add(table.oid)
    if refused:
        raise StepFailed(
            "the tables cannot be changed online",
            details=refused,
            hint="nothing was changed; each line says what stands in the way, and what to do",
        )
    return tables


def rehearse(connection: Connection, change: TableChange) -> None:
    """Have the server try a table's ALTERs on an empty clone, of which nothing stays.

    Raises StepFailed for what it refuses. What cannot be tried on a clone, such as OWNER TO, is not tried.
    """
    table = reading.read(connection, change.table)
    if table.kind not in ("r", "p") or table.parents or table.of_type or (table.kind == "r" and table.below):
        return
    schema, _ = schemas("rehearsed")
    alteration = altering.Alteration(table, lambda name: _resolve(connection, name))
    at = writing.place(table, schema)
    with connection.transaction(force_rollback=True):
        try:
            _make_schema(connection, schema)
            _send(connection, _clone(table, schema), "no clone")
        except StepFailed:
            return  # it may be done all the same: it only cannot be tried
        for text in change.alter:
            if alteration.tries(text):
                _send(connection, alteration.read(text, at), f"{change.table}: the server refuses {text}")


def _make_schema(connection: Connection, schema: str) -> None:
    try:
        connection.execute(f"create schema {quoted(schema)}".encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise StepFailed(
            "this role may not create schemas in the database",
            hint="GRANT CREATE ON DATABASE to it: shadows are made in a schema of their own",
        ) from error


def _draw(connection: Connection, change: TableChange, old: Definition, schema: str) -> _Drawn:
    """Clone a table, have the server alter the clone, and read it back."""
    alteration = altering.Alteration(old, lambda name: _resolve(connection, name))
    at = writing.place(old, schema)
    _send(connection, _clone(old, schema), f"a clone of {change.table} cannot be made")
    clone = reading.read(connection, str(at))
    unlike = writing.differences(old, clone)
    if unlike:
        raise StepFailed(f"no exact clone of {change.table} can be made", details=unlike, hint="this is a limitation")
    for text in change.alter:
        _send(connection, alteration.read(text, at), f"{change.table}: the server refuses {text}")
    new = reading.read(connection, str(at))
    homes: dict[str, str] = {}
    if change.columns or change.partition_by:
        new, homes = _rebuild(connection, change, old, new, at)
    connection.execute(f"drop table {at} cascade".encode())
    return _Drawn(change, old, new, alteration, homes)


def _resolve(connection: Connection, name: str) -> Place:
    row = connection.execute(
        "select n.nspname, c.relname from pg_catalog.pg_class as c "
        "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where c.oid = %s",
        [reading.find(connection, name)],
    ).fetchone()
    if row is None:
        raise StepFailed(f'there is no table "{name}" any more')
    return Place(schema_name=row[0], name=row[1])


def _clone(table: Definition, schema: str) -> list[str]:
    """Return the statements that make a table anew, with everything but foreign keys."""
    made = [statement for group in writing.tables(table, schema) for statement in group]
    for index in writing.indexes(table, schema):
        made += writing.build(index, index.table or writing.place(table, schema))
    return made


def _send(connection: Connection, statements: Sequence[str], what: str) -> None:
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
    _send(connection, [text for group in writing.tables(wanted, at.schema_name) for text in group], what)
    for statement in statements:
        _send(connection, [statement], f"{change.table}: the server refuses the partitions")
    if change.partition_by:
        _dress(connection, reading.read(connection, str(at)), new, at)
    for index in writing.indexes(wanted.model_copy(update={"below": ()}), at.schema_name):
        try:
            _send(connection, writing.build(index, at), what)
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
        raise StepFailed(f"{change.table}: a column stands twice in `columns`")
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
            _send(connection, [f"ALTER TABLE {writing.place(part, at.schema_name)} SET ({', '.join(words)})"], str(at))


def _check_names(drawn: Sequence[_Drawn]) -> None:
    """Refuse two relations of one name: the shadows are all made in one schema."""
    seen: dict[str, str] = {}
    for one in drawn:
        for table in (*one.old.everything(), *one.new.everything()):
            place = str(one.change.table)
            before = seen.setdefault(table.name, place)
            if before != place:
                raise StepFailed(
                    f'two tables of the change have the name "{table.name}"',
                    hint="tables of one name in two schemas are changed one after the other",
                )


# -- members


def _member(
    connection: Connection,
    number: int,
    one: _Drawn,
    change_id: str,
    spec: ChangeSpec,
    names: tuple[str, str],
) -> Member:
    """Try everything that will be sent, and put the member together."""
    new_schema, old_schema = names
    old, new = one.old, one.new
    for schema in names:
        _make_schema(connection, schema)
    what = f"the shadow of {one.change.table} cannot be made"
    _send(connection, [text for group in writing.tables(new, new_schema) for text in group], what)
    # Of the old table the columns alone are needed, to try the expressions on.
    bare = old.model_copy(update={"below": (), "constraints": (), "indexes": (), "kind": "r", "partition_key": None})
    _send(connection, [text for group in writing.tables(bare, old_schema) for text in group], what)
    found = reading.read(connection, str(writing.place(new, new_schema)))
    unlike = writing.differences(new, found, bare=True)
    if unlike:
        raise StepFailed(f"{what} as it was drawn up", details=unlike)
    forward, backward, dependents = flows.flows(connection, one.change, old, new, one.alteration, names, spec)
    planned, keyed_by = _planned(old, new, one, forward, change_id, number, new_schema)
    for index in planned:
        _send(connection, writing.build(index, index.table or forward.into), what)
    found = reading.read(connection, str(writing.place(new, new_schema)))
    unlike = writing.differences(new, _without(found, {index.name for index in planned if index.extra}))
    if unlike:
        raise StepFailed(f"{what} as it was drawn up", details=unlike)
    return Member(
        number=number,
        oid=old.oid,
        table=Place(schema_name=old.schema_name, name=old.name),
        old=tuple(_relations(old, None, {}, old_schema, old.schema_name)),
        new=tuple(_relations(new, new_schema, _homes(old) | one.homes, None, old.schema_name)),
        forward=forward,
        backward=backward,
        indexes=tuple(planned),
        keyed_by=keyed_by,
        rows=old.rows,
        bytes=old.bytes,
        dependents=dependents,
        definition=old.model_dump(mode="json"),
        drawn=new.model_dump(mode="json"),
    )


def _without(table: Definition, names: set[str]) -> Definition:
    """Leave out indexes of the change's own; a partitioned table's have parts under other names."""
    own = {index.before for index in table.indexes if index.name in names}
    if not own:
        return table
    kept = tuple(index for index in table.indexes if index.name not in names)
    below = tuple(_without_parts(one, own) for one in table.below)
    return table.model_copy(update={"indexes": kept, "below": below})


def _without_parts(table: Definition, own: set[str]) -> Definition:
    kept = tuple(index for index in table.indexes if not (index.part and index.before in own))
    return table.model_copy(update={"indexes": kept, "below": tuple(_without_parts(one, own) for one in table.below)})


def _homes(old: Definition) -> dict[str, str]:
    return {table.name: table.schema_name for table in old.everything()}


def _relations(
    table: Definition, schema: str | None, homes: dict[str, str], goes_to: str | None, home: str
) -> Iterator[Relation]:
    for one in table.everything():
        yield Relation(
            place=Place(schema_name=schema or one.schema_name, name=one.name),
            goes_to=goes_to or homes.get(one.name, home),
            kind=one.kind,
            leaf=one.kind == "r" and (bool(one.parents) or bool(one.below)),
        )


def _size(connection: Connection, table: Definition) -> tuple[int, int]:
    """Return rows and bytes as they are now, about; nothing waits for a lock."""
    shown = qualified((table.schema_name, table.name))
    with connection.transaction():
        connection.execute("set local lock_timeout = '100ms'")
        catalogue = Catalogue(connection, [shown], [])
    found = catalogue.find(shown)
    if found is None:
        return table.rows, table.bytes
    stored = catalogue.stored(found)
    return (
        round(sum(each.rows or 0 for each in stored)),
        sum(each.pages + each.toast_pages for each in stored) * BLOCK,
    )


def _planned(
    old: Definition, new: Definition, one: _Drawn, forward: Any, change_id: str, number: int, schema: str
) -> tuple[list[Index], str | None]:
    """Return the indexes in the order in which they are built, those that drains need first; and the key's."""
    key = [column.into for column in forward.key]
    stricter = {index.name for index in new.indexes if flows.is_stricter(index, old, new, one.alteration)}
    together = frozenset(_parts(new, stricter))
    planned = [
        index.model_copy(update={"added": index.table == forward.into and index.name in stricter})
        for index in writing.indexes(new, schema, without=together)
    ]
    sorted_ = sorted(new.indexes, key=lambda index: not index.primary)
    exact = next((index.name for index in sorted_ if flows.keyed(index, key)), None)
    finds = exact or next((index.name for index in sorted_ if flows.finds(index, key)), None)
    if finds is None:
        extra = f"segue_{change_id}_key_{number}"
        words = ", ".join(quoted(column) for column in key)
        planned.insert(
            0,
            Index(
                name=extra,
                sql=f"CREATE INDEX {quoted(extra)} ON {forward.into} ({words})",
                table=forward.into,
                early=True,
                extra=True,
            ),
        )
        return planned, None
    # Its parts in partitions are built before it, and are found by what they are built over.
    wanted = next(index for index in new.indexes if index.name == finds)
    early = {part.name for table in new.everything() for part in table.indexes if part.before == wanted.before}
    first = [index.model_copy(update={"early": True}) for index in planned if index.name in early]
    return [*first, *(index for index in planned if index.name not in early)], exact


def _parts(table: Definition, above: set[str]) -> Iterator[str]:
    """Yield the indexes of partitions that come with one of the table above."""
    wanted = {(index.before, index.where) for index in table.indexes if index.name in above}
    for one in table.below:
        parts = {index.name for index in one.indexes if index.part and (index.before, index.where) in wanted}
        yield from parts
        yield from _parts(one, parts)


# -- making them


def create(site: Site, blueprint: Blueprint) -> None:
    """Make the schemas and the shadows as they were drawn up; what is there already must be as it was drawn up."""
    with site.transaction() as connection:
        for schema in (blueprint.new_schema, blueprint.old_schema):
            connection.execute(f"create schema if not exists {quoted(schema)}".encode())
    journal.point("online-schemas-made")
    for member in blueprint.members:
        drawn = reading.Definition.model_validate(member.drawn)
        for table, statements in zip(drawn.everything(), writing.tables(drawn, blueprint.new_schema), strict=True):
            at = writing.place(table, blueprint.new_schema)
            with site.transaction() as connection:
                if not _exists(connection, at):
                    _send(connection, statements, f"the shadow {at} cannot be made")
            journal.point("online-shadow-made")
        found = reading.read(site.work, str(member.forward.into))
        unlike = writing.differences(drawn, found, bare=True)
        if unlike:
            raise StepFailed(
                f"the shadow {member.forward.into} is not as it was drawn up",
                details=unlike,
                hint="somebody has changed it: take the change back with `segue rollback`, and begin anew",
            )


def _exists(connection: Connection, at: Place) -> bool:
    row = connection.execute("select pg_catalog.to_regclass(%s) is not null", [str(at)]).fetchone()
    return bool(row and row[0])


def build_key(connection: Connection, member: Member) -> None:
    """Build the indexes of a shadow by which drains find its rows; what is built already is left."""
    for index in member.indexes:
        if index.early:
            build_index(connection, member, index)


def build_index(connection: Connection, member: Member, index: Index) -> None:
    """Build an index or a late constraint of a shadow, in one transaction, unless it is there."""
    at = index.table or member.forward.into
    found = connection.execute(
        "select pg_catalog.to_regclass(%(index)s) is not null, exists ("
        "select from pg_catalog.pg_constraint where conrelid = pg_catalog.to_regclass(%(table)s) "
        "and conname = %(name)s)",
        {
            "index": str(Place(schema_name=at.schema_name, name=index.name)),
            "table": str(at),
            "name": index.constraint or "",
        },
    ).fetchone()
    if found is None or found[0] or (index.constraint is not None and found[1]):
        return
    with connection.transaction():
        for statement in writing.build(index, at):
            connection.execute(statement.encode())
    journal.point("online-built")
