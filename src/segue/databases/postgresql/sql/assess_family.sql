-- Partitions and inheriting tables below some tables, at any depth. Parameter: tables (oid[]).
with recursive below (root, relation, parent) as (
    select t.relation, t.relation, null::oid from unnest(%(tables)s::oid[]) as t (relation)
    union
    select b.root, i.inhrelid, i.inhparent
    from below as b
    inner join pg_catalog.pg_inherits as i on b.relation = i.inhparent
)

select b.root::bigint, b.relation::bigint, b.parent::bigint
from below as b
where b.parent is not null
order by b.root, b.relation
