-- How often some tables were read and written since their statistics began. Parameter: tables (oid[]).
select
    t.relation::bigint,
    (
        pg_catalog.pg_stat_get_numscans(t.relation) + coalesce((
            select sum(pg_catalog.pg_stat_get_numscans(i.indexrelid))
            from pg_catalog.pg_index as i where i.indrelid = t.relation
        ), 0)
    )::float8 as reads,
    (
        pg_catalog.pg_stat_get_tuples_inserted(t.relation) + pg_catalog.pg_stat_get_tuples_updated(t.relation)
        + pg_catalog.pg_stat_get_tuples_deleted(t.relation)
    )::float8 as writes
from unnest(%(tables)s::oid[]) as t (relation)
