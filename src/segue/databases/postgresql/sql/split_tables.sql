-- Every table that an application may have, without partitions, which go where their table goes.
select
    c.oid::bigint,
    pg_catalog.format('%I.%I', n.nspname, c.relname) as said,
    c.relname::text
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where
    c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
    and n.nspname !~ '^(pg_|segue$|segue_)' and n.nspname <> 'information_schema'
    and not exists (
        select from pg_catalog.pg_depend as d
        where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    )
order by said
