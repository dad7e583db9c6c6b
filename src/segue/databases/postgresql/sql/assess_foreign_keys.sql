-- Foreign keys from and to some tables, those of partitions left out. Parameter: tables (oid[]).
select
    f.conname,
    f.conrelid::bigint as child,
    f.confrelid::bigint as parent,
    f.conkey::smallint[]::integer[] as child_columns,
    f.confkey::smallint[]::integer[] as parent_columns,
    f.convalidated,
    f.confdeltype <> 'a' and f.confdeltype <> 'r' as cascades
from pg_catalog.pg_constraint as f
where f.contype = 'f' and f.conparentid = 0 and (f.conrelid = any(%(tables)s::oid[]) or f.confrelid = any(%(tables)s::oid[]))
order by f.conname
