-- Extensions that change what a migration meets: installed here, or to be had.
select
    a.name, a.installed_version as installed, a.default_version as available
from pg_catalog.pg_available_extensions as a
where a.name in ('pg_stat_statements', 'pg_partman', 'timescaledb', 'citus', 'pglogical')
order by a.name
