-- Constraints of some tables: foreign keys, checks, keys. Parameter: tables (oid[]).
select
    k.conrelid::bigint as relation,
    k.conname,
    k.contype::text,
    k.convalidated,
    case when k.contype = 'c' then pg_catalog.pg_get_constraintdef(k.oid) end as definition,
    k.conkey::smallint[]::integer[] as columns,
    k.confrelid::bigint as parent
from pg_catalog.pg_constraint as k
where k.conrelid = any(%(tables)s::oid[])
order by k.conrelid, k.conname
