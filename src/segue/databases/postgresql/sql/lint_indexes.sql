-- Indexes of some tables, as CREATE INDEX builds them. Parameter: tables (oid[]).
select
    i.indrelid::bigint as relation,
    pg_catalog.pg_get_indexdef(i.indexrelid) as words
from pg_catalog.pg_index as i
where i.indrelid = any(%(tables)s::oid[]) and i.indisvalid
order by i.indexrelid
