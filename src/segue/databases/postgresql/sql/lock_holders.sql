-- Sessions that hold locks on some tables. Parameters: tables (oid[]), pid (the asking session).
-- What belongs to another role is hidden from an ordinary one: state, query and times are NULL then, and a process of
-- the server's own shows by having no user.
select
    l.relation::bigint,
    l.mode,
    coalesce(l.pid, 0) as pid,
    coalesce(
        nullif(a.application_name, ''), a.usename, a.backend_type,
        case
            when l.pid is null then concat_ws(' ', 'prepared transaction', (
                select quote_literal(x.gid) from pg_catalog.pg_locks as t
                join pg_catalog.pg_prepared_xacts as x on t.transactionid = x.transaction
                where t.pid is null and t.virtualtransaction = l.virtualtransaction
            ))
            when a.usesysid is null then 'autovacuum worker'
        end, '?'
    ) as who,
    coalesce(a.state, a.backend_type, case when l.pid is null then 'prepared' end, 'there') as state,
    left(regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 120) as query,
    coalesce(
        extract(epoch from clock_timestamp() - coalesce(a.xact_start, a.backend_start)),
        (select max(extract(epoch from clock_timestamp() - x.prepared)) from pg_catalog.pg_prepared_xacts as x
            where l.pid is null and x.database = current_database())
    )::float8 as seconds,
    l.relation::regclass::text as table_name,
    coalesce(a.backend_type = 'autovacuum worker', a.pid is not null and a.usesysid is null) as autovacuum
from pg_catalog.pg_locks as l
left join pg_catalog.pg_stat_activity as a on l.pid = a.pid
where
    l.locktype = 'relation'
    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
    and l.relation = any(%(tables)s::oid[])
    and l.granted
    and l.pid is distinct from %(pid)s
order by seconds desc nulls last
