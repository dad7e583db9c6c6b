"""Finds out whether somebody changed the tables of an online change while it went on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    select pg_catalog.concat_ws(' ', 'constraint', c.oid, c.conname, c.convalidated)
    from pg_catalog.pg_constraint as c
    where c.conrelid in (select oid from tables) or c.confrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'index', i.indrelid, i.indexrelid, i.indisvalid)
    from pg_catalog.pg_index as i where i.indrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'trigger', t.tgrelid, t.oid, t.tgname, t.tgenabled)
    from pg_catalog.pg_trigger as t
    where t.tgrelid in (select oid from tables) and not t.tgisinternal
        and not pg_catalog.starts_with(t.tgname, %(own)s)
    union all
    select pg_catalog.concat_ws(' ', 'policy', p.polrelid, p.oid, p.xmin) from pg_catalog.pg_policy as p
    where p.polrelid in (select oid from tables)
    union all
    select pg_catalog.concat_ws(' ', 'rule', r.ev_class, r.oid, r.ev_enabled) from pg_catalog.pg_rewrite as r
    where r.ev_class in (select oid from tables)
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
    tables = [
        str(member.table) if direction == FORWARD else str(member.backward.source) for member in blueprint.members
    ]
    row = connection.execute(_SIGNATURE.encode(), {"tables": tables, "own": f"segue_{blueprint.id}_"}).fetchone()
    return str(row[0]) if row else ""
