-- Constraints of some tables, as ALTER TABLE adds them. Parameter: tables (oid[]).
select
    k.conrelid::bigint as relation,
    pg_catalog.quote_ident(k.conname) || ' ' || pg_catalog.pg_get_constraintdef(k.oid) as words
from pg_catalog.pg_constraint as k
where k.conrelid = any(%(tables)s::oid[]) and k.contype in ('c', 'n', 'u', 'p', 'x', 'f')
order by k.conrelid, k.conname
