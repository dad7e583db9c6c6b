-- Sessions that hold or wait for locks on some tables. Parameters: tables (oid[]), pid (the asking session).
select
    l.pid,
    coalesce(nullif(a.application_name, ''), a.usename, a.backend_type) as who,
    coalesce(a.state, a.backend_type, 'unknown') as state,
    left(regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 120) as query,
    extract(epoch from clock_timestamp() - coalesce(a.xact_start, a.backend_start))::float8 as seconds,
    l.mode,
    l.relation::regclass::text as table_name,
    coalesce(a.backend_type = 'autovacuum worker', false) as autovacuum
from pg_catalog.pg_locks as l
left join pg_catalog.pg_stat_activity as a on l.pid = a.pid
where
    l.locktype = 'relation'
    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
    and l.relation = any(%(tables)s::oid[])
    and l.granted
    and l.pid is distinct from %(pid)s
order by seconds desc
