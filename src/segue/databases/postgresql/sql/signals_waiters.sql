-- How many sessions of this database wait for a lock, and how many of them for one that Segue holds. No parameter.
-- Waits of a tenth of a second come and go; a batch of Segue's holds its rows for up to half a second.
with waiting as (
    select l.pid, max(extract(epoch from clock_timestamp() - l.waitstart)) as seconds
    from pg_catalog.pg_locks as l
    inner join pg_catalog.pg_stat_activity as a on l.pid = a.pid
    where
        not l.granted
        and l.waitstart < clock_timestamp() - interval '100 milliseconds'
        and a.datname = current_database()
        and a.usesysid is not null
        and a.application_name not like 'segue:%'
    group by l.pid
    order by seconds desc
    limit 100
)

select
    count(*) as waiters,
    count(*) filter (where w.seconds > 0.5 and exists (
        select from pg_catalog.pg_stat_activity as b
        where b.pid = any(pg_catalog.pg_blocking_pids(w.pid)) and b.application_name like 'segue:%'
    )) as behind_us,
    coalesce(max(w.seconds), 0)::float8 as longest
from waiting as w
