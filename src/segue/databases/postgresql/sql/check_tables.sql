-- The tables of a schema: whose they are, whether a backfill finds a key. Parameter: schema (name).
select
    c.oid::regclass::text as name,
    pg_catalog.pg_has_role(c.relowner, 'USAGE') as owned,
    pg_catalog.pg_get_userbyid(c.relowner) as owner,
    exists (
        select from pg_catalog.pg_index as i
        inner join pg_catalog.pg_class as x on i.indexrelid = x.oid
        inner join pg_catalog.pg_am as m on x.relam = m.oid
        where
            i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
            and i.indexprs is null and m.amname = 'btree'
            and not exists (
                select from unnest(i.indkey::smallint[]) with ordinality as k (attnum, place)
                inner join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
                where k.place <= i.indnkeyatts and not a.attnotnull
            )
    ) as keyed,
    coalesce('autovacuum_enabled=false' = any(c.reloptions) or 'autovacuum_enabled=off' = any(c.reloptions), false) as unvacuumed,
    c.relpages::bigint * 8192 as bytes,
    (
        select coalesce(sum(i.relpages::bigint) * 8192, 0)::bigint
        from pg_catalog.pg_index as k inner join pg_catalog.pg_class as i on k.indexrelid = i.oid
        where k.indrelid = c.oid
    ) as index_bytes,
    case when c.relkind = 'r' then pg_catalog.age(c.relfrozenxid) end as age
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where
    n.nspname = %(schema)s and c.relkind in ('r', 'p')
    -- An extension's tables are its own business.
    and not exists (
        select from pg_catalog.pg_depend as d
        where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    )
order by c.relname
