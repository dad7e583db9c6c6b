-- Indexes of some tables. Parameter: tables (oid[]).
select
    i.indrelid::bigint as relation,
    i.indexrelid::bigint as index,
    x.relname,
    x.relpages::bigint,
    i.indkey::smallint[]::integer[] as columns,
    i.indisvalid
from pg_catalog.pg_index as i
inner join pg_catalog.pg_class as x on i.indexrelid = x.oid
where i.indrelid = any(%(tables)s::oid[])
order by i.indexrelid
