-- The relations that some statements name, the tables of named indexes, what those are partitions of, and what foreign
-- keys tie to them. Parameter: names (text[]), as SQL writes them.
with recursive named as (
    select coalesce(i.indrelid, r.oid) as oid, case when i.indrelid is null then r.name end as name
    from (
        select name, to_regclass(name)::oid as oid from unnest(%(names)s::text[]) as name
    ) as r
    left join pg_catalog.pg_index as i on i.indexrelid = r.oid
    where r.oid is not null
),

ancestors as (
    select oid from named
    union
    select h.inhparent from pg_catalog.pg_inherits as h inner join ancestors as a on h.inhrelid = a.oid
),

tied as (
    select oid from ancestors
    union
    select k.confrelid from pg_catalog.pg_constraint as k inner join ancestors as a on k.conrelid = a.oid
    where k.contype = 'f'
    union
    select k.conrelid from pg_catalog.pg_constraint as k inner join ancestors as a on k.confrelid = a.oid
    where k.contype = 'f' and k.conparentid = 0
)

select
    c.oid::bigint,
    c.relkind::text,
    array(select distinct n.name from named as n where n.oid = c.oid and n.name is not null)
    || c.oid::regclass::text as names,
    (
        select h.inhparent::regclass::text from pg_catalog.pg_inherits as h
        where h.inhrelid = c.oid and c.relispartition
    ) as partition_of,
    c.reltuples::float8,
    c.relpages::bigint
from tied as t
inner join pg_catalog.pg_class as c on t.oid = c.oid
where c.relkind in ('r', 'p', 'v', 'm', 'f')
order by c.oid
