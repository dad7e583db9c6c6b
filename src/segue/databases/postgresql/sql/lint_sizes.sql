-- Bytes of some tables as their files are now, and rows as last counted (-1 where one was never), partitions together.
-- Waits for those who hold a table exclusively. Parameter: tables (oid[]).
select
    t.oid::bigint as relation,
    sum(pg_catalog.pg_relation_size(c.oid))::bigint as bytes,
    case when min(c.reltuples) < 0 then -1 else sum(c.reltuples) end::float8 as tuples
from unnest(%(tables)s::oid[]) as t (oid)
cross join lateral (
    select p.relid from pg_catalog.pg_partition_tree(t.oid) as p
    union
    select t.oid
) as p
inner join pg_catalog.pg_class as c on p.relid = c.oid
where c.relkind in ('r', 'm')
group by t.oid
