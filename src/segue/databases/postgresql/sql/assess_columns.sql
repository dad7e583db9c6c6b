-- Columns of some tables. Parameter: tables (oid[]).
select
    a.attrelid::bigint as relation,
    a.attname,
    a.attnum::integer,
    a.attnotnull,
    a.atttypid::bigint,
    a.atttypmod,
    coalesce((
        select s.avg_width from pg_catalog.pg_stats as s
        where s.schemaname = n.nspname and s.tablename = c.relname and s.attname = a.attname limit 1
    ), nullif(a.attlen, -1), 32)::integer as width,
    t.typcategory::text
from pg_catalog.pg_attribute as a
inner join pg_catalog.pg_class as c on a.attrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
inner join pg_catalog.pg_type as t on a.atttypid = t.oid
where a.attrelid = any(%(tables)s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum
