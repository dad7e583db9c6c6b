-- Who receives the server's WAL: replicas and subscriptions, without base backups. No parameter.
-- A role without pg_read_all_stats sees that somebody is there and by which name, and nothing of the state; what it
-- sees of a slot is how far the WAL was received, not how far it was replayed.
select
    r.application_name,
    s.slot_name::text,
    pg_catalog.pg_wal_lsn_diff(coalesce(r.replay_lsn, r.flush_lsn, r.write_lsn, r.sent_lsn), '0/0')::bigint as replayed,
    pg_catalog.pg_wal_lsn_diff(coalesce(s.confirmed_flush_lsn, s.restart_lsn), '0/0')::bigint as received,
    extract(epoch from r.replay_lag)::float8 as delay
from pg_catalog.pg_stat_replication as r
left join pg_catalog.pg_replication_slots as s on r.pid = s.active_pid
where r.state is distinct from 'backup'
order by r.application_name, s.slot_name
