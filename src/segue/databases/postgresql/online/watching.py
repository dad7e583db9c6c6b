"""Finds out whether somebody changed the tables of an online change while it went on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from segue.errors import StepFailed
from segue.ports import FORWARD

if TYPE_CHECKING:
    import psycopg

    from segue.databases.postgresql.online.blueprint import Blueprint

#: By its description, the digest of its definition, and how it looks to people where that is short.
Objects: TypeAlias = "dict[str, list[str | None]]"

# What a person's DDL changes: nothing of what VACUUM, ANALYZE or TRUNCATE write, nor what the change itself makes.
_SIGNATURE = """
with recursive tables as (
    select pg_catalog.to_regclass(name)::oid as oid from unnest(%(tables)s::text[]) as t (name)
    union
    select i.inhrelid from pg_catalog.pg_inherits as i join tables as t on t.oid = i.inhparent
), followers as (
    select distinct r.ev_class as oid
    from pg_catalog.pg_depend as d join pg_catalog.pg_rewrite as r on r.oid = d.objid
    where d.classid = 'pg_catalog.pg_rewrite'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
        and d.refobjid in (select oid from tables) and r.ev_class not in (select oid from tables)
), types as (
    select y.oid from pg_catalog.pg_type as y where y.typrelid in (select oid from tables)
    union
    select y.typarray from pg_catalog.pg_type as y where y.typrelid in (select oid from tables)
), lines (line, class, object, part, state) as (
    select pg_catalog.concat_ws(' ', 'class', c.oid, c.relowner, c.relkind, c.relpersistence, c.reltablespace,
        c.relreplident, c.relrowsecurity, c.relforcerowsecurity, c.reloptions::text, c.relacl::text,
        (select string_agg(i.inhparent::text, ',' order by i.inhparent) from pg_catalog.pg_inherits as i
            where i.inhrelid = c.oid)), 'pg_catalog.pg_class'::regclass::oid, c.oid, 0, null::text
    from pg_catalog.pg_class as c where c.oid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'column', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation,
        a.attnotnull, a.attisdropped, a.attidentity, a.attgenerated, a.attstorage, a.attcompression, a.attacl::text,
        (select d.oid::text || md5(d.adbin::text) from pg_catalog.pg_attrdef as d
            where d.adrelid = a.attrelid and d.adnum = a.attnum)),
        'pg_catalog.pg_class'::regclass, a.attrelid, a.attnum,
        pg_catalog.format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end
    from pg_catalog.pg_attribute as a where a.attrelid in (select oid from tables) and a.attnum > 0
    union all
    -- Segue itself makes a foreign key anew when the table at its other end is changed: what it says counts.
    select pg_catalog.concat_ws(' ', 'constraint', case when c.contype <> 'f' then c.oid end, c.conname,
        c.convalidated, c.condeferrable, c.condeferred, c.conrelid::pg_catalog.regclass,
        case when c.contype = 'f' then pg_catalog.pg_get_constraintdef(c.oid) end),
        'pg_catalog.pg_constraint'::regclass, c.oid, 0, pg_catalog.pg_get_constraintdef(c.oid)
    from pg_catalog.pg_constraint as c
    where c.conrelid in (select oid from tables) or c.confrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'index', i.indrelid, i.indexrelid, i.indisvalid),
        'pg_catalog.pg_class'::regclass, i.indexrelid, 0, null
    from pg_catalog.pg_index as i
    where i.indrelid in (select oid from tables) or i.indrelid in (select oid from followers)
    union all
    select pg_catalog.concat_ws(' ', 'trigger', t.tgrelid, t.oid, t.tgname, t.tgenabled,
        pg_catalog.md5(pg_catalog.pg_get_triggerdef(t.oid))), 'pg_catalog.pg_trigger'::regclass, t.oid, 0,
        case t.tgenabled when 'D' then 'disabled' when 'O' then 'enabled' end
    from pg_catalog.pg_trigger as t
    where t.tgrelid in (select oid from tables) and not t.tgisinternal
        and not pg_catalog.starts_with(t.tgname, %(own)s)
    union all
    select pg_catalog.concat_ws(' ', 'policy', p.polrelid, p.oid, p.xmin),
        'pg_catalog.pg_policy'::regclass, p.oid, 0, null
    from pg_catalog.pg_policy as p
    where p.polrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'rule', r.ev_class, r.oid, r.ev_enabled, pg_catalog.md5(r.ev_action::text),
        pg_catalog.md5(r.ev_qual::text)), 'pg_catalog.pg_rewrite'::regclass, r.oid, 0, null
    from pg_catalog.pg_rewrite as r
    where r.ev_class in (select oid from tables) or r.ev_class in (select oid from followers)
    union all
    select pg_catalog.concat_ws(' ', 'view', c.oid, c.relname, c.relnamespace, c.relowner, c.reloptions::text,
        c.relacl::text), 'pg_catalog.pg_class'::regclass, c.oid, 0, null
    from pg_catalog.pg_class as c where c.oid in (select oid from followers)
    union all
    select pg_catalog.concat_ws(' ', 'comment', d.objoid, d.objsubid, pg_catalog.md5(d.description)),
        d.classoid, d.objoid, d.objsubid, null
    from pg_catalog.pg_description as d
    where d.classoid = 'pg_catalog.pg_class'::regclass
        and (d.objoid in (select oid from tables) or d.objoid in (select oid from followers))
    union all
    select pg_catalog.concat_ws(' ', 'statistics', e.stxrelid, e.oid, e.stxname),
        'pg_catalog.pg_statistic_ext'::regclass, e.oid, 0, null
    from pg_catalog.pg_statistic_ext as e where e.stxrelid in (select oid from tables)
    union all
    -- The apply worker of a subscription fires no triggers for statements: its writes would be missed.
    select pg_catalog.concat_ws(' ', 'subscription', s.srrelid, s.srsubid),
        'pg_catalog.pg_subscription'::regclass, s.srsubid, 0, null
    from pg_catalog.pg_subscription_rel as s where s.srrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'row-type', d.classid, d.objid, d.refobjid, d.objsubid),
        d.classid, d.objid, d.objsubid, null
    from pg_catalog.pg_depend as d
    where d.refclassid = 'pg_catalog.pg_type'::regclass and d.deptype = 'n' and d.refobjid in (select oid from types)
    union all
    -- Views, policies of other tables and functions that follow the table and not its name.
    select pg_catalog.concat_ws(' ', 'follower', d.classid, d.objid, d.refobjid, d.refobjsubid),
        d.classid, d.objid, 0, null
    from pg_catalog.pg_depend as d
    where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid in (select oid from tables)
        and d.classid in ('pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_proc'::regclass,
            'pg_catalog.pg_policy'::regclass)
    union all
    -- What these functions do, and who may call them.
    select pg_catalog.concat_ws(' ', 'function', p.oid, p.proowner, p.proacl::text, p.proconfig::text,
        pg_catalog.md5(p.prosrc), pg_catalog.md5(p.prosqlbody::text)),
        'pg_catalog.pg_proc'::regclass, p.oid, 0, null
    from pg_catalog.pg_proc as p where p.oid in (
        select d.objid from pg_catalog.pg_depend as d
        where d.classid = 'pg_catalog.pg_proc'::regclass and (
            d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid in (select oid from tables)
            or d.refclassid = 'pg_catalog.pg_type'::regclass and d.refobjid in (select oid from types)))
    union all
    -- The publication of the change itself is made anew when its slot was lost.
    select pg_catalog.concat_ws(' ', 'publication', p.pubname, r.prrelid, r.xmin),
        'pg_catalog.pg_publication_rel'::regclass, r.oid, 0, null
    from pg_catalog.pg_publication_rel as r join pg_catalog.pg_publication as p on p.oid = r.prpubid
    where r.prrelid in (select oid from tables) and not pg_catalog.starts_with(%(own)s, p.pubname || '_')
    {publications}
)
"""
_DIGEST = "select pg_catalog.md5(coalesce(pg_catalog.string_agg(line, e'\\n' order by line), '')) from lines"
_OBJECTS = """
select coalesce(pg_catalog.jsonb_object_agg(what, was), '{}') from (
    select pg_catalog.regexp_replace(pg_catalog.pg_describe_object(class, object, part), '^rule "?_RETURN"? on ', '')
            as what,
        array[pg_catalog.md5(pg_catalog.string_agg(line, e'\\n' order by line)), max(state)] as was
    from lines group by 1
) as objects where (select count(*) from lines) <= %(most)s and what is not null
"""
# Since 15.
_BY_SCHEMA = """
    union all
    select pg_catalog.concat_ws(' ', 'publication', p.pubname, s.oid),
        'pg_catalog.pg_publication_namespace'::regclass, s.oid, 0, null
    from pg_catalog.pg_publication_namespace as s join pg_catalog.pg_publication as p on p.oid = s.pnpubid
    where s.pnnspid in (select c.relnamespace from pg_catalog.pg_class as c where c.oid in (select oid from tables))
"""
#: So many lines of a signature at most are kept one by one, to be named when they change: partitions have many.
MOST_NAMED = 2_000


def signature(connection: psycopg.Connection[Any], blueprint: Blueprint, direction: str) -> str:
    """Return a digest of the definition of the tables that the application uses: the originals on the way forward.

    Cheap enough for once a second, and under the locks of a swap. On the way back it is of the new tables.
    """
    return str(_ask(connection, _lines(connection) + _DIGEST, blueprint, direction) or "")


def objects(connection: psycopg.Connection[Any], blueprint: Blueprint, direction: str) -> Objects:
    """Return what `signature` is a digest of, object by object; nothing where there are too many to be kept."""
    return dict(_ask(connection, _lines(connection) + _OBJECTS, blueprint, direction) or {})


def altered(connection: psycopg.Connection[Any], blueprint: Blueprint, direction: str, before: Objects) -> list[str]:
    """Say what is not as it was, a line for each object; nothing where what was there is not known."""
    now = objects(connection, blueprint, direction) if before else {}
    return [_said(what, before.get(what), now.get(what)) for what in (*before, *now.keys() - before.keys())
            if before.get(what) != now.get(what)] if now else []  # fmt: skip


def changed(what: list[str], tables: str = "") -> StepFailed:
    """Return what is raised where somebody has changed the tables, before they were swapped."""
    return StepFailed(
        "somebody has changed the tables since the change began" + (f": {tables}" if tables else ""),
        details=what,
        hint="nothing was swapped: take the change back with `segue rollback`, and begin anew",
    )


def _said(what: str, was: list[str | None] | None, now: list[str | None] | None) -> str:
    if was is None:
        return f"{what} is new"
    if now is None:
        return f"{what} is gone"
    if was[1] and now[1] and was[1] != now[1]:
        return f"{what} was {was[1]}, and is {now[1]}"
    return f"{what} is not as it was"


def _lines(connection: psycopg.Connection[Any]) -> str:
    by_schema = _BY_SCHEMA if connection.info.server_version >= 150000 else ""
    return _SIGNATURE.replace("{publications}", by_schema)


def _ask(connection: psycopg.Connection[Any], query: str, blueprint: Blueprint, direction: str) -> Any:
    tables = [
        str(member.table) if direction == FORWARD else str(member.backward.source) for member in blueprint.members
    ]
    given = {"tables": tables, "own": f"segue_{blueprint.id}_", "most": MOST_NAMED}
    row = connection.execute(query.encode(), given).fetchone()
    return row[0] if row else None


# A row of pg_trigger that was disabled and enabled again, in one transaction even, is another version of it: its xmin
# stays readable when it is frozen.
_CAPTURE = """
with recursive tables as (
    select pg_catalog.to_regclass(name)::oid as oid from unnest(%(tables)s::text[]) as t (name)
    union
    select i.inhrelid from pg_catalog.pg_inherits as i join tables as t on t.oid = i.inhparent
)
select pg_catalog.md5(coalesce(pg_catalog.string_agg(
    pg_catalog.concat_ws(' ', t.tgrelid, t.oid, t.tgname, t.tgenabled, t.xmin), e'\\n' order by t.oid), ''))
from pg_catalog.pg_trigger as t
where t.tgrelid in (select oid from tables) and not t.tgisinternal and pg_catalog.starts_with(t.tgname, %(own)s)
"""


def captured(connection: psycopg.Connection[Any], blueprint: Blueprint, direction: str) -> str:
    """Return a digest of the change's own triggers: where it differs, writes may have been missed meanwhile."""
    return str(_ask(connection, _CAPTURE, blueprint, direction) or "")


def missed(direction: str) -> StepFailed:
    """Return what is raised where the change's own triggers are not as they were left."""
    return StepFailed(
        "somebody has disabled or changed the triggers that record what is written: writes may have been missed",
        hint="nothing was swapped: "
        + (
            "take the change back with `segue rollback`, and begin anew"
            if direction == FORWARD
            else "the old tables cannot be trusted any more; change the tables again, the other way round, and end "
            "this way back with `segue change cleanup`"
        ),
    )


_RIGHTS = """
select c.oid::pg_catalog.regclass::text, pg_catalog.quote_ident(n.nspname),
    pg_catalog.pg_has_role(c.relowner, 'usage'), pg_catalog.has_schema_privilege(n.oid, 'create'), current_user::text
from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.oid in (select pg_catalog.to_regclass(name)::oid from unnest(%(tables)s::text[]) as t (name))
"""


def rights_lost(connection: psycopg.Connection[Any], blueprint: Blueprint) -> list[str]:
    """Return what the swap will not be allowed to do any more, each with what to grant."""
    said = []
    tables = [str(member.table) for member in blueprint.members]
    for table, schema, owned, may, role in connection.execute(_RIGHTS.encode(), {"tables": tables}).fetchall():
        if not owned:
            said.append(f'{table} belongs to a role whose rights "{role}" has not any more')
        elif not may:
            said.append(
                f'"{role}" may not create in the schema {schema} any more: GRANT CREATE ON SCHEMA {schema} TO "{role}"'
            )
    return said
