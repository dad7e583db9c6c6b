-- Replication slots that hold back WAL, and how much; a slot that was lost holds back nothing any more. No parameter.
select
    s.slot_name::text,
    s.active,
    s.wal_status,
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint as backlog
from pg_catalog.pg_replication_slots as s
where s.restart_lsn is not null and s.wal_status is distinct from 'lost'
order by s.slot_name
