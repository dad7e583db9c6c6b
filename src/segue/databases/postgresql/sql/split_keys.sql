-- Foreign keys between tables, those of partitions under the table that they are of.
select
    k.conname::text,
    coalesce(pg_catalog.pg_partition_root(k.conrelid), k.conrelid)::oid::bigint as child,
    array(
        select a.attname::text from unnest(k.conkey) with ordinality as c (number, place)
        inner join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = c.number order by c.place
    ) as columns,
    coalesce(pg_catalog.pg_partition_root(k.confrelid), k.confrelid)::oid::bigint as parent,
    array(
        select a.attname::text from unnest(k.confkey) with ordinality as c (number, place)
        inner join pg_catalog.pg_attribute as a on a.attrelid = k.confrelid and a.attnum = c.number order by c.place
    ) as to_columns,
    pg_catalog.array_remove(array[
        case k.confdeltype
            when 'c' then 'ON DELETE CASCADE' when 'n' then 'ON DELETE SET NULL' when 'd' then 'ON DELETE SET DEFAULT'
        end,
        case k.confupdtype
            when 'c' then 'ON UPDATE CASCADE' when 'n' then 'ON UPDATE SET NULL' when 'd' then 'ON UPDATE SET DEFAULT'
        end
    ], null) as actions,
    coalesce((
        select sum(s.n_tup_ins + s.n_tup_upd) from pg_catalog.pg_stat_all_tables as s
        where
            s.relid = k.conrelid
            or s.relid in (select t.relid from pg_catalog.pg_partition_tree(k.conrelid) as t)
    ), 0)::bigint as writes,
    pg_catalog.pg_get_constraintdef(k.oid) as definition
from pg_catalog.pg_constraint as k
where k.contype = 'f' and k.conparentid = 0
order by k.conname, child
