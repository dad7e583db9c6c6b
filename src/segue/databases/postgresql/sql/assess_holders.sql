-- Every lock that is held on some tables, by others. Parameter: tables (oid[]).
-- What belongs to another role is hidden from an ordinary one: state, query and times are NULL then.
select
    l.relation::bigint,
    l.mode,
    coalesce(l.pid, 0) as pid,
    coalesce(a.usename, '') as role,
    coalesce(
        nullif(a.application_name, ''),
        case when l.pid is null then 'prepared transaction' when a.usesysid is null then 'autovacuum worker' end, ''
    ) as application,
    coalesce(a.state, '') as state,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds,
    left(regexp_replace(coalesce(nullif(a.query, '<insufficient privilege>'), ''), '\s+', ' ', 'g'), 120) as query,
    l.relation::regclass::text as table_name,
    coalesce(a.backend_type = 'autovacuum worker', a.pid is not null and a.usesysid is null) as autovacuum
from pg_catalog.pg_locks as l
left join pg_catalog.pg_stat_activity as a on l.pid = a.pid
where
    l.locktype = 'relation' and l.granted
    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
    and l.relation = any(%(tables)s::oid[])
    and l.pid is distinct from pg_catalog.pg_backend_pid()
order by seconds desc nulls last
