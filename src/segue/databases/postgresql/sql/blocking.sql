-- Sessions that a waiting session waits for, whatever it waits for. Parameter: pid (the waiting session).
select
    b.pid,
    coalesce(
        nullif(a.application_name, ''), a.usename, a.backend_type,
        case
            when b.pid = 0 then concat_ws(' ', 'prepared transaction', (
                select string_agg(distinct quote_literal(x.gid), ' or ') from pg_catalog.pg_locks as l
                join pg_catalog.pg_locks as t on t.pid is null and t.virtualtransaction = l.virtualtransaction
                join pg_catalog.pg_prepared_xacts as x on t.transactionid = x.transaction
                where l.pid is null and l.granted and (l.relation = w.relation or l.transactionid = w.transactionid)
            ))
            when a.usesysid is null then 'autovacuum worker'
        end, '?'
    ) as who,
    coalesce(a.state, a.backend_type, case when b.pid = 0 then 'prepared' end, 'there') as state,
    left(regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 120) as query,
    extract(epoch from clock_timestamp() - coalesce(a.xact_start, a.backend_start))::float8 as seconds,
    case
        when w.locktype in ('transactionid', 'tuple') then 'a row' else coalesce(h.mode, w.mode, 'a lock')
    end as mode,
    coalesce(w.relation::regclass::text, '') as table_name,
    coalesce(a.backend_type = 'autovacuum worker', a.pid is not null and a.usesysid is null) as autovacuum
from (select distinct unnest(pg_catalog.pg_blocking_pids(%(pid)s)) as pid) as b
left join pg_catalog.pg_stat_activity as a on b.pid = a.pid
left join pg_catalog.pg_locks as w on w.pid = %(pid)s and not w.granted
left join lateral (
    select l.mode from pg_catalog.pg_locks as l
    where l.pid is not distinct from nullif(b.pid, 0) and l.granted and l.locktype = 'relation' and l.relation = w.relation
    order by l.mode = 'AccessShareLock' limit 1
) as h on true
order by seconds desc nulls last
