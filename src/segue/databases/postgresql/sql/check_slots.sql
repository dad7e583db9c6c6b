-- Replication slots, and the log that they keep.
select
    s.slot_name, s.active, s.slot_type, coalesce(s.wal_status, '') as status,
    coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn), 0)::bigint as kept
from pg_catalog.pg_replication_slots as s
where not s.temporary
order by s.slot_name
