"""Finds out whether somebody changed the tables of an online change while it went on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.errors import StepFailed
from segue.ports import FORWARD

if TYPE_CHECKING:
    import psycopg

    from segue.databases.postgresql.online.blueprint import Blueprint

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
)
select pg_catalog.md5(coalesce(pg_catalog.string_agg(line, e'\\n' order by line), '')) from (
    select pg_catalog.concat_ws(' ', 'class', c.oid, c.relowner, c.relkind, c.relpersistence, c.reltablespace,
        c.relreplident, c.relrowsecurity, c.relforcerowsecurity, c.reloptions::text, c.relacl::text,
        (select string_agg(i.inhparent::text, ',' order by i.inhparent) from pg_catalog.pg_inherits as i
            where i.inhrelid = c.oid)) as line
    from pg_catalog.pg_class as c where c.oid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'column', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation,
        a.attnotnull, a.attisdropped, a.attidentity, a.attgenerated, a.attstorage, a.attcompression, a.attacl::text,
        (select d.oid::text || md5(d.adbin::text) from pg_catalog.pg_attrdef as d
            where d.adrelid = a.attrelid and d.adnum = a.attnum))
    from pg_catalog.pg_attribute as a where a.attrelid in (select oid from tables) and a.attnum > 0
    union all
    -- Segue itself makes a foreign key anew when the table at its other end is changed: what it says counts.
    select pg_catalog.concat_ws(' ', 'constraint', case when c.contype <> 'f' then c.oid end, c.conname,
        c.convalidated, c.condeferrable, c.condeferred, c.conrelid::pg_catalog.regclass,
        case when c.contype = 'f' then pg_catalog.pg_get_constraintdef(c.oid) end)
    from pg_catalog.pg_constraint as c
    where c.conrelid in (select oid from tables) or c.confrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'index', i.indrelid, i.indexrelid, i.indisvalid)
    from pg_catalog.pg_index as i
    where i.indrelid in (select oid from tables) or i.indrelid in (select oid from followers)
    union all
    select pg_catalog.concat_ws(' ', 'trigger', t.tgrelid, t.oid, t.tgname, t.tgenabled,
        pg_catalog.md5(pg_catalog.pg_get_triggerdef(t.oid)))
    from pg_catalog.pg_trigger as t
    where t.tgrelid in (select oid from tables) and not t.tgisinternal
        and not pg_catalog.starts_with(t.tgname, %(own)s)
    union all
    select pg_catalog.concat_ws(' ', 'policy', p.polrelid, p.oid, p.xmin) from pg_catalog.pg_policy as p
    where p.polrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'rule', r.ev_class, r.oid, r.ev_enabled, pg_catalog.md5(r.ev_action::text),
        pg_catalog.md5(r.ev_qual::text))
    from pg_catalog.pg_rewrite as r
    where r.ev_class in (select oid from tables) or r.ev_class in (select oid from followers)
    union all
    select pg_catalog.concat_ws(' ', 'view', c.oid, c.relname, c.relnamespace, c.relowner, c.reloptions::text,
        c.relacl::text)
    from pg_catalog.pg_class as c where c.oid in (select oid from followers)
    union all
    select pg_catalog.concat_ws(' ', 'comment', d.objoid, d.objsubid, pg_catalog.md5(d.description))
    from pg_catalog.pg_description as d
    where d.classoid = 'pg_catalog.pg_class'::regclass
        and (d.objoid in (select oid from tables) or d.objoid in (select oid from followers))
    union all
    select pg_catalog.concat_ws(' ', 'statistics', e.stxrelid, e.oid, e.stxname)
    from pg_catalog.pg_statistic_ext as e where e.stxrelid in (select oid from tables)
    union all
    -- The apply worker of a subscription fires no triggers for statements: its writes would be missed.
    select pg_catalog.concat_ws(' ', 'subscription', s.srrelid, s.srsubid)
    from pg_catalog.pg_subscription_rel as s where s.srrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'row type', d.classid, d.objid, d.refobjid, d.objsubid)
    from pg_catalog.pg_depend as d
    where d.refclassid = 'pg_catalog.pg_type'::regclass and d.deptype = 'n' and d.refobjid in (select oid from types)
    union all
    -- Views, policies of other tables and functions that follow the table and not its name.
    select pg_catalog.concat_ws(' ', 'follower', d.classid, d.objid, d.refobjid, d.refobjsubid)
    from pg_catalog.pg_depend as d
    where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid in (select oid from tables)
        and d.classid in ('pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_proc'::regclass,
            'pg_catalog.pg_policy'::regclass)
) as lines
"""


def signature(connection: psycopg.Connection[Any], blueprint: Blueprint, direction: str) -> str:
    """Return a digest of the definition of the tables that the application uses: the originals on the way forward.

    Cheap enough for once a second, and under the locks of a swap. On the way back it is of the new tables.
    """
    return _digest(connection, _SIGNATURE, blueprint, direction)


def _digest(connection: psycopg.Connection[Any], query: str, blueprint: Blueprint, direction: str) -> str:
    tables = [
        str(member.table) if direction == FORWARD else str(member.backward.source) for member in blueprint.members
    ]
    row = connection.execute(query.encode(), {"tables": tables, "own": f"segue_{blueprint.id}_"}).fetchone()
    return str(row[0]) if row else ""


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
    return _digest(connection, _CAPTURE, blueprint, direction)


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
