-- Indexes of a schema that are not valid, and that nobody builds now. Parameter: schema (name).
select i.indexrelid::regclass::text as name, i.indrelid::regclass::text as table_name
from pg_catalog.pg_index as i
inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where
    n.nspname = %(schema)s and not i.indisvalid and c.relkind = 'i'
    -- Building one takes SHARE UPDATE EXCLUSIVE on the table for all the time.
    and not exists (
        select from pg_catalog.pg_locks as l
        where l.relation = i.indrelid and l.mode = 'ShareUpdateExclusiveLock' and l.granted
    )
order by 1
