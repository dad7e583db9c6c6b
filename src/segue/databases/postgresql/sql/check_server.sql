-- Who and where we are, and the settings that matter. No parameters.
select
    current_setting('server_version') as version,
    current_setting('server_version_num')::integer as number,
    current_database() as database,
    current_user as role,
    session_user as login,
    current_setting('is_superuser') = 'on' as superuser,
    pg_catalog.pg_is_in_recovery() as replica,
    current_setting('wal_level') as wal_level,
    current_setting('max_replication_slots')::integer as max_slots,
    current_setting('max_wal_senders')::integer as max_senders,
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
        as max_connections,
    current_setting('autovacuum') = 'on' as autovacuum,
    current_setting('autovacuum_freeze_max_age')::bigint as freeze_age,
    current_setting('temp_file_limit') as temp_file_limit,
    current_setting('synchronous_standby_names') as synchronous,
    has_database_privilege(current_database(), 'CREATE') as may_create,
    has_database_privilege(current_database(), 'TEMPORARY') as may_use_temporary,
    pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') as sees_all,
    pg_catalog.pg_has_role('pg_signal_backend', 'USAGE') as may_signal,
    (select r.rolreplication from pg_catalog.pg_roles as r where r.rolname = current_user) as may_replicate,
    exists (
        select from pg_catalog.pg_roles as r
        where r.rolname = 'pg_create_subscription' and pg_catalog.pg_has_role(r.oid, 'USAGE')
    ) as may_subscribe,
    (select count(*) from pg_catalog.pg_replication_slots) as slots,
    (select count(*) from pg_catalog.pg_stat_replication) as senders,
    (select count(*) from pg_catalog.pg_stat_activity as a where a.usesysid is not null) as sessions,
    pg_catalog.pg_database_size(current_database()) as bytes,
    pg_catalog.age((select d.datfrozenxid from pg_catalog.pg_database as d where d.datname = current_database())) as age
