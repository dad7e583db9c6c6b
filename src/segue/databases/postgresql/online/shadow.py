"""Draws up what becomes of tables, by letting the server change empty clones of them; and makes the shadows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.catalogue import BLOCK, Catalogue
from segue.databases.postgresql.online import drawing, flows, preflight, reading, writing
from segue.databases.postgresql.online.blueprint import Index, Member, Place, Relation
from segue.databases.postgresql.online.drawing import Drawn, make_schema, schemas, send
from segue.databases.postgresql.online.writing import name as quoted
from segue.databases.postgresql.relations import qualified
from segue.engine import journal
from segue.errors import StepFailed
from segue.model.quantities import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.databases.postgresql.online.blueprint import Blueprint
    from segue.databases.postgresql.online.reading import Definition
    from segue.databases.postgresql.online.site import Connection, Site
    from segue.model.online import ChangeSpec
    from segue.ports import Patience


#: Bytes of a table of which it is said that it will be there twice.
LARGE = 100 * 2**20


def draw_up(site: Site, change_id: str, spec: ChangeSpec, strategy: str) -> tuple[Member, ...]:
    """Work out what becomes of every table; nothing is left behind, and no reader or writer waits.

    The server itself changes empty clones of the tables, in a transaction that is rolled back, and tries everything
    that will be sent later. Raises StepFailed with the reason for what cannot be done.
    """
    connection = site.work
    new_schema, old_schema = schemas(change_id)
    tables = _look_before(connection, spec)
    with connection.transaction(force_rollback=True):
        make_schema(connection, new_schema)
        drawn = [
            one
            for change, old in zip(spec.tables, tables, strict=True)
            for one in drawing.draw(connection, change, old, new_schema)
        ]
        _check_names(drawn)
    members = []
    for number, one in enumerate(drawn, 1):
        with connection.transaction(force_rollback=True):
            member = _member(connection, number, one, change_id, spec, (new_schema, old_schema))
        rows, held = _size(connection, one.old)
        if held >= LARGE:
            member.dependents["warnings"].append(
                f"the new {one.change.table} needs about {size(held)} of disk beside the old one, until that is "
                "dropped; whether there is room cannot be seen from here"
            )
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
    preflight.refuse(refused)
    return tables


def _check_names(drawn: Sequence[Drawn]) -> None:
    """Refuse two relations of one name: the shadows are all made in one schema."""
    seen: dict[str, str] = {}
    for one in drawn:
        for table in (*own(one.old).everything(), *own(one.new).everything()):
            place = f"{one.old.schema_name}.{one.old.name}"
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
    one: Drawn,
    change_id: str,
    spec: ChangeSpec,
    names: tuple[str, str],
) -> Member:
    """Try everything that will be sent, and put the member together."""
    new_schema, old_schema = names
    old, new = one.old, one.new
    for schema in names:
        make_schema(connection, schema)
    what = f"the shadow of {one.change.table} cannot be made"
    send(connection, [text for group in writing.tables(one.root, new_schema) for text in group], what)
    # Of the old table the columns alone are needed, to try the expressions on.
    bare = old.model_copy(
        update={"below": (), "constraints": (), "indexes": (), "kind": "r", "partition_key": None, "parents": ()}
    )
    send(connection, [text for group in writing.tables(bare, old_schema) for text in group], what)
    found = reading.read(connection, str(writing.place(new, new_schema)))
    unlike = writing.differences(own(new), own(found), bare=True)
    if unlike:
        raise StepFailed(f"{what} as it was drawn up", details=unlike)
    forward, backward, dependents = flows.flows(connection, one.change, old, new, one.alteration, names, spec)
    planned, keyed_by = _planned(old, new, one, forward, change_id, number, new_schema)
    for index in planned:
        send(connection, writing.build(index, index.table or forward.into), what)
    found = reading.read(connection, str(writing.place(new, new_schema)))
    unlike = writing.differences(own(new), without(own(found), {index.name for index in planned if index.extra}))
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


def without(table: Definition, names: set[str]) -> Definition:
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


def own(table: Definition) -> Definition:
    """Return a table without those that inherit from it, which are members of their own; with its partitions."""
    return table.model_copy(update={"below": ()}) if table.kind == "r" else table


def _homes(old: Definition) -> dict[str, str]:
    return {table.name: table.schema_name for table in old.everything()}


def _relations(
    table: Definition, schema: str | None, homes: dict[str, str], goes_to: str | None, home: str
) -> Iterator[Relation]:
    for one in own(table).everything():
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
    stored = catalogue.stored(found) if table.kind == "p" else [found]
    return (
        round(sum(each.rows or 0 for each in stored)),
        sum(each.pages + each.toast_pages for each in stored) * BLOCK,
    )


def _planned(
    old: Definition, new: Definition, one: Drawn, forward: Any, change_id: str, number: int, schema: str
) -> tuple[list[Index], str | None]:
    """Return the indexes in the order in which they are built, those that drains need first; and the key's."""
    key = [column.into for column in forward.key]
    stricter = {index.name for index in new.indexes if flows.is_stricter(index, old, new, one.alteration)}
    together = frozenset(_parts(own(new), stricter))
    planned = [
        index.model_copy(update={"added": index.table == forward.into and index.name in stricter})
        for index in writing.indexes(own(new), schema, without=together)
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
    early = {part.name for table in own(new).everything() for part in table.indexes if part.before == wanted.before}
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
        # Tables that inherit from one another are made together, with the first of them.
        heir = drawn.kind == "r" and drawn.parents and _exists(site.work, member.forward.into)
        for table, statements in () if heir else writing.groups(drawn, blueprint.new_schema):
            at = writing.place(table, blueprint.new_schema)
            with site.transaction() as connection:
                if not _exists(connection, at):
                    send(connection, statements, f"the shadow {at} cannot be made")
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


def remove_extras(site: Site, blueprint: Blueprint, patience: Patience, note: Callable[[str], None]) -> None:
    """Drop from the new tables, once they are in their places, the indexes that served the change alone."""
    for member in blueprint.members:
        for index in member.indexes:
            if index.extra:
                _drop_extra(site, str(member.table), member.table.schema_name, index.name, patience, note)


def _drop_extra(
    site: Site, table: str, schema: str, name: str, patience: Patience, note: Callable[[str], None]
) -> None:
    index = Place(schema_name=schema, name=name)
    if not _exists(site.look, index):
        return

    def drop(connection: Connection, until: float) -> None:
        connection.execute(f"drop index if exists {index}".encode())

    site.in_slices([(table, "ACCESS EXCLUSIVE")], patience, note, drop)
    journal.point("online-extra-dropped")
