-- Connected physical replicas. State and positions are NULL for a role that does not see all statistics.
select
    r.application_name as name,
    r.state,
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.replay_lsn)::bigint as behind,
    r.sync_state in ('sync', 'quorum') as synchronous
from pg_catalog.pg_stat_replication as r
left join pg_catalog.pg_replication_slots as s on r.pid = s.active_pid
where
    coalesce(s.slot_type, 'physical') = 'physical'
    and coalesce(r.state, 'streaming') <> 'backup'
    and r.application_name not in ('pg_basebackup', 'pg_receivewal', 'pg_receivexlog', 'barman_receive_wal')
order by r.application_name
