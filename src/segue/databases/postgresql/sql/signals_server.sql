-- One row about the server: how much WAL there is, what waits for the archive, how busy it is. No parameter.
-- State and kind of sessions of other roles are hidden from a role without pg_read_all_stats; sees_all says so.
select
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::bigint as lsn,
    pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) as wal_file,
    pg_catalog.pg_size_bytes(current_setting('wal_segment_size')) as segment,
    current_setting('archive_mode') <> 'off' as archives,
    a.last_archived_wal,
    coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false) as archive_fails,
    pg_catalog.pg_size_bytes(current_setting('max_slot_wal_keep_size')) as slots_keep,
    pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all,
    current_setting('max_connections')::int as max_connections,
    (
        select count(*) from pg_catalog.pg_stat_activity as s
        where s.state = 'active' and s.backend_type = 'client backend' and s.application_name not like 'segue:%'
    ) as active,
    current_user::text as me
from pg_catalog.pg_stat_archiver as a
