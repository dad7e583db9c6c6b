-- Open transactions of client sessions, oldest first, and how many there are of which nothing can be seen.
select
    a.pid,
    coalesce(a.usename, '') as role,
    coalesce(a.application_name, '') as application,
    coalesce(a.state, '') as state,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds,
    extract(epoch from clock_timestamp() - a.state_change)::float8 as idle,
    pg_catalog.age(a.backend_xmin)::bigint as snapshot,
    left(regexp_replace(coalesce(nullif(a.query, '<insufficient privilege>'), ''), '\s+', ' ', 'g'), 100) as query,
    a.xact_start is null as hidden
from pg_catalog.pg_stat_activity as a
where
    a.pid <> pg_catalog.pg_backend_pid() and a.usesysid is not null
    and coalesce(a.backend_type, 'client backend') = 'client backend'
    and exists (
        select from pg_catalog.pg_locks as l where l.pid = a.pid and l.locktype = 'virtualxid' and l.granted
    )
order by a.xact_start nulls last
