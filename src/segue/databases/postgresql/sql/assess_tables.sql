-- Size and statistics of some relations, from the catalogue alone: no file is opened and no lock is waited for.
-- Parameter: tables (oid[]).
select
    c.oid::bigint as relation,
    c.oid::regclass::text as name,
    n.nspname,
    c.relname,
    c.relkind::text,
    c.relispartition,
    coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT', false) as is_default,
    c.reltuples::float8,
    c.relpages::bigint,
    coalesce(t.relpages, 0)::bigint as toast_pages,
    pg_catalog.pg_stat_get_live_tuples(c.oid)::float8 as live,
    pg_catalog.pg_stat_get_mod_since_analyze(c.oid)::float8 as changed,
    greatest(
        pg_catalog.pg_stat_get_last_analyze_time(c.oid), pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid)
    ) as analyzed_at,
    pg_catalog.pg_has_role(c.relowner, 'USAGE') as owned
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
left join pg_catalog.pg_class as t on c.reltoastrelid = t.oid
where c.oid = any(%(tables)s::oid[])
