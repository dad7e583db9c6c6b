"""Looks for whatever stands in the way of changing tables online, before anything is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.online.blueprint import Place
from segue.errors import Busy, StepFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segue.databases.postgresql.online.reading import Definition
    from segue.databases.postgresql.online.site import Connection

_TABLES = """
select c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relpersistence::text,
    pg_catalog.pg_get_userbyid(c.relowner), pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    c.relforcerowsecurity and not (select r.rolbypassrls or r.rolsuper from pg_catalog.pg_roles as r
        where r.rolname = current_user),
    (select e.extname from pg_catalog.pg_depend as d join pg_catalog.pg_extension as e on e.oid = d.refobjid
        where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'),
    n.nspname in ('pg_catalog', 'information_schema', 'segue') or n.nspname like 'pg\\_toast%%',
    array(select s.subname::text from pg_catalog.pg_subscription_rel as r
        join pg_catalog.pg_subscription as s on s.oid = r.srsubid where r.srrelid = c.oid),
    array(
        select t.tgname::text from pg_catalog.pg_trigger as t join pg_catalog.pg_proc as p on p.oid = t.tgfoid
        join pg_catalog.pg_namespace as pn on pn.oid = p.pronamespace
        where t.tgrelid = c.oid and not t.tgisinternal
            and (pn.nspname in ('repack', 'pgroll') or t.tgname like '\\_pgroll\\_%%' or t.tgname = 'repack_trigger'
                or t.tgname like 'pgosc\\_%%' or t.tgname like 'segue\\_________\\_%%')
    ),
    pg_catalog.has_schema_privilege(n.oid, 'CREATE')
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.oid = any(%s::oid[])
order by n.nspname, c.relname
"""

_DATABASE = """
select pg_catalog.has_database_privilege(current_database(), 'CREATE'), current_database(), current_user,
    (select pg_catalog.pg_get_userbyid(n.nspowner) from pg_catalog.pg_namespace as n
        where n.nspname = 'segue' and not pg_catalog.pg_has_role(n.nspowner, 'USAGE')),
    (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user),
    pg_catalog.has_database_privilege(current_database(), 'TEMPORARY')
"""

# Whoever may not read it has been told to ask for that.
_KEPT = """
select 1 from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = 'segue' and c.relname = 'change' and pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    and pg_catalog.has_table_privilege(c.oid, 'SELECT')
"""

_CHANGES = """
select c.id, c.execution, t.member -> 'table' ->> 'schema_name', t.member -> 'table' ->> 'name', c.phase = 'reversible'
from segue.change as c cross join lateral jsonb_array_elements(c.blueprint -> 'members') as t (member)
where c.ended_at is null
"""

# Its subscribers have no table of the shadow's name, and stop at the first row that they are sent for it.
_PUBLISHED = """
select p.pubname::text, (select s.slot_name::text from pg_catalog.pg_replication_slots as s
    where s.plugin = 'pgoutput' and s.database = current_database() and s.slot_name not like 'segue\\_%%'
    order by s.slot_name limit 1)
from pg_catalog.pg_publication as p where p.puballtables order by p.pubname
"""


def standing(connection: Connection, oids: Sequence[int]) -> list[str]:
    """Return what stands in the way of changing tables, partitions among them, by what the catalogue says."""
    found: list[str] = []
    row = connection.execute(_DATABASE.encode()).fetchone()
    may_create, database, role, owner, superuser, temporary = row if row else (True, "", "", None, False, True)
    if not may_create:
        found.append(
            f'role "{role}" may not create schemas in database "{database}", and shadows are made in one of their own: '
            f'GRANT CREATE ON DATABASE "{database}" TO "{role}"'
        )
    if not temporary:
        found.append(
            f'role "{role}" may make no temporary tables in database "{database}", and touched keys are listed in '
            f'them: GRANT TEMPORARY ON DATABASE "{database}" TO "{role}"'
        )
    if owner is not None:
        found.append(
            f'the schema "segue" of this database belongs to "{owner}", whose rights "{role}" does not have: use that '
            f'role, or GRANT "{owner}" TO "{role}"'
        )
    for publication, slot in connection.execute(_PUBLISHED.encode().replace(b"%%", b"%")).fetchall():
        if slot is not None:
            found.append(
                f'publication "{publication}" is FOR ALL TABLES, so that the subscriber at slot "{slot}" would be sent '
                "the rows of the shadow, for which it has no table, and stop: no server can leave a table out of it; "
                "publish the tables by name, or their schemas"
            )
    busy, ids = _busy(connection)
    for row in connection.execute(_TABLES.encode(), [list(oids)]):
        *rest, tools, may = row
        # Their own changes' triggers are told by what those are, on the table above where it is a partition.
        others = [tool for tool in tools if not (tool.startswith("segue_") and tool[6:14] in ids)]
        found += _standing_table((*rest, others, may), role, busy, superuser=superuser)
    return found


class Passing(str):
    """A reason that goes away by itself: another change works there, or its way back is open."""

    __slots__ = ()


def refuse(reasons: list[str]) -> None:
    """Raise Busy where nothing but other changes stands in the way, StepFailed where anything else does."""
    if reasons and all(isinstance(reason, Passing) for reason in reasons):
        raise Busy(
            "another online change has the tables",
            details=reasons,
            hint="nothing was changed; begin it again once that has ended",
        )
    if reasons:
        raise StepFailed(
            "the tables cannot be changed online",
            details=reasons,
            hint="nothing was changed; each line says what stands in the way, and what to do",
        )


def _busy(connection: Connection) -> tuple[dict[tuple[str, str], str], set[str]]:
    """Return what is to be said of tables of changes that have not ended, and the ids of these changes."""
    known = connection.execute(_KEPT).fetchone()
    if known is None:
        return {}, set()
    rows = connection.execute(_CHANGES.encode()).fetchall()
    said = {}
    for _, execution, schema, name, swapped in rows:
        table = Place(schema_name=schema, name=name)
        said[schema, name] = (
            f"{table} was changed by execution {execution}, whose way back is open: `segue change cleanup {execution} "
            f"--env ENV --now` ends it, or `segue rollback {execution}` takes the change back"
            if swapped
            else f"{table} is being changed online by execution {execution}: let that end (`segue status "
            f"{execution}`), or `segue rollback {execution}` takes it back"
        )
    return said, {change for change, *_ in rows}


def _standing_table(
    row: tuple[Any, ...], role: str, busy: dict[tuple[str, str], str], *, superuser: bool
) -> Iterator[str]:
    _, schema, name, kind, persistence, owner, owned, forced, extension, system, subscriptions, tools, may = row
    table = Place(schema_name=schema, name=name)
    if system:
        yield f"{table} is the server's or Segue's own"
        return
    if kind not in ("r", "p"):
        what = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}.get(kind, "no table")
        yield f"{table} is {what}: an online change is one of a table"
        return
    if persistence == "t":
        yield f"{table} is a temporary table: nobody else sees it, so a `sql` step does"
    if extension is not None:
        yield f'{table} belongs to the extension "{extension}", whose updates expect it as it is: leave it to them'
    if not owned:
        yield (
            f'{table} belongs to "{owner}", and only its owner may change it: use that role, or GRANT "{owner}" '
            f'TO "{role}"'
        )
    elif not may:
        yield (
            f'role "{role}" may not create in the schema "{schema}", where the new {table} is to be: GRANT CREATE ON '
            f'SCHEMA "{schema}" TO "{role}"'
        )
    if forced:
        yield (
            f'{table} has FORCE ROW LEVEL SECURITY, so that rows may be hidden from "{role}", and could get lost: use '
            "a role with BYPASSRLS"
        )
    if subscriptions and not superuser:
        yield (
            f'the subscription "{subscriptions[0]}" writes to {table}, and only a superuser can point it at the new '
            "table: use a superuser for the change, or end the subscription"
        )
    for tool in tools:
        yield f'the trigger "{tool}" on {table} is of another tool\'s change or repacking: let that end first'
    if (schema, name) in busy:
        yield Passing(busy[schema, name])


def _keyless(table: Definition) -> Iterator[Place]:
    """Yield the tables that rows could not be followed in; a partition's keys are those of its table."""
    for one in table.everything() if table.kind == "r" else (table,):
        if not one.keys:
            yield Place(schema_name=one.schema_name, name=one.name)


def shape(table: Definition) -> Iterator[str]:
    """Yield why a table's clone would be another thing than the table; nothing for whatever can be changed."""
    shown = str(Place(schema_name=table.schema_name, name=table.name))
    if table.kind not in ("r", "p") or table.persistence == "t":
        return  # told by what is standing in the way
    parent = Place(schema_name=table.parents[0][0], name=table.parents[0][1]) if table.parents else None
    if table.bound is not None:
        yield f"{shown} is a partition of {parent}: change {parent}, and its partitions go along"
    elif parent is not None:
        yield f"{shown} inherits from {parent}: change {parent}, and what inherits from it goes along"
    if table.kind == "r":
        family = {(one.schema_name, one.name) for one in table.everything()}
        for one in table.everything():
            heir = Place(schema_name=one.schema_name, name=one.name)
            for above in one.parents if one is not table else ():
                if above not in family:
                    other = Place(schema_name=above[0], name=above[1])
                    yield f"{heir} inherits from {shown} and from {other}, and only one of them is changed"
            if one.kind != "r":
                yield f"{heir} inherits from {shown} and is no table of its own: end the inheritance first"
    if table.of_type is not None:
        yield f"{shown} is of the type {table.of_type}: ALTER TABLE … NOT OF frees it from the type"
    for keyless in dict.fromkeys(str(heir) for heir in _keyless(table)):
        yield (
            f"{keyless} has no primary key and no unique index over NOT NULL columns, by which rows could be followed: "
            "add one first, by CREATE UNIQUE INDEX CONCURRENTLY"
        )
