"""Chooses how tables are changed online, says why, and looks beforehand for whatever stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.online import reading
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.native import native
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segue.databases.postgresql.online.blueprint import Member
    from segue.databases.postgresql.online.site import Connection, Site
    from segue.model.online import ChangeSpec

NATIVE = "native-online"
SHADOW = "shadow-table"
GHOST = "ghost"
MIRROR = "pt-online-schema-change"


def choose(site: Site, spec: ChangeSpec) -> tuple[str, list[str], list[str], list[str]]:
    """Return the strategy, why it is this one, and for native-online its statements and what takes them back.

    Raises StepFailed where what is asked for cannot be.
    """
    if spec.strategy == MIRROR:
        raise StepFailed(
            'the strategy "pt-online-schema-change" is not offered on PostgreSQL: its triggers write every row twice '
            "in the application's own transactions, which made them 1.6 to 2.65 times slower and let writers wait for "
            "the copy",
            hint='"shadow-table" logs only the keys that are touched; leave the strategy out, and it is chosen',
        )
    if spec.strategy in (SHADOW, GHOST):
        return spec.strategy, [f"{spec.strategy} was asked for"], [], []
    reasons: list[str] = []
    statements: list[str] = []
    back: list[str] = []
    lost: list[str] = []
    for change in spec.tables:
        if change.columns:
            reasons.append(f"another order of columns of {change.table} means another table")
        if change.partition_by:
            reasons.append(f"{change.table} becomes partitioned, which means another table")
        found = native(site.look, change.table, change.alter, site.schema)
        reasons += found.reasons
        statements += found.statements
        back[0:0] = found.back
        lost += found.lost
    if not reasons and statements:
        why = ["every command takes a moment, or has a form that lets the application work meanwhile"]
        return NATIVE, [*why, *(f"{what} cannot be taken back" for what in lost)], statements, back
    if spec.strategy == NATIVE:
        raise StepFailed(
            "PostgreSQL has no online form of this change",
            details=reasons,
            hint='leave the strategy out, or take "shadow-table"',
        )
    return SHADOW, reasons, [], []


# -- what stands in the way

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
    (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user)
"""

_CHANGES = """
select c.id, c.execution, t.member -> 'table' ->> 'schema_name', t.member -> 'table' ->> 'name'
from segue.change as c cross join lateral jsonb_array_elements(c.blueprint -> 'members') as t (member)
where c.ended_at is null
"""


def refusals(site: Site, members: Sequence[Member]) -> list[str]:
    """Return everything that stands in the way of changing these tables, each with what to do about it."""
    oids = [relation.oid for member in members for relation in _tree(member)]
    return standing(site.look, oids)


def _tree(member: Member) -> Iterator[reading.Definition]:
    yield from reading.Definition.model_validate(member.definition).everything()


def standing(connection: Connection, oids: Sequence[int]) -> list[str]:
    """Return what stands in the way of changing tables, partitions among them, by what the catalogue says."""
    found: list[str] = []
    row = connection.execute(_DATABASE.encode()).fetchone()
    may_create, database, role, owner, superuser = row if row else (True, "", "", None, False)
    if not may_create:
        found.append(
            f'role "{role}" may not create schemas in database "{database}", and shadows are made in one of their own: '
            f'GRANT CREATE ON DATABASE "{database}" TO "{role}"'
        )
    if owner is not None:
        found.append(
            f'the schema "segue" of this database belongs to "{owner}", whose rights "{role}" does not have: use that '
            f'role, or GRANT "{owner}" TO "{role}"'
        )
    busy = _busy(connection)
    for row in connection.execute(_TABLES.encode(), [list(oids)]):
        found += _standing_table(row, role, busy, superuser=superuser)
    return found


def _busy(connection: Connection) -> dict[tuple[str, str], str]:
    known = connection.execute("select pg_catalog.to_regclass('segue.change') is not null").fetchone()
    if not (known and known[0]):
        return {}
    rows = connection.execute(_CHANGES.encode()).fetchall()
    return {(schema, name): execution for _, execution, schema, name in rows}


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
        yield f"{table} is being changed online by execution {busy[schema, name]}: let that end, or take it back first"
