-- Transactions of this database that began before now: what CREATE INDEX CONCURRENTLY and its like wait for.
-- An ordinary role does not see since when those of others last, nor in which database they are.
select
    l.pid,
    coalesce(a.usename, '') as role,
    coalesce(nullif(a.application_name, ''), '') as application,
    coalesce(a.state, '') as state,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds,
    left(regexp_replace(coalesce(nullif(a.query, '<insufficient privilege>'), ''), '\s+', ' ', 'g'), 120) as query
from pg_catalog.pg_locks as l
inner join pg_catalog.pg_stat_activity as a on l.pid = a.pid
where
    l.locktype = 'virtualxid' and l.granted and l.pid <> pg_catalog.pg_backend_pid()
    and (a.datname = current_database() or a.datname is null)
    and coalesce(a.backend_type, 'client backend') = 'client backend'
    and a.usesysid is not null
order by seconds desc nulls last
