-- Triggers of some tables that somebody wrote. Parameter: tables (oid[]).
-- The bits of tgtype: 4 INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE. Columns: those of UPDATE OF, none for all.
select t.tgrelid::bigint, t.tgname, t.tgtype::integer, t.tgattr::smallint[]::integer[] as columns
from pg_catalog.pg_trigger as t
where t.tgrelid = any(%(tables)s::oid[]) and not t.tgisinternal and t.tgenabled <> 'D'
order by t.tgrelid, t.tgname
